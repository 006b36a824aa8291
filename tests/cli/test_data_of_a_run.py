"""Commands on a run or an export use the data that it was made from, say when they have changed, and match names."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import command, tiny_recipe
from kilonet.data.datasets import load_data
from kilonet.models.model import MODEL_FILE, load_model
from kilonet.recipe import RunSection
from kilonet.training.run_data import KnownData
from kilonet.training.run_folder import read_result
from kilonet.training.train import fit

NAMES = ("left", "middle", "right")
LAYERS = ("conv 4", "maxpool 2", "conv 8 same", "gap", "pointwise 3")


def write_bars(folder: Path, each: int = 8, names: tuple[str, ...] = NAMES) -> Path:
    """Write images of a bright bar at one of three places, 12x12, in folders named after the place."""
    random = np.random.default_rng(0)
    for part, count in (("train", each), ("test", each // 2)):
        for name in names:
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 60, (12, 12), dtype=np.uint8)
                pixels[:, 4 * NAMES.index(name) : 4 * NAMES.index(name) + 4] += 190
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, a run trained on them, and the run's page, exported; nobody changes it."""
    home = tmp_path_factory.mktemp("bars")
    data = write_bars(home / "data")
    recipe = tiny_recipe(
        data, layers=LAYERS, input=(1, 12, 12), dropout=0.0, epochs=20, batch_size=8, rotation=0.0, shift=0.0, ema=0.0
    )
    fit(recipe, out=home / "run")
    return home


@pytest.fixture
def bars(made: Path, tmp_path: Path) -> Path:
    """The test's own copy, whose run still names the data of `made`, moved here."""
    shutil.copytree(made, tmp_path / "bars")
    for path in (tmp_path / "bars" / "run").glob("*.[tj]*"):
        path.write_text(path.read_text().replace(str(made), str(tmp_path / "bars")))
    return tmp_path / "bars"


def test_a_run_records_the_fingerprint_of_its_data(made: Path) -> None:
    data = load_data(str(made / "data"))
    assert read_result(made / "run").data_sha256 == data.fingerprint()
    assert data.fingerprint() != data.hold_out().fingerprint()


def test_a_fingerprint_changes_with_every_pixel_and_label(made: Path) -> None:
    data = load_data(str(made / "data"))
    seen = {data.fingerprint()}
    for images in (data.train, data.test):
        images.pixels[0, 0, 0, 0] ^= 1
        seen.add(data.fingerprint())
        images.labels[0] ^= 1
        seen.add(data.fingerprint())
    assert len(seen) == 5


def test_commands_use_the_data_of_a_run(bars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in (bars / "run", bars / "run" / MODEL_FILE):
        answer = command(capsys, "evaluate", model, "--json")
        assert json.loads(answer.out)["correct"] == json.loads(answer.out)["images"] == 12
        assert answer.err == ""
    exported = command(capsys, "export", bars / "run", "--to", "onnx", "--out", bars / "exported", "--json")
    assert json.loads(exported.out)["holdout_float_accuracy"] == 1.0
    verified = command(capsys, "verify", bars / "exported", "--json")
    table = json.loads(verified.out)
    assert (verified.status, verified.err, table["images"]) == (0, "", 12)
    assert [row["accuracy"] for row in table["rows"]] == [1.0, 1.0, 1.0]
    report = command(capsys, "report", bars / "run", "--out", bars / "report.html")
    assert (report.status, report.err) == (0, "")


def test_changed_data_are_told_of(bars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "export", bars / "run", "--to", "onnx", "--out", bars / "exported")
    next((bars / "data" / "test" / "left").iterdir()).unlink()
    line = f"kilonet: {bars / 'data'} has changed since {bars / 'run'} was made from it, "
    line += "so images that it was trained on may be among those that are scored\n"
    assert command(capsys, "evaluate", bars / "run").err == line
    assert command(capsys, "export", bars / "run", "--to", "onnx", "--out", bars / "again").err == line
    assert command(capsys, "verify", bars / "exported").err == line.replace("bars/run ", "bars/exported ")
    assert "has changed" not in command(capsys, "verify", bars / "again").err
    for words in (("report", "--out", "report.html"), ("card", "--out", "card")):
        answer = command(capsys, words[0], bars / "run", words[1], bars / words[2])
        answer.refused("has changed since", "bring the images back, or train anew")
        assert not (bars / words[2]).exists()


def test_of_data_without_parts_only_what_was_not_trained_on_is_scored_wherever_they_lie(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And all images of other data, such as a copy that lacks one."""
    home = write_bars(tmp_path / "parted", 20) / "train"
    home = home.rename(tmp_path / "whole")
    fit(tiny_recipe(home, layers=LAYERS, input=(1, 12, 12), epochs=1, batch_size=8), out=tmp_path / "run")
    run, export = tmp_path / "run", tmp_path / "exported"
    command(capsys, "export", run, "--to", "onnx", "--out", export)
    moved = home.rename(tmp_path / "moved")
    wanted = len(load_data(str(moved)).test)
    assert wanted < 30

    def images(*words: str | Path) -> int:
        answer = command(capsys, *words, "--json")
        assert answer.status == 0, answer.err
        return int(json.loads(answer.out)["images"])

    assert images("evaluate", run, "--data", moved) == wanted
    assert images("verify", export, "--data", moved) == wanted
    (moved / "left" / "0.png").write_bytes(b"no picture")
    # What is said of them is said once, also where they were loaded to be compared.
    assert command(capsys, "evaluate", run, "--data", moved).err.count("kilonet: skipped: ") == 1
    (moved / "left" / "0.png").unlink()
    assert images("evaluate", run, "--data", moved) == 59
    assert images("verify", export, "--data", moved) == 59


def test_data_that_are_gone_are_named(bars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "export", bars / "run", "--to", "onnx", "--out", bars / "exported")
    (bars / "data").rename(bars / "moved")
    for words in (("evaluate", bars / "run"), ("verify", bars / "exported")):
        command(capsys, *words).refused(f"the data of {words[1]}", bars / "data", "--data")
        assert command(capsys, *words, "--data", bars / "moved").status == 0


def test_a_model_of_unknown_data_needs_their_name(bars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(bars / "run" / MODEL_FILE, bars / "loose.safetensors")
    for words in (("evaluate",), ("export", "--to", "onnx", "--out", bars / "exported")):
        command(capsys, words[0], bars / "loose.safetensors", *words[1:]).refused("not known", "--data")
    command(capsys, "report", bars / "loose.safetensors").refused("not known", "its run folder")
    assert command(capsys, "evaluate", bars / "loose.safetensors", "--data", bars / "data").status == 0


def test_classes_are_matched_by_name_everywhere(bars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of the classes, whose places in the folder are other than in the model."""
    some = write_bars(bars / "some", names=NAMES[1:])
    table = json.loads(command(capsys, "evaluate", bars / "run", "--data", some, "--json").out)
    assert table["correct"] == table["images"] == 8
    assert [sum(row) for row in table["confusion"]] == [0, 4, 4]
    exported = command(
        capsys, "export", bars / "run", "--to", "onnx", "--out", bars / "exported", "--data", some, "--json"
    )
    assert json.loads(exported.out)["holdout_float_accuracy"] == 1.0
    table = json.loads(command(capsys, "verify", bars / "exported", "--data", some, "--json").out)
    assert [row["accuracy"] for row in table["rows"]] == [1.0, 1.0, 1.0]
    # Without parts all images are scored, by both commands.
    counts = [
        json.loads(command(capsys, *words, "--data", some / "train", "--json").out)["images"]
        for words in (("evaluate", bars / "run"), ("verify", bars / "exported"))
    ]
    assert counts[0] == counts[1] == len(list((some / "train").glob("*/*")))
    for part in ("train", "test"):
        (some / part / "middle").rename(some / part / "milieu")
    for words in (("evaluate", bars / "run"), ("verify", bars / "exported")):
        command(capsys, *words, "--data", some).refused("no class 'milieu'", "left, middle, right")
    command(capsys, "export", bars / "run", "--to", "onnx", "--out", bars / "other", "--data", some).refused(
        "no class 'milieu'"
    )


def test_a_holdout_is_compared_with_what_was_held_out(made: Path) -> None:
    data = load_data(str(made / "data"))
    known = KnownData("run", str(made / "data"), data.hold_out().fingerprint(), RunSection(holdout=True))
    assert known.load(load_model(made / "run").section).fingerprint() == data.fingerprint()


@pytest.mark.parametrize("name", ["a" * 101, "caf\udce9"])
def test_a_name_that_no_model_can_keep_is_refused_before_training(
    bars: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "test"):
        (bars / "data" / part / "left").rename(bars / "data" / part / name)
    words = ("train", "fast", "--engine", "torch", "--data", bars / "data", "--out", bars / "new")
    command(capsys, *words).refused("class")
    assert not (bars / "new").exists()


def test_data_under_a_name_that_no_recipe_can_keep_are_refused(bars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (bars / "data").rename(bars / "caf\udce9")
    command(capsys, "train", "fast", "--data", data, "--out", bars / "new").refused("caf\\udce9", "not UTF-8")
    assert not (bars / "new").exists()
    assert command(capsys, "evaluate", bars / "run", "--data", data).status == 0


def test_an_export_of_a_model_that_saw_all_images_claims_no_holdout(
    bars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = command(capsys, "export", bars / "run", "--to", "onnx", "--out", bars / "exported").out
    assert "held" not in out
    assert "4 training images that were set aside when scales were chosen" in out
    assert load_model(bars / "run").metadata.names == NAMES
