"""The C form on an AVR, whose int has 16 bits and whose constants go to RAM unless marked: under simavr."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray
from test_c import STRICT, images_of, integers, run, strided_network, wide_network, write
from test_c_api import COLOURED, DIGITS, NAMED, network_of
from test_c_api import write as write_section

import kilonet
from helpers import in_ci
from kilonet.data.datasets import DataSet
from kilonet.export.c import codegen
from kilonet.export.c.header import CFacts
from kilonet.export.c.prefix import with_prefix
from kilonet.export.integer import IntegerNetwork, integer_logits
from kilonet.export.quantisation import QuantisationResult, quantise
from kilonet.models.model import Model, load_model
from kilonet.network.section import ModelSection
from strategies import images_for, model_of, models

PROGRAM = Path(kilonet.__file__).parent / "export" / "c" / "emulated" / "avr.c"
MEGA, UNO = "atmega2560", "atmega328p"
FLAGS = ("-Os", *STRICT, "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections")
FILES = (*codegen.LIBRARY_FILES, "kilonet_answer.c", "kilonet_selftest.c")
TOOLS = {"avr-gcc": "gcc-avr", "avr-g++": "gcc-avr", "avr-size": "binutils-avr", "simavr": "simavr"}
_COLOURS = re.compile(r"\x1b\[\d*m")
_PADDING = 3
"""The most bytes by which an AVR, which aligns nothing, needs less RAM than the export says."""


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    missing = {package for tool, package in TOOLS.items() if not shutil.which(tool)}
    if (
        not missing
        and subprocess.run(
            ["avr-gcc", "-E", "-include", "avr/pgmspace.h", "-xc", os.devnull], capture_output=True, check=False
        ).returncode
    ):
        missing = {"avr-libc"}
    if missing:
        pytest.skip(f"needs {' '.join(sorted(missing))}")


@dataclass(frozen=True)
class Found:
    """What a program printed, and its sizes in bytes."""

    logits: NDArray[np.int64]
    last: list[int]
    """Self-test, label, stack and cycles; of whole images the stack alone."""
    flash: int
    data: int
    bss: int


def emulated(network: IntegerNetwork, pixels: NDArray[np.uint8], folder: Path, chip: str, *, whole: bool) -> Found:
    """Build the program for images in flash, without a warning, and run it."""
    write(network, folder)
    rows = ",\n".join("{" + ",".join(map(str, image.flatten())) + "}" for image in pixels)
    (folder / "images.h").write_text(
        f"#define IMAGES {len(pixels)}\n"
        f"static const uint8_t images[IMAGES][KILONET_PIXELS] KILONET_FLASH = {{\n{rows}}};\n",
        encoding="utf-8",
    )
    shutil.copy(PROGRAM, folder / "avr.c")
    whole_images = ["-DWHOLE"] if whole else []
    run("avr-gcc", *FLAGS, f"-mmcu={chip}", *whole_images, "-o", "image.elf", "avr.c", *FILES, folder=folder)
    text, data, bss = map(int, run("avr-size", "image.elf", folder=folder).splitlines()[1].split()[:3])
    printed = simulated(folder, chip, "image.elf")
    # It shows the end of a line as a dot.
    *logits, last = (
        list(map(int, line.removesuffix(".").split()))
        for line in printed.splitlines()
        if re.fullmatch(r"-?\d[-\d ]*\.", line)
    )
    return Found(np.array(logits), last, text + data, data, bss)


def simulated(folder: Path, chip: str, program: str) -> str:
    """Return what a program printed. After a read beyond the RAM, simavr waits for a debugger until this fails."""
    command = ["simavr", "-m", chip, "-f", "16000000", program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return _COLOURS.sub("", done.stdout + done.stderr)


def check(network: IntegerNetwork, pixels: NDArray[np.uint8], folder: Path, chip: str, *, whole: bool) -> Found:
    """Check what such a program prints, and that no table is in RAM. Its own variables are pixels and logits."""
    found = emulated(network, pixels, folder, chip, whole=whole)
    expected = integer_logits(network, pixels)
    assert found.logits.tolist() == expected.tolist()
    ram = codegen.memory_bytes(network) - (0 if whole else int(np.prod(network.input_shape)))
    assert found.data == 0
    assert ram - _PADDING <= found.bss <= ram
    if not whole:
        assert found.last[:2] == [1, expected[-1].argmax()]
    return found


@pytest.mark.ci
def test_mcu_on_an_atmega2560(
    quantised_mcu: QuantisationResult, mnist: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mcu, pixels = quantised_mcu.network, mnist.test.pixels[:3].numpy()
    whole = check(mcu, pixels, tmp_path / "whole", MEGA, whole=True)
    rows = check(mcu, pixels, tmp_path / "rows", MEGA, whole=False)
    flash = [found.flash - pixels.size for found in (whole, rows)]
    with capsys.disabled():
        print(f"\n{MEGA}: flash {flash}, RAM {whole.bss} and {rows.bss}, stack {whole.last[0]} and {rows.last[2]}")
        print(f"{rows.last[3]:,} cycles an image")
    assert max(flash) < 18 << 10
    assert max(whole.last[0], rows.last[2]) < 380


TINY = ModelSection(layers=("conv 8 stride 2", "conv 12 stride 2", "conv 16 same", "gap", "pointwise 10"))
STATE = "static uint8_t row[KILONET_ROW_BYTES];\nstatic kilonet_state state;\n"
ROWS = "kilonet_begin(&state); (void)kilonet_row(&state, row, logits);"
CALLS = {
    "classify": ("static uint8_t pixels[KILONET_PIXELS];\n", "kilonet_classify(pixels, logits);"),
    "row": (STATE, ROWS),
    "selftest": (STATE, f"{ROWS} used = kilonet_top(logits).label; used = kilonet_selftest(&state, 0);"),
}


def sizes(folder: Path, chip: str, entry: str) -> str:
    """Return flash and RAM of a program that calls the C form in `folder` and no more, as the docs state them."""
    variables, calls = CALLS[entry]
    (folder / "one.c").write_text(
        f'#include "model.h"\n{variables}static int32_t logits[KILONET_CLASSES];\n'
        f"volatile int32_t used;\nint main(void) {{ {calls} used = logits[0]; return 0; }}\n"
    )
    run("avr-gcc", *FLAGS, f"-mmcu={chip}", "-o", "one.elf", "one.c", *FILES, folder=folder)
    text, data, bss = map(int, run("avr-size", "one.elf", folder=folder).splitlines()[1].split()[:3])
    # Without what keeps the logits in use.
    return f"| {text + data:,} | {data + bss - 4:,} |"


@pytest.mark.ci
def test_the_docs_state_what_an_avr_needs(quantised_mcu: QuantisationResult, small: DataSet, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "CHIP.md").read_text(encoding="utf-8")
    found = []
    for name, chip, entries in (("mcu", MEGA, CALLS), ("uno", UNO, ("row", "selftest"))):
        model = load_model(name)
        network = quantised_mcu.network if name == "mcu" else quantise(model, small.train).network
        for file, text in codegen.sources(network, model.section, model.metadata).items():
            (tmp_path / file).write_text(text, encoding="utf-8")
        found += [sizes(tmp_path, chip, entry) for entry in entries]
    assert [line for line in found if line not in page] == []


@pytest.mark.parametrize("section", [TINY, *in_ci(DIGITS, COLOURED)])
def test_a_tiny_network_on_an_atmega328p(
    section: ModelSection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = network_of(section)
    found = check(network, images_of(network)[:2], tmp_path, UNO, whole=False)
    with capsys.disabled():
        print(f"\n{UNO}: flash {found.flash}, RAM {found.bss}, stack {found.last[2]}, {found.last[3]:,} cycles")
    assert found.bss + found.last[2] < 2 << 10


@pytest.mark.ci
@pytest.mark.parametrize("make", [wide_network, strided_network])
def test_every_kind_of_table_is_read_from_flash(make: Callable[[], IntegerNetwork], tmp_path: Path) -> None:
    network = make()
    check(network, images_of(network)[:1], tmp_path, MEGA, whole=False)


@pytest.mark.ci
@hypothesis.settings(max_examples=4, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(model=models)
def test_random_networks_give_the_reference_s_logits(tmp_path: Path, model: Model) -> None:
    pixels = images_for(model.section, 1, 8)
    check(integers(model, pixels), pixels.numpy(), tmp_path, MEGA, whole=False)


FULL = """#include "model.h"
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>
static const uint8_t one[MANY] PROGMEM = {ALL}, two[MANY] PROGMEM = {ALL}, three[MANY] PROGMEM = {ALL};
static kilonet_state state;
int main(void)
{
    UCSR0B = _BV(TXEN0);
    UDR0 = (uint8_t)('0' + kilonet_selftest(&state, 0));
    UDR0 = '\\n';
    GPIOR0 = (uint8_t)(pgm_read_byte(&one[GPIOR1]) + pgm_read_byte(&two[GPIOR1]) + pgm_read_byte(&three[GPIOR1]));
    cli();
    sleep_enable();
    sleep_cpu();
    return 0;
}
"""


@pytest.mark.parametrize(("many", "passes"), [(10, 1), (21_600, 0), (21_845, 0)], ids=["none", "some", "all"])
def test_the_self_test_finds_tables_beyond_the_reach_of_pointers(many: int, passes: int, tmp_path: Path) -> None:
    """The linker puts constants of a program before those of the network, if it meets its file first."""
    write_section(COLOURED, tmp_path)
    (tmp_path / "full.c").write_text(FULL.replace("ALL", "255," * many), encoding="utf-8")
    run("avr-gcc", *FLAGS, f"-mmcu={MEGA}", f"-DMANY={many}", "-o", "full.elf", "full.c", *FILES, folder=tmp_path)
    names = dict(re.findall(r"0*(\w+) \w (\w+)\n", run("avr-nm", "full.elf", folder=tmp_path)))
    banks = [int(place, 16) >> 16 for place, name in names.items() if re.match(r"(weights|shift)_\d|kilonet_op", name)]
    assert (min(banks) > 0, max(banks) > 0) == (many == 21_845, many > 10)
    assert f"{passes}." in simulated(tmp_path, MEGA, "full.elf")


NAMES_IN_FLASH = """#include "meter_model.h"
static const char names[METER_CLASSES][METER_NAME_BYTES] METER_FLASH = METER_CLASS_NAMES;
char letter(uint8_t label, uint8_t place);
char letter(uint8_t label, uint8_t place)
{
    return METER_READ(char, &names[label][place]);
}
"""


@pytest.mark.parametrize("compiler", ["avr-gcc", "avr-g++"])
def test_names_of_classes_can_stay_in_flash(compiler: str, tmp_path: Path) -> None:
    write_section(DIGITS, tmp_path, "meter", NAMED)
    name, standard = ("one.c", "c99") if compiler == "avr-gcc" else ("one.cpp", "c++11")
    (tmp_path / name).write_text(NAMES_IN_FLASH, encoding="utf-8")
    files = [name, *(file.name for file in tmp_path.glob("meter_*.c") if compiler == "avr-gcc")]
    run(compiler, f"-mmcu={UNO}", "-Os", f"-std={standard}", *STRICT[1:], "-c", *files, folder=tmp_path)
    _, *sizes = run("avr-size", *(Path(file).with_suffix(".o") for file in files), folder=tmp_path).splitlines()
    assert all(line.split()[1] == "0" for line in sizes)
    assert int(sizes[0].split()[0]) > 10 * max(map(len, NAMED.names or ()))


def test_every_name_of_the_runtime_has_the_prefix() -> None:
    text = "".join(codegen.sources(network_of(DIGITS), DIGITS, facts=CFacts("meter")).values())
    assert "METER_FLASH" in text
    assert "KILONET_" not in text
    assert with_prefix("KILONET_READ(char, kilonet_x)", "meter") == "METER_READ(char, meter_x)"


def test_large_images_compile_and_a_network_that_an_avr_cannot_address_does_not(tmp_path: Path) -> None:
    """An AVR has no array of over 32,767 bytes, and its 16-bit pointers reach 64 KB of flash."""
    large = ModelSection(input=(3, 200, 200), layers=("conv 4 stride 4", "conv 8 stride 3", "gap", "pointwise 3"))
    network = integers(model_of(large, 3), images_for(large, 3, 2))
    pixels = images_for(large, 4, 1).numpy()
    for name, text in codegen.sources(network, large).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    run("avr-gcc", f"-mmcu={MEGA}", "-Os", *STRICT, "-c", *FILES, folder=tmp_path)
    assert pixels.size > 32767
    many = ModelSection(layers=("conv 8 stride 4", "conv 64", "conv 60", "conv 60", "gap", "pointwise 3"))
    write_section(many, tmp_path, "many")
    answer = run("avr-gcc", f"-mmcu={MEGA}", "-std=c99", "-c", "many_model.c", folder=tmp_path, status=1)
    assert "bytes of weights and tables, and an AVR reads 65,000 at most" in answer
    run("gcc", *STRICT, "-c", "many_model.c", folder=tmp_path)
