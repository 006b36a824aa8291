"""The evolutionary sampler: parents and children, what a trial's record holds, and that a sweep can be continued."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune
from test_sampler import begun, plan_in, recipe_of, result

from helpers import refusal, tiny_recipe
from kilonet.models.model import MODEL_FILE, load_model
from kilonet.recipe import Recipe
from kilonet.sweep import worker
from kilonet.sweep.evolution import Member, breed
from kilonet.sweep.inheritance import inherit
from kilonet.sweep.plan import Plan
from kilonet.sweep.sampler import CandidateSampler, configuration
from kilonet.sweep.trials import TrialRecord, Trials
from kilonet.training.run_folder import RECIPE_FILE, START_FILE, Run, read_result
from kilonet.training.train import fit
from kilonet.utils.errors import KilonetError

SEARCH = {"trials": 40, "epochs": 2, "grace": 2, "sampler": "evolution", "population": 4, "sample": 2}
KEYS = {"learning_rate": {"low": 0.01, "high": 0.3}, "batch_size": {"choices": [32, 64]}}


def end_like(finished: Run, folder: Path, recipe: Recipe) -> None:
    """Write the folder of a run of a recipe with the figures and the weights of another one."""
    assert finished.folder
    shutil.copytree(finished.folder, folder)
    (folder / RECIPE_FILE).write_text(recipe.to_toml())


def drawn_one_after_another(plan: Plan, finished: Run, drivers: int, each: int) -> list[TrialRecord]:
    """Let samplers draw trials, all of which end like the finished run."""
    trials = begun(plan)
    for _ in range(drivers):
        trials = Trials(plan)
        sampler = CandidateSampler(plan, trials)
        for place in range(each):
            suggested = sampler.suggest(str(place))
            number = suggested["number"]
            end_like(finished, trials.path(number), recipe_of(suggested))
            sampler.on_trial_complete(str(place), result(trials.error(number)))
    return list(trials.records.values())


@pytest.mark.parametrize("changes", [{}, {"layers": ()}], ids=["from a space", "from the base recipe"])
def test_children_are_changed_parents(tmp_path: Path, finished: Run, changes: dict[str, Any]) -> None:
    plan = plan_in(tmp_path, search=SEARCH, keys=KEYS, budget={"max_parameters": 12_000}, **changes)
    records = drawn_one_after_another(plan, finished, 1, 24)
    trials = {record.number: record for record in records}
    assert [record.parent for record in records[:4]] == [None] * 4
    assert len({record.parent for record in records[4:]}) > 3
    moves, keys = 0, 0
    for record in records[4:]:
        assert record.parent
        assert record.layers
        assert record.number > record.parent >= record.number - 4, "parents are among the youngest"
        parent = trials[record.parent]
        changed = {key for key in KEYS if record.draws[key] != parent.draws[key]}
        moved = parent.layers is not None and record.layers != parent.layers
        assert len(changed) + moved <= 1 or parent.layers is None
        moves, keys = moves + moved, keys + len(changed)
    assert moves > 6
    assert keys > 1
    assert (records[0].layers is None) is bool(plan.layers), "first trials are drawn where there is a space"


def test_an_evolution_that_is_continued_draws_what_it_would_have_drawn(tmp_path: Path, finished: Run) -> None:
    drawn = [
        drawn_one_after_another(plan_in(tmp_path / str(drivers), search=SEARCH, keys=KEYS), finished, drivers, each)
        for drivers, each in ((1, 12), (4, 3))
    ]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 12


def test_better_trials_have_more_children(tmp_path: Path) -> None:
    """By the error and by the cost alike; a trial that is worst in both has none."""
    plan = plan_in(tmp_path, search={**SEARCH, "population": 10, "sample": 5})
    recipe = plan.base.replace(layers=["conv 8", "maxpool 2", "conv 8", "gap", "pointwise 10"])
    points = [(0.01, 900), (0.02, 300), (0.05, 200), (0.9, 1200), *[(0.1 + n / 100, 500 + n) for n in range(6)]]
    members = {
        number: Member(TrialRecord(number=number, draws={}), recipe, point) for number, point in enumerate(points, 1)
    }
    parents = []
    for seed in range(300):
        try:
            parents.append(breed(plan, members, 11, np.random.default_rng(seed)).parent)
        except KilonetError as error:
            refusal(error)
    counts = {number: parents.count(number) for number in members}
    assert min(counts[1], counts[2]) > len(parents) / 8
    assert counts[4] == 0
    old = {0: members[4], **members}
    assert breed(plan_in(tmp_path, search=SEARCH), old, 12, np.random.default_rng(2)).parent not in (0, 1, 2)


def test_a_trial_that_was_stopped_or_diverged_is_no_parent(tmp_path: Path, finished: Run) -> None:
    plan = plan_in(tmp_path, search=SEARCH)
    trials = begun(plan)
    sampler = CandidateSampler(plan, trials)
    for number in range(1, 12):
        configuration = sampler.suggest(str(number))
        if number in (2, 6):
            end_like(finished, trials.path(number), recipe_of(configuration))
        sampler.on_trial_complete(str(number), result(0.1, diverged=number == 3))
        parent = trials.records[configuration["number"]].parent
        assert parent in ((None,) if number <= 4 else (2,) if number <= 6 else (2, 6))


@pytest.mark.ci
def test_a_child_is_trained_from_its_parents_weights(tmp_path: Path, small_folder: Path) -> None:
    """As `fit` trains it from them; without `inherit`, from its seed; a parent that is gone is one line."""
    base = tmp_path / "base.toml"
    base.write_text(tiny_recipe(small_folder, epochs=1).to_toml())
    reports: list[dict[str, Any]] = []
    for inherits in (True, False):
        folder = tmp_path / str(inherits)
        search = {**SEARCH, "epochs": 1, "grace": 1, "population": 2, "inherit": inherits}
        plan = plan_in(folder, recipe=str(base), layers=(), search=search, budget={})
        trials = begun(plan)
        sampler = CandidateSampler(plan, trials)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tune, "report", reports.append)
            patch.chdir(tmp_path)
            for number in (1, 2, 3):
                suggested = sampler.suggest(str(number))
                worker.train(suggested)
                assert not reports[-1]["failure"]
                sampler.on_trial_complete(str(number), reports[-1])
        parent = trials.records[3].parent
        assert parent
        recipe: Recipe = recipe_of(suggested)
        trained = read_result(trials.path(3))
        assert (trials.path(3) / START_FILE).exists() is inherits
        start = inherit(load_model(trials.path(parent)), recipe.model, recipe.run.seed) if inherits else None
        assert trained.start_sha256 == (start.sha256 if start else None)
        assert trained.model_sha256 == fit(recipe, start=start).result.model_sha256
    gone = {**suggested, "parent": str(tmp_path / "gone"), "folder": str(trials.path(4))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "report", reports.append)
        patch.chdir(tmp_path)
        worker.train(gone)
    assert "gone" in reports[-1]["failure"]


def test_a_damaged_record_of_a_child_is_named(tmp_path: Path, finished: Run) -> None:
    plan = plan_in(tmp_path, search=SEARCH, keys=KEYS)
    drawn_one_after_another(plan, finished, 1, 5)
    path = tmp_path / "out" / "0005.json"
    record = json.loads(path.read_text())
    layers = record["layers"]
    wrong: list[dict[str, Any]] = [{"parent": number} for number in (0, 5, 6, -1, "1", 10**30)]
    wrong += [{"layers": ["conv 5", "maxpool 2", "conv 5", "gap", "pointwise 10"]}, {"layers": None}]
    wrong += [{"layers": value} for value in ([], [*layers, "conv"], ["x" * 10**5], "conv 4", [1], layers * 60)]
    wrong += [{"layers": ["conv 4000 same", "conv 4000 same", "gap", "pointwise 10"]}, {"draws": {}}]
    for change in wrong:
        path.write_text(json.dumps({**record, **change}))
        with pytest.raises(KilonetError) as error:
            CandidateSampler(plan, Trials(plan))
        refusal(error, path, "to drop the trial")
    path.write_text(json.dumps(record))
    tpe = plan_in(tmp_path, keys=KEYS, search={key: SEARCH[key] for key in ("trials", "epochs", "grace")})
    with pytest.raises(KilonetError) as error:
        CandidateSampler(tpe, Trials(tpe))
    refusal(error, path, "a trial of an evolution")


def test_a_trial_that_is_dropped_gives_its_number_to_no_other(tmp_path: Path, finished: Run) -> None:
    """Nor its run folder; its children, which have their weights, stay."""
    plan = plan_in(tmp_path, search=SEARCH)
    records = drawn_one_after_another(plan, finished, 1, 8)
    for record in records[4:]:
        (tmp_path / "out" / f"{record.parent:04}.json").unlink(missing_ok=True)
    (tmp_path / "out" / "0008.json").unlink()
    trials = Trials(plan)
    assert CandidateSampler(plan, trials).suggest("new")["number"] == 9
    assert set(trials.records) < {*range(1, 8), 9}
    assert any(record.parent not in trials.records for record in trials.records.values() if record.parent)


def test_a_parent_whose_model_is_gone_is_named(tmp_path: Path, finished: Run) -> None:
    plan = plan_in(tmp_path, search=SEARCH)
    drawn_one_after_another(plan, finished, 1, 4)
    trials = Trials(plan)
    suggested = CandidateSampler(plan, trials).suggest("child")
    parent = Path(suggested["parent"])
    (parent / MODEL_FILE).unlink()
    reports: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "report", reports.append)
        patch.chdir(tmp_path)
        worker.train(suggested)
    assert f"its parent's model cannot be read: {parent}" in reports[-1]["failure"]
    assert f"remove {parent} to have the parent trained again" in reports[-1]["failure"]


def test_a_network_of_one_layer_grows(tmp_path: Path) -> None:
    base = tmp_path / "one.toml"
    base.write_text('[model]\nlayers = ["conv 10", "gap"]\n')
    trials = begun(plan_in(tmp_path, recipe=str(base), layers=(), search=SEARCH))
    sampler = CandidateSampler(trials.plan, trials)
    drawn = [recipe_of(sampler.suggest(str(number))).model.layers for number in range(6)]
    assert {layers[-2:] for layers in drawn} == {("conv 10", "gap")}
    assert max(map(len, drawn)) > 2


def test_an_evolution_without_parents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KilonetError) as error:
        plan_in(tmp_path, search={**SEARCH, "population": 40})
    refusal(error, "search.population = 40", "search.trials = 40")


def test_a_trial_knows_its_parent_only_in_an_evolution(tmp_path: Path) -> None:
    trials = begun(plan_in(tmp_path))
    sampler = CandidateSampler(trials.plan, trials)
    suggested = sampler.suggest("first")
    assert suggested["parent"] is None
    assert configuration(trials, 1, recipe_of(suggested)) == suggested
