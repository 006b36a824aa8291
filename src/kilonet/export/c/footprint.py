"""What the C form takes on a microcontroller: bytes of data and RAM, and of code where a cross compiler is there."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kilonet.export.c import codegen
from kilonet.export.c.bindings import run
from kilonet.export.integer import IntegerNetwork
from kilonet.utils.errors import CheckFailed

CROSS_COMPILER = "arm-none-eabi-gcc"
CROSS_FLAGS = ("-mcpu=cortex-m0", "-mthumb", "-Os", "-std=c99")


@dataclass(frozen=True)
class Footprint:
    """Bytes on a machine with pointers of four bytes. `str()` gives the lines that `kilonet export` prints."""

    weights: int
    tables: int
    """Biases, multipliers, shifts and the list of operations."""
    code: int | None
    """Of runtime and compiler's helpers on a Cortex-M0 at -Os; None without a cross compiler."""
    ram: int
    """Pixels and logits included, the stack not."""

    @property
    def flash(self) -> int:
        """Weights, tables and, if it is known, code."""
        return self.weights + self.tables + (self.code or 0)

    def as_json(self) -> dict[str, int | None]:
        """Return the figures by name."""
        return {name: getattr(self, name) for name in ("weights", "tables", "code", "flash", "ram")}

    def __str__(self) -> str:
        """Return two lines."""
        code = f"code {self.code:,} (Cortex-M0, -Os)" if self.code is not None else f"code unknown: no {CROSS_COMPILER}"
        return (
            f"Flash: {self.flash:,} bytes: weights {self.weights:,}, tables {self.tables:,}, {code}\n"
            f"RAM: {self.ram:,} bytes, pixels and logits included, stack not"
        )

    def check(self, max_flash: int | None, max_ram: int | None) -> None:
        """Hold the footprint to its limits, in bytes.

        Raises:
            CheckFailed: a limit is exceeded, or flash cannot be told without a cross compiler.
        """
        if max_flash is not None and self.code is None:
            raise CheckFailed(f"--max-flash cannot be held without {CROSS_COMPILER}, which tells the bytes of code")
        for name, found, limit in (("flash", self.flash, max_flash), ("ram", self.ram, max_ram)):
            if limit is not None and found > limit:
                raise CheckFailed(f"the network takes {found:,} bytes of {name}, over --max-{name} {limit:,}")


def footprint_of(network: IntegerNetwork, sources: Mapping[str, str]) -> Footprint:
    """Return what the C form of a network takes."""
    weights, tables = codegen.weight_bytes(network), codegen.table_bytes(network)
    linked = _linked_bytes(sources)
    return Footprint(
        weights, tables, None if linked is None else linked - weights - tables, codegen.memory_bytes(network)
    )


def _linked_bytes(sources: Mapping[str, str]) -> int | None:
    """Link the form for a Cortex-M0 with nothing but the compiler's helpers, and return its bytes of flash."""
    compiler, size = shutil.which(CROSS_COMPILER), shutil.which("arm-none-eabi-size")
    if not compiler or not size:
        return None
    with tempfile.TemporaryDirectory(prefix="kilonet-") as name:
        folder = Path(name)
        for file, content in sources.items():
            (folder / file).write_text(content, encoding="utf-8")
        linking = ("-nostdlib", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections,-ekilonet_classify")
        run([compiler, *CROSS_FLAGS, *linking, "-o", "model.elf", *codegen.LIBRARY_FILES, "-lgcc"], folder)
        _, figures = run([size, "model.elf"], folder).splitlines()
    text, data, *_ = map(int, figures.split()[:3])
    return text + data
