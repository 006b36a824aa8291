"""The notebook in docs: it runs as it stands, from a folder of pictures to C that is equal to the reference."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from notebook import NOTEBOOK, executed  # noqa: E402

MOST_BYTES = 300_000


def shortened(notebook: str) -> str:
    """Return the notebook as it stands, but for a third of the pictures and of the epochs."""
    for long, short in (("label, 300)", "label, 100)"), ("epochs=12,", "epochs=4,")):
        assert notebook.count(long) == 1
        notebook = notebook.replace(long, short)
    return notebook


def printed(notebook: dict[str, Any]) -> list[str]:
    """Return what each code cell prints."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["".join(text for output in cell["outputs"] for text in output.get("text", [])) for cell in cells]


def pictures(notebook: dict[str, Any]) -> int:
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.ci
def test_the_notebook_runs_from_pictures_to_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    stored = json.loads(text)
    monkeypatch.chdir(tmp_path)
    made = executed(json.loads(shortened(text)))
    now, before = printed(made), printed(stored)
    # Accuracies and times are those of a machine; what is printed at all is not.
    assert [bool(text) for text in now] == [bool(text) for text in before]
    assert pictures(made) == pictures(stored) == 3
    (verified,) = (text for text in now if "predictions" in text and "us/image" in text)
    (row,) = (line.split() for line in verified.splitlines() if line.startswith("c "))
    assert row[2:4] == ["0", "0"]
    assert "model.c" in now[-1]
    assert NOTEBOOK.stat().st_size <= MOST_BYTES
