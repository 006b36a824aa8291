"""The native engine's convolutions alone: every layer's three passes over a batch, against the float32 peak.

    python benchmarks/kernel_speed.py [--batch 128] [--threads 2]

The kernels of the recipe `fast` are compiled into a program of their own (kernel_speed.cpp) with the flags that the
engine uses. Operations are two a multiply-accumulate of the network; what a pass computes beyond them, such as the
input's gradient over the border of zeros, counts for nothing.
"""

import argparse
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from kilonet.engines.native import multiplies_bfloat16
from kilonet.engines.native.build import compile_program
from kilonet.network.section import ModelSection
from kilonet.recipe import load_recipe
from kilonet.utils.environment import processor_name
from peak import peak_gflops

SOURCE = Path(__file__).with_name("kernel_speed.cpp")


@dataclass(frozen=True)
class PassTime:
    """One pass of a convolution over a batch."""

    layer: int
    name: str
    flops: float
    """Of the whole batch."""
    seconds: float

    @property
    def gflops(self) -> float:
        """Thousand million operations a second."""
        return self.flops / self.seconds / 1e9


def pass_times(model: ModelSection, precision: str, batch: int, threads: int) -> list[PassTime]:
    """Compile and time the kernels; medians of 41 rounds."""
    with tempfile.TemporaryDirectory() as folder:
        program = compile_program(model, precision, SOURCE, Path(folder))
        words = [str(program), str(batch), str(threads)]
        lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line.split() for line in lines]
    return [PassTime(int(layer), name, batch * float(flops), 1e-6 * float(us)) for layer, name, flops, us in rows]


def overall_gflops(times: list[PassTime]) -> float:
    """Return the operations of all passes over their time together."""
    return sum(one.flops for one in times) / sum(one.seconds for one in times) / 1e9


def precisions() -> list[str]:
    """Return the precisions that the native engine would train in here."""
    return ["float32", "bfloat16"] if multiplies_bfloat16() else ["float32"]


def main() -> None:
    """Print a row a pass, and all of them together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128, help="images, a multiple of 16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    model = load_recipe("fast").model
    print(f"{processor_name()}, {options.threads} threads, batch {options.batch}\n")
    print("| precision | convolution | pass | microseconds | GFLOP/s | of float32 peak |")
    print("|---|---:|---|---:|---:|---:|")
    for precision in precisions():
        peak = peak_gflops(options.threads)
        times = pass_times(model, precision, options.batch, options.threads)
        for one in times:
            figures = f"{1e6 * one.seconds:.0f} | {one.gflops:.0f} | {100 * one.gflops / peak:.0f} %"
            print(f"| {precision} | {one.layer + 1} | {one.name} | {figures} |")
        overall, microseconds = overall_gflops(times), 1e6 * sum(one.seconds for one in times)
        print(f"| {precision} | all | all | {microseconds:.0f} | {overall:.0f} | {100 * overall / peak:.0f} % |")


if __name__ == "__main__":
    main()
