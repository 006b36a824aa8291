"""The C form on microcontrollers under emulators: every kernel equal to the reference to the bit, and what it takes."""

import functools
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from test_c import images_of, integers, needs_cross_compiler, run, sources, strided_network, wide_network, write

from helpers import command, in_ci, needs_target, refusal
from kilonet.data.datasets import DataSet
from kilonet.export.c import codegen, targets
from kilonet.export.c.targets import TARGETS, Target, TargetResult, run_target
from kilonet.export.exporter import export_model
from kilonet.export.integer import (
    IntegerConvolution,
    IntegerNetwork,
    IntegerOperation,
    Pixels,
    integer_logits,
    rounding_half,
)
from kilonet.export.quantisation import QuantisationResult, quantise
from kilonet.export.verify import verify
from kilonet.models.model import Model, load_model
from kilonet.network.c_ram import goes_by_planes
from kilonet.network.chip_cost import chip_cost
from kilonet.network.section import ModelSection
from kilonet.recipe import load_recipe
from kilonet.utils.errors import KilonetError
from strategies import images_for, model_of, models

KERNELS = {
    target.name: target for target in TARGETS if target.name in ("cortex-m0", "cortex-m4", "cortex-m55", "rv32imac")
}
"""One target for each family of kernels."""
AVR = next(target for target in TARGETS if target.name == "avr")
each_kernel = pytest.mark.parametrize(
    "target",
    [
        pytest.param(target, id=name, marks=() if name == "cortex-m4" else pytest.mark.ci)
        for name, target in KERNELS.items()
    ],
)
SIDE_BY_SIDE = (
    *("conv 7", "conv 7 5x5 same depthwise residual", "pointwise 11", "conv 11 depthwise", "conv 9", "conv 18 1x1"),
    *("conv 13 stride 2", "conv 13 2x2 depthwise", "conv 22", "conv 22 same residual", "maxpool 2", "conv 15 1x1"),
    "conv 30 1x1 depthwise",
)
"""Numbers of outputs that fill no block, in convolutions of each kind."""
WINDOWS = (
    *("conv 9 same", "pointwise 3", "conv 3 9x9 same depthwise residual", "conv 9 7x7 depthwise", "pointwise 10"),
    *("conv 10 6x6 stride 2 depthwise", "pointwise 13", "conv 13 5x5 same depthwise residual", "pointwise 2"),
    *("conv 4 1x1 depthwise", "pointwise 1", "conv 7 2x2"),
)
"""Windows of many sizes, and fewer outputs than a kernel computes at once."""

BY_PLANES = (
    *("conv 3 5x5 depthwise", "pointwise 9", "conv 9 5x5 same depthwise residual", "conv 9 1x1", "maxpool 2"),
    *("conv 9 5x5 same depthwise", "conv 14 1x1", "conv 14 5x5 depthwise", "conv 11 1x1"),
    "conv 11 5x5 same depthwise residual",
)
"""Depthwise convolutions of 5x5 with any number of channels, of columns beyond fours, and with what surrounds them."""


@functools.cache
def lively(section: ModelSection, seed: int) -> IntegerNetwork:
    """Return a network that gives each image other logits, so that no wrong value is hidden."""
    network = integers(model_of(section, seed), images_for(section, 4, 50))
    assert len(np.unique(integer_logits(network, images_of(network)), axis=0)) == 40
    return network


def found_on(target: Target, network: IntegerNetwork, written: dict[str, str] | None = None) -> TargetResult:
    needs_target(target)
    texts = {name: text.encode() for name, text in (written or sources(network)).items()}
    found = run_target(target, network, texts, images_of(network)[:10])
    assert (found.not_run, found.differing_logits) == ("", 0)
    assert found.images == 10
    return found


def with_self_test(texts: dict[str, str]) -> dict[str, str]:
    """Return C whose logits are right only if the self-test passes, which gives its images row by row."""
    classify, with_test = "kilonet_classify_with(&state, pixels, logits);", "logits[0] += !kilonet_selftest(&state, 0);"
    model = texts["model.c"].replace(classify, f"{classify}\n    {with_test}") + texts["kilonet_selftest.c"]
    assert with_test in model
    return {**texts, "model.c": model}


@each_kernel
@pytest.mark.parametrize("make", [wide_network, strided_network], ids=["wide", "strided"])
def test_every_kind_of_layer_gives_the_reference_s_logits(target: Target, make: Callable[[], IntegerNetwork]) -> None:
    found_on(target, make())


@each_kernel
def test_any_number_of_outputs_gives_the_reference_s_logits(target: Target) -> None:
    network = lively(ModelSection(input=(1, 28, 30), layers=(*SIDE_BY_SIDE, "gap", "pointwise 5")), 5)
    convolutions = [one for one in network.operations if isinstance(one, IntegerConvolution)]
    shown = {convolution.operation.channels_out % 10 for convolution in convolutions}
    assert {0, 1, 2, 3, 5, 7, 8, 9} <= shown
    found_on(target, network)


@functools.cache
def small_depthwise_network() -> IntegerNetwork:
    layers = ("conv 6", "conv 6 same depthwise residual", "pointwise 9", "gap", "pointwise 5")
    return lively(ModelSection(input=(1, 9, 9), layers=layers), 4)


@functools.cache
def generic_on(target: str) -> TargetResult:
    """What the C for all processors takes on one of them."""
    return found_on(KERNELS[target], small_depthwise_network())


@pytest.mark.parametrize(
    ("family", "target"),
    [
        ("cortex-m4", "cortex-m4"),
        *in_ci(("cortex-m0", "cortex-m0"), ("cortex-m55", "cortex-m55"), ("rv32", "rv32imac")),
        # Other processors than it is for; the last of them has the instructions of the third, too.
        ("cortex-m4", "cortex-m55"),
        *in_ci(("avr", "cortex-m4"), ("cortex-m55", "cortex-m4"), ("cortex-m0", "cortex-m55")),
    ],
)
def test_what_is_exported_for_a_processor_is_as_fast_there_and_right_on_others(family: str, target: str) -> None:
    network = small_depthwise_network()
    own = sources(network, family)
    assert len(own["model.c"]) < 0.7 * len(sources(network)["model.c"])
    found, fastest = found_on(KERNELS[target], network, own), generic_on(target)
    assert found.instructions is not None
    assert fastest.instructions is not None
    if target.startswith(family):
        # The same instructions; where the tables begin may move some of them.
        assert found.instructions == pytest.approx(fastest.instructions, rel=0.01)
        assert found.flash == pytest.approx(fastest.flash, rel=0.01)
    else:
        assert found.instructions > fastest.instructions


@pytest.mark.parametrize("family", ["cortex-m0", "cortex-m4", "cortex-m55"])
def test_what_is_exported_for_a_processor_passes_its_self_test_here(family: str, tmp_path: Path) -> None:
    if not shutil.which("cc"):
        pytest.skip("needs cc")
    network = lively(ModelSection(input=(1, 9, 9), layers=("conv 6", "gap", "pointwise 5")), 4)
    for name, text in sources(network, family).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    program = "static kilonet_state state;\nint main(void)\n{\n    return !kilonet_selftest(&state, 0);\n}\n"
    (tmp_path / "test.c").write_text(f'#include "model.h"\n{program}')
    files = (*codegen.LIBRARY_FILES, "kilonet_selftest.c", "test.c")
    run("cc", "-std=c99", "-march=native", "-Werror", "-Wall", *files, "-o", "test", folder=tmp_path)
    run("./test", folder=tmp_path)


@each_kernel
def test_windows_of_any_size_give_the_reference_s_logits_and_pass_the_self_test(target: Target) -> None:
    needs_target(target)
    network = lively(ModelSection(input=(2, 28, 31), layers=(*WINDOWS, "gap", "pointwise 3")), 5)
    convolutions = [one.operation for one in network.operations if isinstance(one, IntegerConvolution)]
    assert {one.kernel for one in convolutions if one.groups > 1} >= {1, 5, 6, 7, 9}
    assert {one.channels_out for one in convolutions} >= {1, 2, 3, 4}
    written = {name: text.encode() for name, text in with_self_test(sources(network)).items()}
    found = run_target(target, network, written, images_of(network)[:3])
    assert (found.not_run, found.differing_logits) == ("", 0)


PAIRS = [target for target in TARGETS if target.name in ("cortex-m4", "cortex-m33")]


@pytest.mark.parametrize("target", PAIRS, ids=[target.name for target in PAIRS])
@pytest.mark.parametrize("columns", [*in_ci(18, 20), 19, 21])
def test_four_pixels_at_once_are_the_reference_s_and_rows_give_them_too(target: Target, columns: int) -> None:
    needs_target(target)
    network = lively(ModelSection(input=(3, 18, columns), layers=(*BY_PLANES, "gap", "pointwise 4")), 6)
    placed = [(one.operation, shape) for one, shape in network.placed if isinstance(one, IntegerConvolution)]
    by_planes = [goes_by_planes(operation, shape) for operation, shape in placed if operation.groups > 1]
    # The last two may have too few columns.
    assert by_planes == [*3 * [True], *2 * [columns >= 20]]
    found_on(target, network, with_self_test(sources(network)))


@pytest.mark.ci
@each_kernel
@pytest.mark.parametrize("second", ["conv 6 same residual", "conv 6 5x5 same depthwise residual"])
def test_an_offset_of_more_than_32_bits_gives_the_reference_s_logits(target: Target, second: str) -> None:
    section = ModelSection(input=(1, 9, 9), layers=("conv 6 same", second, "gap", "pointwise 3"))
    network = lively(section, 4)
    placed = list(network.placed)
    operations = list(network.operations)
    residual, shape = placed[1]
    assert isinstance(residual, IntegerConvolution)
    output = residual.output
    for least, is_narrow in ((1 << 31, False), ((1 << 31) - 1, True)):
        offset = output.offset.copy()
        # Both signs, one of which hides the sum, and one value of each kind that does not.
        offset[:2] = least, -least
        operations[1] = replace(residual, output=replace(output, offset=offset))
        assert codegen.requantises_in_32_bits(operations[1], shape) == is_narrow
        found_on(target, replace(network, operations=tuple(operations)))


@needs_cross_compiler
def test_a_ring_that_vectors_cannot_reach_asks_for_plain_c(tmp_path: Path) -> None:
    section = ModelSection(input=(1, 5, 512), layers=("conv 33", "conv 33 depthwise", "gap", "pointwise 3"))
    write(integers(model_of(section, 4), images_for(section, 4, 4)), tmp_path)
    flags = ("-c", "-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard", "-ffreestanding", "kilonet_runtime.c")
    shown = run("arm-none-eabi-gcc", *flags, folder=tmp_path, status=1)
    assert "keeps 33,759 bytes, vectors reach 32,768: -DKILONET_PLAIN" in shown
    run("arm-none-eabi-gcc", *flags, "-DKILONET_PLAIN", folder=tmp_path)


@each_kernel
def test_a_residual_sum_needs_no_other_offset(target: Target) -> None:
    network = lively(
        ModelSection(input=(1, 9, 9), layers=("conv 5 same", "conv 5 same residual", "gap", "pointwise 3")), 4
    )
    operations: list[IntegerOperation] = []
    for operation in network.operations:
        if isinstance(operation, IntegerConvolution) and operation.skip is not None:
            half = replace(operation.output, offset=rounding_half(operation.output.shift))
            operations.append(replace(operation, output=half))
        else:
            operations.append(operation)
    assert operations != list(network.operations)
    found_on(target, replace(network, operations=tuple(operations)))


@each_kernel
@hypothesis.settings(max_examples=3)
@hypothesis.given(model=models)
def test_random_networks_give_the_reference_s_logits(target: Target, model: Model) -> None:
    found_on(target, integers(model, images_for(model.section, 1, 8)))


MOST = {"cortex-m0": 675_000, "cortex-m4": 432_000, "cortex-m55": 143_000, "rv32imac": 616_000}
"""Instructions of an image of `mcu`, of which 203,424 are multiply-accumulates."""


@each_kernel
def test_what_an_image_of_mcu_takes(
    target: Target, quantised_mcu: QuantisationResult, mnist: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_target(target)
    mcu = quantised_mcu.network
    texts = {name: text.encode() for name, text in sources(mcu).items()}
    found = run_target(target, mcu, texts, mnist.test.pixels[:50].numpy())
    with capsys.disabled():
        print("", *found.cells())
    assert found.passed
    assert found.instructions is not None
    assert found.instructions < MOST[target.name]
    assert found.flash < 9_500
    assert found.ram == chip_cost(load_recipe("mcu").model, target.name, 1.0).ram
    assert found.stack < 512


def test_what_an_image_of_best_takes_where_four_pixels_are_computed_at_once(mnist: DataSet) -> None:
    target, best = KERNELS["cortex-m4"], load_model("best")
    found = found_on(target, integers(best, mnist.train.pixels[:100]))
    assert found.instructions is not None
    assert found.instructions < 4_800_000
    assert found.flash < 13_800
    assert found.ram == chip_cost(best.section, target.name, 1.0).ram


@needs_cross_compiler
@pytest.mark.parametrize("level", ["-Os", *in_ci("-O0")])
@pytest.mark.parametrize("processor", ["cortex-m0", "cortex-m55", *in_ci("cortex-m3", "cortex-m4")])
def test_cross_compilers_have_no_complaint(processor: str, level: str, tmp_path: Path) -> None:
    folder = write(wide_network(), tmp_path)
    header = folder / "model.h"
    # Every part of the runtime.
    header.write_text(re.sub(r"(KILONET_HAS_\w+) 0", r"\1 1", header.read_text()))
    flags = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow", level)
    freestanding = ("-std=c99", "-ffreestanding", "-mthumb", f"-mcpu={processor}")
    files = ("model.c", "kilonet_runtime.c", "kilonet_selftest.c")
    float_abi = ("-mfloat-abi=hard",) if processor == "cortex-m55" else ()
    run("arm-none-eabi-gcc", *flags, *freestanding, *float_abi, "-c", *files, folder=folder)
    if shutil.which("clang"):
        # Its MVE needs a header that knows the ABI of floats.
        cross = ("--target=arm-none-eabi", "-mfloat-abi=soft")
        run("clang", *cross, *flags, *freestanding, "-c", *files, folder=folder)


@pytest.fixture
def exported(
    quantised_mcu: QuantisationResult, small: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised_mcu)
    export_model("c", load_model("mcu"), small, tmp_path / "meter", "mcu", prefix="meter")
    return tmp_path / "meter"


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr("kilonet.export.verify.TARGETS", tuple(target for target in TARGETS if target.name in names))


@pytest.mark.ci
def test_verify_counts_on_a_target(
    exported: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(monkeypatch, "cortex-m4", "cortex-m0")
    needs_target(KERNELS["cortex-m4"])
    shown = command(capsys, "verify", exported, "--data", small_folder, "--targets")
    assert shown.status == 0
    heads, _, m0, m4 = shown.out.splitlines()[-4:]
    assert heads.split() == ["target", "images", "logits", "instructions", "flash", "RAM", "stack"]
    assert (m0.split()[0], *m4.split()[:3]) == ("cortex-m0", "cortex-m4", "200", "0")


def test_verify_fails_where_a_target_differs(
    exported: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(monkeypatch, "cortex-m4")
    needs_target(KERNELS["cortex-m4"])
    kernels = exported / "meter_kernels.h"
    # Only these processors have the instruction, so the C form passes on this machine.
    kernels.write_text(kernels.read_text().replace("smmulr", "smmul"))
    shown = command(capsys, "verify", exported, "--data", small_folder, "--targets", "--run-foreign-code")
    assert shown.status == 1
    assert "DIFFERS" in next(line for line in shown.out.splitlines() if line.startswith("cortex-m4"))
    assert "DIFFERS" not in next(line for line in shown.out.splitlines() if line.startswith("c "))


def test_what_is_missing_is_said(
    exported: Path,
    small: DataSet,
    small_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    only(monkeypatch, "cortex-m4", "rv32imac")
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *rest: None if "riscv" in name else real(name, *rest))
    if not KERNELS["cortex-m4"].missing:
        shown = command(capsys, "verify", exported, "--data", small_folder, "--targets")
        assert shown.out.splitlines()[-1] == "rv32imac: not run here: no riscv64-unknown-elf-gcc here"
        assert shown.status == 0
    monkeypatch.setattr(shutil, "which", lambda name, *rest: None if "-" in name else real(name, *rest))
    with pytest.raises(KilonetError) as error:
        verify(exported, small.test, targets=True)
    refusal(error, "--targets needs a compiler and an emulator", "docs/CHIP.md")


def on_an_avr(network: IntegerNetwork, pixels: Pixels) -> TargetResult:
    needs_target(AVR)
    texts = {name: text.encode() for name, text in sources(network).items()}
    return run_target(AVR, network, texts, pixels)


@pytest.mark.ci
def test_uno_fits_an_atmega328p(small: DataSet, mnist: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    network = quantise(load_model("uno"), small.train).network
    monkeypatch.setattr(targets, "_AVR_IMAGE_BYTES", 2 * 784)
    found = on_an_avr(network, mnist.test.pixels[:4].numpy())
    assert (found.chip, found.images, found.differing_logits) == ("atmega328p", 4, 0)
    assert found.cells()[0] == "atmega328p"
    assert found.flash <= 20 << 10
    assert found.ram + found.stack <= 2 << 10


@pytest.mark.slow
def test_uno_is_right_on_100_images_on_an_atmega328p(small: DataSet, mnist: DataSet) -> None:
    network = quantise(load_model("uno"), small.train).network
    pixels = mnist.test.pixels[:100].numpy()
    found = on_an_avr(network, pixels)
    assert (found.chip, found.images, found.differing_logits) == ("atmega328p", 100, 0)
    assert integer_logits(network, pixels).argmax(1).tolist() == mnist.test.labels[:100].tolist()


def test_an_avr_gets_as_many_images_as_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "_AVR_CYCLES", 1)
    section = ModelSection(layers=("conv 3 stride 4", "gap", "pointwise 3"))
    network = integers(model_of(section, 4), images_for(section, 4, 4))
    found = on_an_avr(network, images_of(network))
    assert (found.images, found.differing_logits) == (2, 0)


def test_a_network_takes_the_avr_that_it_fits() -> None:
    much = ModelSection(layers=("conv 60 stride 2", "conv 4 stride 2", "gap", "pointwise 3"))
    large = ModelSection(input=(1, 4, 4), layers=("conv 50 2x2", "conv 70 2x2", "conv 80 2x2", "pointwise 3"))
    for section in (much, large):
        network = integers(model_of(section, 4), images_for(section, 4, 4))
        found = on_an_avr(network, images_of(network)[:1])
        assert (found.chip, found.differing_logits) == ("atmega2560", 0)


def test_a_network_too_large_for_an_avr_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "missing", "")
    section = ModelSection(layers=("conv 60 same", "conv 4 5x5 same", "gap", "pointwise 3"))
    network = integers(model_of(section, 4), images_for(section, 4, 4))
    found = run_target(AVR, network, {}, images_of(network))
    assert found.not_run == f"it needs {codegen.memory_bytes(network) - 784:,} bytes of RAM and the stack, of 8,192"


def test_targets_are_for_the_c_form(
    small: DataSet, quantised_mcu: QuantisationResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised_mcu)
    export_model("html", load_model("mcu"), small, tmp_path, "mcu")
    with pytest.raises(KilonetError) as error:
        verify(tmp_path, small.test, targets=True)
    refusal(error, "--to c")
