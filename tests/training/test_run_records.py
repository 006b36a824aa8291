"""Runs as they are read: their folders, and which of them are repetitions of one another."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers import refusal
from kilonet.training.identity import training_keys
from kilonet.training.run_folder import Run
from kilonet.training.run_records import (
    RunRecord,
    group_repetitions,
    read_runs,
    run_folders,
)
from kilonet.utils.errors import KilonetError


@pytest.fixture
def seeds(finished: Run, tmp_path: Path) -> Path:
    """A folder of seeds with a finished teacher beside them."""
    assert finished.folder
    for name in ("seed10", "seed2", "teacher-1a2b"):
        shutil.copytree(finished.folder, tmp_path / "many" / name)
    return tmp_path / "many"


@pytest.mark.parametrize("changes", [{"seed": 7}, {"threads": 3}, {"device": "cuda"}, {}])
def test_repetitions_differ_in_seed_threads_and_device(finished: Run, changes: dict[str, Any]) -> None:
    groups = group_repetitions([RunRecord("a", finished.result), changed(finished, **changes)])
    assert [[record.name for record in group] for group in groups] == [["a", "b"]]


@pytest.mark.parametrize(
    "changes", [{"precision": "bfloat16"}, {"engine": "native"}, {"data": "mnist"}, {"holdout": True}, {"epochs": 99}]
)
def test_runs_that_differ_in_anything_else_are_no_repetitions(finished: Run, changes: dict[str, Any]) -> None:
    groups = group_repetitions([RunRecord("a", finished.result), changed(finished, **changes)])
    assert [len(group) for group in groups] == [1, 1]


def changed(run: Run, **changes: Any) -> RunRecord:
    recipe = run.result.recipe.replace(**changes).model_copy(update={"about": "another text"})
    return RunRecord("b", run.result.model_copy(update={"recipe": recipe}))


def test_the_keys_that_decide_a_training_are_named_with_their_section(finished: Run) -> None:
    keys = training_keys(finished.result.recipe)
    assert keys["train.epochs"] == finished.result.recipe.train.epochs
    assert not {"about", "run.seed", "run.threads", "run.device"} & set(keys)


def test_seeds_are_read_in_rising_order_without_their_teacher(seeds: Path) -> None:
    assert [folder.name for folder in run_folders(seeds)] == ["seed2", "seed10"]
    records = read_runs(str(seeds))
    assert [(record.name, record.folder) for record in records] == [
        ("many, seed 2", seeds / "seed2"),
        ("many, seed 10", seeds / "seed10"),
    ]
    assert all(record.history for record in records)
    assert [record.name for record in read_runs(str(seeds / "seed2"))] == ["many, seed 2"]


def test_an_unfinished_seed_is_not_left_out_unnoticed(seeds: Path) -> None:
    (seeds / "seed2" / "result.json").unlink()
    with pytest.raises(KilonetError) as error:
        read_runs(str(seeds))
    refusal(error, seeds / "seed2", "has its training finished")


def test_a_folder_of_other_runs_gives_the_finished_ones(seeds: Path) -> None:
    for name, new in (("seed2", "b"), ("seed10", "a"), ("teacher-1a2b", "unfinished")):
        (seeds / name).rename(seeds / new)
    (seeds / "unfinished" / "result.json").unlink()
    assert [record.name for record in read_runs(str(seeds))] == ["a", "b"]
