"""A trained network: loaded by name, from a run folder or from a file, and used for predictions.

The file format is safetensors, so that loading a model runs no code. The header has one entry, `kilonet`: a JSON object
with the format version, the description of the network and, if there are any, its metadata (see `metadata`). The
tensors are the weights and batch-norm statistics of the network, float32.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from kilonet.models.calibration import UNFITTED
from kilonet.models.metadata import NO_METADATA, Metadata, check_metadata
from kilonet.network.memory import MAXIMUM_IMAGE_BYTES, check_prediction_memory, images_at_once, weight_bytes
from kilonet.network.module import initial_network
from kilonet.network.operations import check_pixels
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import read_bounded, write_atomically
from kilonet.utils.schema import first_complaint

FORMAT_VERSION = 1
MAXIMUM_BYTES = 64 << 20
MODEL_FILE = "model.safetensors"
PACKAGED_LICENCE = "mit"
"""The licence of the packaged models, as the Hub names it."""

SCORING_BATCH = 128
"""Images scored at once: their activations stay in the cache, which is over twice as fast as 1,000 at once."""
_SCORING_BYTES = MAXIMUM_IMAGE_BYTES
"""The most bytes of activations that scoring takes, for networks of which `SCORING_BATCH` images would take more."""
_TENSOR_HEAD_BYTES = 256
"""More than a tensor takes in the header of a model file."""


Pictures = str | Path | Image.Image | NDArray[np.uint8] | Tensor | Sequence[Any]
"""What `predict` takes: one picture or several."""


@dataclass(frozen=True)
class Predictions:
    """The predictions of a model for N images. `str()` gives a line for each."""

    classes: NDArray[np.int64]
    """int64 (N,): the most probable class of each image."""
    probabilities: NDArray[np.float32]
    """float32 (N, classes): each row sums to one; the model's temperature, if it has one, is applied."""
    names: tuple[str | None, ...]
    """N names of these classes, or their numbers if they have no names; None for none of the classes."""
    uncertain: NDArray[np.bool_]
    """bool (N,): whether the probability is below the calibration's threshold, or the image unlike the training's."""
    none_of_these: NDArray[np.bool_]
    """bool (N,): whether the image is none of the classes: no digit, or rejected by a calibration on negatives."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.classes)

    def __str__(self) -> str:
        shares = self.probabilities.max(1, initial=0).tolist()
        rows = zip(self.names, shares, self.uncertain.tolist(), strict=True)
        return "\n".join(
            "none of these" if name is None else f"{name} ({100 * share:.2f}%{', uncertain' if unsure else ''})"
            for name, share, unsure in rows
        )


class Classifier(ABC):
    """The base of everything that computes logits of images, and so can predict and be scored."""

    section: ModelSection
    """The description of the network."""
    metadata: Metadata = NO_METADATA
    """Class names, kind of images, calibration."""

    @abstractmethod
    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits, float32 (N, classes), of images, uint8 (N, channels, rows, columns)."""

    @property
    def reads_digits(self) -> bool:
        """Whether pictures are searched for digits, which are laid out as MNIST's before the network is applied."""
        return self.metadata.reads_digits(self.section.input_shape, self.section.classes)

    def predict(self, images: Pictures) -> Predictions:
        """Classify images.

        Args:
            images: inputs of the network, uint8 (N, channels, rows, columns), or (N, rows, columns) for a network of
                one channel; digits are light on black, as in MNIST. Or pictures of any size, which are prepared as
                `kilonet predict` does: a path, a Pillow image, or an array, uint8 (rows, columns) or (rows, columns,
                3); a list of these, or an array (N, ...) of them.

        Raises:
            KilonetError: no image, an array of another shape or dtype, or a file that cannot be read.
        """
        if _are_inputs(images, self.section):
            logits = self.logits(_as_pixels(images, self.section)).numpy()
            calibration = self.metadata.calibration or UNFITTED
            uncertain = calibration.uncertain(logits)
            return self._predictions(logits, uncertain, uncertain & bool(calibration.rejects))
        # These modules build on this one.
        from kilonet.models.inputs import inputs_of  # noqa: PLC0415
        from kilonet.models.prediction import predictions_of  # noqa: PLC0415

        prepared = inputs_of(images, self)
        pixels = np.stack([image.pixels.reshape(self.section.input_shape) for image in prepared])
        logits = self.logits(torch.from_numpy(pixels)).numpy()
        found = predictions_of(logits, prepared, self.metadata, digits=self.reads_digits)
        return self._predictions(
            logits, np.array([one.uncertain for one in found]), np.array([one.label is None for one in found])
        )

    def _predictions(
        self, logits: NDArray[np.float32], uncertain: NDArray[np.bool_], none: NDArray[np.bool_]
    ) -> Predictions:
        classes = logits.argmax(1)
        names = tuple(
            None if rejected else self.metadata.name_of(label)
            for label, rejected in zip(classes.tolist(), none.tolist(), strict=True)
        )
        probabilities = (self.metadata.calibration or UNFITTED).probabilities(logits)
        return Predictions(classes, probabilities, names, uncertain, none)

    def preprocess(self, image: str | Path | Image.Image | NDArray[np.uint8] | Tensor) -> Tensor:
        """Return the input of the network for one picture, uint8 (channels, rows, columns).

        A model that reads digits searches for one, and what it lays out is returned even if it is none.

        Args:
            image: a path, a Pillow image, or uint8 (rows, columns) or (rows, columns, 3), of any size.

        Raises:
            KilonetError: it is none of these, or a file that cannot be read.
        """
        from kilonet.models.inputs import input_of  # noqa: PLC0415

        return torch.from_numpy(np.array(input_of(image, self).pixels.reshape(self.section.input_shape)))


class Model(Classifier):
    """A trained network; `network` is its torch module, in evaluation mode."""

    def __init__(self, section: ModelSection, state: Mapping[str, Tensor], metadata: Metadata = NO_METADATA) -> None:
        check_metadata(metadata, section.input_shape, section.classes)
        self.section = section
        self.metadata = metadata
        self.network = initial_network(section, seed=0)
        self.network.load(state)
        self.network.eval()

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits, float32 (N, classes), of images, uint8 (N, channels, rows, columns)."""
        with torch.inference_mode():
            # The network may have been moved to another device.
            device = next(self.network.buffers()).device
            parts = [self.network(part.to(device)).cpu() for part in pixels.split(scoring_batch(self.section))]
        return torch.cat(parts) if parts else torch.empty(0, self.section.classes)

    def with_metadata(self, metadata: Metadata) -> "Model":
        """Return the same network with other metadata."""
        return Model(self.section, self.network.state(), metadata)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file that `save` writes."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def content(self) -> bytes:
        """The content of the file that `save` writes."""
        return serialise(self.section, self.network.state(), self.metadata)

    @property
    def trained_sha256(self) -> str:
        """The SHA-256 of the file that its training wrote, before the model was calibrated."""
        return self.with_metadata(self.metadata.model_copy(update={"calibration": None})).sha256

    def save(self, path: Path) -> None:
        """Write the model file atomically."""
        write_atomically(path, self.content)


def serialise(section: ModelSection, state: Mapping[str, Tensor], metadata: Metadata = NO_METADATA) -> bytes:
    """Return the content of a model file; equal weights and metadata give equal bytes."""
    header = {"format_version": FORMAT_VERSION, "model": section.model_dump(mode="json", exclude_none=True)}
    if metadata != NO_METADATA:
        header["metadata"] = metadata.model_dump(mode="json", exclude_none=True)
    tensors = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in state.items()}
    return safetensors.torch.save(tensors, {"kilonet": json.dumps(header, sort_keys=True)})


def check_storable(section: ModelSection, metadata: Metadata = NO_METADATA) -> None:
    """Check that `load_model` will take the model file of a network, before the network is trained.

    Raises:
        KilonetError: the file would be too large.
    """
    head = json.dumps(metadata.model_dump(mode="json"))
    needed = weight_bytes(section.placed) + len(head) + _TENSOR_HEAD_BYTES * 5 * len(section.placed)
    if needed > MAXIMUM_BYTES:
        raise KilonetError(
            f"the network has {section.parameters:,} parameters: its model file would have {needed / (1 << 20):,.1f} "
            f"MiB, over the limit of {MAXIMUM_BYTES >> 20}"
        )


def scoring_batch(section: ModelSection) -> int:
    """Return how many images of a network are scored at once."""
    return images_at_once(section.placed, SCORING_BATCH, _SCORING_BYTES)


def packaged_models() -> list[str]:
    """Return the names of the trained models in the package, sorted."""
    folder = files("kilonet.models") / "weights"
    return sorted(
        entry.name.removesuffix(".safetensors") for entry in folder.iterdir() if entry.name.endswith(".safetensors")
    )


def model_path(source: str) -> Path:
    """Return the model file of a packaged name, a run folder or a path.

    Raises:
        KilonetError: there is no such model.
    """
    if source in packaged_models():
        return Path(str(files("kilonet.models"))) / "weights" / f"{source}.safetensors"
    path = Path(source)
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise KilonetError(
                f"{path}: no {MODEL_FILE} in this folder; give a run folder whose training has finished, or the model "
                "that an exported folder was made from"
            )
        return path / MODEL_FILE
    if not path.is_file():
        names = ", ".join(packaged_models())
        raise KilonetError(f"no model '{source}': not a file, a run folder or a packaged model ({names})")
    return path


def load_model(source: str | Path) -> Model:
    """Load a model by packaged name, from a run folder or from a model file.

    Raises:
        KilonetError: there is no such model, or its file is damaged, too large, of another version or holds NaN.
    """
    path = model_path(str(source))
    content = read_bounded(path, MAXIMUM_BYTES, "a model file")
    try:
        return _deserialise(content)
    except (AttributeError, TypeError, RecursionError):
        raise KilonetError(f"{path}: not a usable model file: its header is no description of a network") from None
    except (KilonetError, SafetensorError, ValueError, KeyError) as error:
        reason = _first_line(error)
        raise KilonetError(f"{path}: not a usable model file: {reason}") from None


def _deserialise(content: bytes) -> Model:
    header = _read_header(content)
    section = ModelSection.model_validate(header["model"])
    metadata = Metadata.model_validate(header.get("metadata", {}))
    tensors = safetensors.torch.load(content)
    _check_state(tensors, section)
    return Model(section, tensors, metadata)


def _read_header(content: bytes) -> dict[str, Any]:
    """Return the entry `kilonet` of the safetensors header, which follows its length in eight little-endian bytes."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise KilonetError("it is truncated or no safetensors file")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    header = json.loads(metadata.get("kilonet", "{}"))
    if not isinstance(header, dict) or header.get("format_version") != FORMAT_VERSION:
        found = header.get("format_version") if isinstance(header, dict) else None
        raise KilonetError(f"its format version is {found}, not {FORMAT_VERSION}")
    return header


def _check_state(tensors: Mapping[str, Tensor], section: ModelSection) -> None:
    # This comes before the network is built, as a header may describe a network that does not fit in memory.
    if section.parameters > sum(tensor.numel() for tensor in tensors.values()):
        raise KilonetError("it holds fewer weights than its network has")
    check_prediction_memory(section.placed)
    expected = initial_network(section, seed=0).state()
    if set(tensors) != set(expected):
        raise KilonetError("its tensors are not those of its network")
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or tensor.shape != expected[name].shape:
            raise KilonetError(f"tensor {name} is not float32 {tuple(expected[name].shape)}")
        if not torch.isfinite(tensor).all():
            raise KilonetError(f"tensor {name} holds NaN or infinity")
        if name.endswith("running_var") and (tensor < 0).any():
            raise KilonetError(f"tensor {name} holds a negative variance")


def _are_inputs(images: Any, section: ModelSection) -> TypeGuard[NDArray[np.uint8] | Tensor]:
    """Return whether an array has the shape of inputs of a network, of whatever dtype."""
    if not isinstance(images, Tensor | np.ndarray):
        return False
    shape = tuple(images.shape[1:])
    return shape == section.input_shape or (len(shape) == 2 and (1, *shape) == section.input_shape)


def _as_pixels(images: NDArray[np.uint8] | Tensor, section: ModelSection) -> Tensor:
    if (1, *images.shape[1:]) == section.input_shape:
        images = images[:, None]
    check_pixels(images, section.input_shape)
    # torch takes no negative strides, as of a mirrored view.
    return torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return first_complaint(error)
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
