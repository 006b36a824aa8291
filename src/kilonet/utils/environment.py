"""The environment of a measurement: versions, processor, commit."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

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
        kilonet=version("kilonet"),
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
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
