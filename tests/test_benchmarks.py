"""The benchmarks: what they compute is right, and what they wrote into the pages is what they write now."""

import copy
import json
import math
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch.nn import functional

from digit_pages import Digits, page_of_rows
from helpers import NEEDS_COMPILER, TINY_LAYERS, model_section, needs_target, tiny_recipe
from kilonet.data.augment import apply_transforms
from kilonet.data.datasets import DataSet, Images
from kilonet.data.listing import FASHION
from kilonet.export.c.targets import TARGETS
from kilonet.export.exporter import export_c, export_onnx
from kilonet.export.quantisation import QuantisationResult
from kilonet.models.model import load_model
from kilonet.network.cost import network_cost
from kilonet.network.module import initial_network
from kilonet.recipe import SECTIONS, Recipe, load_recipe, parse_recipe
from kilonet.utils.compilers import run_compiler
from kilonet.utils.errors import KilonetError
from preloaded import run_forked
from report_pages import scored_once

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import augmentation_speed  # noqa: E402
import chip_peers  # noqa: E402
import class_balance  # noqa: E402
import docs  # noqa: E402
import gpu  # noqa: E402
import homework_style  # noqa: E402
import mlperf_resnet8  # noqa: E402
import own_digits  # noqa: E402
import own_images  # noqa: E402
import peers  # noqa: E402
import reading  # noqa: E402
import roofline  # noqa: E402
import scaling  # noqa: E402
import start_time  # noqa: E402
import time_to_accuracy  # noqa: E402
import train_speed  # noqa: E402
import whole_pages  # noqa: E402


def test_the_pages_are_as_generated(
    shared_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    with scored_once(shared_folder):
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


def test_a_file_of_another_name_than_its_recipe_stands_under_the_recipe_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = json.loads((docs.RESULTS / "best.json").read_text())["runs"]
    (tmp_path / "longer.json").write_text(json.dumps({"runs": 3 * runs}))
    monkeypatch.setattr(docs, "RESULTS", tmp_path)
    claim, accuracy = docs.claims_table("best=longer"), docs.accuracy_table("best=longer")
    assert "| `best` | 7,662 | **99.60 ± 0.04 %** | 18 |" in claim
    assert "| `best` | 7,662 | 15 | **99.60 ± 0.04 %** | 18 | 99.55 to 99.67 |" in accuracy


@pytest.mark.parametrize("section", SECTIONS)
def test_the_table_of_a_section_s_keys_has_what_a_recipe_takes(section: str) -> None:
    recipe = load_recipe("best")
    rows = [line.split(" | ") for line in docs.keys_table(section).splitlines()[2:]]
    assert [row[0].removeprefix("| ").strip("`") for row in rows] == list(SECTIONS[section].model_fields)
    for name, default, values, meaning in rows:
        key = name.removeprefix("| ").strip("`")
        if default.startswith("`"):
            value = json.loads(default.strip("`"))
            assert recipe.replace(**{key: value})
            # A default that is a number lies within its own range.
            if bounds := re.search(r"number, (?:above )?([\d.,]+) (?:to (?:below )?([\d.,]+)|or more)", values):
                least, most = (float(bound.strip(",").replace(",", "")) for bound in bounds.groups())
                assert least <= value <= most
                for outside in (least - 1, 2 * most + 1):
                    with pytest.raises(KilonetError, match=key):
                        recipe.replace(**{key: type(value)(outside)})
        assert meaning.endswith(" |")


def test_a_range_of_values_is_said_in_words() -> None:
    texts = {"type": "array", "items": {"type": "string"}}
    number = {"type": "number", "exclusiveMinimum": 0, "maximum": 1e6}
    whole = {"type": "integer", "minimum": 0, "exclusiveMaximum": 8}
    null = {"type": "null"}
    assert docs._values({"anyOf": [texts, null]}) == "list of texts"
    assert docs._values({"anyOf": [number, {"const": "balanced"}]}) == 'number, above 0 to 1,000,000, or `"balanced"`'
    assert docs._values({"type": "array", "items": whole}) == "list of whole numbers, 0 to 7"
    assert docs._values({"prefixItems": [whole, {"minimum": 2}]}) == "2 whole numbers: 0 to 7, 2 or more"
    assert docs._values({"type": "boolean"}) == "`true`, `false`"
    assert docs._values({"type": "number", "minimum": 0, "exclusiveMaximum": 0.5}) == "number, 0 to below 0.5"


def test_figures_of_two_exports_make_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = docs.shipping_table("export.json verify.json")
    assert len(table.splitlines()) == 2 + 1 + 5
    exported = json.loads((docs.RESULTS / "export.json").read_text())
    (tmp_path / "export.json").write_text(json.dumps(exported | {"ram": exported["ram"] + 4}))
    (tmp_path / "verify.json").write_bytes((docs.RESULTS / "verify.json").read_bytes())
    monkeypatch.setattr(docs, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="not of the same export"):
        docs.shipping_table("export.json verify.json")


@pytest.mark.ci
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


def test_the_homework_style_networks_are_those_of_the_recipes() -> None:
    for name, network in homework_style.NETWORKS.items():
        model = load_recipe(name).model
        script, ours = network(0.0), initial_network(model, 0)
        # Both list their tensors in the order of the layers.
        theirs, state = list(script.state_dict().values()), dict(ours.state_dict())
        assert [one.shape for one in theirs] == [one.shape for one in state.values()], name
        script.load_state_dict(dict(zip(script.state_dict(), state.values(), strict=True)))
        images = torch.rand(4, *model.input_shape)
        # Ours normalises pixels from 0 to 255, the script has done so when it reads an image.
        logits = script.eval()((images - 0.1307) / 0.3081)
        torch.testing.assert_close(logits, ours.eval()(255 * images), rtol=1e-4, atol=1e-5)


def test_training_takes_so_many_operations() -> None:
    """Forward, input and weight gradients are two operations a MAC each, but for the first input's gradient."""
    model = load_recipe("fast").model
    assert train_speed.training_flops(model) == 2 * (3 * 1_498_880 - 60_840) == 8_871_600


def test_each_network_is_compared_with_the_script_that_trains_it() -> None:
    contenders = train_speed.CONTENDERS
    assert [one.recipe for one in contenders if one.engine == "script"] == ["best", "fast"]
    assert contenders[0].engine == "script", "best comes first"
    seconds = {one: [100.0, 400.0] if one.script == "best" else [10.0, 40.0] for one in contenders}
    faster = next(one for one in contenders if (one.recipe, one.engine) == ("best", "native"))
    seconds[faster] = [2.0, 8.0]
    rows = [line.split("|")[1:-1] for line in train_speed.table(seconds, [100.0, 50.0]).splitlines()[2:]]
    assert [row[0].strip() for row in rows] == [one.name for one in contenders]
    ratios = {row[0].strip(): float(row[2]) for row in rows}
    assert ratios.pop(faster.name) == 50
    assert set(ratios.values()) == {1}
    (cells,) = (row for row in rows if row[0].strip() == faster.name)
    assert cells[1].strip() == "5.00 (2.00 to 8.00)"
    flops = 60_000 * train_speed.training_flops(load_recipe("best").model) / 1e9
    assert (int(cells[3]), cells[4].strip()) == (round(flops / 5), f"{flops / 4 + flops / 8:.0f} %")


@pytest.mark.ci
@NEEDS_COMPILER
def test_a_roofline_has_every_operation_of_a_step(quick_compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(quick_compiler))
    layers = (
        "conv 4 stride 2",
        "maxpool 2",
        "conv 6",
        "conv 6 same depthwise residual",
        "again 1",
        "avgpool 2",
        "gap",
        "pointwise 10",
    )
    model = model_section(*layers)
    step = roofline.step_time(model, "float32", 32, 2)
    assert sum(one.flops for one in step.passes) == 32 * train_speed.training_flops(model)
    # The pool is computed with the batch norm before it.
    assert {one.layer for one in step.passes} == set(range(len(layers))) - {1}
    assert "| `conv 4 stride 2`, `maxpool 2` |" in roofline.table(model, step, 100.0, 10.0)
    assert 0 < sum(one.seconds for one in step.passes) < step.seconds
    assert 0.1 < step.convolution_gflops() < 10_000
    # The first convolution: forward its input and output; backward also the batch norm's two passes, and no gradient of
    # the input.
    image, first, pooled = 28 * 28, 4 * 13 * 13, 4 * 6 * 6
    sizes = [one.bytes / 32 / 4 for one in step.passes if one.layer == 0]
    assert sorted(sizes) == sorted([image + first, first + pooled, first + pooled, pooled + 2 * first, image + first])


def test_the_limit_of_a_layer_is_arithmetic_or_memory() -> None:
    model = model_section("conv 4", "gap", "pointwise 10")
    step = roofline.StepTime(
        6.5e-6,
        (
            roofline.PassTime(0, convolves=True, flops=2000.0, bytes=10.0, seconds=1e-6),
            roofline.PassTime(0, convolves=False, flops=0.0, bytes=30.0, seconds=2e-6),
            roofline.PassTime(1, convolves=False, flops=0.0, bytes=10.0, seconds=1e-6),
            roofline.PassTime(2, convolves=True, flops=100.0, bytes=1.0, seconds=0.5e-6),
        ),
    )
    # 2,000 operations at 2 GFLOP/s and 30 bytes at 0.03 GB/s take a microsecond each.
    rows = [line.split("|")[1:-1] for line in roofline.table(model, step, 2.0, 0.03).splitlines()[2:]]
    assert [cell.strip() for cell in rows[0][3:]] == ["2", "arithmetic 50 %, memory 50 %", "3", "67 %"]
    assert rows[-1][5].strip() == "2"
    assert step.convolution_gflops() == pytest.approx(2100 / 1.5e-6 / 1e9)


@NEEDS_COMPILER
def test_a_start_is_timed_from_its_beginning(
    tmp_path: Path, quick_compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(quick_compiler))
    monkeypatch.setattr(start_time, "subprocess", SimpleNamespace(run=run_forked))
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe().to_toml(), encoding="utf-8")
    cold, warm = (start_time.first_step(str(tmp_path / "cache"), str(recipe)) for _ in range(2))
    assert 0 < warm[1] < warm[0] < cold[0]


def test_starts_of_best_come_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    taken = {
        ("best", "cold"): [9.0, 7.0],
        ("best", "warm"): [3.0, 3.0],
        ("fast", "cold"): [5.0, 6.0],
        ("fast", "warm"): [2.0, 2.0],
    }
    caches: set[str] = set()

    def first_step(cache: str, recipe: str) -> tuple[float, float]:
        state = "warm" if cache in caches else "cold"
        caches.add(cache)
        return taken[recipe, state].pop(), 1.0

    monkeypatch.setattr(start_time, "first_step", first_step)
    monkeypatch.setattr(sys, "argv", ["start_time.py", "--rounds", "2"])
    start_time.main()
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "| `best` | cold | 8.00 | 1.00 | 7.00 |",
        "| `best` | warm | 3.00 | 1.00 | 2.00 |",
        "| `fast` | cold | 5.50 | 1.00 | 4.50 |",
        "| `fast` | warm | 2.00 | 1.00 | 1.00 |",
    ]


def test_the_script_s_time_is_compared_with_each_recipe_s(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {"best": (80.0, 75.0, 0.996), "fast": (8.0, 5.0, 0.992)}
    monkeypatch.setattr(time_to_accuracy, "recipe_run", lambda recipe, _: runs[recipe])
    monkeypatch.setattr(time_to_accuracy, "script_run", lambda seed: (seed == 0, 240.0, 0.991))
    monkeypatch.setattr(sys, "argv", ["time_to_accuracy.py", "--best-seeds", "2", "--script-seeds", "2"])
    time_to_accuracy.main()
    ratios = [
        "  3.2 times the training of `best`, 3.0 times its whole command,",
        "  48.0 times the training of `fast`, 30.0 times its whole command",
    ]
    assert capsys.readouterr().out.splitlines()[2:] == [
        "- `kilonet train best`: 99.60 ± 0.00 % (final epoch, n = 2: 99.60, 99.60),",
        "  80.0 s for the whole command, 75.0 s of it training (medians)",
        "- `kilonet train fast`: 99.20 ± 0.00 % (final epoch, n = 5: 99.20, 99.20, 99.20, 99.20, 99.20),",
        "  8.0 s for the whole command, 5.0 s of it training (medians)",
        "- homework-style script: 240 s of training to the first epoch at 99.14 %,",
        *ratios,
        "- homework-style script: 240 s of training without it (best 99.10 %),",
        *ratios,
    ]


@pytest.mark.parametrize("name", peers.RECIPES)
def test_the_networks_of_other_libraries_are_those_of_the_recipes(name: str) -> None:
    """Torch's modules stand for the operations of another library."""
    model = load_recipe(name).model
    ours = initial_network(model, 0).eval()
    modules = [module for module in ours.layers.modules() if not list(module.children())]
    assert len(modules) == len(peers.operations(model))
    images = torch.rand(4, *model.input_shape)
    logits = peers.run_layers(model, modules, (images - 0.1307) / 0.3081).flatten(1)
    torch.testing.assert_close(logits, ours(255 * images), rtol=1e-4, atol=1e-5)
    shapes = [tensor.shape for tensor in ours.parameters()]
    peers.check_parameters(model, shapes)
    with pytest.raises(SystemExit, match="parameters, not 7,662"):
        peers.check_parameters(model, shapes[:-1])


def test_each_network_has_a_table_of_libraries(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    milliseconds = {"kilonet native": 10, "kilonet torch": 40}
    monkeypatch.setattr(peers, "PEERS", {name: peers.PEERS[name] for name in milliseconds})
    monkeypatch.setattr(
        peers, "_time_apart", lambda name, recipe, _: milliseconds[name] * (2 if recipe == "best" else 1) / 1000
    )
    monkeypatch.setattr(sys, "argv", ["peers.py", "--rounds", "1"])
    peers.main()
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines if line.startswith("Network")]
    assert heads == [
        "Network of `best`, 7,662 parameters, 1,404,692 MACs:",
        "Network of `fast`, 7,662 parameters, 1,498,880 MACs:",
    ]
    rows = [line for line in lines if line.startswith("| kilonet torch")]
    assert [row.split("|")[3:-1] for row in rows] == [
        [" 80.0 (80.0 to 80.0) ", " 37.5 ", " 4.0 x "],
        [" 40.0 (40.0 to 40.0) ", " 18.8 ", " 4.0 x "],
    ]


@pytest.mark.ci
def test_the_second_reading_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "subprocess", SimpleNamespace(run=run_forked))
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


@pytest.mark.ci
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


def test_rows_that_touch_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_digits, "ROWS", 5)
    found = re.match(
        r"- 5 rows of 2 test images that touch, by `--line`: (\d+)\.0 % read whole, (\d+)\.0 % surely; 0\.0 % sure",
        own_digits.touching_line(load_model("best"), 2),
    )
    assert found is not None
    assert int(found[1]) >= max(int(found[2]), 80)


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs dataset-fashion-mnist")
def test_most_clothes_are_no_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_digits, "CLOTHES", 60)
    found = re.match(
        r'- 60 images of Fashion-MNIST: (\d+) % answered "no digit"', own_digits.clothes_line(load_model("best"))
    )
    assert found is not None
    assert int(found[1]) > 60


def test_what_is_found_on_pages_is_counted(mnist: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    model, digits = load_model("best"), Digits(mnist.test.pixels[:1000, 0].numpy(), mnist.test.labels[:1000].numpy())
    page = page_of_rows(digits, np.random.default_rng([73, 0]), rows=2, each=4)
    assert whole_pages.counts(model, page).tolist() == [8, 8, 0, 0, 1]
    misread = replace(page, digits=tuple(replace(one, digit=(one.digit + 1) % 10) for one in page.digits))
    total, right, wrong, more, ordered = whole_pages.counts(model, misread).tolist()
    assert (total, right, more, ordered) == (8, 0, 0, 1)
    assert wrong >= 6
    # Half of the digits are said to be none, and the others to come in the reverse order.
    halved = replace(page, digits=page.digits[3::-1])
    assert whole_pages.counts(model, halved).tolist() == [4, 4, 0, 4, 0]
    monkeypatch.setattr(whole_pages, "KINDS", {"rows": lambda *_: page})
    assert whole_pages.line(model, digits, "rows", 2) == "| rows | 2 | 16 | 100.0 % | 0.0 % | 0 | 2 |"


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


def test_mlperf_s_network_has_its_published_size() -> None:
    network = mlperf_resnet8.ResNet8()
    assert mlperf_resnet8.keras_parameters(network) == 78_666
    assert sum(one.numel() for name, one in network.named_parameters() if one.ndim > 1) == 77_360
    assert network.macs(torch.zeros(1, 3, 32, 32)) == 12_501_632
    rates = [mlperf_resnet8.learning_rate(epoch) for epoch in (0, 1, 499)]
    assert rates == pytest.approx([0.001, 0.00099, 6.6368e-06], rel=1e-4)


def test_mlperf_s_convolutions_are_padded_as_in_keras() -> None:
    images = torch.arange(36.0).view(1, 1, 6, 6)
    for stride, expected in ((1, images), (2, images[..., 1::2, 1::2])):
        convolution = mlperf_resnet8.Convolution(1, 1, 3, stride)
        with torch.no_grad():
            convolution.weight.copy_(torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]))
            convolution.load_state_dict({"bias": torch.zeros(1), "weight": convolution.weight})
            torch.testing.assert_close(convolution(images), expected)


def test_mlperf_s_images_are_changed_as_by_keras() -> None:
    """Keras turns and shifts rows and columns around the centre by SciPy, and mirrors what it has read."""
    pixels = torch.randint(256, (8, 1, 10, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    transforms = mlperf_resnet8.draw_transforms(8, 10, torch.Generator().manual_seed(2))
    changed = apply_transforms(pixels, transforms, "edge").numpy()
    drawn = (2 * torch.rand(4, 8, generator=torch.Generator().manual_seed(2)) - 1).double().numpy()
    assert 0 < (drawn[3] < 0).sum() < 8
    for image, found, (turn, across, down, flip) in zip(pixels[:, 0].numpy(), changed[:, 0], drawn.T, strict=True):
        angle = math.radians(15) * turn
        # Rows before columns, so the sense of rotation is the other one.
        matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        centre = np.full(2, 4.5)
        offset = centre + matrix @ (np.array([down, across]) - centre)
        expected = scipy.ndimage.affine_transform(image.astype(float), matrix, offset, order=1, mode="nearest")
        np.testing.assert_allclose(found, expected[:, ::-1] if flip < 0 else expected, atol=1e-3)


def test_a_step_of_mlperf_s_training_is_adam_with_a_penalty_on_the_kernels() -> None:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=generator)
    training = mlperf_resnet8.Training(pixels, torch.arange(40) % 3, 3)
    training.start(5)
    training.begin_epoch(3)
    reference = copy.deepcopy(training.network).double()
    kernels = [one.weight for one in reference.modules() if isinstance(one, torch.nn.Conv2d)]
    optimizer = torch.optim.Adam(reference.parameters(), lr=0.001 * 0.99**3, eps=1e-7)
    shown, labels = training._pixels.double(), training._labels
    for begin, size in ((0, 32), (32, 8)):
        part = slice(begin, begin + size)
        penalty = sum(kernel.square().sum() for kernel in kernels)
        optimizer.zero_grad()
        (functional.cross_entropy(reference(shown[part]), labels[part]) + 1e-4 * penalty).backward()
        optimizer.step()
    for size in (32, 8):
        mlperf_resnet8.step_of_all([training], size)()
    for (name, found), expected in zip(
        training.network.state_dict().items(), reference.state_dict().values(), strict=True
    ):
        if "num_batches" not in name and not re.search(r"(stem|first|second)\.bias", name):
            # Adam makes a whole step of a gradient that is nothing but rounding.
            close = torch.isclose(found.double(), expected, atol=2e-5, rtol=1e-4)
            assert close.double().mean() > 0.99, name


def test_few_images_of_unequal_classes_are_drawn_by_the_seed(small: DataSet) -> None:
    counts = [40, 8, 2]
    drawn = [class_balance.draw(small, counts, seed) for seed in (0, 0, 1)]
    assert drawn[0].train.labels.bincount().tolist() == counts
    assert drawn[0].names is not None
    label = small.test.labels == int(drawn[0].names[2])
    assert torch.equal(drawn[0].test.pixels[drawn[0].test.labels == 2], small.test.pixels[label])
    assert torch.equal(drawn[0].train.pixels, drawn[1].train.pixels)
    assert not torch.equal(drawn[0].train.pixels, drawn[2].train.pixels)
    assert class_balance.draw(small, counts, 0, ["7", "1", "3"]).names == ("7", "1", "3")
    with pytest.raises(SystemExit, match="too few images"):
        class_balance.draw(small, [100_000, 1, 1], 0)


def test_each_way_of_balance_is_paired_with_neither() -> None:
    shares = {way: [50.0 + number, 52.0 + number**2, 60.0] for number, way in enumerate(class_balance.WAYS)}
    rows = class_balance.table({way: class_balance.Scores(one, one) for way, one in shares.items()}).splitlines()
    assert [row.split("|")[4].strip() for row in rows[2:]] == ["", "+0.67, 2 of 3 above", "+2.00, 2 of 3 above"]
    assert rows[3].split("|")[5].strip() == "0.18"


def test_every_random_change_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = augmentation_speed.CASES["all of these"]
    augment = augmentation_speed.recipe_with(timed, "torch").augment
    assert {*timed, "flip_vertical", "outside", "mixup_until"} == {*augment.model_dump()}
    monkeypatch.setattr(augmentation_speed, "ENGINES", ("torch",))
    monkeypatch.setattr(augmentation_speed, "CASES", {"none": {}, "flip": {"flip": True}})
    seconds = augmentation_speed.measure(images=32, rounds=2)
    assert {name: len(taken) for name, taken in seconds["torch"].items()} == {"none": 2, "flip": 2}
    seconds = {"torch": {"none": [1.0, 2.0, 4.0], "flip": [2.0, 3.0, 4.0]}}
    assert "| `flip` (true) | 1.50 (1.00 to 2.00) |" in augmentation_speed.table(seconds)


def tiny(name: str, changes: Mapping[str, object] | None = None) -> Recipe:
    """Return a packaged recipe with a network that a processor trains quickly."""
    return load_recipe(name, {**(changes or {}), "layers": TINY_LAYERS})


def test_what_is_measured_on_a_gpu_runs_on_a_processor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "load_recipe", tiny)
    monkeypatch.setattr(gpu, "packaged_recipes", lambda: ["distilled", "photo-8k"])
    assert gpu.main(["--device", "cpu", "--quick", "--parts", "bits", "profile", "recipes", "compile"]) == 0
    printed = capsys.readouterr().out
    for precision in ("float32", "bfloat16"):
        assert re.search(rf"^\| {precision} \| (`\w{{16}}`) \| \1 \| \1 \|$", printed, re.MULTILINE)
    assert re.search(r"^\| `aten::convolution_backward` \| \d\.0 \| ", printed, re.MULTILINE)
    for row in (r"`distilled` \| [\d,]+ \| 64 \| 128", r"`photo-8k` \| [\d,]+ \| 128 \| 128"):
        assert re.search(rf"^\| {row}( \| \d+\.\d\d \| \d+){{2}} \|$", printed, re.MULTILINE)
    assert "Left out: it takes an NVIDIA GPU" in printed
    assert "Failed" not in printed


def test_a_part_that_fails_on_a_gpu_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(_: gpu.Bench) -> Iterator[str]:
        yield "begun"
        raise ValueError("no\nluck")

    parts = {"failing": ("One", failing), "good": ("Two", lambda _: iter(["done"]))}
    monkeypatch.setattr(gpu, "PARTS", parts)
    assert gpu.main(["--device", "cpu", "--parts", *parts]) == 1
    printed = capsys.readouterr().out
    assert (
        "## One\n\nbegun\n\nFailed: ValueError: no luck\n\n## Two\n\ndone\n\nSeconds: failing 0, good 0; in" in printed
    )
    monkeypatch.setattr(gpu, "LIMIT_SECONDS", 0)
    assert gpu.main(["--device", "cpu", "--parts", "good"]) == 1
    assert "## Two\n\n\nFailed: 0 s are over, what may follow is left out" in capsys.readouterr().out


def test_the_kernels_that_take_longest_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SHOWN_KERNELS", 1)
    table = gpu.kernel_table({"a": 10.0, "b": 30.0, "c": 10.0}, {"a": 1.0, "b": 2.0, "c": 4.0}, 80.0)
    assert table[0] == "80 us by the clock; its 7 kernels take 50 us."
    assert table[4:] == ["| `b` | 2.0 | 30.0 | 60 % |", "| others | 5.0 | 20.0 | 40 % |"]
    assert gpu.short_name("void at::native::fill<4>(int|x)") == "fill<4>(int x)"


CMSIS_NN = """#include <stdint.h>
typedef struct { void *buf; int32_t size; } cmsis_nn_context;
typedef struct { int32_t n, h, w, c; } cmsis_nn_dims;
typedef struct { int32_t w, h; } cmsis_nn_tile;
typedef struct { int32_t min, max; } cmsis_nn_activation;
typedef struct { int32_t input_offset, output_offset; cmsis_nn_tile stride, padding, dilation;
cmsis_nn_activation activation; } cmsis_nn_conv_params;
typedef struct { int32_t input_offset, output_offset, ch_mult; cmsis_nn_tile stride, padding, dilation;
cmsis_nn_activation activation; } cmsis_nn_dw_conv_params;
typedef struct { cmsis_nn_tile stride, padding; cmsis_nn_activation activation; } cmsis_nn_pool_params;
typedef struct { int32_t *multiplier, *shift; } cmsis_nn_per_channel_quant_params;
#define arm_convolve_wrapper_s8_get_buffer_size(...) 96
#define arm_depthwise_conv_wrapper_s8_get_buffer_size(...) 40
#define arm_avgpool_s8_get_buffer_size(...) 20
#define arm_convolve_wrapper_s8(memory, how, scale, in, from, window, weights, each, bias, out, to) \\
    (void)(how), ((volatile int8_t *)(memory)->buf)[1] = (weights)[1], ((volatile int8_t *)(to))[1] = (from)[1]
#define arm_depthwise_conv_wrapper_s8(...) (void)how
#define arm_avgpool_s8(...) (void)how
#define arm_max_pool_s8(...) (void)how
#define arm_elementwise_add_s8(...) (void)to
"""
"""The interface of CMSIS-NN that the benchmark uses."""


def test_another_library_is_built_from_its_sources_and_counted(
    tmp_path: Path, quantised_mcu: QuantisationResult
) -> None:
    target = next(target for target in TARGETS if target.name == "cortex-m4")
    images = Images(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(SystemExit, match="not the sources of CMSIS-NN"):
        list(chip_peers.cmsis_nn(tmp_path, quantised_mcu.network, images, target, "-Os"))
    with pytest.raises(SystemExit, match="not the sources of BitNetMCU"):
        list(chip_peers.bitnetmcu(tmp_path, images, target, "-Os"))
    needs_target(target)
    # Kilonet's own C needs no C library, but CMSIS-NN does. A compiler without one answers with the bare name.
    if not Path(run_compiler(["arm-none-eabi-gcc", "-print-file-name=libc.a"]).strip()).is_absolute():
        pytest.skip("needs libnewlib-arm-none-eabi")
    (tmp_path / "Include").mkdir()
    (tmp_path / "Include" / "arm_nnfunctions.h").write_text(CMSIS_NN, encoding="utf-8")
    (tmp_path / "Source" / "ConvolutionFunctions").mkdir(parents=True)
    (tmp_path / "Source" / "ConvolutionFunctions" / "none.c").touch()
    (counted,) = chip_peers.cmsis_nn(tmp_path, quantised_mcu.network, images, target, "-Os")
    largest = 28 * 28 + 8 * 8 * 20
    assert 0 <= counted.ram - (largest + 96 + 784 + 40) <= 32
    assert counted.instructions > 784
