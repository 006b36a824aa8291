"""The report of a run: what it says, that it agrees with the run, and what it refuses."""

import dataclasses
import json
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import markupsafe
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import GOLDEN, Hide, command, model_section, refusal, some_pixels
from kilonet.data.datasets import Images
from kilonet.models.model import Model
from kilonet.network.module import initial_network
from kilonet.report.comparison.comparison import Comparison
from kilonet.report.comparison.frontier import draw_frontier
from kilonet.report.comparison.groups import Group
from kilonet.report.page import mistakes, report_html
from kilonet.report.page.activations import activations, filter_figure, receptive_fields
from kilonet.report.page.charts import chart
from kilonet.report.page.measurements import measure, reliability_of
from kilonet.report.sources import collect
from kilonet.report.subject import Subject
from kilonet.training.run_folder import Run
from kilonet.training.run_records import RunRecord, group_repetitions, read_printed_runs
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import printable
from report_pages import RESULTS, page_of_best, table_of, text_of


def folder_of(run: Run) -> Path:
    assert run.folder is not None
    return run.folder


@pytest.fixture(scope="module")
def best(shared_folder: Path) -> str:
    return page_of_best(shared_folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tiny(finished: Run) -> str:
    return report_html(collect([str(folder_of(finished))]))


@pytest.fixture
def seeds(finished: Run, tmp_path: Path) -> Path:
    """Copies of the finished run as if of other seeds, with other accuracies."""
    for seed, correct in ((3, 300), (4, 310), (10, 305)):
        folder = tmp_path / "seeds" / f"seed{seed}"
        shutil.copytree(folder_of(finished), folder)
        result = json.loads((folder / "result.json").read_text())
        result["recipe"]["run"]["seed"] = seed
        result["correct"] = correct
        result["final"]["test_accuracy"] = correct / 500
        (folder / "result.json").write_text(json.dumps(result))
    return tmp_path / "seeds"


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are made up but not drawn, which takes longer than all the rest, for tests of words and tables."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, stream, **__: stream.write("<svg></svg>"))


# What it says


def test_what_the_report_of_best_says_is_golden(best: str) -> None:
    assert "\n".join(text_of(best)) + "\n" == (GOLDEN / "report.txt").read_text(encoding="utf-8")


def test_a_network_without_convolutions_has_no_filters_to_show(finished: Run) -> None:
    subject = collect([str(folder_of(finished))])
    section = model_section("gap", input=(10, 28, 28))
    bare = Subject("bare", Model(section, initial_network(section, 0).state()), subject.images)
    assert filter_figure(bare) is None


def test_every_total_is_the_results(best: str) -> None:
    result = json.loads((RESULTS / "best.json").read_text())["runs"][0]
    totals(best, result, "test")


def test_every_total_of_a_run_is_its_results(finished: Run, tiny: str) -> None:
    totals(tiny, json.loads((folder_of(finished) / "result.json").read_text()), "test")


def totals(page: str, result: dict[str, Any], scored: str) -> None:
    correct, images = f"{result['correct']:,}", f"{result['scored_images']:,}"
    wrong = result["scored_images"] - result["correct"]
    matrix = [[int(cell.replace(",", "")) for cell in row[1:]] for row in table_of(page, "Images by label")[1:]]
    assert sum(matrix[row][row] for row in range(len(matrix) - 1)) == result["correct"]
    assert [sum(column) for column in zip(*matrix[:-1], strict=True)] == matrix[-1]
    assert matrix[-1][-1] == result["scored_images"] == sum(matrix[-1][:-1])
    assert table_of(page, "Right answers by class")[-1][1:3] == [correct, images]
    assert table_of(page, "Answers by their probability")[-1][1:3] == [images, correct]
    assert table_of(page, "The layers")[-1][2] == f"{result['parameters']:,}"
    last = table_of(page, "Every epoch")[-1]
    assert last[0] == str(result["recipe"]["train"]["epochs"] - 1)
    assert last[4] == f"{100 * result['final']['test_accuracy']:.2f}\N{NO-BREAK SPACE}%"
    listed = [row for name in ("The worst images", "Further mistakes") for row in table_of(page, name)[1:]]
    assert sum(row[1] != row[2] for row in listed) == min(wrong, 10 + 60)
    assert scored in page


def test_the_same_run_gives_the_same_bytes(finished: Run, tiny: str) -> None:
    assert report_html(collect([str(folder_of(finished))])) == tiny


def test_what_is_missing_is_said(tiny: str) -> None:
    words = " ".join(text_of(tiny))
    for missing in ("Robustness was not measured", "Nothing was exported", "is not calibrated"):
        assert missing in words
    assert "Side by side" not in words
    assert "One run; another seed would" in words


@pytest.mark.usefixtures("_undrawn")
def test_a_model_by_itself_has_no_recipe_and_no_curves() -> None:
    words = " ".join(text_of(report_html(small_subject())))
    assert "The recipe, the curves and the machine are not known" in words
    assert "Figure 1" in words
    assert "after the final epoch" not in words


def small_subject(*layers: str, images: int = 30, **changes: Any) -> Subject:
    """An untrained network, noise for images."""
    section = model_section(*(layers or ("conv 3", "gap", "pointwise 4")), **{"input": (1, 9, 9), **changes})
    model = Model(section, initial_network(section, 0).state())
    labels = torch.arange(images) % section.classes
    return Subject("small", model, Images(some_pixels(images, section.input_shape), labels, "Test"))


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        (("conv 6 5x5 same", "conv 6 same residual", "gap", "pointwise 3"), (3, 12, 10)),
        (("pointwise 2", "maxpool 3", "conv 70 depthwise", "gap", "pointwise 30"), (1, 11, 11)),
        (("gap", "pointwise 2"), (2, 8, 8)),
    ],
)
def test_any_network_can_be_reported(layers: tuple[str, ...], shape: tuple[int, int, int]) -> None:
    page = report_html(small_subject(*layers, images=40, input=shape))
    assert page.count("<figure") == page.count("<details>") >= 6
    assert ('id="maps"' in page) == (layers[0] != "gap"), "a network without maps shows none"
    assert "nan" not in " ".join(text_of(page)).lower().split()


def test_names_are_text_and_nothing_else(finished: Run) -> None:
    subject = collect([str(folder_of(finished))])
    nasty = """</style><script>alert(1)</script>"'{{ 7 * 7 }}<b>"""
    metadata = subject.model.metadata.model_copy(update={"names": tuple(f"{nasty}{number}" for number in range(10))})
    page = report_html(Subject(nasty, subject.model.with_metadata(metadata), subject.images))
    assert "<script" not in page
    assert "{{ 7 * 7 }}" in page


def test_the_name_of_the_data_is_text_in_one_line(seeds: Path) -> None:
    def renamed(record: RunRecord) -> RunRecord:
        recipe = record.result.recipe.replace(data="a\x1b[1mb")
        return replace(record, result=record.result.model_copy(update={"recipe": recipe}))

    subject = collect([str(seeds)])
    assert subject.record
    others = tuple(map(renamed, subject.others))
    page = report_html(replace(subject, record=renamed(subject.record), others=others))
    assert "\x1b" not in page
    assert "a\\x1b[1mb" in page


AWKWARD = (
    "$$",
    "$\\frac{",
    "a$b$c",
    "\x1b[31mred",
    "\0",
    "a\x7f\x85\u2028b",
    "\u202egnp",
    "un\udcff",
    "\u4e00\u4e8c",
    "\U0001f600",
)
"""Names that break formulas, terminals, XML or UTF-8, or that matplotlib's fonts have no letters for."""


def test_any_name_makes_a_page_and_a_plot(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "$$ un\udcff\x1b[2J"
    shutil.copytree(folder_of(finished), folder)
    subject = collect([str(folder)])
    metadata = subject.model.metadata.model_copy(update={"names": AWKWARD})
    others = tuple(RunRecord(name, finished.result) for name in map(printable, AWKWARD))
    page = report_html(replace(subject, model=subject.model.with_metadata(metadata), others=others))
    assert b"$$ un\\udcff\\x1b[2J" in page.encode()
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e]", page)
    for name in ("$$", "\\x1b[31mred", "\\x00", "un\\udcff", "\u4e00\u4e8c"):
        assert f">{name}</text>" in page
    svg = tmp_path / "plot.svg"
    groups = tuple(Group(name, (RunRecord("run", finished.result),)) for name in AWKWARD)
    draw_frontier(Comparison(groups, ()), svg)
    ET.parse(svg)  # noqa: S314 - our own file


@pytest.mark.parametrize("name", ['<g id="x">', "#010101", 'id="a" xlink:href="#b"', "fill &: <i>"])
def test_names_in_charts_are_what_they_were(name: str) -> None:
    with chart("key", 100, 100, name) as drawing:
        drawing.axes().set_title(name)
    assert f">{escape(name, quote=False)}</text>" in drawing.svg
    assert f'aria-label="{markupsafe.escape(name)}"' in drawing.svg


@pytest.mark.usefixtures("_undrawn")
def test_several_seeds_stand_side_by_side_with_statistics(seeds: Path) -> None:
    page = report_html(collect([str(seeds)]))
    rows = table_of(page, "Every run")[1:]
    assert [(row[0], row[2]) for row in rows] == [(f"seeds, seed {seed}", str(seed)) for seed in (3, 4, 10)]
    assert all(row[1].endswith(", test") for row in rows)
    space = "\N{NO-BREAK SPACE}"
    # Student's t for two degrees of freedom is 4.303: 61 +- 4.303 * 1 / sqrt(3).
    assert table_of(page, "Accuracy over seeds")[1] == [
        "seeds, seed 3 and 2 more",
        "3",
        f"61.000{space}%",
        f"1.000{space}%",
        f"58.516 to 63.484{space}%",
    ]
    words = " ".join(text_of(page))
    assert f"61.00 ± 1.00{space}%" in words
    assert "Thin lines: the other 2 runs" in words
    assert "where the run counted 300" in words, "the copies' figures are not what their model gives"


@pytest.mark.usefixtures("_undrawn")
def test_unequal_classes_are_counted_alike(seeds: Path) -> None:
    space = "\N{NO-BREAK SPACE}"
    for number, folder in enumerate(sorted(seeds.iterdir())):
        result = json.loads((folder / "result.json").read_text())
        result["class_images"] = [450, 50, *([0] * 8)]
        result["final"]["test_balanced_accuracy"] = 0.3 + number / 100
        (folder / "result.json").write_text(json.dumps(result))
    subject = collect([str(seeds)])
    labels = subject.images.labels.clamp(max=1)
    page = report_html(replace(subject, images=replace(subject.images, labels=labels)))
    assert table_of(page, "Balanced accuracy over seeds")[1][1:4] == ["3", f"31.000{space}%", f"1.000{space}%"]
    assert table_of(page, "Macro F1 over seeds")[1][1] == "3"
    evaluation = measure(replace(subject, images=replace(subject.images, labels=labels))).evaluation
    balanced, macro_f1 = (f"{100 * share:.2f}{space}%" for share in (evaluation.balanced_accuracy, evaluation.macro_f1))
    words = " ".join(text_of(page))
    assert f"this run alone has a balanced accuracy of {balanced} and a macro F1 of {macro_f1}" in words
    assert "unequal numbers of images" not in " ".join(text_of(report_html(small_subject(images=40))))
    old = replace(subject.others[0], result=subject.others[0].result.model_copy(update={"class_images": None}))
    assert "Balanced accuracy over seeds" not in report_html(replace(subject, others=(old,)))


def test_other_recipes_have_a_mean_of_their_own(finished: Run, seeds: Path) -> None:
    first, second = (RunRecord(name, finished.result, finished.history) for name in "ab")
    recipe = finished.result.recipe.replace(learning_rate=0.01)
    other = RunRecord("c", finished.result.model_copy(update={"recipe": recipe}))
    assert [[record.name for record in group] for group in group_repetitions([first, other, second])] == [
        ["a", "b"],
        ["c"],
    ]
    subject = collect([str(folder_of(finished)), str(seeds), str(seeds)])
    assert len(subject.others) == 3, "a run that is named twice is shown once"


@pytest.mark.usefixtures("_undrawn")
def test_another_precision_has_a_mean_of_its_own(finished: Run) -> None:
    recipe = finished.result.recipe.replace(precision="bfloat16")
    other = RunRecord("b", finished.result.model_copy(update={"recipe": recipe}))
    subject = collect([str(folder_of(finished))])
    page = report_html(dataclasses.replace(subject, others=(other,)))
    assert [row[1] for row in table_of(page, "Accuracy over seeds")[1:]] == ["1", "1"]


@pytest.mark.usefixtures("_undrawn")
def test_measurements_in_the_run_folder_are_found(finished: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder_of(finished), run)
    shutil.copy(RESULTS / "corruptions-best.json", run / "corruptions.json")
    with pytest.raises(KilonetError) as error:
        collect([str(run)])
    refusal(error, "corruptions", "10,000")
    found = json.loads((run / "corruptions.json").read_text())
    found |= {"images": 500, "clean": finished.result.final.test_accuracy}
    (run / "corruptions.json").write_text(json.dumps(found))
    page = report_html(collect([str(run)]))
    assert len(table_of(page, "Accuracy by corruption")) == 17
    shutil.copytree(RESULTS / "exported", run / "exported")
    with pytest.raises(KilonetError) as error:
        collect([str(run)])
    refusal(error, "exported", "not of this model")


def test_the_shipped_sizes_are_the_exports(best: str) -> None:
    forms = json.loads((RESULTS / "exported" / "model.json").read_text())["forms"]
    rows = {row[0].split(",")[0]: row[1:] for row in table_of(best, "Bytes of every exported form")[1:]}
    assert rows["C99"] == [f"{forms['c']['flash']:,}", f"{forms['c']['ram']:,}"]
    assert rows["one HTML page"][0] == f"{forms['html']['bytes']:,}"


# What is measured for it


def test_reliability_is_counted_by_hand() -> None:
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.42, 0.58], [0.5, 0.5], [0.0, 1.0]], np.float32)
    found = reliability_of(probabilities, np.array([0, 1, 1, 1, 1]))
    filled = {round(15 * part.low): (part.images, part.correct) for part in found.bins if part.images}
    assert filled == {7: (1, 0), 8: (1, 1), 14: (3, 2)}
    assert found.error == pytest.approx((abs(0 - 0.5) + abs(1 - 0.58) + abs(2 - 2.9)) / 5)


def test_the_worst_images_are_those_whose_label_was_least_probable() -> None:
    subject = small_subject(images=200)
    found = measure(subject)
    rows = subject.model.logits(subject.images.pixels).softmax(1)
    of_label = rows[torch.arange(200), subject.images.labels]
    assert [image.index for image in found.worst] == of_label.argsort(stable=True)[:10].tolist()
    assert found.worst[0].label_probability == pytest.approx(of_label.min().item(), abs=1e-6)
    assert found.wrong == int((rows.argmax(1) != subject.images.labels).sum())
    assert all(image.predicted != image.label for image in found.mistakes)


def test_the_maps_are_what_the_layers_give() -> None:
    subject = small_subject("conv 3", "maxpool 2", "conv 4", "gap", "pointwise 4")
    names, maps = zip(*activations(subject), strict=True)
    assert names == subject.model.section.layers
    assert [values.shape for values in maps] == [placed.output_shape for placed in subject.model.section.placed]
    logits = subject.model.logits(subject.images.pixels[:1])[0]
    assert torch.equal(torch.from_numpy(maps[-1].ravel()), logits)
    assert not [hook for layer in subject.model.network.layers for hook in layer._forward_hooks]


KINDS = [
    *("conv 2", "conv 2 5x5 same", "maxpool 2", "conv 3 same", "pointwise 2"),
    *("conv 2 same stride 2", "conv 3 stride 2", "avgpool 2"),
]


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
def test_a_window_is_what_an_output_depends_on(layers: list[str]) -> None:
    """Change pixels one row or column at a time, and see which of them the middle output of a layer feels."""
    subject = small_subject(*layers, "gap", "pointwise 2", images=2, input=(1, 40, 40))
    count = len(layers)
    seen = receptive_fields(subject)[count - 1]
    network = torch.nn.Sequential(*list(subject.model.network.layers)[:count]).double()
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.constant_(part.weight, 0.01)
    pixels = torch.ones(1, 1, 40, 40, dtype=torch.double, requires_grad=True)
    output = network(pixels)
    middle = (output.shape[2] - 1) // 2
    output[0, :, middle, middle].sum().backward()
    assert pixels.grad is not None
    rows = pixels.grad[0, 0].abs().sum(1).nonzero().ravel().tolist()
    inside = [row for row in range(seen.top, seen.top + seen.side) if 0 <= row < 40]
    # A maximum feels one pixel only, so what is felt lies within the window, and fills it where nothing is pooled.
    assert set(rows) <= set(inside)
    if "maxpool 2" not in layers:
        assert rows == inside


# Where it comes from


def test_the_command_writes_it(finished: Run, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.html"
    named = folder_of(finished) / "model.safetensors"
    assert collect([str(named)]).record is not None, "a model file stands for the run it lies in"
    answer = command(capsys, "report", folder_of(finished), "--out", out)
    assert answer.status == 0, answer.err
    assert str(out) in answer.out
    assert out.read_text(encoding="utf-8") == tiny
    table = json.loads(command(capsys, "report", folder_of(finished), "--out", out, "--json").out)
    assert table == {"file": str(out), "bytes": len(tiny.encode()), "runs": 1}


def test_a_records_file_is_what_train_prints(finished: Run, tmp_path: Path) -> None:
    history = [epoch.model_dump(mode="json") for epoch in finished.history]
    one = {"folder": "runs/x", **finished.result.model_dump(mode="json"), "history": history}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(one))
    assert read_printed_runs(path) == [RunRecord("x", finished.result, finished.history)]
    path.write_text(json.dumps({"runs": [one | {"folder": "runs/many/seed7"}, {**one, "history": []}]}))
    assert [(record.name, len(record.history)) for record in read_printed_runs(path)] == [("many, seed 7", 2), ("x", 0)]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["runs", "history", "recipe"]), inner),
    max_leaves=8,
)


@given(content=JSON | st.binary(max_size=40))
def test_any_other_records_file_is_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "results.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(KilonetError) as error:
        read_printed_runs(path)
    refusal(error, path)


def test_bad_input_is_refused_in_one_line(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = folder_of(finished)
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "empty.json").write_text("\n")
    (tmp_path / "half").mkdir()
    command(capsys, "report").refused("report: ", "required: RUN")
    with pytest.raises(KilonetError) as error:
        collect([])
    refusal(error, "no run given")
    command(capsys, "report", "no-such-run").refused("no-such-run")
    command(capsys, "report", tmp_path / "half").refused("half")
    command(capsys, "report", run, "best").refused("best", "result.json")
    command(capsys, "report", run, "--digit", "500").refused("--digit 500", "499")
    command(capsys, "report", run, "--digit", "-1").refused("--digit -1")
    command(capsys, "report", run, "--out", tmp_path).refused("--out")
    command(capsys, "report", run, "--out", "no/such/folder.html").refused("no/such/folder.html")
    command(capsys, "report", run, "--out", run / "model.safetensors").refused("model.safetensors exists", "--out")
    command(capsys, "report", run, "--corruptions", "bad.json").refused("bad.json")
    command(capsys, "report", run, "--corruptions", "empty.json").refused(
        "empty.json is empty", "evaluate MODEL --corr"
    )
    command(capsys, "report", run, "--exported", tmp_path).refused("model.json")
    command(capsys, "report", "best", "--results", "bad.json").refused("bad.json")
    command(capsys, "report", "baseline", "--results", RESULTS / "best.json").refused("none of its runs", "baseline")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "empty.json", "half"]


def test_another_runs_result_beside_a_model_is_refused(finished: Run) -> None:
    subject = collect([str(folder_of(finished))])
    assert subject.record is not None
    other = dataclasses.replace(subject.record, result=finished.result.model_copy(update={"model_sha256": "0" * 64}))
    with pytest.raises(KilonetError) as error:
        dataclasses.replace(subject, record=other)
    refusal(error, "not of this model")


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hide: Hide
) -> None:
    hide("matplotlib", "kilonet.report")
    command(capsys, "report", "best", "--out", tmp_path / "report.html").refused("matplotlib", "'.[report]'")
    assert not list(tmp_path.iterdir())


def test_a_report_of_a_thousand_classes_stays_readable() -> None:
    classes = 1000
    confusion = [[0] * classes for _ in range(classes)]
    for label in range(classes):
        confusion[label][label] = 4
        confusion[label][(label + 1) % classes] = 1 + label % 3 if label % 5 == 0 else 0
    subject: Any = SimpleNamespace(class_names=[f"class {label}" for label in range(classes)])
    evaluation = SimpleNamespace(confusion=confusion, correct=4000, images=4400, accuracy=0.9, interval=(0.89, 0.91))
    measured: Any = SimpleNamespace(evaluation=evaluation)
    matrix, by_class = mistakes.confusion_figure(subject, measured), mistakes.class_figure(subject, measured)
    assert matrix.picture.count("class ") <= 2 * 30 + 2 + 2
    assert len(matrix.table.rows) == 100
    assert matrix.table.rows[0] == ("class 5", "class 6", "3", "7")
    assert by_class.picture.count("<text") < 120
    assert "The 100 classes of the lowest accuracy" in by_class.caption
    assert len(by_class.table.rows) == classes
    assert "var(--second)" in matrix.picture, "cells hold mistakes"
    assert len(matrix.picture) + len(by_class.picture) < 1_500_000
