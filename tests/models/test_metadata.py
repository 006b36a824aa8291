"""The metadata of model files, and files without metadata."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from helpers import TINY_LAYERS, model_section, refusal, some_pixels
from kilonet.models.calibration import Calibration
from kilonet.models.metadata import Metadata
from kilonet.models.model import Model, load_model, serialise
from kilonet.network.module import initial_network
from kilonet.utils.errors import KilonetError

SECTION = model_section(*TINY_LAYERS)
STATE = initial_network(SECTION, seed=1).state()
NAMES = tuple("abcdefghij")
FULL = Metadata(names=NAMES, digits=False, calibration=Calibration(temperature=1.5, sure_from=0.75, energy_from=-2.5))


def header(content: bytes) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    table = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["kilonet"])
    assert isinstance(table, dict)
    return table


def test_metadata_are_kept_in_the_file(tmp_path: Path) -> None:
    model = Model(SECTION, STATE, FULL)
    model.save(tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.metadata == FULL
    assert loaded.sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()


def test_a_model_without_notes_has_the_file_of_the_versions_before_them() -> None:
    assert set(header(serialise(SECTION, STATE))) == {"format_version", "model"}
    assert serialise(SECTION, STATE, Metadata()) == serialise(SECTION, STATE)
    assert header(serialise(SECTION, STATE, Metadata(digits=False)))["metadata"] == {"digits": False}


def test_probabilities_are_calibrated_and_classes_are_not_changed() -> None:
    plain, warm = Model(SECTION, STATE), Model(SECTION, STATE).with_metadata(FULL)
    cold_answer, warm_answer = plain.predict(some_pixels(50)), warm.predict(some_pixels(50))
    assert (cold_answer.classes == warm_answer.classes).all()
    assert (warm_answer.probabilities.max(1) < cold_answer.probabilities.max(1)).all()


@pytest.mark.parametrize(
    "metadata",
    [
        7,
        [],
        {"unknown": 1},
        {"names": "abcdefghij"},
        {"names": ["a", "b"]},
        {"names": []},
        {"names": [*NAMES[:9], ""]},
        {"names": [*NAMES[:9], "a"]},
        {"names": [*NAMES[:9], "j\0"]},
        {"names": [*NAMES[:9], 7]},
        {"digits": "yes"},
        {"calibration": {"temperature": 0.0}},
        {"calibration": {"temperature": float("nan")}},
        {"calibration": {"temperature": -1.0}},
        {"calibration": {"sure_from": 2.0}},
        {"calibration": {"energy_from": float("inf")}},
        {"calibration": {"energy_from": "low"}},
    ],
    ids=str,
)
def test_damaged_metadata_are_refused(metadata: object, tmp_path: Path) -> None:
    content = serialise(SECTION, STATE)
    length = int.from_bytes(content[:8], "little")
    table = json.loads(content[8 : 8 + length])
    table["__metadata__"]["kilonet"] = json.dumps({**header(content), "metadata": metadata})
    text = json.dumps(table).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(KilonetError) as error:
        load_model(path)
    refusal(error, path, "not a usable model file")


@pytest.mark.parametrize(
    ("shape", "classes", "metadata", "digits"),
    [
        ((1, 28, 28), 10, Metadata(), True),
        ((1, 28, 28), 10, Metadata(digits=False), False),
        ((1, 28, 28), 10, Metadata(names=NAMES), False),
        ((1, 28, 28), 9, Metadata(), False),
        ((1, 32, 32), 10, Metadata(), False),
        ((3, 28, 28), 10, Metadata(), False),
    ],
)
def test_digits_are_told_by_the_networks_shape_unless_it_is_said(
    shape: tuple[int, int, int], classes: int, metadata: Metadata, *, digits: bool
) -> None:
    assert metadata.reads_digits(shape, classes) is digits
