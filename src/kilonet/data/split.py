"""The split of pictures that have no parts: by their content alone, the same for ever, near duplicates together.

The SHA-256 of a picture's content as a whole number, modulo five, is 0 for test images. Pictures that look alike stay
in one part: that of the smallest SHA-256 among them. Neither the names of files nor their order matter.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kilonet.data.parts import Levels
from kilonet.utils.errors import KilonetError

SHARE = 5
"""One in this many pictures is a test image."""
SIDE = 8
"""Rows and columns of the thumbnails by which near duplicates are found."""
NEAR = 1.25
"""Near duplicates differ by at most this many levels in their thumbnails, root mean square.

The same picture as JPEG of quality 90, or in twice its size, differs by 0.3 to 1.1; different photos by far more."""
_FREQUENCIES = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
"""The coarse features, of the cosine transform of a thumbnail, that near duplicates share up to `NEAR * SIDE`."""
_CELLS = 4
"""How many times that is the side of a cell in which near duplicates are searched, and how many grids of cells there
are, each of them shifted: near duplicates on two sides of a border in one grid are in one cell of another."""
_NEIGHBOURS = 6
"""With how many of those that follow it in its cell, by brightness, a picture is compared."""


def content_hash(content: bytes) -> bytes:
    """Return the SHA-256 of a picture's content, 32 bytes."""
    return hashlib.sha256(content).digest()


def thumbnail(picture: Levels) -> NDArray[np.uint8]:
    """Return a picture in 8x8 grey pixels, uint8 (64,)."""
    levels = picture if picture.dtype == np.uint8 else picture.round().astype(np.uint8)
    image = Image.fromarray(levels[:, :, 0]) if levels.shape[2] == 1 else Image.fromarray(levels).convert("L")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).ravel()


def near_duplicates(thumbnails: NDArray[np.uint8], hashes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the group of each picture, int64 (N,): pictures of one group are the same one, or nearly.

    Only pictures with close coarse features are compared, so that a million take seconds.

    Args:
        thumbnails: uint8 (N, 64), see `thumbnail`.
        hashes: uint8 (N, 32), the SHA-256 of each picture's content.
    """
    # SciPy takes a fifth of a second to import, which data with parts of their own need not wait for.
    from scipy.sparse import coo_array  # noqa: PLC0415
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    count = len(thumbnails)
    features = _features(thumbnails)
    side = _CELLS * NEAR * SIDE
    pairs: list[NDArray[np.int64]] = []
    for shift in range(_CELLS):
        cells = np.floor(features / side + shift / _CELLS).astype(np.int64)
        key = np.zeros(count, np.int64)
        for column in cells.T:
            key = key * 1_000_003 + column
        # The SHA-256 decides between equals, so that the order of files does not matter.
        order = np.lexsort((hashes[:, :8].copy().view(np.int64)[:, 0], features[:, 0], key))
        for step in range(1, min(_NEIGHBOURS, count - 1) + 1):
            first, second = order[:-step], order[step:]
            close = key[first] == key[second]
            first, second = first[close], second[close]
            # int16 holds 64 squares only of close pictures; the rest are sorted out by their largest difference.
            apart = thumbnails[first].astype(np.int16) - thumbnails[second]
            near = np.abs(apart).max(1, initial=0) <= NEAR * SIDE
            near[near] = (apart[near] ** 2).sum(1) <= (NEAR * SIDE) ** 2
            pairs.append(np.stack([first[near], second[near]]))
    joined = np.concatenate(pairs, axis=1) if pairs else np.empty((2, 0), np.int64)
    graph = coo_array((np.ones(joined.shape[1], np.int8), (joined[0], joined[1])), shape=(count, count))
    groups: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return groups


def _features(thumbnails: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the coarse features of thumbnails, float64 (N, features), rounded.

    Rounding errors differ between processors, and values on the border of a cell are frequent: unrounded, these errors
    would decide which cell a picture is in.
    """
    from scipy.fft import dctn  # noqa: PLC0415

    found = [np.empty((0, len(_FREQUENCIES)))]
    for start in range(0, len(thumbnails), 1 << 16):
        part = thumbnails[start : start + (1 << 16)].reshape(-1, SIDE, SIDE).astype(np.float64)
        waves = dctn(part, axes=(1, 2), norm="ortho")
        found.append(np.stack([waves[:, row, column] for row, column in _FREQUENCIES], axis=1).round(6))
    return np.concatenate(found)


def choose_test_images(
    hashes: NDArray[np.uint8],
    groups: NDArray[np.int64],
    labels: NDArray[np.int64],
    names: Sequence[str],
    source: object,
) -> NDArray[np.bool_]:
    """Return which pictures are test images, bool (N,).

    A class without any gets its group of pictures with the smallest SHA-256 that leaves it training images; one
    without training images gives one back in the same way.

    Args:
        hashes: uint8 (N, 32), the SHA-256 of each picture's content.
        groups: int64 (N,), see `near_duplicates`.
        labels: int64 (N,).
        names: the name of each class, for the message.
        source: the data's name in messages.

    Raises:
        KilonetError: a class cannot have both training and test images.
    """
    order = np.lexsort(hashes.T[::-1])
    # The first of each group in the order of the SHA-256, and the rank of its group.
    _, first = np.unique(groups[order], return_index=True)
    smallest = order[first]
    remainders = np.zeros(len(smallest), np.int64)
    for column in hashes[smallest].T:
        remainders = (remainders * 256 + column) % SHARE
    is_test = remainders == 0
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    _, group_of = np.unique(groups, return_inverse=True)
    for label in np.unique(labels):
        own = np.unique(group_of[labels == label])
        own = own[np.argsort(ranks[smallest[own]])]
        if len(own) < 2:
            raise KilonetError(
                f"{source}: the class '{names[label]}' has one picture and duplicates of it; it takes two to have "
                "training and test images"
            )
        for wanted in (True, False):
            if not (is_test[own] == wanted).any():
                is_test[own[0]] = wanted
    chosen: NDArray[np.bool_] = is_test[group_of]
    for label in np.unique(labels):
        if len(np.unique(chosen[labels == label])) < 2:
            raise KilonetError(f"{source}: the class '{names[label]}' shares all its pictures with other classes")
    return chosen
