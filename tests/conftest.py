"""Options and data that all tests share."""

import gc
import hashlib
import os
import shutil
import sys

# Before torch is imported: the tests share the machine with one another's processes, and tiny networks gain nothing
# from threads that spin while they wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch
from filelock import FileLock

from helpers import Hide, StopAtEpoch, tiny_recipe, unload, write_idx_folder
from kilonet.cli import main
from kilonet.data.datasets import DataSet, load_data
from kilonet.engines.native import build, native_unavailable_reason
from kilonet.engines.native.cache import cache_folder, read_verified, store
from kilonet.export.c import bindings
from kilonet.export.html.browser import CHROMIUM_FLAGS, browser_path, run_in_node
from kilonet.export.quantisation import QuantisationResult, quantise
from kilonet.models.model import load_model
from kilonet.recipe import parse_recipe
from kilonet.training.run_folder import Run
from kilonet.training.train import fit
from kilonet.utils.capacity import cores
from kilonet.utils.compilers import run_compiler
from kilonet.utils.files import write_atomically

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Nearly all objects are modules' and tests', which live as long as the process: a fifth of collecting the tests was
# looking through them again and again. So nothing is collected until the tests are there, and they never are.
gc.disable()

# The same examples every time, however slow the machine.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run all tests, the longer proofs too")


@pytest.fixture
def hide() -> Iterator[Hide]:
    """Hide a library as if it were not installed, and unload the modules that use it, until the test ends.

    What is imported meanwhile is forgotten then: a package and its modules come of the same import.
    """
    unloaded: dict[str, ModuleType | None] = {}
    changed: set[str] = set()

    def hide(library: str, *users: str) -> None:
        changed.update((library, *users))
        unloaded.update({**unload(library, *users), **unloaded})
        sys.modules[library] = None  # type: ignore[assignment]

    yield hide
    unload(*changed)
    for name, module in unloaded.items():
        sys.modules[name] = module  # type: ignore[assignment]
        package, _, attribute = name.rpartition(".")
        if package and (parent := sys.modules.get(package)):
            setattr(parent, attribute, module)


# The files that take longest come first, so that none is left over at the end; first of all those that mostly wait for
# other processes, as there is one worker more than there are cores.
LONGEST = (
    "test_sweep.py",
    "test_kill.py",
    "test_server.py",
    "test_native.py",
    "test_targets.py",
    "test_c.py",
    "test_benchmarks.py",
    "test_report.py",
    "test_wheel.py",
    "test_c_api.py",
    "test_c_avr.py",
    "test_quantisation.py",
    "test_packages.py",
    "test_train.py",
    "test_html.py",
    "test_onnx.py",
    "test_verify.py",
    "test_distillation.py",
    "test_c_resize.py",
    "test_surroundings.py",
    "test_cuts.py",
    "test_run_calibration.py",
    "test_found_digits.py",
    "test_cli.py",
    "test_notebook.py",
    "test_sklearn.py",
    "test_launch.py",
    "test_kills.py",
    "test_page.py",
    "test_report_page.py",
    "test_reading.py",
    "test_lr_finder.py",
    "test_openapi.py",
    "test_app.py",
    "test_predict.py",
    "test_model.py",
    "test_picture_page.py",
    "test_evaluate.py",
    "test_foreign_code.py",
    "test_metadata_in_forms.py",
)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return cores() + 1


def left_out(*, run_slow: bool) -> dict[str, str]:
    """Return the markers of the tests that are skipped, with the reason."""
    if run_slow:
        return {}
    reasons = {"slow": "a longer proof; run it with --run-slow"}
    if "CI" not in os.environ:
        reasons["ci"] = "takes long; run it with CI=true"
    return reasons


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))
    reasons = left_out(run_slow=config.getoption("--run-slow"))
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test in CI that skips for want of a program or a library: .ci/run installs all that tests need."""
    report = yield
    if report.skipped and "CI" in os.environ and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason.startswith("needs "):
            report.outcome, report.longrepr = "failed", f"this test must run in CI, but {reason}"
    return report


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run of the tests share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(shared_folder: Path, pytestconfig: pytest.Config) -> Iterator[None]:
    """All processes of this run of the tests share a cache, apart from the user's.

    It begins and ends with the native libraries of earlier runs: their names are digests of all that they come from,
    and compiling them anew took a tenth of the tests' time.
    """
    cache = shared_folder / "cache"
    libraries = cache / "native"
    cache.mkdir(exist_ok=True, mode=0o700)
    libraries.mkdir(exist_ok=True, mode=0o700)
    # Without pytest's cache (`-p no:cacheprovider`) nothing is kept.
    kept = pytestconfig.cache.mkdir("native") if getattr(pytestconfig, "cache", None) else libraries
    _copy_missing(kept, libraries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILONET_CACHE", str(cache))
        yield
    _copy_missing(libraries, kept)


def _copy_missing(source: Path, destination: Path) -> None:
    for file in (*source.glob("*.so"), *source.glob("*.o")):
        place = destination / file.name
        if not place.exists() and (content := read_verified(file)) is not None:
            store(content, place)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """No file of a test must outlive a loss of power, and thousands are written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _c_compiled_once(shared_folder: Path) -> Iterator[None]:
    """The library that `verify` compiles of the same files by the same command is compiled once for all processes."""
    kept = shared_folder / "compiled-c"
    kept.mkdir(exist_ok=True)

    def compile_once(command: Sequence[str], folder: Path | None = None, *, makes: Path | None = None) -> str:
        if folder is None or makes is None:
            return run_compiler(command, folder, makes=makes)
        digest = hashlib.sha256(repr([word for word in command if word != str(makes)]).encode())
        for file in sorted(folder.glob("*.[ch]")):
            digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
        library = kept / digest.hexdigest()
        printed = "" if library.exists() else run_compiler(command, folder, makes=makes)
        if library.exists():
            shutil.copy(library, makes)
        else:
            write_atomically(library, makes.read_bytes())
        return printed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bindings, "run_compiler", compile_once)
        yield


@pytest.fixture(scope="module")
def c_compiled_quickly(pytestconfig: pytest.Config) -> Iterator[None]:
    """`verify` has C optimised little, for tests of other things than what the compiler makes of it.

    With --run-slow it is optimised as for users.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not pytestconfig.getoption("--run-slow"):
            patch.setattr(bindings, "FLAGS", tuple("-O1" if flag == "-O3" else flag for flag in bindings.FLAGS))
        yield


@pytest.fixture(scope="session")
def quick_compiler(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A C++ compiler that optimises networks little, and gives the trainer's file as it was compiled for other tests.

    What is under test with it is what the generated code says and the build does; what the compiler makes of it at the
    level that users get is under test with the networks that are compiled without it; with --run-slow, with all.
    """
    level = "" if pytestconfig.getoption("--run-slow") else "-O1"
    smallest = parse_recipe({"model": {"input": [1, 4, 4], "layers": ["conv 2", "gap"]}}, "smallest", {})
    assert native_unavailable_reason(smallest) is None
    trainer = read_verified(cache_folder() / f"{build._fingerprint('', build._compiler(), build._library_flags())}.o")
    assert trainer is not None
    folder = tmp_path_factory.mktemp("compiler")
    (folder / "trainer.o").write_bytes(trainer)
    copying = f"*' -c trainer.cpp') [ -f trainer.cpp ] && cp {folder}/trainer.o trainer.o;;"
    script = folder / "c++"
    script.write_text(f'#!/bin/sh\ncase "$*" in {copying} *) exec {build._compiler()} "$@" {level};; esac\n')
    script.chmod(0o755)
    return script


@pytest.fixture(scope="session")
def mnist() -> DataSet:
    return load_data("mnist")


@pytest.fixture(scope="session")
def exported_best(shared_folder: Path, mnist: DataSet) -> Path:
    """The page of `best`, exported on a hundredth of the training images; read-only, shared by all processes."""
    folder = shared_folder / "exported-best"
    with FileLock(shared_folder / "exported-best.lock"):
        if not folder.is_dir():
            train, test = (
                (part.pixels[:count, 0].numpy(), part.labels[:count].to(torch.uint8).numpy())
                for part, count in ((mnist.train, 600), (mnist.test, 1_000))
            )
            data = write_idx_folder(shared_folder / "mnist-600", train, test)
            assert main(["export", "best", "--to", "html", "--out", str(folder), "--data", str(data)]) == 0
    return folder


@pytest.fixture(scope="session")
def small_folder(mnist: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,200 and 500 real images as a folder of IDX files."""
    train, test = (
        (part.pixels[:count, 0].numpy(), part.labels[:count].to(torch.uint8).numpy())
        for part, count in ((mnist.train, 1200), (mnist.test, 500))
    )
    return write_idx_folder(tmp_path_factory.mktemp("small"), train, test)


@pytest.fixture(scope="session")
def small(small_folder: Path) -> DataSet:
    return load_data(str(small_folder))


@pytest.fixture(scope="session")
def quantised_mcu(small: DataSet) -> QuantisationResult:
    """The integers of `mcu` with scales from the small images, for exports whose choice of scales is not under test."""
    return quantise(load_model("mcu"), small.train)


@pytest.fixture(scope="session")
def finished(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with its folder. Nobody changes its files."""
    return fit(tiny_recipe(small_folder), out=tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture(scope="session")
def quantised(finished: Run, small: DataSet) -> QuantisationResult:
    """The integers of the finished run."""
    return quantise(finished.model, small.train)


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    """One headless browser for all tests; see browser.py."""
    # Imported here, so that tests that need no browser run without playwright.
    from playwright.sync_api import sync_playwright

    path = browser_path()
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS) as browser,
    ):
        yield browser


@pytest.fixture
def pages_in_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are verified in Node, which starts faster than Chromium, for tests of other things."""
    if shutil.which("node"):
        monkeypatch.setattr("kilonet.export.html.browser._choose_runner", lambda: run_in_node)


@dataclass(frozen=True)
class Interrupted:
    """A run folder that was left after two of three epochs, and the SHA-256 that its run would have ended with."""

    folder: Path
    sha256: str


@pytest.fixture(scope="session")
def _interrupted_run(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    folder = tmp_path_factory.mktemp("runs") / "interrupted"
    recipe = tiny_recipe(small_folder, epochs=3)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, out=folder, progress=StopAtEpoch(2))
    return Interrupted(folder, fit(recipe).result.model_sha256)


@pytest.fixture
def interrupted(_interrupted_run: Interrupted, tmp_path: Path) -> Interrupted:
    """The test's own copy."""
    folder = tmp_path / "interrupted"
    folder.mkdir()
    for file in _interrupted_run.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return Interrupted(folder, _interrupted_run.sha256)
