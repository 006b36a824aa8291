"""`list_data` finds what a data source holds, whatever its format, without decoding a picture."""

from collections.abc import Iterable
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

from kilonet.data.formats.class_folders import (
    list_class_folders,
    part_folders,
)
from kilonet.data.formats.file_names import inferred_pattern, list_named_files, suggested_pattern
from kilonet.data.formats.idx_sets import idx_set_of, list_idx_folder
from kilonet.data.formats.manifests import first_labels, list_manifests
from kilonet.data.formats.npz import list_npz, npz_files
from kilonet.data.formats.parquet import list_parquet, parquet_files
from kilonet.data.formats.pixel_tables import list_pixel_tables
from kilonet.data.formats.tables import Table, csv_files, open_table
from kilonet.data.image_folders import list_files, subfolders
from kilonet.data.parts import ImageArray, ImageFiles, Listing, Part, PartName, part_of
from kilonet.utils.errors import KilonetError

__all__ = ["ImageArray", "ImageFiles", "Listing", "Part", "PartName", "list_data"]

MNIST_SHA256 = {
    "train-images.idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels.idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images.idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels.idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the published files, unpacked."""

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""The folder of Debian's package dataset-fashion-mnist."""
FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

PACKAGED = ("mnist", "fashion-mnist")
"""Names of data sets that are no paths."""

FORMATS = "'mnist', 'fashion-mnist', a folder of images, IDX, NPZ, CSV or Parquet files, or one such file"
"""What a data source is, in words."""


def list_data(source: str, label_pattern: str | None = None) -> Listing:
    """Find what a data source holds.

    Args:
        source: `mnist`; `fashion-mnist`; or the path of a folder or a file of a format in docs/DATA.md.
        label_pattern: a regular expression whose group is the label in the name of each image file.

    Raises:
        KilonetError: there is no such source, it is of no format that is read, a file is damaged, or a class is empty.
    """
    if not source:
        # The path of an empty name is the current folder.
        raise KilonetError(f"no data '': an empty name, not {FORMATS}")
    if label_pattern is not None:
        folder = Path(source)
        if not folder.is_dir():
            raise KilonetError(f"--label-pattern needs a folder of image files, but '{source}' is none")
        return list_named_files(folder, label_pattern)
    if source == "mnist":
        with as_file(files("kilonet.data") / "mnist") as packaged:
            return list_idx_folder(packaged, "", MNIST_SHA256)
    if source == "fashion-mnist":
        return replace(_fashion(), names=FASHION_NAMES, are_numbers=True)
    path = Path(source)
    if found := idx_set_of(path):
        return list_idx_folder(*found)
    if path.is_dir():
        return _list_folder(path)
    if path.is_file():
        return _list_file(path)
    raise KilonetError(f"no data '{source}': not {FORMATS}")


def _fashion() -> Listing:
    if not FASHION.is_dir():
        raise KilonetError(
            "no Fashion-MNIST here; 'apt install dataset-fashion-mnist', or name a folder with its IDX files as --data"
        )
    return list_idx_folder(FASHION)


def _list_file(path: Path) -> Listing:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return list_npz([path], path)
    if suffix == ".parquet":
        return list_parquet([path], path)
    if suffix in (".csv", ".tsv"):
        table = open_table(path)
        if table.has_pixels:
            return list_pixel_tables([table], path)
        if table.is_manifest:
            return list_manifests([table], path.parent, whole=False)
        raise KilonetError(f"{path}: columns 'file' and 'label' are read, or 'label' and the pixels; it has neither")
    raise KilonetError(f"{path}: a file of no format that is read; the data are {FORMATS}")


def _open_tables(paths: Iterable[Path]) -> tuple[list[Table], list[KilonetError]]:
    """Return the tables, and why others cannot be read, which need not matter beside folders of classes."""
    tables: list[Table] = []
    errors: list[KilonetError] = []
    for path in paths:
        try:
            tables.append(open_table(path))
        except KilonetError as error:
            errors.append(error)
    return tables, errors


def _list_folder(folder: Path) -> Listing:  # noqa: PLR0911 - one for each format.
    tables, unread = _open_tables(csv_files(folder))
    manifests = [table for table in tables if table.is_manifest]
    if _has_class_folders(folder) and not (manifests and _are_no_classes(folder, manifests)):
        return list_class_folders(folder).noted(*(f"{error}; it is left out" for error in unread))
    if unread:
        raise unread[0]
    if parquet := parquet_files(folder):
        return list_parquet(parquet, folder)
    if npz := npz_files(folder):
        return list_npz(npz, folder)
    if manifests:
        if len(manifests) > 1 and len({part_of(table.path.stem) for table in manifests} - {None}) < len(manifests):
            names = ", ".join(table.path.name for table in manifests)
            raise KilonetError(f"{folder}: several tables of files, {names}; name one as --data")
        return list_manifests(manifests, folder, whole=True)
    if found := list_files(folder).images:
        return _list_by_names(folder, [path.name for path in found])
    pixels = [table for table in tables if table.has_pixels]
    if pixels:
        others = [f"{table.path}: has no pixels; it is left out" for table in tables if not table.has_pixels]
        return list_pixel_tables(pixels, folder).noted(*others)
    if subfolders(folder):
        return list_class_folders(folder)
    raise KilonetError(f"{folder}: no data in it: neither images nor IDX, NPZ, CSV or Parquet files")


def _list_by_names(folder: Path, names: list[str]) -> Listing:
    pattern = inferred_pattern(names)
    if pattern is None:
        # The first name in order may be an odd one.
        example = names[len(names) // 2]
        raise KilonetError(
            f"{folder}: images without labels; put them into folders named after their classes, or say where the label "
            f"is in a name such as {example}: --label-pattern '{suggested_pattern(example)}'"
        )
    note = f"{folder}: the label is taken from each file's name, as by --label-pattern '{pattern}'"
    return list_named_files(folder, pattern).noted(note)


def _are_no_classes(folder: Path, manifests: list[Table]) -> bool:
    """Return whether folders have other names than the labels in tables beside them, so that they are no classes."""
    places = [folder, *part_folders(folder).values()]
    names = {path.name for place in places for path in subfolders(place)}
    return not any(names & set(first_labels(table)) for table in manifests)


def _has_class_folders(folder: Path) -> bool:
    """Return whether images lie in folders named after classes; folders of parts with images alone are none."""
    if part_folders(folder):
        return True
    return any(part_of(path.name) is None and list_files(path).images for path in subfolders(folder))
