"""Compiles the native trainer of a network on first use, and keeps the library in the user's cache folder.

The trainer, the same for all networks and precisions, is compiled only once, together with the first network's kernels.
A library is read from the cache, checked, and loaded from a copy that no other process has; one that is damaged is
compiled again.

Environment variables: CXX names the compiler, KILONET_CACHE the cache folder, KILONET_NATIVE_ISA the instruction set
(avx512, avx2 or generic; by default all instructions of this processor).
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import torch

from kilonet.engines.native import codegen
from kilonet.engines.native.bindings import declare_functions
from kilonet.engines.native.cache import cache_folder, read_verified, store, work_folder
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
    "kernels.hpp",
    "network.hpp",
    "augmentation.hpp",
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
    """Return the library of a network with its functions declared, compiled now if the cache does not hold it.

    Args:
        model: the network.
        precision: of the convolutions of training, `bfloat16` or `float32`.

    Raises:
        KilonetError: no compiler, a compiler that fails, a cache folder that others can write, or a network with an
            operation that the engine does not have.
    """
    return _load_once(cache_folder(), library_name(model, precision), codegen.source(model, precision))


@functools.cache
def _load_once(cache: Path, name: str, source: str) -> ctypes.CDLL:
    """Load a library, once a process, as each copy of it stays loaded."""
    path = cache / f"{name}.so"
    cached = read_verified(path)
    if cached is not None:
        # For example of another system that shares this home folder.
        with contextlib.suppress(KilonetError):
            return _load(cached, cache)
    compiled = _compile(_compiler(), _library_flags(), source, cache)
    library = _load(compiled, cache)
    store(compiled, path)
    return library


def _load(library: bytes, cache: Path) -> ctypes.CDLL:
    """Load a library from a copy of its own, which stays loaded after its file is removed."""
    with work_folder(cache) as folder:
        copy = folder / "network.so"
        copy.write_bytes(library)
        try:
            return declare_functions(ctypes.CDLL(str(copy)))
        except OSError as error:
            reason = str(error).replace(f"{folder}/", "")
            raise KilonetError(f"the compiled native engine cannot be loaded: {reason}") from None


def library_name(model: ModelSection, precision: str) -> str:
    """Return a SHA-256 digest of everything that decides what the network's library computes.

    Raises:
        KilonetError: no compiler, or an operation that the engine does not have.
    """
    return _fingerprint(codegen.source(model, precision), _compiler(), _library_flags())


def _compiler() -> str:
    return find_compiler("C++", "CXX", ("c++", "g++", "clang++"))


def _library_flags() -> list[str]:
    return [*_flags(), *_LIBRARY_FLAGS]


def _flags() -> list[str]:
    return [*shlex.split(_FLAGS), *shlex.split(_instruction_set_flags())]


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
    _write_sources(codegen.source(model, precision), folder)
    program = folder / main.stem
    run_compiler([_compiler(), *_flags(), f"-I{folder}", "-o", str(program), str(main)], makes=program)
    return program


def _compile(compiler: str, flags: list[str], source: str, cache: Path) -> bytes:
    """Compile a network's library in a folder of its own, so that processes can compile at once."""
    kept = cache / f"{_fingerprint('', compiler, flags)}.o"
    trainer = read_verified(kept)
    with work_folder(cache) as folder, ThreadPoolExecutor() as threads:
        _write_sources(source, folder)
        if trainer is not None:
            (folder / "trainer.o").write_bytes(trainer)
        missing = [folder / "network.o"] + ([] if trainer else [folder / "trainer.o"])
        jobs = [
            threads.submit(run_compiler, [compiler, *flags, "-c", one.with_suffix(".cpp").name], folder, makes=one)
            for one in missing
        ]
        for job in jobs:
            job.result()
        library = folder / "network.so"
        objects = ["network.o", "trainer.o"]
        run_compiler([compiler, *flags, "-shared", "-o", library.name, *objects], folder, makes=library)
        if trainer is None:
            store((folder / "trainer.o").read_bytes(), kept)
        return library.read_bytes()


def _write_sources(source: str, folder: Path) -> None:
    for file in _SOURCES:
        (folder / file).write_text(_read(file), encoding="utf-8")
    (folder / "network.cpp").write_text(source, encoding="utf-8")
