"""The forms that an exported folder may hold, and how each is run on this machine."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kilonet.ship.compiled import CompiledC
from kilonet.ship.description import Export
from kilonet.ship.integer import Pixels


class Form(Protocol):
    """A form at work."""

    def logits(self, pixels: Pixels) -> NDArray[np.int32]:
        """Classify: uint8 (N, channels, rows, columns) to int32 (N, classes), the specification's logits."""


def _open_c(folder: Path, export: Export) -> Form:
    return CompiledC(folder, export.section.input_shape, export.section.classes)


OPENERS: Mapping[str, Callable[[Path, Export], Form]] = {"c": _open_c}
"""By the name that `kilonet export --to` knows. Opening raises KilonetError where this machine lacks what it needs."""
EXACT = frozenset({"c"})
"""The forms whose every logit must be the reference's."""
