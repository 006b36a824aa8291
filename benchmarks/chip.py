"""Counts what an image takes on microcontrollers, under emulators: instructions, flash, RAM and stack.

    python benchmarks/chip.py [--models mcu best] [--levels=-Os,-O2] [--targets cortex-m0 cortex-m4]
    python benchmarks/chip.py --cmsis-nn CMSIS-NN --bitnetmcu BitNetMCU
    python benchmarks/chip.py --fit

The second prints other libraries besides, from a checkout of each (github.com/ARM-software/CMSIS-NN and
github.com/cpldcpu/BitNetMCU). The last prints the factors of kilonet.network.chip_cost, fitted to the packaged models
and to networks of other layers with random weights, and how far the estimates are off. Counts are the same on every
machine. Each target needs its compiler and its emulator (docs/CHIP.md).
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

from chip_peers import HEADS as PEER_HEADS
from chip_peers import PeerResult, bitnetmcu, cmsis_nn
from kilonet.data.datasets import DataSet, Images, load_data
from kilonet.export.c.codegen import sources
from kilonet.export.c.targets import HEADS, TARGETS, Target, run_target
from kilonet.export.exporter import export_model
from kilonet.export.integer import IntegerNetwork
from kilonet.export.manifest import read_manifest
from kilonet.export.quantisation import choose_scales
from kilonet.export.unrounded_steps import to_integer_network
from kilonet.models.model import Model, load_model
from kilonet.network.c_ram import computed_operations
from kilonet.network.chip_cost import CHIPS, chip_cost, work_of
from kilonet.network.module import initial_network
from kilonet.network.section import ModelSection
from kilonet.recipe import load_recipe
from kilonet.utils.text_tables import aligned

LAYERS = (
    ("conv 8", "maxpool 2", "conv 14", "conv 14", "conv 14", "conv 16", "gap", "pointwise 10"),
    ("conv 8 stride 2", "conv 12 stride 2", "conv 16 same", "gap", "pointwise 10"),
    ("conv 8 5x5 stride 2", "conv 12", "conv 16", "conv 16", "gap", "pointwise 10"),
    ("conv 12 7x7 stride 3", "conv 16", "conv 20", "gap", "pointwise 10"),
    (
        "conv 6 stride 2",
        "pointwise 12",
        "conv 12 depthwise",
        "pointwise 16",
        "conv 16 5x5 depthwise",
        "gap",
        "pointwise 10",
    ),
    (
        "conv 16 5x5 stride 2",
        "conv 16 depthwise",
        "pointwise 24",
        "conv 24 same depthwise",
        "pointwise 24",
        "gap",
        "pointwise 10",
    ),
    ("avgpool 2", "conv 12 same", "conv 24", "maxpool 2", "conv 32", "gap", "pointwise 10"),
    (
        "conv 6",
        "conv 6 5x5 same depthwise residual",
        "pointwise 20",
        "maxpool 2",
        "conv 20 5x5 depthwise",
        "pointwise 10",
        "gap",
    ),
    ("conv 20", "pointwise 20", "pointwise 20", "maxpool 2", "pointwise 40", "gap", "pointwise 10"),
)
"""Lists of layers with little in common."""


def main() -> int:
    """Print a table for each model; return 1 if a logit differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["mcu", "best"])
    parser.add_argument("--levels", default="-Os,-O2", help="levels of optimisation")
    parser.add_argument("--targets", nargs="+", choices=[target.name for target in TARGETS])
    parser.add_argument("--cmsis-nn", type=Path, metavar="FOLDER", help="the sources of CMSIS-NN")
    parser.add_argument("--bitnetmcu", type=Path, metavar="FOLDER", help="the sources of BitNetMCU")
    parser.add_argument("--fit", action="store_true")
    flags = parser.parse_args()
    data = load_data("mnist")
    if flags.fit:
        return fit(data)
    wanted = [target for target in TARGETS if not flags.targets or target.name in flags.targets]
    levels, passed = flags.levels.split(","), True
    for name in flags.models:
        model = load_model(name)
        with tempfile.TemporaryDirectory() as folder:
            export_model("c", model, data, Path(folder) / "c", name)
            network = read_manifest(Path(folder) / "c").network
        texts = {file: text.encode() for file, text in sources(network, model.section, model.metadata).items()}
        rows, notes = [("", *HEADS)], []
        for target in wanted:
            for level in levels:
                found = run_target(target, network, texts, data.test.pixels.numpy(), level=level)
                passed = passed and found.passed
                if found.not_run:
                    notes.append(f"{target.name} {level}: not run: {found.not_run}")
                else:
                    rows.append((level, *found.cells()))
        print("\n".join([f"{name}:", *aligned(rows, (0, 1)), *notes, ""]))
        if flags.cmsis_nn:
            print(f"The layers of {name} by CMSIS-NN:")
            print_peers(wanted, levels, partial(cmsis_nn, flags.cmsis_nn, network, data.test))
    if flags.bitnetmcu:
        print("BitNetMCU:")
        print_peers(wanted, levels, partial(bitnetmcu, flags.bitnetmcu, data.test))
    return 0 if passed else 1


def print_peers(
    targets: Iterable[Target], levels: Sequence[str], results: Callable[[Target, str], Iterable[PeerResult]]
) -> None:
    """Print what other libraries take on each Cortex-M that has a compiler and an emulator here."""
    rows: list[tuple[str, ...]] = [("target", "", *PEER_HEADS)]
    for target in targets:
        if target.tools == "arm-none-eabi-" and not target.missing:
            for level in levels:
                rows += [(target.name, level, *result.cells()) for result in results(target, level)]
    print("\n".join([*aligned(rows, (0, 1, 2)), ""]))


def networks(data: DataSet) -> Iterator[tuple[str, ModelSection, IntegerNetwork]]:
    """Yield the networks that are counted: what they are called, their layers and the integers."""
    for name in ("mcu", "best", "baseline"):
        model = load_model(name)
        with tempfile.TemporaryDirectory() as folder:
            export_model("c", model, data, Path(folder) / "c", name)
            yield name, model.section, read_manifest(Path(folder) / "c").network
    sections = [load_recipe(name).model for name in ("4k", "2k", "1k")]
    sections += [ModelSection(layers=layers) for layers in LAYERS]
    images = Images(data.train.pixels[:500], data.train.labels[:500])
    for number, section in enumerate(sections):
        network = initial_network(section, number)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            network.train()(images.pixels[:64])
        model = Model(section, network.state())
        yield f"random {number}", section, to_integer_network(section, choose_scales(model, images))


def fit(data: DataSet) -> int:
    """Print the factors for each target, fitted so that the relative errors' squares are least."""
    found = list(networks(data))
    works = [sum(work_of(*placed) for placed in computed_operations(section)) for _, section, _ in found]
    for name in CHIPS:
        target = next(target for target in TARGETS if target.name == name)
        rows = []
        for (label, section, network), work in zip(found, works, strict=True):
            texts = {file: text.encode() for file, text in sources(network, section).items()}
            shown = run_target(target, network, texts, data.test.pixels[:10].numpy())
            if shown.not_run:
                print(f"{name}, {label}: not run: {shown.not_run}")
            else:
                rows.append((label, section, work, shown.instructions or shown.cycles, shown.flash))
        labels, sections, scaled, counts, sizes = zip(*rows, strict=True)
        scaled = np.array(scaled) / np.array(counts)[:, None]
        factors, _ = nnls(scaled, np.ones(len(counts)))
        errors = scaled @ factors - 1
        print(f"{name}: {tuple(round(float(factor), 2) for factor in factors)}")
        for label, section, count, error, size in zip(labels, sections, counts, errors, sizes, strict=True):
            estimate = chip_cost(section, name, 48).flash
            print(f"  {label:10} {count:12,} {100 * error:+6.1f} %   flash {size:,}, estimated {estimate:,}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
