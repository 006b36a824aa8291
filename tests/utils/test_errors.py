"""An error message is one line, even if it quotes line breaks."""

import pytest

from kilonet.utils.errors import KilonetError, TrainingDiverged


@pytest.mark.parametrize("kind", [KilonetError, TrainingDiverged])
def test_a_message_is_one_line(kind: type[KilonetError]) -> None:
    assert str(kind("a\nb\r\nc\u2028d")) == "a b c d"
    assert isinstance(kind(""), KilonetError)
