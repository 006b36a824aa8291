"""Recipes proposed for one's own images: within the budgets, for any size, number of classes and number of images."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import refusal
from kilonet.data.inspection.duplicates import Duplicates
from kilonet.data.inspection.inspection import Inspection
from kilonet.data.inspection.survey import Size, Survey
from kilonet.data.listing import Listing
from kilonet.network.cost import network_cost
from kilonet.recipe import Recipe
from kilonet.training.proposal import Limits, choose_network, data_name, propose_recipe
from kilonet.utils.errors import KilonetError

sizes = st.tuples(st.integers(8, 128), st.integers(8, 128))


def survey_of(classes: int, channels: int = 3, sizes: Sequence[Size] = ((32, 32),)) -> Survey:
    names = tuple(f"class {number}" for number in range(classes))
    return Survey("photos", None, Listing({}, names), names, tuple(sizes), 1 if channels == 1 else 3)


def inspection_of(found: Survey, shape: tuple[int, int, int], counts: Sequence[int], **changes: Any) -> Inspection:
    values: dict[str, Any] = {
        "source": found.source,
        "label_pattern": None,
        "classes": found.classes,
        "train_counts": tuple(counts),
        "test_counts": tuple(count // 4 for count in counts),
        "validation_counts": None,
        "smallest": found.smallest,
        "median": found.median,
        "largest": found.largest,
        "sampled": len(found.sizes),
        "colour": found.channels == 3,
        "input": shape,
        "mean": (0.5,) * shape[0],
        "std": (0.25,) * shape[0],
        "kind": "photos",
        "framed": False,
        "mirrored": True,
        "duplicates": Duplicates(0, 0, 0, ()),
        "near_duplicates": 0,
        "near_across": 0,
        "skipped": (),
        "notes": (),
    }
    return Inspection(**{**values, **changes})


def recipe_for(found: Survey, counts: Sequence[int], limits: Limits = Limits(), **changes: Any) -> Recipe:  # noqa: B008
    choice = choose_network(found, limits)
    return propose_recipe(inspection_of(found, choice.preprocessing.shape, counts, **changes), choice).recipe


@settings(max_examples=25, deadline=None)
@given(
    classes=st.integers(2, 1000),
    channels=st.sampled_from([1, 3]),
    seen=st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=5),
    images=st.integers(20, 1000),
)
def test_any_images_get_a_recipe_within_the_usual_budgets(
    classes: int, channels: int, seen: list[Size], images: int
) -> None:
    recipe = recipe_for(survey_of(classes, channels, seen), [images] * classes)
    cost = network_cost(recipe.model)
    assert recipe.model.classes == classes
    assert recipe.model.input[0] == channels
    assert all(8 <= side <= 128 for side in recipe.model.input[1:])
    assert cost.parameters <= 8000 + 40 * max(0, classes - 20)
    assert cost.c_ram_bytes <= 15_000 + 8 * max(0, classes - 100)


@settings(max_examples=25, deadline=None)
@given(
    classes=st.integers(2, 1000),
    channels=st.sampled_from([1, 3]),
    size=st.none() | sizes,
    parameters=st.none() | st.integers(1, 100_000),
    ram=st.none() | st.integers(1, 100_000),
)
def test_budgets_that_are_given_are_kept_or_refused_with_the_least_that_works(
    classes: int, channels: int, size: Size | None, parameters: int | None, ram: int | None
) -> None:
    found = survey_of(classes, channels, [(40, 30)])
    limits = Limits(parameters, ram, size)
    try:
        choice = choose_network(found, limits)
    except KilonetError as error:
        message = refusal(error, "the least is --max-")
        flag, least = message.rpartition("--max-")[2].split()
        given_one = parameters if flag == "parameters" else ram
        assert given_one is not None
        assert int(least) > given_one
        raised = Limits(int(least), ram, size) if flag == "parameters" else Limits(parameters, int(least), size)
        if flag == "ram" or ram is None:
            choose_network(found, raised)
        return
    recipe = propose_recipe(inspection_of(found, choice.preprocessing.shape, [30] * classes), choice).recipe
    cost = network_cost(recipe.model)
    assert parameters is None or cost.parameters <= parameters
    assert ram is None or cost.c_ram_bytes <= ram
    assert size is None or recipe.model.input[1:] == size[::-1]


@pytest.mark.parametrize(
    ("seen", "channels", "wanted"),
    [
        ([(28, 28)], 1, (1, 28, 28)),
        ([(20, 32)], 3, (3, 32, 20)),
        ([(8, 8)], 1, (1, 8, 8)),
        ([(48, 48)], 1, (1, 48, 48)),
        ([(640, 480)] * 3 + [(4032, 3024)], 3, (3, 24, 32)),
        ([(96, 96)], 3, (3, 32, 32)),
        ([(16, 16), (20, 20), (24, 24)], 1, (1, 20, 20)),
        ([(128, 16)], 1, (1, 8, 64)),
    ],
)
def test_the_input_has_the_size_of_small_images_or_about_32(
    seen: list[Size], channels: int, wanted: tuple[int, int, int]
) -> None:
    assert choose_network(survey_of(10, channels, seen), Limits()).preprocessing.shape == wanted


def test_a_size_that_was_asked_for_raises_a_budget_of_ram_that_was_not() -> None:
    found = survey_of(10)
    choice = choose_network(found, Limits(size=(96, 96)))
    assert choice.preprocessing.shape == (3, 96, 96)
    assert choice.member.c_ram_bytes == choice.ram > 15_000
    assert "over the usual 15,000" in choice.reasons["layers"]
    with pytest.raises(KilonetError) as error:
        choose_network(found, Limits(size=(96, 96), ram=15_000))
    refusal(error, "15,000", "96x96", "--max-ram")
    with pytest.raises(KilonetError) as error:
        Limits(size=(200, 96))
    refusal(error, "200x96", "8 to 128")
    for wrong in ({"parameters": -5}, {"ram": 0}):
        with pytest.raises(KilonetError) as error:
            Limits(**wrong)  # type: ignore[arg-type]
        refusal(error, "a budget is 1 or more")


def test_too_few_and_too_many_classes_are_refused() -> None:
    for classes in (1, 1001):
        with pytest.raises(KilonetError) as error:
            choose_network(survey_of(classes), Limits())
        refusal(error, "2 to 1,000 classes", f"{classes:,}")


@pytest.mark.parametrize(
    ("seen", "resize"),
    [
        ([(32, 32), (64, 64), (300, 310)], "crop"),
        ([(400, 300)] * 5 + [(300, 400)] * 5, "squash"),
        ([(400, 100)] * 5 + [(100, 100)] * 5, "pad"),
    ],
)
def test_pictures_are_cropped_squashed_or_padded_by_how_much_they_differ_in_shape(
    seen: list[Size], resize: str
) -> None:
    assert choose_network(survey_of(10, sizes=seen), Limits()).preprocessing.resize == resize


def test_epochs_and_batches_follow_the_number_of_images() -> None:
    found = survey_of(10)
    recipes = [recipe_for(found, [images // 10] * 10) for images in (40, 400, 4000, 50_000, 1_000_000)]
    assert [recipe.train.batch_size for recipe in recipes] == sorted(recipe.train.batch_size for recipe in recipes)
    epochs = [recipe.train.epochs for recipe in recipes]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[-1] == 1
    for recipe, images in zip(recipes, (40, 400, 4000, 50_000, 1_000_000), strict=True):
        passes = network_cost(recipe.model).macs * images * recipe.train.epochs
        assert passes < 1.3e12, "a few minutes on two cores"
        # The average of the weights forgets within the run.
        assert (1 - recipe.train.ema) * recipe.train.epochs * images / recipe.train.batch_size > 10


def test_what_follows_from_epochs_and_batches_follows_those_that_are_asked_for() -> None:
    found = survey_of(10)
    choice = choose_network(found, Limits())
    inspection = inspection_of(found, choice.preprocessing.shape, [1000] * 10)
    usual = propose_recipe(inspection, choice).recipe.train
    short = propose_recipe(inspection, choice, {"epochs": 1, "batch_size": 512}).recipe.train
    assert (short.epochs, short.batch_size) == (1, 512)
    # 18 steps are too few to average weights over a share of them.
    assert (usual.ema > 0.9, short.ema) == (True, 0)
    for changes in ({"epochs": 0}, {"batch_size": 0}, {"batch_size": -1}):
        with pytest.raises(KilonetError) as error:
            propose_recipe(inspection, choice, changes)
        refusal(error, next(iter(changes)))


@pytest.mark.parametrize(("images", "share"), [(30, None), (40, 0.5), (100, 0.2), (300, 0.1), (2000, 0.1)])
def test_with_negatives_images_are_kept_aside_of_a_small_set_too(images: int, share: float | None) -> None:
    found = survey_of(2)
    choice = choose_network(found, Limits())
    inspection = inspection_of(found, choice.preprocessing.shape, [images // 2] * 2)
    assert propose_recipe(inspection, choice, {"negatives": "others"}).recipe.run.calibration == share
    assert propose_recipe(inspection, choice).recipe.run.calibration == (0.1 if images >= 500 else None)


def test_only_enough_images_are_kept_aside_for_calibration() -> None:
    found = survey_of(2)
    assert recipe_for(found, [20, 20]).run.calibration is None
    assert recipe_for(found, [500, 500]).run.calibration == 0.1
    assert recipe_for(found, [500, 500], validation_counts=(9, 9)).run.calibration is None


def test_letters_readings_and_drawings_are_never_mirrored() -> None:
    found = survey_of(10)
    for kind in ("characters", "readings", "drawings", "photos"):
        for mirrored in (True, False):
            recipe = recipe_for(found, [100] * 10, kind=kind, mirrored=mirrored)
            assert recipe.augment.flip == (kind == "photos" and mirrored)
    assert recipe_for(found, [100] * 10, kind="readings").augment.scale == 0
    # Where there is no room, what is shown would be cut.
    turned = [
        recipe_for(found, [100] * 10, kind="drawings", framed=framed).augment.rotation for framed in (True, False)
    ]
    assert turned == [10, 0]


def test_classes_are_shown_as_often_where_one_is_over_three_times_another() -> None:
    found = survey_of(2)
    assert recipe_for(found, [300, 100]).train.sampling == "shuffled"
    train = recipe_for(found, [301, 100]).train
    assert (train.sampling, train.class_weights) == ("balanced", None)
    # A class that cannot be drawn at all would end the training.
    assert recipe_for(found, [300, 0]).train.sampling == "shuffled"
    # Both would favour the rare class twice.
    choice = choose_network(found, Limits())
    inspection = inspection_of(found, choice.preprocessing.shape, [301, 100])
    for weights in (("balanced",), (1.0, 3.0)):
        train = propose_recipe(inspection, choice, {"class_weights": weights}).recipe.train
        assert (train.sampling, train.class_weights is None) == ("shuffled", False)
    assert propose_recipe(inspection, choice, {"class_weights": ("none",)}).recipe.train.class_weights is None


@pytest.mark.parametrize(
    ("source", "name"),
    [("/a/photos/", "photos"), ("mnist.npz", "mnist"), ("a b/c d.csv", "c-d"), ("..", ""), ("x/\n\x1b[1m", "1m")],
)
def test_files_are_named_after_the_data(source: str, name: str) -> None:
    assert data_name(source) == (name or data_name("../.").strip("/"))
