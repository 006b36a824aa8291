"""The folder of an export: what it holds already, and how it is written whole or not at all.

A new folder is written under a temporary name beside its place and renamed once. Into a folder that is there, which may
hold other forms, files are moved from a temporary folder inside it: first the manifest, so that an export that was
killed in between is known as one of this model, and the same command completes it.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from kilonet.export.c.prefix import DEFAULT_PREFIX, original_name, with_prefix
from kilonet.export.manifest import MANIFEST_FILE, Manifest, read_manifest
from kilonet.models.model import MAXIMUM_BYTES, MODEL_FILE, Model
from kilonet.utils.errors import InUse, KilonetError
from kilonet.utils.files import flush_folder, read_bounded

_LISTED = 5
"""The most files that a message names."""
_HEAD = 4096
_MARKS = {
    "model.h": b"/* Written by kilonet export",
    "model.c": b"/* Written by kilonet export",
    "main.c": b"/* Classifies a binary PGM image (P5, grey levels up to 255, light ink on dark)",
    "Makefile": b"# Builds the example for this machine. A microcontroller needs only ",
    "kilonet_runtime.h": b"docs/INTEGER.md of Kilonet",
    "kilonet_runtime.c": b"/* Each pixel of the image goes through as many operations as possible",
    "kilonet_kernels.h": b"#ifndef KILONET_KERNELS_H",
    "kilonet_vectors.c": b"/* Executes the network with vector instructions",
    "kilonet_answer.c": b"/* Turns logits into the answer of kilonet_top",
    "kilonet_selftest.c": b"/* Tests the network where it runs",
    "kilonet_resize.h": b"/* Scales a camera's frame to the pixels of the network",
    "kilonet_resize.c": b"/* See kilonet_resize.h.",
    "index.html": b'<meta name="generator" content="Kilonet ',
    "model.onnx": b"\x12\x07kilonet",
    "model-int8.onnx": b"\x12\x07kilonet",
}
"""What the head of every file that an export writes holds, in every version of Kilonet; C has the default prefix."""
_TEMPORARY = re.compile(rf"\.({'|'.join(map(re.escape, (*_MARKS, MODEL_FILE, MANIFEST_FILE)))})\.[a-z0-9_]{{8}}")
"""The name of a temporary file of an earlier version, such as `.main.c.vgo50huk`."""


class ExportFolder:
    """The folder that an export goes to, held by this process until `open_folder` ends."""

    def __init__(self, path: Path, held: Manifest | None, home: Path, prefix: str) -> None:
        self.path = path
        self.held = held
        """What the folder holds already; None if nothing or only what a killed export left."""
        self._staged = home / f"{prefix}{secrets.token_hex(4)}"

    def publish(self, files: Mapping[str, bytes]) -> None:
        """Write files, the manifest among them, and then put them in their place.

        Raises:
            KilonetError: a file cannot be written, for example on a full disk; the folder is unchanged.
        """
        name = ""
        try:
            self._staged.mkdir()
            for name, content in files.items():
                (self._staged / name).parent.mkdir(parents=True, exist_ok=True)
                _write_through(self._staged / name, content)
            if self.path.is_dir():
                for name in sorted(files, key=lambda name: name != MANIFEST_FILE):
                    (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                    (self._staged / name).replace(self.path / name)
                _flush_folders(self.path, files)
            else:
                _flush_folders(self._staged, files)
                self._staged.rename(self.path)
                flush_folder(self.path.parent)
        except OSError as error:
            raise KilonetError(f"{self.path / name} cannot be written: {error.strerror}") from None
        finally:
            shutil.rmtree(self._staged, ignore_errors=True)


@contextlib.contextmanager
def open_folder(path: Path, model: Model) -> Iterator[ExportFolder]:
    """Hold the folder of an export, without what a killed export left; nothing in it changes before `publish`.

    Args:
        path: the folder; it may be missing.
        model: the model that is exported.

    Raises:
        InUse: another process exports to the same folder.
        KilonetError: the folder cannot be made, or holds another model's export or other files.
    """
    # Beside a new folder, but inside one that is there: it may be a mount point, or the current folder.
    home, prefix = (path, ".export-") if path.is_dir() else (path.parent, f".{path.name}.export-")
    try:
        home.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(0, "it is a file")
        lock = FileLock(home / f"{prefix}lock")
        lock.acquire(blocking=False)
    except Timeout:
        raise InUse(f"{path} is in use: another process exports to it") from None
    except OSError as error:
        raise KilonetError(f"{path} cannot be made: {error.strerror}") from None
    try:
        _clean(home, prefix)
        yield ExportFolder(path, _held(path, model), home, prefix)
    finally:
        with contextlib.suppress(OSError):
            (home / f"{prefix}lock").unlink()
        lock.release()


def _clean(home: Path, prefix: str) -> None:
    """Remove what killed exports left, those of earlier versions too, which wrote file by file."""
    for left in home.iterdir():
        if left.name.startswith(prefix) and left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        elif prefix == ".export-" and _TEMPORARY.fullmatch(left.name) and left.is_file():
            left.unlink()


def _held(path: Path, model: Model) -> Manifest | None:
    """Return the manifest of a folder, or None if an export may begin in it.

    Raises:
        KilonetError: the folder holds another model's export, or files that no export wrote.
    """
    if not path.is_dir():
        return None
    if (path / MANIFEST_FILE).is_file():
        manifest = read_manifest(path)
        if manifest.model_sha256 != model.sha256:
            raise KilonetError(f"{path} holds another model's export; choose another folder or empty it")
        return manifest
    others = sorted(file.name for file in path.iterdir() if not _is_own(file, model))
    if others:
        listed = ", ".join([*others[:_LISTED], *(["..."] if len(others) > _LISTED else [])])
        raise KilonetError(
            f"{path}: no {MANIFEST_FILE} in it, but files that 'kilonet export' did not write ({listed}); "
            "choose another folder"
        )
    return None


def _is_own(file: Path, model: Model) -> bool:
    """Return whether an export of this model has written a file, or may overwrite it without a loss."""
    if file.name == ".export-lock":
        return True
    if not file.is_file():
        return False
    if file.name == MODEL_FILE:
        content = read_bounded(file, MAXIMUM_BYTES, "a model file")
        return hashlib.sha256(content).hexdigest() == model.sha256
    name, prefix = original_name(file.name)
    if name not in _MARKS:
        return False
    mark = _MARKS[name]
    if prefix != DEFAULT_PREFIX:
        mark = with_prefix(mark.decode(), prefix).encode()
    with file.open("rb") as stream:
        return mark in stream.read(_HEAD)


def _flush_folders(path: Path, names: Iterable[str]) -> None:
    """Flush the folders of files to the disk, the deepest first."""
    for folder in sorted({parent for name in names for parent in Path(name).parents}, reverse=True):
        flush_folder(path / folder)


def _write_through(path: Path, content: bytes) -> None:
    """Write a new file and flush it to the disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
