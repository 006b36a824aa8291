"""The C form as this machine runs it: compiled to a library and called from Python."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kilonet.export.c.codegen import LIBRARY_FILES
from kilonet.network.operations import Shape, check_pixels
from kilonet.utils.errors import KilonetError

FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O3", "-fPIC", "-shared")
_LONGEST_COMPILATION = 300


class CompiledC:
    """The library of an exported folder. It keeps its working memory in static variables: one call at a time."""

    def __init__(self, folder: Path, input_shape: Shape, classes: int) -> None:
        """Compile the folder's C and load it: this runs code from that folder.

        Raises:
            KilonetError: no compiler, or one that fails; one line.
        """
        self._input_shape = input_shape
        self._classes = classes
        compiler = find_compiler()
        # A loaded library needs its file no more.
        with tempfile.TemporaryDirectory(prefix="kilonet-") as name:
            library = Path(name) / "model.so"
            run([compiler, *FLAGS, *_processor_flags(compiler), "-o", str(library), *LIBRARY_FILES], folder)
            self._classify = ctypes.CDLL(str(library)).kilonet_classify
        self._classify.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._classify.restype = None

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Classify images one after another: uint8 (N, channels, rows, columns) to int32 (N, classes)."""
        check_pixels(pixels, self._input_shape)
        images = np.ascontiguousarray(pixels)
        result = np.zeros((len(images), self._classes), np.int32)
        image, row = images.ctypes.data, result.ctypes.data
        for _ in range(len(images)):
            self._classify(image, row)
            image += images.strides[0]
            row += result.strides[0]
        return result


def find_compiler() -> str:
    """Return the path of the C compiler: that of the environment's CC, or cc, gcc or clang.

    Raises:
        KilonetError: there is none.
    """
    wanted = os.environ.get("CC")
    for name in [wanted] if wanted else ["cc", "gcc", "clang"]:
        if path := shutil.which(name):
            return path
    raise KilonetError(f"no C compiler found ({wanted or 'cc, gcc or clang'}); install one or set CC")


def _processor_flags(compiler: str) -> list[str]:
    """Let the compiler use all of this processor, where it knows how to."""
    try:
        run([compiler, "-march=native", "-E", "-x", "c", os.devnull], Path())
    except KilonetError:
        return []
    return ["-march=native"]


def run(command: Sequence[str], folder: Path) -> str:
    """Run a compiler or the like in a folder and return what it prints.

    Raises:
        KilonetError: it cannot be run or fails; says its first error.
    """
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, capture_output=True, text=True, timeout=_LONGEST_COMPILATION, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KilonetError(f"{command[0]} cannot be run: {error}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise KilonetError(f"{command[0]} failed in {folder}: {first.strip()}")
    return done.stdout
