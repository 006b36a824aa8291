"""A roofline of the native engine: what each layer computes and moves, how fast, and the machine's limit.

    python benchmarks/roofline.py [RECIPE] [--batch 64] [--threads 2] [--precision bfloat16] [--rounds 5]

The network's own kernels and the trainer are compiled with the engine's flags into a program (roofline.cpp) that runs
whole training steps on made images and times every operation. A layer's row has its convolution, its batch norm or its
pooling, forward and backward. Operations are two a multiply-accumulate; what a pass computes beyond them, such as the
input's gradient over the border of zeros, counts for nothing. Bytes are those of the tensors that a pass reads and
writes, each once. The limit is the time of the operations at the processor's peak in the precision or of the bytes at
the memory's speed, whichever is longer, added up over the passes (S. Williams and others, "Roofline: an insightful
visual performance model for multicore architectures", 2009). A layer whose tensors lie in a cache can be faster than
that. The peak and the memory's speed are the highest of the rounds; the table is that of the round with the median
step.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from kilonet.engines.native import multiplies_bfloat16
from kilonet.engines.native.build import compile_program
from kilonet.network.section import ModelSection
from kilonet.recipe import load_recipe
from kilonet.utils.environment import processor_name
from peak import memory_gigabytes, peak_gflops

SOURCE = Path(__file__).with_name("roofline.cpp")
STEPS = 41
_CONVOLUTION, _NORM = 0, 1
"""Of `Kind` in network.hpp."""


@dataclass(frozen=True)
class PassTime:
    """A pass of an operation over the batch of a step."""

    layer: int
    """The place of the layer in the recipe's list, repeated layers written out; a pool behind a batch norm, which is
    computed with it, has the place of the norm's layer."""
    convolves: bool
    flops: float
    """Of the whole batch."""
    bytes: float
    """Of the whole batch."""
    seconds: float
    """By the clock, if all threads are as busy."""

    def limit(self, peak: float, memory: float) -> float:
        """Return the least seconds at a peak of so many GFLOP/s and a memory of so many GB/s."""
        return max(self.flops / peak, self.bytes / memory) / 1e9


@dataclass(frozen=True)
class StepTime:
    """A training step."""

    seconds: float
    passes: tuple[PassTime, ...]

    def flops(self) -> float:
        """Return the operations of all passes."""
        return sum(one.flops for one in self.passes)

    def convolution_gflops(self) -> float:
        """Return the operations of all convolutions over their time, in thousand millions a second."""
        convolutions = [one for one in self.passes if one.convolves]
        return sum(one.flops for one in convolutions) / sum(one.seconds for one in convolutions) / 1e9


def step_time(model: ModelSection, precision: str, batch: int, threads: int) -> StepTime:
    """Compile and time a step; medians of 41.

    Args:
        model: the network.
        precision: of the convolutions, `bfloat16` or `float32`.
        batch: images a step.
        threads: how many.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = compile_program(model, precision, SOURCE, Path(folder))
        words = [str(program), str(batch), str(threads), str(STEPS)]
        first, *lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    layer, following, seen = 0, 0, -1
    passes = []
    for line in lines:
        operation, kind, pool, _, flops, size, microseconds = line.split()
        if int(operation) != seen:
            seen = int(operation)
            if int(kind) != _NORM:
                layer, following = following, following + 1
            elif int(pool):
                following += 1
        seconds = 1e-6 * float(microseconds) / threads
        passes.append(PassTime(layer, int(kind) == _CONVOLUTION, batch * float(flops), batch * float(size), seconds))
    return StepTime(1e-6 * float(first), tuple(passes))


def precisions() -> list[str]:
    """Return the precisions that the native engine would train in here."""
    return ["float32", "bfloat16"] if multiplies_bfloat16() else ["float32"]


def table(model: ModelSection, step: StepTime, peak: float, memory: float) -> str:
    """Return a row for each layer, one for all of them and one for the step.

    Args:
        model: the network.
        step: its times.
        peak: of the processor in the precision of the step, GFLOP/s.
        memory: what the memory moves, GB/s.
    """
    lines = [
        "| layer | MFLOP | MB | limit, us | bound by | reached, us | of the limit |",
        "|---|---:|---:|---:|---|---:|---:|",
    ]
    begins = [*sorted({one.layer for one in step.passes}), len(model.placed)]
    for begin, end in pairwise(begins):
        name = ", ".join(f"`{placed.layer}`" for placed in model.placed[begin:end])
        lines.append(_row(name, [one for one in step.passes if one.layer == begin], peak, memory))
    lines.append(_row("all layers", step.passes, peak, memory))
    rest = 1e6 * (step.seconds - sum(one.seconds for one in step.passes))
    lines.append(f"| images, loss, weights, waiting |  |  |  |  | {rest:,.0f} |  |")
    return "\n".join(lines)


def _row(name: str, passes: Sequence[PassTime], peak: float, memory: float) -> str:
    limit, reached = sum(one.limit(peak, memory) for one in passes), sum(one.seconds for one in passes)
    flops, size = sum(one.flops for one in passes), sum(one.bytes for one in passes)
    arithmetic = sum(one.limit(peak, memory) for one in passes if one.flops / peak > one.bytes / memory)
    bound = f"arithmetic {100 * arithmetic / limit:.0f} %, memory {100 - 100 * arithmetic / limit:.0f} %"
    figures = f"{flops / 1e6:,.1f} | {size / 1e6:,.1f} | {1e6 * limit:,.0f} | {bound} | {1e6 * reached:,.0f}"
    return f"| {name} | {figures} | {100 * limit / reached:.0f} % |"


def main() -> None:
    """Print the machine and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="best")
    parser.add_argument("--batch", type=int, help="images a step (default: the recipe's)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=precisions(), default=precisions()[-1])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    recipe = load_recipe(options.recipe)
    batch = options.batch or recipe.train.batch_size
    memory = 0.0
    peaks = dict.fromkeys({"float32", options.precision}, 0.0)
    steps = []
    for _ in range(options.rounds):
        memory = max(memory, memory_gigabytes(options.threads))
        for precision, peak in peaks.items():
            peaks[precision] = max(peak, peak_gflops(options.threads, precision))
        steps.append(step_time(recipe.model, options.precision, batch, options.threads))
    steps.sort(key=lambda one: one.seconds)
    step = steps[len(steps) // 2]
    speed = step.flops() / step.seconds / 1e9
    most = ", ".join(f"{precision} peak {peak:.0f} GFLOP/s" for precision, peak in sorted(peaks.items(), reverse=True))
    print(
        f"{processor_name()}, {options.threads} threads, {most}, memory {memory:.0f} GB/s; "
        f"`{options.recipe}` in {options.precision}, {batch} images a step, {1e3 * step.seconds:.2f} ms a step "
        f"({1e3 * steps[0].seconds:.2f} to {1e3 * steps[-1].seconds:.2f}), {speed:.0f} GFLOP/s, "
        f"{100 * speed / peaks['float32']:.0f} % of the float32 peak, "
        f"medians of {STEPS} steps, {options.rounds} rounds\n"
    )
    print(table(recipe.model, step, peaks[options.precision], memory))


if __name__ == "__main__":
    main()
