"""Finding a compiler and running it."""

from pathlib import Path

import pytest

from helpers import refusal
from kilonet.utils.compilers import find_compiler, run_compiler
from kilonet.utils.errors import KilonetError


def test_the_environment_names_the_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "mine"
    program.touch(mode=0o755)
    monkeypatch.setenv("CC", str(program))
    assert find_compiler("C", "CC", ("cc", "gcc")) == str(program)


def test_the_first_compiler_that_is_installed_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("gcc", "clang"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert find_compiler("C", "CC", ("cc", "gcc", "clang")) == str(tmp_path / "gcc")


def test_a_missing_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(KilonetError) as error:
        find_compiler("C++", "CXX", ("c++", "g++", "clang++"))
    refusal(error, "no C++ compiler found (c++, g++ or clang++)", "set CXX")
    monkeypatch.setenv("CXX", "mine")
    with pytest.raises(KilonetError) as error:
        find_compiler("C++", "CXX", ("c++", "g++", "clang++"))
    refusal(error, "(mine)")


def test_output_is_returned_and_the_first_error_reported(tmp_path: Path) -> None:
    assert run_compiler(["sh", "-c", "pwd"], tmp_path).strip() == str(tmp_path.resolve())
    with pytest.raises(KilonetError) as error:
        run_compiler(["sh", "-c", "echo note >&2; echo error: bad >&2; exit 1"], tmp_path)
    refusal(error, "failed", tmp_path, "error: bad")
    with pytest.raises(KilonetError) as error:
        run_compiler(["sh", "-c", "exit 3"])
    refusal(error, "exit status 3")
    with pytest.raises(KilonetError) as error:
        run_compiler(["sh", "-c", "true"], tmp_path, makes=tmp_path / "made.o")
    refusal(error, "the compiler sh made no made.o")
    run_compiler(["sh", "-c", "echo > made.o"], tmp_path, makes=tmp_path / "made.o")
    with pytest.raises(KilonetError) as error:
        run_compiler([str(tmp_path / "none")])
    refusal(error, "cannot be run")
