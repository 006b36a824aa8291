"""Whole epochs side by side: the homework-style script, the torch engine and the native engine, in one command.

    python benchmarks/train_speed.py [--rounds 3] [--epochs 3] [--threads 2]

Every contender trains in a process of its own, one after another, round after round, so that a machine whose speed
drifts is unfair to none. An epoch is the training part with augmentation, all 60,000 images, at the batch size of
`best` for its network and at 128 for the other; each kilonet process gives the median of its epochs. Printed are
medians over the rounds, the ratio to the homework-style script with the same network (the median of the rounds' ratios)
and the share of the machine's float32 peak, measured in the same rounds, as are the convolutions of the native engine's
steps (see roofline.py).
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kilonet.engines.native import multiplies_bfloat16
from kilonet.network.cost import network_cost
from kilonet.network.operations import Convolution
from kilonet.network.section import ModelSection
from kilonet.recipe import load_recipe
from kilonet.utils.environment import processor_name
from peak import peak_gflops, run
from roofline import precisions, step_time

HERE = Path(__file__).parent
IMAGES = 60_000
BATCHES = {"best": 64, "fast": 128, "baseline": 128}


@dataclass(frozen=True)
class Contender:
    """Something that trains an epoch."""

    name: str
    recipe: str
    engine: str
    """`script` for the homework-style script, with the recipe's network."""
    precision: str = "auto"
    instructions: str = ""
    """What the native engine is built for; empty for all that the processor has."""
    script: str = "baseline"
    """The network of the script beside which it stands."""


def _contenders() -> Iterator[Contender]:
    """Yield the contenders; those of each network begin with the script."""
    for recipe, network in (("best", "best"), ("fast", "baseline")):
        yield Contender(f"homework-style script, `{network}`", recipe, "script", script=network)
        yield Contender(f"{recipe}, torch engine", recipe, "torch", script=network)
        yield Contender(f"{recipe}, native engine", recipe, "native", script=network)
        if multiplies_bfloat16():
            yield Contender(f"{recipe}, native engine in float32", recipe, "native", "float32", script=network)
        # The older instruction set, where this processor has it, is that of many that people own.
        if torch.cpu.get_capabilities().get("avx2"):
            yield Contender(f"{recipe}, native engine for AVX2", recipe, "native", "float32", "avx2", network)
    yield Contender("baseline, torch engine", "baseline", "torch")
    yield Contender("baseline, native engine", "baseline", "native")


CONTENDERS = tuple(_contenders())


def epoch_seconds(contender: Contender, epochs: int, threads: int) -> float:
    """Train in a new process and return the seconds of an epoch's training part."""
    if contender.engine == "script":
        script = [str(HERE / "homework_style.py"), "--network", contender.script]
        script += ["--batch-size", str(BATCHES[contender.recipe])]
        done = run([sys.executable, *script, "--threads", str(threads)])
        return float(statistics.median(json.loads(done)["seconds"]))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "kilonet", "train", contender.recipe, "--out", str(out), "--json"]
        changes: dict[str, object] = {"epochs": epochs, "batch-size": BATCHES[contender.recipe], "threads": threads}
        changes |= {"engine": contender.engine, "precision": contender.precision}
        environment = {"KILONET_NATIVE_ISA": contender.instructions} if contender.instructions else {}
        run(command + [word for key, value in changes.items() for word in (f"--{key}", str(value))], environment)
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return float(statistics.median(json.loads(line)["seconds"] for line in lines))


def training_flops(model: ModelSection) -> int:
    """Return the floating-point operations that training on one image takes: forward, input and weight gradients.

    The first convolution needs no input gradient.
    """
    cost = network_cost(model)
    first = next(
        layer for layer, placed in zip(cost.layers, model.placed, strict=True) if _convolves(placed.operations)
    )
    return 2 * (3 * cost.macs - first.macs)


def _convolves(operations: tuple[object, ...]) -> bool:
    return any(isinstance(operation, Convolution) for operation in operations)


def table(seconds: Mapping[Contender, Sequence[float]], peaks: Sequence[float]) -> str:
    """Return the table of medians, and of ratios to the script with the same network."""
    scripts = {contender.script: values for contender, values in seconds.items() if contender.engine == "script"}
    lines = [
        f"| {'epoch of 60,000 images':<34} | seconds (min to max)   | ratio | GFLOP/s | of peak |",
        f"|{'-' * 36}|{'-' * 24}|------:|--------:|--------:|",
    ]
    for contender, values in seconds.items():
        flops = training_flops(load_recipe(contender.recipe).model)
        middle = statistics.median(values)
        ratio = statistics.median(slow / fast for slow, fast in zip(scripts[contender.script], values, strict=True))
        speed = IMAGES * flops / middle / 1e9
        share = statistics.median(IMAGES * flops / one / 1e9 / peak for one, peak in zip(values, peaks, strict=True))
        spread = f"{middle:.2f} ({min(values):.2f} to {max(values):.2f})"
        lines.append(f"| {contender.name:<34} | {spread:<22} | {ratio:>5.2f} | {speed:>7.0f} | {100 * share:>5.0f} % |")
    return "\n".join(lines)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each kilonet process")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    seconds: dict[Contender, list[float]] = {contender: [] for contender in CONTENDERS}
    peaks: list[float] = []
    kernels: dict[tuple[str, str], list[float]] = {(name, one): [] for name in ("best", "fast") for one in precisions()}
    for number in range(options.rounds):
        peaks.append(peak_gflops(options.threads))
        for (name, precision), speeds in kernels.items():
            step = step_time(load_recipe(name).model, precision, BATCHES[name], options.threads)
            speeds.append(step.convolution_gflops())
        for contender in CONTENDERS:
            seconds[contender].append(epoch_seconds(contender, options.epochs, options.threads))
            print(f"round {number}: {contender.name}: {seconds[contender][-1]:.2f} s", file=sys.stderr, flush=True)
    versions = f"torch {torch.__version__}, Python {sys.version.split()[0]}"
    peak = f"float32 peak {statistics.median(peaks):.0f} GFLOP/s; {options.rounds} rounds"
    print(f"Measured on: {processor_name()}, {options.threads} threads, {versions}; {peak}\n")
    print(table(seconds, peaks))
    for (name, precision), speeds in kernels.items():
        share = statistics.median(speed / one for speed, one in zip(speeds, peaks, strict=True))
        speed = f"{statistics.median(speeds):.0f} GFLOP/s, {100 * share:.0f} % of the float32 peak"
        print(f"\nConvolutions of `{name}` in a step of batch {BATCHES[name]}, {precision}: {speed}")


if __name__ == "__main__":
    main()
