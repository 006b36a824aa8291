"""The ONNX forms: onnxruntime gives the logits of the trained and the integer network."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from helpers import Hide, command, model_section, needs, refusal, some_pixels
from kilonet.data.datasets import DataSet, Images
from kilonet.export.exporter import export_c, export_onnx
from kilonet.export.integer import (
    IntegerAveragePooling,
    IntegerConvolution,
    IntegerNetwork,
    Requantisation,
    execute_operation,
    integer_logits,
    rounding_half,
)
from kilonet.export.manifest import read_manifest
from kilonet.export.onnx.float32 import float_graph
from kilonet.export.onnx.int8 import int8_graph
from kilonet.export.onnx.session import OnnxSession
from kilonet.export.quantisation import QuantisationResult, choose_scales
from kilonet.export.unrounded_steps import to_integer_network
from kilonet.export.verify import verify
from kilonet.models.model import Model, load_model
from kilonet.network.operations import Convolution, GlobalAveragePooling
from kilonet.utils.errors import KilonetError
from strategies import images_for, model_of, models

SHAPE = (1, 28, 28)
FILES = ("model.onnx", "model-int8.onnx")
EVERY_KIND = (
    "conv 4 same",
    "conv 4 same residual",
    "maxpool 2",
    "conv 8 depthwise",
    "conv 8 same depthwise residual",
    "conv 8 same stride 2",
    "pointwise 6",
    "avgpool 2",
    "gap",
    "conv 5 1x1",
    "pointwise 10",
)


def integers(model: Model, pixels: torch.Tensor) -> IntegerNetwork:
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    return to_integer_network(model.section, choose_scales(model, Images(pixels, labels)))


def run(
    graph: onnx.ModelProto, pixels: torch.Tensor | NDArray[np.uint8], *, optimised: bool = True
) -> NDArray[np.float32]:
    """Run a graph in onnxruntime with default settings, as a user would."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    parts = np.split(np.asarray(pixels), range(500, len(pixels), 500))
    return np.concatenate([session.run(["logits"], {"pixels": part})[0] for part in parts])


def wanted(network: IntegerNetwork, pixels: torch.Tensor | NDArray[np.uint8]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = integer_logits(network, np.asarray(pixels)) / 2.0**network.fraction_bits
    return scaled


@dataclass(frozen=True)
class Integers:
    """`mcu` with scales chosen on all training images."""

    model: Model
    network: IntegerNetwork
    expected: NDArray[np.float64]
    """Logits of the integer network on the images of `half`."""


@pytest.fixture(scope="module")
def half(mnist: DataSet) -> torch.Tensor:
    """Every second test image, uint8 (5,000, 1, 28, 28)."""
    return mnist.test.pixels[::2]


@pytest.fixture(scope="module")
def mcu(mnist: DataSet, half: torch.Tensor) -> Integers:
    network = integers(load_model("mcu"), mnist.train.pixels)
    return Integers(load_model("mcu"), network, wanted(network, half))


@pytest.fixture(scope="module")
def exported(small: DataSet, quantised_mcu: QuantisationResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mcu` with scales from the small images. Tests must not change its files."""
    folder = tmp_path_factory.mktemp("export") / "mcu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised_mcu)
        export_onnx(load_model("mcu"), small, folder)
    return folder


@pytest.fixture
def _quantised_once(quantised_mcu: QuantisationResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the choice of scales, which takes seconds and is not under test."""
    monkeypatch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised_mcu)


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return shutil.copytree(exported, tmp_path / "copy")


def test_the_float_graph_says_what_torch_says_of_real_images(mcu: Integers, half: torch.Tensor) -> None:
    found, expected = run(float_graph(mcu.model), half), mcu.model.logits(half).numpy()
    assert np.abs(found - expected).max() < 1e-4
    assert np.array_equal(found.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("optimised", [True, False])
def test_the_int8_graph_says_what_the_integers_say_of_real_images(
    mcu: Integers, half: torch.Tensor, *, optimised: bool
) -> None:
    found = run(int8_graph(mcu.model, mcu.network), half, optimised=optimised)
    expected = mcu.expected
    assert int((found.argmax(1) != expected.argmax(1)).sum()) <= 3
    # A step of an activation now and then is rounded the other way; all the other images have the very logits.
    assert (np.abs(found - expected) >= 1e-4).any(1).mean() < 0.03


@pytest.fixture(scope="module")
def best(exported_best: Path) -> IntegerNetwork:
    return read_manifest(exported_best).network


@pytest.mark.ci
def test_depthwise_networks_stay_within_what_verify_allows(best: IntegerNetwork, mnist: DataSet) -> None:
    pixels = mnist.test.pixels[:1000]
    found, expected = run(int8_graph(load_model("best"), best), pixels), wanted(best, pixels)
    assert int((found.argmax(1) != expected.argmax(1)).sum()) <= 1
    assert (np.abs(found - expected) >= 1e-4).mean() < 0.05


def test_residuals_are_those_of_the_specification_to_the_bit(best: IntegerNetwork, mnist: DataSet) -> None:
    graph = int8_graph(load_model("best"), best)
    numbers = [n for n, one in enumerate(best.operations, 1) if getattr(one, "skip", None) is not None]
    assert numbers == [3, 5, 8]
    names = [f"{number + behind} quantised" for number in numbers for behind in (-1, 0)]
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    maps = session.run(names, {"pixels": mnist.test.pixels[:200].numpy()})
    for number, given, found in zip(numbers, maps[::2], maps[1::2], strict=True):
        expected = execute_operation(best.operations[number - 1], given.transpose(0, 2, 3, 1))
        assert np.array_equal(found.transpose(0, 2, 3, 1), expected), number


def test_another_runtime_agrees(mcu: Integers, mnist: DataSet) -> None:
    pixels = mnist.test.pixels[:3].numpy()
    graphs = (float_graph(mcu.model), int8_graph(mcu.model, mcu.network))
    for graph, expected in zip(
        graphs, (mcu.model.logits(mnist.test.pixels[:3]), wanted(mcu.network, pixels)), strict=True
    ):
        # The evaluator of ONNX runs DequantizeLinear from opset 19 on, which means the same by these nodes.
        graph.opset_import[0].version = 19
        found: Any = ReferenceEvaluator(graph).run(None, {"pixels": pixels})
        np.testing.assert_allclose(found[0], np.asarray(expected), atol=1e-4)


@hypothesis.settings(max_examples=40)
@hypothesis.given(models)
def test_random_networks_say_the_same_as_floats(model: Model) -> None:
    pixels = images_for(model.section, 1, 7)
    found, expected = run(float_graph(model), pixels), model.logits(pixels).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@hypothesis.settings(max_examples=40)
@hypothesis.given(models)
def test_random_networks_say_the_same_as_integers(model: Model) -> None:
    pixels = images_for(model.section, 1, 20)
    network = integers(model, pixels)
    expected = wanted(network, pixels)
    unlike = [
        ~np.isclose(run(int8_graph(model, network), pixels, optimised=optimised), expected, rtol=1e-5, atol=1e-4)
        for optimised in (True, False)
    ]
    # An activation that falls on the other side moves one image's logits; a wrong graph moves all.
    assert all(image.any(1).mean() <= 0.25 for image in unlike)


@pytest.mark.parametrize("optimised", [True, False])
def test_every_kind_of_layer(mnist: DataSet, *, optimised: bool) -> None:
    model = model_of(model_section(*EVERY_KIND), 0)
    network, pixels = integers(model, mnist.train.pixels[:1000]), mnist.test.pixels[:1000]
    np.testing.assert_allclose(
        run(float_graph(model), pixels, optimised=optimised), model.logits(pixels).numpy(), rtol=1e-4, atol=1e-4
    )
    found, expected = run(int8_graph(model, network), pixels, optimised=optimised), wanted(network, pixels)
    assert (np.abs(found - expected) >= 1e-3 * np.abs(expected).max()).any(1).mean() < 0.05


def requantisation(multiplier: list[int], shift: list[int], offset: list[int]) -> Requantisation:
    shifts = np.array(shift, np.int32)
    return Requantisation(np.array(multiplier, np.int32), shifts, np.array(offset, np.int64) + rounding_half(shifts))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("skip", [None, [700, -300]])
def test_multipliers_of_every_sign_and_pads_that_differ(skip: list[int] | None, *, relu: bool) -> None:
    """Training hardly produces such numbers, but the specification allows them."""
    random = np.random.default_rng(0)
    weights = random.integers(-127, 128, (2, 2, 3, 3)).astype(np.int8)
    convolution = IntegerConvolution(
        Convolution(2, 2, 3, padding=1),
        weights,
        np.array([500, -90_000], np.int32),
        np.array([3, 200], np.uint8),
        relu,
        requantisation([-57, 0], [14, 3], [2_000_000, 400]),
        None if skip is None else np.array(skip, np.int32),
    )
    again = IntegerConvolution(
        Convolution(2, 2, 1, groups=2),
        weights[:, :1, :1, :1],
        np.array([-5, 5], np.int32),
        np.zeros(2, np.uint8),
        relu=False,
        output=requantisation([-3001, 29], [12, 4], [0, 0]),
    )
    average = IntegerAveragePooling(GlobalAveragePooling(), requantisation([-77, 5], [3, 0], [9, -9]))
    network = IntegerNetwork((2, 6, 6), (convolution, again, average), 2)
    pixels = some_pixels(50, (2, 6, 6))
    model = model_of(model_section("gap", input=(2, 6, 6)), 0)
    np.testing.assert_allclose(run(int8_graph(model, network), pixels), wanted(network, pixels), atol=0.2)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_the_batch_may_have_any_size(mcu: Integers, mnist: DataSet, count: int, exported: Path) -> None:
    pixels = mnist.test.pixels[:count]
    graphs = (float_graph(mcu.model), int8_graph(mcu.model, mcu.network))
    for graph, expected in zip(graphs, (mcu.model.logits(pixels), wanted(mcu.network, pixels)), strict=True):
        found = run(graph, pixels)
        assert found.shape == (count, 10)
        np.testing.assert_allclose(found, np.asarray(expected), atol=0.05)
    for name in FILES:
        assert OnnxSession(exported / name, SHAPE, 10).logits(pixels.numpy()).shape == (count, 10)


def test_the_files_are_valid_and_say_what_they_are(exported: Path) -> None:
    mcu = load_model("mcu")
    for name in FILES:
        content = (exported / name).read_bytes()
        graph = onnx.load_model_from_string(content)
        onnx.checker.check_model(graph, full_check=True)
        assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 17)]
        assert (graph.producer_name, graph.ir_version) == ("kilonet", 8)
        assert "opset 17" in graph.doc_string
        assert not any(tensor.external_data for tensor in graph.graph.initializer)
        properties = {entry.key: entry.value for entry in graph.metadata_props}
        assert properties["kilonet.model_sha256"] == mcu.sha256
        assert json.loads(properties["kilonet.network.layers"]) == list(map(str, mcu.section.layers))
        assert properties["kilonet.parameters"] == str(mcu.section.parameters)
        assert float(properties["kilonet.test_accuracy"]) > 0.98
    assert len((exported / FILES[0]).read_bytes()) < 40_000
    assert len((exported / FILES[1]).read_bytes()) < 16_000


def test_the_int8_graph_stores_the_integers(mcu: Integers) -> None:
    graph = int8_graph(mcu.model, mcu.network)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for number, operation in enumerate(mcu.network.operations, 1):
        if isinstance(operation, IntegerConvolution):
            assert np.array_equal(stored[f"{number} weights"].astype(np.int16) - 128, operation.weights)
            assert np.array_equal(stored[f"{number} bias"], operation.bias)


def test_onnxruntime_runs_it_on_integers(mcu: Integers, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    graph = int8_graph(mcu.model, mcu.network)
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 3


def test_an_export_repeats_to_the_byte(exported: Path, small: DataSet, tmp_path: Path) -> None:
    export_onnx(load_model("mcu"), small, tmp_path / "again")
    assert {file.name for file in exported.iterdir()} == {*FILES, "model.safetensors", "model.json"}
    for file in exported.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.usefixtures("_quantised_once")
def test_the_command_line_exports_and_verifies(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("export", "mcu", "--to", "onnx", "--data", small_folder, "--out", tmp_path)
    answer = command(capsys, *words)
    assert answer.status == 0, answer
    assert "model-int8.onnx" in answer.out
    command(capsys, *words, "--max-ram", "4096").refused("--max-ram")
    found = json.loads(command(capsys, "verify", tmp_path, "--data", small_folder, "--json").out)
    assert [row["form"] for row in found["rows"]] == ["reference", "onnx", "onnx-int8"]
    assert found["passed"]
    assert found["rows"][1]["differing_logits"] == 0
    assert found["rows"][2]["differing_predictions"] == 0
    assert all(row["accuracy"] > 0.98 for row in found["rows"])


def change(path: Path, name: str, values: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Change one constant of a file."""
    graph = onnx.load(path)
    (tensor,) = (tensor for tensor in graph.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values(numpy_helper.to_array(tensor)), name))
    onnx.save(graph, path)


@pytest.mark.parametrize(("file", "name"), [("model.onnx", "mean"), ("model-int8.onnx", "2 scale")])
def test_verify_sees_one_changed_constant(
    file: str, name: str, copied: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(copied / file, name, lambda values: np.asarray(values * np.float32(1.02), np.float32))
    answer = command(capsys, "verify", copied, "--data", small_folder, "--run-foreign-code")
    assert answer.status == 1
    assert len([line for line in answer.out.splitlines() if line.endswith("DIFFERS")]) == 1


def test_verify_says_how_to_get_what_is_missing(copied: Path, small: DataSet, tmp_path: Path, hide: Hide) -> None:
    hide("onnxruntime", "kilonet.export.onnx")
    with pytest.raises(KilonetError) as error:
        verify(copied, small.test)
    refusal(error, "onnxruntime is not installed", "pip install '.[onnx]'")
    hide("onnx", "kilonet.export.onnx")
    with pytest.raises(KilonetError) as error:
        export_onnx(load_model("mcu"), small, tmp_path / "new")
    refusal(error, "onnx is not installed", "pip install '.[onnx]'")


@pytest.mark.usefixtures("_quantised_once")
def test_a_missing_library_is_told_before_the_work_begins(
    small: DataSet, tmp_path: Path, hide: Hide, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quantise(*_: object) -> None:
        pytest.fail("scales are chosen for minutes before the library is found to be missing")

    hide("onnx", "kilonet.export.onnx")
    monkeypatch.setattr("kilonet.export.exporter.quantise", quantise)
    with pytest.raises(KilonetError) as error:
        export_onnx(load_model("mcu"), small, tmp_path / "new")
    refusal(error, "onnx", "pip install '.[onnx]'")
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("_quantised_once")
def test_a_folder_with_another_form_is_verified_without_onnx(copied: Path, small: DataSet, hide: Hide) -> None:
    needs("cc")
    export_c(load_model("mcu"), small, copied)
    hide("onnxruntime", "kilonet.export.onnx")
    found = verify(copied, small.test)
    assert found.passed
    assert [row.form for row in found.rows] == ["reference", "c"]
    assert not found.foreign
    assert str(found).splitlines()[-1].startswith("onnx-int8: not run here: onnxruntime is not installed")


@pytest.mark.usefixtures("_quantised_once")
def test_a_folder_with_c_is_verified_without_a_compiler(
    copied: Path, small: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_c(load_model("mcu"), small, copied)
    monkeypatch.setenv("CC", "no-such-compiler")
    found = verify(copied, small.test)
    assert found.passed
    assert "c" not in [row.form for row in found.rows]
    assert "onnx" in [row.form for row in found.rows]
    assert str(found).splitlines()[-1].startswith("c: not run here: no C compiler found (no-such-compiler)")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def pointing_outside(path: Path) -> None:
    graph = onnx.load(path)
    tensor = graph.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret"
    path.write_bytes(graph.SerializeToString())


def of_another_network(path: Path) -> None:
    model = model_of(model_section("gap", "pointwise 10", input=(1, 9, 9)), 0)
    path.write_bytes(float_graph(model).SerializeToString())


def with_an_unknown_node(path: Path) -> None:
    graph = onnx.load(path)
    graph.graph.node[-1].op_type = "Flatterer"
    path.write_bytes(graph.SerializeToString())


def with_a_wrong_weight_shape(path: Path) -> None:
    graph = onnx.load(path)
    tensor = next(tensor for tensor in graph.graph.initializer if len(tensor.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:, :, :, :1], tensor.name))
    path.write_bytes(graph.SerializeToString())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        pointing_outside,
        of_another_network,
        with_an_unknown_node,
        with_a_wrong_weight_shape,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x00\xff" * 500),
        lambda path: path.write_text("not a model"),
    ],
)
def test_a_damaged_file_is_refused(
    name: str, damage: Callable[[Path], object], copied: Path, small: DataSet, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(copied / name)
    assert list(verify(copied, small.test).foreign) == [name]
    with pytest.raises(KilonetError) as error:
        verify(copied, small.test, run_foreign_code=True)
    refusal(error, name)
    assert capfd.readouterr() == ("", "")


def test_the_trained_model_must_be_the_exported_one(copied: Path, small: DataSet) -> None:
    load_model("baseline").save(copied / "model.safetensors")
    with pytest.raises(KilonetError) as error:
        verify(copied, small.test)
    refusal(error, "model.safetensors", "exported")


def test_pixels_of_another_shape_are_refused(exported: Path) -> None:
    session = OnnxSession(exported / "model.onnx", SHAPE, 10)
    for pixels in (np.zeros((2, 1, 27, 28), np.uint8), np.zeros((2, 1, 28, 28), np.float32)):
        with pytest.raises(KilonetError) as error:
            session.logits(pixels)  # type: ignore[arg-type]
        refusal(error, "uint8 (N, 1, 28, 28)")
