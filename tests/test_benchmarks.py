"""The benchmarks: what they compute is right, and what they wrote into the pages is what they write now."""

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers import TINY_LAYERS, model_section, tiny_recipe
from kilonet.data.datasets import DataSet, Images
from kilonet.data.listing import FASHION
from kilonet.export.exporter import export_c, export_onnx
from kilonet.export.quantisation import QuantisationResult
from kilonet.models.model import load_model
from kilonet.network.cost import network_cost
from kilonet.recipe import load_recipe, parse_recipe

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import docs  # noqa: E402
import homework_style  # noqa: E402
import kernel_speed  # noqa: E402
import own_digits  # noqa: E402
import own_images  # noqa: E402
import reading  # noqa: E402
import scaling  # noqa: E402
import start_time  # noqa: E402
import train_speed  # noqa: E402

# Compiled in the tests, not when they are collected: by one of their processes, and into the cache of this run.
NEEDS_COMPILER = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
)


def test_the_pages_are_as_generated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert docs.main() == 0, capsys.readouterr().out


def test_a_changed_page_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "<!-- begin command kilonet recipes -->\nsomething else\n<!-- end -->\n"
    made = docs.generate(text)
    assert made != text
    assert "7,662 parameters" in made
    assert docs.generate(made) == made
    page = tmp_path / "page.md"
    page.write_text(text)
    monkeypatch.setattr(docs, "PAGES", (page,))
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert docs.main() == 1
    assert capsys.readouterr().out == "page.md: run make docs\n"
    assert page.read_text() == text
    monkeypatch.setattr(sys, "argv", ["docs.py"])
    assert docs.main() == 0
    assert page.read_text() == made


def test_a_part_of_what_a_command_prints_is_its_first_lines() -> None:
    whole, part = (docs.command_output(f"kilonet recipes{end}").splitlines() for end in ("", " | head -2"))
    assert part == ["```console", "$ kilonet recipes | head -2", *whole[2:4], "```"]


def test_the_front_page_s_table_is_of_the_same_files_as_the_whole_one() -> None:
    claims, accuracies = docs.claims_table("best 1k").splitlines(), docs.accuracy_table("best 1k").splitlines()
    for claim, accuracy in zip(claims[2:], accuracies[2:], strict=True):
        name, parameters, share, runs = (cell.strip() for cell in claim.split("|")[1:5])
        cells = [cell.strip() for cell in accuracy.split("|")]
        assert [name, parameters, share, runs] == [cells[1], cells[2], cells[4], cells[5]]


def test_figures_of_two_exports_make_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = docs.shipping_table("export.json verify.json")
    assert len(table.splitlines()) == 2 + 1 + 4
    exported = json.loads((docs.RESULTS / "export.json").read_text())
    (tmp_path / "export.json").write_text(json.dumps(exported | {"ram": exported["ram"] + 4}))
    (tmp_path / "verify.json").write_bytes((docs.RESULTS / "verify.json").read_bytes())
    monkeypatch.setattr(docs, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="not of the same export"):
        docs.shipping_table("export.json verify.json")


def test_the_homework_style_script_trains_the_homework_s_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = homework_style.read_packaged
    # A tenth of the test images: what the network learns is not under test.
    monkeypatch.setattr(
        homework_style,
        "read_packaged",
        lambda name, header: whole(name, header)[: 1000 * (28 * 28 if "images" in name else 1)],
    )
    monkeypatch.setattr(sys, "argv", ["homework_style.py", "--images", "512", "--threads", "1"])
    with torch.random.fork_rng():
        homework_style.main()
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 512
    assert len(result["seconds"]) == len(result["test_accuracy"]) == 1
    assert sum(parameter.numel() for parameter in homework_style.seed_network(0.1).parameters()) == 7662


def test_training_takes_so_many_operations() -> None:
    """Forward, input and weight gradients are two operations a MAC each, but for the first input's gradient."""
    model = load_recipe("mcu").model
    assert train_speed.training_flops(model) == 2 * (3 * 1_498_880 - 60_840) == 8_871_600


@NEEDS_COMPILER
def test_all_passes_of_the_convolutions_are_timed() -> None:
    model = model_section(*TINY_LAYERS)
    times = kernel_speed.pass_times(model, "float32", 32, 1)
    assert sum(one.flops for one in times) == 32 * train_speed.training_flops(model)
    assert [one.name for one in times] == ["forward", "weights"] + 3 * ["forward", "input", "weights"]
    assert all(0.1 < one.gflops < 10_000 for one in times)


@NEEDS_COMPILER
def test_a_start_is_timed_from_its_beginning(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe().to_toml(), encoding="utf-8")
    cold, warm = (start_time.first_step(str(tmp_path / "cache"), str(recipe)) for _ in range(2))
    assert 0 < warm[1] < warm[0] < cold[0]


def test_the_second_reading_is_faster(tmp_path: Path) -> None:
    reading.write_images(tmp_path, 1200)
    first, second = (reading.read(tmp_path, tmp_path / ".cache") for _ in range(2))
    assert first.images == second.images == 1200
    assert second.seconds < first.seconds
    assert second.memory > 0


@pytest.mark.parametrize(("factor", "macs"), [(1, 1_498_880), (2, 2 * 60_840 + 4 * 1_437_840 + 2 * 200)])
def test_widening_multiplies_the_hidden_channels(factor: int, macs: int) -> None:
    model = scaling.recipe_of(scaling.Case(widening=factor, threads=1)).model
    assert model.classes == 10
    assert network_cost(model).macs == macs


def test_the_example_of_a_recipe_is_one() -> None:
    page = BENCHMARKS.parent / "docs" / "RECIPES.md"
    example = page.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    recipe = parse_recipe(tomllib.loads(example), page.name, {})
    assert recipe.model.parameters <= 8000


@NEEDS_COMPILER
def test_all_that_classifies_is_checked_and_timed(
    small: DataSet, tmp_path: Path, quantised_mcu: QuantisationResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised_mcu)
    import inference

    model, pixels = load_model("mcu"), small.test.pixels[:100].numpy()
    export_c(model, small, tmp_path)
    export_onnx(model, small, tmp_path)
    contenders = inference.open_contenders(model, tmp_path, small.train)
    assert list(contenders) == ["exported C", "onnxruntime, float", "onnxruntime, int8", "torch eager", "native engine"]
    inference.check(contenders, model, pixels)
    with pytest.raises(SystemExit, match=r"nonsense: .* of 100 predictions"):
        inference.check({"nonsense": lambda images: np.zeros((len(images), 10))}, model, pixels)
    times = inference.measure(contenders, pixels, batch=50, rounds=2)
    assert all(len(rounds) == 2 and min(rounds) > 1 for columns in times.values() for rounds in columns)
    assert len(inference.table(times, 50).splitlines()) == 2 + len(contenders)


def test_found_and_clean_digits_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_digits, "FOUND", 30)
    assert re.match(
        r'- 30 found digits: (100|9\d)\.\d\d % right, of the same digits clean 100\.00 %; \d answered "no digit"',
        own_digits.found_line(load_model("best")),
    )


@pytest.mark.skipif(not FASHION.is_dir(), reason="no Fashion-MNIST here: Debian's package dataset-fashion-mnist")
def test_most_clothes_are_no_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_digits, "CLOTHES", 60)
    found = re.match(
        r'- 60 images of Fashion-MNIST: (\d+) % answered "no digit"', own_digits.clothes_line(load_model("best"))
    )
    assert found is not None
    assert int(found[1]) > 60


def test_readings_lie_apart_as_on_a_dial_that_goes_round() -> None:
    readings = own_images.readings_of([f"{number / 10}" for number in range(100)])
    assert readings is not None
    predicted, labels = np.array([0, 99, 50, 10]), np.array([99, 1, 53, 10])
    np.testing.assert_allclose(own_images.distances(predicted, labels, readings), [1, 2, 3, 0], atol=1e-9)
    # In any order of the classes, and with steps of another size.
    halves = own_images.readings_of(["1.5", "0", "1", "0.5"])
    assert halves is not None
    np.testing.assert_allclose(own_images.distances(np.array([0, 0]), np.array([1, 3]), halves), [1, 2])
    assert own_images.readings_of(["cat", "1"]) is None
    assert own_images.readings_of(None) is None


def test_a_score_counts_what_is_right_and_what_is_near() -> None:
    images = Images(torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]))

    def by_pixel(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        one_hot: NDArray[np.float64] = np.eye(8)[pixels[:, 0, 0, 0]]
        return one_hot

    found = own_images.score(by_pixel, images, [str(number) for number in range(8)], 5)
    assert (found.exact, found.near, found.size) == (0.5, 0.5, 5)
    near = own_images.score(lambda pixels: np.roll(by_pixel(pixels), 1, 1), images, list("01234567"), 5)
    assert (near.exact, near.near) == (0, 0.5)
    assert (
        own_images.row("a", "1", [found, near])
        == f"| a | 1 | 5 | 25.00 ± 35.36 % | 50.00 ± 0.00 % | 2 | {(found.microseconds + near.microseconds) / 2:.0f} |"
    )
