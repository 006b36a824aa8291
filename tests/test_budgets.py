"""benchmarks/budgets.py and its tables: every recipe keeps its budget, and the figures are those of the models."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import needs
from kilonet.data.datasets import DataSet
from kilonet.export.integer import integer_logits
from kilonet.export.quantisation import quantise
from kilonet.recipe import load_recipe
from kilonet.training.run_folder import Run
from kilonet.training.train import prepare_data

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import budget_tables
import budgets
import results

CELLS = budgets.cells(budgets.SETS)


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_has_a_recipe_within_its_budget(cell: str) -> None:
    source = budgets.recipe_of(cell)
    data, budget = cell.split(":")
    recipe = load_recipe(source, {} if cell in budgets.PACKAGED else {"data": data})
    assert recipe.model.max_parameters == budgets.BUDGETS[budget]
    assert recipe.model.parameters > budgets.BUDGETS[budget] * 0.8
    assert recipe.model.classes == (100 if data == "meter" else 10)


def test_no_recipe_lies_there_for_nothing() -> None:
    wanted: set[str] = set()
    # `meter-12k` stands beside the table, in that of benchmarks/own_images.py.
    named = [*map(budgets.recipe_of, CELLS), str(budgets.RECIPES / "meter-12k.toml")]
    while named:
        wanted.add(recipe := named.pop())
        named += [str(budgets.ROOT / name) for name in load_recipe(recipe).distill.teacher if name.endswith(".toml")]
    assert [str(path) for path in sorted(budgets.RECIPES.iterdir()) if str(path) not in wanted] == []


def test_cells_are_asked_for_by_name() -> None:
    assert budgets.cells(["meter:2k", "mnist"]) == ["meter:2k", *(f"mnist:{budget}" for budget in budgets.BUDGETS)]
    for wrong in ("mnist:3k", "svhn", ""):
        with pytest.raises(SystemExit, match=f"no cell '{wrong}'"):
            budgets.cells([wrong])


def test_runs_of_another_recipe_are_refused(finished: Run) -> None:
    recipe = finished.result.recipe
    assert budgets.checked(finished, recipe.replace(seed=5)) is finished
    for change in ({"epochs": 99}, {"rotation": 9.0}, {"teacher": ("best",)}, {"dropout": 0.1}):
        with pytest.raises(SystemExit):
            budgets.checked(finished, recipe.replace(**change))


@pytest.fixture(scope="module")
def cell_file(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataSet]:
    needs("arm-none-eabi-gcc", "qemu-system-arm")
    data = prepare_data(finished.result.recipe)
    return budgets.written("mnist:1k", [finished, finished], data, tmp_path_factory.mktemp("cells")), data


@pytest.mark.ci
def test_the_figures_are_those_of_the_integers(cell_file: tuple[Path, DataSet], finished: Run) -> None:
    path, data = cell_file
    content = json.loads(path.read_text())
    assert (path.name, content["recipe"], content["parameters"]) == ("mnist-1k.json", "1k", finished.result.parameters)
    assert content["command"] == "python benchmarks/budgets.py mnist:1k --seeds 2"
    assert str(Path.home()) not in path.read_text()
    first, second = content["runs"]
    assert first == second
    predicted = integer_logits(
        quantise(finished.model, data.train, finished.result.recipe.augment).network, data.test.pixels.numpy()
    ).argmax(1)
    assert first["integer_accuracy"] == float((predicted == data.test.labels.numpy()).mean())
    assert first["test_accuracy"] == finished.result.final.test_accuracy
    assert first["instructions"] > content["macs"]
    assert first["flash"] > content["parameters"]
    assert "within_one_step" not in first


def fake_cell(data: str, budget: str, shares: list[float]) -> budget_tables.Cell:
    run: dict[str, Any] = {"flash": 1234, "ram": 2345, "instructions": 3456789, "seconds": 61.4}
    runs = [run | {"seed": seed, "test_accuracy": 0.5, "integer_accuracy": share} for seed, share in enumerate(shares)]
    environment = {"processor": "P", "threads": 2, "engine": "native", "precision": "float32"}
    content = {"recipe": "benchmarks/budgets/x.toml", "command": "do", "parameters": 901, "macs": 70_001, "epochs": 9}
    return budget_tables.Cell(data, budget, content | {"runs": runs, "teachers": [], "environment": environment})


def test_a_cell_stands_in_its_row_and_column() -> None:
    text = budget_tables.section([fake_cell("meter", "2k", [0.9, 0.91, 0.92])])
    lines = text.splitlines()
    assert "| 2,000 |  |  | 91.00 ± 1.00 % |  |" in lines
    assert "| 500 |  |  |  |  |" in lines
    (row,) = (line for line in lines if "`x`" in line)
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:7] == ["meter digits", "`x`", "901", "70,001", "9", "50.00 ± 0.00 %", "**91.00 ± 1.00 %**"]
    assert cells[7:] == [
        *("", "90.00, 91.00, 92.00", "1,234", "2,345", "3,456,789", "", "61"),
        *("P, 2 threads, native engine, float32", "`do`"),
    ]


def test_the_picture_has_a_line_a_data_set() -> None:
    cells = [fake_cell(name, "1k", [0.9, 0.91]) for name in budgets.SETS]
    text = budget_tables.picture(cells)
    assert all(f">{title}<" in text for title in budget_tables.TITLES.values())
    assert text == budget_tables.picture(cells)
    other = replace(cells[0], content={**cells[0].content, "parameters": 950})
    assert text != budget_tables.picture([other, *cells[1:]])


def test_the_published_picture_is_as_generated() -> None:
    assert budget_tables.picture(budget_tables.read_cells()) == results.PICTURE.read_text(), "run: make results"


def test_published_cells_are_of_their_recipes() -> None:
    """A recipe that is changed has to be trained again."""
    for cell in budget_tables.read_cells():
        recipe = load_recipe(budgets.recipe_of(f"{cell.data}:{cell.budget}"), {"data": cell.data})
        assert list(recipe.model.layers) == cell.content["layers"], cell
        assert (recipe.train.epochs, recipe.model.parameters) == (cell.content["epochs"], cell.content["parameters"])
        assert np.isfinite([run["integer_accuracy"] for run in cell.runs]).all()
        assert len(cell.runs) >= 3
