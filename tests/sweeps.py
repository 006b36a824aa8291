"""Whole sweeps under test: their plans, their processes, and what they must have written."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from kilonet.recipe import load_recipe
from kilonet.training.run_folder import METRICS_FILE, read_result
from kilonet.training.train import fit
from preloaded import Started

EPOCHS = 40
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False, "include_log_monitor": False}


def write_base(folder: Path, data: Path) -> Path:
    """A recipe that uses everything that a checkpoint stores."""
    teacher, path = folder / "teacher.toml", folder / "tiny.toml"
    teacher.write_text('[model]\nlayers = ["gap", "pointwise 10"]\n[train]\nepochs = 2\n', encoding="utf-8")
    path.write_text(
        f"""
        [model]
        layers = ["gap", "pointwise 10"]
        dropout = 0.05
        [train]
        ema = 0.9
        [augment]
        rotation = 10
        [distill]
        teacher = "{teacher}"
        weight = 0.2
        [run]
        data = "{data}"
        engine = "torch"
        device = "cpu"
        precision = "float32"
        """
    )
    return path


def write_plan(folder: Path, base: Path, trials: int = 1, **search: Any) -> Path:
    """A plan whose candidates differ in size and batch size; by default none is stopped early."""
    path = folder / "sweep.toml"
    keys = {"epochs": EPOCHS, "grace": EPOCHS, **search}
    path.write_text(
        f"""
        recipe = "{base}"
        out = "{folder / "out"}"
        layers = ["conv {{3..6}}", "maxpool 2", "0..1 * conv = same residual", "conv {{4..8}}", "gap", "pointwise 10"]
        [search]
        trials = {trials}
        """
        + "\n".join(f"{key} = {value}" for key, value in keys.items())
        + """
        [budget]
        max_parameters = 700
        [keys]
        batch_size = {choices = [64, 128]}
        """
    )
    return path


def sweep(plan: Path, *flags: str) -> Started:
    """Start a sweep, forked off a process that has imported Ray too."""
    return Started("sweep", plan, *flags, preload=("kilonet.sweep.driver", "matplotlib.figure"))


def wait_until(happened: Callable[[], bool], driver: Started | None = None, pause: float = 0.01) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        assert driver is None or driver.running(), driver and driver.printed("err")
        time.sleep(pause)


def epochs_of(folder: Path) -> list[str]:
    path = folder / METRICS_FILE
    return path.read_text().splitlines() if path.exists() else []


def children(parent: int, name: bytes) -> list[int]:
    """Return the child processes whose command line contains a name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            below = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if below and name in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def addresses_of(parent: int) -> dict[str, set[IPv4Address | IPv6Address]]:
    """Return the addresses on which a process and all below it take TCP connections, by the name of the process."""
    family, added = {parent}, {parent}
    while added:
        added = {child for process in added for child in children(process, b"")}
        family |= added
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{parent}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                sockets[f"socket:[{words[9]}]"] = _address(words[1].partition(":")[0])
    found: dict[str, set[IPv4Address | IPv6Address]] = defaultdict(set)
    for process in family:
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{process}/comm").read_text().strip()
            for link in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if link.is_symlink() and (socket := str(link.readlink())) in sockets:
                        found[name].add(sockets[socket])
    return dict(found)


def _address(text: str) -> IPv4Address | IPv6Address:
    """Read an address as /proc/net/tcp writes it: words of four bytes, each backwards."""
    raw = bytes.fromhex(text)
    address = ip_address(b"".join(raw[place : place + 4][::-1] for place in range(0, len(raw), 4)))
    return getattr(address, "ipv4_mapped", None) or address


def at_work_in(folder: Path) -> list[int]:
    """Return the processes that hold a file of a run folder open, such as the lock of the training process."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink().parent == folder:
                found.append(int(link.parts[2]))
    return found


def processes_that_name(word: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def proved(out: Path, trials: int) -> None:
    """Check that every trial is a finished run on the holdout, with the weights of its recipe trained by hand.

    All learn from one teacher.
    """
    folders = sorted(folder for folder in out.iterdir() if folder.is_dir() and folder.name.isdecimal())
    assert [folder.name for folder in folders] == [f"{number:04}" for number in range(1, trials + 1)]
    for folder in folders:
        result = read_result(folder)
        assert result.scored == "Holdout"
        assert result.parameters <= 700
        assert len(epochs_of(folder)) == EPOCHS
    (teacher,) = out.glob("teacher-*")
    for folder in folders:
        # Copied, not trained again, which would take other seconds.
        assert (folder / "teacher" / METRICS_FILE).read_bytes() == (teacher / METRICS_FILE).read_bytes()
    by_hand = fit(load_recipe(str(folders[0] / "recipe.toml")))
    assert by_hand.result.model_sha256 == read_result(folders[0]).model_sha256
