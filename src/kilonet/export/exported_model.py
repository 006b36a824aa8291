"""An exported folder as a classifier in Python, to try it before it ships."""

from pathlib import Path

import torch
from torch import Tensor

from kilonet.export.integer import integer_logits
from kilonet.export.manifest import read_manifest
from kilonet.models.model import Classifier


class ExportedModel(Classifier):
    """The integer network of an exported folder, executed by the reference. `sha256` is that of the exported model.

    Only `model.json` is read: nothing in the folder is compiled or run.
    """

    def __init__(self, folder: Path) -> None:
        """Read the folder's manifest.

        Raises:
            KilonetError: it is missing or damaged.
        """
        manifest = read_manifest(folder)
        self.section = manifest.section
        self.metadata = manifest.metadata
        self.sha256 = manifest.model_sha256
        self._network = manifest.network

    def logits(self, pixels: Tensor) -> Tensor:
        """Return scaled integer logits: uint8 (N, channels, rows, columns) to float32 (N, classes).

        Several threads may call it at once.
        """
        logits = torch.from_numpy(integer_logits(self._network, pixels.numpy()))
        return logits.float() * 2.0**-self._network.fraction_bits
