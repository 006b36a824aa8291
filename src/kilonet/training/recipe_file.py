"""A proposed recipe as a TOML file whose comments say why each value is what it is."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from kilonet.data.datasets import load_data
from kilonet.data.inspection.contact_sheet import contact_sheet, shown_classes
from kilonet.data.inspection.inspection import Inspection
from kilonet.data.preprocessing import Preprocessing
from kilonet.network.cost import NetworkCost, network_cost
from kilonet.recipe import Recipe
from kilonet.training.proposal import Limits, Proposal, propose
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import write_atomically
from kilonet.utils.terminal import printable, shell_word

_WIDTH = 118
_SECTIONS = ("model", "train", "augment", "run")
_SHOWN_CLASSES = 20


@dataclass(frozen=True)
class WrittenRecipe:
    """A recipe that was written. `str()` gives what `kilonet init` prints."""

    path: Path
    sheet: Path | None
    """The contact sheet, if one was written."""
    inspection: Inspection
    recipe: Recipe

    @property
    def cost(self) -> NetworkCost:
        """The cost of the network."""
        return network_cost(self.recipe.model)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain lists and numbers, for JSON."""
        return {
            "file": str(self.path),
            "sheet": None if self.sheet is None else str(self.sheet),
            "inspection": self.inspection.as_json(),
            "recipe": self.recipe.model_dump(mode="json", exclude_none=True),
            "cost": self.cost.as_json(),
        }

    def __str__(self) -> str:
        """Return the inspection, the cost and the next command."""
        lines = [str(self.inspection), "", str(self.cost), ""]
        if self.sheet:
            classes = len(self.inspection.classes)
            shown = len(shown_classes(classes))
            lines.append(
                f"Contact sheet: {self.sheet}" + (f", {shown} of {classes:,} classes" if shown < classes else "")
            )
        return "\n".join([*lines, f"Recipe: {self.path}", f"Next: kilonet train {shell_word(self.path)}"])


def write_recipe(
    source: str,
    out: Path,
    limits: Limits,
    *,
    label_pattern: str | None = None,
    like: str | None = None,
    sheet: Path | None = None,
    overwrite: bool = False,
) -> WrittenRecipe:
    """Inspect data, propose a recipe for them and write it.

    Args:
        source: the data, as `kilonet.data.datasets.load_data` takes them.
        out: the TOML file to write.
        limits: what the recipe must keep to.
        label_pattern: a regular expression whose group is the label in the name of an image file.
        like: a recipe whose layers and training are taken.
        sheet: a PNG file to write some images of each class to.
        overwrite: whether files that exist are replaced.

    Raises:
        KilonetError: as `propose` does, or a file exists or cannot be written.
    """
    if out.suffix != ".toml":
        raise KilonetError(f"{out}: a recipe's file is named .toml")
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise KilonetError(f"{sheet}: a contact sheet's file is named .png")
    for path in (out, sheet):
        if path is not None and path.is_dir():
            raise KilonetError(f"{path} is a folder; name the file to write")
        if path is not None and path.exists() and not overwrite:
            raise KilonetError(f"{path} exists; name another file, or give --overwrite to replace it")
        if path is not None and not path.parent.is_dir():
            raise KilonetError(f"{path}: no folder {path.parent}; make it first")
    proposal = propose(source, limits, {} if label_pattern is None else {"label_pattern": label_pattern}, like=like)
    write_atomically(out, commented_toml(proposal).encode())
    if sheet is not None:
        preprocessing = Preprocessing.of(proposal.recipe.model)
        data = load_data(source, preprocessing, label_pattern=label_pattern)
        write_atomically(sheet, contact_sheet(data.train, proposal.inspection.classes))
    return WrittenRecipe(out, sheet, proposal.inspection, proposal.recipe)


def commented_toml(proposal: Proposal) -> str:
    """Return a recipe as TOML. No name of a class, file or folder can leave its comment or its string."""
    table = proposal.recipe.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    lines = [comment for text in _head(proposal) for comment in _comments(text)]
    if about := table.get("about"):
        lines += _assignment("about", about)
    for section in _SECTIONS:
        lines += ["", f"[{section}]"] if table.get(section) else []
        for key, value in table.get(section, {}).items():
            lines += [*_comments(proposal.reasons.get(key, "")), *_assignment(key, value)]
    return "\n".join(lines) + "\n"


def _head(proposal: Proposal) -> Iterator[str]:
    """Yield what stands above the recipe, a paragraph each."""
    found = proposal.inspection
    counts = found.train_counts
    each = f"{min(counts):,} to {max(counts):,}" if min(counts) < max(counts) else f"{max(counts):,}"
    yield (
        f"Proposed by kilonet init for {found.source}: {sum(counts):,} training images of {len(counts):,} classes, "
        f"{each} each."
    )
    shown = ", ".join(found.classes[:_SHOWN_CLASSES]) + (", ..." if len(counts) > _SHOWN_CLASSES else "")
    yield f"Classes: {shown}."
    yield "Every key may be changed; kilonet train FILE --holdout scores images that were held out of the training."


def _comments(text: str) -> list[str]:
    """Return a text as lines of comments, with every character escaped that could end one."""
    return textwrap.wrap(printable(text), _WIDTH, initial_indent="# ", subsequent_indent="# ") if text else []


def _assignment(key: str, value: Any) -> list[str]:
    if isinstance(value, list) and not any(isinstance(item, str) for item in value):
        # In one line, where tomli_w would take one for each number.
        return [f"{key} = {value}"]
    return tomli_w.dumps({key: value}, multiline_strings=False).splitlines()
