"""Write report pages and model cards to files, as `kilonet report` and `kilonet card` do."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilonet.models.model import MAXIMUM_BYTES, MODEL_FILE, PACKAGED_LICENCE, packaged_models
from kilonet.report.sources import ExtraFiles, collect
from kilonet.training.run_folder import is_finished
from kilonet.training.run_records import group_repetitions
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from
from kilonet.utils.files import check_replaceable, make_folder, read_bounded, write_atomically

CARD_FILE = "README.md"
_OTHER_FILES = {".htm", ".html", ".json", ".markdown", ".pdf", ".rst", ".safetensors", ".txt", ".yaml", ".yml"}
"""Endings of files, which a folder for a card hardly has."""


@dataclass(frozen=True)
class WrittenReport:
    """A report that was written. `str()` gives the line that `kilonet report` prints."""

    path: Path
    size: int
    """Bytes."""
    runs: int
    """The number of runs on the page."""

    def as_json(self) -> dict[str, Any]:
        return {"file": str(self.path), "bytes": self.size, "runs": self.runs}

    def __str__(self) -> str:
        return f"Report: {self.path}, {self.size:,} bytes, to be opened in any browser, offline too"


def write_report(
    sources: Sequence[str], out: Path, extra: ExtraFiles | None = None, image_index: int = 0
) -> WrittenReport:
    """Write a report about the first source, with the others beside it; arguments as for `collect`.

    Raises:
        KilonetError: no such run, an unfinished run, a file that belongs to another model, a file in the way that is no
            such report, or the extra `report` is not installed.
    """
    with needed_from("report"):
        from kilonet.report.page import REPORT_MARK, report_html  # noqa: PLC0415
    if out.is_dir():
        raise KilonetError(f"{out} is a folder; --out names the file to write")
    check_replaceable(out, REPORT_MARK, "--out")
    subject = collect(sources, extra, image_index)
    content = report_html(subject).encode()
    write_atomically(out, content)
    return WrittenReport(out, len(content), len(subject.records))


@dataclass(frozen=True)
class WrittenCard:
    """A model card that was written. `str()` gives the lines that `kilonet card` prints."""

    files: tuple[Path, ...]
    model_sha256: str

    def as_json(self) -> dict[str, Any]:
        return {"files": [str(file) for file in self.files], "model_sha256": self.model_sha256}

    def __str__(self) -> str:
        return f"Card: {', '.join(map(str, self.files))}\nModel: SHA-256 {self.model_sha256}"


def write_card(source: str, out: Path, extra: ExtraFiles | None = None, licence: str | None = None) -> WrittenCard:
    """Write a model's card to a Markdown file, or the card and the model's file into a folder.

    Args:
        source: a packaged model, a run folder or a model file.
        out: a file that ends in .md, or a folder.
        extra: further files.
        licence: the licence as the Hub names it; by default MIT for a packaged model and none for any other.

    Raises:
        KilonetError: no such model, a file that belongs to another model, a file in the way that is not such a card,
            the name of a file of another kind, or the extra `card` is not installed.
    """
    with needed_from("card"):
        from kilonet.report.card import CARD_MARK, card_markdown  # noqa: PLC0415
    if out.suffix.lower() in _OTHER_FILES and not out.is_dir():
        raise KilonetError(
            f"--out {out}: a card is a Markdown file, such as {out.with_suffix('.md').name}, or a folder"
        )
    folder = out if out.suffix.lower() != ".md" else None
    path = folder / CARD_FILE if folder else out
    check_replaceable(path, CARD_MARK, "--out")
    if folder is not None and folder.exists():
        # A file in its place is refused before the model is scored.
        make_folder(folder)
    subject = collect([source], extra)
    records = [record for record in (subject.record, *subject.others) if record is not None and record.folder]
    if len(group_repetitions(records)) > 1:
        raise KilonetError(f"{source} has runs of several recipes; name one of them")
    if folder is not None:
        _check_model_replaceable(folder, subject.model.sha256)
    text = card_markdown(subject, licence or (PACKAGED_LICENCE if source in packaged_models() else None))
    if folder is None:
        write_atomically(path, text.encode())
        return WrittenCard((path,), subject.model.sha256)
    make_folder(folder)
    subject.model.save(folder / MODEL_FILE)
    write_atomically(path, text.encode())
    return WrittenCard((path, folder / MODEL_FILE), subject.model.sha256)


def _check_model_replaceable(folder: Path, sha256: str) -> None:
    """Check that no other model than an earlier one of a folder's card is replaced.

    Raises:
        KilonetError: the folder has another model, and no card, or it is a run folder.
    """
    model = folder / MODEL_FILE
    if not model.exists():
        return
    content = read_bounded(model, MAXIMUM_BYTES, "a model to be replaced")
    if hashlib.sha256(content).hexdigest() == sha256:
        return
    if is_finished(folder) or not (folder / CARD_FILE).exists():
        raise KilonetError(f"{model} is another model, which would be lost; name another folder with --out")
