"""Manifests: CSV files with a line for each image file, its label and, if they say so, its part."""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from kilonet.data.formats.class_folders import Skipped, unread
from kilonet.data.formats.tables import FILE_NAMES, LABEL_NAMES, PART_NAMES, Table, lines_of
from kilonet.data.image_folders import FolderFiles, list_files
from kilonet.data.parts import PART_WORDS, Listing, PartName, labelled_parts, part_of
from kilonet.utils.errors import KilonetError

_FIRST = 1000
MAXIMUM_LINES = 5_000_000


def list_manifests(tables: list[Table], folder: Path, *, whole: bool) -> Listing:
    """List the image files that manifests name.

    A file is found by its path, which may be one from the folder of the table; else by its name, or its name without a
    suffix, with the name of its folder if a path has one, if just one image in the folder has it.

    Args:
        tables: the manifests; several are parts, which their names say.
        folder: the folder of the tables.
        whole: whether images that no table names are listed as skipped.

    Raises:
        KilonetError: a line has no label or another part, a file has two labels, or none of the files is there.
    """
    files = list_files(folder)
    index = _Index(files)
    skipped: Skipped = []
    # By the file that a path leads to: several may lead to one.
    labels: dict[Path, tuple[str, PartName]] = {}
    found: dict[PartName, list[tuple[Path, str]]] = {}
    for table in tables:
        own = part_of(table.path.stem) if len(tables) > 1 else None
        for name, label, part in _rows(table, own):
            path = index.find(table.path.parent, name)
            if path is None:
                skipped.append(
                    (table.path.parent / name, f"{table.path.parent / name}: named in {table.path.name}, but not there")
                )
                continue
            file = path.resolve()
            if file not in labels:
                labels[file] = label, part
                found.setdefault(part, []).append((path, label))
            elif labels[file] != (label, part):
                raise KilonetError(f"{table.path}: {name} has two labels or parts: '{labels[file][0]}' and '{label}'")
    if not found and not skipped:
        raise KilonetError(f"{tables[0].path}: it names no image files")
    if not found:
        raise KilonetError(
            f"{tables[0].path}: none of the image files that it names is there; {len(skipped):,} are missing"
        )
    if len(found) > 1 and "all" in found:
        raise KilonetError(f"{tables[0].path}: only some lines have a part; give all one, or none")
    if whole:
        rest = [path for path in files.images if path.resolve() not in labels]
        skipped += [(path, f"{path}: in no table") for path in rest]
        skipped += unread(files.others)
    parts, names = labelled_parts(found, tables[0].path)
    return Listing(parts, names, tuple(skipped)).noted(*_columns_left_out(tables))


def _columns_left_out(tables: Sequence[Table]) -> Iterator[str]:
    """Yield a note for each table with several columns of which any could be the file, the label or the part."""
    for table in tables:
        for names in (FILE_NAMES, LABEL_NAMES, PART_NAMES):
            found = [table.head[place].strip() for place in table.columns(names)]
            if len(found) > 1:
                yield f"{table.path}: the column '{found[0]}' is read, '{', '.join(found[1:])}' is left out"


def first_labels(table: Table) -> list[str]:
    """Return the labels in the first lines of a manifest.

    Raises:
        KilonetError: a line has none.
    """
    return [label for _, label, _ in islice(_rows(table, None), _FIRST)]


class _Index:
    """Image files of a folder by name, with the folder or without, and without suffix, where just one has it."""

    def __init__(self, files: FolderFiles) -> None:
        self._found: dict[tuple[str, ...], Path | None] = {}
        for path in files.images:
            for name in {path.name, path.stem}:
                for key in ((name,), (path.parent.name, name)):
                    self._found[key] = None if key in self._found else path

    def find(self, folder: Path, name: str) -> Path | None:
        path = folder / name
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):
            return None
        return self._found.get(Path(name.replace("\\", "/")).parts[-2:])


def _rows(table: Table, own: PartName | None) -> Iterator[tuple[str, str, PartName]]:
    """Yield the file, the label and the part of each line."""
    file, label, split = (table.column(names) for names in (FILE_NAMES, LABEL_NAMES, PART_NAMES))
    if file is None or label is None:
        raise KilonetError(f"{table.path}: no columns 'file' and 'label' in it")
    rows = csv.reader(lines_of(table.path), delimiter=table.delimiter)
    try:
        next(rows)
        for number, row in enumerate(rows, 2):
            if not any(row):
                continue
            if number > MAXIMUM_LINES:
                raise KilonetError(f"{table.path}: over {MAXIMUM_LINES:,} lines")
            if len(row) <= max(file, label, split or 0) or not row[file].strip() or not row[label].strip():
                raise KilonetError(f"{table.path}: line {number} has no file or no label")
            part = own or "all"
            if split is not None:
                word = row[split].strip().lower()
                if word not in PART_WORDS:
                    raise KilonetError(f"{table.path}: line {number}: '{word}' is no part; train, val and test are")
                part = PART_WORDS[word]
            yield row[file].strip(), row[label].strip(), part
    except csv.Error as error:
        raise KilonetError(f"{table.path}: line {rows.line_num}: {error}") from None
