"""Teachers: their sources, the images that they may see, their folders, and that resuming changes nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import TINY_LAYERS, StopAtEpoch, command, refusal, tiny_recipe
from kilonet.data.datasets import DataSet
from kilonet.evaluation.scoring import evaluate
from kilonet.models.model import MODEL_FILE, load_model, model_path
from kilonet.recipe import Recipe, load_recipe
from kilonet.training import launch
from kilonet.training.distillation import resolve_teachers
from kilonet.training.progress import NoProgress
from kilonet.training.run_folder import CHECKPOINT_FILE, Run, is_finished, read_result
from kilonet.training.train import fit, prepare_teachers, resume
from kilonet.utils.errors import KilonetError, TrainingDiverged
from preloaded import fork_seeds, forked

TEACHER_LAYERS = ("conv 6 stride 2", "maxpool 2", "conv 10", "gap", "pointwise 10")


class RecordedMessages(NoProgress):
    """Records the messages; interrupts the run as its epoch number `stop` begins, teachers' epochs included."""

    def __init__(self, stop: int = -1) -> None:
        self.lines: list[str] = []
        self.epochs = 0
        self.stop = stop

    def message(self, text: str) -> None:
        self.lines.append(text)

    def epoch_started(self, epoch: int, steps: int) -> None:
        super().epoch_started(epoch, steps)
        if self.epochs == self.stop:
            raise KeyboardInterrupt
        self.epochs += 1


@pytest.fixture(scope="module")
def few(small: DataSet) -> DataSet:
    """Fewer images: the networks that are trained here need not be good."""
    return DataSet(small.train.select(torch.arange(300), "Train"), small.test.select(torch.arange(200), "Test"))


def write_recipe(path: Path, small_folder: Path, **changes: Any) -> str:
    path.write_text(tiny_recipe(small_folder, **changes).to_toml(), encoding="utf-8")
    return str(path)


@pytest.fixture
def teacher(tmp_path: Path, small_folder: Path) -> str:
    """A teacher's recipe with its own seed."""
    return write_recipe(tmp_path / "big.toml", small_folder, layers=list(TEACHER_LAYERS), seed=5)


def student(teacher: Any, **changes: Any) -> Recipe:
    return tiny_recipe(teacher=teacher, **{"epochs": 2, **changes})


def test_a_recipe_is_trained_first_as_a_run_of_its_own(teacher: str, few: DataSet, tmp_path: Path) -> None:
    messages = RecordedMessages()
    run = fit(student(teacher), few, tmp_path / "run", messages)
    own = read_result(tmp_path / "run/teacher")
    assert messages.epochs == 4
    assert (own.recipe.run.seed, own.recipe.model.layers) == (5, TEACHER_LAYERS)
    (result,) = run.result.teachers
    assert result.folder == "teacher"
    assert (result.parameters, result.seconds, result.model_sha256) == (own.parameters, own.seconds, own.model_sha256)
    assert (result.scored, result.scored_images, result.accuracy) == ("Test", 200, own.final.test_accuracy)
    assert run.result.seconds == sum(metrics.seconds for metrics in run.history)
    alone = fit(load_recipe(teacher), few)
    assert alone.result.model_sha256 == own.model_sha256


def test_a_teacher_learns_from_its_own_teachers(teacher: str, few: DataSet, small_folder: Path, tmp_path: Path) -> None:
    middle = write_recipe(tmp_path / "middle.toml", small_folder, layers=list(TEACHER_LAYERS), teacher=teacher, seed=7)
    messages = RecordedMessages()
    run = fit(student(middle), few, tmp_path / "run", messages)
    first, second = (read_result(tmp_path / "run" / one) for one in ("teacher/teacher", "teacher"))
    assert [one.recipe.run.seed for one in (first, second)] == [5, 7]
    assert [one.model_sha256 for one in second.teachers] == [first.model_sha256]
    assert [one.model_sha256 for one in run.result.teachers] == [second.model_sha256]
    assert run.result.teachers[0].seconds == pytest.approx(first.seconds + second.seconds)
    assert [line.split(", in ")[1] for line in messages.lines] == [
        str(tmp_path / "run" / one) for one in ("teacher/teacher", "teacher", "")
    ]
    assert fit(student(middle), few).result.model_sha256 == run.result.model_sha256
    without = fit(load_recipe(middle).replace(teacher=""), few).result.model_sha256
    assert without != second.model_sha256
    # Stopped in each of the three trainings.
    for stop in (1, 3, 5):
        folder = tmp_path / f"stopped-{stop}"
        with pytest.raises(KeyboardInterrupt):
            fit(student(middle), few, folder, RecordedMessages(stop))
        if stop == 5:
            # All that the student learns from is in its folder.
            Path(teacher).unlink()
        messages = RecordedMessages()
        assert resume(folder, few, messages).result.model_sha256 == run.result.model_sha256
        assert messages.epochs == 6 - stop


def test_what_a_shared_teacher_learnt_from_is_in_its_name(teacher: str, small_folder: Path, tmp_path: Path) -> None:
    middle = write_recipe(tmp_path / "middle.toml", small_folder, epochs=1, teacher=teacher)
    recipe = student(middle, epochs=1, data=str(small_folder))
    for seed in (5, 5, 6):
        write_recipe(Path(teacher), small_folder, epochs=1, layers=list(TEACHER_LAYERS), seed=seed)
        prepare_teachers(recipe, tmp_path / "all", NoProgress())
    names = sorted((tmp_path / "all").glob("teacher-*"))
    assert len(names) == 2
    found = {read_result(one / "teacher").recipe.run.seed for one in names}
    assert found == {5, 6}


def test_the_teacher_matters_and_so_does_every_key(teacher: str, few: DataSet) -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"teacher": ""},
        {"teachers": 2},
        {"temperature": 1.0},
        {"weight": 0.5},
        {"teacher": [teacher, teacher]},
    ]
    digests = [fit(student(teacher).replace(epochs=1, **one), few).result.model_sha256 for one in variants]
    plain = fit(tiny_recipe(epochs=1), few).result.model_sha256
    # Two equal teachers agree with one.
    assert digests[5] == digests[0]
    assert len(set(digests)) == 5
    assert digests[1] == plain
    assert fit(student(teacher, epochs=1, weight=0.0), few).result.model_sha256 == plain


def test_several_teachers_of_recipes_and_models(teacher: str, few: DataSet, finished: Run, tmp_path: Path) -> None:
    assert finished.folder is not None
    alone = tmp_path / "model.safetensors"
    alone.write_bytes((finished.folder / MODEL_FILE).read_bytes())
    messages = RecordedMessages()
    run = fit(student([teacher, str(finished.folder), str(alone)], teachers=2), few, tmp_path / "run", messages)
    found = run.result.teachers
    assert [one.folder for one in found] == [f"teacher-{number}" for number in range(1, 5)]
    assert [one.seconds is None for one in found] == [False, False, False, True]
    assert [read_result(tmp_path / f"run/teacher-{number}").recipe.run.seed for number in (1, 2)] == [5, 6]
    assert {one.model_sha256 for one in found[2:]} == {finished.result.model_sha256}
    # The accuracy of the first is from its own run; the second has no run and is scored on its student's images.
    own = evaluate(finished.model, few.test).accuracy
    assert [one.accuracy for one in found[2:]] == [finished.result.final.test_accuracy, own]
    assert f"the teacher is that of {finished.folder}" in messages.lines
    assert [load_model(tmp_path / "run" / str(one.folder)).sha256 for one in found] == [
        one.model_sha256 for one in found
    ]


def test_a_run_with_a_copy_of_its_teacher_resumes_without_the_source(
    few: DataSet, finished: Run, tmp_path: Path
) -> None:
    assert finished.folder is not None
    source = tmp_path / "model.safetensors"
    source.write_bytes((finished.folder / MODEL_FILE).read_bytes())
    recipe = student(str(source))
    whole = fit(recipe, few).result.model_sha256
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, few, tmp_path / "run", StopAtEpoch(1))
    source.unlink()
    assert resume(tmp_path / "run", few).result.model_sha256 == whole


@pytest.mark.ci
def test_it_resumes_exactly_wherever_it_was_stopped(teacher: str, few: DataSet, tmp_path: Path) -> None:
    """Two teachers are trained for two epochs each before the two epochs of the student."""
    recipe = student(teacher, teachers=2)
    whole = fit(recipe, few).result.model_sha256
    for stop in (0, 1, 2, 3, 5):
        folder = tmp_path / f"stopped-{stop}"
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, few, folder, RecordedMessages(stop))
        assert (folder / CHECKPOINT_FILE).exists() == (stop >= 4)
        messages = RecordedMessages()
        assert resume(folder, few, messages).result.model_sha256 == whole
        assert messages.epochs == 6 - stop


def test_a_missing_teacher_is_reported(teacher: str, few: DataSet, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(student(teacher), few, tmp_path / "run", RecordedMessages(3))
    (tmp_path / "run/teacher" / MODEL_FILE).unlink()
    with pytest.raises(KilonetError) as error:
        resume(tmp_path / "run", few)
    refusal(error, tmp_path / "run/teacher", MODEL_FILE)


def test_a_teacher_does_not_train_on_the_held_out_images(teacher: str, few: DataSet, tmp_path: Path) -> None:
    run = fit(student(teacher, holdout=True), few, tmp_path / "run")
    own = read_result(tmp_path / "run/teacher")
    assert own.recipe.run.holdout
    assert (own.scored, own.scored_images) == ("Holdout", len(few.train) // 6)
    held = few.hold_out()
    alone = fit(load_recipe(teacher), DataSet(held.train, few.test))
    assert own.model_sha256 == alone.result.model_sha256
    assert run.result.teachers[0].scored == "Holdout"


def test_a_model_that_has_seen_the_held_out_images_is_refused(
    teacher: str, few: DataSet, small_folder: Path, finished: Run, tmp_path: Path
) -> None:
    assert finished.folder is not None
    for source in (finished.folder, finished.folder / MODEL_FILE, model_path("best")):
        with pytest.raises(KilonetError) as error:
            fit(student(str(source), holdout=True, data=str(small_folder)), few, tmp_path / "run")
        refusal(error, source, "has seen the images held out", "--holdout")
    held = tmp_path / "held"
    fit(load_recipe(teacher, {"holdout": True}), few, held)
    fit(student(str(held), holdout=True, data=str(small_folder)), few)
    with pytest.raises(KilonetError) as error:
        fit(student(str(held), holdout=True, data="elsewhere"), few)
    refusal(error, held, "has seen the images held out")


def test_a_bare_model_cannot_tell_what_it_has_seen(few: DataSet, finished: Run, tmp_path: Path) -> None:
    assert finished.folder is not None
    alone, messages = tmp_path / "alone.safetensors", RecordedMessages()
    alone.write_bytes((finished.folder / MODEL_FILE).read_bytes())
    fit(student(str(alone), holdout=True), few, progress=messages)
    assert any("cannot be told from its file" in line for line in messages.lines)


def test_the_seeds_share_a_teacher(teacher: str, small_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "seeds"
    path = write_recipe(tmp_path / "few.toml", small_folder, epochs=1, teacher=teacher)
    answer = forked("train", path, "--seeds", "2", "--out", out, "--json", before=fork_seeds)
    assert answer.status == 0, answer.err
    assert answer.err.count("the teacher: ") == 1
    told = [line.split(": ")[0] for line in answer.err.splitlines() if "the teacher is that of" in line]
    assert sorted(told) == ["seed 0", "seed 1"]
    (shared,) = out.glob("teacher-*")
    for run in json.loads(answer.out)["runs"]:
        assert run["teachers"][0]["model_sha256"] == read_result(shared).model_sha256
        assert is_finished(Path(run["folder"]) / "teacher")


def test_a_shared_teacher_is_found_by_its_hash_alone(
    teacher: str, small_folder: Path, small: DataSet, tmp_path: Path
) -> None:
    recipe = student(teacher, epochs=1, data=str(small_folder))
    with pytest.raises(KeyboardInterrupt):
        prepare_teachers(recipe, tmp_path / "all", RecordedMessages(1))
    messages = RecordedMessages()
    prepare_teachers(recipe, tmp_path / "all", messages)
    assert messages.epochs == 1
    first, other, changed = RecordedMessages(), RecordedMessages(), RecordedMessages()
    fit(recipe, small, tmp_path / "all/seed0", first)
    assert first.epochs == 1
    fit(
        recipe,
        DataSet(small.train.select(small.train.labels >= 0, "Train"), small.test),
        tmp_path / "all/same",
        RecordedMessages(1),
    )
    fit(recipe, small.hold_out(), tmp_path / "all/other-images", other)
    write_recipe(Path(teacher), small_folder, layers=list(TEACHER_LAYERS), seed=6)
    fit(recipe, small, tmp_path / "all/changed-recipe", changed)
    assert other.epochs == changed.epochs == 3


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere", ["no teacher 'nowhere'"]),
        ("nowhere.toml", ["no recipe 'nowhere.toml'"]),
        (".", ["no model.safetensors in this folder"]),
        ("classes.toml", ["(1, 28, 28)", "tells 7", "tells 10"]),
        ("input.toml", ["(1, 24, 24)", "(1, 28, 28)"]),
        ("distils.toml", ["among its own teachers", "distils.toml learns from distils.toml"]),
        ("broken.safetensors", ["not a usable model file"]),
    ],
)
def test_an_unusable_teacher_is_refused_before_anything_is_written(
    source: str, words: list[str], few: DataSet, small_folder: Path, workplace: Path
) -> None:
    assert not list(workplace.iterdir())
    write_recipe(Path("classes.toml"), small_folder, layers=[*TINY_LAYERS[:-1], "pointwise 7"])
    write_recipe(Path("input.toml"), small_folder, input=[1, 24, 24])
    write_recipe(Path("distils.toml"), small_folder, teacher="distils.toml")
    Path("broken.safetensors").write_bytes(b"no model")
    with pytest.raises(KilonetError) as error:
        fit(student(source), few, Path("run"))
    refusal(error, source, *words)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("circle.toml", ["among its own teachers", "circle.toml learns from other.toml learns from circle.toml"]),
        ("chain-0.toml", ["chain-10.toml", "over 10 long"]),
        ("astray.toml", ["no recipe 'nowhere.toml'", "(a teacher of astray.toml)"]),
    ],
)
@pytest.mark.usefixtures("workplace")
def test_what_teachers_learn_from_is_checked_before_anything_is_written(
    source: str, words: list[str], few: DataSet, small_folder: Path
) -> None:
    write_recipe(Path("circle.toml"), small_folder, teacher="other.toml")
    write_recipe(Path("other.toml"), small_folder, teacher="circle.toml")
    write_recipe(Path("astray.toml"), small_folder, teacher="nowhere.toml")
    for number in range(12):
        write_recipe(Path(f"chain-{number}.toml"), small_folder, teacher=f"chain-{number + 1}.toml")
    with pytest.raises(KilonetError) as error:
        fit(student(source), few, Path("run"))
    refusal(error, *words)
    assert not Path("run").exists()


@pytest.mark.usefixtures("workplace")
def test_a_teacher_of_other_classes_is_refused(few: DataSet, small_folder: Path) -> None:
    """Its probabilities are taken class by class, so that the same names in another order will not do either."""
    names = tuple(f"class {number}" for number in range(10))
    recipe = write_recipe(Path("teacher.toml"), small_folder, epochs=1)
    fit(load_recipe(str(recipe)), replace(few, names=names), Path("named"))
    for ours, words in (
        (("ape", *names[1:]), ("class 0 is 'class 0', not 'ape'",)),
        ((names[0], names[2], names[1], *names[3:]), ("class 1 is 'class 1', not 'class 2'",)),
    ):
        with pytest.raises(KilonetError) as error:
            fit(student("named"), replace(few, names=ours), Path("run"))
        refusal(error, "the teacher named has other classes than the data", *words)
        assert not Path("run").exists()
    fit(student("named", epochs=1), replace(few, names=names), Path("run"))


def test_there_is_nothing_to_learn_from_a_network_without_weights(
    few: DataSet, small_folder: Path, tmp_path: Path
) -> None:
    shape = {"input": [10, 28, 28]}
    path = write_recipe(tmp_path / "weightless.toml", small_folder, layers=["gap"], **shape)
    with pytest.raises(KilonetError) as error:
        resolve_teachers(student(path, **shape), few, NoProgress())
    refusal(error, path, "no weights")


def test_flags_name_teachers_and_turn_them_off(
    teacher: str, small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path / "few.toml", small_folder, epochs=1, teacher="nowhere")
    command(capsys, "train", path, "--out", tmp_path / "a").refused("nowhere")
    without = command(capsys, "train", path, "--out", tmp_path / "a", "--teacher", "")
    assert without.status == 0, without.err
    assert read_result(tmp_path / "a").teachers == ()
    assert "Teacher" not in without.out
    words = ("--teacher", teacher, "--teachers", "2", "--temperature", "3", "--weight", "0.5")
    taught = command(capsys, "train", path, "--out", tmp_path / "b", *words)
    assert taught.status == 0, taught.err
    result = read_result(tmp_path / "b")
    assert result.recipe.distill.model_dump() == {
        "teacher": (teacher,),
        "teachers": 2,
        "temperature": 3.0,
        "weight": 0.5,
    }
    lines = [line for line in taught.out.splitlines() if line.startswith("Teacher: ")]
    assert len(lines) == 2
    assert lines[0].startswith(f"Teacher: {100 * result.teachers[0].accuracy:.2f}% of 500 test images, ")
    assert lines[0].endswith(f"{result.teachers[0].seconds:.1f} s of training, not counted in the other times")


def test_a_teacher_that_diverges_says_that_it_is_the_teacher(few: DataSet, small_folder: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "wild.toml", small_folder, learning_rate=100.0)
    with pytest.raises(TrainingDiverged) as error:
        fit(student(path), few)
    refusal(error.value, "the teacher's training diverged", "in its own recipe")


def test_a_teacher_that_balances_classes_needs_images_of_each(few: DataSet, small_folder: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "even.toml", small_folder, sampling="balanced")
    without = DataSet(few.train.select((few.train.labels != 3).nonzero()[:, 0], "Train"), few.test)
    with pytest.raises(KilonetError) as error:
        fit(student(path), without)
    refusal(error, "class 3 has no training images")


def test_an_interrupted_teacher_of_several_seeds_says_how_to_go_on(
    teacher: str, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(launch, "progress_on", lambda: RecordedMessages(1))
    path = write_recipe(tmp_path / "few.toml", small_folder, epochs=1, teacher=teacher)
    with pytest.raises(KeyboardInterrupt) as error:
        launch.train_seeds(path, {}, tmp_path / "my seeds", 2)
    assert f"--out '{tmp_path / 'my seeds'}'" in str(error.value)
