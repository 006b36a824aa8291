"""Windows: what it does not have is taken away, and every command still works or says what it lacks.

macOS lacks a part of the same.
"""

import ast
import os
import signal
import sys
import time
from pathlib import Path

import pytest

import kilonet
from helpers import command, refusal, tiny_recipe
from kilonet.engines.native import cache
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import write_atomically

SOURCE = Path(kilonet.__file__).parent
# From the lines "Availability" of Python's documentation.
NOT_ON_WINDOWS = (
    *(
        "chown",
        "chroot",
        "fchmod",
        "fchown",
        "fork",
        "forkpty",
        "getegid",
        "geteuid",
        "getgid",
        "getgroups",
        "getloadavg",
    ),
    *(
        "getpgid",
        "getpgrp",
        "getpriority",
        "getresuid",
        "getsid",
        "getuid",
        "killpg",
        "lchown",
        "mkfifo",
        "mknod",
        "nice",
    ),
    *("sched_getaffinity", "sched_setaffinity", "sched_yield", "setgid", "setpgid", "setpriority", "setsid", "setuid"),
    *("statvfs", "sysconf", "uname", "posix_fadvise", "memfd_create", "eventfd", "pidfd_open", "sendfile"),
)
SIGNALS_NOT_ON_WINDOWS = (
    "SIGALRM",
    "SIGHUP",
    "SIGKILL",
    "SIGQUIT",
    "SIGUSR1",
    "SIGUSR2",
    "SIGCHLD",
    "alarm",
    "setitimer",
)
MODULES_NOT_ON_WINDOWS = frozenset({"fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog"})


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what Windows does not have."""
    for name in NOT_ON_WINDOWS:
        # Python's own modules use it.
        if name not in ("uname", "sysconf"):
            monkeypatch.delattr(os, name, raising=False)
    for name in SIGNALS_NOT_ON_WINDOWS:
        # pytest-timeout uses these.
        if name not in ("SIGALRM", "setitimer"):
            monkeypatch.delattr(signal, name, raising=False)
    for name in MODULES_NOT_ON_WINDOWS - {"fcntl"}:
        # filelock has its own form for Windows, chosen when it is imported.
        monkeypatch.setitem(sys.modules, name, None)


def names_asked_for(tree: ast.AST) -> set[str]:
    """Return the names that a module asks for before it uses them, as `hasattr(os, "getuid")` does."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(ast.Name("hasattr" | "getattr"), [_, ast.Constant(str(name)), *_]):
                found.add(name)
    return found


def names_used(tree: ast.AST) -> set[str]:
    """Return the names of `os` and `signal` that Windows lacks and that a module uses."""
    lacking = {"os": NOT_ON_WINDOWS, "signal": SIGNALS_NOT_ON_WINDOWS}
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ast.Name(module), name) if name in lacking.get(module, ()):
                found.add(name)
    return found


def modules_imported(tree: ast.Module) -> set[str]:
    """Return the modules that a module imports on every system, at its head and outside of a `try`."""
    found = set()
    for node in tree.body:
        match node:
            case ast.Import(names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(str(module)):
                found.add(module)
    return found


def test_what_windows_lacks_is_asked_for_first() -> None:
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not names_used(tree) - names_asked_for(tree), path
        assert not modules_imported(tree) & MODULES_NOT_ON_WINDOWS, path


@pytest.mark.usefixtures("windows")
def test_the_commands_work_without(small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe(small_folder, epochs=1, engine="auto").to_toml(), encoding="utf-8")
    run = tmp_path / "run"
    answer = command(capsys, "train", recipe, "--out", run)
    assert answer.status == 0, answer.err
    (line,) = (line for line in answer.err.splitlines() if "torch engine" in line)
    assert "no file owners" in line
    for words in (("evaluate", run), ("summary", run), ("recipes",), ("card", run, "--out", tmp_path / "card.md")):
        answer = command(capsys, *words)
        assert answer.status == 0, answer.err


@pytest.mark.usefixtures("windows")
def test_the_native_engine_says_why_it_cannot_be_used(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe(small_folder, engine="native").to_toml(), encoding="utf-8")
    command(capsys, "train", recipe, "--out", tmp_path / "run").refused("native engine", "no file owners")
    with pytest.raises(KilonetError):
        cache.cache_folder()


@pytest.mark.parametrize(("refusals", "written"), [(1, True), (3, True), (9, False)])
def test_a_file_that_somebody_reads_is_replaced_when_it_is_closed(
    refusals: int, written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows does not rename a file over one that is open."""
    path, rename, left = tmp_path / "result.json", Path.replace, [refusals]
    path.write_bytes(b"old")

    def refuse(old: Path, new: Path) -> Path:
        left[0] -= 1
        if left[0] >= 0:
            raise PermissionError(13, "Access is denied")
        return rename(old, new)

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    if written:
        write_atomically(path, b"new")
    else:
        with pytest.raises(KilonetError) as error:
            write_atomically(path, b"new")
        refusal(error, path, "Access is denied")
    assert path.read_bytes() == (b"new" if written else b"old")
    assert list(tmp_path.iterdir()) == [path]
