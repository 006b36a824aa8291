"""The report of `best`, and reports as text, for tests that need no browser."""

import contextlib
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from kilonet.data.datasets import load_data
from kilonet.models.model import Model
from kilonet.report.page import report_html
from kilonet.report.sources import ExtraFiles, collect

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def page_of_best(shared_folder: Path) -> Path:
    """Return what `make report` writes; read-only, made once for all processes."""
    path = shared_folder / "report-best.html"
    published = ExtraFiles(RESULTS / "best.json", RESULTS / "corruptions-best.json", RESULTS / "exported")
    with FileLock(shared_folder / "report-best.lock"):
        if not path.is_file():
            with scored_once(shared_folder):
                path.write_text(report_html(collect(["best"], published)), encoding="utf-8")
    return path


@contextlib.contextmanager
def scored_once(shared_folder: Path) -> Iterator[None]:
    """Compute the logits of a model on MNIST's test images, which takes up to four seconds, once for all processes."""
    compute, test = Model.logits, load_data("mnist").test.pixels

    def logits(model: Model, pixels: torch.Tensor) -> torch.Tensor:
        if not torch.equal(pixels, test):
            return compute(model, pixels)
        path = shared_folder / f"logits-{model.sha256}.pt"
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                torch.save(compute(model, pixels), path)
            found: torch.Tensor = torch.load(path)
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "logits", logits)
        yield


def text_of(html: str) -> list[str]:
    """Return what a report says, a line a paragraph, heading, caption or row, without pictures and their numbers."""
    body = html[html.index("<body>") :]
    body = re.sub(r"<details>.*?</details>", "", body, flags=re.DOTALL)
    body = re.sub(r'<div class="picture">.*?(?=<figcaption>)', "", body, flags=re.DOTALL)
    body = re.sub(r"[ \n]+", " ", body)
    body = re.sub(r"</(?:p|h1|h2|h3|tr|dt|dd|caption|figcaption)>|<span class=\"aside\">", "\n", body)
    body = re.sub(r"</(?:td|th|span)>", "  ", body)
    lines = (unescape(re.sub(r"<[^>]*>", "", line)).strip() for line in body.split("\n"))
    return [re.sub(" {2,}", "  ", line) for line in lines if line]


def table_of(html: str, caption: str) -> list[list[str]]:
    """Return a table's rows, its heads first and its total last, each cell as text."""
    table = next(part for part in re.findall(r"<table.*?</table>", html, re.DOTALL) if f"<caption>{caption}" in part)
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [[unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows]
