"""`model.predict` and `model.preprocess` take pictures as people have them in Python."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import kilonet
from helpers import command, model_section, refusal, tiny_recipe
from kilonet.data.datasets import DataSet
from kilonet.models.calibration import Calibration
from kilonet.models.metadata import Metadata
from kilonet.models.model import Model
from kilonet.models.prediction import predict_files
from kilonet.network.module import initial_network
from kilonet.training import proposal
from kilonet.utils.errors import KilonetError

SECTION = model_section("conv 4", "maxpool 2", "gap", "pointwise 3", input=(3, 20, 12), mean=0.4, std=0.3)
NAMES = ("cat", "dog", "<b>bird</b>")


@pytest.fixture(scope="module")
def model() -> Model:
    """An untrained network of colour pictures: what is tested is that all ways lead to the same input."""
    return Model(SECTION, initial_network(SECTION, seed=3).state(), Metadata(names=NAMES, digits=False))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(1)
    for number, size in enumerate([(40, 40, 3), (20, 12, 3), (31, 90, 3)]):
        Image.fromarray(random.integers(0, 256, size, np.uint8)).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def test_paths_pillow_images_and_arrays_are_the_same_picture(model: Model, pictures: list[Path]) -> None:
    expected = [one.predictions[0] for one in predict_files(model, pictures).files]
    images = [Image.open(path) for path in pictures]
    ways: list[Any] = [
        pictures,
        [str(path) for path in pictures],
        images,
        [np.asarray(image) for image in images],
        [pictures[0], images[1], torch.from_numpy(np.array(images[2]))],
    ]
    for way in ways:
        found = model.predict(way)
        np.testing.assert_array_equal(found.probabilities, [one.probabilities for one in expected])
        assert found.names == tuple(one.name for one in expected)
        assert found.classes.tolist() == [one.label for one in expected]
        assert len(found) == 3
    for path, image, answer in zip(pictures, images, expected, strict=True):
        for one in (path, str(path), image, np.asarray(image)):
            np.testing.assert_array_equal(model.predict(one).probabilities, [answer.probabilities])


def test_a_batch_of_pictures_of_another_size_is_the_list_of_them(model: Model) -> None:
    random = np.random.default_rng(2)
    for shape in ((4, 30, 50, 3), (4, 30, 50), (4, 30, 50, 1), (4, 20, 12)):
        batch = random.integers(0, 256, shape, np.uint8)
        np.testing.assert_array_equal(model.predict(batch).probabilities, model.predict(list(batch)).probabilities)
        np.testing.assert_array_equal(
            model.predict(torch.from_numpy(batch)).probabilities, model.predict(batch).probabilities
        )


def test_modes_and_orientation_of_a_pillow_image_are_those_of_its_file(model: Model, tmp_path: Path) -> None:
    colour = Image.fromarray(np.random.default_rng(3).integers(0, 256, (30, 40, 3), np.uint8))
    turned = colour.getexif()
    turned[0x0112] = 6
    colour.save(tmp_path / "turned.jpg", exif=turned, quality=95)
    colour.convert("P").save(tmp_path / "palette.png")
    colour.convert("RGBA").save(tmp_path / "alpha.png")
    colour.convert("L").save(tmp_path / "grey.png")
    for file in sorted(tmp_path.iterdir()):
        with Image.open(file) as image:
            from_file, from_image = model.preprocess(file), model.preprocess(image)
        assert torch.equal(from_file, from_image), file.name
        assert (from_file.dtype, tuple(from_file.shape)) == (torch.uint8, (3, 20, 12))
    assert model.predict(colour.convert("CMYK")).classes.shape == (1,)


def test_the_network_is_a_plain_module_behind_its_preprocessing(model: Model, pictures: list[Path]) -> None:
    inputs = torch.stack([model.preprocess(path) for path in pictures])
    with torch.inference_mode():
        logits = model.network(inputs)
        with pytest.warns(DeprecationWarning, match=r"torch\.jit\.trace"):
            traced = torch.jit.trace(model.network, inputs[:1], check_trace=False)
        torch.testing.assert_close(traced(inputs), logits)
    np.testing.assert_array_equal(logits.softmax(1).numpy().argmax(1), model.predict(pictures).classes)
    tuned = copy.deepcopy(model.network).train()
    before = [weight.detach().clone() for weight in tuned.parameters()]
    optimiser = torch.optim.SGD(tuned.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(tuned(inputs), torch.tensor([0, 1, 2])).backward()
    optimiser.step()
    assert all(not torch.equal(old, new) for old, new in zip(before, tuned.parameters(), strict=True))
    moved = Model(model.section, model.network.state(), model.metadata)
    moved.network.to("meta")
    assert {tensor.device.type for tensor in moved.network.buffers()} == {"meta"}


def test_what_is_rejected_has_no_name(model: Model, pictures: list[Path]) -> None:
    probabilities = model.predict(pictures).probabilities.max(1)
    threshold = float(np.sort(probabilities)[1])
    calibration = Calibration(sure_from=threshold, rejects=True)
    found = model.with_metadata(Metadata(names=NAMES, digits=False, calibration=calibration)).predict(pictures)
    assert found.none_of_these.tolist() == found.uncertain.tolist() == (probabilities < threshold).tolist()
    assert sum(found.none_of_these) == 1
    assert [name is None for name in found.names] == found.none_of_these.tolist()
    assert str(found).splitlines().count("none of these") == 1
    inputs = np.stack([model.preprocess(path).numpy() for path in pictures])
    unsure = Calibration(sure_from=threshold)
    found = model.with_metadata(Metadata(names=NAMES, digits=False, calibration=unsure)).predict(inputs)
    assert (sum(found.none_of_these), sum(found.uncertain)) == (0, 1)


def test_a_model_of_digits_searches_for_one_in_pictures_and_takes_inputs_as_they_are(mnist: DataSet) -> None:
    best = kilonet.load("best")
    digit = mnist.test.pixels[0, 0].numpy()
    photo = ImageOps.expand(ImageOps.invert(Image.fromarray(digit)).resize((90, 90)), 30, 255)
    found = best.predict([photo, np.zeros((40, 50), np.uint8)])
    assert found.names == ("7", None)
    assert found.none_of_these.tolist() == [False, True]
    assert best.predict(digit).names == best.predict(digit[None]).names == ("7",)
    assert best.predict(np.zeros((1, 28, 28), np.uint8)).none_of_these.tolist() == [False]


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        ([], "no image given"),
        (np.zeros((20, 12), np.float32), "must be uint8, 0 to 255, not float32 (20, 12)"),
        (np.zeros((2, 20, 12, 2), np.uint8), "(2, 20, 12, 2)"),
        (np.zeros((40, 30, 2), np.uint8), "two channels"),
        (np.zeros((3, 20, 12), np.uint8), "three grey pictures or one input"),
        (np.zeros((0, 5), np.uint8), "(0, 5)"),
        ([np.zeros(7, np.uint8)], "(7,)"),
        ("missing.png", "missing.png"),
        (".", "a folder"),
        ([None], "NoneType is no image"),
        ({"a": 1}, "dict is no image"),
    ],
    ids=str,
)
def test_what_is_no_picture_is_refused_in_one_line(model: Model, pictures: Any, words: str) -> None:
    with pytest.raises(KilonetError) as error:
        model.predict(pictures)
    refusal(error, words.replace("three grey", "3 grey"))


def test_a_damaged_pillow_image_is_refused_in_one_line(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with Image.open(path) as image, pytest.raises(KilonetError) as error:
        model.predict(image)
    refusal(error, "cannot be used")


def test_an_exported_folder_predicts_pictures(
    small: DataSet, small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = kilonet.fit(tiny_recipe(small_folder, epochs=1), replace(small, names=tuple("abcdefghij")), tmp_path / "run")
    words = ("export", run.folder or "", "--to", "onnx", "--out", tmp_path / "out", "--data", small_folder)
    assert command(capsys, *words).status == 0
    exported = kilonet.load(tmp_path / "out")
    picture = Image.fromarray(small.test.pixels[0, 0].numpy()).resize((50, 50))
    assert torch.equal(exported.preprocess(picture), run.model.preprocess(picture))
    found = exported.predict([picture, picture])
    assert found.names == (exported.metadata.name_of(found.classes[0]),) * 2
    assert found.probabilities == pytest.approx(run.model.predict([picture] * 2).probabilities, abs=0.1)


def test_fit_takes_names_of_recipes_and_data(small_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(tiny_recipe(epochs=1).to_toml())
    run = kilonet.fit(tmp_path / "tiny.toml", small_folder)
    assert run.result.recipe.run.data == str(small_folder)
    assert run.result.model_sha256 == kilonet.fit(tiny_recipe(small_folder, epochs=1)).result.model_sha256
    with pytest.raises(KilonetError) as error:
        kilonet.fit()
    refusal(error, "name the data")


def test_fit_proposes_a_recipe_for_data_without_one(
    mnist: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(80):
        pixels, label = mnist.train.pixels[number, 0].numpy(), int(mnist.train.labels[number]) % 2
        place = tmp_path / "photos" / ("even", "odd")[label] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    proposed = proposal.propose

    def quick(source: str) -> proposal.Proposal:
        found = proposed(source)
        return replace(found, recipe=found.recipe.replace(epochs=1, engine="torch"))

    monkeypatch.setattr(proposal, "propose", quick)
    run = kilonet.fit(data=tmp_path / "photos")
    assert run.model.metadata.names == ("even", "odd")
    assert run.result.recipe.model.input_shape == (1, 28, 28)
    answer = run.model.predict(tmp_path / "photos" / "odd" / "3.png")
    assert set(answer.names) < {"even", "odd", None}
