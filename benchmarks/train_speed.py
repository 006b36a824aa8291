"""Whole epochs side by side: the seed-style script, the torch engine and the native engine, in one command.

    python benchmarks/train_speed.py [--rounds 3] [--epochs 3] [--threads 2]

Every contender trains in a process of its own, one after another, round after round, so that a machine whose speed
drifts is unfair to none. An epoch is the training part with augmentation, all 60,000 images at batch 128; each kilonet
process gives the median of its epochs. Printed are medians over the rounds, the ratio to the seed-style script (the
median of the rounds' ratios) and the share of the machine's float32 peak, measured in the same rounds.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from kilonet.budget import budget_of
from kilonet.environment import processor_name
from kilonet.layers import Convolution
from kilonet.recipe import ModelSection, load_recipe

HERE = Path(__file__).parent
IMAGES = 60_000
BATCH = 128


@dataclass(frozen=True)
class Contender:
    """Something that trains an epoch."""

    name: str
    recipe: str | None
    """None for the seed-style script."""
    engine: str = ""


CONTENDERS = (
    Contender("seed-style script", None),
    Contender("best, torch engine", "best", "torch"),
    Contender("best, native engine", "best", "native"),
    Contender("seed, torch engine", "seed", "torch"),
    Contender("seed, native engine", "seed", "native"),
)


def epoch_seconds(contender: Contender, epochs: int, threads: int) -> float:
    """Train in a new process and return the seconds of an epoch's training part."""
    if contender.recipe is None:
        command = [sys.executable, str(HERE / "seed_style.py"), "--threads", str(threads)]
        done = _run(command)
        return float(statistics.median(json.loads(done)["seconds"]))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "kilonet", "train", contender.recipe, "--out", str(out), "--json"]
        changes = {"epochs": epochs, "batch-size": BATCH, "engine": contender.engine, "threads": threads}
        _run(command + [word for key, value in changes.items() for word in (f"--{key}", str(value))])
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return float(statistics.median(json.loads(line)["seconds"] for line in lines))


def peak_gflops(threads: int) -> float:
    """Return the float32 peak, GFLOP/s: the faster of a register-resident loop and a 2048-square matrix product."""
    return max(_matrix_product_gflops(threads), _register_gflops(threads))


def _matrix_product_gflops(threads: int) -> float:
    code = (
        "import sys,time,torch;torch.set_num_threads(int(sys.argv[1]));a=torch.randn(2048,2048);a@a;t=[]\n"
        "for _ in range(9):\n s=time.perf_counter();a@a;t.append(time.perf_counter()-s)\n"
        "print(2*2048**3/sorted(t)[4]/1e9)"
    )
    return float(_run([sys.executable, "-c", code, str(threads)]))


def _register_gflops(threads: int) -> float:
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        return 0.0
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "fma_peak")
        _run([compiler, "-O3", "-march=native", "-std=c++17", str(HERE / "fma_peak.cpp"), "-o", program, "-pthread"])
        return float(_run([program, str(threads)]))


def training_flops(model: ModelSection) -> int:
    """Return the floating-point operations that training on one image takes: forward, input and weight gradients.

    The first convolution needs no input gradient.
    """
    budget = budget_of(model)
    first = next(
        layer for layer, placed in zip(budget.layers, model.placed, strict=True) if _convolves(placed.operations)
    )
    return 2 * (3 * budget.macs - first.macs)


def _convolves(operations: tuple[object, ...]) -> bool:
    return any(isinstance(operation, Convolution) for operation in operations)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def table(seconds: dict[str, list[float]], peaks: list[float], flops: int) -> str:
    """Return the table of medians and ratios."""
    baseline = seconds[CONTENDERS[0].name]
    lines = [
        f"| {'epoch of 60,000 images, batch 128':<34} | seconds (min to max)   | ratio | GFLOP/s | of peak |",
        f"|{'-' * 36}|{'-' * 24}|------:|--------:|--------:|",
    ]
    for name, values in seconds.items():
        middle = statistics.median(values)
        ratio = statistics.median(slow / fast for slow, fast in zip(baseline, values, strict=True))
        speed = IMAGES * flops / middle / 1e9
        share = statistics.median(IMAGES * flops / one / 1e9 / peak for one, peak in zip(values, peaks, strict=True))
        spread = f"{middle:.2f} ({min(values):.2f} to {max(values):.2f})"
        lines.append(f"| {name:<34} | {spread:<22} | {ratio:>5.2f} | {speed:>7.0f} | {100 * share:>5.0f} % |")
    return "\n".join(lines)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each kilonet process")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {contender.name: [] for contender in CONTENDERS}
    peaks = []
    for number in range(options.rounds):
        peaks.append(peak_gflops(options.threads))
        for contender in CONTENDERS:
            seconds[contender.name].append(epoch_seconds(contender, options.epochs, options.threads))
            print(f"round {number}: {contender.name}: {seconds[contender.name][-1]:.2f} s", file=sys.stderr, flush=True)
    versions = f"torch {torch.__version__}, Python {sys.version.split()[0]}"
    peak = f"float32 peak {statistics.median(peaks):.0f} GFLOP/s; {options.rounds} rounds"
    print(f"Measured on: {processor_name()}, {options.threads} threads, {versions}; {peak}\n")
    print(table(seconds, peaks, training_flops(load_recipe("best").model)))


if __name__ == "__main__":
    main()
