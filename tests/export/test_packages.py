"""Packages of the C form: taken by their ecosystem's own tool where it can be installed, else checked and built.

Real tools: CMake, Arduino's builder with its core for AVRs, the readers of manifests of PlatformIO and ESP-IDF, and
kconfiglib. ESP-IDF's and Zephyr's CMake, and Arduino's core for a Cortex-M, are small ones of `sdk`; compilers real.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_c import STRICT, run
from test_c_api import CALIBRATED, COLOURED, DIGITS, network_of

import kilonet
from helpers import command, needs, refusal
from kilonet.data.datasets import DataSet
from kilonet.export.c import codegen
from kilonet.export.c.header import CFacts
from kilonet.export.c.packages import PACKAGES, PackageFacts, packaged
from kilonet.export.c.targets import TARGETS
from kilonet.export.exporter import export_model
from kilonet.export.integer import integer_logits
from kilonet.export.manifest import read_manifest
from kilonet.export.quantisation import QuantisationResult
from kilonet.models.calibration import UNFITTED, Calibration
from kilonet.models.metadata import Metadata
from kilonet.models.model import serialise
from kilonet.network.section import ModelSection
from kilonet.training.run_folder import Run
from kilonet.utils.errors import KilonetError
from strategies import images_for

pytestmark = pytest.mark.usefixtures("c_compiled_quickly")

SDK = Path(__file__).parent / "sdk"
LINK = Path(kilonet.__file__).parent / "export" / "c" / "emulated" / "link.ld"
QEMU = {target.name: target for target in TARGETS}
ARDUINO = Path("/usr/share/arduino")
HOSTILE = ('"); evil(); //', "*/ #error", "\\", "${X} $(Y) @Z@", "a\nb: c", "\x1b[2J\x9b", "??/", "ñ\U0001f600")
NAMED = Metadata(names=(*HOSTILE, "eight", "9 %s"), digits=False)


def library(name: str) -> Any:
    """Return a library that only these tests need, or skip the test where it is not installed."""
    return pytest.importorskip(name, reason=f"needs {name}")


def write(
    package: str,
    folder: Path,
    prefix: str = "meter",
    section: ModelSection = DIGITS,
    *,
    metadata: Metadata = CALIBRATED,
    licence: str | None = "mit",
) -> str:
    """Write a package of a random network, and return what its example has to print."""
    network, image = network_of(section), images_for(section, 1, 1).numpy()
    logits = integer_logits(network, image)[0]
    texts = codegen.sources(network, section, metadata, CFacts(prefix, licence=licence))
    facts = PackageFacts(prefix, licence, image[0], int(logits.argmax()))
    for path, text in packaged(package, texts, network, facts).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    calibration = metadata.calibration or UNFITTED
    floats = (logits[None] * 2.0**-network.fraction_bits).astype("float32")
    confidence = calibration.probabilities(floats).max()
    none = bool((calibration.strange(floats) & metadata.reads_digits(network.input_shape, network.classes))[0])
    doubt = ", none of the classes" if none else ", not sure" if calibration.uncertain(floats)[0] else ""
    name = printable(metadata.name_of(int(logits.argmax())))
    return f"self-test: passed\nclass: {name}, confidence: {100 * confidence:.1f} %{doubt}\n"


def printable(name: str) -> str:
    """Return a class name as the examples print it: of a control character of two bytes in UTF-8 the first is left."""
    return re.sub(r"[\x80-\x9f]", "\ufffd?", re.sub(r"[\x00-\x1f\x7f]", "?", name))


def printed(program: Path, target: str) -> str:
    """Return what a program prints under qemu."""
    command = [*QEMU[target].emulator, "-nographic", "-semihosting-config", "enable=on,target=native", "-kernel"]
    done = subprocess.run([*command, program], capture_output=True, timeout=60, check=True)
    return (done.stdout + done.stderr).decode(errors="replace").replace("\r", "")


def linking(target: str) -> list[str]:
    origins = (f"-Wl,--defsym=flash_origin={QEMU[target].flash}", f"-Wl,--defsym=ram_origin={QEMU[target].ram}")
    return [*QEMU[target].flags, "-nostdlib", "-static", "-Wl,--gc-sections", "-T", str(LINK), *origins]


# CMake.


def cmake(*words: str | Path, folder: Path, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        ["cmake", *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()
    return done.stdout


APPLICATION = """cmake_minimum_required(VERSION 3.15)
project(application LANGUAGES C CXX)
find_package(meter_model 1.0 REQUIRED)
add_subdirectory(../kilonet kilonet)
add_subdirectory(../meter/examples/classify example)
add_executable(application application.cpp)
target_link_libraries(application PRIVATE meter_model::meter_model kilonet_model::kilonet_model)
"""
APPLICATION_CPP = """#include <meter_model.h>
#include <meter_resize.h>
#include <model.h>
int main()
{
    static meter_state one;
    static kilonet_state other;
    return meter_selftest(&one, nullptr) && kilonet_selftest(&other, nullptr) ? 0 : 1;
}
"""
WARNINGS = f"-DCMAKE_C_FLAGS={' '.join(STRICT[1:])}"


@pytest.mark.ci
def test_cmake_builds_tests_installs_and_finds_the_package(tmp_path: Path) -> None:
    """Of two networks in one program, one is installed and the other a part of the project."""
    needs("cmake")
    expected = write("cmake", tmp_path / "meter")
    write("cmake", tmp_path / "kilonet", "kilonet", COLOURED)
    installed = tmp_path / "installed"
    cmake("-S", "meter", "-B", "built", "-DMETER_PLAIN=ON", WARNINGS, folder=tmp_path)
    cmake("--build", "built", folder=tmp_path)
    cmake("--install", "built", "--prefix", installed, folder=tmp_path)
    run("ctest", "--test-dir", "built", folder=tmp_path)
    assert run(tmp_path / "built/examples/classify/meter_classify", folder=tmp_path) == expected
    needs("g++")
    shutil.rmtree(tmp_path / "meter/src")
    (tmp_path / "application").mkdir()
    (tmp_path / "application/CMakeLists.txt").write_text(APPLICATION)
    (tmp_path / "application/application.cpp").write_text(APPLICATION_CPP)
    cmake("-S", "application", "-B", "again", f"-DCMAKE_PREFIX_PATH={installed}", WARNINGS, folder=tmp_path)
    cmake("--build", "again", folder=tmp_path)
    run(tmp_path / "again/application", folder=tmp_path)
    assert run(tmp_path / "again/example/meter_classify", folder=tmp_path) == expected


# Arduino and PlatformIO.

# The network of an ATmega328P in test_c_avr.py.
TINY = ModelSection(layers=("conv 8 stride 2", "conv 12 stride 2", "conv 16 same", "gap", "pointwise 10"))


def blinks(expected: str, name: str) -> str:
    """Return what the emulated core prints: the sketch blinks its class, once for the first."""
    assert name.isdecimal()
    return f"{expected}{'#' * (int(name) + 1)}\n"


@pytest.mark.ci
def test_arduinos_own_builder_takes_the_library_and_its_sketch_runs_on_an_uno(tmp_path: Path) -> None:
    needs("arduino-builder", "avr-g++", "simavr")
    if not (ARDUINO / "hardware/arduino/avr").is_dir():
        pytest.skip("needs arduino-core-avr")
    expected = write("arduino", tmp_path / "libraries/any name", section=TINY)
    sketch = tmp_path / "libraries/any name/examples/classify/classify.ino"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    (tmp_path / "built").mkdir()
    answer = run(
        *("arduino-builder", "-compile", "-fqbn", "arduino:avr:uno", "-warnings", "all"),
        *("-hardware", "/usr/share/arduino-builder", "-hardware", ARDUINO / "hardware", "-tools", ARDUINO / "hardware"),
        *("-libraries", tmp_path / "libraries", "-build-path", tmp_path / "built"),
        # Debian's core asks for this macro, which its avr-libc gives to C alone.
        *("-prefs", "compiler.cpp.extra_flags=-DDECIMAL_DIG=9", "-prefs", "compiler.warning_flags=-Wall -Wextra"),
        sketch,
        folder=tmp_path,
    )
    assert "libraries/any name" not in answer, "a warning"
    assert "Sketch uses" in answer
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert simulated_lines(tmp_path / "built/classify.ino.elf", "atmega328p", 2) == expected


def simulated_lines(program: Path, chip: str, lines: int) -> str:
    """Return the first lines that a program without an end prints under simavr."""
    found, end = "", time.monotonic() + 60
    words = ["simavr", "-m", chip, "-f", "16000000", str(program)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0) as simulator:
        assert simulator.stdout is not None
        while found.count("\n") < lines and time.monotonic() < end:
            line = simulator.stdout.readline().decode(errors="replace")
            text = re.sub(r"\x1b\[\d*m", "", line).rstrip("\n")
            # It shows the end of a line, two characters, as two dots.
            found += f"{text.removesuffix('..')}\n" if text.endswith("..") else ""
        simulator.kill()
    return found


@pytest.mark.parametrize(
    ("package", "sketch", "target"),
    [
        ("arduino", "examples/classify/classify.ino", "cortex-m0"),
        ("platformio", "examples/classify/src/main.cpp", "cortex-m4"),
    ],
)
def test_the_sketch_runs_on_a_cortex(package: str, sketch: str, target: str, tmp_path: Path) -> None:
    """Compiled as their cores for these boards do: C++ without exceptions and run-time types."""
    needs("arm-none-eabi-g++", "qemu-system-arm")
    expected = write(package, tmp_path)
    flags = [*QEMU[target].flags, "-Os", "-ffreestanding", "-ffunction-sections", "-fdata-sections"]
    warnings = ("-Wall", "-Wextra", "-Werror")
    cpp = ("-x", "c++", "-std=gnu++11", "-fno-exceptions", "-fno-rtti", "-I", SDK / "arduino", "-I", "src")
    (tmp_path / "o").mkdir()
    run("arm-none-eabi-g++", *flags, *warnings, *cpp, "-c", sketch, "-o", "o/sketch.o", folder=tmp_path)
    run("arm-none-eabi-g++", *flags, *cpp, "-c", SDK / "arduino/core.cpp", "-o", "o/core.o", folder=tmp_path)
    sources = [*sorted(tmp_path.glob("src/*.c")), SDK / "board.c"]
    for source in sources:
        run("arm-none-eabi-gcc", *flags, *warnings, "-c", source, "-o", f"o/{source.stem}.o", folder=tmp_path)
    objects = sorted(tmp_path.glob("o/*.o"))
    run("arm-none-eabi-gcc", *linking(target), "-o", "sketch.elf", *objects, "-lgcc", folder=tmp_path)
    name = re.findall(r"class: (\d+)", expected)[0]
    assert printed(tmp_path / "sketch.elf", target) == blinks(expected, name)


def test_the_sketch_says_that_the_self_test_failed(tmp_path: Path) -> None:
    needs("cmake")
    expected = write("cmake", tmp_path)
    model = tmp_path / "src/meter_model.c"
    model.write_text(re.sub(r"(weights_1\[\d+\] METER_FLASH = \{\s*)-?\d+", r"\g<1>3", model.read_text()))
    cmake("-S", ".", "-B", "built", "-DMETER_PLAIN=ON", folder=tmp_path)
    cmake("--build", "built", folder=tmp_path)
    answer = run(tmp_path / "built/examples/classify/meter_classify", folder=tmp_path, status=1)
    assert answer.startswith("self-test: FAILED\n")
    assert not expected.startswith(answer)


@pytest.mark.parametrize("package", ["platformio", "arduino"])
def test_platformio_reads_the_manifest(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Arduino's libraries, too, which it takes as they are."""
    parser = library("platformio.package.manifest.parser")
    schema = library("platformio.package.manifest.schema").ManifestSchema
    # It loads the list from the network.
    monkeypatch.setattr(schema, "load_spdx_licenses", lambda *_: {"licenses": [{"licenseId": "MIT"}]}, raising=True)
    write(package, tmp_path)
    table = schema().load_manifest(parser.ManifestParserFactory.new_from_dir(str(tmp_path)).as_dict())
    assert (table["name"], table["version"]) == ("meter_model", "1.0.0")
    assert table["description"].startswith("Sorts grey images of 28x28 pixels into 10 classes")
    if package == "arduino":
        return
    assert (table["license"], table["headers"]) == ("MIT", ["meter_model.h"])
    (example,) = table["examples"]
    assert all((tmp_path / example["base"] / file).is_file() for file in example["files"])
    config = library("platformio.project.config").ProjectConfig(str(tmp_path / example["base"] / "platformio.ini"))
    config.validate(silent=False)
    assert config.envs() == ["uno", "mega", "nucleo", "esp32c3"]
    (symlink,) = config.get("env:uno", "lib_deps")
    assert (tmp_path / example["base"] / symlink.removeprefix("symlink://")).resolve() == tmp_path


# ESP-IDF and Zephyr.


def toolchain(target: str, folder: Path) -> str:
    """Write a toolchain file for CMake, and return the flag that names it."""
    flags = " ".join(["-ffreestanding", "-ffunction-sections", "-fdata-sections", f"-I{SDK}", *QEMU[target].flags])
    (folder / "toolchain.cmake").write_text(
        f"set(CMAKE_SYSTEM_NAME Generic)\nset(CMAKE_C_COMPILER {QEMU[target].tools}gcc)\n"
        f'set(CMAKE_C_FLAGS_INIT "{flags}")\nset(CMAKE_EXE_LINKER_FLAGS_INIT "{" ".join(linking(target))}")\n'
        'set(CMAKE_C_STANDARD_LIBRARIES "-lgcc" CACHE STRING "")\nset(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)\n'
    )
    return f"-DCMAKE_TOOLCHAIN_FILE={folder / 'toolchain.cmake'}"


def options_of(kconfig: Path) -> dict[str, str]:
    """Return the options of a Kconfig file with their defaults, having checked that its reader has no complaint."""
    reader = library("kconfiglib")
    read = reader.Kconfig(str(kconfig), warn_to_stderr=False)
    assert read.warnings == []
    return {symbol.name: symbol.str_value for symbol in read.unique_defined_syms}


@pytest.mark.ci
def test_esp_idf_takes_the_component_and_its_example_runs(tmp_path: Path) -> None:
    needs("cmake", "riscv64-unknown-elf-gcc", "qemu-system-riscv32")
    (tmp_path / "any").mkdir()
    expected = write("esp-idf", tmp_path / "any")
    options = options_of(tmp_path / "any/Kconfig")
    assert options == {"METER_OPTIMIZE": "y", "METER_PLAIN": "n"}
    set_ = (f"-DCONFIG_{name}={value}" for name, value in options.items())
    environment = {"IDF_PATH": str(SDK / "esp-idf")}
    words = ("-S", "any/examples/classify", "-B", "built", toolchain("rv32imac", tmp_path), *set_)
    cmake(*words, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", folder=tmp_path, environment=environment)
    cmake("--build", "built", folder=tmp_path, environment=environment)
    assert printed(tmp_path / "built/meter_classify.elf", "rv32imac") == expected
    commands = (tmp_path / "built/compile_commands.json").read_text()
    assert re.search(r"-Og [^\n]*-O2 [^\n]*meter_runtime\.c", commands)
    assert "METER_PLAIN" not in commands
    cmake("built", "-DCONFIG_METER_PLAIN=y", folder=tmp_path, environment=environment)
    assert re.search(r"-DMETER_PLAIN [^\n]*classify\.c", (tmp_path / "built/compile_commands.json").read_text())


def test_esp_idf_reads_the_manifest(tmp_path: Path) -> None:
    manager = library("idf_component_tools.manager").ManifestManager
    write("esp-idf", tmp_path)
    manifest = manager(str(tmp_path), "meter_model").load()
    assert (str(manifest.version), manifest.license) == ("1.0.0", "MIT")
    assert manifest.dependencies == {"idf": ">=4.4"}
    assert manifest.description.startswith("Sorts grey images")


MODULE_KEYS = {"name", "build", "samples"}
"""Of those of Zephyr's scripts/zephyr_module.py."""


@pytest.mark.ci
def test_zephyr_takes_the_module_and_its_sample_runs(tmp_path: Path) -> None:
    needs("cmake", "arm-none-eabi-g++", "qemu-system-arm")
    expected = write("zephyr", tmp_path / "any")
    module = yaml.safe_load((tmp_path / "any/zephyr/module.yml").read_text())
    assert set(module) == MODULE_KEYS
    assert module["build"] == {"cmake": "zephyr", "kconfig": "zephyr/Kconfig"}
    assert all((tmp_path / "any" / samples).is_dir() for samples in module["samples"])
    assert set(options_of(tmp_path / "any/zephyr/Kconfig")) == {"METER_MODEL", "METER_OPTIMIZE", "METER_PLAIN"}
    sample = yaml.safe_load((tmp_path / "any/samples/classify/sample.yaml").read_text())
    environment = {"ZEPHYR_BASE": str(SDK / "zephyr")}
    words = ("-S", "any/samples/classify", "-B", "built", toolchain("cortex-m33", tmp_path))
    cmake(*words, "-DCONFIG_METER_PLAIN=y", "-DCONFIG_METER_OPTIMIZE=y", folder=tmp_path, environment=environment)
    cmake("--build", "built", folder=tmp_path, environment=environment)
    answer = printed(tmp_path / "built/app", "cortex-m33")
    assert answer == expected
    wanted = sample["tests"]["sample.meter_model.classify"]["harness_config"]["regex"]
    assert [bool(re.search(line, answer)) for line in wanted] == [True, True]


# What others wrote.


@pytest.mark.parametrize("package", PACKAGES)
def test_what_others_wrote_reaches_only_the_header_and_there_escaped(package: str, tmp_path: Path) -> None:
    needs("cmake")
    write(package, tmp_path, metadata=NAMED)
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        text = file.read_text(encoding="utf-8")
        assert not [name for name in HOSTILE[:6] if name in text and len(name) > 1], file
        assert "kilonet_" not in text.lower(), file
        assert "@" not in text, file
    for example in tmp_path.rglob("classify.c"):
        flags = ("-I", "src", "-I", example.parent)
        run("gcc", *STRICT, *flags, "-fsyntax-only", example, *sorted(tmp_path.glob("src/*.c")), folder=tmp_path)
    for licence in HOSTILE:
        for kind in ("platformio", "esp-idf"):
            with pytest.raises(KilonetError) as error:
                write(kind, tmp_path / "other", licence=licence)
            refusal(error, "licence")
    write(package, tmp_path / "none", licence=None)
    write(package, tmp_path / "expression", licence="Apache-2.0 OR (MIT AND BSD-3-Clause)")
    for file in (*tmp_path.rglob("library.json"),):
        json.loads(file.read_text())
    for file in (*tmp_path.rglob("*.yml"), *tmp_path.rglob("*.yaml")):
        yaml.safe_load(file.read_text())


def test_the_example_prints_any_name_on_one_line(tmp_path: Path) -> None:
    write("cmake", tmp_path, metadata=NAMED)
    (tmp_path / "names.c").write_text(
        '#define main example\n#include "examples/classify/classify.c"\n#undef main\n'
        "int main(void)\n{\n    unsigned i;\n    for (i = 0; i < METER_CLASSES; i++)\n"
        "        print_class(i), putchar(10);\n    return 0;\n}\n"
    )
    files = ("names.c", *(f"src/meter_{name}.c" for name in ("model", "runtime", "vectors", "answer", "selftest")))
    run("gcc", *STRICT, "-DMETER_PLAIN", "-I", "src", "-o", "names", *files, folder=tmp_path)
    done = subprocess.run([tmp_path / "names"], capture_output=True, check=True, timeout=60)
    assert done.stdout.decode(errors="replace").split("\n") == [*map(printable, NAMED.names or ()), ""]


# The folder.


@pytest.fixture(autouse=True)
def _quantised_once(quantised: QuantisationResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised)


@pytest.mark.parametrize("package", ["arduino", "cmake"])
def test_a_package_is_exported_and_verified_as_the_flat_form_is(
    package: str,
    finished: Run,
    small_folder: Path,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needs("arm-none-eabi-g++", "qemu-system-arm")
    monkeypatch.setattr("kilonet.export.verify.TARGETS", (QEMU["cortex-m4"],))
    assert finished.folder is not None
    out = tmp_path / "out"
    words = ("export", finished.folder, "--to", package, "--prefix", "meter", "--data", small_folder, "--out", out)
    found: dict[str, Any] = json.loads(command(capsys, *words, "--json").out)
    paths = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert set(found["files"]) == paths
    assert {"src/meter_model.h", "src/meter_model.c", "model.json"} <= paths
    assert read_manifest(out).package == package
    # What a kill between two files leaves.
    shutil.rmtree(out / "src")
    example = next(iter(out.rglob("image.h")))
    example.unlink()
    again = command(capsys, *words)
    assert again.status == 0
    assert again.out.splitlines()[-1].startswith("Then: ")
    assert "kilonet_" not in again.out
    answer = command(capsys, "verify", out, "--data", small_folder, "--targets")
    assert answer.status == 0, answer
    assert answer.out.splitlines()[-1].split()[:3] == ["cortex-m4", "200", "0"]
    example.write_text("")
    (out / "src/more.c").write_text("")
    (out / "src/meter_model.c").unlink()
    (out / "built/deep").mkdir(parents=True)
    answer = command(capsys, "verify", out, "--data", small_folder)
    assert (answer.status, answer.err) == (1, "")
    named = ["built", str(example.relative_to(out)), "src/meter_model.c", "src/more.c"]
    assert [line.split(":")[0] for line in answer.out.splitlines()[:-1]] == named


def test_the_example_shows_the_first_image_that_is_answered_surely(
    finished: Run, small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file, out = finished.model, tmp_path / "model.safetensors", tmp_path / "out"

    def shown(sure_from: float) -> list[int]:
        """Export the model with a threshold, and return the pixels of the example and then their class."""
        metadata = Metadata(calibration=Calibration(sure_from=sure_from))
        file.write_bytes(serialise(model.section, model.network.state(), metadata))
        shutil.rmtree(out, ignore_errors=True)
        assert command(capsys, "export", file, "--to", "cmake", "--data", small_folder, "--out", out).status == 0
        head, pixels = next(out.rglob("image.h")).read_text().split("KILONET_FLASH = ")
        return [int(number) for number in re.findall(r"\d+", pixels) + re.findall(r"is (\d+)\. ", head)]

    def stored(place: int) -> list[int]:
        return [*manifest.pixels[place].flatten().tolist(), int(manifest.logits[place].argmax())]

    first, manifest = shown(0.0), read_manifest(out)
    probabilities = UNFITTED.probabilities((manifest.logits * 2.0**-manifest.network.fraction_bits).astype("float32"))
    surest = int(probabilities.max(1).argmax())
    assert surest > 0
    assert first == stored(0)
    assert shown(float(probabilities.max())) == stored(surest)
    # None is as sure as that.
    assert shown(1.0) == stored(0)


def test_the_command_line_knows_every_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in PACKAGES:
        command(capsys, "export", "no-such-model", "--to", package, "--out", tmp_path / "out").refused("no-such-model")


def test_a_folder_holds_one_form_of_the_c(finished: Run, small: DataSet, tmp_path: Path) -> None:
    export_model("zephyr", finished.model, small, tmp_path, "tiny")
    for form in ("c", "arduino"):
        with pytest.raises(KilonetError) as error:
            export_model(form, finished.model, small, tmp_path, "tiny")
        refusal(error, "--to zephyr", "choose another folder")
    export_model("html", finished.model, small, tmp_path, "tiny")
    assert read_manifest(tmp_path).package == "zephyr"
    with pytest.raises(KilonetError) as error:
        export_model("keil", finished.model, small, tmp_path / "other", "tiny")
    refusal(error, "keil", "arduino", "onnx")


def test_a_manifest_of_no_package_is_refused(finished: Run, small: DataSet, tmp_path: Path) -> None:
    export_model("cmake", finished.model, small, tmp_path, "tiny")
    table = json.loads((tmp_path / "model.json").read_text())
    broken: list[dict[str, object]] = [{"package": "../x"}, {"prefix": None}, {"vectors": []}, {"package": 1}]
    for changes in broken:
        (tmp_path / "model.json").write_text(json.dumps({**table, **changes}))
        with pytest.raises(KilonetError) as error:
            read_manifest(tmp_path)
        refusal(error, "model.json", "package")


def test_only_packaged_models_have_a_licence(finished: Run, small: DataSet, tmp_path: Path) -> None:
    for source in ("mcu", "tiny"):
        export_model("platformio", finished.model, small, tmp_path / source, source)
    assert json.loads((tmp_path / "mcu" / "library.json").read_text())["license"] == "MIT"
    assert "license" not in json.loads((tmp_path / "tiny" / "library.json").read_text())
