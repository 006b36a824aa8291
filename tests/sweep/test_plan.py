"""SWEEP.toml: wrong input, candidates, and that no candidate is over a budget."""

import contextlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_search_space import RandomSuggester

from helpers import command, process, refusal
from kilonet.network.chip_cost import CHIPS, chip_cost
from kilonet.network.cost import network_cost
from kilonet.network.layers import parse_layer
from kilonet.network.section import ModelSection
from kilonet.recipe import load_recipe
from kilonet.sweep.plan import Plan, load_plan, packaged_plans
from kilonet.sweep.search_space import IntegerHole, LayerTemplate, SpaceLine
from kilonet.utils.errors import KilonetError

PLAN = """
recipe = "best"
out = "{out}"
layers = ["conv {{4..16}}", "maxpool 2", "1..2 * conv {{4..16}} | conv = same residual", "gap", "pointwise 10"]
[search]
trials = 3
epochs = 6
[budget]
max_parameters = 1000
max_ram_bytes = 6000
max_macs = 90000
[keys]
learning_rate = {{low = 0.01, high = 0.3, log = true}}
batch_size = {{low = 32, high = 128}}
schedule = {{choices = ["cosine", "linear"]}}
"""


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    text = PLAN.format(out=folder / "out")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "sweep.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return load_plan(str(written(tmp_path_factory.mktemp("plan"))))


def test_class_weights_and_flips_can_be_searched(tmp_path: Path) -> None:
    keys = 'class_weights = {choices = ["none", "balanced"]}\nflip = {choices = [false, true]}\n'
    plan = load_plan(
        str(
            written(
                tmp_path,
                ("[keys]\n", "[keys]\n" + keys),
                ('layers = ["conv', 'layers = [] # ["conv'),
                ("max_", "# max_"),
            )
        )
    )
    drawn = set()
    for seed in range(40):
        recipe = plan.candidate(RandomSuggester(seed))
        drawn.add((recipe.train.class_weights, recipe.augment.flip))
    assert drawn == set(product((None, "balanced"), (False, True)))


@given(seed=st.integers(0, 10_000))
def test_a_candidate_is_a_recipe_within_every_budget_or_is_refused(plan: Plan, seed: int) -> None:
    suggester = RandomSuggester(seed)
    try:
        recipe = plan.candidate(suggester)
    except KilonetError as error:
        refusal(error)
        return
    costs = network_cost(recipe.model)
    assert costs.parameters <= 1000
    assert costs.c_ram_bytes <= 6000
    assert costs.macs <= 90_000
    assert [str(parse_layer(layer)) for layer in recipe.model.layers] == list(recipe.model.layers)
    assert recipe.run.holdout
    assert recipe.run.threads == 1
    assert recipe.train.epochs == 6
    assert 0.01 <= recipe.train.learning_rate <= 0.3
    assert recipe.train.batch_size == suggester.drawn["batch_size"]
    assert recipe.train.schedule in ("cosine", "linear")


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("max_parameters", "max_parameters = 1"),
        ("max_ram_bytes", "over max_ram_bytes"),
        ("max_macs", "over max_macs"),
        ("max_instructions", "over max_instructions"),
        ("max_flash_bytes", "over max_flash_bytes"),
    ],
)
def test_each_budget_refuses(plan: Plan, budget: str, words: str) -> None:
    table = plan.model_dump(mode="json", exclude_none=True) | {"budget": {budget: 1}}
    with pytest.raises(KilonetError) as error:
        Plan.model_validate(table).candidate(RandomSuggester(0))
    refusal(error, words)


@pytest.mark.parametrize("target", list(CHIPS))
def test_instructions_and_flash_are_limited_by_the_estimate_of_the_target(plan: Plan, target: str) -> None:
    def candidate(**budget: int | str) -> ModelSection:
        table = plan.model_dump(mode="json", exclude_none=True)
        return Plan.model_validate(table | {"budget": budget}).candidate(RandomSuggester(0)).model

    model = candidate()
    cost = chip_cost(model, target, 1.0)
    work = cost.instructions or cost.cycles
    assert work is not None
    assert candidate(target=target, max_instructions=work, max_flash_bytes=cost.flash) == model
    with pytest.raises(KilonetError) as error:
        candidate(target=target, max_instructions=work - 1)
    refusal(error, f"{work:,} is over max_instructions = {work - 1:,}")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("max_macs", "max_mac", ["budget.max_mac", "unknown key"]),
        ("max_macs = 90000", 'target = "z80"', ["budget.target", "cortex-m0"]),
        ("trials = 3", "", ["search.trials", "missing"]),
        ("trials = 3", "trials = 3\ninherit = false", ["inherit is for sampler = 'evolution'"]),
        ("trials = 3", "trials = 0", ["search.trials"]),
        ("epochs = 6", "epochs = 2", ["search.grace = 3", "search.epochs = 2"]),
        ("conv {4..16}", "conv {4..", ["line", "brace"]),
        ("learning_rate", "learning_rat", ["learning_rat"]),
        ("learning_rate", "epochs", ["keys.epochs", "[search]"]),
        ("learning_rate", "holdout", ["keys.holdout", "test set"]),
        ("low = 0.01, ", "", ["keys.learning_rate", "low and high"]),
        ("low = 0.01", "low = 0.0", ["keys.learning_rate", "above zero"]),
        ("high = 0.3", "high = 300.0", ["learning_rate"]),
        ('"linear"]', '"lineal"]', ["schedule", "lineal"]),
        ('recipe = "best"', 'recipe = "bset"', ["bset"]),
        ("trials = 3", f"trials = {'9' * 5000}", ["cannot be read", "limit"]),
        ("[search]", "[search", ["not a TOML file"]),
    ],
)
def test_wrong_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, words: list[str]
) -> None:
    path = written(tmp_path, (old, new))
    command(capsys, "sweep", path, "--show").refused(path, *words)


def test_other_values_of_the_search_are_checked_with_the_rest_of_the_plan() -> None:
    plan = load_plan("1k-evolution")
    with pytest.raises(KilonetError):
        plan.with_search(trials=2)
    assert plan.with_search(trials=None) == plan


def test_an_empty_space_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text('recipe = "best"\nout = "o"\n[search]\ntrials = 1\nepochs = 3\n')
    with pytest.raises(KilonetError) as error:
        load_plan(str(path))
    refusal(error, path, "nothing to search")
    with pytest.raises(KilonetError) as error:
        load_plan(str(tmp_path / "none.toml"))
    refusal(error, "none.toml", *packaged_plans())


def test_a_plan_survives_being_written(plan: Plan) -> None:
    again = Plan.model_validate(tomllib.loads(plan.to_toml()))
    assert again == plan
    more = {**again.model_dump(mode="json", exclude_none=True)}
    more["search"] |= {"trials": 99}
    more["out"] += "/"
    assert not plan.other_settings(Plan.model_validate(more))
    more["search"] |= {"epochs": 7}
    assert plan.other_settings(Plan.model_validate(more)) == ["search.epochs"]


@pytest.mark.parametrize("name", ["1k", "2k", "4k", "8k"])
def test_packaged_plans_find_candidates(name: str) -> None:
    plan = load_plan(name)
    assert name in packaged_plans()
    limit = int(name[0]) * 1000
    found = []
    for seed in range(300):
        try:
            found.append(plan.candidate(RandomSuggester(seed)))
        except KilonetError as error:
            refusal(error)
    assert len(found) >= 15
    assert all(recipe.model.parameters <= limit for recipe in found)


@pytest.mark.parametrize("name", ["1k", "2k", "4k", "8k"])
def test_a_packaged_plan_can_draw_the_recipe_of_its_name(name: str) -> None:
    lines, layers = load_plan(name).lines, load_recipe(name).model.layers
    assert can_draw(lines, layers, 1)
    assert not can_draw(lines, [*layers[:-1], "pointwise 11"], 1)


@pytest.mark.parametrize(
    "name", ["half-k-evolution", "half-k-from-plain", "half-k-from-space", "1k-from-space", "2k-from-space"]
)
def test_a_search_whose_trials_are_kept_can_be_run_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its paths are from the root of the clone."""
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    plan = load_plan(f"benchmarks/sweeps/{name}.toml")
    results = json.loads((root / f"docs/results/sweeps/{name}.json").read_text())
    assert results["trials"] == len(results["all"]) == plan.search.trials
    packaged = load_recipe(name.rpartition("-")[0].removesuffix("-from")).model
    assert plan.budget.max_parameters == packaged.max_parameters
    assert plan.base.model.parameters <= (packaged.max_parameters or 0)
    (found,) = results["front"]
    assert (tuple(found["layers"]) == packaged.layers) == (name in ("half-k-evolution", "1k-from-space"))


def can_draw(lines: Sequence[SpaceLine], layers: Sequence[str], channels: int) -> bool:
    """Return whether a search space contains a list of layers, by trying all draws."""
    if not lines:
        return not layers
    line, *others = lines
    if line.min_repeats == 0 and can_draw(others, layers, channels):
        return True
    if not layers or not any(can_be(template, layers[0], channels) for template in line.alternatives):
        return False
    one_less = replace(line, min_repeats=max(line.min_repeats - 1, 0), max_repeats=line.max_repeats - 1)
    rest = [one_less, *others] if line.max_repeats > 1 else others
    return can_draw(rest, layers[1:], getattr(parse_layer(layers[0]), "channels", channels))


def can_be(template: LayerTemplate, layer: str, channels: int) -> bool:
    values = [
        [str(number) for number in range(hole.low, hole.high + 1, hole.step)]
        if isinstance(hole, IntegerHole)
        else hole.examples
        for hole in template.holes
    ]
    return any(parse_layer(template.filled(texts, channels)) == parse_layer(layer) for texts in product(*values))


def test_a_missing_extra_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError('no', name='ray')")
    environment = {"PATH": "", "PYTHONPATH": str(tmp_path)}
    process("sweep", written(tmp_path), env=environment).refused("needs ray", "pip install '.[sweep]'")


def test_a_missing_plan_is_said_before_ray_is_imported(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError('no', name='ray')")
    environment = {"PATH": "", "PYTHONPATH": str(tmp_path)}
    process("sweep", str(tmp_path / "none.toml"), env=environment).refused("no sweep", "none.toml")


def test_the_plan_that_the_docs_show_has_candidates(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "SWEEP.md").read_text(encoding="utf-8")
    path = tmp_path / "shown.toml"
    path.write_text(page.split("```toml\n")[1].split("```")[0], encoding="utf-8")
    plan, fit = load_plan(str(path)), 0
    for seed in range(40):
        with contextlib.suppress(KilonetError):
            plan.candidate(RandomSuggester(seed))
            fit += 1
    # Of 200, 90 fitted.
    assert fit >= 8
