"""The pages: links lead somewhere, pages are short, and commands, files and outputs that they show exist."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kilonet
from helpers import command
from kilonet.export.quantisation import QuantisationResult

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PACKAGE = Path(kilonet.__file__).parent

sys.path.insert(0, str(ROOT / "benchmarks"))

from docs import PAGES  # noqa: E402

TOP = (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
BY_NAME = pytest.mark.parametrize("page", TOP, ids=lambda page: str(page.relative_to(ROOT)))
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> Iterator[str]:
    """Yield the relative links of a page that lead to no file or to no heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            yield target


@BY_NAME
def test_links_lead_somewhere(page: Path) -> None:
    assert not list(broken_links(page))


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` heading\n[file](page.md) [heading](#a-b-heading) [no file](none.md) [none](page.md#none)\n"
    )
    assert list(broken_links(page)) == ["none.md", "page.md#none"]


@BY_NAME
def test_pages_are_short(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 300


def test_the_front_page_is_short_and_begins_with_commands() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 170
    assert any(line.startswith("$ ") for line in lines[:40])
    pictures = re.findall(r"!\[.+\]\((.+)\)", README.read_text(encoding="utf-8"))
    assert len(pictures) == 1
    assert (ROOT / pictures[0]).stat().st_size < 300_000


def test_every_page_is_linked_from_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index)}
    assert not set(PAGES) - {DOCS / "README.md"} - linked


@BY_NAME
def test_no_page_installs_from_a_registry(page: Path) -> None:
    assert "kilonet[" not in page.read_text(encoding="utf-8")


def shown_commands() -> set[tuple[str, str]]:
    """Return the command and each of its flags, of all kilonet command lines that pages show as console input."""
    found = set()
    for page in TOP:
        for line in re.findall(r"^\$ kilonet (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            words = line.split("#")[0].split("|")[0].split()
            found |= {(words[0], flag) for flag in ("", *(word for word in words[1:] if word.startswith("--")))}
    return {(name, flag) for name, flag in found if not name.startswith("--")}


def test_commands_that_pages_show_exist(capsys: pytest.CaptureFixture[str]) -> None:
    commands = shown_commands()
    assert len({name for name, _ in commands}) >= 10
    for name in {name for name, _ in commands}:
        help_text = command(capsys, name, "--help").out
        assert help_text, name
        missing = {flag for other, flag in commands if other == name and flag not in help_text}
        assert not missing, f"kilonet {name} has no {missing}"


def masked(text: str) -> list[str]:
    """Return the lines of an output with their figures and paths masked, and plurals made singular."""
    text = re.sub(r"\S*(runs|exported)/?\S*", "PATH", re.sub(r"\d[\d,.]*", "0", text))
    lines = [" ".join(re.sub(r"\b(epoch|thread)s\b", r"\1", line).split()) for line in text.splitlines()]
    return [line for line in lines if line]


def output_on_the_front_page(words: str) -> str:
    """Return what the front page shows below a command."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"^\$ {re.escape(words)}\n(.*?)(?=^\$ |^```)", text, re.DOTALL | re.MULTILINE)
    assert found, words
    return found[1]


def test_the_front_page_shows_what_train_prints(
    capsys: pytest.CaptureFixture[str], small_folder: Path, tmp_path: Path
) -> None:
    """But for the bars, which tests/training/test_progress.py holds to the ERA homework's README."""
    run = ("--data", small_folder, "--epochs", "1", "--engine", "torch", "--out", tmp_path / "runs")
    trained = command(capsys, "train", "baseline", *run)
    shown = masked(output_on_the_front_page("kilonet train baseline"))
    closing = shown.index(masked("Final: 99.50% of 10000 test images, 95 % interval 99.34 to 99.62 %")[0])
    # The few images' classes are unequal in size, which those of MNIST are not.
    printed = [line for line in masked(trained.out) if not line.startswith("Balanced accuracy: ")]
    assert [line.replace("torch engine", "native engine") for line in printed] == shown[closing:]
    progress = {line for line in shown[:closing] if not line.startswith(("EPOCH", "..."))}
    assert len(progress) == 2
    assert progress <= set(masked(trained.err))


def test_the_front_page_shows_what_export_and_verify_print(
    capsys: pytest.CaptureFixture[str],
    small_folder: Path,
    tmp_path: Path,
    quantised_mcu: QuantisationResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised_mcu)
    folder = tmp_path / "exported"
    exported = command(capsys, "export", "mcu", "--to", "c", "--out", folder, "--data", small_folder)
    verified = command(capsys, "verify", folder, "--data", small_folder)
    shown = output_on_the_front_page("kilonet export mcu --to c --out exported")
    # The bytes of code are unknown where there is no cross compiler.
    assert masked(re.sub("code .*", "", exported.out)) == masked(re.sub("code .*", "", shown))
    assert masked(verified.out) == masked(output_on_the_front_page("kilonet verify exported"))


ROOMS = sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py")))


@pytest.mark.parametrize("room", ROOMS)
def test_the_page_on_architecture_names_the_files_of_a_room(room: str) -> None:
    text = (DOCS / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {room}\n(.*?)(?=^##)", text, re.DOTALL | re.MULTILINE)
    assert section, f"no section on {room}/"
    named = set(re.findall(r"(\w+\.py)`", section[1]))
    files = {path.name for path in (PACKAGE / room).rglob("*.py")} - {"__init__.py"}
    assert named == files


def test_the_page_on_architecture_names_files_that_exist() -> None:
    text = (DOCS / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = {path for path in re.findall(r"`([a-z_]+/[\w/]+\.(?:py|toml|hpp|js|txt|md))`", text) if path.islower()}
    here = [path for path in named if (PACKAGE / path.split("/")[0]).is_dir() or (ROOT / path.split("/")[0]).is_dir()]
    assert len(here) > 30
    assert not [path for path in here if not (PACKAGE / path).exists() and not (ROOT / path).exists()]
