"""The environment of a measurement."""

import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from helpers import needs
from kilonet.utils import environment
from kilonet.utils.environment import describe_environment, processor_name, source_commit, torch_threads_kept
from kilonet.utils.errors import KilonetError


def test_the_description_is_of_this_machine_and_this_run() -> None:
    found = describe_environment(device="cpu", engine="torch", precision="float32", threads=3)
    assert found.kilonet == version("kilonet")
    assert found.torch == torch.__version__
    assert found.python == platform.python_version()
    assert (found.device, found.engine, found.precision, found.threads) == ("cpu", "torch", "float32", 3)
    assert found.system == platform.system()
    assert found.processor == processor_name() != ""


def test_the_commit_is_that_of_the_checkout() -> None:
    checkout = Path(environment.__file__).parents[3]
    if not (checkout / ".git").exists():
        assert source_commit() is None
        return
    needs("git")
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=checkout)
    commit = source_commit()
    assert commit is not None
    assert re.fullmatch(rf"{head.stdout.strip()}(-dirty)?", commit)


def test_an_installed_package_has_no_commit_even_inside_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("git")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    (tmp_path / "environment.py").touch()
    assert source_commit() is None


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert source_commit() is None


def test_torch_gets_its_number_of_threads_back_even_after_an_error() -> None:
    before = torch.get_num_threads()

    @torch_threads_kept()
    def fail() -> None:
        torch.set_num_threads(before + 2)
        raise KilonetError

    with pytest.raises(KilonetError):
        fail()
    assert torch.get_num_threads() == before
