"""Writing files atomically and reading them with a bound."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import refusal
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import read_bounded, remove_leftovers, write_atomically


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"first", b"", b"\0" * 100_000):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_is_an_ordinary_one(tmp_path: Path) -> None:
    write_atomically(tmp_path / "ours", b"")
    (tmp_path / "pythons").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "pythons").stat().st_mode


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_failure_leaves_the_old_content_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(KilonetError) as error:
        write_atomically(path, b"new")
    refusal(error, path, "cannot be written: No space left on device")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_an_interruption_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert not list(tmp_path.iterdir())


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def recorded(name: str) -> Callable[..., None]:
        real: Callable[..., None] = getattr(os, name)

        def call(*arguments: object) -> None:
            calls.append(name)
            real(*arguments)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name))
    write_atomically(tmp_path / "file", b"new")
    # The folder, which holds the name, is flushed after the file.
    assert calls == ["fsync", "replace", "fsync"]


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KilonetError) as error:
        write_atomically(tmp_path / "missing" / "file", b"")
    refusal(error, tmp_path / "missing" / "file", "No such file or directory")


def test_leftovers_of_a_file_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a[1].json.abc", ".a[1].json.def", "a[1].json", ".a1.json.abc", ".b.json.abc", ".lock"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a[1].json")
    assert {entry.name for entry in tmp_path.iterdir()} == {"a[1].json", ".a1.json.abc", ".b.json.abc", ".lock"}


@pytest.mark.parametrize(("maximum", "fits"), [(4, False), (5, True), (6, True)])
def test_a_file_is_read_up_to_its_bound(tmp_path: Path, maximum: int, fits: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    if fits:
        assert read_bounded(path, maximum, "a test") == b"12345"
        return
    with pytest.raises(KilonetError) as error:
        read_bounded(path, maximum, "a test")
    refusal(error, path, "too large for a test", "4 bytes")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(KilonetError):
        read_bounded(path, 1000, "a test")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "missing", "No such file"), (tmp_path, "directory")):
        with pytest.raises(KilonetError) as error:
            read_bounded(path, 10, "a test")
        refusal(error, path, words)
