"""A saved model is loaded unchanged, and every other file is refused with one line."""

import hashlib
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import kilonet
from helpers import PEAK, TINY_LAYERS, command, model_section, refusal, some_pixels
from kilonet.data.datasets import DataSet
from kilonet.evaluation.scoring import evaluate
from kilonet.models.model import FORMAT_VERSION, MAXIMUM_BYTES, MODEL_FILE, Model, load_model, model_path, serialise
from kilonet.network.module import initial_network
from kilonet.training.run_folder import Run
from kilonet.utils.errors import KilonetError
from preloaded import forked, forked_script
from report_pages import scored_once

SECTION = model_section(*TINY_LAYERS)
STATE = initial_network(SECTION, seed=1).state()
GOOD = serialise(SECTION, STATE)
HEADER_BYTES = int.from_bytes(GOOD[:8], "little")
HEADER: dict[str, Any] = json.loads(GOOD[8 : 8 + HEADER_BYTES])
DATA = GOOD[8 + HEADER_BYTES :]
WEIGHT = "layers.0.convolution.weight"
VARIANCE = "layers.0.batch_norm.running_var"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def refuse(path: Path, content: bytes, *words: str) -> str:
    path.write_bytes(content)
    with pytest.raises(KilonetError) as error:
        load_model(path)
    message = refusal(error, path, *words)
    assert len(message) < 500
    return message


def packed(header: object, data: bytes = DATA) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_tensors(change: Callable[[dict[str, Tensor]], object]) -> bytes:
    state = {name: tensor.clone() for name, tensor in STATE.items()}
    change(state)
    return safetensors.torch.save(state, HEADER["__metadata__"])


def with_metadata(**entries: object) -> bytes:
    """Change keys of the entry `kilonet` in the header."""
    ours = {**json.loads(HEADER["__metadata__"]["kilonet"]), **entries}
    return packed({**HEADER, "__metadata__": {"kilonet": json.dumps(ours)}})


def with_model(**keys: object) -> bytes:
    model = json.loads(HEADER["__metadata__"]["kilonet"])["model"]
    return with_metadata(model={**model, **keys})


def test_a_saved_model_is_loaded_unchanged(file: Path) -> None:
    model = Model(SECTION, STATE)
    model.save(file)
    loaded = load_model(file)
    assert loaded.section == SECTION
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in loaded.network.state().items())
    assert loaded.sha256 == model.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    pixels = some_pixels(7)
    np.testing.assert_array_equal(loaded.predict(pixels).probabilities, model.predict(pixels).probabilities)


def test_the_same_weights_give_the_same_bytes_in_every_process() -> None:
    script = """
from kilonet.network.module import initial_network
from kilonet.models.model import Model
from kilonet.recipe import load_recipe
section = load_recipe("best").model
print(Model(section, initial_network(section, seed=3).state()).sha256)
"""
    section = kilonet.load_recipe("best").model
    here = Model(section, initial_network(section, seed=3).state()).sha256
    assert forked_script(script).out.strip() == here


def test_saving_does_not_change_the_format_version_by_accident() -> None:
    assert FORMAT_VERSION == 1
    assert json.loads(HEADER["__metadata__"]["kilonet"])["format_version"] == 1
    assert set(HEADER["__metadata__"]) == {"kilonet"}


@pytest.mark.parametrize("count", [0, 1, 3, 1001])
def test_predictions_have_the_promised_shapes_and_types(count: int) -> None:
    found = Model(SECTION, STATE).predict(some_pixels(count)[:, 0].numpy())
    assert found.classes.shape == (count,)
    assert found.classes.dtype == np.int64
    assert found.probabilities.shape == (count, 10)
    assert found.probabilities.dtype == np.float32
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(found.classes, found.probabilities.argmax(1))


def test_a_prediction_does_not_depend_on_its_neighbours() -> None:
    model, pixels = Model(SECTION, STATE), some_pixels(20)
    alone = np.concatenate([model.predict(pixels[[index]]).probabilities for index in range(20)])
    np.testing.assert_allclose(model.predict(pixels).probabilities, alone, atol=1e-5)


def test_arrays_and_tensors_with_and_without_a_channel_are_the_same_to_predict() -> None:
    model, pixels = Model(SECTION, STATE), some_pixels(4)
    answers = [
        model.predict(form).probabilities for form in (pixels, pixels[:, 0], pixels.numpy(), pixels[:, 0].numpy())
    ]
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])


def test_mirrored_arrays_are_predicted_as_their_copies() -> None:
    model, pixels = Model(SECTION, STATE), some_pixels(4).numpy()
    mirrored = pixels[..., ::-1]
    np.testing.assert_array_equal(model.predict(mirrored).probabilities, model.predict(mirrored.copy()).probabilities)
    np.testing.assert_array_equal(model.predict(pixels[::-1]).probabilities, model.predict(pixels).probabilities[::-1])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 28, 28), np.uint8),
        np.zeros((1, 28, 28), ">i4"),
        np.full((1, 28, 28), "a"),
        np.full((1, 28, 28), None),
        np.zeros((1, 28, 28), np.float32),
        np.zeros((1, 28, 28), np.int64),
        np.zeros(0, np.uint8),
        torch.zeros(1, 28, 28),
    ],
)
def test_predict_refuses_images_of_another_shape_or_type(images: Any) -> None:
    with pytest.raises(KilonetError) as error:
        Model(SECTION, STATE).predict(images)
    refusal(error, "uint8 (N, 1, 28, 28)")


def test_predict_draws_nothing_and_leaves_no_gradients() -> None:
    model = Model(model_section(*TINY_LAYERS, dropout=0.5), STATE)
    before = torch.random.get_rng_state()
    first, second = (model.predict(some_pixels(5)).probabilities for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())


PLACES = sorted(
    {0, 1, 7, 8, 9, 20, 8 + HEADER_BYTES // 2, 7 + HEADER_BYTES, 8 + HEADER_BYTES, len(GOOD) - 4, len(GOOD) - 1}
)


@pytest.mark.parametrize("length", PLACES)
def test_a_truncated_file_is_refused(file: Path, length: int) -> None:
    refuse(file, GOOD[:length])


@pytest.mark.parametrize("rest", [b"\0", bytes(4), GOOD])
def test_an_overlong_file_is_refused(file: Path, rest: bytes) -> None:
    refuse(file, GOOD + rest)


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1, HEADER_BYTES + 1, len(GOOD), 2**31, 2**63, 2**64 - 1])
def test_a_header_that_lies_about_its_length_is_refused(file: Path, length: int) -> None:
    refuse(file, struct.pack("<Q", length) + GOOD[8:])


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"not JSON at all",
        b"\xff\xfe\xfd",
        b"{",
        b"[" * 100_000,
        b'{"__metadata__":' * 20_000,
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"NaN",
        {},
        {"__metadata__": None},
        {"__metadata__": []},
        {"__metadata__": 7},
        {"__metadata__": "kilonet"},
        {"__metadata__": {}},
        {"__metadata__": {"kilonet": 7}},
        {"__metadata__": {"kilonet": None}},
        {"__metadata__": {"kilonet": {}}},
        {"__metadata__": {"kilonet": ""}},
        {"__metadata__": {"kilonet": "7"}},
        {"__metadata__": {"kilonet": "null"}},
        {"__metadata__": {"kilonet": "[]"}},
        {"__metadata__": {"kilonet": "[" * 100_000}},
        {"__metadata__": {"kilonet": "{}"}},
        {"__metadata__": {"kilonet": '{"format_version": 1}'}},
        {"__metadata__": {"other": "entry"}},
        {**HEADER, "extra": 5},
        {**HEADER, WEIGHT: {"dtype": "F32", "shape": [4, 1, 3, 3], "data_offsets": [0, 2**40]}},
        {**HEADER, WEIGHT: {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 144]}},
        {**HEADER, WEIGHT: {"dtype": "F32", "shape": [-4, -1, 3, 3], "data_offsets": [0, 144]}},
        {**HEADER, WEIGHT: {"dtype": "X99", "shape": [4, 1, 3, 3], "data_offsets": [0, 144]}},
    ],
    ids=lambda header: str(header)[:60],
)
def test_a_header_of_the_wrong_make_is_refused(file: Path, header: object) -> None:
    refuse(file, packed(header))


@pytest.mark.parametrize("version", [0, 2, 999, "1", 1.5, None, [1], {}, -1])
def test_another_format_version_is_refused(file: Path, version: object) -> None:
    refuse(file, with_metadata(format_version=version), "format version")


@pytest.mark.parametrize("model", [None, 7, "conv 4", [], {}, {"layers": []}, {"layers": "gap"}, {"layers": [7]}])
def test_a_network_that_is_none_is_refused(file: Path, model: object) -> None:
    refuse(file, with_metadata(model=model))


@pytest.mark.parametrize(
    "keys",
    [
        {"unknown": 1},
        {"layers": ["lstm 4"]},
        {"layers": ["conv 4 99x99", "gap"]},
        {"layers": [*TINY_LAYERS, "conv 10"]},
        {"layers": ["conv 4"]},
        {"input": [1, 28]},
        {"input": [1, 28, 0]},
        {"input": [1, 10**9, 10**9]},
        {"mean": float("nan")},
        {"mean": float("inf")},
        {"std": 0.0},
        {"dropout": 1.0},
        {"max_parameters": 1},
        {"layers": ["conv 5", *TINY_LAYERS[1:]]},
        {"layers": TINY_LAYERS[:-1]},
    ],
    ids=str,
)
def test_a_network_that_is_not_the_tensors_is_refused(file: Path, keys: dict[str, object]) -> None:
    refuse(file, with_model(**keys))


def rename(state: dict[str, Tensor]) -> None:
    state["renamed"] = state.pop(WEIGHT)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop(WEIGHT),
        lambda state: state.pop(VARIANCE),
        lambda state: state.clear(),
        rename,
        lambda state: state.update(extra=torch.zeros(3)),
        lambda state: state.update({WEIGHT: torch.zeros(4, 1, 3, 2)}),
        lambda state: state.update({WEIGHT: torch.zeros(1, 4, 3, 3)}),
        lambda state: state.update({WEIGHT: torch.zeros(36)}),
        lambda state: state.update({WEIGHT: torch.zeros(0)}),
        lambda state: state.update({VARIANCE: torch.ones(1)}),
    ],
)
def test_other_tensors_than_the_networks_are_refused(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    refuse(file, with_tensors(change))


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int8, torch.bool, torch.float8_e4m3fn],
)
def test_another_dtype_is_refused(file: Path, dtype: torch.dtype) -> None:
    refuse(file, with_tensors(lambda state: state.update({WEIGHT: state[WEIGHT].to(dtype)})), WEIGHT)


@pytest.mark.parametrize("name", [WEIGHT, VARIANCE, "layers.5.batch_norm.weight", "layers.6.convolution.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(file: Path, name: str, value: float) -> None:
    if name not in STATE:
        name = max(STATE)
    refuse(file, with_tensors(lambda state: state[name].view(-1)[-1:].fill_(value)), name, "NaN or infinity")


def test_a_negative_variance_is_refused(file: Path) -> None:
    refuse(file, with_tensors(lambda state: state[VARIANCE].neg_()), VARIANCE, "negative variance")


def test_an_oversized_file_is_refused_unread(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(MAXIMUM_BYTES + 1)
    with pytest.raises(KilonetError) as error:
        load_model(file)
    refusal(error, file, "too large for a model file")


MEASURE = f"""{PEAK}
from kilonet.utils.errors import KilonetError
from kilonet.models.model import load_model
before = peak()
try:
    load_model(sys.argv[1])
except KilonetError as error:
    print(error)
print(peak() - before)
"""


def test_a_claim_of_billions_of_parameters_allocates_none(file: Path) -> None:
    layers = [*["conv 4096 31x31 same"] * 5, "gap"]
    file.write_bytes(with_model(layers=layers, max_parameters=None))
    message, mebibytes = forked_script(MEASURE, file).out.splitlines()
    assert "fewer weights" in message
    assert int(mebibytes) < 50


class Exploit:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_a_pickle_is_refused_and_not_run(file: Path) -> None:
    trace = file.with_name("trace")
    refuse(file, pickle.dumps(Exploit(trace)))
    torch.save(Exploit(trace), file)
    refuse(file, file.read_bytes())
    assert not trace.exists()


EXAMPLES = [pytest.param(100, id="short"), pytest.param(10_000, id="long", marks=pytest.mark.slow)]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_random_bytes_are_refused(examples: int, file: Path) -> None:
    @settings(max_examples=examples)
    @given(content=st.binary(max_size=300))
    def run(content: bytes) -> None:
        refuse(file, content)

    run()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("{}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_random_json_in_the_header_is_refused(examples: int, file: Path) -> None:
    @settings(max_examples=examples)
    @given(metadata=JSON, ours=JSON, model=JSON, depth=st.integers(0, 3))
    def run(metadata: object, ours: object, model: object, depth: int) -> None:
        entry = {"format_version": 1, "model": model}
        headers = [metadata, {"__metadata__": metadata}, {"__metadata__": {"kilonet": json.dumps(ours)}}]
        refuse(file, packed([*headers, {**HEADER, "__metadata__": {"kilonet": json.dumps(entry)}}][depth]))

    run()


@pytest.mark.parametrize("examples", EXAMPLES)
def test_a_changed_byte_in_the_header_is_refused_or_harmless(examples: int, file: Path) -> None:
    @settings(max_examples=examples)
    @given(position=st.integers(0, 7 + HEADER_BYTES), value=st.integers(0, 255))
    def run(position: int, value: int) -> None:
        file.write_bytes(GOOD[:position] + bytes([value]) + GOOD[position + 1 :])
        try:
            load_model(file)
        except KilonetError as error:
            refusal(error, file)

    run()


@pytest.mark.parametrize("source", ["", "no-such-model", "nul\0byte", "/dev/null/model"])
def test_a_model_that_is_not_there_is_refused(source: str) -> None:
    with pytest.raises(KilonetError) as error:
        load_model(source)
    refusal(error)


def test_a_run_folder_is_a_model_too(finished: Run) -> None:
    assert finished.folder is not None
    assert model_path(str(finished.folder)) == finished.folder / MODEL_FILE
    assert load_model(finished.folder).sha256 == finished.result.model_sha256


def test_a_folder_without_a_model_says_what_may_be_wrong(tmp_path: Path) -> None:
    with pytest.raises(KilonetError) as error:
        load_model(tmp_path)
    refusal(error, tmp_path, "a run folder whose training has finished", "an exported folder was made from")


@pytest.mark.parametrize(
    "content",
    [b"", GOOD[:-4], packed([]), packed(b"[" * 100_000), with_metadata(format_version=2), with_tensors(rename)],
    ids=["empty", "truncated", "list", "nested", "version", "renamed"],
)
@pytest.mark.parametrize("words", [("evaluate",), ("predict",), ("summary",)], ids=lambda words: words[0])
def test_every_command_refuses_a_damaged_model(
    file: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: tuple[str, ...]
) -> None:
    file.write_bytes(content)
    image = [file.with_name("digit.png")] if words == ("predict",) else []
    command(capsys, *words, file, *image).refused(file)


def test_a_process_refuses_a_damaged_model(file: Path) -> None:
    file.write_bytes(GOOD[:-4])
    forked("evaluate", file).refused(file)


@pytest.mark.parametrize(("name", "least"), [("best", 0.994), ("mcu", 0.994), ("uno", 0.993), ("baseline", 0.9914)])
def test_the_packaged_models_are_as_accurate_as_claimed(
    mnist: DataSet, name: str, least: float, shared_folder: Path
) -> None:
    model = kilonet.load(name)
    assert model.section.layers == kilonet.load_recipe(name).model.layers
    with scored_once(shared_folder):
        assert evaluate(model, mnist.test).accuracy >= least
