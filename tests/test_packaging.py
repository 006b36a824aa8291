"""What must be in the package wherever it is installed."""

import importlib.metadata
import json
from importlib.resources import files
from pathlib import Path

import pytest

import kilonet
from kilonet.data.listing import MNIST_SHA256
from kilonet.models.metadata import Metadata
from kilonet.models.model import load_model, packaged_models
from kilonet.recipe import packaged_recipes

PROJECT = Path(__file__).parents[1]


def test_the_version_is_the_projects() -> None:
    """It is written in the sources, so that they run from a checkout that is not installed."""
    assert kilonet.__version__ == importlib.metadata.version("kilonet")


@pytest.mark.parametrize("name", sorted(MNIST_SHA256))
def test_mnist_is_packaged(name: str) -> None:
    assert (files("kilonet.data") / "mnist" / f"{name}.gz").is_file()


def test_mnist_comes_with_its_authors_and_its_licence() -> None:
    text = (files("kilonet.data") / "mnist" / "LICENSE.md").read_text(encoding="utf-8")
    for word in ("LeCun", "Cortes", "Burges", "CC BY-SA 3.0"):
        assert word in text


def test_recipes_are_packaged() -> None:
    assert {"best", "mcu", "uno", "baseline"} <= set(packaged_recipes())


def test_trained_models_are_packaged() -> None:
    assert {"best", "mcu", "uno", "baseline"} <= set(packaged_models())
    for name in packaged_models():
        # 7,662 weights, the batch-norm statistics and the header.
        assert len((files("kilonet.models") / "weights" / f"{name}.safetensors").read_bytes()) < 40_000


@pytest.mark.parametrize("name", ["best", "baseline"])
def test_a_packaged_model_is_the_published_run_with_notes(name: str) -> None:
    runs = json.loads((PROJECT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))["runs"]
    assert load_model(name).with_metadata(Metadata()).sha256 == runs[0]["model_sha256"]


def test_annotations_are_packaged() -> None:
    assert (files("kilonet") / "py.typed").is_file()


def test_every_public_name_is_there() -> None:
    for name in kilonet.__all__:
        assert getattr(kilonet, name) is not None
        assert name in dir(kilonet)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = kilonet.no_such_name
