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

    def kilonet(self, *arguments: str | Path) -> Answer:
        """Run the installed command."""
        words = [str(self.bin / "kilonet"), *map(str, arguments)]
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=240, check=False, cwd=self.folder, env=self.variables
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


@pytest.fixture(scope="module", params=["borrowed", pytest.param("installed", marks=pytest.mark.slow)])
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


def test_it_is_the_installed_package_that_runs(installed: Installed) -> None:
    script = "import kilonet; print(kilonet.__file__)"
    done = subprocess.run(
        [installed.bin / "python", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=installed.folder,
        env=installed.variables,
    )
    assert Path(done.stdout.strip()).is_relative_to(installed.folder)


def test_it_evaluates_the_packaged_model(installed: Installed) -> None:
    answer = installed.kilonet("evaluate", "mcu", "--json")
    assert answer.status == 0, answer
    assert json.loads(answer.out)["correct"] == 9955


def test_it_predicts(installed: Installed, mnist: DataSet) -> None:
    Image.fromarray(mnist.test.pixels[0, 0].numpy()).save(installed.folder / "seven.png")
    answer = installed.kilonet("predict", "best", "seven.png")
    assert answer.status == 0, answer
    assert answer.out.startswith("seven.png: 7 (")


def test_it_exports(installed: Installed, small_folder: Path) -> None:
    answer = installed.kilonet("export", "mcu", "--to", "c", "--out", "exported", "--data", small_folder)
    assert answer.status == 0, answer
    assert (installed.folder / "exported" / "model.c").is_file()


def test_it_trains_by_torch_without_a_compiler_and_says_so(installed: Installed, small_folder: Path) -> None:
    words = ("--epochs", "1", "--data", small_folder, "--precision", "float32", "--json")
    answer = installed.kilonet("train", "baseline", *words)
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
