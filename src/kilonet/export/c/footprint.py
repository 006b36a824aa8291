"""The size of the C form on a microcontroller: bytes of flash and RAM, with code if a cross compiler is installed."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kilonet.export.c import codegen
from kilonet.export.c.prefix import DEFAULT_PREFIX, file_name
from kilonet.export.integer import IntegerNetwork
from kilonet.utils.compilers import run_compiler
from kilonet.utils.errors import CheckFailed

CROSS_COMPILER = "arm-none-eabi-gcc"
CROSS_FLAGS = ("-mcpu=cortex-m0", "-mthumb", "-Os", "-std=c99")


@dataclass(frozen=True)
class Footprint:
    """Sizes in bytes where pointers take four bytes. `str()` gives the lines that `kilonet export` prints."""

    weights: int
    tables: int
    """Biases, multipliers, shifts and the list of operations."""
    code: int | None
    """Runtime and compiler's helper functions on a Cortex-M0 at -Os; None without a cross compiler."""
    ram: int
    """Includes pixels and logits, but not the stack."""

    @property
    def flash(self) -> int:
        """Weights, tables and code, if its size is known."""
        return self.weights + self.tables + (self.code or 0)

    def as_json(self) -> dict[str, int | None]:
        """Return the figures by name."""
        return {name: getattr(self, name) for name in ("weights", "tables", "code", "flash", "ram")}

    def __str__(self) -> str:
        """Return the sizes in two lines."""
        code = f"code {self.code:,} (Cortex-M0, -Os)" if self.code is not None else f"code unknown: no {CROSS_COMPILER}"
        return (
            f"Flash: {self.flash:,} bytes: weights {self.weights:,}, tables {self.tables:,}, {code}\n"
            f"RAM: {self.ram:,} bytes, pixels and logits included, stack not"
        )

    def check(self, max_flash: int | None, max_ram: int | None) -> None:
        """Check the footprint against limits in bytes.

        Raises:
            CheckFailed: a limit is exceeded, or there is no cross compiler to measure flash with.
        """
        if max_flash is not None and self.code is None:
            raise CheckFailed(f"--max-flash needs {CROSS_COMPILER}, which measures the bytes of code; install it")
        limits = (("flash", self.flash, max_flash), ("ram", self.ram, max_ram))
        exceeded = [
            f"{found:,} bytes of {name}, over --max-{name} {limit:,}"
            for name, found, limit in limits
            if limit is not None and found > limit
        ]
        if exceeded:
            raise CheckFailed(f"the network takes {', and '.join(exceeded)}")


def footprint_of(network: IntegerNetwork, sources: Mapping[str, str], prefix: str = DEFAULT_PREFIX) -> Footprint:
    """Return the footprint of a network's C form: of kilonet_classify and all that it needs."""
    weights, tables = codegen.weight_bytes(network), codegen.table_bytes(network)
    linked = _linked_bytes(sources, prefix)
    return Footprint(
        weights, tables, None if linked is None else linked - weights - tables, codegen.memory_bytes(network)
    )


def _linked_bytes(sources: Mapping[str, str], prefix: str) -> int | None:
    """Return the bytes of flash of the form linked for a Cortex-M0, or None without a cross compiler."""
    compiler, size = shutil.which(CROSS_COMPILER), shutil.which("arm-none-eabi-size")
    if not compiler or not size:
        return None
    with tempfile.TemporaryDirectory(prefix="kilonet-") as name:
        folder = Path(name)
        for file, content in sources.items():
            (folder / file).write_text(content, encoding="utf-8")
        entry = f"-Wl,--gc-sections,-e{prefix}_classify"
        linking = ("-nostdlib", "-ffunction-sections", "-fdata-sections", entry)
        files = (file_name(file, prefix) for file in codegen.LIBRARY_FILES)
        run_compiler([compiler, *CROSS_FLAGS, *linking, "-o", "model.elf", *files, "-lgcc"], folder)
        _, figures = run_compiler([size, "model.elf"], folder).splitlines()
    text, data, *_ = map(int, figures.split()[:3])
    return text + data
