"""An export is written whole or not at all, and the same command goes on after anything that stopped it."""

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers import KILONET, command, refusal
from kilonet.data.datasets import DataSet
from kilonet.export import folder as module
from kilonet.export.exporter import export_model
from kilonet.export.folder import open_folder
from kilonet.export.manifest import read_manifest
from kilonet.export.quantisation import QuantisationResult, quantise
from kilonet.models.model import Model, load_model
from kilonet.training.run_folder import Run
from kilonet.utils.errors import InUse, KilonetError

pytestmark = pytest.mark.usefixtures("c_compiled_quickly")

FORMS = ("c", "html", "onnx")
Export = Callable[[str, Path], object]
"""Exports the tiny run in a form to a folder."""


@pytest.fixture(autouse=True)
def _quantised_once(quantised: QuantisationResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised)


@pytest.fixture
def export(finished: Run, small: DataSet) -> Export:
    return lambda form, folder: export_model(form, finished.model, small, folder, "tiny")


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_forms_are_added_to_a_folder_and_nothing_is_left_beside_them(export: Export, tmp_path: Path) -> None:
    for form in FORMS:
        export(form, tmp_path / "below" / "out")
    assert names(tmp_path) == {"below"}
    assert names(tmp_path / "below") == {"out"}
    manifest = read_manifest(tmp_path / "below" / "out")
    assert list(manifest.forms) == ["c", "html", "onnx", "onnx-int8"]
    assert list(manifest.accuracies) == ["c", "html", "onnx", "onnx-int8"]


def test_a_new_folder_has_the_usual_permissions(export: Export, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "file").touch()
    export("c", tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert (tmp_path / "out" / "model.c").stat().st_mode == (tmp_path / "file").stat().st_mode


class Killed(BaseException):
    """Stops an export as a kill does: nothing is cleaned up after it."""


def publish(model: Model, folder: Path, files: dict[str, bytes]) -> None:
    with open_folder(folder, model) as target:
        target.publish(files)


def killed_at(step: int, model: Model, folder: Path, files: dict[str, bytes]) -> bool:
    """Publish, and stop at a step: in the middle of a file, or before a rename. Return whether it came so far."""
    steps = iter(range(1000))
    replace = Path.replace

    def kill_if_due() -> None:
        if next(steps) == step:
            raise Killed

    def write(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        kill_if_due()
        path.write_bytes(content)

    def rename(path: Path, target: Path) -> Path:
        kill_if_due()
        return replace(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_write_through", write)
        patch.setattr(Path, "rename", rename)
        patch.setattr(Path, "replace", rename)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        try:
            publish(model, folder, files)
        except Killed:
            return True
    return False


@pytest.fixture(scope="module")
def written(
    finished: Run, small: DataSet, quantised: QuantisationResult, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files of an export as C, and of one as a page into the same folder."""
    folder = tmp_path_factory.mktemp("written") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised)
        export_model("c", finished.model, small, folder, "tiny")
        first = contents(folder)
        export_model("html", finished.model, small, folder, "tiny")
    return first, {name: content for name, content in contents(folder).items() if first.get(name) != content}


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "another form"])
def test_the_same_command_completes_an_export_that_was_killed_at_any_step(
    there: str, finished: Run, written: tuple[dict[str, bytes], dict[str, bytes]], tmp_path: Path
) -> None:
    first, second = written
    files = second if there == "another form" else first
    for step in range(100):
        parent = tmp_path / f"killed at {step}"
        folder = parent / "out"
        parent.mkdir()
        if there == "an empty folder":
            folder.mkdir()
        if there == "another form":
            publish(finished.model, folder, first)
        if not killed_at(step, finished.model, folder, files):
            assert step >= len(files)
            break
        if there == "nothing":
            assert not folder.exists(), "a new folder is there when it is whole"
        publish(finished.model, folder, files)
        assert names(parent) == {"out"}
        assert contents(folder) == (first | second if there == "another form" else first)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_full_disk_is_said_in_one_line_and_changes_nothing(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_there: bool
) -> None:
    folder = tmp_path / "out"
    if is_there:
        export("c", folder)
    before = contents(folder) if is_there else None

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_through", full)
        with pytest.raises(KilonetError) as error:
            export("html", folder)
    refusal(error, "out", "No space left on device")
    assert names(tmp_path) == ({"out"} if is_there else set())
    assert (contents(folder) if is_there else None) == before
    export("html", folder)


def test_what_an_earlier_version_left_half_written_is_taken_over(export: Export, tmp_path: Path) -> None:
    """They wrote file by file, the manifest last, each through a temporary file."""
    folder = tmp_path / "out"
    for form in FORMS:
        export(form, folder)
    expected = names(folder)
    (folder / "model.json").unlink()
    (folder / "model.h").write_text("/* Written by kilonet export. */\n#ifndef KILONET_MODEL_H\n")
    (folder / ".main.c.vgo50huk").write_text("#include")
    (folder / ".model.json.0aaaaaaa").write_text("{")
    for form in FORMS:
        export(form, folder)
    assert names(folder) == expected
    assert set(read_manifest(folder).forms) == {"c", "html", "onnx", "onnx-int8"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("thesis.txt", b"years of work"),
        ("main.c", b'#include "model.h"\nint main(void) { return 0; }\n'),
        ("Makefile", b"all:\n"),
        ("index.html", b"<!doctype html><h1>My page"),
        ("model.safetensors", None),
        ("model.c", "a folder"),
    ],
)
def test_files_that_no_export_wrote_are_named_and_kept(
    name: str, content: bytes | str | None, export: Export, tmp_path: Path
) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir()
    if content is None:
        load_model("mcu").save(file)
    elif isinstance(content, str):
        file.mkdir()
    else:
        file.write_bytes(content)
    before = file.stat()
    with pytest.raises(KilonetError) as error:
        export("c", tmp_path / "out")
    refusal(error, "out", name, "model.json")
    assert names(tmp_path / "out") == {name}
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def test_files_beside_an_export_stay(export: Export, tmp_path: Path) -> None:
    export("c", tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    export("html", tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_other_integers_of_the_same_model_do_not_come_beside_a_form(
    finished: Run, small: DataSet, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with other --data: the manifest has one network, and each form must be of it."""
    export("c", tmp_path / "out")
    expected = contents(tmp_path / "out")
    other = quantise(finished.model, small.hold_out().train)
    monkeypatch.setattr("kilonet.export.exporter.quantise", lambda *_: other)
    with pytest.raises(KilonetError) as error:
        export("html", tmp_path / "out")
    refusal(error, "out", "holds c of this model with other integers")
    assert contents(tmp_path / "out") == expected
    export("c", tmp_path / "out")
    assert contents(tmp_path / "out")["model.c"] != expected["model.c"]


def test_two_exports_do_not_write_into_one_folder_at_once(finished: Run, tmp_path: Path) -> None:
    with (
        open_folder(tmp_path / "out", finished.model),
        pytest.raises(InUse) as error,
        open_folder(tmp_path / "out", finished.model),
    ):
        pass
    refusal(error, "out", "in use")
    assert not names(tmp_path)


def test_the_current_folder_can_be_exported_to(export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export("c", Path())
    export("html", Path())
    assert names(tmp_path) == {"here"}
    assert {"model.json", "model.c", "index.html"} <= names(Path())


def test_a_page_of_a_folder_whose_name_is_not_utf8_is_written(finished: Run, small: DataSet, tmp_path: Path) -> None:
    name = os.fsdecode(b"r\xe9seau")
    export_model("html", finished.model, small, tmp_path / "out", str(tmp_path / name))
    assert read_manifest(tmp_path / "out").name == "r?seau"
    assert "r?seau" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_exports_that_are_killed_at_random_are_completed(
    finished: Run, small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.folder is not None
    random = np.random.default_rng(0)
    words = ("export", finished.folder, "--to", "c", "--data", small_folder, "--out")
    assert command(capsys, *words, tmp_path / "whole").status == 0
    expected = contents(tmp_path / "whole")
    for number in range(40):
        parent = tmp_path / str(number)
        start = time.monotonic()
        with subprocess.Popen([*KILONET, *map(str, words), str(parent / "out")], stdout=subprocess.DEVNULL) as process:
            # Most kills fall into the last moments, where files are written.
            while process.poll() is None and not parent.is_dir() and time.monotonic() - start < 60:
                time.sleep(0.002)
            time.sleep(float(random.uniform(0, 4)))
            process.send_signal(signal.SIGKILL)
        assert command(capsys, *words, parent / "out").status == 0
        assert names(parent) == {"out"}
        assert contents(parent / "out") == expected
