"""Pictures as people have them in Python (paths, Pillow images, arrays of any size) as the inputs of a network."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from kilonet.data.decode import DecodeLimits, Picture, decode
from kilonet.data.digits.prepare import PreparedImage
from kilonet.data.image_folders import read_picture
from kilonet.models.model import Classifier
from kilonet.models.prediction import prepare_images
from kilonet.network.operations import array_type
from kilonet.utils.errors import KilonetError

_CHANNELS = (1, 3, 4)
"""Grey, colour, and colour with alpha."""


def inputs_of(pictures: Any, model: Classifier) -> list[PreparedImage]:
    """Return the network's input for each picture.

    Args:
        pictures: what `Classifier.predict` takes.
        model: the model that will see them.

    Raises:
        KilonetError: no picture, something that is none, or a file that cannot be read.
    """
    several = _separate(pictures, model)
    if not several:
        raise KilonetError("no image given")
    return [input_of(picture, model) for picture in several]


def input_of(picture: Any, model: Classifier) -> PreparedImage:
    """Return the network's input for one picture: a path, a Pillow image, or uint8 (rows, columns[, channels]).

    Raises:
        KilonetError: it is none of these, or a file that cannot be read.
    """
    (image,) = prepare_images(_picture_of(picture, evenly=not model.reads_digits), model)
    return image


def _separate(pictures: Any, model: Classifier) -> Sequence[Any]:
    """Return single pictures: the parts of a sequence or of an array with one dimension more than a picture."""
    if isinstance(pictures, str | Path | Image.Image):
        return [pictures]
    if isinstance(pictures, list | tuple):
        return pictures
    if not isinstance(pictures, Tensor | np.ndarray):
        raise _no_picture(pictures)
    array = _array_of(pictures)
    if array.shape == model.section.input_shape and array.shape[0] != 1 and array.shape[2] not in _CHANNELS:
        raise KilonetError(
            f"an array of the shape {array.shape} may be {array.shape[0]} grey pictures or one input of the network; "
            "give a list of the pictures, or array[None]"
        )
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in _CHANNELS):
        return [array]
    if array.ndim == 3 and array.shape[2] == 2:
        raise KilonetError(
            f"an array {tuple(array.shape)} of two channels; pass grey and alpha as a Pillow image, mode LA"
        )
    if array.ndim == 3 or (array.ndim == 4 and array.shape[3] in _CHANNELS):
        return list(array)
    channels, rows, columns = model.section.input_shape
    raise KilonetError(
        f"images must be uint8 (N, {channels}, {rows}, {columns}), or of any size uint8 (rows, columns) or "
        f"(rows, columns, 3), one or (N, ...) of them, not {array_type(pictures)} {tuple(pictures.shape)}"
    )


def _array_of(pictures: "Tensor | NDArray[Any]") -> NDArray[np.uint8]:
    if array_type(pictures) != "uint8":
        raise KilonetError(f"images must be uint8, 0 to 255, not {array_type(pictures)} {tuple(pictures.shape)}")
    return pictures.cpu().numpy() if isinstance(pictures, Tensor) else pictures


def _no_picture(thing: Any) -> KilonetError:
    return KilonetError(f"{type(thing).__name__} is no image: give a path, a Pillow image or a uint8 array")


def _picture_of(picture: Any, *, evenly: bool) -> Picture:
    if isinstance(picture, str | Path):
        if Path(picture).is_dir():
            raise KilonetError(f"{picture}: a folder; give the list of its files")
        return read_picture(Path(picture), evenly=evenly)
    if isinstance(picture, Image.Image):
        return _as_file(picture, evenly=evenly)
    if not isinstance(picture, Tensor | np.ndarray):
        raise _no_picture(picture)
    array = _array_of(picture)
    levels = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if not array.size or levels.ndim not in (2, 3) or levels.shape[2:] not in ((), (3,), (4,)):
        raise KilonetError(f"an image is uint8 (rows, columns) or (rows, columns, 3), not {tuple(array.shape)}")
    return _as_file(Image.fromarray(np.ascontiguousarray(levels)), evenly=evenly)


def _as_file(image: Image.Image, *, evenly: bool) -> Picture:
    """Return a picture as if it had been read from a file, by the same rules for all modes, transparency and size."""
    stream = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        savable = upright if upright.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else upright.convert("RGB")
        savable.save(stream, "PNG", compress_level=0)
    except (OSError, ValueError, SyntaxError) as error:
        raise KilonetError(f"a Pillow image that cannot be used: {error}") from None
    content = stream.getvalue()
    return decode(content, "the image", DecodeLimits(content=len(content)), evenly=evenly)
