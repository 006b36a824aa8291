"""NPZ files as Keras, KMNIST and MedMNIST publish them: pixels and labels under names with a word for part and kind."""

import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.data.formats.arrays import array_listing, as_images, as_labels, check_size
from kilonet.data.image_folders import is_hidden
from kilonet.data.parts import Listing, PartName, part_of
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import open_regular

_IMAGES = frozenset(["x", "image", "images", "img", "imgs", "data", "pixels"])
_LABELS = frozenset(["y", "label", "labels", "target", "targets", "class", "classes"])
_LONGEST_HEADER = 10_000
_MOST_ARRAYS = 100


def list_npz(paths: list[Path], source: Path) -> Listing:
    """Return the images of NPZ files.

    The words of the name of an array, or of its file where it has none (`arr_0`), say what it holds.

    Args:
        paths: the files.
        source: the data's name in messages.

    Raises:
        KilonetError: a file is damaged or holds something else; or images or labels are missing.
    """
    found: dict[PartName, dict[str, NDArray[Any]]] = {}
    for path in paths:
        for name, array in _arrays(path):
            words = name if not name.startswith("arr_") else path.stem
            kind = _kind(words)
            if kind is None:
                continue
            part = part_of(words) or part_of(path.stem) or "all"
            if kind in found.setdefault(part, {}):
                raise KilonetError(f"{source}: two arrays are the {kind} of the part '{part}': {path.name}, {name}")
            found[part][kind] = array
    for part, arrays in found.items():
        if missing := {"images", "labels"} - set(arrays):
            raise KilonetError(
                f"{source}: no {missing.pop()} for the part '{part}'; arrays are named as in x_train, y_train"
            )
    if not found:
        raise KilonetError(f"{source}: no images in it; arrays are named as in x_train, y_train, x_test, y_test")
    if len(found) > 1 and "all" in found:
        raise KilonetError(f"{source}: images with and without a part in it; remove one of them")
    return array_listing(
        {part: (as_images(one["images"], source), as_labels(one["labels"], source)) for part, one in found.items()},
        source,
    )


def npz_files(folder: Path) -> list[Path]:
    """Return the NPZ files in a folder, sorted."""
    return sorted(path for path in folder.glob("*.[nN][pP][zZ]") if not is_hidden(path.name))


def _kind(name: str) -> str | None:
    words = set(name.lower().replace("-", " ").replace("_", " ").replace(".", " ").split())
    if words & _LABELS:
        return "labels"
    return "images" if words & _IMAGES else None


def _arrays(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of a file with their names. Their sizes are checked before memory is taken."""
    try:
        with open_regular(path) as raw, zipfile.ZipFile(raw) as archive:
            members = archive.infolist()
            if len(members) > _MOST_ARRAYS:
                raise KilonetError(f"{path}: {len(members):,} arrays in it, over {_MOST_ARRAYS}")
            for member in members:
                name = member.filename.removesuffix(".npy")
                if _kind(name) is None and _kind(path.stem) is None:
                    continue
                yield name, _read(archive, member, f"{path}, {name}")
    except OSError as error:
        raise KilonetError(f"{path}: cannot be read: {error.strerror or error}") from None
    except KilonetError:
        raise
    except Exception as error:  # noqa: BLE001 - zipfile, zlib and NumPy raise nearly every kind.
        raise KilonetError(f"{path}: damaged: {error or type(error).__name__}") from None


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> NDArray[Any]:
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise KilonetError(f"{name}: an array of format version {version}; 1.0 and 2.0 are read")
        shape, _, dtype = read_header[version](stream, max_header_size=_LONGEST_HEADER)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise KilonetError(f"{name}: its values are {dtype}, not numbers; objects may run code and are not read")
    check_size(shape, dtype.itemsize, name)
    if not prod(shape) * dtype.itemsize <= member.file_size <= prod(shape) * dtype.itemsize + _LONGEST_HEADER:
        raise KilonetError(f"{name}: {member.file_size:,} bytes, which is not what its header says")
    with archive.open(member) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array
