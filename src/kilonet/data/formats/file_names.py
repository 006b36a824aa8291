"""Image files with the class in the name of each file, found by a regular expression."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kilonet.data.formats.class_folders import Skipped, part_folders, skip_strays, unread
from kilonet.data.image_folders import list_files
from kilonet.data.parts import Listing, PartName, labelled_parts
from kilonet.utils.errors import KilonetError

LONGEST_NAME = 255
"""How many characters of a file's name are searched."""
SECONDS = 20
"""The most time that searching all names may take: some expressions would take longer than anybody waits."""

_PATTERNS = (r"^([^\W\d_]+)[-_ .(]*\d", r"^([^-_ ]+)[-_ ]", r"[-_ ]([^-_ .]+)\.[^.]+$")
"""Where a label is: letters before a number, what is before the first sign between words, or behind the last."""
_LEAST = 3
"""The fewest images of a label that a pattern finds by itself."""

# Python's `re` cannot be given a limit, so that it runs in a process, which can be ended.
_SEARCH = """
import json, re, sys
pattern, group, names = json.load(sys.stdin)
search = re.compile(pattern).search
json.dump([found[group] if (found := search(name)) else None for name in names], sys.stdout)
"""


def list_named_files(folder: Path, pattern: str) -> Listing:
    """List image files whose names hold their labels.

    Args:
        folder: the folder, with or without parts.
        pattern: a regular expression that is searched in the name of each file; its group `label`, or its only group,
            is the name of the class.

    Raises:
        KilonetError: the pattern will not do, takes too long, or matches no file.
    """
    check_pattern(pattern)
    parts = part_folders(folder, flat=True)
    skipped: Skipped = []
    found: dict[PartName, list[tuple[Path, str]]] = {}
    for part, place in (parts or {"all": folder}).items():
        files = list_files(place)
        skipped += unread(files.others)
        labels = labels_in([path.name for path in files.images], pattern)
        pairs = list(zip(files.images, labels, strict=True))
        found[part] = [(path, label) for path, label in pairs if label]
        skipped += [(path, f"{path}: its name does not match --label-pattern") for path, label in pairs if not label]
        if not found[part]:
            raise KilonetError(f"{place}: --label-pattern '{pattern}' matches the name of no image")
    if parts:
        skip_strays(folder, set(parts.values()), skipped)
    labelled, names = labelled_parts(found, folder)
    return Listing(labelled, names, tuple(skipped))


def check_pattern(pattern: str) -> int | str:
    """Return the group of a pattern that is the label.

    Raises:
        KilonetError: it is no regular expression, or has neither one group nor one named `label`.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise KilonetError(f"--label-pattern '{pattern}': no regular expression: {error}") from None
    if "label" in compiled.groupindex:
        return "label"
    if compiled.groups != 1:
        raise KilonetError(
            f"--label-pattern '{pattern}': it has {compiled.groups} groups (...), not one; (?P<label>...) names one"
        )
    return 1


def labels_in(names: Sequence[str], pattern: str, seconds: float = SECONDS) -> list[str | None]:
    """Return the label in each name; None where the pattern does not match.

    Raises:
        KilonetError: the pattern will not do, or takes over `seconds`.
    """
    group = check_pattern(pattern)
    question = json.dumps([pattern, group, [name[-LONGEST_NAME:] for name in names]])
    try:
        answer = subprocess.run(  # noqa: S603
            [sys.executable, "-I", "-S", "-c", _SEARCH],
            input=question,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise KilonetError(
            f"--label-pattern '{pattern}' takes over {seconds:g} s on these names; leave out a repetition"
        ) from None
    except subprocess.CalledProcessError as error:
        raise KilonetError(f"--label-pattern '{pattern}' cannot be searched: {error.stderr.strip()[-200:]}") from None
    labels: list[str | None] = json.loads(answer.stdout)
    return labels


def inferred_pattern(names: Sequence[str]) -> str | None:
    """Return the pattern that finds a label in the name of every file; None if none does, or several do differently.

    Each label is then in three names or more, and there are five times as many names as labels. Labels with letters go
    before numbers, which may count the files of each class.
    """
    found: dict[tuple[str, ...], str] = {}
    for pattern in _PATTERNS:
        search = re.compile(pattern).search
        labels = tuple(match[1] for name in names if len(name) <= LONGEST_NAME and (match := search(name)))
        counts = Counter(labels)
        # Numbers with zeros before them count the files of a class.
        if any(re.fullmatch(r"0\d+", label) for label in counts):
            continue
        if len(labels) == len(names) and 2 <= len(counts) <= len(names) // 5 and min(counts.values()) >= _LEAST:
            found.setdefault(labels, pattern)
    named = {labels: pattern for labels, pattern in found.items() if all(re.search(r"[^\W\d_]", one) for one in labels)}
    likely = list((named or found).values())
    return likely[0] if len(likely) == 1 else None


def suggested_pattern(name: str) -> str:
    """Return a pattern that may be meant for a file's name such as `cat_001.jpg`, for a message."""
    stem = Path(name).stem
    if re.match(r"[^\W\d_]+[-_ .]?\d+$", stem):
        return r"^([^\W\d_]+)"
    sign = found[0] if (found := re.search(r"[-_ ]", stem)) else ""
    if not sign:
        return "^(.)"
    return f"^([^{sign}]+){sign}" if not stem.partition(sign)[0].isdecimal() else rf"{sign}([^{sign}.]+)\.[^.]+$"
