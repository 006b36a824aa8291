"""The C form on microcontrollers under emulators: every kernel equal to the reference to the bit, and what it takes."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
from test_c import images_of, integers, needs_cross_compiler, run, sources, strided_network, wide_network, write

from helpers import command, refusal
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
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError
from strategies import images_for, model_of, models

KERNELS = {
    target.name: target for target in TARGETS if target.name in ("cortex-m0", "cortex-m4", "cortex-m55", "rv32imac")
}
"""One target for each family of kernels."""
AVR = next(target for target in TARGETS if target.name == "avr")
each_kernel = pytest.mark.parametrize("target", KERNELS.values(), ids=KERNELS)
SIDE_BY_SIDE = (
    *("conv 7", "conv 7 5x5 same depthwise residual", "pointwise 11", "conv 11 depthwise", "conv 9", "conv 18 1x1"),
    *("conv 13 stride 2", "conv 13 2x2 depthwise", "conv 22", "conv 22 same residual", "maxpool 2", "conv 15 1x1"),
    "conv 30 1x1 depthwise",
)
"""Numbers of outputs that fill no block, in convolutions of each kind."""


def found_on(target: Target, network: IntegerNetwork) -> TargetResult:
    if target.missing and "CI" not in os.environ:
        pytest.skip(f"no {target.missing} here")
    texts = {name: text.encode() for name, text in sources(network).items()}
    found = run_target(target, network, texts, images_of(network))
    assert (found.not_run, found.differing_logits) == ("", 0)
    assert found.images == 40
    return found


@each_kernel
@pytest.mark.parametrize("make", [wide_network, strided_network], ids=["wide", "strided"])
def test_every_kind_of_layer_gives_the_reference_s_logits(target: Target, make: Callable[[], IntegerNetwork]) -> None:
    found_on(target, make())


@each_kernel
def test_any_number_of_outputs_gives_the_reference_s_logits(target: Target) -> None:
    section = ModelSection(input=(1, 28, 30), layers=(*SIDE_BY_SIDE, "gap", "pointwise 5"))
    network = integers(model_of(section, 4), images_for(section, 4, 50))
    convolutions = [one for one in network.operations if isinstance(one, IntegerConvolution)]
    shown = {convolution.operation.channels_out % 10 for convolution in convolutions}
    assert {0, 1, 2, 3, 5, 7, 8, 9} <= shown
    found_on(target, network)


@each_kernel
def test_a_residual_sum_needs_no_other_offset(target: Target) -> None:
    section = ModelSection(input=(1, 9, 9), layers=("conv 5 same", "conv 5 same residual", "gap", "pointwise 3"))
    network = integers(model_of(section, 4), images_for(section, 4, 50))
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


MOST = {"cortex-m0": 1_200_000, "cortex-m4": 720_000, "cortex-m55": 290_000, "rv32imac": 1_050_000}
"""Instructions of an image of `mcu`, of which 292,844 are multiply-accumulates."""


@each_kernel
def test_what_an_image_of_mcu_takes(
    target: Target, quantised_mcu: QuantisationResult, mnist: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    if target.missing and "CI" not in os.environ:
        pytest.skip(f"no {target.missing} here")
    mcu = quantised_mcu.network
    texts = {name: text.encode() for name, text in sources(mcu).items()}
    found = run_target(target, mcu, texts, mnist.test.pixels[:50].numpy())
    with capsys.disabled():
        print("", *found.cells())
    assert found.passed
    assert found.instructions is not None
    assert found.instructions < MOST[target.name]
    assert found.flash < 9_500
    assert 0 <= found.ram - codegen.memory_bytes(mcu) < 300
    assert found.stack < 512


@needs_cross_compiler
@pytest.mark.parametrize("level", ["-O0", "-Os"])
@pytest.mark.parametrize("processor", ["cortex-m0", "cortex-m3", "cortex-m4", "cortex-m55"])
def test_cross_compilers_have_no_complaint(processor: str, level: str, tmp_path: Path) -> None:
    folder = write(wide_network(), tmp_path)
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


def test_verify_counts_on_a_target(
    exported: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(monkeypatch, "cortex-m4", "cortex-m0")
    if KERNELS["cortex-m4"].missing:
        pytest.skip(f"no {KERNELS['cortex-m4'].missing} here")
    shown = command(capsys, "verify", exported, "--data", small_folder, "--targets")
    assert shown.status == 0
    heads, _, m0, m4 = shown.out.splitlines()[-4:]
    assert heads.split() == ["target", "images", "logits", "instructions", "flash", "RAM", "stack"]
    assert (m0.split()[0], *m4.split()[:3]) == ("cortex-m0", "cortex-m4", "200", "0")


def test_verify_fails_where_a_target_differs(
    exported: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(monkeypatch, "cortex-m4")
    if KERNELS["cortex-m4"].missing:
        pytest.skip(f"no {KERNELS['cortex-m4'].missing} here")
    kernels = exported / "meter_kernels.h"
    # Only these processors have the instruction, so the C form passes on this machine.
    kernels.write_text(kernels.read_text().replace("smulwb", "smulwt"))
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
    if AVR.missing and "CI" not in os.environ:
        pytest.skip(f"no {AVR.missing} here")
    texts = {name: text.encode() for name, text in sources(network).items()}
    return run_target(AVR, network, texts, pixels)


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
