"""Reports and model cards as the command line does them: what is known of a model, written where it was asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilonet.models.model import MODEL_FILE, packaged_models
from kilonet.report.gathering import Evidence, subject_of
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from
from kilonet.utils.files import make_folder, read_bounded, write_atomically

CARD_FILE = "README.md"
PACKAGED_LICENCE = "mit"
_MAXIMUM_BYTES = 1 << 20


@dataclass(frozen=True)
class Report:
    """What was written. `str()` gives the line that `kilonet report` prints."""

    path: Path
    size: int
    """Bytes."""
    runs: int
    """How many records it tells of."""

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"file": str(self.path), "bytes": self.size, "runs": self.runs}

    def __str__(self) -> str:
        """Return the line."""
        return f"Report: {self.path}, {self.size:,} bytes, to be opened in any browser, offline too"


def report(sources: Sequence[str], out: Path, evidence: Evidence) -> Report:
    """Write a report on the first source, the others beside it.

    Raises:
        KilonetError: no such run, nothing finished, evidence that is another model's, or the extra `report` missing.
    """
    with needed_from("report"):
        from kilonet.report.page import report_html  # noqa: PLC0415
    if out.is_dir():
        raise KilonetError(f"{out} is a folder; --out names the file to write")
    subject = subject_of(sources, evidence)
    content = report_html(subject).encode()
    write_atomically(out, content)
    return Report(out, len(content), len(subject.companions) + (subject.record is not None))


@dataclass(frozen=True)
class Card:
    """What was written. `str()` gives the lines that `kilonet card` prints."""

    files: tuple[Path, ...]
    model_sha256: str

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"files": [str(file) for file in self.files], "model_sha256": self.model_sha256}

    def __str__(self) -> str:
        """Return the lines."""
        return f"Card: {', '.join(map(str, self.files))}\nModel: SHA-256 {self.model_sha256}"


def card(source: str, out: Path, evidence: Evidence, licence: str | None) -> Card:
    """Write a model's card to a Markdown file, or with the model's file into a folder.

    Raises:
        KilonetError: no such model, evidence that is another model's, a file in the way that is no card of Kilonet's,
            or the extra `card` missing.
    """
    with needed_from("card"):
        from kilonet.report.card import IS_OURS, card_markdown  # noqa: PLC0415
    folder = out if out.suffix.lower() != ".md" else None
    path = folder / CARD_FILE if folder else out
    if path.exists() and IS_OURS not in read_bounded(path, _MAXIMUM_BYTES, "a card").decode(errors="replace"):
        raise KilonetError(f"{path} is there already and no card that kilonet wrote; name another --out")
    subject = subject_of([source], evidence)
    text = card_markdown(subject, licence or (PACKAGED_LICENCE if source in packaged_models() else None))
    if folder is None:
        write_atomically(path, text.encode())
        return Card((path,), subject.model.sha256)
    make_folder(folder)
    subject.model.save(folder / MODEL_FILE)
    write_atomically(path, text.encode())
    return Card((path, folder / MODEL_FILE), subject.model.sha256)
