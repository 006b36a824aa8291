"""The C form: equal to the reference to the bit on every target, and as small as its footprint states."""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers import DEBIAN, in_ci, model_section, needs
from kilonet.data.datasets import DataSet, Images
from kilonet.export.c import codegen
from kilonet.export.c.bindings import CompiledC
from kilonet.export.c.footprint import footprint_of
from kilonet.export.c.header import GENERIC, CFacts
from kilonet.export.integer import IntegerNetwork, integer_logits
from kilonet.export.quantisation import choose_scales
from kilonet.export.unrounded_steps import to_integer_network
from kilonet.models.model import Model, load_model
from strategies import images_for, model_of, models

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
LINKER = ("-fuse-ld=gold",) if shutil.which("ld.gold") else ()
"""It links a program with sanitizers in a third of the time."""
TARGETS = ("-march=native", "-DKILONET_PLAIN")
"""Vectors, on a processor that has them, and pixel after pixel."""
each_target = pytest.mark.parametrize("target", [TARGETS[0], *in_ci(TARGETS[1])])
RUNTIME = tuple(name for name in codegen.LIBRARY_FILES if name != "model.c")
PIPE = r"""#include "model.h"
#include <stdio.h>
#include <string.h>
int main(void)
{
    static uint8_t pixels[KILONET_PIXELS], line[KILONET_ROW_BYTES];
    static int32_t logits[KILONET_CLASSES], others[KILONET_CLASSES];
    static kilonet_state state;
    unsigned row, column, channel;
    if (!kilonet_selftest(&state, 0))
        return 2;
    while (fread(pixels, 1, sizeof pixels, stdin) == sizeof pixels) {
        int done = 0;
        kilonet_classify(pixels, logits);
        kilonet_begin(&state);
        for (row = 0; row < KILONET_ROWS; row++) {
            for (column = 0; column < KILONET_COLUMNS; column++)
                for (channel = 0; channel < KILONET_CHANNELS; channel++)
                    line[column * KILONET_CHANNELS + channel] =
                        pixels[(channel * KILONET_ROWS + row) * KILONET_COLUMNS + column];
            done = kilonet_row(&state, line, others);
        }
        if (!done || !kilonet_row(&state, line, others) || memcmp(logits, others, sizeof logits) != 0)
            return 4;
        fwrite(logits, 1, sizeof logits, stdout);
    }
    return 0;
}
"""
CORTEX = Path(__file__).parent / "cortex"

needs_cross_compiler = pytest.mark.skipif(not shutil.which("arm-none-eabi-gcc"), reason="needs gcc-arm-none-eabi")
needs_emulator = pytest.mark.skipif(not shutil.which("qemu-system-arm"), reason="needs qemu-system-arm")


def integers(model: Model, pixels: torch.Tensor) -> IntegerNetwork:
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    return to_integer_network(model.section, choose_scales(model, Images(pixels, labels)))


@pytest.fixture(scope="module")
def mcu(mnist: DataSet) -> IntegerNetwork:
    return integers(load_model("mcu"), mnist.train.pixels)


@pytest.fixture(scope="module")
def runtimes(mcu: IntegerNetwork, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The runtime for a target under sanitizers, compiled once, as it is the same for every network."""
    return functools.cache(lambda target: sanitized_runtime(mcu, tmp_path_factory.mktemp("runtime"), target))


def sanitized_runtime(network: IntegerNetwork, folder: Path, target: str) -> Path:
    write(network, folder)
    header = folder / "model.h"
    header.write_text(re.sub(r"(KILONET_HAS_\w+) 0", r"\1 1", header.read_text()))
    for name in RUNTIME:
        run("gcc", *STRICT, "-g", "-O1", *SANITIZERS, target, "-c", name, folder=folder)
    run("ld", "-r", "-o", "runtime.o", *(Path(name).with_suffix(".o") for name in RUNTIME), folder=folder)
    return folder / "runtime.o"


def sources(network: IntegerNetwork, family: str = GENERIC) -> dict[str, str]:
    # The section tells the header how to scale pictures, and no more.
    return codegen.sources(network, model_section("gap", input=network.input_shape), facts=CFacts(family=family))


def write(network: IntegerNetwork, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in sources(network).items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def run(*command: str | Path, folder: Path, status: int = 0) -> str:
    if (program := str(command[0])) in DEBIAN:
        needs(program)
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout + done.stderr


def pgm(image: NDArray[np.uint8], head: bytes | None = None) -> bytes:
    return (b"P5\n%d %d\n255\n" % (image.shape[1], image.shape[0]) if head is None else head) + image.tobytes()


@pytest.mark.ci
def test_all_test_images_give_the_reference_s_logits(mcu: IntegerNetwork, mnist: DataSet, tmp_path: Path) -> None:
    needs("cc")
    pixels = mnist.test.pixels.numpy()
    compiled = CompiledC(write(mcu, tmp_path), mcu.input_shape, mcu.classes)
    assert int((compiled.logits(pixels) != integer_logits(mcu, pixels)).sum()) == 0


@pytest.mark.slow
@each_target
def test_the_rows_of_all_test_images_give_the_logits_of_whole_images(
    target: str, mcu: IntegerNetwork, mnist: DataSet, tmp_path: Path
) -> None:
    pixels = mnist.test.pixels.numpy()
    (write(mcu, tmp_path) / "pipe.c").write_text(PIPE, encoding="utf-8")
    files = ("pipe.c", *codegen.LIBRARY_FILES, "kilonet_selftest.c")
    run("gcc", *STRICT, "-O2", target, "-o", "pipe", *files, folder=tmp_path)
    # It fails where rows have other logits.
    done = subprocess.run([tmp_path / "pipe"], input=pixels.tobytes(), capture_output=True, check=True, timeout=200)
    assert done.stdout == integer_logits(mcu, pixels).astype(np.int32).tobytes()


@pytest.mark.ci
@each_target
@hypothesis.settings(max_examples=20, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(model=models)
def test_random_networks_give_the_reference_s_logits_under_sanitizers(
    tmp_path: Path, runtimes: Callable[[str], Path], target: str, model: Model
) -> None:
    pixels = images_for(model.section, 1, 12)
    network = integers(model, pixels)
    folder = write(network, tmp_path)
    found = sanitized_logits(folder, runtimes(target), target, network, pixels.numpy())
    assert np.array_equal(found, integer_logits(network, pixels.numpy()))


def sanitized_logits(
    folder: Path, runtime: Path, target: str, network: IntegerNetwork, pixels: NDArray[np.uint8]
) -> NDArray[np.int32]:
    """Run the C as a program of its own under ASan and UBSan: raw images on stdin, raw logits on stdout.

    It fails where an image that is given row by row has other logits, or where the self-test fails.
    """
    (folder / "pipe.c").write_text(PIPE, encoding="utf-8")
    run(
        "gcc",
        *STRICT,
        *SANITIZERS,
        *LINKER,
        target,
        "-o",
        "pipe",
        "pipe.c",
        "model.c",
        "kilonet_selftest.c",
        runtime,
        folder=folder,
    )
    done = subprocess.run([folder / "pipe"], input=pixels.tobytes(), capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, np.int32).reshape(-1, network.classes)


@each_target
def test_real_images_are_clean_under_sanitizers(
    target: str, mcu: IntegerNetwork, mnist: DataSet, runtimes: Callable[[str], Path], tmp_path: Path
) -> None:
    pixels = mnist.test.pixels[:100].numpy()
    found = sanitized_logits(write(mcu, tmp_path), runtimes(target), target, mcu, pixels)
    assert np.array_equal(found, integer_logits(mcu, pixels))


@functools.cache
def wide_network() -> IntegerNetwork:
    """Every kind of layer, over several channels of input, with each table of the runtime in use."""
    # Over 16 and 32 outputs, so that vectors take blocks in pairs, and one that is left over and not full.
    layers = (
        "conv 36 same",
        "conv 36 same residual",
        "maxpool 2",
        "conv 72 depthwise",
        "pointwise 37",
        "gap",
        "conv 19 1x1",
    )
    model = model_of(model_section(*layers, input=(3, 11, 13)), 5)
    network = integers(model, images_for(model.section, 5, 100))
    source = sources(network)["model.c"]
    assert all(f".{table} = " in source for table in ("skip", "pad", "offset", "memory"))
    return network


@functools.cache
def strided_network() -> IntegerNetwork:
    """Strides and averages that leave rows and columns over, with outputs that fill blocks of vectors and do not."""
    layers = ("conv 20 stride 2", "conv 40 2x2 stride 3 depthwise", "avgpool 2", "conv 34 same stride 2", "gap")
    model = model_of(model_section(*layers, "conv 19 1x1", input=(3, 47, 43)), 5)
    network = integers(model, images_for(model.section, 5, 100))
    assert re.findall(r"\.between = ([1-9])", sources(network)["model.c"]) == ["1", "2", "1", "1"]
    return network


def images_of(network: IntegerNetwork) -> NDArray[np.uint8]:
    return images_for(model_section("gap", "pointwise 3", input=network.input_shape), 6, 40).numpy()


@each_target
@pytest.mark.parametrize("make", [wide_network, strided_network])
def test_a_wide_network_is_clean_under_sanitizers(
    target: str, make: Callable[[], IntegerNetwork], runtimes: Callable[[str], Path], tmp_path: Path
) -> None:
    network = make()
    pixels = images_of(network)
    found = sanitized_logits(write(network, tmp_path), runtimes(target), target, network, pixels)
    assert np.array_equal(found, integer_logits(network, pixels))


@each_target
@pytest.mark.parametrize(("columns", "bits"), [(500, 16), *in_ci((506, 32))])
def test_indices_have_32_bits_where_16_are_not_enough(columns: int, bits: int, target: str, tmp_path: Path) -> None:
    section = model_section("conv 64", "conv 4", "gap", "pointwise 3", input=(1, 7, columns))
    pixels = images_for(section, 6, 4)
    network = integers(model_of(section, 5), pixels)
    folder = write(network, tmp_path / "network")
    assert f"#define KILONET_INDEX uint{bits}_t" in (folder / "model.h").read_text()
    runtime = sanitized_runtime(network, tmp_path / "runtime", target)
    found = sanitized_logits(folder, runtime, target, network, pixels.numpy())
    assert np.array_equal(found, integer_logits(network, pixels.numpy()))


STRIDED = (
    *("conv 8 same stride 2", "avgpool 2", "conv 16 2x2 stride 2 depthwise", "conv 12 1x1", "avgpool 3"),
    "pointwise 10",
)


@each_target
def test_a_thousand_real_images_through_strides_and_averages(
    target: str, runtimes: Callable[[str], Path], mnist: DataSet, tmp_path: Path
) -> None:
    network = integers(model_of(model_section(*STRIDED), 3), mnist.train.pixels[:1000])
    pixels = mnist.test.pixels[:1000].numpy()
    found = sanitized_logits(write(network, tmp_path), runtimes(target), target, network, pixels)
    expected = integer_logits(network, pixels)
    assert int((found != expected).sum()) == 0
    assert len(np.unique(expected, axis=0)) > 900, "images that all look alike would prove little"


@needs_cross_compiler
@pytest.mark.parametrize("make", [wide_network, strided_network])
def test_the_ram_is_that_of_the_variables(make: Callable[[], IntegerNetwork], tmp_path: Path) -> None:
    network = make()
    folder = write(network, tmp_path)
    run("arm-none-eabi-gcc", "-mcpu=cortex-m0", "-Os", "-std=c99", "-c", "model.c", folder=folder)
    _, sizes = run("arm-none-eabi-size", "model.o", folder=folder).splitlines()
    _, data, bss, *_ = map(int, sizes.split()[:3])
    assert data + bss + np.prod(network.input_shape) + 4 * network.classes == codegen.memory_bytes(network)


@each_target
@pytest.mark.parametrize("level", ["-Os", *in_ci("-O3")])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_compilers_agree_and_have_no_complaint(compiler: str, level: str, target: str, tmp_path: Path) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    network = wide_network()
    folder = write(network, tmp_path)
    run(compiler, *STRICT, "-c", "main.c", folder=folder)
    flags = (level, target, "-fPIC", "-shared")
    run(compiler, *STRICT, *flags, "-o", "library.so", *codegen.LIBRARY_FILES, folder=folder)
    import ctypes

    library = ctypes.CDLL(str(folder / "library.so"))
    pixels = images_of(network)
    found = np.zeros((len(pixels), network.classes), np.int32)
    for image, row in zip(pixels, found, strict=True):
        library.kilonet_classify(ctypes.c_void_p(image.ctypes.data), ctypes.c_void_p(row.ctypes.data))
    assert np.array_equal(found, integer_logits(network, pixels))


def test_no_heap_no_float_no_library_no_recursion(mcu: IntegerNetwork, tmp_path: Path) -> None:
    folder = write(mcu, tmp_path)
    names = (*codegen.LIBRARY_FILES, "kilonet_answer.c", "kilonet_selftest.c")
    text = "".join(
        (folder / name).read_text() for name in (*names, "kilonet_runtime.h", "kilonet_kernels.h", "model.h")
    )
    included = {
        *("<stddef.h>", "<stdint.h>", "<immintrin.h>", "<arm_mve.h>", "<avr/pgmspace.h>"),
        *('"model.h"', '"kilonet_runtime.h"', '"kilonet_kernels.h"'),
    }
    assert set(re.findall(r"#include (\S+)", text)) == included
    # The processor's own instructions are for one that has them, and no microcontroller has.
    assert "immintrin" not in run("gcc", *STRICT, "-DKILONET_PLAIN", "-E", *names, folder=folder)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    assert not re.search(r"\b(float|double|malloc|calloc|alloca|free)\b", text)
    import graphlib

    for target in TARGETS:
        run("gcc", *STRICT, "-Os", target, "-c", *names, "-fcallgraph-info", folder=folder)
        texts = "".join((folder / name).with_suffix(".ci").read_text() for name in names)
        graph: dict[str, set[str]] = {}
        for caller, callee in re.findall(r'sourcename: "(\S+)" targetname: "(\S+)"', texts):
            graph.setdefault(caller, set()).add(callee)
        graphlib.TopologicalSorter(graph).prepare()
        undefined = run("nm", "-u", *(Path(name).with_suffix(".o") for name in names), folder=folder)
        # gcc asks memcpy of every environment, even a freestanding one; no microcontroller needs it here.
        allowed = {"_GLOBAL_OFFSET_TABLE_"} | ({"memcpy"} if "native" in target else set())
        assert {name for name in re.findall(r"U (\S+)", undefined) if not name.startswith("kilonet_")} <= allowed


def test_the_example_classifies_a_pgm_image(mcu: IntegerNetwork, mnist: DataSet, tmp_path: Path) -> None:
    needs("cc")
    needs("make")
    folder = write(mcu, tmp_path)
    environment = {
        **os.environ,
        "CFLAGS": "-O1 -fsanitize=address,undefined",
        "LDFLAGS": "-fsanitize=address,undefined",
    }
    subprocess.run(["make", "-s"], cwd=folder, env=environment, check=True, timeout=120)
    for number in range(5):
        image = mnist.test.pixels[number, 0].numpy()
        (folder / "digit.pgm").write_bytes(pgm(image, b"P5 # drawn\n28\t28 255\n" if number else None))
        expected = integer_logits(mcu, image[None, None])[0]
        lines = run(folder / "classify", "digit.pgm", folder=folder).splitlines()
        assert lines == [str(expected.argmax()), *(f"{label}: {logit}" for label, logit in enumerate(expected))]
    whole = pgm(mnist.test.pixels[0, 0].numpy())
    broken = [
        (whole[:-1], "truncated"),
        (whole + b"\0", "longer"),
        (whole.replace(b"P5", b"P2"), "not a binary PGM"),
        (whole.replace(b"28 28", b"28 27"), "size"),
        (whole.replace(b"28 28", b"99999999999999999999 28"), "size"),
        (whole.replace(b"28 28", b"-28 28"), "size"),
        (whole.replace(b"\n255\n", b"\n256\n"), "grey"),
        (b"P5", "size"),
        (b"", "not a binary PGM"),
        (b"P5 #", "size"),
    ]
    for content, words in broken:
        (folder / "digit.pgm").write_bytes(content)
        message = run(folder / "classify", "digit.pgm", folder=folder, status=2)
        assert words in message
        assert len(message.splitlines()) == 1
    assert "cannot be opened" in run(folder / "classify", "none.pgm", folder=folder, status=2)
    assert "usage" in run(folder / "classify", folder=folder, status=2)


@needs_cross_compiler
def test_the_footprint_is_what_the_linker_says(mcu: IntegerNetwork, tmp_path: Path) -> None:
    found = footprint_of(mcu, sources(mcu))
    assert found.code is not None
    assert found.flash <= 12 << 10
    assert found.ram <= 4 << 10
    assert found.weights == 6324
    folder = write(mcu, tmp_path)
    for name in codegen.LIBRARY_FILES:
        run("arm-none-eabi-gcc", "-mcpu=cortex-m0", "-mthumb", "-Os", "-std=c99", "-c", name, folder=folder)
    objects = [Path(name).with_suffix(".o") for name in codegen.LIBRARY_FILES]
    _, model, runtime, vectors = (
        line.split() for line in run("arm-none-eabi-size", *objects, folder=folder).splitlines()
    )
    assert vectors[:3] == ["0", "0", "0"]
    variables = int(model[1]) + int(model[2]) + int(runtime[1]) + int(runtime[2])
    assert variables + 784 + 40 == found.ram
    # Tables are aligned to four bytes; the rest is the few instructions of four functions.
    assert found.weights + found.tables <= int(model[0]) <= found.weights + found.tables + 250
