"""A model in a form that many threads can use at once."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kilonet.export.onnx import FLOAT_FILE
from kilonet.export.onnx.float32 import float_graph
from kilonet.export.onnx.session import OnnxSession
from kilonet.models.model import Classifier, Model
from kilonet.network.memory import MAXIMUM_IMAGE_BYTES, image_bytes, images_at_once
from kilonet.utils.capacity import cores
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import write_atomically

_BATCH = 50
"""The most images at once: onnxruntime keeps the memory that its largest batch took."""
_BATCH_BYTES = 128 << 20
"""The most bytes of activations at once, for networks of which `_BATCH` images would take more."""


def thread_safe(classifier: Classifier) -> Classifier:
    """Return the same network for many threads: a trained model in onnxruntime, an exported folder as it is.

    Raises:
        KilonetError: it computes NaN or infinity for a black or a white image, and so has no answers to give; or as
            many images at once as there are threads would take too much memory.
    """
    needed = image_bytes(classifier.section.placed) * cores()
    if needed > MAXIMUM_IMAGE_BYTES:
        raise KilonetError(
            f"{cores()} images at once take {needed >> 20:,} MiB of activations, over the "
            f"{MAXIMUM_IMAGE_BYTES >> 20:,} MiB that a service may take; use fewer channels, or smaller images"
        )
    safe = OnnxClassifier(classifier) if isinstance(classifier, Model) else classifier
    safe.predict(np.stack([np.full(safe.section.input_shape, level, np.uint8) for level in (0, 255)]))
    return safe


class OnnxClassifier(Classifier):
    """The float graph of a trained model in onnxruntime, which releases Python's global lock while it computes."""

    def __init__(self, model: Model) -> None:
        self.section, self.metadata = model.section, model.metadata
        self._batch = images_at_once(self.section.placed, _BATCH, _BATCH_BYTES)
        with tempfile.TemporaryDirectory(prefix="kilonet-") as folder:
            path = Path(folder) / FLOAT_FILE
            write_atomically(path, float_graph(model).SerializeToString())
            self._session = OnnxSession(path, self.section.input_shape, self.section.classes)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return logits, float32 (N, classes), of images, uint8 (N, channels, rows, columns)."""
        return torch.cat([torch.from_numpy(self._session.logits(part.numpy())) for part in pixels.split(self._batch)])
