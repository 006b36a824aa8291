"""docs/RESULTS.md agrees with the files in docs/results, and has a row for every new file."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from kilonet.cli.flags import Parser, add_recipe_flags, recipe_changes
from kilonet.evaluation.statistics import mean_and_std
from kilonet.recipe import SECTIONS

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import results


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("mcu.json", "baseline.json", "best.json", "export.json", "training.md"):
        (tmp_path / name).write_bytes((results.RESULTS / name).read_bytes())
    return tmp_path


def runs_of(folder: Path, name: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads((folder / f"{name}.json").read_text())["runs"]
    return runs


def row_of(folder: Path, name: str) -> dict[str, str]:
    packaged = results.page(folder).split("## The packaged recipes")[1]
    lines = [line for line in packaged.splitlines() if line.startswith("|")]
    heads = [head.strip() for head in lines[0].split("|")]
    (cells,) = (line.split("|") for line in lines if line.startswith(f"| `{name}` "))
    return dict(zip(heads, map(str.strip, cells), strict=True))


def test_no_result_names_a_folder_of_the_machine_that_made_it() -> None:
    for file in sorted(results.RESULTS.rglob("*.json")):
        found = re.findall(r'"folder": "(/[^"]*)"', file.read_text(encoding="utf-8"))
        assert not found, f"{file.name}: {found[0]}; give train a folder below the clone"


def test_the_page_is_as_generated() -> None:
    assert results.page(results.RESULTS) == results.PAGE.read_text(encoding="utf-8"), "run: make results"


def test_a_row_says_what_the_runs_came_to(folder: Path) -> None:
    row = row_of(folder, "mcu")
    assert row["test accuracy"] == "**99.52 ± 0.04 %**"
    assert row["every seed"] == "99.57, 99.49, 99.48, 99.57, 99.50, 99.51"
    assert (row["n"], row["parameters"], row["MACs"]) == ("6", "6,428", "203,424")
    assert row["command"] == "`kilonet train mcu --seeds 6 --json`"
    assert row["predicted"] == ""
    assert row["teachers"].startswith("40,336 parameters, 99.61 % of test")


def test_a_run_alone_is_read_as_it_is_printed(folder: Path) -> None:
    run = runs_of(folder, "baseline")[0]
    (folder / "alone.json").write_text(json.dumps(run))
    row = row_of(folder, "alone")
    assert (row["n"], row["every seed"]) == ("1", f"{100 * run['final']['test_accuracy']:.2f}")
    assert row["command"] == "`kilonet train baseline --json`"
    run["recipe"]["run"]["holdout"] = True
    (folder / "alone.json").write_text(json.dumps(run))
    assert row_of(folder, "baseline")["predicted"].endswith("% (n = 1)")


def test_of_many_seeds_a_row_has_the_lowest_and_the_highest(folder: Path) -> None:
    runs = runs_of(folder, "best")
    (folder / "many.json").write_text(json.dumps({"runs": [*runs, *runs, runs[0]]}))
    row = row_of(folder, "many")
    assert row["every seed"] == "99.55 to 99.67, all in [results/many.json](results/many.json)"
    assert row["n"] == "13"
    page = results.page(folder)
    assert "\n## 13 seeds of `best`\n" in page
    assert "The lowest has 99.55, the highest 99.67 %.\nThe course's rule is kept by 13 of 13." in page


def test_a_picture_of_many_seeds_is_of_these() -> None:
    for row in results.read_rows(results.RESULTS):
        if len(row.runs) > 12:
            mean, deviation = mean_and_std(row.accuracies)
            drawn = results.PICTURE.with_name(f"{row.name}.svg").read_text(encoding="utf-8")
            assert f"<!-- {row.name}: {mean:.3f} ± {deviation:.3f} %, n = {len(row.runs)} -->" in drawn


def test_files_that_come_later_are_rows(folder: Path) -> None:
    runs = runs_of(folder, "baseline")[:3]
    for run in runs:
        run["recipe"]["train"]["epochs"] = 33
        run["recipe"]["model"]["layers"][0] = "conv 8"
        run["teachers"] = [
            {"parameters": 29_764, "accuracy": 0.9961, "scored": "Test", "scored_images": 10_000, "seconds": 301.4}
        ]
    (folder / "longer.json").write_text(json.dumps({"runs": runs}))
    row = row_of(folder, "longer")
    assert row["command"].startswith("`kilonet train baseline --layers 'conv 8' 'conv 20' 'pointwise 10'")
    assert row["command"].endswith("--epochs 33 --seeds 3 --json`")
    assert row["teachers"] == "29,764 parameters, 99.61 % of test, 301 s"


def test_the_holdout_s_prediction_stands_beside(folder: Path) -> None:
    runs = runs_of(folder, "mcu")[:2]
    for run, accuracy in zip(runs, (0.995, 0.994), strict=True):
        run["recipe"]["run"] |= {"holdout": True, "threads": 2}
        run |= {"scored": "Holdout", "final": run["final"] | {"test_accuracy": accuracy}}
    (folder / "mcu-holdout.json").write_text(json.dumps({"runs": runs}))
    assert row_of(folder, "mcu")["predicted"] == "99.45 ± 0.07 % (n = 2)"
    assert "mcu-holdout" not in results.page(folder)
    for run in runs:
        run["recipe"]["train"]["epochs"] = 3
    (folder / "mcu-holdout.json").write_text(json.dumps({"runs": runs}))
    assert row_of(folder, "mcu")["predicted"] == "", "that is another recipe"


def test_the_course_s_rule_is_counted_where_it_applies(folder: Path) -> None:
    runs = runs_of(folder, "best")[:3]
    for run in runs:
        for epoch in run["history"]:
            epoch["test_accuracy"] = 0.994
    runs[0]["history"][-6]["test_accuracy"] = runs[1]["history"][-5]["test_accuracy"] = 0.9939
    content = folder / "best.json"
    content.write_text(json.dumps({"runs": runs}))
    assert row_of(folder, "best")["course's rule"] == "2 of 3"
    runs[2]["recipe"]["train"]["epochs"] = runs[0]["recipe"]["train"]["epochs"] = 16
    content.write_text(json.dumps({"runs": runs[::2]}))
    assert row_of(folder, "best")["course's rule"] == "", "more epochs than the course allows"
    content.write_text(json.dumps({"runs": [{k: v for k, v in runs[1].items() if k != "history"}]}))
    assert row_of(folder, "best")["course's rule"] == "", "no epoch but the last is known"


def test_every_key_of_a_recipe_is_a_flag() -> None:
    parser = Parser("train", "Train")
    add_recipe_flags(parser)
    text = parser.format_help()
    assert recipe_changes(parser.read([])) == {}
    assert all(f" --{key.replace('_', '-')}" in text for section in SECTIONS.values() for key in section.model_fields)
