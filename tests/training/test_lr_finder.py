"""The learning-rate range test: its rule on curves made by hand, and real networks on both engines."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers import Hide, command, in_ci, refusal, tiny_recipe
from kilonet.cli.flags import Parser
from kilonet.cli.lr_find import add_flags
from kilonet.training.lr_finder import HIGHEST, LOWEST, STEPS, find_rate, range_test
from kilonet.training.train import fit
from kilonet.utils.errors import KilonetError

RATES = [1e-3 * 10 ** (step / 50) for step in range(200)]


def test_the_rule_on_a_curve_made_by_hand() -> None:
    """A loss that falls to 0.5 and leaps where the rate passes one: it is over once the smoothed loss is four-fold."""
    found = range_test(RATES, lambda rate, _: max(0.5, 2.3 - 30 * rate) if rate < 1 else 50.0, tiny_recipe())
    assert found.broke
    assert len(found.rates) == len(found.losses) == len(found.smoothed) < 200
    # The first leap weighs a twentieth: 0.95 * 0.5 + 0.05 * 50 = 2.975, more than 4 * 0.5.
    assert found.rates[-1] == pytest.approx(1.0)
    assert found.suggestion == 0.1
    assert found.smoothed[-1] > 4 * min(found.smoothed) >= found.smoothed[-2]
    assert "Suggested --learning-rate: 0.1 (the recipe has 0.1)" in str(found)


def test_smoothing_has_no_bias_towards_zero() -> None:
    found = range_test(RATES, lambda _, __: 2.0, tiny_recipe())
    assert found.smoothed == pytest.approx([2.0] * 200)
    assert not found.broke
    assert found.suggestion is None
    assert "No suggestion" in found.verdict
    assert "--highest" in found.verdict


def test_what_is_not_a_number_ends_it() -> None:
    found = range_test(RATES, lambda _, step: 1.0 if step < 120 else math.nan, tiny_recipe())
    assert found.broke
    assert len(found.losses) == 120
    assert found.suggestion == float(f"{RATES[119] / 10:.2g}")
    with pytest.raises(KilonetError) as error:
        range_test(RATES, lambda _, __: math.inf, tiny_recipe())
    refusal(error, "--lowest")


@given(st.lists(st.floats(1e-6, 1e6) | st.just(math.nan), min_size=1, max_size=60))
def test_any_losses_give_a_curve_or_one_line(losses: list[float]) -> None:
    rates = [1e-3 * 1.2**step for step in range(len(losses))]
    try:
        found = range_test(rates, lambda _, step: losses[step], tiny_recipe())
    except KilonetError:
        assert math.isnan(losses[0])
        return
    assert all(map(math.isfinite, found.smoothed))
    assert found.suggestion is None or 0 < found.suggestion < found.rates[-1]
    assert json.loads(json.dumps(found.as_json()))["broke"] == found.broke
    assert found.verdict in str(found)


@pytest.mark.parametrize("engine", ["native", *in_ci("torch")])
def test_the_suggestion_trains(small_folder: Path, engine: str) -> None:
    recipe = tiny_recipe(small_folder, engine=engine, holdout=True, epochs=4, schedule="cosine", warmup=0.2)
    found = find_rate(recipe, steps=120)
    assert found.broke
    assert found.suggestion is not None
    assert 0.02 < found.suggestion < 2
    assert found.losses[0] == pytest.approx(math.log(10), abs=0.4)
    suggested, too_low = (
        fit(recipe.replace(learning_rate=rate)).result.final.test_loss for rate in (found.suggestion, 1e-3)
    )
    assert suggested < 0.6 * too_low


def test_the_same_seed_gives_the_same_curve(small_folder: Path) -> None:
    recipe = tiny_recipe(small_folder)
    assert find_rate(recipe, steps=60, highest=1) == find_rate(recipe, steps=60, highest=1)


def test_the_command_has_the_function_s_defaults() -> None:
    parser = Parser("lr-find", "Find a rate")
    add_flags(parser)
    flags = parser.read(["best"])
    assert (flags.lowest, flags.highest, flags.steps) == (LOWEST, HIGHEST, STEPS)


def test_the_command_prints_draws_and_answers_as_json(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe(small_folder).to_toml(), encoding="utf-8")
    picture = tmp_path / "curve.png"
    answer = command(capsys, "lr-find", recipe, "--steps", "60", "--plot", picture)
    assert answer.status == 0, answer.err
    assert answer.out.splitlines()[0] == "learning rate   loss"
    assert "Suggested --learning-rate" in answer.out
    grey = Image.open(picture).convert("L")
    assert grey.size == (1050, 630)
    assert int(np.asarray(grey).min()) < 60
    found = json.loads(command(capsys, "lr-find", recipe, "--steps", "60", "--learning-rate", "0.3", "--json").out)
    assert found["recipe_rate"] == 0.3
    assert f"Suggested --learning-rate: {found['suggestion']:g}" in answer.out
    drawn = [tmp_path / name for name in ("a.svg", "b.svg")]
    for path in drawn:
        assert command(capsys, "lr-find", recipe, "--steps", "60", "--plot", path).status == 0
    assert drawn[0].read_bytes() == drawn[1].read_bytes()


def test_bad_input_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command(capsys, "lr-find").refused()
    command(capsys, "lr-find", "no-such").refused("no-such")
    command(capsys, "lr-find", "fast", "--lowest", "1", "--highest", "0.1").refused("--lowest 1", "--highest 0.1")
    command(capsys, "lr-find", "fast", "--lowest", "0").refused("--lowest 0")
    command(capsys, "lr-find", "fast", "--lowest", "nan").refused("--lowest nan")
    command(capsys, "lr-find", "fast", "--highest", "inf").refused("--highest inf")
    command(capsys, "lr-find", "fast", "--highest", "1e308").refused("--highest 1e+308", "at most 10000")
    command(capsys, "lr-find", "fast", "--steps", "5").refused("--steps 5", "50")
    command(capsys, "lr-find", "fast", "--plot", "curve.gif").refused("curve.gif", ".png")
    command(capsys, "lr-find", "fast", "--plot", "no/such/curve.png").refused("curve.png")
    command(capsys, "lr-find", "fast", "--data", "no-such", "--engine", "torch").refused("no-such")
    (tmp_path / "photo.png").write_bytes(b"mine")
    command(capsys, "lr-find", "fast", "--plot", "photo.png").refused("photo.png exists", "--plot")
    (tmp_path / "photo.png").unlink()
    assert not list(tmp_path.iterdir())


def test_only_the_drawing_needs_the_extra(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], hide: Hide
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe(small_folder).to_toml(), encoding="utf-8")
    hide("matplotlib", "kilonet.report")
    assert command(capsys, "lr-find", recipe, "--steps", "60").status == 0
    plot = ("--plot", tmp_path / "curve.png")
    command(capsys, "lr-find", recipe, "--steps", "60", *plot).refused("matplotlib", "'.[plot]'")
