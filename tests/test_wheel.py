"""The wheel, installed into an empty environment on a machine without a compiler."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from helpers import Answer
from kilonet.data.datasets import DataSet

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it, and a folder to work in."""

    bin: Path
    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of a machine with no program but those of the environment: no compiler, no git."""
        return {
            "PATH": str(self.bin),
            "HOME": str(self.folder),
            "KILONET_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *words: str | Path) -> Answer:
        """Run a program of the environment."""
        command = [str(self.bin / words[0]), *map(str, words[1:])]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=240, check=False, cwd=self.folder, env=self.variables
        )
        return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # The packages that build it are in this environment already.
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(words, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(
    scope="module",
    params=[pytest.param("borrowed", marks=pytest.mark.ci), pytest.param("installed", marks=pytest.mark.slow)],
)
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own, the libraries it needs borrowed from this one, or installed too."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False)
    bin_ = folder / "venv" / "bin"
    install = [*PIP, "--python", str(bin_ / "python"), "install", "--quiet"]
    if request.param == "borrowed":
        subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)
        (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
        # The .pth files of a folder that is named by one are not read: the checkout's own kilonet stays out of sight.
        (packages / "borrowed.pth").write_text(str(Path(pytest.__file__).parents[1]), encoding="utf-8")
    else:
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*install, *constraints, f"kilonet[serve] @ {wheel.as_uri()}"], check=True)
    return Installed(bin_, folder)


FORKED = """
import json, os, sys
import torch
import kilonet
from kilonet.cli import main

print(kilonet.__file__, flush=True)
for words in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        for descriptor, stream in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{words[0]}.{stream}", os.O_WRONLY | os.O_CREAT), descriptor)
        sys.exit(main(words))
    print(words[0], os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs commands of the installed package one after another, and imports torch for all of them once."""


@pytest.fixture(scope="module")
def answers(installed: Installed, mnist: DataSet, small_folder: Path) -> dict[str, Answer]:
    """What commands answer, by the command, and where the package lies that ran them."""
    Image.fromarray(mnist.test.pixels[0, 0].numpy()).save(installed.folder / "seven.png")
    small = ("--data", str(small_folder))
    commands = (
        ("evaluate", "uno", "--json"),
        ("predict", "best", "seven.png"),
        ("export", "mcu", "--to", "c", "--out", "exported", *small),
        ("train", "uno", "--epochs", "1", *small, "--precision", "float32", "--json"),
    )
    done = installed.run("python", "-c", FORKED, json.dumps(commands))
    place, *ended = done.out.splitlines()
    found = {"python": Answer(done.status, place, done.err)}
    for line in ended:
        name, status = line.split()
        out, err = ((installed.folder / f"{name}.{stream}").read_text() for stream in ("out", "err"))
        found[name] = Answer(int(status), out, err)
    return found


def test_it_is_the_installed_package_that_runs(answers: dict[str, Answer], installed: Installed) -> None:
    assert answers["python"].status == 0, answers
    assert Path(answers["python"].out).is_relative_to(installed.folder)


def test_it_evaluates_the_packaged_model(answers: dict[str, Answer]) -> None:
    answer = answers["evaluate"]
    assert answer.status == 0, answer
    assert json.loads(answer.out)["correct"] == 9951


def test_it_predicts(answers: dict[str, Answer]) -> None:
    answer = answers["predict"]
    assert answer.status == 0, answer
    assert answer.out.startswith("seven.png: 7 (")


def test_it_exports(answers: dict[str, Answer], installed: Installed) -> None:
    answer = answers["export"]
    assert answer.status == 0, answer
    assert (installed.folder / "exported" / "model.c").is_file()


def test_it_trains_by_torch_without_a_compiler_and_says_so(answers: dict[str, Answer]) -> None:
    answer = answers["train"]
    assert answer.status == 0, answer
    assert json.loads(answer.out)["environment"]["engine"] == "torch"
    (line,) = (line for line in answer.err.splitlines() if "engine" in line)
    assert re.search("torch engine.*no C[+][+] compiler found", line)


@pytest.fixture(scope="module")
def service(installed: Installed) -> Iterator[str]:
    words = [str(installed.bin / "kilonet"), "serve", "mcu", "--port", "0"]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=installed.folder,
        env=installed.variables,
    ) as process:
        assert process.stdout
        found = re.search(r"http://[\d.]+:\d+", process.stdout.readline())
        assert found
        yield found[0]
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


def test_it_serves(service: str, mnist: DataSet, tmp_path: Path) -> None:
    Image.fromarray(mnist.test.pixels[0, 0].numpy()).save(tmp_path / "seven.png")
    content = (tmp_path / "seven.png").read_bytes()
    request = urllib.request.Request(f"{service}/predict", content, {"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["name"] == "7"
    with urllib.request.urlopen(service, timeout=30) as page:
        assert b"<canvas" in page.read()
