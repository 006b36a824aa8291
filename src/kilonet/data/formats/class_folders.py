"""Image files in folders named after their classes.

They may lie in parts, `train`, `val` and `test`, whose folders have one of the usual names in any case.
"""

from collections.abc import Iterable
from pathlib import Path

from kilonet.data.image_folders import list_files, name_files, subfolders, why_not_read
from kilonet.data.parts import Listing, PartName, labelled_parts, part_of
from kilonet.utils.errors import KilonetError

Skipped = list[tuple[Path, str]]
"""Files that are left out, each with the reason."""


def part_folders(folder: Path, *, flat: bool = False) -> dict[PartName, Path]:
    """Return the folders of the parts of a data set; none if it is not split.

    A folder of such a name without folders of classes in it is a class itself, unless the parts may be `flat`.

    Raises:
        KilonetError: two folders are the same part, or a folder cannot be read.
    """
    found: dict[PartName, Path] = {}
    for path in subfolders(folder):
        part = part_of(path.name)
        if part is None or not (flat or subfolders(path) or not list_files(path).images):
            continue
        if part in found:
            raise KilonetError(f"{folder}: '{found[part].name}' and '{path.name}' are the same part; remove one")
        found[part] = path
    return found


def list_class_folders(folder: Path) -> Listing:
    """List image files in folders named after their classes.

    Raises:
        KilonetError: there are none, a class is without images, or names will not do for classes.
    """
    skipped: Skipped = []
    parts = part_folders(folder)
    places = {**parts} or {"all": folder}
    found: dict[PartName, list[tuple[Path, str]]] = {}
    for part, place in places.items():
        found[part] = _labelled_by_folder(place, skipped)
    if parts:
        skip_strays(folder, set(parts.values()), skipped)
    labelled, names = labelled_parts(found, folder)
    return Listing(labelled, names, tuple(skipped))


def _labelled_by_folder(folder: Path, skipped: Skipped) -> list[tuple[Path, str]]:
    classes = subfolders(folder)
    if not classes:
        raise KilonetError(f"{folder}: no class-named folders in it")
    strays = list_files(folder, deep=False)
    skipped += [(path, f"{path}: in no class") for path in strays.images]
    skipped += unread(strays.others)
    pairs: list[tuple[Path, str]] = []
    for path in classes:
        files = list_files(path)
        skipped += unread(files.others)
        if not files.images:
            rest = f"; {name_files(files.others)} not read" if files.others else ""
            raise KilonetError(f"{folder}: the class '{path.name}' has no images{rest}; add some, or remove its folder")
        pairs += [(file, path.name) for file in files.images]
    return pairs


def skip_strays(folder: Path, taken: set[Path], skipped: Skipped) -> None:
    """Add what lies beside the folders of the parts to the skipped files."""
    beside = [list_files(folder, deep=False), *(list_files(path) for path in subfolders(folder) if path not in taken)]
    for files in beside:
        skipped += [(path, f"{path}: in no part") for path in files.images]
        skipped += unread(files.others)


def unread(paths: Iterable[Path]) -> Skipped:
    """Return files that are not read, each with the reason."""
    return [(path, why_not_read(path)) for path in paths]
