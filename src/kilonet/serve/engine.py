"""What computes logits for the service, from many threads at once."""

import tempfile
import threading
from pathlib import Path

import torch
from torch import Tensor

from kilonet.export.onnx.float32 import FLOAT_FILE, float_graph
from kilonet.export.onnx.session import OnnxSession
from kilonet.models.model import Classifier, Model
from kilonet.utils.files import write_atomically

_BATCH = 50
"""Images at once; onnxruntime keeps the memory that the largest batch took."""


def engine_of(classifier: Classifier) -> Classifier:
    """Return the same network for many threads: a trained model in onnxruntime, an exported folder as its own C."""
    return OnnxEngine(classifier) if isinstance(classifier, Model) else OneAtATime(classifier)


class OnnxEngine(Classifier):
    """The float graph of a trained model, which lets go of Python's lock while it computes."""

    def __init__(self, model: Model) -> None:
        """Write the graph, and load it."""
        self.section, self.metadata = model.section, model.metadata
        with tempfile.TemporaryDirectory(prefix="kilonet-") as folder:
            path = Path(folder) / FLOAT_FILE
            write_atomically(path, float_graph(model).SerializeToString())
            self._session = OnnxSession(path, self.section.input_shape, self.section.classes)

    def logits(self, pixels: Tensor) -> Tensor:
        """Score images: uint8 (N, channels, rows, columns) to float32 (N, classes)."""
        return torch.cat([torch.from_numpy(self._session.logits(part.numpy())) for part in pixels.split(_BATCH)])


class OneAtATime(Classifier):
    """A classifier that keeps its working memory to itself, such as an exported folder's C."""

    def __init__(self, classifier: Classifier) -> None:
        """Stand before a classifier."""
        self.section, self.metadata = classifier.section, classifier.metadata
        self._classifier = classifier
        self._lock = threading.Lock()

    def logits(self, pixels: Tensor) -> Tensor:
        """Score images: uint8 (N, channels, rows, columns) to float32 (N, classes)."""
        with self._lock:
            return self._classifier.logits(pixels)
