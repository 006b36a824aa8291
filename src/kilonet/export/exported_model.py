"""An exported folder as a model: what Python users try before they ship it."""

from pathlib import Path

import torch
from torch import Tensor

from kilonet.export import manifest
from kilonet.export.c.bindings import CompiledC
from kilonet.models.model import Classifier
from kilonet.utils.errors import KilonetError


class ExportedModel(Classifier):
    """Runs the compiled C of an exported folder. `sha256` is of the model file that it was made from."""

    def __init__(self, folder: Path) -> None:
        """Read, compile and load: this runs code from the folder, so load only folders that you trust.

        Raises:
            KilonetError: a damaged description, no C in the folder, or no C compiler.
        """
        export = manifest.read(folder)
        if "c" not in export.forms:
            raise KilonetError(f"{folder}: no C form in this folder; 'kilonet export --to c' writes one")
        self.section = export.section
        self.sha256 = export.model_sha256
        self._scale = 2.0**-export.network.fraction_bits
        self._compiled = CompiledC(folder, self.section.input_shape, self.section.classes)

    def logits(self, pixels: Tensor) -> Tensor:
        """Score images: uint8 (N, channels, rows, columns) to float32 (N, classes), the integer logits scaled."""
        return torch.from_numpy(self._compiled.logits(pixels.numpy())).float() * self._scale
