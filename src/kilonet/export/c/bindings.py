"""Compile the C form to a shared library for this machine and call it from Python."""

import ctypes
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kilonet.export.c.codegen import LIBRARY_FILES
from kilonet.export.c.prefix import DEFAULT_PREFIX, file_name
from kilonet.network.operations import Shape, check_pixels
from kilonet.utils.compilers import find_compiler, run_compiler
from kilonet.utils.errors import CannotRunHere, KilonetError

FLAGS = ("-std=c99", "-O3", "-fPIC", "-shared")


class CompiledC:
    """The compiled C of an exported folder. Its working memory is static, so only one thread may call it at a time."""

    def __init__(self, folder: Path, input_shape: Shape, classes: int, prefix: str = DEFAULT_PREFIX) -> None:
        """Compile the folder's C and load it. This runs code from that folder: `verify` gives it one of its own.

        Raises:
            CannotRunHere: there is no compiler.
            KilonetError: it fails.
        """
        self._input_shape = input_shape
        self._classes = classes
        try:
            compiler = find_compiler("C", "CC", ("cc", "gcc", "clang"))
        except KilonetError as error:
            raise CannotRunHere(str(error)) from None
        # The library stays loaded after its file is deleted.
        with tempfile.TemporaryDirectory(prefix="kilonet-") as name:
            library = Path(name) / "model.so"
            command = [compiler, *FLAGS, *_processor_flags(compiler), "-o", str(library)]
            command += [file_name(file, prefix) for file in LIBRARY_FILES]
            run_compiler(command, folder, makes=library)
            self._classify = getattr(ctypes.CDLL(str(library)), f"{prefix}_classify")
        self._classify.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._classify.restype = None

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Return logits: uint8 (N, channels, rows, columns) to int32 (N, classes)."""
        check_pixels(pixels, self._input_shape)
        images = np.ascontiguousarray(pixels)
        result = np.zeros((len(images), self._classes), np.int32)
        image, row = images.ctypes.data, result.ctypes.data
        for _ in range(len(images)):
            self._classify(image, row)
            image += images.strides[0]
            row += result.strides[0]
        return result


def _processor_flags(compiler: str) -> list[str]:
    """Return the flag for this processor's instructions, if the compiler knows it."""
    try:
        run_compiler([compiler, "-march=native", "-E", "-x", "c", os.devnull])
    except KilonetError:
        return []
    return ["-march=native"]
