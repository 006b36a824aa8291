"""Training as the command line does it: where runs go, several seeds, and the closing words."""

import json
from pathlib import Path

import pytest

from helpers import command, refusal, tiny_recipe
from kilonet.data.datasets import DataSet
from kilonet.training import sessions
from kilonet.training.run_folder import Run, read_result
from kilonet.training.train import fit
from kilonet.utils.errors import KilonetError


@pytest.fixture
def tiny(tmp_path: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_recipe(small_folder, epochs=1).to_toml(), encoding="utf-8")
    return path


def test_every_run_gets_a_folder_of_its_own(tiny: Path) -> None:
    folders = [sessions.train_recipe(str(tiny), {"seed": seed}, None).folder for seed in (0, 0, 4)]
    assert folders == [Path("runs/tiny-seed0"), Path("runs/tiny-seed0-2"), Path("runs/tiny-seed4")]


def test_an_interruption_says_how_to_go_on(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, out: Path, **__: object) -> Run:
        out.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(sessions, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt) as error:
        sessions.train_recipe(str(tiny), {}, tmp_path / "my run")
    assert str(error.value).endswith(f"go on with: kilonet train --resume '{tmp_path / 'my run'}'")


def test_several_seeds_are_the_runs_that_each_would_be(
    tiny: Path, tmp_path: Path, small: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "seeds"
    answer = command(capsys, "train", tiny, "--seeds", "2", "--seed", "5", "--out", out, "--json")
    assert answer.status == 0, answer.err
    runs = json.loads(answer.out)["runs"]
    assert [run["folder"] for run in runs] == [str(out / "seed5"), str(out / "seed6")]
    for seed, run in zip((5, 6), runs, strict=True):
        assert read_result(out / f"seed{seed}").model_sha256 == run["model_sha256"]
        alone = fit(tiny_recipe(epochs=1, seed=seed), small)
        assert alone.result.model_sha256 == run["model_sha256"]


@pytest.mark.parametrize("seeds", [-1, 0, 1001])
def test_a_silly_number_of_seeds_is_refused(tiny: Path, seeds: int) -> None:
    with pytest.raises(KilonetError) as error:
        sessions.train_seeds(str(tiny), {}, None, seeds)
    refusal(error, f"--seeds {seeds}")


def test_the_closing_words_of_a_run(finished: Run) -> None:
    result = finished.result
    lines = sessions.summary(finished).splitlines()
    assert lines[0].startswith(f"Final: {100 * result.final.test_accuracy:.2f}% of 500 test images, 95 % interval ")
    assert "picked by looking" in lines[1]
    assert "2 epochs (torch engine, 1 threads)" in lines[2]
    assert lines[3:] == [f"Run folder: {finished.folder}", f"Next: kilonet evaluate {finished.folder}"]


def test_the_closing_words_of_several_seeds(finished: Run) -> None:
    def with_figures(seed: int, accuracy: float) -> Run:
        result = finished.result
        recipe = result.recipe.replace(seed=seed)
        final = result.final.model_copy(update={"test_accuracy": accuracy})
        changed = result.model_copy(update={"recipe": recipe, "final": final, "seconds": 10.0})
        return Run(changed, finished.history, finished.model, finished.folder)

    runs = [with_figures(3, 0.99), with_figures(4, 0.992), with_figures(5, 0.994)]
    assert sessions.seeds_summary(runs).splitlines() == [
        "seed 3: 99.00%",
        "seed 4: 99.20%",
        "seed 5: 99.40%",
        "Final epoch: 99.200 ± 0.200 % (mean ± sd, n = 3) of 500 test images; 10.0 s a run",
    ]
    assert "99.000 % (mean ± sd, n = 1)" in sessions.seeds_summary(runs[:1])


def test_a_finished_run_is_not_resumed(finished: Run) -> None:
    assert finished.folder is not None
    with pytest.raises(KilonetError) as error:
        sessions.resume_run(finished.folder)
    refusal(error, finished.folder, "is finished")
