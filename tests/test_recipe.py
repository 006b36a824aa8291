"""Recipes are read back as they were written, and every error names its key and its file."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from helpers import BASELINE_LAYERS, TINY_LAYERS, refusal
from kilonet.recipe import (
    MAXIMUM_RECIPE_BYTES,
    SECTIONS,
    Recipe,
    load_recipe,
    packaged_recipes,
    parse_recipe,
    recipe_name,
    section_of,
)
from kilonet.utils.errors import KilonetError

MODEL = '[model]\nlayers = ["conv 4", "gap", "pointwise 10"]\n'


def refuse(path: Path, content: str | bytes, *words: str) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(KilonetError) as error:
        load_recipe(str(path))
    return refusal(error, path, *words)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


def proper(most: float = 1.0, **bounds: Any) -> st.SearchStrategy[float]:
    return st.floats(0, most, allow_nan=False, **bounds)


MODELS = st.fixed_dictionaries(
    {
        "layers": st.sampled_from(
            [list(TINY_LAYERS), list(BASELINE_LAYERS), ["gap", "pointwise 3"], ["conv 4 5x5 same", "gap"]]
        )
    },
    optional={
        "mean": proper(exclude_max=True),
        "std": proper(exclude_min=True),
        "dropout": proper(exclude_max=True),
        "max_parameters": st.integers(8000, 10**12),
    },
)
TRAINS = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 10_000),
        "batch_size": st.integers(1, 65_536),
        "optimizer": st.sampled_from(["sgd", "adamw"]),
        "learning_rate": proper(100, exclude_min=True),
        "momentum": proper(exclude_max=True),
        "weight_decay": proper(),
        "schedule": st.sampled_from(["cosine", "linear", "constant"]),
        "warmup": proper(exclude_max=True),
        "label_smoothing": proper(exclude_max=True),
        "class_weights": st.just("balanced"),
        "sampling": st.just("shuffled"),
        "ema": proper(exclude_max=True),
    },
)
AUGMENTS = st.fixed_dictionaries(
    {},
    optional={
        "rotation": proper(180),
        "shift": proper(64),
        "scale": proper(exclude_max=True),
        "shear": proper(),
        "flip": st.booleans(),
        "flip_vertical": st.booleans(),
        "crop": st.integers(0, 64),
        "outside": st.sampled_from(["zeros", "edge"]),
        "brightness": proper(),
        "contrast": proper(exclude_max=True),
        "white_balance": proper(exclude_max=True),
        "blur": proper(),
        "noise": proper(),
        "cutout": st.integers(0, 128),
        "mixup": proper(10),
        "mixup_until": proper(exclude_min=True),
    },
)
DISTILLS = st.fixed_dictionaries(
    {},
    optional={
        "teacher": st.lists(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9), max_size=3
        ),
        "teachers": st.integers(1, 100),
        "temperature": st.floats(0.1, 100),
        "weight": proper(),
    },
)
RUNS = st.fixed_dictionaries(
    {},
    optional={
        "data": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
        "holdout": st.booleans(),
        "seed": st.integers(0, 2**31 - 1),
        "engine": st.sampled_from(["auto", "native", "torch"]),
        "device": st.sampled_from(["auto", "cpu", "cuda", "mps"]),
        "precision": st.sampled_from(["auto", "float32", "bfloat16"]),
        "threads": st.integers(0, 1024),
    },
)
TABLES = st.fixed_dictionaries(
    {"model": MODELS},
    optional={"about": st.text(max_size=30), "train": TRAINS, "augment": AUGMENTS, "distill": DISTILLS, "run": RUNS},
)


@given(table=TABLES)
def test_a_recipe_survives_being_written_and_read(
    table: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipe = parse_recipe(table, "drawn", {})
    path = tmp_path_factory.getbasetemp() / "round-trip.toml"
    path.write_bytes(recipe.to_toml().encode())
    assert load_recipe(str(path)) == recipe
    for section, keys in table.items():
        for key, value in keys.items() if isinstance(keys, dict) else ():
            if key not in ("layers", "teacher"):
                assert getattr(getattr(recipe, section), key) == value


def test_every_key_is_written_out() -> None:
    written = tomllib.loads(load_recipe("best").to_toml())
    for name, section in SECTIONS.items():
        optional = {key for key, field in section.model_fields.items() if field.default is None}
        assert set(section.model_fields) - optional <= set(written[name]) <= set(section.model_fields)


def test_every_key_is_in_one_section_only_so_that_a_flag_can_name_it() -> None:
    keys = [key for section in SECTIONS.values() for key in section.model_fields]
    assert len(keys) == len(set(keys))
    for name, section in SECTIONS.items():
        assert {section_of(key) for key in section.model_fields} == {name}


def test_every_key_has_a_description() -> None:
    for section in SECTIONS.values():
        for key, field in section.model_fields.items():
            assert field.description, key


@pytest.mark.parametrize("name", packaged_recipes())
def test_the_packaged_recipes_load(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.about
    assert recipe_name(name) == name
    assert recipe.model.max_parameters is not None


def test_the_seeds_network_is_what_baseline_trains() -> None:
    recipe = load_recipe("baseline")
    assert recipe.model.layers == BASELINE_LAYERS
    assert recipe.model.parameters == 7662
    assert recipe.train.epochs == 15
    assert recipe.model.classes == 10


def test_the_seeds_recipe_has_what_its_document_says() -> None:
    recipe = load_recipe("baseline")
    assert recipe.train.batch_size == 128
    assert recipe.model.dropout > 0
    assert recipe.augment.rotation > 0
    assert recipe.train.schedule != "constant"


def test_best_has_the_seeds_parameters_and_epochs_to_spend() -> None:
    best, baseline = load_recipe("best"), load_recipe("baseline")
    assert (
        (best.model.parameters, best.train.epochs) == (baseline.model.parameters, baseline.train.epochs) == (7662, 15)
    )
    assert not best.distill.teacher


def test_a_recipe_is_frozen() -> None:
    recipe = load_recipe("best")
    for part, key, value in ((recipe, "about", ""), (recipe.train, "epochs", 1), (recipe.model, "layers", ())):
        with pytest.raises(ValidationError):
            setattr(part, key, value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["model", "missing"]),
        ("[model]\n", ["model.layers", "missing"]),
        (MODEL + "[train]\nepoch = 3\n", ["train.epoch", "unknown key"]),
        (MODEL + "[trian]\nepochs = 3\n", ["trian", "unknown key"]),
        ("epochs = 3\n" + MODEL, ["epochs", "unknown key"]),
        (MODEL + "train = 3\n", ["model.train", "unknown key"]),
        ("train = 3\n" + MODEL, ["train = 3"]),
        ("model = 5\n", ["model = 5"]),
        ("about = 5\n" + MODEL, ["about = 5"]),
        (MODEL + "input = [1, 28]\n", ["model.input"]),
        (MODEL + "input = [1, 28, 28, 1]\n", ["model.input"]),
        (MODEL + "input = [0, 28, 28]\n", ["model.input.0 = 0"]),
        (MODEL + "input = [1, 28, 513]\n", ["model.input.2 = 513"]),
        (MODEL + "input = 28\n", ["model.input = 28"]),
        ('[model]\nlayers = "gap"\n', ["model.layers"]),
        ("[model]\nlayers = []\n", ["model.layers"]),
        ("[model]\nlayers = [3]\n", ["model.layers.0 = 3"]),
        ('[model]\nlayers = ["lstm 4"]\n', ["lstm 4", "layers are"]),
        ('[model]\nlayers = ["conv 4"]\n', ["26x26", "gap"]),
        ('[model]\nlayers = ["conv 4 31x31", "gap"]\n', ["layer 1", "too small"]),
        (f"[model]\nlayers = {['pointwise 4'] * 201}\n", ["model.layers"]),
        (MODEL + "max_parameters = 49\n", ["84 parameters", "49"]),
        (MODEL + "mean = 1.0\n", ["model.mean = 1.0"]),
        (MODEL + "std = [0.0, 0.2]\n", ["model.std.0 = 0.0: input should be greater than 0"]),
        (MODEL + "std = 0\n", ["model.std = 0"]),
        (MODEL + "dropout = 1.0\n", ["model.dropout = 1.0"]),
        (MODEL + "dropout = -0.1\n", ["model.dropout = -0.1"]),
        (MODEL + "mean = nan\n", ["model.mean = nan"]),
        (MODEL + "[train]\nclass_weights = [1, 2]\n", ["class_weights has 2 numbers", "10 classes"]),
        (MODEL + '[train]\nclass_weights = "fair"\n', ["give 'balanced', 'none' or a number for each class"]),
        (MODEL + '[train]\nclass_weights = "balanced"\nsampling = "balanced"\n', ["both 'balanced'", "choose one"]),
        (MODEL + "[augment]\nsaturation = 0.2\n", ["saturation", "channels are 1"]),
        *(
            (MODEL + f"[{section}]\n{key} = {value}\n", [f"{section}.{key}" if key != "class_weights" else key])
            for section, key, values in (
                ("train", "epochs", ("0", "-1", "10001", "1.5", "nan", "inf", '"many"', "[1]", "2026-01-01")),
                ("train", "batch_size", ("0", "65537")),
                ("train", "learning_rate", ("0", "-0.1", "nan", "inf", "-inf", "100.1", "1e400", '"fast"')),
                ("train", "momentum", ("1", "-0.1", "nan")),
                ("train", "weight_decay", ("-1e-9", "1.1", "nan")),
                ("train", "warmup", ("1", "-0.1", "nan")),
                ("train", "label_smoothing", ("1", "-0.1")),
                ("train", "ema", ("1", "-0.1")),
                ("train", "class_weights", ('"fair"', "0.5", "[]", "[1, 0]", "[1, nan]", '["balanced", 1]', "true")),
                ("train", "optimizer", ('"lion"', "1", '""')),
                ("train", "schedule", ('"stairs"',)),
                ("augment", "rotation", ("-1", "181", "nan")),
                ("augment", "shift", ("-1", "65")),
                ("augment", "scale", ("1", "-0.1")),
                ("augment", "shear", ("1.1", "-0.1")),
                ("augment", "flip", ("1", '"yes"')),
                ("augment", "crop", ("1.5", "-1", "65")),
                ("augment", "outside", ('"reflect"', "0")),
                ("augment", "brightness", ("1.1", "-0.1", "nan")),
                ("augment", "contrast", ("1", "-0.1")),
                ("augment", "white_balance", ("1", "-0.1")),
                ("augment", "blur", ("1.1", "-0.1")),
                ("augment", "noise", ("1.1", "-0.1")),
                ("augment", "cutout", ("0.5", "129")),
                ("augment", "mixup", ("-0.1", "11", "inf")),
                ("augment", "mixup_until", ("0", "1.1")),
                ("train", "sampling", ('"fair"', "1")),
                ("distill", "teacher", ("5", "[5]", "{}", "true")),
                ("distill", "teachers", ("0", "101", "1.5")),
                ("distill", "temperature", ("0.09", "-1", "101", "nan", "inf", '"warm"')),
                ("distill", "weight", ("-0.1", "1.1", "nan")),
                ("run", "seed", ("-1", "2147483648", "0.5", "9" * 40)),
                ("run", "threads", ("-1", "1025")),
                ("run", "engine", ('"quantum"',)),
                ("run", "device", ('"tpu"',)),
                ("run", "precision", ('"int8"',)),
                ("run", "data", ("5", "[]")),
                ("run", "holdout", ('"perhaps"', "7")),
            )
            for value in values
        ),
    ],
    ids=str,
)
def test_a_mistake_is_named_with_its_key_and_its_file(file: Path, content: str, words: list[str]) -> None:
    refuse(file, content, *words)


@pytest.mark.parametrize(
    "content",
    [
        b"not TOML",
        b"[model",
        b"a = 1\na = 2\n",
        b"\xff\xfe\x00",
        MODEL.encode("utf-16"),
        b"\0",
        b"a = " + b"[" * 100_000,
        b"a = " + b"{a=" * 100_000,
    ],
    ids=lambda content: repr(content[:20]),
)
def test_what_is_no_toml_is_refused(file: Path, content: bytes) -> None:
    refuse(file, content)


@given(content=st.binary(max_size=60))
def test_random_bytes_are_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    refuse(tmp_path_factory.getbasetemp() / "random.toml", content)


@given(key=st.text(min_size=1, max_size=6), value=st.sampled_from(['"a\\nb"', "[1, 2]", "{}", "1979-05-27"]))
def test_a_mistake_of_any_name_is_told_in_one_line(
    key: str, value: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    quoted = "".join(f"\\U{ord(letter):08x}" for letter in key if not 0xD800 <= ord(letter) < 0xE000)
    refuse(tmp_path_factory.getbasetemp() / "named.toml", f'{MODEL}"{quoted}" = {value}\n')


@pytest.mark.parametrize("number", ["9" * 8000, "0x" + "9" * 8000])
def test_a_number_of_thousands_of_digits_is_refused(file: Path, number: str) -> None:
    file.write_text(f"{MODEL}[train]\nepochs = {number}\n")
    with pytest.raises(KilonetError) as error:
        load_recipe(str(file))
    assert "sys." not in refusal(error, file)


def test_a_byte_order_mark_is_no_part_of_a_recipe(file: Path) -> None:
    """Editors on Windows write one."""
    file.write_text(MODEL, encoding="utf-8-sig")
    assert load_recipe(str(file)).model.layers == ("conv 4", "gap", "pointwise 10")


def test_an_oversized_file_is_refused(file: Path) -> None:
    refuse(file, b"#" * (MAXIMUM_RECIPE_BYTES + 1), "too large for a recipe")


@pytest.mark.parametrize("source", ["", "missing", "missing/recipe.toml", "x" * 5000, "nul\0byte"])
def test_a_recipe_that_is_not_there_is_refused(source: str) -> None:
    with pytest.raises(KilonetError) as error:
        load_recipe(source)
    refusal(error)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(KilonetError) as error:
        load_recipe(str(tmp_path))
    refusal(error, tmp_path, "best", "baseline")


def test_a_run_folder_says_where_its_recipe_is(tmp_path: Path) -> None:
    inside = tmp_path / "recipe.toml"
    inside.write_text(load_recipe("best").to_toml(), encoding="utf-8")
    with pytest.raises(KilonetError) as error:
        load_recipe(str(tmp_path))
    refusal(error, "a folder, not a recipe", str(inside))
    (tmp_path / "my photos").mkdir()
    with pytest.raises(KilonetError) as error:
        load_recipe(str(tmp_path / "my photos"))
    refusal(error, "a folder, not a recipe", f"kilonet train --data '{tmp_path / 'my photos'}'")
    assert load_recipe(str(inside)) == load_recipe("best")


@pytest.mark.parametrize(
    ("written", "teachers"),
    [('"a"', ("a",)), ('["a", "b"]', ("a", "b")), ('""', ()), ("[]", ()), ('[""]', ())],
    ids=str,
)
def test_one_teacher_or_several_or_none_can_be_named(file: Path, written: str, teachers: tuple[str, ...]) -> None:
    file.write_text(f"{MODEL}[distill]\nteacher = {written}\n")
    recipe = load_recipe(str(file))
    assert recipe.distill.teacher == teachers
    assert recipe.replace(teacher="").distill.teacher == ()
    assert recipe.replace(teacher="c").distill.teacher == ("c",)


@pytest.mark.parametrize(
    ("written", "weights"),
    [
        ('"balanced"', "balanced"),
        ('["balanced"]', "balanced"),
        ('"none"', None),
        (str(list(range(1, 11))), tuple(range(1, 11))),
    ],
    ids=str,
)
def test_classes_are_balanced_or_weighted_or_neither(file: Path, written: str, weights: object) -> None:
    file.write_text(f"{MODEL}[train]\nclass_weights = {written}\n")
    recipe = load_recipe(str(file))
    assert recipe.train.class_weights == weights
    assert recipe.replace(epochs=2).train.class_weights == weights
    assert recipe.replace(class_weights=("none",)).train.class_weights is None


def test_the_distilled_recipe_is_best_with_a_teacher() -> None:
    distilled, best = load_recipe("distilled"), load_recipe("best")
    assert distilled.distill.teacher == ("teacher",)
    assert distilled.replace(teacher="").model_copy(update={"about": best.about}) == best
    assert load_recipe("teacher").model.parameters == 77776


@pytest.mark.parametrize("thousands", [1, 2, 4, 8])
def test_the_recipes_of_the_frontier_keep_their_budgets(thousands: int) -> None:
    recipe = load_recipe(f"{thousands}k")
    assert recipe.model.max_parameters == 1000 * thousands
    assert recipe.model.parameters <= 1000 * thousands
    assert recipe.train.epochs <= 200


def test_changes_go_into_their_sections() -> None:
    recipe = load_recipe("baseline", {"epochs": 3, "seed": 7, "dropout": 0.25, "rotation": 1.5, "max_parameters": 9000})
    assert (recipe.train.epochs, recipe.run.seed, recipe.model.dropout) == (3, 7, 0.25)
    assert (recipe.augment.rotation, recipe.model.max_parameters) == (1.5, 9000)
    assert recipe.replace(epochs=15, seed=0, dropout=0.05, rotation=7, max_parameters=8000) == load_recipe("baseline")


@pytest.mark.parametrize("changes", [{"epoch": 3}, {"epochs": 0}, {"layers": ["gap"], "max_parameters": 0}, {"": 1}])
def test_changes_are_checked_too(changes: dict[str, Any]) -> None:
    with pytest.raises(KilonetError) as error:
        load_recipe("best", changes)
    refusal(error)


@pytest.mark.parametrize(("most", "fits"), [(7661, False), (7662, True)])
def test_a_network_over_its_budget_is_refused_with_the_figure(most: int, fits: bool) -> None:
    if fits:
        assert load_recipe("best", {"max_parameters": most}).model.parameters == 7662
        return
    with pytest.raises(KilonetError) as error:
        load_recipe("best", {"max_parameters": most})
    refusal(error, "best", "7,662 parameters", "max_parameters = 7,661")


def test_layers_are_written_in_their_shortest_form() -> None:
    recipe = parse_recipe({"model": {"layers": ["  conv   4  3x3 ", "gap"]}}, "drawn", {})
    assert recipe.model.layers == ("conv 4", "gap")
    assert isinstance(recipe, Recipe)
