"""The IDX reader reads every valid file and refuses every other one with a message of its own."""

import gzip
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from helpers import PEAK, idx_bytes, python, refusal
from kilonet.data.idx import read_idx
from kilonet.utils.errors import KilonetError

IMAGES = idx_bytes(np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3))
GZIPPED = gzip.compress(IMAGES, mtime=0)


def header(*dimensions: int, magic: bytes = b"\0\0\x08") -> bytes:
    return magic + bytes([len(dimensions)]) + struct.pack(f">{len(dimensions)}I", *dimensions)


def refuse(path: Path, content: bytes, dimensions: int = 3) -> str:
    path.write_bytes(content)
    with pytest.raises(KilonetError) as error:
        read_idx(path, dimensions)
    return refusal(error, path)


@given(
    array=hypothesis_numpy.arrays(np.uint8, hypothesis_numpy.array_shapes(min_dims=1, max_dims=3)), packed=st.booleans()
)
def test_reads_back_what_an_independent_writer_wrote(
    array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], packed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.idx"
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    read = read_idx(path, array.ndim)
    assert read.dtype == np.uint8
    assert read.flags.writeable
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("length", range(len(IMAGES)))
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, length: int) -> None:
    refuse(tmp_path / "short.idx", IMAGES[:length])


@pytest.mark.parametrize("length", range(len(GZIPPED)))
def test_a_truncated_gzip_file_is_refused_wherever_it_ends(tmp_path: Path, length: int) -> None:
    refuse(tmp_path / "short.idx.gz", GZIPPED[:length])


def test_a_truncated_file_says_how_much_is_there(tmp_path: Path) -> None:
    assert "truncated: 59 of the 60 bytes" in refuse(tmp_path / "short.idx", IMAGES[:-1])


@pytest.mark.parametrize("packed", [False, True])
def test_an_overlong_file_is_refused(tmp_path: Path, packed: bool) -> None:
    content = IMAGES + b"\0"
    message = refuse(tmp_path / "long.idx", gzip.compress(content) if packed else content)
    assert "more data than the 60 bytes" in message


EXAMPLES = [pytest.param(100, id="short"), pytest.param(20_000, id="long", marks=pytest.mark.slow)]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_a_flipped_bit_in_a_gzip_file_never_gives_other_images(examples: int, tmp_path: Path) -> None:
    path = tmp_path / "flipped.idx.gz"

    @settings(max_examples=examples)
    @given(position=st.integers(0, len(GZIPPED) - 1), bit=st.integers(0, 7))
    def run(position: int, bit: int) -> None:
        damaged = bytearray(GZIPPED)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            read = read_idx(path, 3)
        except KilonetError as error:
            refusal(error, path)
        else:
            # Some bits of a gzip header, such as its time stamp, do not affect the data.
            assert idx_bytes(read) == IMAGES

    run()


@pytest.mark.parametrize("examples", EXAMPLES)
def test_random_bytes_never_raise_anything_else(examples: int, tmp_path: Path) -> None:
    """Random bytes, half of them behind a header that is right up to its dimensions."""
    path = tmp_path / "random.idx"
    starts = st.sampled_from([b"", b"\0\0\x08", b"\0\0\x08\x03", IMAGES[:15], GZIPPED[:12]])

    @settings(max_examples=examples)
    @given(start=starts, content=st.binary(max_size=200), dimensions=st.integers(1, 4))
    def run(start: bytes, content: bytes, dimensions: int) -> None:
        path.write_bytes(start + content)
        try:
            read_idx(path, dimensions)
        except KilonetError as error:
            refusal(error, path)

    run()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no IDX magic"),
        (b"\x01" + IMAGES[1:], "no IDX magic"),
        (b"\0\x01" + IMAGES[2:], "no IDX magic"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), "no IDX magic"),
        (header(5, 4, 3, magic=b"\0\0\x0d") + bytes(240), "type is 0x0d"),
        (header(5, 4, 3, magic=b"\0\0\x09") + bytes(60), "type is 0x09"),
        (header(60) + bytes(60), "1 dimensions, not 3"),
        (header(5, 4, 3, 1) + bytes(60), "4 dimensions, not 3"),
        (header() + bytes(60), "0 dimensions, not 3"),
        (header(0, 28, 28), "0 x 28 x 28 elements"),
        (header(5, 0, 3), "5 x 0 x 3 elements"),
        (header(2**31, 2**31, 1), "2147483648 x 2147483648 x 1 elements"),
        (header(2**32 - 1, 2**32 - 1, 2**32 - 1), "elements"),
        # 2^64 elements would be zero to 64-bit arithmetic.
        (header(2**31, 2**31, 4) + bytes(60), "elements"),
        (header(5, 4, 4) + bytes(60), "truncated: 60 of the 80 bytes"),
        (header(5, 4, 2) + bytes(60), "more data than the 40 bytes"),
    ],
)
def test_a_lying_header_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in refuse(tmp_path / "lie.idx", content)


@pytest.mark.parametrize(
    "content",
    [
        GZIPPED[:10] + b"\xff" * 40,
        GZIPPED[:-8] + struct.pack("<II", zlib.crc32(IMAGES) ^ 1, len(IMAGES)),
        GZIPPED[:-4] + struct.pack("<I", len(IMAGES) + 1),
        GZIPPED + b"rubbish after the end",
        b"\x1f\x8b",
        b"\x1f\x8b\x07" + GZIPPED[3:],
    ],
)
def test_damaged_gzip_data_are_refused(tmp_path: Path, content: bytes) -> None:
    assert "damaged gzip data" in refuse(tmp_path / "damaged.idx.gz", content)


def test_another_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.idx"
    path.write_bytes(IMAGES)
    with pytest.raises(KilonetError) as error:
        read_idx(path, 3, sha256="0" * 64)
    refusal(error, path, "SHA-256")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KilonetError) as error:
        read_idx(tmp_path / "missing.idx", 3)
    refusal(error, tmp_path / "missing.idx", "No such file")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KilonetError) as error:
        read_idx(tmp_path, 3)
    refusal(error, tmp_path, "directory")


MEBIBYTE = 1 << 20
ZEROS = gzip.compress(bytes(MEBIBYTE))
MEASURE = f"""{PEAK}
from pathlib import Path
from kilonet.utils.errors import KilonetError
from kilonet.data.idx import read_idx
before = peak()
try:
    read_idx(Path(sys.argv[1]), 3)
except KilonetError as error:
    print(error)
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("start", "words", "most"),
    [
        (header(10, 28, 28), "more data than the 7,840 bytes", 16),
        (header(2**31, 2**31, 1), "1 to 268,435,456 are read", 16),
        # The largest size that is read; memory is bounded by the data in the file.
        (header(2**28, 1, 1), "more data than the 268,435,456 bytes", 600),
    ],
)
def test_a_gzip_bomb_costs_little_memory(tmp_path: Path, start: bytes, words: str, most: int) -> None:
    path = tmp_path / "bomb.idx.gz"
    # A gzip file may have many members: 300 MB of zeros are one mebibyte of them, again and again.
    path.write_bytes(gzip.compress(start) + ZEROS * 300)
    assert path.stat().st_size < MEBIBYTE
    answer = python(MEASURE, path)
    message, mebibytes = answer.out.splitlines()
    assert re.search(re.escape(words), message)
    assert str(path) in message
    assert int(mebibytes) < most


def test_a_header_that_asks_for_all_costs_nothing_without_the_data(tmp_path: Path) -> None:
    path = tmp_path / "empty.idx"
    path.write_bytes(header(2**28, 1, 1))
    message, mebibytes = python(MEASURE, path).out.splitlines()
    assert "truncated: 0 of the 268,435,456 bytes" in message
    assert int(mebibytes) < 16
