"""The environment of a measurement: versions, processor, commit."""

import contextlib
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

import kilonet
from kilonet.utils.capacity import system_lines
from kilonet.utils.schema import Schema


class Environment(Schema):
    """The machine and the versions that a result was measured with."""

    kilonet: str
    python: str
    torch: str
    system: str
    processor: str
    device: str
    precision: str
    engine: str
    threads: int
    commit: str | None
    """The commit of the source checkout, ending in `-dirty` if it had changes; None for an installed package."""


def describe_environment(*, device: str, precision: str, engine: str, threads: int) -> Environment:
    """Return the environment of a run on this machine; the arguments are those of the run, none of them `auto`."""
    return Environment(
        kilonet=kilonet.__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        system=platform.system(),
        processor=torch.cuda.get_device_name() if device == "cuda" else processor_name(),
        device=device,
        precision=precision,
        engine=engine,
        threads=threads,
        commit=source_commit(),
    )


def processor_name() -> str:
    """Return the name of the processor, such as `AMD EPYC 7763`, or of its architecture if the system has no name."""
    for line in system_lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Give torch back its number of threads, which the torch engine sets to that of its run, after this context."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def source_commit() -> str | None:
    """Return the commit of the git checkout that tracks this file; None if there is none."""
    here = Path(__file__)
    try:
        # An installed package may lie inside a checkout of another project, which does not track this file.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    return done.stdout.strip()
