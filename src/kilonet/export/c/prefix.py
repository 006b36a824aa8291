"""The prefix of the C form: what its functions, macros and files begin with, so that several fit into one program."""

import functools
import itertools
import re
from importlib.resources import files

from kilonet.utils.errors import KilonetError
from kilonet.utils.schema import shortened

DEFAULT_PREFIX = "kilonet"
RUNTIME_FILES = (
    *(
        "kilonet_runtime.h",
        "kilonet_kernels.h",
        "kilonet_runtime.c",
        "kilonet_vectors.c",
        "kilonet_answer.c",
        "kilonet_selftest.c",
    ),
    *("kilonet_resize.h", "kilonet_resize.c", "main.c", "Makefile"),
)
"""The files that are the same for every network, by their names with the default prefix."""
C_FILES = (*RUNTIME_FILES, "model.h", "model.c")
LONGEST_PREFIX = 16
"""C99 guarantees that linkers tell 31 characters apart, and the longest name adds 14."""
_PREFIX = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
"""Two underscores in a row are reserved in C++."""
_LIBRARY = re.compile(r"(lc|sig)(_.*)?")
"""Macros that begin with LC_ and SIG_ are the standard library's, such as SIG_BLOCK (C99, 7.26)."""
_KEYWORDS = frozenset(
    [
        "alignas",
        "alignof",
        "and",
        "and_eq",
        "asm",
        "auto",
        "bitand",
        "bitor",
        "bool",
        "break",
        "case",
        "catch",
        "char",
        "class",
        "compl",
        "concept",
        "const",
        "consteval",
        "constexpr",
        "constinit",
        "const_cast",
        "continue",
        "co_await",
        "co_return",
        "co_yield",
        "decltype",
        "default",
        "delete",
        "do",
        "double",
        "dynamic_cast",
        "else",
        "enum",
        "explicit",
        "export",
        "extern",
        "false",
        "float",
        "for",
        "friend",
        "goto",
        "if",
        "inline",
        "int",
        "long",
        "mutable",
        "namespace",
        "new",
        "noexcept",
        "not",
        "not_eq",
        "nullptr",
        "operator",
        "or",
        "or_eq",
        "private",
        "protected",
        "public",
        "register",
        "reinterpret_cast",
        "requires",
        "restrict",
        "return",
        "short",
        "signed",
        "sizeof",
        "static",
        "static_assert",
        "static_cast",
        "struct",
        "switch",
        "template",
        "this",
        "thread_local",
        "throw",
        "true",
        "try",
        "typedef",
        "typeid",
        "typename",
        "typeof",
        "union",
        "unsigned",
        "using",
        "virtual",
        "void",
        "volatile",
        "wchar_t",
        "while",
        "xor",
        "xor_eq",
    ]
)
"""Of C and C++."""


def check_prefix(prefix: str) -> None:
    """Check a prefix, which may come from a file that someone sent.

    Raises:
        KilonetError: it is no identifier as described in docs/CHIP.md, or names made of it clash with others.
    """
    if len(prefix) > LONGEST_PREFIX or not _PREFIX.fullmatch(prefix) or prefix in _KEYWORDS:
        raise KilonetError(
            f"the prefix {shortened(prefix)} must be up to {LONGEST_PREFIX} lower-case letters, digits and single "
            "underscores, begin with a letter, and be no word of C or C++"
        )
    if _LIBRARY.fullmatch(prefix):
        raise KilonetError(f"the prefix '{prefix}' gives names that are the C library's; choose another")
    if prefix != DEFAULT_PREFIX and clashes(prefix, runtime_texts()):
        raise KilonetError(f"the prefix '{prefix}' gives names that the C form has already; choose another")


def clashes(prefix: str, texts: tuple[str, ...]) -> bool:
    """Return whether a prefix gives a name that C files have, or may have with another prefix; capitals count as small.

    Args:
        prefix: the prefix.
        texts: the C files with the default prefix.
    """
    prefixed, others = _identifiers(texts)
    if any(f"{prefix}_{name}" in others for name in prefixed):
        return True
    # With kilonet_row and kilonet_resize_row, meter_resize cannot be a prefix beside meter.
    pairs = itertools.product(prefixed, prefixed)
    return any(long.endswith(f"_{short}") and prefix.endswith(f"_{long[: -len(short) - 1]}") for long, short in pairs)


@functools.cache
def _identifiers(texts: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the identifiers that begin with the default prefix, without it, and all others."""
    names = {name.lower() for text in texts for name in re.findall(r"[A-Za-z]\w*", text)}
    own = {name for name in names if name.startswith(f"{DEFAULT_PREFIX}_")}
    return frozenset(name.removeprefix(f"{DEFAULT_PREFIX}_") for name in own), frozenset(names - own)


@functools.cache
def runtime_texts() -> tuple[str, ...]:
    """Return the content of `RUNTIME_FILES`, with the default prefix."""
    folder = files("kilonet.export.c") / "runtime"
    return tuple((folder / name).read_text(encoding="utf-8") for name in RUNTIME_FILES)


def file_name(name: str, prefix: str) -> str:
    """Return the name that one of `C_FILES` has with a prefix."""
    if prefix == DEFAULT_PREFIX or name == "Makefile":
        return name
    return f"{prefix}_{name.removeprefix(f'{DEFAULT_PREFIX}_')}"


def original_name(name: str) -> tuple[str, str]:
    """Return the name of a file with the default prefix, and the prefix that it has; the inverse of `file_name`."""
    prefix, _, rest = name.rpartition("_")
    for original in (rest, f"{DEFAULT_PREFIX}_{rest}"):
        if prefix and original in C_FILES and file_name(original, prefix) == name:
            return original, prefix
    return name, DEFAULT_PREFIX


def with_prefix(text: str, prefix: str) -> str:
    """Return the text of a C file or of the Makefile with all names of the default prefix changed.

    It must hold nothing that others wrote, such as names of classes.
    """
    if prefix == DEFAULT_PREFIX:
        return text
    renamed = text.replace(f"{DEFAULT_PREFIX}_", f"{prefix}_").replace(
        f"{DEFAULT_PREFIX.upper()}_", f"{prefix.upper()}_"
    )
    return re.sub(r"\b(model|main)\.([cho])\b", rf"{prefix}_\1.\2", renamed)
