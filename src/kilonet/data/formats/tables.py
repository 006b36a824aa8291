"""CSV files: what the first line says of the columns, and lines of bounded length."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kilonet.data.image_folders import is_hidden
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import open_regular

FILE_NAMES = frozenset(
    [
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "path",
        "image",
        "image_path",
        "image_id",
        "image_name",
        "img",
        "id",
    ]
)
LABEL_NAMES = frozenset(["label", "labels", "class", "class_name", "target", "category"])
PART_NAMES = frozenset(["split", "set", "subset", "partition", "part", "usage", "data_set"])
_PIXEL_NAME = re.compile(r"(?:pixel|px|p|x|v)?[-_. ]?\d+|\d+x\d+(?:\.\d+)?", re.IGNORECASE)
MAXIMUM_COLUMNS = 200_000
LONGEST_LINE = 1 << 20
MAXIMUM_BYTES = 4 << 30
_FEWEST_PIXELS = 16


@dataclass(frozen=True)
class Table:
    """A CSV file, as its first line tells."""

    path: Path
    delimiter: str
    head: tuple[str, ...]
    """The first line's cells."""
    is_named: bool
    """Whether the first line names the columns."""

    def column(self, names: frozenset[str]) -> int | None:
        """Return the first column with one of some names, in any case, or None."""
        return next(iter(self.columns(names)), None)

    def columns(self, names: frozenset[str]) -> list[int]:
        """Return all columns with one of some names, in any case."""
        if not self.is_named:
            return []
        plain = [cell.strip().lower().replace(" ", "_").replace("-", "_") for cell in self.head]
        return [place for place, cell in enumerate(plain) if cell in names]

    @property
    def has_pixels(self) -> bool:
        """Whether its columns are pixels: numbered names, or numbers where there are no names."""
        numbered = sum(_PIXEL_NAME.fullmatch(cell.strip()) is not None for cell in self.head)
        return len(self.head) > _FEWEST_PIXELS and numbered >= len(self.head) - 2

    @property
    def is_manifest(self) -> bool:
        """Whether it names files and their labels."""
        return not self.has_pixels and self.column(FILE_NAMES) is not None and self.column(LABEL_NAMES) is not None


def open_table(path: Path) -> Table:
    """Read the first line of a CSV file.

    Raises:
        KilonetError: it cannot be read, is empty, or is no text.
    """
    first = next(lines_of(path), None)
    if first is None or not first.strip():
        raise KilonetError(f"{path}: an empty file, not a table")
    delimiter = max(",;\t", key=first.count)
    try:
        head = next(csv.reader([first], delimiter=delimiter))
    except csv.Error as error:
        raise KilonetError(f"{path}: line 1: {error}") from None
    if len(head) > MAXIMUM_COLUMNS:
        raise KilonetError(f"{path}: {len(head):,} columns, over {MAXIMUM_COLUMNS:,}")
    numbers = all(re.fullmatch(r"\s*-?\d+(\.\d*)?\s*", cell) for cell in head[1:-1] or head)
    return Table(path, delimiter, tuple(head), not numbers)


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a text file in UTF-8, without their ends, which may be those of Unix, Windows or old Macs.

    Raises:
        KilonetError: it cannot be read, is no text, is too large, or a line is too long.
    """
    left = MAXIMUM_BYTES
    try:
        with open_regular(path) as stream:
            number = 0
            while line := stream.readline(LONGEST_LINE + 1):
                number += 1
                left -= len(line)
                if len(line) > LONGEST_LINE or left < 0:
                    raise KilonetError(
                        f"{path}: line {number} is over {LONGEST_LINE:,} bytes, or the file is too large"
                    )
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if "\0" in text:
                    raise KilonetError(f"{path}: line {number} has a NUL; a table is text")
                yield from text.rstrip("\r\n").split("\r")
    except UnicodeDecodeError:
        raise KilonetError(f"{path}: not text in UTF-8; save the table again as CSV in UTF-8") from None
    except OSError as error:
        raise KilonetError(f"{path}: cannot be read: {error.strerror or error}") from None


def csv_files(folder: Path) -> list[Path]:
    """Return the CSV and TSV files in a folder, sorted."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (".csv", ".tsv") and not is_hidden(path.name) and path.is_file()
    )
