"""Comparisons: tests with answers known by hand, the words, and what cannot be compared."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import GOLDEN, command, refusal, save_overflowing_model, tiny_recipe
from kilonet.evaluation.metrics import Metric
from kilonet.evaluation.statistics import mean_and_std, wilson_interval
from kilonet.models.model import MODEL_FILE, load_model
from kilonet.report.comparison import comparison
from kilonet.report.comparison.comparison import compare
from kilonet.report.comparison.frontier import draw_frontier
from kilonet.report.comparison.groups import Group, read_groups
from kilonet.report.comparison.significance import holm, models_test, seeds_test
from kilonet.training.run_folder import RESULT_FILE, Result, Run
from kilonet.training.run_records import RunRecord
from kilonet.training.train import fit
from kilonet.utils.errors import KilonetError

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def record(result: Result, seed: int, errors: int) -> RunRecord:
    images = 10_000
    figures = {"test_accuracy": 1 - errors / images, "test_macro_f1": 1 - 3 * errors / images}
    final = result.final.model_copy(update=figures)
    changes = {"recipe": result.recipe.replace(seed=seed), "final": final, "correct": images - errors}
    changes |= {"class_images": None, "interval": wilson_interval(images - errors, images)}
    made = result.model_copy(update={**changes, "scored_images": images, "model_sha256": f"{seed} {errors}"})
    return RunRecord("run", made)


def group(result: Result, *errors: int, first_seed: int = 0) -> Group:
    records = (record(result, seed, count) for seed, count in enumerate(errors, first_seed))
    return Group("some", tuple(records))


def results_file(path: Path, result: Result, *errors: int, **changes: Any) -> Path:
    """Write what `kilonet train --json` would have printed."""
    runs = []
    for seed, count in enumerate(errors):
        made = record(result, seed, count).result
        recipe = made.recipe.replace(**changes)
        made = made.model_copy(update={"recipe": recipe, "model_sha256": f"{path.stem} {seed}"})
        runs.append({"folder": f"runs/{seed}", **made.model_dump(mode="json")})
    path.write_text(json.dumps({"runs": runs}))
    return path


def test_mcnemar_by_hand() -> None:
    """5 against 15: twice the sum of the binomials of 20 up to 5, over 2^20; 0 against 6: twice 1 in 2^6."""
    first = np.array([True] * 5 + [False] * 15 + [True] * 70 + [False] * 10)
    second = np.array([False] * 5 + [True] * 15 + [True] * 70 + [False] * 10)
    tested = models_test((0, 0), first, second)
    assert (tested.first_alone, tested.second_alone) == (5, 15)
    assert tested.p == pytest.approx(2 * (1 + 20 + 190 + 1140 + 4845 + 15504) / 2**20)
    assert models_test((0, 0), np.zeros(6, bool), np.ones(6, bool)).p == pytest.approx(2 / 64)
    assert models_test((0, 0), first, first).p == 1


def test_the_paired_t_test_by_hand(finished: Run) -> None:
    """Differences 3, 4, 6: t = 13/sqrt(7) with two degrees of freedom, for which p = 1 - t / sqrt(t^2 + 2)."""
    tested = seeds_test(group(finished.result, 10, 12, 14), group(finished.result, 13, 16, 20))
    t = 13 / 7**0.5
    assert tested.kind == "paired"
    assert tested.difference == pytest.approx(13 / 3)
    assert tested.p == pytest.approx(1 - t / (t**2 + 2) ** 0.5)
    # Student's t of 0.975 with two degrees of freedom is 4.302653.
    half = 4.302653 * (13 / 3) / t
    assert tested.interval == pytest.approx((13 / 3 - half, 13 / 3 + half), rel=1e-5)


def test_welch_s_test_by_hand(finished: Run) -> None:
    """Variances 2 and 2 of two runs each: t = 10/sqrt(2), 2 degrees of freedom; 2 and 18: 12/sqrt(10), 100/82."""
    from scipy import stats

    tested = seeds_test(group(finished.result, 10, 12), group(finished.result, 20, 22, first_seed=5))
    t = 10 / 2**0.5
    assert tested.kind == "Welch"
    assert tested.p == pytest.approx(1 - t / (t**2 + 2) ** 0.5)
    uneven = seeds_test(group(finished.result, 10, 12), group(finished.result, 20, 26, first_seed=5))
    assert uneven.p == pytest.approx(2 * stats.t.sf(12 / 10**0.5, 100 / 82))


def test_without_spread_there_is_no_t_test(finished: Run) -> None:
    for first, second in (((10,), (13,)), ((10, 12), (11, 13)), ((10,), (13, 14))):
        tested = seeds_test(group(finished.result, *first), group(finished.result, *second))
        assert (tested.p, tested.interval) == (None, None)


def test_an_interval_ends_where_accuracies_do(finished: Run) -> None:
    assert group(finished.result, 300, 2500).interval == pytest.approx((0.0, 1.0))
    low, high = group(finished.result, 50, 52, 54).interval or (0, 0)
    assert 0.99 < low < 0.9948 < high < 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06], nan_ok=True)
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_words(finished: Run, tmp_path: Path) -> None:
    sources = [
        results_file(tmp_path / "plain.json", finished.result, 50, 52, 54, 53, 51),
        results_file(tmp_path / "longer.json", finished.result, 40, 41, 45, 44, 42, epochs=9),
        results_file(tmp_path / "wider.json", finished.result, 41, 41, 44, 44, 41, batch_size=32),
    ]
    wanted = (GOLDEN / "compare.txt").read_text(encoding="utf-8")
    assert f"{compare(list(map(str, sources)))}\n" == wanted


def test_the_words_of_another_metric(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every difference is three times that of the errors, in points, and every p-value is the same."""
    monkeypatch.chdir(tmp_path)
    results_file(Path("plain.json"), finished.result, 50, 52, 54, 53, 51)
    results_file(Path("longer.json"), finished.result, 40, 41, 45, 44, 42, epochs=9)
    answer = command(capsys, "compare", "plain.json", "longer.json", "--metric", "macro_f1", "--plot", "a.svg")
    longer, figures = (
        "the macro F1 of longer is 0.29 points above that of plain",
        "95 % interval 0.25 to 0.32, p = 1.8e-05",
    )
    assert answer.out.splitlines() == [
        "Final epoch, 10,000 test images:",
        "runs    parameters  n  macro F1  sd     95 % interval     each, %                            seeds",
        "plain   1,020       5  98.440 %  0.047  98.381 to 98.499  98.50, 98.44, 98.38, 98.41, 98.47  0, 1, 2, 3, 4",
        "longer  1,020       5  98.728 %  0.062  98.651 to 98.805  98.80, 98.77, 98.65, 98.68, 98.74  0, 1, 2, 3, 4",
        "They differ in",
        "  epochs: plain 2; longer 9",
        "",
        f"plain against longer: {longer}, n = 5 ({figures}, paired t-test over the same seeds)",
        "Image by image runs are compared by their accuracy only.",
    ]
    assert "macro F1, %" in Path("a.svg").read_text()
    assert "public" not in Path("a.svg").read_text()
    table, by_accuracy = (
        json.loads(command(capsys, "compare", "plain.json", "longer.json", "--json", *flags).out)
        for flags in (("--metric", "macro_f1"), ())
    )
    assert (table["metric"], by_accuracy["metric"]) == ("macro_f1", "accuracy")
    for one, other, errors in zip(table["groups"], by_accuracy["groups"], (52, 42.4), strict=True):
        assert one["accuracies"] == other["accuracies"] == other["scores"]
        assert one["mean"] == pytest.approx(np.mean(one["scores"])) == pytest.approx(1 - 3 * errors / 10_000)
    assert table["pairs"][0]["over_seeds"]["difference"] == pytest.approx(-0.288)
    assert by_accuracy["pairs"][0]["over_seeds"]["difference"] == pytest.approx(-9.6)
    p, other_p = (answer["pairs"][0]["over_seeds"]["p"] for answer in (table, by_accuracy))
    assert p == pytest.approx(other_p)


def test_the_same_scores_are_the_same_in_every_metric(finished: Run, tmp_path: Path) -> None:
    sources = [
        results_file(tmp_path / "plain.json", finished.result, 50, 52),
        results_file(tmp_path / "swapped.json", finished.result, 52, 50, epochs=9),
        results_file(tmp_path / "shifted.json", finished.result, 47, 49, epochs=8),
    ]
    words: dict[Metric, str] = {"accuracy": "make equally many errors", "macro_f1": "have the same macro F1"}
    for metric, same in words.items():
        swapped, shifted, _ = compare(list(map(str, sources)), metric).pairs
        assert f"both {same} (" in str(swapped)
        assert "has no spread to go by" in str(shifted)


def test_runs_of_older_versions_are_compared_by_accuracy_only(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, old = results_file(tmp_path / "new.json", finished.result, 50), RESULTS / "best.json"
    refused = command(capsys, "compare", old, RESULTS / "mcu.json", "--metric", "balanced_accuracy")
    refused.refused("best-6seeds, seed 0 has no balanced accuracy: an older version")
    with pytest.raises(KilonetError) as error:
        compare([str(old)], "macro_f1")
    refusal(error, "best-6seeds, seed 0 has no macro F1")
    assert command(capsys, "compare", old).status == 0
    command(capsys, "compare", new, "--metric", "f1").refused("--metric", "macro_f1")


def test_models_are_not_scored_for_another_metric(finished: Run, other: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "load_model", None)
    (pair,) = compare([str(finished.folder), str(other.folder)], "balanced_accuracy").pairs
    assert pair.on_images == ()
    assert "balanced accuracy" in str(pair)


@pytest.fixture(scope="module")
def other(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of another recipe on the same images."""
    return fit(tiny_recipe(small_folder, learning_rate=0.05), out=tmp_path_factory.mktemp("other") / "other")


def test_models_are_compared_image_by_image(finished: Run, other: Run) -> None:
    compared = compare([str(finished.folder), str(other.folder)])
    (pair,) = compared.pairs
    ((tested, p),) = pair.on_images
    errors = [run.result.scored_images - run.result.correct for run in (finished, other)]
    assert tested.first_alone - tested.second_alone == errors[1] - errors[0]
    assert p == tested.p
    assert "a t-test over seeds takes two runs of each (n = 1)" in str(pair)
    assert f"finished is right alone on {tested.first_alone} images, other on {tested.second_alone}" in str(pair)


def test_a_model_that_computes_nan_is_not_compared(finished: Run, other: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(finished.folder or Path(), tmp_path / "broken")
    broken = load_model(str(save_overflowing_model(folder)))
    changed = finished.result.model_copy(update={"model_sha256": broken.trained_sha256})
    (folder / RESULT_FILE).write_text(changed.model_dump_json())
    with pytest.raises(KilonetError) as error:
        compare([str(folder), str(other.folder)])
    refusal(error, "NaN or infinity")


def test_a_model_that_another_run_trained_is_not_compared(finished: Run, other: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(finished.folder or Path(), tmp_path / "swapped")
    shutil.copy((other.folder or Path()) / MODEL_FILE, folder)
    with pytest.raises(KilonetError) as error:
        compare([str(folder), str(other.folder)])
    refusal(error, "swapped", "its result is not of this model")


def test_folders_of_seeds_are_groups(finished: Run, tmp_path: Path, small_folder: Path) -> None:
    for seed in range(2):
        fit(tiny_recipe(small_folder, seed=seed, epochs=1), out=tmp_path / "short" / f"seed{seed}")
    long, short = read_groups([str(finished.folder), str(tmp_path / "short")])
    assert (long.name, len(long.records)) == ("finished", 1)
    assert (short.name, short.seeds) == ("short", [0, 1])
    again = read_groups([str(tmp_path / "short" / "seed1"), str(tmp_path / "short" / "seed0")])
    assert again == (short,)


def test_what_cannot_be_compared_is_one_line(
    finished: Run, small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.folder
    held = fit(tiny_recipe(small_folder, holdout=True, epochs=1), out=tmp_path / "held")
    command(capsys, "compare", finished.folder, tmp_path / "held").refused(
        "500 test images", f"{held.result.scored_images} holdout images", "the same images"
    )
    command(capsys, "compare", finished.folder, finished.folder).refused("finished is given twice")
    command(capsys, "compare", tmp_path / "none").refused("no runs", tmp_path / "none")
    command(capsys, "compare").refused("compare: ", "required: RUN")
    with pytest.raises(KilonetError) as error:
        compare([])
    refusal(error, "no runs given")
    (tmp_path / "empty").mkdir()
    command(capsys, "compare", tmp_path / "empty").refused("no finished run")
    for content in ("{", "[]", "3", '{"runs": 3}', '{"runs": [3]}', '{"runs": []}', '{"loss": 1}'):
        (tmp_path / "bad.json").write_text(content)
        command(capsys, "compare", tmp_path / "bad.json").refused("bad.json")
    for flag in ("--plot", "--distribution"):
        command(capsys, "compare", RESULTS / "best.json", flag, tmp_path / "a.xyz").refused("a.xyz", "xyz")


@pytest.mark.parametrize("flag", ["--plot", "--distribution"])
@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_only_its_own_pictures_are_replaced(
    flag: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"a photo of mine")
    command(capsys, "compare", RESULTS / "best.json", flag, path).refused(path, "exists", f"another file with {flag}")
    assert path.read_bytes() == b"a photo of mine"
    path.unlink()
    for _ in range(2):
        assert command(capsys, "compare", RESULTS / "best.json", flag, path).status == 0


def test_two_pictures_are_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "both.svg"
    same = tmp_path / "." / ".." / tmp_path.name / "both.svg"
    answer = command(capsys, "compare", RESULTS / "best.json", "--plot", path, "--distribution", same)
    answer.refused("--plot and --distribution are one file", path)
    assert not path.exists()


def test_json_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [RESULTS / "mcu.json", RESULTS / "baseline.json"]
    answer = json.loads(command(capsys, "compare", *sources, "--json", "--plot", tmp_path / "a.svg").out)
    mcu, baseline = answer["groups"]
    assert (mcu["n"], baseline["n"]) == (6, 6)
    assert mcu["mean"] == pytest.approx(np.mean(mcu["accuracies"]))
    assert answer["pairs"][0]["over_seeds"]["p_holm"] == answer["pairs"][0]["over_seeds"]["p"]
    assert "no difference shown at n = 6" in answer["pairs"][0]["words"]
    assert "<svg" in (tmp_path / "a.svg").read_text()
    (alone,) = compare([str(sources[0])]).groups
    assert alone.name == "mcu"


def test_a_name_for_two_recipes_is_told_apart(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = results_file(tmp_path / "same.json", finished.result, 50, 51)
    second = results_file(tmp_path / "a" / "same.json", finished.result, 40, 44, epochs=9)
    runs = json.loads(second.read_text())
    for run in runs["runs"]:
        run["model_sha256"] += "x"
    second.write_text(json.dumps(runs))
    assert [group.name for group in read_groups([str(first), str(second)])] == ["same #1", "same #2"]


def test_the_runs_of_a_folder_have_the_names_of_their_folders(finished: Run, tmp_path: Path) -> None:
    """Such as the trials of a sweep, of which some are not finished."""
    assert finished.folder
    for number, name in enumerate(("0002", "0008")):
        folder = tmp_path / "sweep" / name
        shutil.copytree(finished.folder, folder)
        result = json.loads((folder / "result.json").read_text())
        result["recipe"]["train"]["ema"] = 0.5 + number / 10
        (folder / "result.json").write_text(json.dumps({**result, "model_sha256": name}))
    assert [group.name for group in read_groups([str(tmp_path / "sweep")])] == ["sweep 0002", "sweep 0008"]


def test_threads_and_device_make_no_groups_but_precision_does(finished: Run, tmp_path: Path) -> None:
    first = results_file(tmp_path / "first.json", finished.result, 50, 51)
    same = results_file(tmp_path / "same.json", finished.result, 40, 44, threads=7, device="cuda")
    other = results_file(tmp_path / "other.json", finished.result, 40, 44, precision="bfloat16")
    groups = read_groups([str(first), str(same), str(other)])
    assert [(group.name, len(group.records)) for group in groups] == [("first", 4), ("other", 2)]


def test_of_many_seeds_the_table_has_the_lowest_and_the_highest(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = results_file(tmp_path / "many.json", finished.result, *range(50, 37, -1))
    few = results_file(tmp_path / "few.json", finished.result, *range(50, 38, -1), epochs=9)
    lines = command(capsys, "compare", many, few).out.splitlines()
    assert any(line.startswith("many ") and re.search(r" 38 to 50 +0 to 12$", line) for line in lines)
    shown = ", ".join(map(str, range(50, 38, -1))), ", ".join(map(str, range(12)))
    assert any(line.startswith("few ") and line.endswith("  ".join(shown)) for line in lines)


def test_every_run_is_a_dot_in_the_distribution(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal ones stand on one another; a single run has no deviation."""
    many = results_file(tmp_path / "many.json", finished.result, 40, 44, 44, 52)
    one = results_file(tmp_path / "one$x$.json", finished.result, 50, epochs=9)
    picture = tmp_path / "seeds.svg"
    assert command(capsys, "compare", many, one, "--distribution", picture).status == 0
    drawn = picture.read_text(encoding="utf-8")
    scored = 10_000
    mean, deviation = mean_and_std([100 * (1 - errors / scored) for errors in (40, 44, 44, 52)])
    assert f"<!-- many: {mean:.3f} ± {deviation:.3f} %, n = 4 -->" in drawn
    assert f"<!-- one$x$: {100 * (1 - 50 / scored):.3f} %, n = 1 -->" in drawn
    dots = re.findall(r'<use xlink:href="#m\w+" x="([\d.]+)" y="([\d.]+)" style="fill: #4c4c4c', drawn)
    assert len(dots) == 5
    assert len(set(dots)) == 5, "no dot hides another"
    assert len({x for x, _ in dots}) == 4


@pytest.mark.parametrize("data", ["mnist", "fashion-mnist"])
def test_public_results_stand_beside_runs_on_the_same_data(finished: Run, tmp_path: Path, data: str) -> None:
    draw_frontier(
        compare([str(results_file(tmp_path / "a.json", finished.result, 50, 51, data=data))]), tmp_path / "a.svg"
    )
    assert ("<!-- public, 997: " in (tmp_path / "a.svg").read_text()) is (data == "mnist")


def test_there_must_be_something_to_read() -> None:
    with pytest.raises(KilonetError) as error:
        compare([])
    refusal(error, "no runs given")


def test_a_name_of_two_lines_is_written_in_one(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.folder is not None
    shutil.copytree(finished.folder, tmp_path / "a\nb")
    assert "\na\\nb " in command(capsys, "compare", tmp_path / "a\nb").out
