"""The pictures of a listing as arrays: read, split if they have no parts, and kept in the cache if they are many."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kilonet.data import cache
from kilonet.data.parts import ImageArray, Levels, Listing, Part, PartName
from kilonet.data.preprocessing import Preprocessing
from kilonet.data.reading import Known, read_here, read_in_processes
from kilonet.data.split import choose_test_images, near_duplicates
from kilonet.utils.errors import KilonetError

MANY = 1000
"""From so many pictures on they are read by several processes, and kept in the cache."""
MANY_BYTES = 32 << 20
"""From so many bytes of their files on, too."""
LARGEST = 512
"""The longest side that a network's input may have."""

_DONE = {"crop": "cropped to their middle and scaled", "pad": "scaled and padded", "squash": "squashed"}


@dataclass(frozen=True)
class Pictures:
    """The pictures of a source, ready for a network."""

    parts: Mapping[PartName, tuple[NDArray[np.uint8], NDArray[np.int64]]]
    """Pixels, uint8 (N, channels, rows, columns), and labels, int64 (N,), of `train`, `test`, `validation`."""
    skipped: tuple[tuple[Path, str], ...]
    """Files that could not be read, each with the reason."""
    preparation: str | None
    """What was done to pictures of another size than the input, in a line; None if there are none."""
    notes: tuple[str, ...] = ()


class _Joined(Part):
    """The pictures of several parts, one after the other."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.labels = np.concatenate([part.labels for part in parts])
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    def _place(self, index: int) -> tuple[Part, int]:
        number = int(np.searchsorted(self._starts, index, "right")) - 1
        return self._parts[number], index - int(self._starts[number])

    def name(self, index: int) -> str:
        part, place = self._place(index)
        return part.name(place)

    def path(self, index: int) -> Path | None:
        part, place = self._place(index)
        return part.path(place)

    def content(self, index: int) -> bytes:
        part, place = self._place(index)
        return part.content(place)

    def decoded(self, content: bytes, index: int) -> Levels:
        part, place = self._place(index)
        return part.decoded(content, place)

    def identity(self) -> list[object]:
        return [state for part in self._parts for state in part.identity()]


Arrangement = dict[PartName, NDArray[np.int64]]
"""The indices of the pictures of each part."""


def read_pictures(
    listing: Listing, preprocessing: Preprocessing | None, source: str, *, split: bool = True
) -> Pictures:
    """Read the pictures of a listing. Those of the part `all` are split into `train` and `test`.

    Args:
        listing: the listing.
        preprocessing: how pictures become the inputs of a network; None leaves them as they are, all of one size.
        source: the data's name in messages.
        split: whether to split the part `all`.

    Raises:
        KilonetError: a class has no picture that can be read, pictures differ in size and nothing says what they are
            brought to, or the split leaves a class without training or test images.
    """
    whole = _Joined(list(listing.parts.values()))
    arrays = {name: part for name, part in listing.parts.items() if isinstance(part, ImageArray)}
    if arrays:
        return _read_arrays(listing, arrays, preprocessing, source, split=split)
    if preprocessing is None:
        pixels, known = _read_unchanged(whole)
        return _pictures(pixels, _arranged(listing, whole, known, source, split=split), whole, known, None)
    states = whole.identity()
    size = sum(state[1] for state in states if isinstance(state, list) and len(state) > 1 and isinstance(state[1], int))
    if len(whole) < MANY and size < MANY_BYTES:
        pixels, known = np.zeros((len(whole), *preprocessing.shape), np.uint8), Known.of(len(whole))
        read_here(whole, preprocessing, pixels, known)
        return _pictures(pixels, _arranged(listing, whole, known, source, split=split), whole, known, preprocessing)
    return _read_many(listing, whole, preprocessing, source, states, split=split)


def _read_many(
    listing: Listing, whole: Part, preprocessing: Preprocessing, source: str, states: list[object], *, split: bool
) -> Pictures:
    """Read many pictures: from the cache, or by several processes into it."""
    key = cache.key_of(
        [
            preprocessing.shape,
            preprocessing.resize,
            preprocessing.padding if preprocessing.resize == "pad" else None,
            {part: len(pictures) for part, pictures in listing.parts.items()},
            hashlib.sha256(whole.labels.tobytes()).hexdigest(),
            states,
            split,
        ]
    )
    kept = cache.find(key, preprocessing.shape)
    if kept is not None and not _can_be_read_now(whole, kept.facts["reasons"]):
        return _from_cache(kept, whole, preprocessing)
    pixels, known = cache.room_for((len(whole), *preprocessing.shape)), Known.of(len(whole))
    read_in_processes(whole, preprocessing, pixels, known)
    arrangement = _arranged(listing, whole, known, source, split=split)
    facts = {
        "parts": {part: indices.tolist() for part, indices in arrangement.items()},
        "reasons": {str(index): reason for index, reason in sorted(known.reasons.items())},
        "changed": known.count_changed(preprocessing),
    }
    kept = cache.store(key, pixels, np.concatenate(list(arrangement.values())), facts)
    if kept is None:
        return _pictures(pixels, arrangement, whole, known, preprocessing)
    note = f"the pictures of {source} are kept as the network takes them in {kept.path.parent}"
    return _from_cache(kept, whole, preprocessing, note)


def _can_be_read_now(whole: Part, reasons: Mapping[str, str]) -> bool:
    """Return whether a picture that could not be read can be now, for example because there is more memory."""
    for index in map(int, reasons):
        try:
            whole.picture(index)
        except KilonetError:
            continue
        return True
    return False


def _from_cache(kept: cache.Kept, whole: Part, preprocessing: Preprocessing, *notes: str) -> Pictures:
    parts: dict[PartName, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}
    start = 0
    for part, indices in kept.facts["parts"].items():
        parts[part] = kept.pixels[start : start + len(indices)], whole.labels[np.array(indices, np.int64)]
        start += len(indices)
    reasons = {int(index): reason for index, reason in kept.facts["reasons"].items()}
    return Pictures(
        parts, _skipped(whole, reasons), _preparation(kept.facts["changed"], start, preprocessing), tuple(notes)
    )


def _pictures(
    pixels: NDArray[np.uint8],
    arrangement: Arrangement,
    whole: Part,
    known: Known,
    preprocessing: Preprocessing | None,
) -> Pictures:
    parts = {part: (_rows(pixels, indices), whole.labels[indices]) for part, indices in arrangement.items()}
    changed = known.count_changed(preprocessing) if preprocessing else 0
    count = sum(map(len, arrangement.values()))
    return Pictures(parts, _skipped(whole, known.reasons), _preparation(changed, count, preprocessing))


def _rows(pixels: NDArray[np.uint8], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return some pictures, without a copy if they follow one another."""
    first = int(indices[0])
    if len(indices) == indices[-1] - first + 1 and (np.diff(indices) == 1).all():
        return pixels[first : first + len(indices)]
    return cache.taken(pixels, indices)


def _skipped(whole: Part, reasons: Mapping[int, str]) -> tuple[tuple[Path, str], ...]:
    return tuple((whole.path(index) or Path(whole.name(index)), reason) for index, reason in sorted(reasons.items()))


def _preparation(changed: int, count: int, preprocessing: Preprocessing | None) -> str | None:
    if not changed or preprocessing is None:
        return None
    _, rows, columns = preprocessing.shape
    return (
        f"{changed:,} of {count:,} pictures are of another size than {columns}x{rows} pixels: "
        f"they are {_DONE[preprocessing.resize]}"
    )


def _arranged(listing: Listing, whole: Part, known: Known, source: str, *, split: bool) -> Arrangement:
    """Return the pictures of each part that could be read, `all` split into `train` and `test`.

    Raises:
        KilonetError: a class of a part has none, or the split leaves a class without.
    """
    found: Arrangement = {}
    start = 0
    for part, pictures in listing.parts.items():
        indices = np.arange(start, start + len(pictures))
        start += len(pictures)
        readable = np.array([index not in known.reasons for index in indices.tolist()], bool)
        found[part] = indices[readable]
    labels = {part: whole.labels[indices] for part, indices in found.items()}
    check_classes_read(listing, labels, _skipped(whole, known.reasons), source)
    if "all" in found and split:
        indices = found.pop("all")
        hashes = known.hashes[indices]
        names = [listing.class_name(label) for label in range(listing.classes)]
        groups = near_duplicates(known.thumbnails[indices], hashes)
        is_test = choose_test_images(hashes, groups, labels["all"], names, source)
        found["train"], found["test"] = indices[~is_test], indices[is_test]
    return found


def check_classes_read(
    listing: Listing,
    labels: Mapping[PartName, NDArray[np.int64]],
    skipped: Sequence[tuple[Path, str]],
    source: str,
) -> None:
    """Check that each class of a part has pictures that could be read.

    Args:
        listing: the listing.
        labels: the labels of the pictures of each part that could be read.
        skipped: the files that could not be, with the reasons.
        source: the data's name in messages.

    Raises:
        KilonetError: a class has none; the message names it.
    """
    reasons = {str(path): reason for path, reason in skipped}
    for name, part in listing.parts.items():
        lost = np.setdiff1d(part.labels, labels[name])
        if not lost.size:
            continue
        first = int(np.flatnonzero(part.labels == lost[0])[0])
        where = "" if name == "all" else f" in the part '{name}'"
        raise KilonetError(
            f"{source}: the class '{listing.class_name(int(lost[0]))}'{where} has no images that can be read: "
            f"{reasons.get(part.name(first), part.name(first))}"
        )


def _read_unchanged(whole: Part) -> tuple[NDArray[np.uint8], Known]:
    """Read pictures that are all of one size.

    Raises:
        KilonetError: they differ in size, or are too large.
    """
    known = Known.of(len(whole))
    pixels: NDArray[np.uint8] | None = None
    first = ""
    for index in range(len(whole)):
        try:
            content = whole.content(index)
            picture = whole.decoded(content, index)
        except KilonetError as error:
            known.reasons[index] = str(error)
            continue
        name = whole.name(index)
        if max(picture.shape[:2]) > LARGEST:
            raise KilonetError(f"{name}: more than {LARGEST} pixels long; scale it to the size that the network takes")
        image = picture.round().astype(np.uint8).transpose(2, 0, 1)
        if pixels is None:
            pixels, first = cache.room_for((len(whole), *image.shape)), name
        if image.shape != pixels.shape[1:]:
            raise KilonetError(f"{name}: {_size(image.shape)}, but {first} is {_size(pixels.shape[1:])}; name a size")
        known.add(index, content, picture)
        pixels[index] = image
    return np.zeros((len(whole), 1, 1, 1), np.uint8) if pixels is None else pixels, known


def _size(shape: tuple[int, ...]) -> str:
    channels, rows, columns = shape
    return f"{columns}x{rows} {'grey' if channels == 1 else 'colour'}"


def _read_arrays(
    listing: Listing,
    arrays: Mapping[PartName, ImageArray],
    preprocessing: Preprocessing | None,
    source: str,
    *,
    split: bool,
) -> Pictures:
    parts: dict[PartName, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}
    changed = 0
    for name, part in arrays.items():
        pixels = part.pixels
        if preprocessing is not None and pixels.shape[1:] != preprocessing.shape:
            pixels = _prepared(part, preprocessing)
            changed += len(part) * (part.pixels.shape[2:] != preprocessing.shape[1:])
        if name != "all" or not split:
            parts[name] = pixels, part.labels
            continue
        known = Known.of(len(part))
        for index in range(len(part)):
            content = part.content(index)
            known.add(index, content, part.decoded(content, index))
        for half, indices in _arranged(listing, part, known, source, split=split).items():
            parts[half] = _rows(pixels, indices), part.labels[indices]
    return Pictures(parts, (), _preparation(changed, sum(map(len, arrays.values())), preprocessing))


def _prepared(part: ImageArray, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    pixels = cache.room_for((len(part), *preprocessing.shape))
    for index in range(len(part)):
        pixels[index] = preprocessing.apply(part.picture(index))
    return pixels
