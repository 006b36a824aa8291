"""`kilonet init`, and `kilonet train --data` without a recipe."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import StopAtEpoch, command
from kilonet.data.inspection import contact_sheet
from kilonet.recipe import load_recipe
from kilonet.training import launch
from kilonet.training.run_folder import read_result
from preloaded import fork_seeds, forked

ODD = 'x"\n[run]\nseed = 7 # \\ ]]> \x1b[31m'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make two classes of 20 pictures, one light on the left and one on the right, and go to the folder above them."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name in ("arrow left", "arrow right"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 120, (12, 16, 3), dtype=np.uint8)
            half = pixels[:, :8] if name == "arrow left" else pixels[:, 8:]
            half += 100
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return Path("photos")


def test_init_writes_a_recipe_that_says_why_and_names_the_next_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = command(capsys, "init", folder)
    assert (answer.status, answer.err) == (0, "")
    assert "images in 2 classes" in answer.out
    assert "RAM in C:" in answer.out
    assert answer.out.splitlines()[-2:] == ["Recipe: photos.toml", "Next: kilonet train photos.toml"]
    recipe = load_recipe("photos.toml")
    assert recipe.model.input == (3, 12, 16)
    assert recipe.model.classes == 2
    assert recipe.run.data == "photos"
    assert not recipe.augment.flip, "left and right are not mirrored"
    text = Path("photos.toml").read_text(encoding="utf-8")
    for why in ("# Classes: arrow left, arrow right.", "# mean of each channel", "# channels, rows, columns"):
        assert why in text
    assert max(map(len, text.splitlines())) < 1000


def test_the_recipe_of_init_is_the_one_that_train_proposes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "init", folder, "--out", "mine.toml")
    answer = command(capsys, "train", "--data", folder, "--epochs", "1", "--engine", "torch")
    assert answer.status == 0, answer.err
    assert "Run folder: runs/photos-seed0" in answer.out
    assert "photos: " in answer.err
    assert "1 epoch in batches of 8" in answer.err
    kept = load_recipe("runs/photos-seed0/recipe.toml")
    written = load_recipe("mine.toml").replace(epochs=1)
    assert kept.model == written.model
    assert kept.augment == written.augment
    assert kept.train == written.train.model_copy(update={"ema": kept.train.ema})


def test_files_that_exist_are_not_replaced_unasked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text("mine", encoding="utf-8")
    command(capsys, "init", folder, "--out", "mine.toml").refused("mine.toml exists", "--overwrite")
    assert Path("mine.toml").read_text(encoding="utf-8") == "mine"
    Path("sheet.png").write_text("mine", encoding="utf-8")
    command(capsys, "init", folder, "--show", "sheet.png").refused("sheet.png exists", "--overwrite")
    assert not Path("photos.toml").exists()
    command(capsys, "init", folder, "--out", "mine").refused("mine", ".toml")
    command(capsys, "init", folder, "--out", folder).refused("photos")
    # Before the images are looked at, which may take minutes.
    command(capsys, "init", "missing", "--out", "nowhere/mine.toml").refused("no folder nowhere")
    command(capsys, "init", folder, "--max-parameters", "-5").refused("a budget is 1 or more")


def test_a_contact_sheet_of_some_classes_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Contact sheet: all.png\n" in command(capsys, "init", folder, "--show", "all.png").out
    monkeypatch.setattr(contact_sheet, "MOST_CLASSES", 1)
    answer = command(capsys, "init", folder, "--show", "some.png", "--out", "b.toml")
    assert "Contact sheet: some.png, 1 of 2 classes\n" in answer.out
    command(capsys, "init", folder, "--show", "photos.toml").refused("photos.toml", ".png")
    assert command(capsys, "init", folder, "--out", "mine.toml", "--show", "sheet.png", "--overwrite").status == 0
    assert Path("sheet.png").read_bytes().startswith(b"\x89PNG")
    assert load_recipe("mine.toml").model.classes == 2


def test_budgets_and_size_are_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--max-parameters", "900", "--max-ram", "6000", "--size", "16x24", "--json")
    written = json.loads(command(capsys, "init", folder, *flags).out)
    assert written["cost"]["parameters"] <= 900
    assert written["cost"]["c_ram_bytes"] <= 6000
    assert written["recipe"]["model"]["input"] == [3, 24, 16]
    assert written["inspection"]["classes"] == ["arrow left", "arrow right"]
    assert written["file"] == "photos.toml"
    command(capsys, "init", folder, "--out", "b.toml", "--max-parameters", "20").refused(
        "the least is --max-parameters"
    )
    command(capsys, "init", folder, "--out", "b.toml", "--max-ram", "20").refused("the least is --max-ram")
    command(capsys, "init", folder, "--out", "b.toml", "--size", "32").refused("--size '32'", "32x32")
    command(capsys, "init", folder, "--out", "b.toml", "--size", "4x32").refused("4x32", "8 to 128")
    assert not Path("b.toml").exists()


def test_no_name_of_a_class_or_folder_can_leave_its_comment_or_its_string(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "arrow left").rename(folder / ODD)
    folder.rename(ODD)
    answer = command(capsys, "init", ODD, "--out", "mine.toml")
    assert answer.status == 0, answer.err
    assert "\x1b" not in answer.out
    text = Path("mine.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    assert table["run"] == {"data": ODD}
    assert "\x1b" not in text
    assert sum(line.startswith("[run]") for line in text.splitlines()) == 1


def test_files_that_are_not_read_change_the_exit_status(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "arrow left" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    answer = command(capsys, "init", folder)
    assert answer.status == 1
    assert "1 file is not read:" in answer.out
    assert "broken.png" in answer.out


def test_the_same_command_goes_on_after_an_interruption(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("train", "--data", folder, "--epochs", "3", "--threads", "1", "--engine", "torch")
    with monkeypatch.context() as context:
        context.setattr(launch, "progress_on", lambda: StopAtEpoch(2))
        assert command(capsys, *flags).status == 130
    answer = command(capsys, *flags)
    assert answer.status == 0, answer.err
    assert "going on with the unfinished run in runs/photos-seed0" in answer.err
    assert "Run folder: runs/photos-seed0" in answer.out


def test_seeds_and_a_changed_network_work_without_a_recipe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train", "--data", folder, "--epochs", "1", "--engine", "torch")
    answer = forked(*words, "--seeds", "2", "--max-parameters", "700", "--json", before=fork_seeds)
    assert answer.status == 0, answer.err
    assert len(json.loads(answer.out)["runs"]) == 2
    result = read_result(Path("runs/photos-2seeds/seed1"))
    assert result.parameters <= 700
    layers = ("conv 4", "conv 4", "gap", "pointwise 2")
    answer = command(capsys, *words, "--input", "1", "8", "8", "--layers", *layers, "--out", "own")
    assert answer.status == 0, answer.err
    assert read_result(Path("own")).recipe.model.layers == layers


def test_data_that_do_not_exist_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "init", "nothing").refused("no data 'nothing'")
    command(capsys, "train", "--data", "nothing").refused("no data 'nothing'")


LIKE = """
[model]
layers = ["conv 6 same", "maxpool 2", "conv 9", "gap", "pointwise 10"]
[train]
epochs = 7
batch_size = 128
learning_rate = 0.3
class_weights = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
[augment]
flip = true
crop = 2
brightness = 0.1
"""


def test_a_recipe_like_another_has_its_layers_and_training_for_other_images(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("ten.toml").write_text(LIKE, encoding="utf-8")
    answer = command(capsys, "init", folder, "--like", "ten.toml", "--out", "mine.toml")
    assert answer.status == 0, answer.err
    recipe = load_recipe("mine.toml")
    assert recipe.model.layers == ("conv 6 same", "maxpool 2", "conv 9", "gap", "pointwise 2")
    assert recipe.model.input == (3, 12, 16)
    assert recipe.train.epochs == 7
    assert recipe.train.class_weights is None
    # 40 images: an epoch of the recipe's batches would be one step.
    assert recipe.train.batch_size == 8
    assert recipe.train.learning_rate < 0.1
    # Left and right are classes.
    assert (recipe.augment.crop, recipe.augment.brightness, recipe.augment.flip) == (2, 0.1, False)
    text = Path("mine.toml").read_text(encoding="utf-8")
    assert "# those of ten: " in text
    assert "# as in ten, in smaller batches" in text


def test_a_recipe_that_these_images_cannot_have_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ten.toml").write_text(LIKE, encoding="utf-8")
    Path("odd.toml").write_text(LIKE.replace('"gap", "pointwise 10"', '"conv 10", "gap"'), encoding="utf-8")
    init = ("init", folder, "--out", "mine.toml", "--like")
    command(capsys, *init, "odd.toml").refused("odd ends in 'gap'", "pointwise CLASSES")
    command(capsys, *init, "nosuch").refused("no recipe 'nosuch'")
    command(capsys, *init, "ten.toml", "--max-parameters", "100").refused("over --max-parameters 100")
    command(capsys, *init, "best", "--size", "8x8").refused("best does not take images of 8x8", "--size")
    assert not Path("mine.toml").exists()
