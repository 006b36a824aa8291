"""Images of one's own on the command line: a run whose pictures were named by a pattern and brought to its input."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import command, needs
from preloaded import fork_seeds, forked

RECIPE = """[model]
input = [1, 10, 8]
layers = ["conv 4", "gap", "pointwise 2"]
[train]
epochs = 1
batch_size = 8
[run]
engine = "torch"
device = "cpu"
precision = "float32"
threads = 1
label_pattern = "^([a-z]+)_"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(40):
        squares = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        name = f"{'cat' if number % 2 else 'dog'}_{number}.jpg"
        squares.resize((20 + number % 3, 24)).save(tmp_path / "photos" / name)
    return tmp_path


def train(home: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    words: list[str | Path] = ["train", home / "recipe.toml", "--data", home / "photos", "--out", home / "run", *flags]
    answer = forked(*words, before=fork_seeds) if "--seeds" in flags else command(capsys, *words)
    return answer.status, answer.err


def test_a_run_of_named_files_is_evaluated_on_its_own_test_images(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("cc")
    status, told = train(home, capsys)
    assert status == 0, told
    assert "40 of 40 pictures are of another size than 8x10 pixels: they are cropped to their middle" in told
    own = command(capsys, "evaluate", home / "run")
    assert (own.status, own.err) == (0, "")
    assert own.out.startswith("Test set: ")
    assert command(capsys, "evaluate", home / "run", "--data", home / "photos").out == own.out
    (home / "photos").rename(home / "others")
    # Without one picture they are no longer the run's own, of which the test images alone would be scored.
    next((home / "others").iterdir()).unlink()
    named = ("--data", home / "others", "--label-pattern", "^([a-z]+)_")
    answer = command(capsys, "evaluate", home / "run", *named)
    assert "/39 " in answer.out
    exported = command(capsys, "export", home / "run", "--to", "c", "--out", home / "c", *named)
    assert exported.status == 0, exported
    assert command(capsys, "verify", home / "c").status == 0


@pytest.mark.parametrize("flags", [(), ("--seeds", "2")])
def test_skipped_files_are_listed_once_and_change_the_status(
    home: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    (home / "photos" / "cat_99.jpg").write_bytes(b"junk")
    (home / "photos" / "IMG_1.heic").touch()
    status, told = train(home, capsys, *flags)
    assert status == 1, told
    assert told.count("skipped: ") == 2
    assert "2 files of" in told
    assert command(capsys, "evaluate", home / "run" / "seed0" if flags else home / "run").status == 1
