"""The forms that an exported folder may hold, and how each is run on this machine."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kilonet.ship.compiled import CompiledC
from kilonet.ship.description import Export
from kilonet.ship.integer import Pixels
from kilonet.ship.page import PAGE_FILE
from kilonet.ship.page.running import ExportedPage


class Form(Protocol):
    """A form at work."""

    def logits(self, pixels: Pixels) -> NDArray[np.int32]:
        """Classify: uint8 (N, channels, rows, columns) to int32 (N, classes), the specification's logits."""


def _open_c(folder: Path, export: Export) -> Form:
    return CompiledC(folder, export.section.input_shape, export.section.classes)


def _open_html(folder: Path, _: Export) -> Form:
    return ExportedPage(folder / PAGE_FILE)


OPENERS: Mapping[str, Callable[[Path, Export], Form]] = {"c": _open_c, "html": _open_html}
"""By the name that `kilonet export --to` knows. Opening raises CannotRunHere where this machine lacks what a form needs
and the others can do without it, KilonetError where they cannot."""
EXACT = frozenset({"c", "html"})
"""The forms whose every logit must be the reference's."""
