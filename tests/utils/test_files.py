"""Writing files atomically and reading them with a bound."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import python, refusal
from kilonet.utils import files
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import is_temporary, read_bounded, write_atomically


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


@pytest.mark.parametrize("call", ["fsync", "replace"])
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


def test_the_permissions_of_new_files_are_not_changed_while_a_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The umask belongs to the whole process: another thread would create files that all may write."""
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask of all threads is changed"))
    write_atomically(tmp_path / "file", b"")


def test_a_write_removes_what_killed_writes_of_the_same_file_left_and_nothing_else(tmp_path: Path) -> None:
    leftovers = (".a[1].json.01234567.tmp", ".a[1].json.89abcdef.tmp")
    others = (
        ".a[1].json.swp",
        ".a[1].json.abcdefgh.tmp",
        ".a1.json.01234567.tmp",
        ".b.json.01234567.tmp",
        ".lock",
        "a[1].json",
    )
    for name in (*leftovers, *others):
        (tmp_path / name).touch()
    write_atomically(tmp_path / "a[1].json", b"new")
    assert {entry.name for entry in tmp_path.iterdir()} == set(others)


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from kilonet.utils.files import write_atomically
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path(sys.argv[1]), b"half")
"""


def test_the_temporary_file_of_a_killed_process_is_removed_by_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert python(KILLED_WHILE_WRITING, path).status == -signal.SIGKILL
    (leftover,) = tmp_path.iterdir()
    assert is_temporary(leftover.name, path.name)
    write_atomically(path, b"whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_that_another_process_writes_is_not_taken_for_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def write_in_between(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", flush)
        write_atomically(tmp_path / "file", b"second")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", write_in_between)
    write_atomically(tmp_path / "file", b"first")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"first"


def test_without_locks_files_are_written_and_leftovers_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where a file that is open cannot be removed anyway."""
    monkeypatch.setattr(files, "fcntl", None)
    (tmp_path / ".file.01234567.tmp").touch()
    write_atomically(tmp_path / "file", b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [make_pipe, make_socket, link_to_a_device])
def test_what_is_no_file_is_neither_read_nor_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    """Opening a pipe waits for a writer without end; renaming over a device would delete it."""
    monkeypatch.chdir(tmp_path)
    path = Path("special")
    make(path)
    with pytest.raises(KilonetError) as error:
        read_bounded(path, 10, "a test")
    refusal(error, path)
    with pytest.raises(KilonetError) as error:
        write_atomically(path, b"new")
    refusal(error, path, "not a file")
    assert not path.is_file()
    assert [entry.name for entry in tmp_path.iterdir()] == ["special"]


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
