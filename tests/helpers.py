"""Helpers that several test modules share."""

import gzip
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kilonet.cli import main
from kilonet.export.c.targets import Target
from kilonet.models.model import Model, load_model
from kilonet.network.section import ModelSection
from kilonet.recipe import Recipe, parse_recipe
from kilonet.training.progress import NoProgress
from kilonet.utils.errors import KilonetError

GOLDEN = Path(__file__).parent / "golden"
KILONET = (sys.executable, "-m", "kilonet")

BASELINE_LAYERS = (
    "conv 10",
    "conv 20",
    "pointwise 10",
    "maxpool 2",
    "conv 10",
    "conv 16",
    "conv 20",
    "gap",
    "pointwise 10",
)
TINY_LAYERS = ("conv 4 stride 2", "maxpool 2", "conv 8", "conv 8", "gap", "pointwise 10")
DEBIAN = {
    "cc": "gcc",
    "gcc": "gcc",
    "g++": "g++",
    "clang": "clang",
    "clang++": "clang",
    "git": "git",
    "make": "make",
    "cmake": "cmake",
    "node": "nodejs",
    "arduino-builder": "arduino-builder",
    "avr-g++": "gcc-avr",
    "simavr": "simavr",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi",
    "arm-none-eabi-g++": "gcc-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
    "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf",
    "qemu-system-riscv32": "qemu-system-misc",
}
"""Debian's package of each program that `needs` looks for."""


def in_ci(*values: Any) -> list[Any]:
    """Return parameters that a test has where CI is set, beside those it always has."""
    return [pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.ci) for value in values]


# Nothing is compiled to see that: networks are compiled in the tests, into the cache of their run.
NEEDS_COMPILER = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="needs a C++ compiler"
)


def needs(*programs: str) -> None:
    """Skip a test where a program is missing."""
    missing = sorted({DEBIAN[program] for program in programs if not shutil.which(program)})
    if missing:
        pytest.skip(f"needs {' '.join(missing)}")


def needs_target(target: Target) -> None:
    """Skip a test where a microcontroller's compiler or emulator is missing."""
    if target.missing:
        pytest.skip(f"needs {target.missing}")


def tiny_recipe(data: Path | str = "mnist", **changes: Any) -> Recipe:
    """Return a recipe that trains some images in a fraction of a second, with dropout, EMA and augmentation."""
    table = {
        "model": {"layers": TINY_LAYERS, "dropout": 0.05},
        "train": {"epochs": 2, "batch_size": 64, "ema": 0.9},
        "augment": {"rotation": 10.0, "shift": 1.0},
        "run": {"data": str(data), "engine": "torch", "device": "cpu", "precision": "float32", "threads": 1},
    }
    return parse_recipe(table, "tiny", changes)


def model_section(*layers: str, **keys: Any) -> ModelSection:
    return ModelSection(layers=layers, **keys)


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """Return an array as an IDX file, written without the code under test."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + bytes(array.flatten().tolist()) if array.size < 1000 else head + array.tobytes()


def write_idx_folder(
    folder: Path,
    train: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    test: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> Path:
    """Write the four files of a data set: images as gzip, labels plain."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, (images, labels) in (("train", train), ("t10k", test)):
        (folder / f"{part}-images.idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images), 1, mtime=0))
        (folder / f"{part}-labels.idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder


def refusal(error: KilonetError | pytest.ExceptionInfo[KilonetError], *words: str | Path) -> str:
    """Return the message of an error, having checked that it is one line that holds all the words."""
    message = str(error if isinstance(error, KilonetError) else error.value)
    assert message.strip()
    assert len(message.splitlines()) == 1, message
    assert "Traceback" not in message
    for word in words:
        assert str(word) in message
    return message


@dataclass(frozen=True)
class Answer:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str

    def refused(self, *words: str | Path) -> None:
        """Check that the command refused its input with one line that holds all the words."""
        assert self.status == 2, self
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("kilonet: error: ")
        assert not re.search("[╭│─╰]|---|helptext", lines[0]), "the frame of a box is no message"
        for word in words:
            assert str(word) in lines[0]


def command(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Answer:
    """Run a command in this process, which saves the time to import torch."""
    capsys.readouterr()
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return Answer(status, captured.out, captured.err)


def process(*arguments: str | Path, timeout: float = 120, **options: Any) -> Answer:
    """Run a command in a process of its own."""
    words = [*KILONET, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False, **options)
    return Answer(done.returncode, done.stdout, done.stderr)


def python(script: str, *arguments: str | Path, timeout: float = 120) -> Answer:
    """Run a script in a fresh interpreter."""
    words = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False, env=dict(os.environ))
    return Answer(done.returncode, done.stdout, done.stderr)


PEAK = """
import resource, sys

def peak():
    try:
        (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return int(line.split()[1]) // 1024
"""
"""Begins a script for `python` that measures its memory in MiB; `ru_maxrss` counts what its parent had, too."""


Hide = Callable[..., None]
"""What the fixture `hide` gives: `hide(library, *users)`."""


def unload(*names: str) -> dict[str, ModuleType | None]:
    """Take modules and their submodules out of `sys.modules`, and return them."""
    found = [name for name in sys.modules if any(f"{name}.".startswith(f"{user}.") for user in names)]
    return {name: sys.modules.pop(name) for name in found}


def some_pixels(count: int, shape: Sequence[int] = (1, 28, 28), seed: int = 0) -> torch.Tensor:
    """Return random images, uint8 (count, *shape)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Return whether two states are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class StopAtEpoch(NoProgress):
    """A progress that interrupts a run at the start of an epoch, as Ctrl-C does."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def epoch_started(self, epoch: int, steps: int) -> None:
        super().epoch_started(epoch, steps)
        if epoch == self._epoch:
            raise KeyboardInterrupt


def save_overflowing_model(folder: Path) -> Path:
    """Write the packaged model with its largest weights: all are finite, but what it computes is not."""
    model = load_model("baseline")
    most = torch.finfo(torch.float32).max
    state = {
        name: torch.full_like(tensor, 0.9 * most) if name.endswith("weight") else tensor
        for name, tensor in model.network.state().items()
    }
    Model(model.section, state, model.metadata).save(folder / "model.safetensors")
    return folder / "model.safetensors"
