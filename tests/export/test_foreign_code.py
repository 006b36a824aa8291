"""No file of an exported folder runs: predictions read its manifest, and `verify` runs only what an export writes."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import kilonet
from helpers import command, in_ci, refusal, write_idx_folder
from kilonet.data.datasets import DataSet
from kilonet.export.exporter import export_model
from kilonet.export.html import browser
from kilonet.export.onnx.session import OnnxSession
from kilonet.export.quantisation import QuantisationResult
from kilonet.export.verify import verify
from kilonet.models.model import Model
from kilonet.serve.classifiers import thread_safe
from kilonet.training.run_folder import Run
from kilonet.utils.errors import KilonetError

pytestmark = pytest.mark.usefixtures("c_compiled_quickly")

Plant = Callable[[Path, Path], str]
"""Changes a folder so that running it makes a file, and returns the name of the changed file."""


@pytest.fixture(scope="module")
def exported(
    finished: Run, quantised: QuantisationResult, small: DataSet, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny run in every form. Tests must not change its files."""
    folder = tmp_path_factory.mktemp("export") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised)
        for form in ("c", "html", "onnx"):
            export_model(form, finished.model, small, folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def few_folder(small: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty images: what runs is under test here, and that it is right at all."""
    fifty = small.test.pixels[:50, 0].numpy(), small.test.labels[:50].numpy().astype(np.uint8)
    return write_idx_folder(tmp_path_factory.mktemp("few"), fifty, fifty)


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return shutil.copytree(exported, tmp_path / "copy")


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """The file that planted code makes."""
    return tmp_path / "ran"


@pytest.fixture
def seven(small: DataSet, tmp_path: Path) -> Path:
    path = tmp_path / "seven.png"
    Image.fromarray(small.test.pixels[0, 0].numpy()).save(path)
    return path


def constructor(ran: Path) -> str:
    return (
        "#include <stdio.h>\n"
        "__attribute__((constructor)) static void planted(void)\n"
        f'{{ FILE *file = fopen("{ran}", "w"); if (file) fclose(file); }}\n'
    )


def in_the_tables(folder: Path, ran: Path) -> str:
    (folder / "model.c").write_text((folder / "model.c").read_text() + constructor(ran))
    return "model.c"


def in_the_runtime(folder: Path, ran: Path) -> str:
    (folder / "kilonet_runtime.c").write_text((folder / "kilonet_runtime.c").read_text() + constructor(ran))
    return "kilonet_runtime.c"


def in_a_header(folder: Path, ran: Path) -> str:
    (folder / "kilonet_runtime.h").write_text(constructor(ran) + (folder / "kilonet_runtime.h").read_text())
    return "kilonet_runtime.h"


def in_the_makefile(folder: Path, ran: Path) -> str:
    (folder / "Makefile").write_text(f"$(shell touch {ran})\n" + (folder / "Makefile").read_text())
    return "Makefile"


def in_a_makefile_that_make_prefers(folder: Path, ran: Path) -> str:
    (folder / "GNUmakefile").write_text(f"$(shell touch {ran})\n")
    return "GNUmakefile"


def in_the_page(folder: Path, ran: Path) -> str:
    text = (folder / "index.html").read_text(encoding="utf-8")
    planted = f'if (typeof require === "function") require("fs").writeFileSync({json.dumps(str(ran))}, "");\n'
    (folder / "index.html").write_text(
        text.replace('"use strict";\n', f'"use strict";\n{planted}', 1), encoding="utf-8"
    )
    return "index.html"


def in_a_graph(folder: Path, ran: Path) -> str:
    """A Constant node whose data are in another file."""
    point_outside(folder / "model.onnx", ran)
    return "model.onnx"


def point_outside(path: Path, other: Path) -> None:
    graph = onnx.load(path)
    tensor = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=os.path.relpath(other, path.parent))
    graph.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["outside"], value=tensor))
    path.write_bytes(graph.SerializeToString())


PLANTS = (
    in_the_tables,
    in_the_runtime,
    in_a_header,
    in_the_makefile,
    in_a_makefile_that_make_prefers,
    in_the_page,
    in_a_graph,
)


@pytest.fixture
def _pages_run_in_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing holds a page's script back."""
    if not shutil.which("node"):
        pytest.skip("needs Node")
    monkeypatch.setattr(browser, "_choose_runner", lambda: browser.run_in_node)


@pytest.mark.usefixtures("_pages_run_in_node")
@pytest.mark.parametrize("plant", PLANTS)
def test_planted_code_never_runs(
    plant: Plant,
    copied: Path,
    ran: Path,
    *,
    seven: Path,
    small: DataSet,
    few_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plant(copied, ran)
    (copied / "model.safetensors").unlink()  # else the trained model is loaded
    assert command(capsys, "predict", copied, seven).status == 0
    assert command(capsys, "evaluate", copied, "--data", few_folder).status == 0
    # What `kilonet serve` computes with.
    assert thread_safe(kilonet.load(copied)).logits(small.test.pixels[:2]).shape == (2, 10)
    assert not ran.exists()


@pytest.mark.usefixtures("_pages_run_in_node")
@pytest.mark.parametrize("plant", PLANTS)
def test_verify_names_the_changed_file_and_runs_nothing(
    plant: Plant, copied: Path, ran: Path, few_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = plant(copied, ran)
    answer = command(capsys, "verify", copied, "--data", few_folder)
    assert (answer.status, answer.err) == (1, "")
    named, said = answer.out.splitlines()
    assert named.startswith(f"{name}: ")
    assert "--run-foreign-code" in said
    assert not ran.exists()
    found = json.loads(command(capsys, "verify", copied, "--data", few_folder, "--json").out)
    assert (list(found["foreign"]), found["rows"], found["passed"]) == ([name], [], False)


@pytest.mark.usefixtures("_pages_run_in_node")
@pytest.mark.parametrize("plant", [in_the_tables, in_the_page, *in_ci(in_the_runtime, in_a_header)])
def test_foreign_code_runs_if_the_user_says_so(
    plant: Plant, copied: Path, ran: Path, few_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So the plants of the tests above do run where they are not held back."""
    name = plant(copied, ran)
    answer = command(capsys, "verify", copied, "--data", few_folder, "--run-foreign-code")
    assert answer.status == 0, "its logits are right all the same"
    assert answer.out.splitlines()[-1].startswith(f"{name}: ")
    assert ran.exists()


def test_a_graph_that_refers_to_another_file_is_not_run_even_then(copied: Path, small: DataSet, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"1234")
    in_a_graph(copied, tmp_path / "secret")
    with pytest.raises(KilonetError) as error:
        verify(copied, small.test, run_foreign_code=True)
    refusal(error, "model.onnx", "outside the file")


def test_missing_and_further_files_are_named(
    copied: Path, few_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "main.c").unlink()
    (copied / "notes.txt").write_text("mine")
    (copied / "below").mkdir()
    (copied / "kilonet_runtime.h").unlink()
    os.mkfifo(copied / "kilonet_runtime.h")  # a pipe, which would be read for ever
    answer = command(capsys, "verify", copied, "--data", few_folder)
    assert answer.status == 1
    assert answer.out.splitlines()[:-1] == [
        "below: not written by kilonet export",
        "kilonet_runtime.h: differs from what kilonet export writes",
        "main.c: missing",
        "notes.txt: not written by kilonet export",
    ]


def test_a_manifest_that_is_not_as_written_is_named(
    copied: Path, few_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = json.loads((copied / "model.json").read_text())
    (copied / "model.json").write_text(json.dumps({**table, "kilonet": "0.0.1"}, indent=1))
    answer = command(capsys, "verify", copied, "--data", few_folder)
    assert answer.status == 1
    assert answer.out.splitlines()[0].startswith("model.json: differs")
    assert answer.out.splitlines()[1].startswith("Kilonet 0.0.1 wrote this folder")


def test_a_run_with_an_export_planted_in_it_is_read_from_its_own_file(
    finished: Run, exported: Path, ran: Path, *, seven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.folder is not None
    run = shutil.copytree(finished.folder, tmp_path / "run")
    expected = command(capsys, "predict", run, seven, "--json").out
    for file in exported.iterdir():
        if file.name != "model.safetensors":
            shutil.copy(file, run)
    table = json.loads((run / "model.json").read_text())
    # Another class wins by far.
    table["operations"][-1]["bias"] = [0] * 9 + [2**20]
    (run / "model.json").write_text(json.dumps(table))
    in_the_tables(run, ran)
    assert isinstance(kilonet.load(run), Model)
    assert command(capsys, "predict", run, seven, "--json").out == expected
    assert not ran.exists()


def test_predicting_with_an_exported_folder_needs_no_compiler(
    copied: Path, seven: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "model.safetensors").unlink()
    monkeypatch.setenv("CC", "no-such-compiler")
    assert command(capsys, "predict", copied, seven).status == 0


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Return content with up to eight bytes changed, removed or inserted, mostly where its structure is."""
    changed = bytearray(content)
    for _ in range(int(random.choice([1, 1, 2, 8]))):
        near = [random.integers(3000), len(changed) - 1 - random.integers(2500), random.integers(len(changed))]
        at = int(random.choice(near))
        match random.integers(4):
            case 0:
                changed[at] = random.integers(256)
            case 1:
                changed[at] ^= 1 << random.integers(8)
            case 2:
                del changed[at : at + random.integers(1, 20)]
            case _:
                changed[at:at] = random.bytes(int(random.integers(1, 8)))
    return bytes(changed)


def check_mutated(exported: Path, folder: Path, small: DataSet, seeds: range) -> None:
    pixels = small.test.pixels[:2].numpy()
    for seed in seeds:
        random = np.random.default_rng(seed)
        for name in ("model.onnx", "model-int8.onnx"):
            (folder / name).write_bytes(mutated((exported / name).read_bytes(), random))
            try:
                OnnxSession(folder / name, (1, 28, 28), 10).logits(pixels)
            except KilonetError as error:
                refusal(error, name)


def test_a_mutated_graph_runs_or_is_refused_in_one_line(exported: Path, small: DataSet, tmp_path: Path) -> None:
    check_mutated(exported, tmp_path, small, range(100))


@pytest.mark.slow
def test_thousands_of_mutated_graphs_run_or_are_refused_in_one_line(
    exported: Path, small: DataSet, tmp_path: Path
) -> None:
    check_mutated(exported, tmp_path, small, range(100, 4100))


def test_tables_that_the_generated_c_cannot_hold_are_refused(
    copied: Path, few_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The C is written from `model.json`: a number that overflows its field would reach beyond its memory."""
    table = json.loads((copied / "model.json").read_text())
    table["operations"][0]["kernel"] = 256 + 3
    (copied / "model.json").write_text(json.dumps(table))
    command(capsys, "verify", copied, "--data", few_folder).refused("model.json", "kernel = 259")
