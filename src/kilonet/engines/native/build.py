"""Compiles the native trainer of a network on first use, and keeps the library in the user's cache folder.

The trainer, which is the same for all networks, is compiled only once, together with the first network's kernels.

Environment variables: CXX names the compiler, KILONET_CACHE the cache folder, KILONET_NATIVE_ISA the instruction set
(avx512, avx2 or generic; by default all instructions of this processor).
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import platformdirs
import torch

from kilonet.engines.native import codegen
from kilonet.network.section import ModelSection
from kilonet.utils.compilers import find_compiler, run_compiler
from kilonet.utils.errors import KilonetError

_FLAGS = "-std=c++20 -O3 -fno-strict-aliasing -ffp-contract=fast -fno-math-errno -fno-trapping-math -w -pthread"
_LIBRARY_FLAGS = ["-fPIC"]
_INSTRUCTION_SETS = {
    "avx512": "-march=x86-64-v4 -mtune=native",
    "avx2": "-march=x86-64-v3 -mtune=native",
    "generic": "",
}
_INSTRUCTIONS = {
    "avx512": ("avx512_f", "avx512_bw", "avx512_cd", "avx512_dq", "avx512_vl"),
    "avx2": ("avx2", "fma3", "bmi2"),
    "generic": (),
}
"""The capabilities that each instruction set needs, named as in `torch.cpu.get_capabilities`."""
_SOURCES = (
    "vectors.hpp",
    "bfloat16.hpp",
    "convolution.hpp",
    "network.hpp",
    "elementwise.hpp",
    "thread_pool.hpp",
    "trainer.hpp",
    "trainer.cpp",
)


def multiplies_bfloat16() -> bool:
    """Return whether the native engine can use this processor's instructions that multiply bfloat16."""
    restricted = os.environ.get("KILONET_NATIVE_ISA")
    return not restricted and bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def load_library(model: ModelSection, precision: str) -> ctypes.CDLL:
    """Return the library of a network, compiled now if the cache does not hold it.

    Args:
        model: the network.
        precision: of the convolutions of training, `bfloat16` or `float32`.

    Raises:
        KilonetError: no compiler, a compiler that fails, or a cache folder that others can write.
    """
    path = cache_folder() / f"{library_name(model, precision)}.so"
    if not path.exists():
        _compile(_compiler(), _library_flags(precision), codegen.source(model), path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise KilonetError(f"the compiled native engine cannot be loaded: {error}") from None


def library_name(model: ModelSection, precision: str) -> str:
    """Return a SHA-256 digest of everything that decides what the network's library computes.

    Raises:
        KilonetError: no compiler.
    """
    return _fingerprint(codegen.source(model), _compiler(), _library_flags(precision))


def cache_folder() -> Path:
    """Return the folder of compiled libraries, made if it is missing.

    Raises:
        KilonetError: the folder cannot be made, or others could put a library into it.
    """
    base = os.environ.get("KILONET_CACHE") or platformdirs.user_cache_dir("kilonet")
    folder = Path(base) / "native"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        status = folder.lstat()
    except OSError as error:
        raise KilonetError(f"the cache folder {folder} cannot be made: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise KilonetError(
            f"the cache folder {folder} must be a folder of your own with mode 0700; remove it or set KILONET_CACHE"
        )
    return folder


def _compiler() -> str:
    return find_compiler("C++", "CXX", ("c++", "g++", "clang++"))


def _library_flags(precision: str) -> list[str]:
    return [*_flags(precision), *_LIBRARY_FLAGS]


def _flags(precision: str) -> list[str]:
    macros = ["-DKILONET_BFLOAT16"] if precision == "bfloat16" else []
    return [*shlex.split(_FLAGS), *macros, *shlex.split(_instruction_set_flags())]


def _instruction_set_flags() -> str:
    wanted = os.environ.get("KILONET_NATIVE_ISA")
    if not wanted:
        return "-march=native" if platform.machine().lower() in ("x86_64", "amd64") else "-mcpu=native"
    if wanted not in _INSTRUCTION_SETS:
        raise KilonetError(f"KILONET_NATIVE_ISA = '{wanted}' is none of {', '.join(_INSTRUCTION_SETS)}")
    capabilities = torch.cpu.get_capabilities()
    if not all(capabilities.get(name, False) for name in _INSTRUCTIONS[wanted]):
        raise KilonetError(f"KILONET_NATIVE_ISA = '{wanted}', but this processor does not have these instructions")
    return _INSTRUCTION_SETS[wanted]


def _fingerprint(source: str, compiler: str, flags: list[str]) -> str:
    digest = hashlib.sha256()
    parts = [source, *(_read(name) for name in _SOURCES), compiler, _version(compiler), *flags, _processor()]
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _read(name: str) -> str:
    return (files("kilonet.engines.native") / name).read_text(encoding="utf-8")


@functools.cache
def _version(compiler: str) -> str:
    return run_compiler([compiler, "--version"])


@functools.cache
def _processor() -> str:
    """Return the processor's name and instructions: a library for one processor may crash on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    identifying = {line for line in lines if line.split("\t")[0] in ("model name", "flags", "Features", "CPU part")}
    return "\n".join([platform.machine(), platform.processor(), *sorted(identifying)])


def compile_program(model: ModelSection, precision: str, main: Path, folder: Path) -> Path:
    """Compile a program that includes the network's `network.cpp`, with the library's flags, and return its path.

    Raises:
        KilonetError: no compiler, or a compiler that fails.
    """
    _write_sources(codegen.source(model), folder)
    program = folder / main.stem
    run_compiler([_compiler(), *_flags(precision), f"-I{folder}", "-o", str(program), str(main)])
    return program


def _compile(compiler: str, flags: list[str], source: str, path: Path) -> None:
    """Compile in a temporary folder and rename the results into place, so that processes can compile at once."""
    trainer = path.parent / f"{_fingerprint('', compiler, flags)}.o"
    with tempfile.TemporaryDirectory(dir=path.parent) as name, ThreadPoolExecutor() as threads:
        folder = Path(name)
        _write_sources(source, folder)
        missing = [folder / "network.o"] + ([] if trainer.exists() else [folder / "trainer.o"])
        command = [compiler, *flags, "-c"]
        for job in [threads.submit(run_compiler, [*command, one.with_suffix(".cpp").name], folder) for one in missing]:
            job.result()
        for made in missing[1:]:
            made.replace(trainer)
        run_compiler([compiler, *flags, "-shared", "-o", "network.so", "network.o", str(trainer)], folder)
        (folder / "network.so").replace(path)


def _write_sources(source: str, folder: Path) -> None:
    for file in _SOURCES:
        (folder / file).write_text(_read(file), encoding="utf-8")
    (folder / "network.cpp").write_text(source, encoding="utf-8")
