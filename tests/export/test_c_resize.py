"""The resizer of the C form: as `kilonet predict` scales a picture, within one grey level, from every kind of frame."""

import contextlib
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_c import CORTEX, STRICT, integers, needs_cross_compiler, needs_emulator, run

from helpers import in_ci, needs
from kilonet.data.preprocessing import Preprocessing, Resize
from kilonet.export.c import codegen
from kilonet.export.integer import integer_logits
from kilonet.network.section import ModelSection
from photos import photo
from strategies import images_for, model_of

GREY8, RGB888, LITTLE, BIG = range(4)
CROSS = ("-mcpu=cortex-m0", "-mthumb", "-Os", "-std=c99")

PIPE = r"""#include "kilonet_resize.h"
#include <stdio.h>
#include <stdlib.h>
int main(void)
{
    static kilonet_resizer resizer;
    static uint8_t pixels[KILONET_PIXELS];
    uint32_t head[5]; /* width, height, stride, format, whether row by row */
    while (fread(head, sizeof head, 1, stdin) == 1) {
        size_t size = (size_t)head[2] * head[1];
        uint8_t *frame = malloc(size), *line = malloc(head[2]), *place = frame;
        uint32_t row, done = frame && line && fread(frame, size, 1, stdin) == 1;
        if (head[4]) {
            done = done && kilonet_resize_begin(&resizer, head[0], head[1], (int)head[3], pixels);
            for (row = 0; row < head[1]; row++, place += head[2]) {
                uint32_t i;
                for (i = 0; i < head[2]; i++)
                    line[i] = place[i];
                kilonet_resize_row(&resizer, line);
            }
        } else {
            done = done && kilonet_resize(&resizer, frame, head[0], head[1], head[2], (int)head[3], pixels);
        }
        free(frame);
        free(line);
        putchar((int)done);
        fwrite(pixels, sizeof pixels, 1, stdout);
        fflush(stdout);
    }
    return 0;
}
"""


@dataclass
class Resizer:
    """The compiled resizer of a network, under sanitizers."""

    section: ModelSection
    process: "subprocess.Popen[bytes]"

    def scaled(
        self, frame: NDArray[np.uint8], width: int, kind: int, *, by_rows: bool = False
    ) -> NDArray[np.uint8] | None:
        """Return the pixels of a frame, bytes (rows, stride); None if it is refused."""
        pipe, size = self.process, int(np.prod(self.section.input_shape))
        assert pipe.stdin
        assert pipe.stdout
        pipe.stdin.write(struct.pack("5I", width, len(frame), frame.shape[1], kind, by_rows) + frame.tobytes())
        pipe.stdin.flush()
        answer = pipe.stdout.read(1 + size)
        assert len(answer) == 1 + size, "the program ended"
        return np.frombuffer(answer[1:], np.uint8).reshape(self.section.input_shape) if answer[0] else None


def write(section: ModelSection, folder: Path) -> Path:
    model = model_of(section, 0)
    for name, content in codegen.sources(integers(model, images_for(section, 0, 8)), section).items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@contextlib.contextmanager
def compiled(section: ModelSection, folder: Path) -> Iterator[Resizer]:
    (write(section, folder) / "pipe.c").write_text(PIPE, encoding="utf-8")
    sanitizers = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    run("gcc", *STRICT, *sanitizers, "-o", "pipe", "pipe.c", "kilonet_resize.c", folder=folder)
    with subprocess.Popen([folder / "pipe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Resizer(section, process)
        process.communicate(timeout=30)
    assert process.returncode == 0, "the sanitizers had a complaint"


def network(channels: int, rows: int, columns: int, resize: Resize) -> ModelSection:
    mean = (0.2, 0.4, 0.6) if channels == 3 else 0.3
    return ModelSection(input=(channels, rows, columns), layers=("gap", "pointwise 2"), resize=resize, mean=mean)


NETWORKS = [
    *(network(3, 32, 20, resize) for resize in ("crop", "pad", "squash")),
    *(network(1, 9, 28, resize) for resize in ("crop", "pad", "squash")),
]


@pytest.fixture(scope="module")
def resizers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Resizer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(compiled(section, tmp_path_factory.mktemp("resize"))) for section in NETWORKS]


def framed(picture: NDArray[np.uint8], kind: int, spare: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a picture, (rows, columns, 3), as a frame with some bytes more a row, and the picture that this shows."""
    rows = len(picture)
    if kind == GREY8:
        shown, content = picture[:, :, :1], picture[:, :, 0]
    elif kind == RGB888:
        shown, content = picture, picture.reshape(rows, -1)
    else:
        red, green, blue = (picture.astype(np.uint16) >> (3, 2, 3)).transpose(2, 0, 1)
        shown = np.dstack([red << 3 | red >> 2, green << 2 | green >> 4, blue << 3 | blue >> 2]).astype(np.uint8)
        bits = red << 11 | green << 5 | blue
        content = bits.astype("<u2" if kind == LITTLE else ">u2").view(np.uint8).reshape(rows, -1)
    frame = np.full((rows, content.shape[1] + spare), 0xA5, np.uint8)
    frame[:, : content.shape[1]] = content
    return frame, shown


def check(
    resizer: Resizer, picture: NDArray[np.uint8], kind: int, spare: int = 0, *, by_rows: bool = False
) -> NDArray[np.intp]:
    """Check the pixels of a picture, and return by how much they differ from Python's."""
    frame, shown = framed(picture, kind, spare)
    found = resizer.scaled(frame, picture.shape[1], kind, by_rows=by_rows)
    assert found is not None
    wanted = Preprocessing.of(resizer.section).apply(shown)
    difference = np.abs(found.astype(int) - wanted)
    assert difference.max() <= 1
    return difference


@pytest.mark.ci
@hypothesis.given(
    which=st.sampled_from(range(len(NETWORKS))),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    kind=st.sampled_from([GREY8, RGB888, LITTLE, BIG]),
    spare=st.integers(0, 3),
    by_rows=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@hypothesis.settings(max_examples=300)
def test_a_frame_of_any_size_is_scaled_as_by_predict(
    resizers: list[Resizer], which: int, size: tuple[int, int], kind: int, *, spare: int, by_rows: bool, seed: int
) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    check(resizers[which], picture, kind, spare, by_rows=by_rows)


@pytest.mark.parametrize("kind", [GREY8, BIG, *in_ci(RGB888, LITTLE)])
def test_a_camera_s_frame_is_scaled_as_by_predict(resizers: list[Resizer], kind: int) -> None:
    picture = np.asarray(photo(320, 240))
    differences = [check(resizer, picture, kind) for resizer in resizers]
    assert np.mean([difference.mean() for difference in differences]) < 0.02, "equal but for a rounding here and there"


def test_the_largest_frames_overflow_no_sum(resizers: list[Resizer], tmp_path: Path) -> None:
    with compiled(network(1, 4, 4, "squash"), tmp_path) as small:
        for resizer in (resizers[0], resizers[4], small):
            for height, width in ((4096, 4096), (1, 4096), (4096, 1)):
                white = np.full((height, width), 255, np.uint8)
                found = resizer.scaled(white, width, GREY8)
                assert found is not None
                wanted = Preprocessing.of(resizer.section).apply(white[:, :, None])
                np.testing.assert_array_equal(found, wanted)


def test_frames_over_the_limit_and_unknown_formats_are_refused(resizers: list[Resizer], tmp_path: Path) -> None:
    assert resizers[0].scaled(np.zeros((1, 4097), np.uint8), 4097, GREY8) is None
    assert resizers[0].scaled(np.zeros((4097, 1), np.uint8), 1, GREY8) is None
    assert resizers[0].scaled(np.zeros((4, 4), np.uint8), 4, 4) is None
    assert resizers[0].scaled(np.zeros((4, 4), np.uint8), 0, GREY8) is None
    with compiled(network(1, 3, 9, "crop"), tmp_path) as tiny:
        assert tiny.scaled(np.zeros((1, 1025), np.uint8), 1025, GREY8) is None
        assert tiny.scaled(np.zeros((1024, 1024), np.uint8), 1024, GREY8) is not None


def test_a_network_of_other_channels_says_that_it_takes_no_pictures(tmp_path: Path) -> None:
    write(ModelSection(input=(2, 6, 5), layers=("gap", "pointwise 2")), tmp_path)
    (tmp_path / "user.c").write_text('#include "kilonet_resize.h"\n', encoding="utf-8")
    assert "neither grey pictures nor coloured ones" in run("gcc", "-c", "user.c", folder=tmp_path, status=1)
    run("gcc", *STRICT, "-c", "model.c", "kilonet_resize.c", "main.c", folder=tmp_path)


def test_the_example_scales_a_picture_of_any_size(tmp_path: Path) -> None:
    needs("cc")
    needs("make")
    section = NETWORKS[1]
    write(section, tmp_path)
    sanitizers = "-fsanitize=address,undefined"
    environment = {**os.environ, "CFLAGS": f"-O1 -Werror {sanitizers}", "LDFLAGS": sanitizers}
    subprocess.run(["make", "-s"], cwd=tmp_path, env=environment, check=True, timeout=120)
    network_ = integers(model_of(section, 0), images_for(section, 0, 8))
    colours = np.asarray(photo(90, 70))
    grey = colours[:, :, :1]
    for picture, kind in ((colours, b"P6"), (grey, b"P5")):
        head = b"%s\n%d %d\n255\n" % (kind, picture.shape[1], picture.shape[0])
        (tmp_path / "photo").write_bytes(head + picture.tobytes())
        logits = integer_logits(network_, Preprocessing.of(section).apply(picture)[None])[0]
        lines = run(tmp_path / "classify", "photo", folder=tmp_path).splitlines()
        assert lines[0] == str(logits.argmax())
        assert max(abs(int(line.split()[1]) - logit) for line, logit in zip(lines[1:], logits, strict=True)) <= 2 ** (
            network_.fraction_bits - 3
        ), "levels that differ by one move the logits a little"
        (tmp_path / "photo").write_bytes(head + picture.tobytes()[:-1])
        assert "truncated" in run(tmp_path / "classify", "photo", folder=tmp_path, status=2)
    (tmp_path / "photo").write_bytes(b"P6 5000 1 255\n")
    assert "too long" in run(tmp_path / "classify", "photo", folder=tmp_path, status=2)


@pytest.mark.parametrize("compiler", [("gcc", "-std=c99"), ("clang", "-std=c99"), ("g++", "-std=c++20", "-x", "c++")])
def test_compilers_have_no_complaint(compiler: tuple[str, ...], tmp_path: Path) -> None:
    if not shutil.which(compiler[0]):
        pytest.skip(f"needs {compiler[0]}")
    program, standard, *language = compiler
    for section in (NETWORKS[1], NETWORKS[3], NETWORKS[5]):
        write(section, tmp_path)
        for level in ("-Os", "-O3"):
            run(program, standard, *STRICT[1:], level, *language, "-c", "kilonet_resize.c", folder=tmp_path)


def test_no_heap_no_float_no_library_no_static_memory(tmp_path: Path) -> None:
    write(NETWORKS[0], tmp_path)
    text = "".join((tmp_path / name).read_text() for name in ("kilonet_resize.c", "kilonet_resize.h"))
    assert set(re.findall(r"#include (\S+)", text)) == {'"kilonet_resize.h"', '"model.h"'}
    assert not re.search(r"\b(float|double|malloc|int64_t|uint64_t)\b", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))
    run("gcc", *STRICT, "-Os", "-c", "kilonet_resize.c", folder=tmp_path)
    # A compiler makes memset of a loop; every C has it.
    undefined = set(re.findall(r"U (\S+)", run("nm", "-u", "kilonet_resize.o", folder=tmp_path)))
    assert undefined <= {"memset", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}
    text_, data, bss, *_ = run("size", "kilonet_resize.o", folder=tmp_path).splitlines()[1].split()
    assert (int(data), int(bss)) == (0, 0)
    assert int(text_) > 0


@needs_cross_compiler
def test_the_resizer_takes_the_bytes_that_the_docs_state(tmp_path: Path) -> None:
    """Flash of the object for a Cortex-M0 at -Os, and RAM of its state, for 28x28 grey and 32x32 coloured pixels."""
    stated = (Path(__file__).parents[2] / "docs" / "CHIP.md").read_text(encoding="utf-8")
    for section in (network(1, 28, 28, "crop"), network(3, 32, 32, "crop")):
        write(section, tmp_path)
        (tmp_path / "state.c").write_text('#include "kilonet_resize.h"\nkilonet_resizer state;\n', encoding="utf-8")
        run("arm-none-eabi-gcc", *CROSS, "-c", "kilonet_resize.c", "state.c", folder=tmp_path)
        sizes = run("arm-none-eabi-size", "kilonet_resize.o", "state.o", folder=tmp_path).splitlines()
        flash, ram = int(sizes[1].split()[0]), int(sizes[2].split()[2])
        assert f"{flash:,} bytes of flash and {ram:,} of RAM" in stated, (section.input, flash, ram)


@needs_cross_compiler
@needs_emulator
def test_a_cortex_scales_as_predict_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = network(1, 28, 28, "pad")
    frame, shown = framed(np.asarray(photo(320, 240)), BIG, 0)
    write(section, tmp_path)
    levels = ",".join(map(str, frame.flatten()))
    (tmp_path / "images.h").write_text(
        "/* The frame takes the place of an image, and the pixels that of logits. */\n"
        '#include "kilonet_resize.h"\n#define IMAGES 1\n'
        f"static const uint8_t images[1][{frame.size}] = {{{{{levels}}}}};\n"
        "static void resized(const uint8_t *frame, int32_t *logits)\n{\n"
        "    static kilonet_resizer resizer;\n    static uint8_t pixels[KILONET_PIXELS];\n    int i;\n"
        "    kilonet_resize(&resizer, frame, 320, 240, 640, KILONET_RGB565_BIG, pixels);\n"
        "    for (i = 0; i < KILONET_PIXELS; i++)\n        logits[i] = pixels[i];\n}\n"
        "#define kilonet_classify resized\n#undef KILONET_CLASSES\n#define KILONET_CLASSES KILONET_PIXELS\n",
        encoding="utf-8",
    )
    flags = ("-mcpu=cortex-m0", "-mthumb", "-Os", "-std=gnu99", "-ffreestanding", "-nostdlib", "-I.")
    linking = ("-fno-tree-loop-distribute-patterns", "-T", CORTEX / "link.ld", "-o", "image.elf")
    run("arm-none-eabi-gcc", *flags, *linking, CORTEX / "start.c", "kilonet_resize.c", "-lgcc", folder=tmp_path)
    emulator = ("qemu-system-arm", "-M", "microbit", "-nographic", "-semihosting-config", "enable=on,target=native")
    lines = run(*emulator, "-icount", "shift=0", "-kernel", "image.elf", folder=tmp_path).splitlines()
    found = np.array(lines[0].split(), int).reshape(section.input_shape)
    wanted = Preprocessing.of(section).apply(shown)
    assert np.abs(found - wanted).max() <= 1
    with capsys.disabled():
        print(f"\nresizing 320x240 to 28x28 on a cortex-m0: {int(lines[2]):,} instructions")
