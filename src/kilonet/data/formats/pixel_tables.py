"""CSV files with a picture a line: its label, first or last, and a number for each pixel, 0 to 255 or 0 to 1."""

import math
import re
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kilonet.data.formats.arrays import MAXIMUM_ELEMENTS, Labelled, array_listing, check_size, labels_from_text
from kilonet.data.formats.tables import LABEL_NAMES, Table, lines_of
from kilonet.data.parts import Listing, PartName, part_of
from kilonet.utils.errors import KilonetError

_AT_ONCE = 2048
_PLACE = re.compile(r"(\d+)x(\d+)")


def list_pixel_tables(tables: list[Table], source: Path) -> Listing:
    """Return the images of tables of pixels, as MNIST is published for Kaggle; a test table without labels is noted.

    Args:
        tables: the tables; several are parts, which their names say.
        source: the data's name in messages.

    Raises:
        KilonetError: a line has another number of columns or something else than levels; or no table has labels.
    """
    shapes = {table.path: _shape(table) for table in tables}
    labelled = [table for table in tables if shapes[table.path][0] is not None]
    if not labelled:
        raise KilonetError(f"{tables[0].path}: no column of labels in it, by a name such as 'label'")
    pixels: dict[PartName, NDArray[np.uint8]] = {}
    texts: dict[PartName, list[str]] = {}
    for table in labelled:
        part = (part_of(table.path.stem) if len(labelled) > 1 else None) or "all"
        if part in pixels or (part == "all" and len(labelled) > 1):
            raise KilonetError(
                f"{source}: several tables, which their names do not say the parts of; name one as --data"
            )
        column, shape = shapes[table.path]
        pixels[part], texts[part] = _read(table, column == 0, shape)
    labels, names = labels_from_text(texts, source)
    found: dict[PartName, Labelled] = {part: (pixels[part], labels[part]) for part in pixels}
    notes = [f"{table.path}: has no labels; it is left out" for table in tables if shapes[table.path][0] is None]
    notes += [
        f"{table.path}: its first line names no columns; the first column is taken for the label"
        for table in labelled
        if not table.is_named
    ]
    return array_listing(found, source, names).noted(*notes)


def _shape(table: Table) -> tuple[int | None, tuple[int, int, int]]:
    """Return the column of the label, None without one, and rows, columns and channels of a picture."""
    column = table.column(LABEL_NAMES)
    count = len(table.head)
    if column is None and (not table.is_named or not _is_picture(count)) and _is_picture(count - 1):
        column = 0
    count -= column is not None
    if column not in (None, 0, len(table.head) - 1):
        raise KilonetError(f"{table.path}: its label is in column {column + 1}; it belongs into the first or the last")
    if (place := _PLACE.match(table.head[-1 if column != len(table.head) - 1 else -2].strip())) and table.is_named:
        # `28x28` is the last pixel where they are counted from 1.
        rows, columns = int(place[1]), int(place[2])
        for add in (0, 1):
            if (rows + add) * (columns + add) == count:
                return column, (rows + add, columns + add, 1)
    for channels in (1, 3):
        side = round((count / channels) ** 0.5)
        if side * side * channels == count:
            return column, (side, side, channels)
    raise KilonetError(f"{table.path}: {count:,} pixels a line are no square picture in grey or colour")


def _is_picture(count: int) -> bool:
    return any(round((count / channels) ** 0.5) ** 2 * channels == count for channels in (1, 3))


def _read(table: Table, label_first: bool, shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], list[str]]:
    """Return pixels, uint8 (N, channels, rows, columns), and the text of each label."""
    lines = lines_of(table.path)
    if table.is_named:
        next(lines)
    count = shape[0] * shape[1] * shape[2]
    found: list[NDArray[np.uint8]] = []
    labels: list[str] = []
    done, highest, fractions = 0, 0.0, False
    filled = (line for line in lines if line.strip())
    while block := list(islice(filled, _AT_ONCE)):
        cells = [
            line.partition(table.delimiter) if label_first else line.rpartition(table.delimiter)[::-1] for line in block
        ]
        labels += [label.strip().strip('"') for label, _, _ in cells]
        values = _values([rest for _, _, rest in cells], table, count, done + 1 + table.is_named)
        most = float(values.max())
        fractions |= bool((values != np.rint(values)).any())
        if most > 1 >= highest:
            # What came before was taken for fractions of 1.
            found = [before // 128 for before in found]
        highest = max(highest, most)
        found.append(np.rint(values if highest > 1 else 255 * values).astype(np.uint8))
        done += len(block)
        if done * count > MAXIMUM_ELEMENTS:
            raise KilonetError(f"{table.path}: over {MAXIMUM_ELEMENTS:,} pixels")
        check_size((done, count), 1, table.path)
    if not done:
        raise KilonetError(f"{table.path}: no pictures in it")
    if "" in labels:
        raise KilonetError(f"{table.path}: line {labels.index('') + 1 + table.is_named} has no label")
    if highest <= 1 and not fractions:
        # Zeros and ones, which `array_listing` tells of.
        found = [levels // 128 for levels in found]
    images = np.concatenate(found).reshape(done, *shape).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images), labels


def _values(rows: list[str], table: Table, count: int, first: int) -> NDArray[np.float32]:
    """Return the numbers of some lines, float32 (N, count), 0 to 255."""
    try:
        values = np.loadtxt(rows, np.float32, delimiter=table.delimiter, ndmin=2, comments=None, quotechar='"')
    except (ValueError, OverflowError) as error:
        _check_rows(rows, table, count, first)
        reason = str(error).partition("; use")[0]
        raise KilonetError(f"{table.path}, lines {first} to {first + len(rows) - 1}: {reason}") from None
    if values.shape != (len(rows), count) or not ((values >= 0) & (values <= 255)).all():
        _check_rows(rows, table, count, first)
        raise KilonetError(
            f"{table.path}, lines {first} to {first + len(rows) - 1}: not {count:,} pixels from 0 to 255"
        )
    return values


def _check_rows(rows: list[str], table: Table, count: int, first: int) -> None:
    """Find the line that is no picture.

    Raises:
        KilonetError: a line has another number of columns, or a cell that is no pixel.
    """
    for number, row in enumerate(rows, first):
        cells = [cell.strip().strip('"') for cell in row.split(table.delimiter)]
        if len(cells) != count:
            raise KilonetError(f"{table.path}: line {number} has {len(cells) + 1:,} columns, not {count + 1:,}")
        for cell in cells:
            try:
                level = float(cell)
            except ValueError:
                level = math.nan
            if not 0 <= level <= 255:
                raise KilonetError(f"{table.path}: line {number}: '{cell[:20]}' is no number from 0 to 255")
