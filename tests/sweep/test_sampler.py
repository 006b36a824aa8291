"""Sampler, scheduler, the folder of a sweep and the Pareto front, without a cluster."""

import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from helpers import TINY_LAYERS, command, refusal
from kilonet.evaluation.metrics import Metric
from kilonet.evaluation.public_results import public_results_on
from kilonet.evaluation.statistics import wilson_interval
from kilonet.network.chip_cost import chip_cost
from kilonet.network.layers import Conv
from kilonet.recipe import Recipe, load_recipe, parse_recipe
from kilonet.sweep import driver, worker
from kilonet.sweep.costs import Cost, costs_of
from kilonet.sweep.driver import _resources
from kilonet.sweep.live_table import LiveTable
from kilonet.sweep.pareto import ParetoFront, pareto_optimal
from kilonet.sweep.plan import Plan, SearchSection, load_plan
from kilonet.sweep.sampler import CandidateSampler, configuration
from kilonet.sweep.scheduler import SizeGroupedASHA
from kilonet.sweep.trials import Trials
from kilonet.training.run_folder import Run, lock_folder
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import make_folder

LAYERS = ("conv {4..40}", "maxpool 2", "conv {4..40}", "gap", "pointwise 10")


def plan_in(folder: Path, **changes: Any) -> Plan:
    search = {"trials": 10, "epochs": 4, "grace": 1, "reduction": 2.0}
    table = {"recipe": "fast", "out": str(folder / "out"), "layers": LAYERS, "budget": {"max_parameters": 1200}}
    return Plan.model_validate({**table, "search": search, **changes})


def begun(plan: Plan) -> Trials:
    trials = Trials(plan)
    make_folder(trials.folder)
    trials.begin()
    return trials


def recipe_of(configuration: Any) -> Recipe:
    return parse_recipe(json.loads(configuration["recipe"]), "trial", {})


def result(error: float, diverged: bool = False) -> dict[str, Any]:
    return {"error": error, "diverged": diverged, "epoch": 1, "failure": ""}


def test_a_candidate_over_the_budget_is_never_a_trial(tmp_path: Path) -> None:
    """Most of this space is over the budget."""
    trials = begun(plan_in(tmp_path))
    sampler = CandidateSampler(trials.plan, trials)
    for number in range(1, 16):
        configuration = sampler.suggest(f"id {number}")
        assert configuration["number"] == number == len(trials.records)
        assert recipe_of(configuration).model.parameters == configuration["parameters"] <= 1200
        sampler.on_trial_complete(f"id {number}", result(0.5 / number))
    assert not sampler.exhausted
    assert len(list(trials.folder.glob("*.json"))) == 15
    assert not [path for path in trials.folder.iterdir() if path.is_dir()], "drawing must train nothing"


@pytest.fixture
def _few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler gives up after a tenth of its tries."""
    monkeypatch.setattr("kilonet.sweep.sampler._TRIES", 200)


@pytest.mark.usefixtures("_few_tries")
def test_a_small_space_is_drawn_once_each_and_ends(tmp_path: Path) -> None:
    trials = begun(plan_in(tmp_path, layers=("conv {4..8}", "gap", "pointwise 10")))
    sampler = CandidateSampler(trials.plan, trials)
    drawn = {recipe_of(sampler.suggest(str(number))) for number in range(5)}
    assert len(drawn) == 5
    assert sampler.suggest("sixth") == Searcher.FINISHED
    assert "drawn before" in sampler.exhausted


@pytest.mark.usefixtures("_few_tries")
def test_a_network_in_other_words_is_drawn_once(tmp_path: Path) -> None:
    """Twice once more is twice more; of one channel every convolution is depthwise; a single value is its mean."""
    layers = (
        "conv 8 {|depthwise}",
        "conv 8",
        "again 1 x{1..2}",
        "0..1 * again 1",
        "gap",
        "0..1 * again 1",
        "pointwise 10",
    )
    trials = begun(plan_in(tmp_path, layers=layers, budget={"max_parameters": 2000}))
    sampler = CandidateSampler(trials.plan, trials)
    drawn = [recipe_of(sampler.suggest(str(number))).model.placed for number in range(3)]
    assert sorted(sum(isinstance(layer.layer, Conv) for layer in placed) for placed in drawn) == [3, 4, 5]
    assert sampler.suggest("fourth") == Searcher.FINISHED
    assert "drawn before" in sampler.exhausted


@pytest.mark.usefixtures("_few_tries")
def test_a_space_without_candidates_says_why(tmp_path: Path) -> None:
    trials = begun(plan_in(tmp_path, budget={"max_parameters": 10}))
    sampler = CandidateSampler(trials.plan, trials)
    assert sampler.suggest("first") == Searcher.FINISHED
    assert "over max_parameters = 10" in sampler.exhausted


def test_a_new_driver_continues_unfinished_trials(tmp_path: Path) -> None:
    trials = begun(plan_in(tmp_path))
    sampler = CandidateSampler(trials.plan, trials)
    first = [sampler.suggest(str(number)) for number in range(4)]
    sampler.on_trial_complete("0", result(0.1))
    sampler.on_trial_complete("1", result(1.0, diverged=True))
    sampler.on_trial_complete("2", error=True)
    sampler.on_trial_complete("3", {**result(1.0), "failure": "no disk"})
    assert sampler.failures == ["trial 3: it keeps losing its worker", "trial 4: no disk"]
    assert [record.end for record in trials.records.values()] == ["stopped", "diverged", None, None]

    again = Trials(trials.plan)
    later = CandidateSampler(trials.plan, again)
    assert [later.suggest("a"), later.suggest("b")] == first[2:], "failed and unfinished trials are tried again"
    fresh = later.suggest("c")
    assert fresh["number"] == 5
    assert recipe_of(fresh) not in map(recipe_of, first), "the first draws must not be repeated"


def test_a_sweep_that_is_continued_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    """Twelve trials one after another, by one driver or by four: beyond the tenth, Optuna's model draws."""
    drawn = []
    for drivers in (1, 4):
        trials = begun(plan_in(tmp_path / str(drivers)))
        for _ in range(drivers):
            sampler = CandidateSampler(trials.plan, Trials(trials.plan))
            for place in range(12 // drivers):
                configuration = sampler.suggest(str(place))
                sampler.on_trial_complete(str(place), result(0.5 / configuration["number"]))
        drawn.append([record.draws for record in Trials(trials.plan).records.values()])
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 12


def with_final(run: Run, folder: Path, **figures: float | None) -> None:
    """Write a finished run with other figures into a folder."""
    assert run.folder
    shutil.copytree(run.folder, folder)
    result = json.loads((folder / "result.json").read_text())
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for epoch in (result["final"], *epochs):
        epoch.update({f"test_{name}": value for name, value in figures.items()})
    result["correct"] = round(500 * result["final"]["test_accuracy"])
    result["interval"] = wilson_interval(result["correct"], 500)
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))


OBJECTIVES: list[tuple[Metric, list[float], list[int]]] = [
    ("accuracy", [0.1, 0.2, 0.3], [1]),
    ("balanced_accuracy", [0.4, 0.3, 0.2], [3]),
    ("macro_f1", [0.5, 0.35, 0.35], [2]),
]


@pytest.mark.parametrize(("objective", "errors", "best"), OBJECTIVES)
def test_the_objective_decides_the_error_and_the_front(
    finished: Run, tmp_path: Path, objective: Metric, errors: list[float], best: list[int]
) -> None:
    """In the folder, in what the early stopping replays, in the worker's reports and in the front."""
    search = {"trials": 10, "epochs": 4, "grace": 1, "reduction": 2.0, "objective": objective}
    trials = begun(plan_in(tmp_path, search=search))
    for number, figures in enumerate(((0.9, 0.6, 0.5), (0.8, 0.7, 0.65), (0.7, 0.8, 0.65)), 1):
        trials.add({})
        names = ("accuracy", "balanced_accuracy", "macro_f1")
        with_final(finished, trials.path(number), **dict(zip(names, figures, strict=True)))
    assert [trials.error(number) for number in trials.records] == pytest.approx(errors)
    assert [one.number for one in pareto_optimal(trials.finished(), ("parameters",))] == best

    replayed: list[float] = []

    class Recorded(SizeGroupedASHA):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            replayed.append(result["error"])
            return super().on_trial_result(tune_controller, trial, result)

    Recorded(trials.plan.search).replay(trials, dict.fromkeys(trials.records, 1000))
    assert replayed == pytest.approx([error for error in errors for _ in finished.history])

    reported: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "report", reported.append)
        patch.chdir(tmp_path)
        for number in trials.records:
            worker.train(configuration(trials, number, finished.result.recipe))
    assert [report["error"] for report in reported] == pytest.approx(replayed)


def fake_trial(name: str, parameters: int) -> Any:
    return SimpleNamespace(trial_id=name, config={"cost": parameters})


def decision(scheduler: SizeGroupedASHA, trial: Any, error: float) -> str:
    scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"training_iteration": 1, "error": error})


def test_a_small_network_is_compared_with_small_ones_only() -> None:
    scheduler = SizeGroupedASHA(SearchSection(trials=9, epochs=8, grace=1, reduction=2.0))
    for number in range(4):
        decision(scheduler, fake_trial(f"large {number}", 1000 + number), 0.01 + number / 1000)
    assert decision(scheduler, fake_trial("weak and large", 1023), 0.2) == TrialScheduler.STOP
    assert decision(scheduler, fake_trial("weak and small", 511), 0.2) == TrialScheduler.CONTINUE
    assert decision(scheduler, fake_trial("weaker and small", 300), 0.3) == TrialScheduler.STOP


def test_data_that_fit_no_candidate_are_said_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what was left out of them, which no worker's words would tell."""
    monkeypatch.setattr(driver, "_ray", None)
    for name in ("cat", "dog"):
        for number in range(8):
            path = tmp_path / "photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (28, 28), 20 * number + len(name)).save(path)
    (tmp_path / "photos" / "cat" / "0.png").write_bytes(b"no picture")
    base = tmp_path / "base.toml"
    base.write_text(load_recipe("fast", {"data": str(tmp_path / "photos")}).to_toml(), encoding="utf-8")
    plan = tmp_path / "plan.toml"
    plan.write_text(plan_in(tmp_path, recipe=str(base)).to_toml(), encoding="utf-8")
    answer = command(capsys, "sweep", plan)
    assert answer.status == 2
    *told, error = answer.err.splitlines()
    assert "the data have 2 classes, but the network 10" in error
    assert "'pointwise 2'" in error
    assert sum("skipped: " in line for line in told) == 1


def test_another_plan_s_sweep_that_has_the_lock_keeps_its_files(tmp_path: Path) -> None:
    """Also before its first trial, when another plan might have the folder."""
    trials = begun(plan_in(tmp_path))
    kept = (trials.folder / "sweep.toml").read_bytes()
    with lock_folder(trials.folder), pytest.raises(KilonetError, match="in use"):
        driver.run(plan_in(tmp_path, budget={"max_parameters": 900}), None)
    assert (trials.folder / "sweep.toml").read_bytes() == kept


def test_a_sweep_interrupted_while_its_teacher_was_trained_goes_on(tmp_path: Path) -> None:
    trials = begun(plan_in(tmp_path))
    (trials.folder / "teacher-0123456789abcdef").mkdir()
    begun(plan_in(tmp_path))


def test_records_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    trials = begun(plan_in(tmp_path))
    (trials.folder / "9998").mkdir()
    for _ in range(3):
        trials.add({})
    assert list(Trials(plan_in(tmp_path)).records) == [9999, 10000, 10001]


def test_a_folder_that_is_not_a_sweep_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear diary")
    with pytest.raises(KilonetError) as error:
        begun(plan_in(tmp_path))
    refusal(error, tmp_path / "out", "no folder of a sweep")
    (tmp_path / "out" / "thesis.txt").unlink()
    begun(plan_in(tmp_path, budget={"max_parameters": 1}))
    # Nothing was trained.
    trials = begun(plan_in(tmp_path))
    trials.add({})
    begun(plan_in(tmp_path, search={"trials": 99, "epochs": 4, "grace": 1, "reduction": 2.0}))
    with pytest.raises(KilonetError) as error:
        begun(plan_in(tmp_path, budget={}, search={"trials": 9, "epochs": 5}, keys={"ema": {"choices": [0.9]}}))
    refusal(error, tmp_path / "out", "other settings", "search.epochs", "budget.max_parameters", "keys.ema")


def test_a_sweep_keeps_its_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep of a version that knew only parameters goes on by them; what is no cost is refused."""
    plan, path = plan_in(tmp_path), tmp_path / "sweep.toml"
    trials = begun(plan)
    stored = tmp_path / "out" / "sweep.toml"
    text = stored.read_text().replace('costs = [\n    "parameters",\n]\n', "")
    assert "costs = " not in text
    stored.write_text(text)
    begun(plan)
    path.write_text(text)
    trials.add({})
    command(capsys, "sweep", path, "--costs", "macs,flash_bytes").refused(
        tmp_path / "out", "costs parameters, not macs,flash_bytes", "--costs parameters"
    )
    command(capsys, "sweep", path, "--costs", "joules").refused("search.costs", "ram_bytes")
    command(capsys, "sweep", path, "--costs", "macs,macs").refused("search.costs", "the same cost twice")
    for wrong in ('["watts"]', '["macs", "macs"]', '"macs"'):
        path.write_text(text.replace("[search]", f"[search]\ncosts = {wrong}"))
        command(capsys, "sweep", path).refused(path, "search.costs")


def test_a_sweep_keeps_its_objective(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep of a version that knew only the accuracy goes on by it."""
    plan, path = plan_in(tmp_path), tmp_path / "sweep.toml"
    begun(plan).add({})
    stored = tmp_path / "out" / "sweep.toml"
    lines = [line for line in stored.read_text().splitlines() if not line.startswith("objective")]
    assert len(lines) == len(stored.read_text().splitlines()) - 1
    stored.write_text("\n".join(lines))
    begun(plan)
    path.write_text("\n".join(lines))
    command(capsys, "sweep", path, "--objective", "macro_f1").refused(
        tmp_path / "out", "objective accuracy, not macro_f1", "--objective accuracy"
    )
    command(capsys, "sweep", path, "--objective", "f1").refused("--objective", "macro_f1")
    path.write_text("\n".join(lines).replace("[search]", '[search]\nobjective = "f1"'))
    command(capsys, "sweep", path).refused(path, "search.objective", "macro_f1")


def test_a_base_that_has_changed_is_noticed(tmp_path: Path) -> None:
    base = tmp_path / "base.toml"
    base.write_text('[model]\nlayers = ["gap", "pointwise 10"]\n')
    begun(plan_in(tmp_path, recipe=str(base))).add({})
    begun(plan_in(tmp_path, recipe=str(base)))
    base.write_text('[model]\nlayers = ["gap", "pointwise 10"]\n[train]\nbatch_size = 32\n')
    with pytest.raises(KilonetError) as error:
        begun(plan_in(tmp_path, recipe=str(base)))
    refusal(error, base, "has changed")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    """Draws of another type or range, missing ones, and numbers of other trials."""
    trials = begun(
        plan_in(tmp_path, keys={"learning_rate": {"low": 0.01, "high": 0.3}, "batch_size": {"choices": [8]}})
    )
    CandidateSampler(trials.plan, trials).suggest("first")
    path = trials.folder / "0001.json"
    record = json.loads(path.read_text())
    draws = record["draws"]
    wrong = ["x", "nan", True, None, -1, 0.5, 10**30, 1e-300, float("nan"), float("inf"), [1], {}]
    texts = [json.dumps({**record, "draws": {**draws, name: value}}) for name in draws for value in wrong]
    texts += [json.dumps({**record, "draws": {}}), json.dumps({**record, "draws": {**draws, "more": 1}})]
    texts += [json.dumps({**record, "number": number}) for number in (2, 0, -1, 10**30)] + ["{", "[]", "\0", ""]
    for text in texts:
        path.write_text(text)
        with pytest.raises(KilonetError) as error:
            CandidateSampler(trials.plan, Trials(trials.plan))
        refusal(error, path, "to drop the trial")
    path.write_text(json.dumps(record))
    (trials.folder / "1-copy.json").write_text(json.dumps(record))
    with pytest.raises(KilonetError) as error:
        CandidateSampler(trials.plan, Trials(trials.plan))
    refusal(error, "1-copy.json")


def test_a_ray_that_does_not_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "sweep.toml"
    plan.write_text(plan_in(tmp_path).to_toml())

    def fail(**options: Any) -> None:
        assert options
        raise Exception("the current node timed out during startup\nthis could happen because")

    monkeypatch.setattr(ray, "init", fail)
    command(capsys, "sweep", plan).refused("Ray cannot be started: the current node timed out during startup")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    command(capsys, "sweep", plan).refused("Ray cannot be started", "No such file")


def test_joining_a_cluster_takes_a_token_that_nobody_else_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, token = tmp_path / "sweep.toml", tmp_path / "token"
    plan.write_text(plan_in(tmp_path).to_toml())
    joining = ("sweep", plan, "--address", "auto")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    command(capsys, *joining).refused(token, "no such file", "docs/SWEEP.md")
    token.write_text("a" * 64)
    token.chmod(0o644)
    command(capsys, *joining).refused(f"chmod 600 {token}")
    token.chmod(0o600)
    monkeypatch.setattr(ray, "init", lambda **options: options)
    monkeypatch.setattr(ray.remote_function.RemoteFunction, "_remote", lambda *_, **__: None)
    monkeypatch.setattr(ray, "get", lambda *_, **__: None)
    command(capsys, *joining).refused("the Ray cluster at auto asks for no token", "RAY_AUTH_MODE=token")


def test_only_trials_that_can_use_a_gpu_get_one(tmp_path: Path) -> None:
    cluster = {"CPU": 8.0, "GPU": 1.0}
    # `auto` computes on the processor.
    assert _resources(plan_in(tmp_path), cluster) == {"cpu": 1, "gpu": 0}
    base = tmp_path / "base.toml"
    base.write_text('[model]\nlayers = ["gap", "pointwise 10"]\n[run]\ndevice = "cuda"\nthreads = 2\n')
    assert _resources(plan_in(tmp_path, recipe=str(base)), cluster) == {"cpu": 2, "gpu": 1.0}
    assert _resources(plan_in(tmp_path, recipe=str(base)), {"CPU": 8.0}) == {"cpu": 2, "gpu": 0}


def finished_trial(number: int, parameters: int, errors: int, macs: int = 0) -> Any:
    return SimpleNamespace(number=number, costs={"parameters": parameters, "macs": macs}, error=errors / 100)


def test_the_front_holds_the_trials_that_no_other_beats() -> None:
    points = [(1, 500, 90), (2, 400, 95), (3, 500, 80), (4, 900, 80), (5, 300, 99), (6, 950, 10), (7, 300, 99)]
    front = pareto_optimal([finished_trial(*point) for point in points], ("parameters",))
    assert [one.number for one in front] == [5, 2, 3, 6]


@given(
    points=st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12),
    costs=st.sampled_from([("parameters",), ("macs",), ("macs", "parameters")]),
)
def test_every_trial_off_the_front_is_beaten_by_one_on_it(
    points: list[tuple[int, int, int]], costs: tuple[Cost, ...]
) -> None:
    trials = [finished_trial(number, *point) for number, point in enumerate(points)]
    front = pareto_optimal(trials, costs)

    def objectives(trial: Any) -> list[float]:
        return [*(trial.costs[cost] for cost in costs), trial.error]

    def beats(one: Any, other: Any) -> bool:
        pairs = list(zip(objectives(one), objectives(other), strict=True))
        return all(mine <= theirs for mine, theirs in pairs) and (objectives(one) != objectives(other))

    assert not [one for one in front if any(beats(other, one) for other in trials)]
    for trial in trials:
        assert trial in front or any(beats(one, trial) or objectives(one) == objectives(trial) for one in front)
    assert [objectives(one) for one in front] == sorted(map(objectives, front))


def test_the_front_of_several_costs_is_shown_and_drawn(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a table with the estimates for the target, in a picture with a panel a cost."""
    path = tmp_path / "sweep.toml"
    search = {"trials": 10, "epochs": 4, "grace": 1, "costs": ["instructions", "ram_bytes"]}
    path.write_text(plan_in(tmp_path, search=search, budget={"target": "avr"}).to_toml())
    trials = begun(load_plan(str(path)))
    trials.add({})
    assert finished.folder
    trials.path(1).symlink_to(finished.folder)
    counts, heads, row = command(capsys, "sweep", path, "--show").out.splitlines()
    assert "the front against avr cycles and RAM bytes, in " in counts
    assert heads.split() == ["avr", "cycles", "RAM", "bytes", "errors", "accuracy", "run", "layers"]
    cycles = chip_cost(finished.result.recipe.model, "avr", 1.0).cycles
    assert row.split()[0] == f"{cycles:,}"
    picture = (trials.folder / "front.svg").read_text()
    assert "<!-- avr cycles -->" in picture
    assert "<!-- RAM bytes -->" in picture
    answer = json.loads(command(capsys, "sweep", path, "--show", "--json", "--costs", "flash_bytes,macs").out)
    assert (answer["costs"], answer["target"]) == (["flash_bytes", "macs"], "avr")
    assert answer["front"][0]["flash_bytes"] == chip_cost(finished.result.recipe.model, "avr", 1.0).flash


@pytest.mark.parametrize("costs", [["macs"], ["ram_bytes", "instructions", "flash_bytes"]])
def test_the_model_that_draws_is_told_of_the_costs(tmp_path: Path, costs: list[Cost]) -> None:
    """By the sampler that trained them, and by the one that continues; the early stopping gets the first."""
    search = {"trials": 10, "epochs": 4, "grace": 1, "reduction": 2.0, "costs": costs}
    trials = begun(plan_in(tmp_path, search=search))
    sampler = CandidateSampler(trials.plan, trials)
    configuration = sampler.suggest("first")
    sampler.on_trial_complete("first", result(0.25))
    told = costs_of(recipe_of(configuration).model, "cortex-m0")
    assert configuration["cost"] == told[costs[0]]
    trials.end(1, "diverged")
    for one, error in ((sampler, 0.25), (CandidateSampler(trials.plan, Trials(trials.plan)), 1.0)):
        assert one._study.trials[-1].values == [error, *(told[cost] for cost in costs)]


def test_the_error_alone_may_be_minimised(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With no costs: what draws knows one objective, all trials are compared, and the front is the best one."""
    path = tmp_path / "sweep.toml"
    search = {"trials": 10, "epochs": 4, "grace": 1, "reduction": 2.0, "costs": []}
    path.write_text(plan_in(tmp_path, search=search).to_toml())
    trials = begun(load_plan(str(path)))
    sampler = CandidateSampler(trials.plan, trials)
    small, large = (sampler.suggest(name) for name in ("first", "second"))
    assert small["cost"] == large["cost"]
    sampler.on_trial_complete("first", result(0.25))
    assert [trial.values for trial in sampler._study.trials if trial.values] == [[0.25]]
    assert finished.folder
    for number in trials.records:
        shutil.copytree(finished.folder, trials.path(number))
    counts, heads, *rows = command(capsys, "sweep", path, "--show").out.splitlines()
    assert "the front by the error alone, in " in counts
    assert heads.split()[:3] == ["parameters", "MACs", "RAM"]
    assert len(rows) == 1
    assert "<!-- parameters -->" in (trials.folder / "front.svg").read_text()
    command(capsys, "sweep", path, "--costs", "macs").refused("costs none, not macs", "--costs none")
    answer = json.loads(command(capsys, "sweep", path, "--show", "--json", "--costs", "none").out)
    assert answer["costs"] == []


def test_the_front_is_shown_and_drawn(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_in(tmp_path)
    path = tmp_path / "sweep.toml"
    path.write_text(plan.to_toml())
    command(capsys, "sweep", path, "--show").refused(tmp_path / "out", "no sweep there yet", f"kilonet sweep {path}")
    trials = begun(plan)
    command(capsys, "sweep", path, "--show").refused("nothing to draw")
    trials.add({})
    assert finished.folder
    trials.path(1).symlink_to(finished.folder)
    shown = command(capsys, "sweep", path, "--show")
    assert shown.status == 0
    counts, heads, row = shown.out.splitlines()
    assert "1 trial, 1 with all their epochs" in counts
    assert heads.split("  ")[-1].strip() == "layers"
    assert row.endswith(", ".join(TINY_LAYERS))
    answer = json.loads(command(capsys, "sweep", path, "--show", "--json").out)
    (one,) = answer["front"]
    assert one["parameters"] == finished.result.parameters
    assert one["errors"] == finished.result.scored_images - finished.result.correct
    assert one["macro_f1"] == finished.result.final.test_macro_f1
    assert answer["objective"] == "accuracy"
    trials.add({})
    shutil.copytree(finished.folder, trials.path(2), ignore=shutil.ignore_patterns("result.json"))
    trials.end(2, "stopped")
    trials.add({})
    every = json.loads(command(capsys, "sweep", path, "--show", "--json").out)["all"]
    assert [(one["trial"], one["end"]) for one in every] == [(1, "finished"), (2, "stopped")], "the third is not begun"
    for one in every:
        assert one["epochs"] == len(finished.history)
        assert one["accuracy"] == finished.result.final.test_accuracy
        assert one["layers"] == list(TINY_LAYERS)
        assert one["parameters"] == finished.result.parameters
    assert "<svg" in (trials.folder / "front.svg").read_text()


@pytest.mark.parametrize(
    ("data", "costs"), [("mnist", "parameters"), ("fashion-mnist", "parameters"), ("mnist", "macs")]
)
def test_public_results_stand_beside_errors_on_the_same_data(
    finished: Run, tmp_path: Path, data: str, costs: Cost
) -> None:
    """Those of networks of about such sizes, against parameters."""
    search = {"trials": 10, "epochs": 4, "grace": 1, "costs": [costs]}
    trials = begun(plan_in(tmp_path, search=search))
    trials.add({})
    with_final(finished, trials.path(1))
    path = trials.path(1) / "result.json"
    answer = json.loads(path.read_text())
    answer["recipe"]["run"]["data"] = data
    path.write_text(json.dumps(answer))
    front = ParetoFront.of(trials)
    picture = front.draw().read_text()
    near = [result for result in public_results_on(data) if result.parameters < 2 * finished.result.parameters]
    assert bool(near) is (data == "mnist")
    for result in public_results_on("mnist"):
        shown = f"<!-- public, {result.parameters:,}: {result.conditions} -->" in picture
        assert shown is (result in near and costs == "parameters"), result


def test_another_objective_is_named_in_the_front(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(plan_in(tmp_path).to_toml())
    trials = begun(plan_in(tmp_path).with_search(objective="macro_f1"))
    trials.add({})
    with_final(finished, trials.path(1), accuracy=0.9, balanced_accuracy=0.8, macro_f1=0.7)
    # The sweep was started with --objective, which its plan does not name.
    counts, heads, row = command(capsys, "sweep", path, "--show").out.splitlines()
    assert "the front by macro F1, in " in counts
    assert counts.endswith("errors, macro F1 and accuracy on the holdout:")
    assert heads.split()[4:8] == ["errors", "macro", "F1", "accuracy"]
    assert row.split()[4:8] == ["70.00", "%", "90.00", "%"]
    assert "holdout 100 % minus macro F1, %" in (trials.folder / "front.svg").read_text()
    assert "by balanced accuracy" in command(capsys, "sweep", path, "--show", "--objective", "balanced_accuracy").out
    table, trial = LiveTable(trials), SimpleNamespace(config={"number": 1, "parameters": 1020})
    trial.last_result = {**result(0.3), "epoch": 4}
    with table:
        table.on_trial_result(0, [], trial, trial.last_result)
        table.on_trial_complete(0, [], trial)
    assert "1,020 parameters, 70.00 % holdout macro F1 after 4 epochs" in capsys.readouterr().err
    trials.add({})
    with_final(finished, trials.path(2), macro_f1=None)
    command(capsys, "sweep", path, "--show").refused(trials.path(2), "has no macro F1")
