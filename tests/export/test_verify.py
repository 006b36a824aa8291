"""Exported folders: written whole, replayed, refused when damaged, and loaded as models."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kilonet
from helpers import command, model_section, needs, python, refusal, tiny_recipe
from kilonet.data.datasets import DataSet
from kilonet.evaluation.scoring import accuracy_of
from kilonet.export.c.prefix import C_FILES
from kilonet.export.exporter import export_c, export_html, export_onnx
from kilonet.export.forms import FORMS
from kilonet.export.integer import IntegerConvolution, integer_logits
from kilonet.export.manifest import operation_as_json, read_manifest
from kilonet.export.quantisation import QuantisationResult, quantise
from kilonet.export.verify import _differing_logits, _Logits, verify
from kilonet.models.model import load_model
from kilonet.utils.errors import CheckFailed, KilonetError
from strategies import model_of


@pytest.fixture(scope="module")
def few(small: DataSet) -> DataSet:
    """A fourth of the small images to choose scales by."""
    return replace(small, train=small.train.select(torch.arange(0, 1200, 4), "Train"))


@pytest.fixture(scope="module")
def quantised_baseline(few: DataSet) -> QuantisationResult:
    return quantise(load_model("baseline"), few.train)


@pytest.fixture(scope="module")
def exported(few: DataSet, quantised_baseline: QuantisationResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`baseline` with scales from a few images. Tests must not change its files."""
    folder = tmp_path_factory.mktemp("export") / "baseline"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised_baseline)
        export_c(load_model("baseline"), few, folder)
    return folder


@pytest.fixture
def _quantised_once(quantised_baseline: QuantisationResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the choice of scales, which takes seconds and is not under test."""
    monkeypatch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised_baseline)


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in exported.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_the_folder_holds_what_a_project_needs(exported: Path) -> None:
    names = {*C_FILES, "model.json"}
    assert {file.name for file in exported.iterdir()} == names


def test_the_description_brings_the_network_back(exported: Path, small: DataSet) -> None:
    export = read_manifest(exported)
    assert export.section == load_model("baseline").section
    assert export.model_sha256 == load_model("baseline").sha256
    assert len(export.pixels) == 12
    assert np.array_equal(integer_logits(export.network, export.pixels), export.logits)
    wanted = load_model("baseline").logits(small.test.pixels).numpy()
    found = integer_logits(export.network, small.test.pixels.numpy()) / 2.0**export.network.fraction_bits
    assert np.abs(found - wanted).mean() < 0.1


def test_an_export_repeats_to_the_byte(exported: Path, few: DataSet, tmp_path: Path) -> None:
    export_c(load_model("baseline"), few, tmp_path / "again")
    for file in exported.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_verify_finds_no_difference(exported: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("cc")
    answer = command(capsys, "verify", exported, "--data", small_folder)
    assert answer.status == 0, answer
    assert "DIFFERS" not in answer.out
    assert [line.split()[0] for line in answer.out.splitlines()[-2:]] == ["reference", "c"]
    found = json.loads(command(capsys, "verify", exported, "--data", small_folder, "--json").out)
    assert found["passed"]
    reference, c = found["rows"]
    assert (c["differing_logits"], c["differing_predictions"], c["accuracy"]) == (0, 0, reference["accuracy"])
    assert c["accuracy"] > 0.98
    assert c["ram"] <= 4096


def test_verify_sees_one_changed_weight(copied: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("cc")
    text = (copied / "model.c").read_text()
    changed, tables = re.subn(r"(weights_2\[\d+\] KILONET_FLASH = {\s*)-?\d+", r"\g<1>127", text)
    assert tables == 4, "a table for each order"
    (copied / "model.c").write_text(changed)
    answer = command(capsys, "verify", copied, "--data", small_folder, "--run-foreign-code")
    assert answer.status == 1
    row, named = answer.out.splitlines()[-2:]
    assert row.endswith("DIFFERS")
    assert named.startswith("model.c: differs")


def test_verify_sees_a_changed_vector(copied: Path, small: DataSet) -> None:
    needs("cc")
    table = json.loads((copied / "model.json").read_text())
    table["vectors"][0]["logits"][3] += 1
    (copied / "model.json").write_text(json.dumps(table) + "\n")
    found = verify(copied, small.test)
    assert not found.passed
    assert [row.passed for row in found.rows] == [False, True]


def test_an_exported_folder_is_a_model(exported: Path, small: DataSet) -> None:
    model = kilonet.load(exported)
    found = model.predict(small.test.pixels)
    export = read_manifest(exported)
    expected = integer_logits(export.network, small.test.pixels.numpy())
    assert np.array_equal(found.classes, expected.argmax(1))
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
    assert kilonet.evaluate(model, small.test).accuracy == (expected.argmax(1) == small.test.labels.numpy()).mean()
    with pytest.raises(KilonetError) as error:
        model.predict(np.zeros((2, 5, 28, 28), np.uint8))
    refusal(error, "(2, 5, 28, 28)")


@pytest.mark.usefixtures("_quantised_once")
def test_a_limit_of_ram_is_held_and_nothing_is_written(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("export", "baseline", "--to", "c", "--data", small_folder)
    answer = command(capsys, *words, "--out", tmp_path / "a", "--max-ram", "2800")
    assert (answer.status, answer.out) == (1, "")
    assert answer.err.startswith("kilonet: error: the network takes 2,8")
    assert len(answer.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    answer = command(capsys, *words, "--out", tmp_path / "b", "--max-ram", "4096", "--json")
    assert answer.status == 0
    assert json.loads(answer.out)["ram"] <= 4096


@pytest.mark.usefixtures("_quantised_once")
def test_a_limit_of_flash_is_held_and_nothing_is_written(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("arm-none-eabi-gcc")
    words = ("export", "baseline", "--to", "c", "--data", small_folder, "--out", tmp_path / "a")
    answer = command(capsys, *words, "--max-flash", "8000")
    assert (answer.status, answer.out) == (1, "")
    assert re.search(r"takes [\d,]+ bytes of flash, over --max-flash 8,000$", answer.err)
    answer = command(capsys, *words, "--max-flash", "8000", "--max-ram", "2800")
    assert re.search(r"takes [\d,]+ bytes of flash, over --max-flash 8,000, and [\d,]+ bytes of ram", answer.err)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_quantised_once")
def test_flash_is_not_promised_without_a_cross_compiler(
    small: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilonet.export.c.footprint.CROSS_COMPILER", "no-such-compiler")
    exported = export_c(load_model("baseline"), small, tmp_path)
    assert exported.figures["code"] is None
    assert "no-such-compiler" in str(exported)
    with pytest.raises(CheckFailed) as error:
        export_c(load_model("baseline"), small, tmp_path, max_flash=20_000)
    refusal(error, "no-such-compiler")


def test_malformed_input_is_refused_in_one_line(
    copied: Path, small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = ("export", "baseline", "--to", "c", "--data", small_folder)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    command(capsys, "export", "nothing", "--to", "c", "--out", tmp_path / "x").refused("no model 'nothing'")
    command(capsys, "export", "baseline", "--to", "pdf", "--out", tmp_path / "x").refused("pdf")
    command(capsys, "export", "baseline", "--to", "c").refused("--out")
    command(capsys, *export, "--out", tmp_path / "file").refused(tmp_path / "file")
    command(capsys, *export, "--out", tmp_path / "full").refused("model.json")
    command(capsys, "export", "mcu", *export[2:], "--out", copied).refused("another model")
    command(capsys, *export, "--out", tmp_path / "x", "--max-ram", "some").refused("some")
    command(capsys, "export", "baseline", "--to", "c", "--out", tmp_path / "x", "--data", "nowhere").refused("nowhere")
    command(capsys, "verify", tmp_path / "nowhere").refused(f"{tmp_path / 'nowhere'}: no such folder")
    command(capsys, "verify", tmp_path / "full").refused("model.json")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years of work"


@pytest.mark.ci
@pytest.mark.usefixtures("pages_in_node")
def test_all_forms_of_a_network_of_strides_and_averages_are_equal(small: DataSet, tmp_path: Path) -> None:
    needs("node")
    layers = (
        "conv 8 same stride 2",
        "conv 12 2x2 stride 2",
        "avgpool 2",
        "conv 12 stride 3 same depthwise",
        "avgpool 1",
    )
    model = model_of(model_section(*layers, "pointwise 10"), 1)
    export_c(model, small, tmp_path)
    export_html(model, small, tmp_path, "strides")
    export_onnx(model, small, tmp_path)
    manifest = read_manifest(tmp_path)
    texts = [operation_as_json(operation) for operation in manifest.network.operations]
    assert [(text.get("stride"), text.get("size")) for text in texts] == [
        *((2, None), (2, None), (None, 2), (3, None), (None, 1), (None, None))
    ]
    found = verify(tmp_path, small.test)
    assert [row.form for row in found.rows] == ["reference", "c", "html", "onnx", "onnx-int8"]
    assert [row.differing_logits for row in found.rows[:4]] == [0] * 4
    assert found.passed
    float_accuracy = accuracy_of(model.logits(small.test.pixels), small.test.labels)
    assert found.rows[0].accuracy == pytest.approx(float_accuracy, abs=0.03)


def _change(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(table: dict[str, Any]) -> None:
        table[key] = value

    return change


def _operation(number: int, key: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def changed(table: dict[str, Any]) -> None:
        table["operations"][number][key] = change(table["operations"][number][key])

    return changed


def _add(number: int, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def added(table: dict[str, Any]) -> None:
        assert key not in table["operations"][number], "networks without strides have the files that they always had"
        table["operations"][number][key] = value

    return added


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (_change("specification", 2), "specification"),
        (_change("kilonet", "1.0\nAll files are as written."), "kilonet"),
        (_change("format", "other"), "format"),
        (_change("operations", []), "one value a class"),
        (_change("fraction_bits", 99), "fraction_bits"),
        (_change("surprise", 1), "surprise"),
        (_change("forms", {"c": "small"}), "forms"),
        (_change("vectors", [{"pixels": "AAAA", "logits": [0] * 10}]), "3 pixels"),
        (_change("vectors", [{"pixels": "not base64", "logits": [0] * 10}]), "base64"),
        (_operation(0, "weights", lambda weights: weights[1:]), "numbers"),
        (_operation(0, "weights", lambda weights: [-128, *weights[1:]]), "weights"),
        (_operation(0, "bias", lambda bias: [2**31 - 1, *bias[1:]]), "32 bits"),
        (_operation(1, "channels_in", lambda _: 11), "fit"),
        (_operation(1, "kernel", lambda _: 200), "numbers"),
        (_operation(1, "kernel", lambda _: 300), "255"),
        (_operation(1, "channels_out", lambda _: 70_000), "65535"),
        (_operation(3, "size", lambda _: 256), "255"),
        (_change("metadata", {"names": ["a", "b"]}), "names 2 classes"),
        (_change("metadata", {"names": ["a" * 101] * 10}), "names"),
        (_change("metadata", {"calibration": {"temperature": 0}}), "temperature"),
        (_change("accuracies", {"html": 1.5}), "accuracies"),
        (_operation(1, "output", lambda _: None), "output"),
        (_operation(3, "size", lambda _: 100), "nothing"),
        (_operation(0, "kind", lambda _: "sigmoid"), "kind"),
        (_add(1, "stride", 0), "stride"),
        (_add(1, "stride", 5), "stride"),
        (_add(1, "stride", 2), "nothing"),
        (lambda table: table["operations"][4].update(padding=1, skip=[0] * 10, stride=2), "residual"),
        (_add(3, "stride", 2), "no 'stride'"),
        (_add(1, "size", 2), "no 'size'"),
        (lambda table: table["operations"][3].pop("size"), "lacks its size"),
        (_add(7, "size", 0), "size"),
        (_add(7, "size", 256), "255"),
        (_add(7, "size", 100), "nothing"),
        (_add(7, "size", 2), "one value a class"),
        (_add(7, "stride", 2), "no 'stride'"),
    ],
)
def test_a_damaged_description_is_refused(damage: Callable[[dict[str, Any]], None], word: str, copied: Path) -> None:
    table = json.loads((copied / "model.json").read_text())
    damage(table)
    (copied / "model.json").write_text(json.dumps(table))
    with pytest.raises(KilonetError) as error:
        read_manifest(copied)
    refusal(error, "model.json", word)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_what_is_no_json_is_refused(content: bytes, copied: Path) -> None:
    (copied / "model.json").write_bytes(content)
    with pytest.raises(KilonetError) as error:
        read_manifest(copied)
    refusal(error, "model.json")


def test_c_that_does_not_compile_is_refused(copied: Path, small: DataSet) -> None:
    needs("cc")
    (copied / "kilonet_vectors.c").write_text("")  # takes the compiler half a second, and is not under test
    (copied / "model.c").write_text("int broken(\n")
    with pytest.raises(KilonetError) as error:
        verify(copied, small.test, run_foreign_code=True)
    refusal(error, "failed")
    (copied / "model.c").unlink()
    with pytest.raises(KilonetError) as error:
        verify(copied, small.test, run_foreign_code=True)
    refusal(error, "model.c")


def test_a_missing_compiler_is_reported(exported: Path, small: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(KilonetError) as error:
        verify(exported, small.test)
    refusal(error, "no-such-compiler", "CC")


@pytest.mark.ci
def test_a_training_does_not_import_the_exports_nor_what_it_does_not_need(small_folder: Path, tmp_path: Path) -> None:
    """The classes of `torch.optim` import torch's compiler, which takes 1.5 s. Nor do the exports and
    `verify` import onnx before it is asked for.
    """
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe(small_folder, epochs=1).to_toml(), encoding="utf-8")
    script = """
import sys, kilonet.cli
assert kilonet.cli.main(["train", *sys.argv[1:]]) == 0
needless = "kilonet.export", "onnx", "torch._dynamo", "torch._inductor", "matplotlib", "scipy.stats", "scipy.sparse"
print([name for name in needless if name in sys.modules])
import kilonet.export.exporter, kilonet.export.verify
print([name for name in ("onnx", "onnxruntime") if name in sys.modules])
"""
    # In a process of its own: what others are forked from may have imported more than a training needs.
    answer = python(script, recipe, "--out", tmp_path / "run")
    assert answer.out.splitlines()[-2:] == ["[]", "[]"], answer


def test_the_reference_network_needs_no_affine_step(exported: Path) -> None:
    operations = read_manifest(exported).network.operations
    assert all(
        operation.output.offset_is_rounding_half
        for operation in operations
        if isinstance(operation, IntegerConvolution)
    )


@pytest.mark.parametrize("form", ["onnx", "onnx-int8"])
def test_logits_that_are_no_numbers_differ(form: str) -> None:
    wanted = _Logits(np.array([[3.0, -1.0]]), np.empty((0, 2)), 0.0)
    found = _Logits(np.array([[np.nan, -1.0]]), np.empty((0, 2)), 0.0)
    assert _differing_logits(found, wanted, FORMS[form].allowance) == 1
    assert _differing_logits(wanted, wanted, FORMS[form].allowance) == 0
