"""Data sets that were damaged by a seed: each is read, read with its skipped files listed, or refused in one line."""

import io
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import command, write_idx_folder

RECIPE = """[model]
input = [1, 12, 12]
layers = ["conv 4", "gap", "pointwise 2"]
"""


def picture(number: int) -> Image.Image:
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((14, 16), Image.Resampling.BICUBIC)


def class_folders(folder: Path) -> None:
    for number in range(24):
        path = folder / ("cat" if number % 2 else "dog") / f"{number}.{('png', 'jpg', 'bmp', 'gif', 'tif')[number % 5]}"
        path.parent.mkdir(exist_ok=True)
        picture(number).save(path)


def parts(folder: Path) -> None:
    for part in ("Train", "test", "val"):
        (folder / part).mkdir()
        class_folders(folder / part)


def manifest(folder: Path) -> None:
    (folder / "images").mkdir()
    lines = ["file,label,split"]
    for number in range(16):
        picture(number).save(folder / "images" / f"{number}.png")
        lines.append(f"images/{number}.png,{'cat' if number % 2 else 'dog'},{'test' if number > 11 else 'train'}")
    (folder / "labels.csv").write_text("\n".join(lines))


def arrays() -> tuple[np.ndarray, np.ndarray]:
    images = np.stack([np.asarray(picture(number).convert("L").resize((12, 12))) for number in range(16)])
    return images, (np.arange(16) % 2).astype(np.uint8)


def idx(folder: Path) -> None:
    write_idx_folder(folder, arrays(), arrays())


def npz(folder: Path) -> None:
    images, labels = arrays()
    np.savez(folder / "set.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)


def pixel_table(folder: Path) -> None:
    images, labels = arrays()
    rows = [",".join(map(str, [label, *image.ravel()])) for image, label in zip(images, labels, strict=True)]
    head = ",".join(["label", *(f"pixel{place}" for place in range(144))])
    (folder / "train.csv").write_text("\n".join([head, *rows]))


KINDS = (class_folders, parts, manifest, idx, npz, pixel_table)
Mutation = Callable[[random.Random, Path], None]


def some_file(dice: random.Random, folder: Path) -> Path:
    return dice.choice(sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()))


def truncate(dice: random.Random, folder: Path) -> None:
    path = some_file(dice, folder)
    content = path.read_bytes()
    path.write_bytes(content[: dice.randrange(len(content) + 1)])


def flip(dice: random.Random, folder: Path) -> None:
    path = some_file(dice, folder)
    content = bytearray(path.read_bytes())
    for _ in range(dice.randrange(1, 20)):
        if content:
            content[dice.randrange(len(content))] = dice.randrange(256)
    path.write_bytes(content)


def delete(dice: random.Random, folder: Path) -> None:
    some_file(dice, folder).unlink()


def rename(dice: random.Random, folder: Path) -> None:
    path = some_file(dice, folder)
    name = dice.choice(["a.heic", "b", "c.mp4", "\n.png", "\x1b[31m.png", "é.PNG", "d" * 200 + ".png", "e.txt", ".f"])
    path.rename(path.with_name(name))


def rename_bytes(dice: random.Random, folder: Path) -> None:
    path = some_file(dice, folder)
    path.rename(path.with_name(os.fsdecode(b"\xff\xfe.png")))


def rename_folder(dice: random.Random, folder: Path) -> None:
    places = sorted(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())
    if places:
        path = dice.choice(places)
        name = dice.choice(["Cat", "CAT", "test", "training", "a" * 101, "\n", " ", ".hidden", "__MACOSX", "0", "01"])
        if not path.with_name(name).exists():
            path.rename(path.with_name(name))


def to_folder(dice: random.Random, folder: Path) -> None:
    path = some_file(dice, folder)
    path.unlink()
    path.mkdir()


def link(dice: random.Random, folder: Path) -> None:
    path = some_file(dice, folder)
    target = dice.choice([folder, path.parent, Path("/dev/zero"), Path("/etc/hostname"), folder / "missing", path])
    path.with_name(dice.choice(["link", "link.png"])).symlink_to(target)


def pipe(dice: random.Random, folder: Path) -> None:
    os.mkfifo(some_file(dice, folder).with_name("pipe.png"))


def unreadable(dice: random.Random, folder: Path) -> None:
    some_file(dice, folder).chmod(0)


def huge(dice: random.Random, folder: Path) -> None:
    path = some_file(dice, folder)
    head = struct.pack(">IIBBBBB", dice.choice([60_000, 2**31 - 1]), 60_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    )
    path.with_name("huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def foreign(dice: random.Random, folder: Path) -> None:
    path = some_file(dice, folder)
    content = dice.choice(
        [
            b"",
            b"<svg/>",
            b"GIF89a",
            b"II*\0" + bytes(8),
            b"BM" + bytes(60),
            b"RIFF0000WEBPVP8 ",
            b"\0\0\x08\3" + b"\xff" * 12,
        ]
    )
    path.with_name(dice.choice(["x.png", "x.idx", "train-images-idx3-ubyte"])).write_bytes(content)


def npz_of(dice: random.Random, folder: Path) -> None:
    bad = dice.choice(
        [
            np.full((16, 12, 12), np.nan),
            np.array([{}], object),
            np.zeros((16, 0, 12)),
            np.zeros((3, 10_000)),
            np.zeros(16),
        ]
    )
    stream = io.BytesIO()
    np.savez(stream, x_train=bad, y_train=np.arange(len(bad)))
    (folder / "bad.npz").write_bytes(stream.getvalue())


def table_of(dice: random.Random, folder: Path) -> None:
    content = dice.choice(
        [
            "",
            "file,label\n../../etc/passwd,a\n",
            "file,label\n" + "x.png,a\n" * 1000,
            'file,label\n"' + "a" * 300_000,
            ",".join(f"pixel{place}" for place in range(10_000)) + "\n" + "9," * 10_000,
            "label," + ",".join(f"pixel{place}" for place in range(144)) + "\n99999999999" + ",1" * 144,
            "a,b\n\0\n",
            "label,file\n" + "b" * 150 + ",1.png",
        ]
    )
    (folder / dice.choice(["labels.csv", "train.csv", "test.csv"])).write_text(content)


def copy_class(dice: random.Random, folder: Path) -> None:
    places = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    if places:
        path = dice.choice(places)
        if not path.with_name(path.name.upper()).exists():
            shutil.copytree(
                path, path.with_name(path.name.upper()), symlinks=True, ignore=shutil.ignore_patterns("pipe*")
            )


MUTATIONS: tuple[Mutation, ...] = (
    truncate, flip, delete, rename, rename_bytes, rename_folder, to_folder, link, pipe, unreadable, huge, foreign,
    npz_of, table_of, copy_class,
)  # fmt: skip


@pytest.mark.parametrize(
    "seeds", [range(24), pytest.param(range(24, 224), marks=pytest.mark.slow)], ids=["some", "200"]
)
def test_a_mutated_data_set_is_read_or_refused(
    tmp_path: Path, seeds: range, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    statuses = []
    for seed in seeds:
        dice = random.Random(seed)  # noqa: S311
        folder = tmp_path / str(seed)
        folder.mkdir()
        KINDS[seed % len(KINDS)](folder)
        done = []
        for mutation in dice.choices(MUTATIONS, k=dice.randrange(1, 4)):
            try:
                mutation(dice, folder)
                done.append(mutation.__name__)
            except (OSError, IndexError):
                # An earlier one has left nothing for this one.
                continue
        answer = command(capsys, "summary", recipe, "--data", folder)
        told = f"seed {seed}: {KINDS[seed % len(KINDS)].__name__}, {done}: {answer.status}: {answer.err}"
        lines = answer.err.splitlines()
        assert answer.status in (0, 1, 2), told
        assert all(line.startswith("kilonet: ") and line.isprintable() for line in lines), told
        assert "Traceback" not in answer.err, told
        errors = [line for line in lines if line.startswith("kilonet: error: ")]
        assert len(errors) == (answer.status == 2), told
        if answer.status != 2:
            assert ("skipped" in answer.err) == (answer.status == 1), told
        statuses.append(answer.status)
    assert set(statuses) == {0, 1, 2}


def test_a_data_set_that_nothing_happened_to_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    for make in KINDS:
        folder = tmp_path / make.__name__
        folder.mkdir()
        make(folder)
        answer = command(capsys, "summary", recipe, "--data", folder)
        assert (answer.status, answer.err) == (0, ""), make.__name__
