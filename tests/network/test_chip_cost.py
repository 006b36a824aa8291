"""The estimate of what a network takes on a microcontroller, beside what was counted there."""

import json

import pytest

from helpers import command
from kilonet.network.chip_cost import CHIPS, KINDS, chip_cost, work_of
from kilonet.network.cost import network_cost
from kilonet.network.operations import Convolution, GlobalAveragePooling, MaxPooling
from kilonet.network.section import ModelSection
from kilonet.recipe import load_recipe

COUNTED = {
    ("mcu", "cortex-m0"): (665_012, 9_040, 2_076),
    ("mcu", "cortex-m4"): (424_249, 8_876, 2_256),
    ("mcu", "cortex-m55"): (139_968, 8_672, 2_072),
    ("mcu", "rv32imac"): (606_452, 9_264, 2_076),
    ("best", "cortex-m0"): (11_870_981, 13_660, 11_608),
    ("best", "cortex-m4"): (4_719_423, 13_768, 13_752),
    ("best", "cortex-m55"): (2_425_836, 13_552, 11_620),
    ("best", "rv32imac"): (10_086_460, 13_904, 11_608),
}
"""Instructions, flash and RAM by `python benchmarks/chip.py --levels=-Os`."""

COUNTED_UNO = (6_480_292, 14_852, 1_228)
"""Cycles, flash and RAM of `uno` on an AVR, by the same."""


@pytest.mark.parametrize(("recipe", "target"), COUNTED)
def test_an_estimate_is_near_what_was_counted(recipe: str, target: str) -> None:
    instructions, flash, ram = COUNTED[recipe, target]
    found = chip_cost(load_recipe(recipe).model, target, 48.0)
    assert found.instructions == pytest.approx(instructions, rel=0.08)
    assert found.flash == pytest.approx(flash, rel=0.02)
    assert found.ram == ram
    assert found.cycles is None
    assert found.milliseconds == pytest.approx(instructions / 48_000, rel=0.08)


def test_the_work_is_the_macs_the_windows_and_the_pixels() -> None:
    assert work_of(Convolution(3, 8, 3, 1, stride=2), (3, 10, 10)).tolist() == [5400, 0, 25, 0, 200, 144]
    assert work_of(Convolution(4, 4, 5, groups=4), (4, 9, 9)).tolist() == [0, 2500, 0, 0, 100, 81]
    assert work_of(MaxPooling(2), (4, 9, 9)).tolist() == [0, 0, 0, 324, 0, 81]
    assert work_of(GlobalAveragePooling(), (4, 9, 9)).tolist() == [0, 0, 0, 324, 4, 81]
    assert all(len(chip.factors) == len(KINDS) for chip in CHIPS.values())


def test_the_macs_are_those_of_the_summary() -> None:
    section = ModelSection(layers=("conv 8 same", "conv 8 depthwise", "maxpool 2", "gap", "pointwise 10"))
    cost = network_cost(section)
    # Without the last layer's, whose map is a pixel.
    assert (chip_cost(section, "cortex-m0", 1.0).instructions or 0) > 2.29 * cost.macs


def test_summary_prints_the_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    shown = command(capsys, "summary", "mcu", "--target", "cortex-m0")
    assert "On a cortex-m0, estimated: 0.70 million instructions an image, 15 ms at 48 MHz" in shown.out
    assert "RAM: 2,076 bytes" in shown.out.splitlines()[-1]
    plain = command(capsys, "summary", "mcu")
    assert shown.out.startswith(plain.out.rstrip("\n"))
    fast = json.loads(command(capsys, "summary", "mcu", "--target", "cortex-m4", "--megahertz", "80", "--json").out)
    assert fast["target"]["milliseconds"] == pytest.approx(fast["target"]["instructions"] / 80_000)
    assert "target" not in json.loads(command(capsys, "summary", "mcu", "--json").out)


def test_an_avr_is_estimated_in_cycles_and_row_by_row(capsys: pytest.CaptureFixture[str]) -> None:
    shown = command(capsys, "summary", "uno", "--target", "avr").out.splitlines()
    table = json.loads(command(capsys, "summary", "uno", "--target", "avr", "--json").out)["target"]
    assert table["instructions"] is None
    assert table["cycles"] == pytest.approx(COUNTED_UNO[0], rel=0.08)
    assert table["flash"] == pytest.approx(COUNTED_UNO[1], rel=0.05)
    assert 0 <= table["ram"] - COUNTED_UNO[2] <= 3
    assert table["milliseconds"] == pytest.approx(table["cycles"] / 16_000)
    assert shown[-2].startswith(f"On an avr, estimated: {table['cycles'] / 1e6:.2f} million cycles an image")
    assert "a row of pixels" in shown[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--megahertz", "16"), "--target"),
        (("--target", "cortex-m0", "--megahertz", "0"), "from 0.001 to 100000"),
        (("--target", "cortex-m0", "--megahertz", "nan"), "from 0.001 to 100000"),
    ],
)
def test_a_clock_that_cannot_be_is_refused(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = command(capsys, "summary", "mcu", *arguments)
    assert shown.status == 2
    assert said in shown.err
