"""Starting runs: where their folders are, several seeds, and resuming."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import command, refusal, tiny_recipe
from kilonet.data.datasets import DataSet
from kilonet.engines.selection import resolve_run
from kilonet.training import launch
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
    folders = [launch.train_recipe(str(tiny), {"seed": seed}, None).folder for seed in (0, 0, 4)]
    assert folders == [Path("runs/tiny-seed0"), Path("runs/tiny-seed0-2"), Path("runs/tiny-seed4")]


def test_an_interruption_says_how_to_go_on(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, out: Path, **__: object) -> Run:
        out.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt) as error:
        launch.train_recipe(str(tiny), {}, tmp_path / "my run")
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


def test_auto_is_the_processor_although_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for engine in ("auto", "torch"):
        assert resolve_run(tiny_recipe(device="auto", engine=engine)).run.device == "cpu"


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_seeds_share_a_gpu_one_after_another(
    device: str, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where `auto` means the GPU."""

    def interrupted(*_: Any, **__: Any) -> list[Run]:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "cores", lambda: 8)
    monkeypatch.setattr(launch, "resolve_device", lambda _: "cuda", raising=False)
    monkeypatch.setattr(launch, "_train_side_by_side", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch.train_seeds(str(tiny), {"device": device}, None, 4)
    assert "4 seeds, 1 at a time" in capsys.readouterr().err


@pytest.mark.parametrize("seeds", [-1, 0, 1001])
def test_a_silly_number_of_seeds_is_refused(tiny: Path, seeds: int) -> None:
    with pytest.raises(KilonetError) as error:
        launch.train_seeds(str(tiny), {}, None, seeds)
    refusal(error, f"--seeds {seeds}")


def test_a_finished_run_is_not_resumed(finished: Run) -> None:
    assert finished.folder is not None
    with pytest.raises(KilonetError) as error:
        launch.resume_run(finished.folder)
    refusal(error, finished.folder, "is finished")
