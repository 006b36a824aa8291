"""Many pictures: read by several processes, kept in a cache that damage does not harm, larger than memory."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import PEAK, refusal
from kilonet.data import cache, notices, pictures, reading
from kilonet.data.datasets import load_data
from kilonet.data.parts import Part
from kilonet.data.preprocessing import Preprocessing
from kilonet.utils.errors import KilonetError
from preloaded import forked_script

INPUT = Preprocessing((3, 16, 16))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILONET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pictures, "MANY", 50)
    notices.forget()


def write_images(folder: Path, count: int = 120, size: tuple[int, int] = (20, 24)) -> Path:
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Squares: noise alone has the same thumbnail everywhere.
        squares = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        squares.resize(size[::-1], Image.Resampling.NEAREST).save(path)
    return folder


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "images").iterdir())


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Read in this process, and count the pictures of each reading."""
    reads: list[int] = []

    def counting(part: Part, *others: object) -> None:
        reads.append(len(part))
        reading.read_here(part, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(pictures, "read_in_processes", counting)
    return reads


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started, which takes half a second, for tests of what is kept of the pictures."""
    monkeypatch.setattr(pictures, "read_in_processes", reading.read_here)


def test_processes_read_what_this_process_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_images(tmp_path / "data")
    (folder / "a" / "junk.png").write_bytes(b"junk")
    many = load_data(str(folder), INPUT)
    assert "are kept as the network takes them in" in capsys.readouterr().err
    monkeypatch.setattr(pictures, "MANY", 1000)
    few = load_data(str(folder), INPUT)
    for first, second in ((many.train, few.train), (many.test, few.test)):
        assert torch.equal(first.pixels, second.pixels)
        assert torch.equal(first.labels, second.labels)
    assert many.skipped == few.skipped
    assert len(many.skipped) == 1
    assert many.preparation == few.preparation
    assert many.preparation is not None


def test_a_command_speaks_again_after_another_was_told_to_be_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    notices.be_quiet()
    notices.tell("pictures", ["a note"], [], 1)
    assert capsys.readouterr().err == ""
    notices.forget()
    notices.tell("pictures", ["a note"], [], 1)
    assert capsys.readouterr().err == "kilonet: a note\n"


def test_what_is_unchanged_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    folder = write_images(tmp_path / "data")
    first, second = (load_data(str(folder), INPUT) for _ in range(2))
    assert reads == [120]
    assert first.fingerprint() == second.fingerprint()
    path = folder / "a" / "0.png"
    state = path.stat()
    content = bytearray(path.read_bytes())
    Image.new("RGB", (24, 20)).save(path)
    path.write_bytes((path.read_bytes() + bytes(len(content)))[: len(content)])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert load_data(str(folder), INPUT).fingerprint() != first.fingerprint()
    load_data(str(folder), Preprocessing((1, 16, 16)))
    assert reads == [120, 120, 120]


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "lengthen"])
def test_a_damaged_cache_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    reads = count_reads(monkeypatch)
    folder = write_images(tmp_path / "data")
    first = load_data(str(folder), INPUT).fingerprint()
    (path,) = cached(tmp_path)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.unlink()
    harmed = {"flip": content, "cut": content[:-5], "empty": bytearray(), "lengthen": content + b"x"}
    path.write_bytes(harmed[harm])
    assert load_data(str(folder), INPUT).fingerprint() == first
    assert reads == [120, 120]


@pytest.mark.usefixtures("_in_this_process")
def test_the_cache_is_bounded_and_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "data")
    load_data(str(folder), INPUT)
    (first,) = cached(tmp_path)
    monkeypatch.setattr(cache, "MAXIMUM_BYTES", first.stat().st_size * 5 // 2)
    os.utime(first, (1, 1))
    for side in (15, 14):
        load_data(str(folder), Preprocessing((3, side, side)))
    assert len(cached(tmp_path)) == 2
    assert first not in cached(tmp_path)


@pytest.mark.usefixtures("_in_this_process")
def test_a_set_larger_than_the_bound_is_kept_while_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAXIMUM_BYTES", 10)
    monkeypatch.setattr(cache, "IN_MEMORY", 10)
    folder = write_images(tmp_path / "data")
    data = load_data(str(folder), INPUT)
    held = data.hold_out()
    assert torch.equal(held.train.pixels.sum((1, 2, 3)).sum() + held.test.pixels.sum(), data.train.pixels.sum())
    assert len(cached(tmp_path)) == 1


@pytest.mark.usefixtures("_in_this_process")
def test_without_a_folder_for_it_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KILONET_CACHE", str(tmp_path / "file"))
    assert len(load_data(str(write_images(tmp_path / "data")), INPUT).train) > 80


def test_a_file_that_breaks_a_process_down_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "data")
    (folder / "a" / "killer.png").write_bytes(b"kill")
    script = (
        "import os, kilonet.data.reading as r; old = r.decode; "
        "r.decode = lambda content, *a, **k: os._exit(3) if content == b'kill' else old(content, *a, **k); "
        "r.answer_requests()"
    )
    monkeypatch.setattr(reading, "_START", script)
    data = load_data(str(folder), INPUT)
    assert len(data.train) + len(data.test) == 120
    ((path, reason),) = data.skipped
    assert path.name == "killer.png"
    assert "broke down over it" in reason


def test_ctrl_c_ends_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "data")
    monkeypatch.setattr(reading, "_START", "import time; time.sleep(600)")
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    begin = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            load_data(str(folder), INPUT)
    finally:
        signal.signal(signal.SIGINT, old)
    assert time.monotonic() - begin < 20


@pytest.mark.usefixtures("_in_this_process")
def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write", full)
    with pytest.raises(KilonetError) as error:
        load_data(str(write_images(tmp_path / "data")), INPUT)
    refusal(error, "No space left on device", "KILONET_CACHE")
    assert cached(tmp_path) == []


@pytest.mark.ci
def test_memory_does_not_grow_with_the_size_of_photos(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "data", 40, (800, 1000))
    script = f"""{PEAK}
from kilonet.data import pictures
from kilonet.data.datasets import load_data
from kilonet.data.preprocessing import Preprocessing
before = peak()
pictures.MANY = 30
load_data(sys.argv[1], Preprocessing((3, 16, 16)))
print(peak() - before)
"""
    answer = forked_script(script, folder)
    # Decoded they are 96 MB.
    assert int(answer.out) < 60, answer.err
