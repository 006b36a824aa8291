"""Build the C form for microcontrollers, run it under emulators, and count what an image takes there.

qemu's clock is set to a nanosecond an instruction, so that counts are the same on every machine; simavr counts cycles.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.export.c.codegen import LIBRARY_FILES, memory_bytes
from kilonet.export.c.prefix import DEFAULT_PREFIX, file_name, with_prefix
from kilonet.export.integer import IntegerNetwork, Pixels, integer_logits
from kilonet.utils.compilers import run_compiler
from kilonet.utils.errors import KilonetError

IMAGES = 200
"""The most images that a target classifies."""
_IMAGE_BYTES = 256 << 10
_AVR_IMAGES, _AVR_CYCLES, _AVR_IMAGE_BYTES = 100, 1_250_000_000, 16 << 10
"""The most images that an AVR classifies, and about how many cycles for all of them together: 20 seconds."""
_AVR_STACK = 512
_TIMEOUT_SECONDS = 600
_LOOP_INSTRUCTIONS = 1_000_000
LEVEL = "-Os"
"""The level of optimisation that docs/CHIP.md recommends."""
_FLAGS = ("-std=gnu99", "-ffreestanding", "-ffunction-sections", "-fdata-sections")
_COLOURS = re.compile(r"\x1b\[\d*m")


@dataclass(frozen=True)
class Target:
    """A processor, its compiler and its emulator."""

    name: str
    tools: str
    """What the names of compiler and linker begin with."""
    flags: tuple[str, ...]
    emulator: tuple[str, ...]
    flash: int = 0
    """Address where flash begins."""
    ram: int = 0x20000000

    @property
    def missing(self) -> str:
        """Return the first program that is not installed, or ''."""
        programs = (f"{self.tools}gcc", f"{self.tools}size", self.emulator[0])
        return next((program for program in programs if not shutil.which(program)), "")


def _arm(name: str, machine: str, *flags: str, flash: int = 0, ram: int = 0x20000000) -> Target:
    emulator = ("qemu-system-arm", "-M", machine)
    return Target(name, "arm-none-eabi-", ("-mthumb", f"-mcpu={name}", *flags), emulator, flash, ram)


TARGETS = (
    # Code for a Cortex-M0 runs on a Cortex-M3 as it is, and the board of the latter has RAM for any network.
    _arm("cortex-m0", "mps2-an385"),
    _arm("cortex-m4", "mps2-an386"),
    _arm("cortex-m33", "mps2-an505", flash=0x10000000, ram=0x38000000),
    _arm("cortex-m55", "mps3-an547", "-mfloat-abi=hard", flash=0x10000000, ram=0x30000000),
    Target(
        *("rv32imac", "riscv64-unknown-elf-", ("-march=rv32imac", "-mabi=ilp32")),
        ("qemu-system-riscv32", "-M", "virt", "-bios", "none"),
        0x80000000,
        0x80200000,
    ),
    Target("avr", "avr-", (), ("simavr", "-f", "16000000")),
)
"""All targets. `avr` is the first of `AVR_CHIPS` that has room; it gets images row by row."""


@dataclass(frozen=True)
class AvrChip:
    """An AVR with its memories, in bytes."""

    name: str
    flash: int
    ram: int


AVR_CHIPS = (AvrChip("atmega328p", 32 << 10, 2 << 10), AvrChip("atmega2560", 256 << 10, 8 << 10))
"""The AVRs of the Arduino Uno and Mega, by size."""


@dataclass(frozen=True)
class TargetResult:
    """What a target has shown, or why it has shown nothing."""

    target: str
    chip: str = ""
    """The AVR, by its name; '' on other targets."""
    not_run: str = ""
    """Why it could not be built or run here; '' if it was."""
    images: int = 0
    differing_logits: int = 0
    instructions: int | None = None
    """An image, in the mean; None on an AVR."""
    cycles: int | None = None
    """The same in cycles, where these are counted instead."""
    flash: int = 0
    """Bytes of code and tables, without what starts the program; on an AVR with it."""
    ram: int = 0
    """Bytes of the state, of the logits and of an image or, on an AVR, of a row; without the stack."""
    stack: int = 0
    """Bytes, the caller's included."""

    @property
    def passed(self) -> bool:
        """Whether no logit differs."""
        return self.differing_logits == 0

    def cells(self) -> tuple[str, ...]:
        """Return the columns of a table."""
        count = f"{self.cycles:,} cycles" if self.cycles is not None else f"{self.instructions:,}"
        sizes = (f"{size:,}" for size in (self.flash, self.ram, self.stack))
        return (
            self.chip or self.target,
            str(self.images),
            f"{self.differing_logits:,}",
            count,
            *sizes,
            "" if self.passed else "DIFFERS",
        )


HEADS = ("target", "images", "logits", "instructions", "flash", "RAM", "stack", "")
"""The heads of the columns of `TargetResult.cells`."""


def run_target(
    target: Target,
    network: IntegerNetwork,
    sources: Mapping[str, bytes],
    pixels: Pixels,
    prefix: str = DEFAULT_PREFIX,
    *,
    level: str = LEVEL,
) -> TargetResult:
    """Build the C form for a target, and compare its logits under the emulator with the reference's.

    Args:
        target: the target.
        network: the integer network.
        sources: the content of the C form's files by name. This runs them, under an emulator.
        pixels: images, of which it takes the first: uint8 (N, channels, rows, columns).
        prefix: the prefix of the C form.
        level: the level of optimisation.

    Raises:
        KilonetError: a compiler or emulator fails.
    """
    if target.missing:
        return TargetResult(target.name, not_run=f"no {target.missing} here")
    is_avr = target.tools == "avr-"
    taken = pixels[: _AVR_IMAGES if is_avr else max(1, min(IMAGES, _IMAGE_BYTES // prod(network.input_shape)))]
    with tempfile.TemporaryDirectory(prefix="kilonet-") as name:
        folder = Path(name)
        for file, content in sources.items():
            (folder / file).write_bytes(content)
        write_start(folder, prefix)
        run = _run_avr if is_avr else _run_qemu
        return run(replace(target, flags=(*target.flags, level)), folder, prefix, network, taken)


def write_start(folder: Path, prefix: str = DEFAULT_PREFIX) -> None:
    """Write what starts a program under an emulator, for `count`."""
    for file in ("start.c", "semihosting.h", "avr.c", "link.ld"):
        text = (files("kilonet.export.c") / "emulated" / file).read_text(encoding="utf-8")
        (folder / file).write_text(with_prefix(text, prefix), encoding="utf-8")


def write_images(folder: Path, pixels: Pixels, prefix: str = DEFAULT_PREFIX) -> None:
    """Write images.h, and images.bin for the assembler: a compiler would take long to read pixels as numbers.

    Args:
        folder: where a program for an emulator is built.
        pixels: the images that it classifies: uint8 (N, channels, rows, columns).
        prefix: the prefix of the C form.
    """
    (folder / "images.bin").write_bytes(pixels.tobytes())
    text = f"""#define IMAGES {len(pixels)}
extern const uint8_t images[IMAGES][KILONET_PIXELS];
#ifdef __AVR__
#define PLACE ".progmem.data.images"
#else
#define PLACE ".images"
#endif
__asm__(".pushsection " PLACE ",\\"a\\"\\n.global images\\nimages: .incbin \\"images.bin\\"\\n.popsection");
"""
    (folder / "images.h").write_text(with_prefix(text, prefix), encoding="utf-8")


def _run_qemu(target: Target, folder: Path, prefix: str, network: IntegerNetwork, pixels: Pixels) -> TargetResult:
    write_images(folder, pixels, prefix)
    counted = count(target, folder, [file_name(file, prefix) for file in LIBRARY_FILES])
    return TargetResult(
        target.name,
        images=len(pixels),
        differing_logits=_differing(counted.logits, network, pixels),
        instructions=counted.instructions,
        flash=counted.flash,
        ram=counted.variables + prod(network.input_shape) + 4 * network.classes,
        stack=counted.stack,
    )


@dataclass(frozen=True, eq=False)
class Counted:
    """What a program under qemu printed of its images, and what it took."""

    logits: NDArray[Any]
    """int64 (N, classes)."""
    instructions: int
    """An image, in the mean."""
    flash: int
    """Bytes of code and tables, without what starts the program."""
    variables: int
    """Bytes."""
    stack: int
    """Bytes, the caller's included."""


def count(
    target: Target,
    folder: Path,
    files: Sequence[str],
    flags: Sequence[str] = (),
    libraries: Sequence[str] = ("-lgcc",),
) -> Counted:
    """Build a program that classifies images, and run it under qemu.

    Args:
        target: the target, no AVR.
        folder: where start.c and link.ld are, model.h, which declares kilonet_classify, images.h and the files.
        files: the files to compile beside start.c.
        flags: the compiler's, for these files alone.
        libraries: what to link besides.

    Raises:
        KilonetError: a compiler or the emulator fails.
    """
    compiler = [f"{target.tools}gcc", *target.flags, *_FLAGS]
    run_compiler([*compiler, "-c", "start.c"], folder)
    for file in files:
        run_compiler([*compiler, *flags, "-c", file], folder)
    linking = ("-nostdlib", "-static", "-Wl,--gc-sections", "-T", "link.ld")
    origins = (f"-Wl,--defsym=flash_origin={target.flash}", f"-Wl,--defsym=ram_origin={target.ram}")
    objects = [Path(file).with_suffix(".o").name for file in ("start.c", *files)]
    run_compiler([*compiler, *linking, *origins, "-o", "image.elf", *objects, *libraries], folder)
    sizes = dict(
        re.findall(r"^\.(\w+)\s+(\d+)", run_compiler([f"{target.tools}size", "-A", "image.elf"], folder), re.MULTILINE)
    )
    text, data, bss = (int(sizes.get(section, 0)) for section in ("text", "data", "bss"))
    clock = ("-nographic", "-semihosting-config", "enable=on,target=native", "-icount", "shift=0")
    *lines, stack, ticks = _emulate([*target.emulator, *clock, "-kernel", "image.elf"], folder, target.name)
    high, low, loop = _numbers(ticks, target.name)
    found = np.array([_numbers(line, target.name) for line in lines])
    instructions = round(((high << 30) + low) * _LOOP_INSTRUCTIONS / max(loop, 1) / max(len(found), 1))
    return Counted(found, instructions, text + data, data + bss, int(stack))


def _run_avr(target: Target, folder: Path, prefix: str, network: IntegerNetwork, pixels: Pixels) -> TargetResult:
    """Run on the smallest AVR that has room, in several runs, because few images fit its flash."""
    needed = memory_bytes(network) - prod(network.input_shape)
    refusal = ""
    for chip in AVR_CHIPS:
        if needed + _AVR_STACK > chip.ram:
            refusal = f"it needs {needed:,} bytes of RAM and the stack, of {chip.ram:,}"
            continue
        program = _AvrProgram(replace(target, flags=(*target.flags, f"-mmcu={chip.name}")), chip, folder, prefix)
        try:
            built = program.build(pixels[:1])
        except KilonetError as error:
            # The network may be too large for its flash.
            refusal = str(error)
            continue
        most = min(_AVR_IMAGE_BYTES, chip.flash - built[0]) // prod(network.input_shape)
        first = program.run(network, pixels[:1], *built)
        return program.run_others(network, pixels, most, first)
    return TargetResult(target.name, not_run=refusal)


@dataclass(frozen=True)
class _AvrProgram:
    """A program for an AVR that classifies the images linked into it."""

    target: Target
    chip: AvrChip
    folder: Path
    prefix: str

    def build(self, pixels: Pixels) -> tuple[int, int]:
        """Build it, and return its flash without the images and the RAM of its variables.

        Raises:
            KilonetError: it is too large for the chip.
        """
        write_images(self.folder, pixels, self.prefix)
        parts = (*LIBRARY_FILES, "kilonet_answer.c", "kilonet_selftest.c")
        library = [file_name(file, self.prefix) for file in parts]
        flags = (*self.target.flags, "-std=c99", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections")
        run_compiler(["avr-gcc", *flags, "-o", "image.elf", "avr.c", *library], self.folder)
        sizes = run_compiler(["avr-size", "image.elf"], self.folder).splitlines()[1].split()
        text, data, bss = map(int, sizes[:3])
        return text + data - pixels.size, data + bss

    def run_others(self, network: IntegerNetwork, pixels: Pixels, most: int, first: TargetResult) -> TargetResult:
        """Build and run it for as many images behind the first as `_AVR_CYCLES` allow, `most` of them at once."""
        count = min(len(pixels), max(2, _AVR_CYCLES // max(first.cycles or 0, 1)))
        step = max(1, most)
        parts = [pixels[at : min(count, at + step)] for at in range(1, count, step)]
        runs = [first, *(self.run(network, part, *self.build(part)) for part in parts)]
        return replace(
            first,
            images=count,
            differing_logits=sum(run.differing_logits for run in runs),
            cycles=round(sum((run.cycles or 0) * run.images for run in runs) / count),
            stack=max(run.stack for run in runs),
        )

    def run(self, network: IntegerNetwork, pixels: Pixels, flash: int, variables: int) -> TargetResult:
        """Run it as it was built for some images, with the flash and the RAM of its variables.

        Raises:
            KilonetError: the emulator fails.
        """
        name, row = self.target.name, prod(network.input_shape[::2])
        lines = _emulate([*self.target.emulator, "-m", self.chip.name, "image.elf"], self.folder, name)
        # It shows the end of a line as a dot.
        printed = [line.removesuffix(".") for line in lines if re.fullmatch(r"-?\d[-\d ]*\.", line)]
        if not printed:
            raise KilonetError(f"{name}: the emulator printed no logits")
        _, _, stack, cycles = _numbers(printed.pop(), name)
        found = np.array([_numbers(line, name) for line in printed])
        return TargetResult(
            name,
            self.chip.name,
            images=len(pixels),
            differing_logits=_differing(found, network, pixels),
            cycles=cycles,
            flash=flash,
            ram=variables + row,
            stack=stack - row,
        )


def _emulate(command: list[str], folder: Path, name: str) -> list[str]:
    """Return the lines that a program under an emulator prints."""
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KilonetError(f"{name}: the emulator {command[0]} cannot be run: {error}") from None
    lines = _COLOURS.sub("", done.stdout + done.stderr).splitlines()
    if done.returncode or len(lines) < 2:
        raise KilonetError(f"{name}: the emulator {command[0]} failed: {(lines or ['it printed nothing'])[-1]}")
    return lines


def _numbers(line: str, name: str) -> list[int]:
    try:
        return [int(word) for word in line.split()]
    except ValueError:
        raise KilonetError(f"{name}: the program under the emulator printed '{line[:80]}' instead of numbers") from None


def _differing(found: NDArray[Any], network: IntegerNetwork, pixels: Pixels) -> int:
    expected = integer_logits(network, pixels)
    return int((found != expected).sum()) if found.shape == expected.shape else expected.size
