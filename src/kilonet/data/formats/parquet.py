"""Parquet files as Hugging Face publishes sets of images: a column of image files, and one of labels.

The names of the classes are in the file's metadata, under `huggingface`.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kilonet.data.formats.arrays import labels_from_text
from kilonet.data.image_folders import is_hidden
from kilonet.data.parts import Listing, Part, PartName, check_class_names, part_of, state_of
from kilonet.utils.capacity import available_memory
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_IMAGE_NAMES = ("image", "img", "picture", "pixels")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "digit", "character")
MAXIMUM_ROWS = 5_000_000


def parquet_files(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder and in its folder `data`, sorted."""
    return sorted(
        path
        for place in (folder, folder / "data")
        if place.is_dir()
        for path in place.iterdir()
        if path.suffix.lower() == ".parquet" and not is_hidden(path.name)
    )


@dataclass(eq=False)
class ParquetImages(Part):
    """Image files in a column of Parquet files, read a group of rows at a time."""

    labels: NDArray[np.int64]
    groups: list[tuple[Path, int, int]]
    """The file, the number of the group in it, and the index of its first row, for each group of rows."""
    column: str
    _held: tuple[int, Any] = field(default=(-1, None))
    _starts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        """Note where groups begin."""
        self._starts = np.array([start for _, _, start in self.groups])

    def name(self, index: int) -> str:
        """Return the file's name and the row."""
        path, _, _ = self.groups[self._group(index)]
        return f"{path}, image {index}"

    def content(self, index: int) -> bytes:
        """Return the content of an image file."""
        group = self._group(index)
        path, number, start = self.groups[group]
        held, values = self._held
        if held != group:
            with _readable(path), _opened(path) as file:
                _check_group(file, number, path)
                values = file.read_row_group(number, columns=[self.column]).column(0)
            self._held = group, values
        with _readable(path):
            value = values[index - start].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise KilonetError(f"{self.name(index)}: no image file in the row")
        return content

    def identity(self) -> list[object]:
        """Return the state of each file."""
        return [*(state_of(path) for path in dict.fromkeys(path for path, _, _ in self.groups)), self.column]

    def _group(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, "right")) - 1


def list_parquet(paths: list[Path], source: Path) -> Listing:
    """List the images in Parquet files, whose names say their parts.

    Raises:
        KilonetError: a file is damaged, or has no columns of images and labels.
        NotInstalled: pyarrow is missing.
    """
    with needed_from("parquet", f"{source}"):
        import pyarrow.parquet  # noqa: F401, PLC0415
    by_part: dict[PartName, list[Path]] = {}
    for path in paths:
        by_part.setdefault(part_of(path.stem) or "all", []).append(path)
    if len(by_part) > 1 and "all" in by_part:
        raise KilonetError(f"{source}: only some Parquet files have a part in their names; remove the others")
    column, label, names = _columns(paths[0])
    texts: dict[PartName, list[str]] = {}
    groups: dict[PartName, list[tuple[Path, int, int]]] = {}
    for part, files in by_part.items():
        texts[part], groups[part] = [], []
        for path in files:
            for number, values in _labels(path, label):
                groups[part].append((path, number, len(texts[part])))
                texts[part] += values
                if len(texts[part]) > MAXIMUM_ROWS:
                    raise KilonetError(f"{source}: over {MAXIMUM_ROWS:,} rows")
        if not texts[part]:
            raise KilonetError(f"{source}: the part '{part}' has no rows")
    labels, found = labels_from_text(texts, source)
    if names is not None and found is None:
        check_class_names(names, source)
        highest = max(int(one.max()) for one in labels.values())
        if highest >= len(names):
            raise KilonetError(f"{source}: a label is {highest}, but its metadata name {len(names)} classes")
    parts: dict[PartName, Part] = {part: ParquetImages(labels[part], groups[part], column) for part in by_part}
    return Listing(parts, found or names)


def _columns(path: Path) -> tuple[str, str, tuple[str, ...] | None]:
    """Return the columns of images and labels, and the names of the classes if the metadata have them."""
    with _readable(path), _opened(path) as file:
        schema = file.schema_arrow
        columns = list(schema.names)
        told = (schema.metadata or {}).get(b"huggingface", b"{}")
        features = json.loads(told).get("info", {}).get("features", {})
        if not isinstance(features, dict):
            features = {}
    kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    image = next((name for name in columns if kinds.get(name) == "Image" or name.lower() in _IMAGE_NAMES), None)
    label = next((name for name in columns if kinds.get(name) == "ClassLabel"), None)
    label = label or next((name for name in columns if name.lower() in _LABEL_NAMES), None)
    if image is None or label is None:
        some = ", ".join(columns[:10])
        raise KilonetError(f"{path}: no columns 'image' and 'label' in it; it has {some}")
    names = features.get(label, {}).get("names") if isinstance(features.get(label), dict) else None
    return image, label, tuple(map(str, names)) if isinstance(names, list) else None


def _labels(path: Path, column: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each group of rows that has any, and the text of its labels."""
    with _readable(path), _opened(path) as file:
        # Before they are read: millions of equal labels take some bytes in the file.
        if file.metadata.num_rows > MAXIMUM_ROWS:
            raise KilonetError(f"{path}: over {MAXIMUM_ROWS:,} rows")
        for number in range(file.num_row_groups):
            _check_group(file, number, path)
            values = file.read_row_group(number, columns=[column]).column(0).to_pylist()
            if any(not isinstance(value, int | str) or value == "" for value in values):
                raise KilonetError(f"{path}: a row has no label")
            if values:
                yield number, [str(value) for value in values]


def _check_group(file: "pq.ParquetFile", number: int, path: Path) -> None:
    """Check that a group of rows fits in memory, by what the file says of it."""
    size, free = file.metadata.row_group(number).total_byte_size, available_memory()
    if free is not None and 2 * size > free:
        raise KilonetError(f"{path}: {size >> 20:,} MiB of rows at once do not fit in memory; write smaller row groups")


@contextlib.contextmanager
def _opened(path: Path) -> "Iterator[pq.ParquetFile]":
    import pyarrow.parquet as pq  # noqa: PLC0415

    if not path.is_file():
        raise KilonetError(f"{path}: not a file")
    with pq.ParquetFile(path) as file:
        yield file


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises on a damaged file into one line."""
    try:
        yield
    except KilonetError:
        raise
    except Exception as error:  # noqa: BLE001 - pyarrow raises many kinds.
        raise KilonetError(f"{path}: damaged: {str(error).partition(chr(10))[0] or type(error).__name__}") from None
