"""Every exported form carries class names, the kind of images and the calibration, whatever the names are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import kilonet
from helpers import command, needs
from kilonet.data.datasets import DataSet, load_data
from kilonet.data.digits.frame import is_laid_out
from kilonet.export.exporter import export_model
from kilonet.export.html.browser import network_and_interpreter
from kilonet.export.manifest import read_manifest
from kilonet.export.quantisation import QuantisationResult, quantise
from kilonet.models.calibration import Calibration
from kilonet.models.metadata import Metadata
from kilonet.models.model import Model
from kilonet.network.section import ModelSection
from kilonet.serve.model_facts import describe_model
from kilonet.training.run_folder import Run
from kilonet.utils.schema import Schema
from strategies import model_of

pytestmark = pytest.mark.usefixtures("c_compiled_quickly")

NAMES = (
    "un",
    '"); system("true"); //',
    "*/ ??/ ??' ??=include \\",
    "</script><script>alert(1)</script><!--",
    "été 7 日本",
    "%s%n$policy ${x}",
    "\\x41\\0421",
    "a\tb\x7f",
    "x" * 100,
    "0",
)
METADATA = Metadata(
    names=NAMES, digits=False, calibration=Calibration(temperature=1.75, sure_from=0.625, energy_from=-2.5)
)
CALIBRATED_DIGITS = Metadata(calibration=Calibration(temperature=1.75, sure_from=0.625, energy_from=2.5))
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-Wtrigraphs")


@pytest.fixture(scope="module")
def named(finished: Run) -> Model:
    return finished.model.with_metadata(METADATA)


def printed(name: str) -> str:
    """Return a name as the C example prints it."""
    return name.replace("\t", "?").replace("\x7f", "?")


def export(model: Model, quantised: QuantisationResult, data: DataSet, folder: Path, *forms: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised)
        for form in forms:
            export_model(form, model, data, folder, "named")
    return folder


@pytest.fixture(scope="module")
def exported(
    named: Model, quantised: QuantisationResult, small: DataSet, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The named model in every form. Tests must not change its files."""
    return export(named, quantised, small, tmp_path_factory.mktemp("export") / "named", "c", "html", "onnx")


@pytest.fixture(scope="module")
def digits(
    finished: Run, quantised: QuantisationResult, small: DataSet, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A calibrated model of digits as C."""
    model = finished.model.with_metadata(CALIBRATED_DIGITS)
    return export(model, quantised, small, tmp_path_factory.mktemp("export") / "digits", "c")


def test_the_manifest_gives_the_metadata_back(exported: Path, named: Model, tmp_path: Path) -> None:
    assert read_manifest(exported).metadata == METADATA
    (tmp_path / "model.json").write_bytes((exported / "model.json").read_bytes())
    loaded = kilonet.load(tmp_path)
    assert not isinstance(loaded, Model), "there is no trained model in this folder"
    assert loaded.metadata == METADATA
    assert loaded.reads_digits is False
    assert loaded.sha256 == named.sha256


@pytest.mark.parametrize("metadata", [METADATA, CALIBRATED_DIGITS], ids=["named", "digits"])
def test_an_exported_folder_answers_as_its_model(
    metadata: Schema, exported: Path, digits: Path, finished: Run, *, small: DataSet, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Name, confidence, uncertain and "no digit" are those of the model; the integers round the probabilities."""
    folder = exported if metadata is METADATA else digits
    assert isinstance(metadata, Metadata)
    finished.model.with_metadata(metadata).save(tmp_path / "model.safetensors")
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "model.json").write_bytes((folder / "model.json").read_bytes())
    images = tmp_path / "images"
    images.mkdir()
    for number in range(40):
        Image.fromarray(small.test.pixels[number, 0].numpy()).save(images / f"{number:02}.png")
    Image.fromarray(np.full((28, 28), 255, np.uint8)).save(images / "white.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)).save(images / "noise.png")
    one, other = (
        json.loads(command(capsys, "predict", tmp_path / source, images, "--json").out)
        for source in ("model.safetensors", "exported")
    )
    assert one["calibration"] == other["calibration"]
    for wanted, found in zip(one["predictions"], other["predictions"], strict=True):
        np.testing.assert_allclose(wanted["probabilities"], found["probabilities"], atol=0.1)
        second, first = sorted(wanted["probabilities"])[-2:]
        if first - second > 0.2:
            assert (wanted["name"], wanted["no_digit"]) == (found["name"], found["no_digit"])
        if abs(first - 0.625) > 0.1:
            assert wanted["uncertain"] == found["uncertain"]
    if metadata is CALIBRATED_DIGITS:
        assert sum(found["no_digit"] is not None for found in other["predictions"]) >= 1
        assert is_laid_out(small.test.pixels[0, 0].numpy())


def test_the_c_form_prints_the_names(exported: Path, small: DataSet, tmp_path: Path) -> None:
    needs("make")
    environment = {"PATH": "/usr/bin:/bin", "CFLAGS": " ".join(STRICT)}
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    subprocess.run(["make", "-s"], cwd=tmp_path, env=environment, check=True, timeout=120)
    image = small.test.pixels[0, 0].numpy()
    (tmp_path / "digit.pgm").write_bytes(b"P5\n28 28\n255\n" + image.tobytes())
    done = subprocess.run([tmp_path / "classify", "digit.pgm"], cwd=tmp_path, capture_output=True, check=True)
    logits = np.round(kilonet.load(tmp_path / "model.safetensors").logits(small.test.pixels[:1])[0].numpy(), 0)
    lines = done.stdout.split(b"\n")
    assert lines[0] == printed(NAMES[int(logits.argmax())]).encode()
    assert [line.rpartition(b": ")[0] for line in lines[1:-1]] == [printed(name).encode() for name in NAMES]


def test_the_header_states_the_calibration_and_the_kind_of_images(exported: Path, digits: Path) -> None:
    text = (exported / "model.h").read_text(encoding="ascii")
    for line in (
        "#define KILONET_READS_DIGITS 0",
        "#define KILONET_TEMPERATURE 1.75",
        "#define KILONET_SURE_FROM 0.625",
        "#define KILONET_ENERGY_FROM (-2.5)",
    ):
        assert line in text.splitlines()
    other = (digits / "model.h").read_text(encoding="ascii")
    assert "#define KILONET_READS_DIGITS 1" in other
    assert re.search(r'KILONET_CLASS_NAMES \\\s+\{"0", \\\s+"1", ', other)


def test_the_example_prints_names_without_control_characters(exported: Path, tmp_path: Path) -> None:
    needs("cc")
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    header = (tmp_path / "model.h").read_text()
    (tmp_path / "model.h").write_text(header.replace('"un"', '"u\\033[2J\\302\\233n"'))
    (tmp_path / "names.c").write_text(
        '#define main example\n#include "main.c"\n#undef main\n'
        "int main(void) { for (int i = 0; i < KILONET_CLASSES; i++) print_class(i), putchar(10); return 0; }\n"
    )
    sources = ("names.c", "model.c", "kilonet_runtime.c", "kilonet_vectors.c", "kilonet_resize.c")
    subprocess.run(
        ["gcc", "-std=c99", *STRICT, "-DKILONET_EXAMPLE", "-o", "names", *sources],
        cwd=tmp_path,
        check=True,
        timeout=120,
    )
    done = subprocess.run([tmp_path / "names"], capture_output=True, check=True, timeout=60).stdout.decode()
    assert done.splitlines() == ["u?[2J?n", *map(printed, NAMES[1:])]


def test_the_header_is_c_and_cpp(exported: Path, tmp_path: Path) -> None:
    needs("cc")
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "sketch.cpp").write_text(
        '#include "model.h"\n'
        "static const char *const names[KILONET_CLASSES] = KILONET_CLASS_NAMES;\n"
        "static uint8_t pixels[KILONET_PIXELS];\nstatic int32_t logits[KILONET_CLASSES];\n"
        "int main() { kilonet_classify(pixels, logits); return names[0][0] != 'u'; }\n"
    )
    parts = ("model", "kilonet_runtime", "kilonet_vectors")

    def run(*words: str) -> None:
        subprocess.run(words, cwd=tmp_path, check=True, timeout=120)

    for part in parts:
        run("gcc", "-std=c99", *STRICT, "-c", f"{part}.c")
    needs("g++")
    run("g++", "-std=c++11", *STRICT, "-o", "sketch", "sketch.cpp", *(f"{part}.o" for part in parts))
    run("./sketch")
    # As projects do that rename their C.
    for target in ("-march=native", "-DKILONET_PLAIN"):
        sources = [word for part in parts for word in ("-x", "c++", f"{part}.c")]
        run(
            "g++",
            "-std=c++20",
            *STRICT,
            target,
            "-o",
            "renamed",
            "sketch.cpp",
            *sources,
        )
        run("./renamed")


def test_the_shipped_makefile_does_not_turn_warnings_into_errors(exported: Path) -> None:
    assert "-Werror" not in (exported / "Makefile").read_text()


def test_both_graphs_hold_the_metadata(exported: Path) -> None:
    for name in ("model.onnx", "model-int8.onnx"):
        properties = {entry.key: entry.value for entry in onnx.load(exported / name).metadata_props}
        assert json.loads(properties["kilonet.class_names"]) == list(NAMES)
        assert json.loads(properties["kilonet.reads_digits"]) is False
        assert Calibration.model_validate_json(properties["kilonet.calibration"]) == METADATA.calibration


COLOURED = ModelSection(
    input=(3, 12, 10),
    layers=("conv 4", "maxpool 2", "gap", "pointwise 3"),
    resize="pad",
    mean=(0.2, 0.4, 0.6),
    std=(0.3, 0.25, 0.2),
)
COLOURED_METADATA = Metadata(
    names=("ant", "bee", "été"),
    calibration=Calibration(temperature=1.75, sure_from=0.625, energy_from=-2.5, rejects=True),
)
STATED = {
    "resize": "pad",
    "resampling": "triangle",
    "channels": "RGB",
    "grey_weights": [19595, 38470, 7471],
    "padding": [51, 102, 153],
    "mean": [0.2, 0.4, 0.6],
    "std": [0.3, 0.25, 0.2],
}
CALIBRATION = {"temperature": 1.75, "sure_from": 0.625, "energy_from": -2.5, "rejects": True}


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A named network of coloured pictures that are padded, in every form, and its data as class folders."""
    folder = tmp_path_factory.mktemp("coloured")
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in COLOURED_METADATA.names or ():
            (folder / "data" / part / name).mkdir(parents=True)
            for number in range(20):
                pixels = random.integers(0, 256, (12, 10, 3), np.uint8)
                Image.fromarray(pixels).save(folder / "data" / part / name / f"{number}.png")
    model = model_of(COLOURED, 0).with_metadata(COLOURED_METADATA)
    data = load_data(str(folder / "data"))
    return export(model, quantise(model, data.train), data, folder / "insects", "c", "html", "onnx"), folder / "data"


def test_every_form_of_a_coloured_model_states_its_preprocessing(coloured: tuple[Path, Path]) -> None:
    folder, _ = coloured
    assert json.loads((folder / "model.json").read_text())["preprocessing"] == STATED
    for name in ("model.onnx", "model-int8.onnx"):
        properties = {entry.key: entry.value for entry in onnx.load(folder / name).metadata_props}
        assert json.loads(properties["kilonet.preprocessing"]) == STATED
        assert json.loads(properties["kilonet.calibration"]) == CALIBRATION
        assert json.loads(properties["kilonet.class_names"]) == ["ant", "bee", "été"]
    data, _ = network_and_interpreter(folder / "index.html")
    page = json.loads(data)
    assert (page["preprocessing"], page["calibration"], page["names"]) == (STATED, CALIBRATION, ["ant", "bee", "été"])
    header = (folder / "model.h").read_text(encoding="ascii").splitlines()
    for line in (
        "#define KILONET_RESIZE KILONET_PAD",
        "#define KILONET_PADDING {51, 102, 153}",
        "#define KILONET_MEAN {0.2, 0.4, 0.6}",
        "#define KILONET_STD {0.3, 0.25, 0.2}",
        "#define KILONET_TEMPERATURE 1.75",
        "#define KILONET_SURE_FROM 0.625",
        "#define KILONET_ENERGY_FROM (-2.5)",
        "#define KILONET_REJECTS 1",
    ):
        assert line in header
    assert "19595 red + 38470 green + 7471 blue" in " ".join(header)
    assert kilonet.load(folder).section == COLOURED


def test_a_service_of_an_exported_folder_states_it_too(coloured: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes((coloured[0] / "model.json").read_bytes())
    model = kilonet.load(tmp_path)
    facts = describe_model(model, model, str(tmp_path)).model_dump(mode="json")
    assert (facts["preprocessing"], facts["calibration"]) == (STATED, CALIBRATION)
    assert facts["classes"] == ["ant", "bee", "été"]


@pytest.mark.usefixtures("pages_in_node")
def test_the_forms_of_a_coloured_model_are_verified(
    coloured: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data = coloured
    answer = command(capsys, "verify", folder, "--data", data, "--json")
    assert answer.status == 0, answer
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    for name, words in (
        ("model.json", ('"resampling": "triangle"', '"resampling":  "triangle"')),
        ("model.h", ("KILONET_RESIZE KILONET_PAD", "KILONET_RESIZE KILONET_CROP")),
        ("kilonet_resize.c", ("32768", "32767")),
    ):
        text = (changed / name).read_text(encoding="utf-8")
        assert words[0] in text
        (changed / name).write_text(text.replace(*words), encoding="utf-8")
    answer = command(capsys, "verify", changed, "--data", data, "--json")
    assert answer.status == 1
    assert set(json.loads(answer.out)["foreign"]) == {"model.json", "model.h", "kilonet_resize.c"}


def test_a_manifest_of_an_earlier_version_has_no_preprocessing_and_is_read(
    coloured: tuple[Path, Path], tmp_path: Path
) -> None:
    table = json.loads((coloured[0] / "model.json").read_text())
    del table["preprocessing"]
    (tmp_path / "model.json").write_text(json.dumps(table))
    assert kilonet.load(tmp_path).section == COLOURED


@pytest.mark.usefixtures("pages_in_node")
def test_all_forms_are_verified(exported: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("cc")
    answer = command(capsys, "verify", exported, "--data", small_folder, "--json")
    assert answer.status == 0, answer
    forms = [row["form"] for row in json.loads(answer.out)["rows"]]
    assert [form for form in forms if form != "html"] == ["reference", "c", "onnx", "onnx-int8"]
    needs("node")
    assert forms == ["reference", "c", "html", "onnx", "onnx-int8"]


def test_a_model_of_other_images_cannot_claim_to_read_digits(
    tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = json.loads((digits / "model.json").read_text())
    table["model"] = {"input": [3, 8, 8], "layers": ["gap", "pointwise 10"]}
    table["metadata"] = {"digits": True}
    (tmp_path / "model.json").write_text(json.dumps(table))
    command(capsys, "predict", tmp_path, "x.png").refused("model.json", "reads digits", "3x8x8")
