"""What a network costs, as a sweep's budgets limit it and its objectives minimise it."""

from collections.abc import Mapping
from typing import Literal

from kilonet.network.chip_cost import chip_cost
from kilonet.network.cost import network_cost
from kilonet.network.section import ModelSection

Cost = Literal["parameters", "macs", "ram_bytes", "instructions", "flash_bytes"]

COST_NAMES: Mapping[Cost, str] = {
    "parameters": "parameters",
    "macs": "MACs",
    "ram_bytes": "RAM bytes",
    "instructions": "instructions",
    "flash_bytes": "flash bytes",
}
"""The costs, and what tables call them."""

Target = Literal["cortex-m0", "cortex-m4", "cortex-m55", "rv32imac", "avr"]
"""A microcontroller whose instructions and flash are estimated."""


def costs_of(model: ModelSection, target: Target) -> dict[Cost, int]:
    """Return all costs of a network, in the order of `COST_NAMES`.

    MACs and instructions are those of an image; an AVR's instructions are cycles. RAM is that of the C form. The last
    two are estimates for the target, as `kilonet summary --target` prints them.
    """
    network, chip = network_cost(model), chip_cost(model, target, 1.0)
    return {
        "parameters": network.parameters,
        "macs": network.macs,
        "ram_bytes": network.c_ram_bytes,
        "instructions": chip.instructions or chip.cycles or 0,
        "flash_bytes": chip.flash,
    }


def label_of(cost: Cost, target: Target) -> str:
    """Return what a table calls a cost; estimates for a target name it."""
    if cost == "instructions":
        return f"{target} {'cycles' if target == 'avr' else 'instructions'}"
    return f"{target} {COST_NAMES[cost]}" if cost == "flash_bytes" else COST_NAMES[cost]
