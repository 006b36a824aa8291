"""An exported folder as a classifier in Python, to try it before it ships."""

from pathlib import Path

import torch
from torch import Tensor

from kilonet.export.c.bindings import CompiledC
from kilonet.export.manifest import read_manifest
from kilonet.models.model import Classifier
from kilonet.utils.errors import KilonetError


class ExportedModel(Classifier):
    """The compiled C of an exported folder. `sha256` is the SHA-256 of the exported model file."""

    def __init__(self, folder: Path) -> None:
        """Compile and load the folder's C. This runs code from the folder, so load only folders that you trust.

        Raises:
            KilonetError: the manifest is damaged, the folder has no C form, or there is no C compiler.
        """
        manifest = read_manifest(folder)
        if "c" not in manifest.forms:
            raise KilonetError(f"{folder}: no C form in this folder; 'kilonet export --to c' writes one")
        self.section = manifest.section
        self.metadata = manifest.metadata
        self.sha256 = manifest.model_sha256
        self._scale = 2.0**-manifest.network.fraction_bits
        self._compiled = CompiledC(folder, self.section.input_shape, self.section.classes)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return scaled integer logits: uint8 (N, channels, rows, columns) to float32 (N, classes)."""
        return torch.from_numpy(self._compiled.logits(pixels.numpy())).float() * self._scale
