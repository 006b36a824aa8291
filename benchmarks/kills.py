"""Kill commands at random moments, and repeat them until they finish: what they write is what they write unkilled.

python benchmarks/kills.py                       200 kills of each command
python benchmarks/kills.py --kills 3 training    fewer, of one command

Every try is a fork of this process, which has torch imported and runs nothing itself, so that a kill costs the time up
to the kill and no more. The moments are drawn over a quarter more than the time that the command takes without a kill,
so that some tries finish.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Before torch is imported: a process with threads must not be forked.
os.environ["OMP_NUM_THREADS"] = "1"

import tomli_w
import torch

from kilonet.cli import main as kilonet_main
from kilonet.data.datasets import Images, load_data
from kilonet.export import exporter  # noqa: F401  imported once, for all forks
from kilonet.training import calibrate, launch  # noqa: F401
from kilonet.utils.environment import processor_name

LAYERS = ["conv 4", "maxpool 2", "conv 8", "maxpool 2", "conv 8", "gap", "pointwise 10"]
_TIMED = ("metrics.jsonl", "result.json", "checkpoint.safetensors")
"""Files that hold times too: only their presence is compared, and the model's hash in the result."""
_LONGEST = 120
"""Seconds after which a command is taken to hang."""


@dataclass(frozen=True)
class Case:
    """A command and what it writes."""

    arguments: tuple[str, ...]
    written: str
    """The file or folder that is compared, in the folder that the command runs in."""
    given: tuple[str, ...] = ()
    """Files and folders that are copied there first."""


CASES = {
    "training": Case(("train", "../tiny.toml", "--out", "run"), "run"),
    "distillation": Case(("train", "../student.toml", "--out", "run"), "run"),
    "seeds": Case(("train", "../tiny.toml", "--seeds", "2", "--out", "seeds"), "seeds"),
    "export": Case(("export", "../held", "--to", "c", "--data", "../few", "--out", "c"), "c"),
    "calibrate": Case(("calibrate", "held", "--by", "../held"), "held", ("held",)),
}


def make_inputs(folder: Path, engine: str) -> None:
    """Write the images, the recipes and the run with a holdout that the commands take."""
    mnist = load_data("mnist")
    for name, count in (("images", 3300), ("few", 200)):
        (folder / name).mkdir()
        for part, images in (("train", mnist.train), ("t10k", mnist.test)):
            write_idx(folder / name / part, images, count)
    recipe = {
        "model": {"layers": LAYERS, "dropout": 0.05},
        "train": {"epochs": 8, "batch_size": 64, "ema": 0.9},
        "augment": {"rotation": 10.0},
        "run": {"data": str(folder / "few"), "threads": 1, "engine": engine},
    }
    (folder / "tiny.toml").write_text(tomli_w.dumps(recipe))
    (folder / "student.toml").write_text(tomli_w.dumps(recipe | {"distill": {"teacher": str(folder / "tiny.toml")}}))
    held = ("train", "tiny.toml", "--data", str(folder / "images"), "--holdout", "--epochs", "2", "--out", "held")
    status, errors = finish(start(held, folder), folder)
    if status:
        sys.exit(errors)


def write_idx(path: Path, images: Images, count: int) -> None:
    """Write the first images and labels of a set as two IDX files whose names begin with `path`."""
    pixels, labels = images.pixels[:count, 0].numpy(), images.labels[:count].to(torch.uint8).numpy()
    for kind, array in (("images.idx3-ubyte", pixels), ("labels.idx1-ubyte", labels)):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        path.with_name(f"{path.name}-{kind}").write_bytes(head + array.tobytes())


def start(arguments: Sequence[str], folder: Path) -> int:
    """Fork a process that runs a command in a folder, as the leader of its own process group; return its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), stream)
        status = kilonet_main(arguments)
        sys.stderr.flush()
    finally:
        os._exit(status)


def finish(process: int, folder: Path) -> tuple[int, str]:
    """Wait for a process; return its exit status, negative if it was killed, and what it wrote to stderr."""
    for _ in every_moment(_LONGEST):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), Path(f"{folder}.stderr").read_text()
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    sys.exit(f"{folder}: hangs: {Path(f'{folder}.stderr').read_text()}")


def every_moment(seconds: float) -> Iterator[None]:
    """Yield every millisecond for some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.001)


def kill_at(process: int, seconds: float, kill: Callable[[int], bool]) -> bool:
    """Kill after some seconds; return False if the process has ended before, or there was nothing to kill."""
    for _ in every_moment(seconds):
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
    return kill(process)


def kill_all(process: int) -> bool:
    """Kill a process and its workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    return True


def kill_a_worker(process: int) -> bool:
    """Kill one worker of a process, if it has any."""
    workers = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    if workers:
        os.kill(int(random.choice(workers)), signal.SIGKILL)
    return bool(workers)


def wait_for_the_group(process: int) -> None:
    """Wait until no process of a killed group is left: a worker may still hold the lock of its run folder."""
    for _ in every_moment(_LONGEST):
        try:
            os.killpg(process, 0)
        except ProcessLookupError:
            return


def content(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a path by its name, and the model's hash in each result."""
    found = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name != ".lock":
            digest = "timed" if file.name in _TIMED else hashlib.sha256(file.read_bytes()).hexdigest()
            found[str(file.relative_to(path))] = digest
            if file.name == "result.json":
                found[f"{file.relative_to(path)} model"] = json.loads(file.read_bytes())["model_sha256"]
    return found


def fresh_folder(inputs: Path, case: Case) -> Path:
    """Return an empty folder with what the case is given."""
    folder = inputs / "try"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in case.given:
        shutil.copytree(inputs / name, folder / name)
    return folder


def prove(inputs: Path, name: str, kills: int, engine: str) -> str:
    """Kill a command so many times; return a line with what happened. Exits if the files ever differ."""
    case, killed, finished = CASES[name], 0, 0
    # Twice if the first run compiles: the moments are to be spread over what later runs take.
    for _ in range(1 if engine == "torch" else 2):
        folder = fresh_folder(inputs, case)
        begun = time.monotonic()
        status, errors = finish(start(case.arguments, folder), folder)
        whole, seconds = content(folder / case.written), time.monotonic() - begun
    if status or not whole:
        sys.exit(f"{name}, not killed: {errors}")
    while killed < kills:
        folder = fresh_folder(inputs, case)
        while True:
            how = kill_a_worker if name == "seeds" and random.random() < 0.5 else kill_all
            process = start(case.arguments, folder)
            hit = kill_at(process, random.uniform(0, 1.25 * seconds), how)
            status, errors = finish(process, folder)
            wait_for_the_group(process)
            killed += hit
            last = errors.splitlines()[-1] if errors else ""
            if "Traceback" in errors or not expected(status, last, hit=hit, how=how):
                sys.exit(f"{name}, after {killed} kills: status {status}: {errors}")
            if status == 0 or "holds a finished run" in last:
                break
        if content(folder / case.written) != whole:
            sys.exit(f"{name}, after {killed} kills: other files: {content(folder / case.written)}, not {whole}")
        finished += 1
    return f"{name:<13} {killed:>5} kills, {finished:>4} times finished, the same files; {seconds:.2f} s without a kill"


def expected(status: int, last: str, *, hit: bool, how: Callable[[int], bool]) -> bool:
    """Return whether a process ended as it may: killed, done, or with the one line that belongs to what happened."""
    if status == 0 or (hit and how is kill_all and status == -signal.SIGKILL):
        return True
    killed_worker = hit and how is kill_a_worker and last.startswith("kilonet: error: the process that trained seed ")
    return status == 2 and (killed_worker or "holds a finished run" in last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many kills of each command (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; they differ as the machine's speed does")
    parser.add_argument("--engine", default="auto", help="of the trainings; torch compiles nothing first")
    parser.add_argument("cases", nargs="*", metavar="COMMAND", help=f"some of: {', '.join(CASES)} (default: all)")
    options = parser.parse_args()
    random.seed(options.seed)
    # Workers of seeds are forked too: each would import torch anew. No thread runs in a try before its workers start.
    launch.START_METHOD = "fork"
    print(f"{processor_name()}, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        make_inputs(Path(name).resolve(), options.engine)
        for case in options.cases or CASES:
            print(prove(Path(name).resolve(), case, options.kills, options.engine), flush=True)


if __name__ == "__main__":
    main()
