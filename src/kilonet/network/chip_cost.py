"""What a network would take on a microcontroller, estimated from its layers alone.

Instructions are a sum over the network's operations: what each does, times what that took. The factors are fitted to
counts under emulators by `python benchmarks/chip.py --fit`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from kilonet.network.c_ram import (
    OPERATION_BYTES,
    Computed,
    OperationMemory,
    c_ram_bytes,
    computed_operations,
    memory_of,
    pairs_more_bytes,
    vectors_more_bytes,
)
from kilonet.network.operations import Averaging, Convolution, MaxPooling, Shape, elements
from kilonet.network.section import ModelSection

KINDS = ("dense MACs", "depthwise MACs", "windows gathered", "values pooled", "values requantised", "pixels taken")
"""What an operation does, in the order of `work_of`."""


@dataclass(frozen=True)
class Chip:
    """What the parts of `KINDS` take on a processor, in instructions or cycles, and its code, in bytes."""

    factors: tuple[float, ...]
    code: int
    """The runtime without what follows."""
    depthwise: int
    """More for depthwise convolutions."""
    more_ram: Callable[[Sequence[OperationMemory]], int] | None = None
    """The bytes that its memory takes beyond `c_ram_bytes`, if any."""
    is_avr: bool = False
    """Whether factors are in cycles, images come row by row, and the code is a whole program with the self-test."""


CHIPS = {
    "cortex-m0": Chip((2.52, 9.98, 615.18, 49.18, 1.2, 116.26), 1860, 608),
    "cortex-m4": Chip((1.28, 2.47, 243.03, 1.86, 12.37, 121.24), 1724, 880, pairs_more_bytes),
    "cortex-m55": Chip((0.19, 1.8, 109.82, 12.47, 2.99, 89.15), 1500, 864, vectors_more_bytes),
    "rv32imac": Chip((2.39, 7.65, 529.36, 37.71, 9.12, 69.46), 2076, 676),
    "avr": Chip((30.5, 88.13, 2631.35, 341.15, 409.68, 269.98), 7900, 520, is_avr=True),
}
"""By name of the target, built with -Os; the Cortex-M4 stands for the M33 too."""


@dataclass(frozen=True)
class ChipCost:
    """An estimate for a network on a microcontroller. `str()` gives the lines that `kilonet summary` prints."""

    target: str
    instructions: int | None
    """An image; None on an AVR."""
    cycles: int | None
    """The same in cycles, on an AVR."""
    megahertz: float
    flash: int
    """Bytes."""
    ram: int
    """Bytes for state, logits and the pixels of an image or, on an AVR, of a row; without the stack.

    Exact, but that an AVR aligns nothing and needs up to 3 bytes less."""

    @property
    def milliseconds(self) -> float:
        """The time of an image if an instruction takes one cycle."""
        return (self.instructions or self.cycles or 0) / self.megahertz / 1000

    def as_json(self) -> dict[str, Any]:
        """Return all figures by name."""
        return {**asdict(self), "milliseconds": self.milliseconds}

    def __str__(self) -> str:
        """Return the estimate in two lines."""
        time = f"an image, {self.milliseconds:,.0f} ms at {self.megahertz:g} MHz"
        taken = (
            f"{self.instructions / 1e6:,.2f} million instructions {time} with one a cycle"
            if self.instructions is not None
            else f"{(self.cycles or 0) / 1e6:,.2f} million cycles {time}"
        )
        pixels = "pixels" if self.cycles is None else "a row of pixels"
        article = "an" if self.target == "avr" else "a"
        return (
            f"On {article} {self.target}, estimated: {taken}\n"
            f"Flash: about {self.flash:,} bytes with code; RAM: {self.ram:,} bytes, {pixels} and logits included, "
            "stack not"
        )


def chip_cost(model: ModelSection, target: str, megahertz: float) -> ChipCost:
    """Return the estimate for a network on one of `CHIPS`."""
    chip = CHIPS[target]
    operations = computed_operations(model)
    work = sum((work_of(operation, shape) for operation, shape in operations), np.zeros(len(KINDS)))
    kept = [memory_of(operation, shape) for operation, shape in operations]
    more = chip.more_ram(kept) if chip.more_ram else 0
    ram = c_ram_bytes(operations, model.input_shape, model.classes) + more
    if chip.is_avr:
        ram -= prod(model.input_shape) - prod(model.input_shape[::2])
    count = round(float(work @ np.array(chip.factors)))
    instructions, cycles = (None, count) if chip.is_avr else (count, None)
    return ChipCost(target, instructions, cycles, megahertz, _flash(model, operations, chip), ram)


def work_of(operation: Computed, shape: Shape) -> NDArray[np.float64]:
    """Return how much an operation does of each of `KINDS`, for an input of `shape`."""
    _, rows, columns = shape
    outputs = operation.output_shape(shape)
    taken = float(rows * columns)
    match operation:
        case Convolution(padding=padding, groups=groups):
            macs = operation.weights * outputs[1] * outputs[2]
            windows = outputs[1] * outputs[2]
            taken = float((rows + 2 * padding) * (columns + 2 * padding))
            dense = groups == 1
            found = (macs * dense, macs * (not dense), windows * dense, 0, elements(outputs), taken)
        case MaxPooling():
            found = (0, 0, 0, elements(shape), 0, taken)
        case _ if isinstance(operation, Averaging):
            found = (0, 0, 0, elements(shape), elements(outputs), taken)
        case _:
            assert_never(operation)
    return np.array(found, np.float64)


def _flash(model: ModelSection, operations: list[tuple[Computed, Shape]], chip: Chip) -> int:
    """Estimate the bytes of flash: those of an operation, 8 an output, 8 more with a residual sum, weights and code."""
    convolutions = [operation for operation, _ in operations if isinstance(operation, Convolution)]
    residual = sum(placed.output_shape[0] for placed in model.placed if "residual" in placed.text)
    requantised = sum(
        operation.output_shape(shape)[0] for operation, shape in operations if not isinstance(operation, MaxPooling)
    )
    padded = sum(operation.channels_in for operation in convolutions if operation.padding)
    tables = OPERATION_BYTES[16] * len(operations) + 8 * requantised + 8 * residual + padded
    code = chip.code + chip.depthwise * any(operation.groups > 1 for operation in convolutions)
    return sum(operation.weights for operation in convolutions) + tables + code
