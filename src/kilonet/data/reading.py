"""Reading pictures: each one decoded, brought to the input of a network, and known by its content.

Many pictures are read by several processes. They are no processes of `multiprocessing`, which would run a user's script
again. One that breaks down over a picture is started anew.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kilonet.data.decode import decode
from kilonet.data.image_folders import read_content
from kilonet.data.parts import Levels, Part
from kilonet.data.preprocessing import Preprocessing
from kilonet.data.split import SIDE, content_hash, thumbnail
from kilonet.utils.capacity import available_memory, cores
from kilonet.utils.errors import KilonetError

_CHUNK = 64
"""Pictures that a process is asked for at once."""
_PROCESS_BYTES = 700 << 20
"""Memory of a process that decodes the largest picture."""
_HASH_BYTES = 32
_START = "from kilonet.data.reading import answer_requests; answer_requests()"


@dataclass
class Known:
    """What is known of pictures by their content, beside their pixels."""

    hashes: NDArray[np.uint8]
    """uint8 (N, 32): the SHA-256 of each picture's content."""
    thumbnails: NDArray[np.uint8]
    """uint8 (N, 64), see `kilonet.data.split.thumbnail`."""
    sizes: NDArray[np.int32]
    """int32 (N, 2): rows and columns."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why pictures could not be read, by their index."""

    @classmethod
    def of(cls, count: int) -> "Known":
        """Return room for so many pictures."""
        return cls(
            np.zeros((count, _HASH_BYTES), np.uint8),
            np.zeros((count, SIDE * SIDE), np.uint8),
            np.zeros((count, 2), np.int32),
        )

    def add(self, index: int, content: bytes, picture: Levels) -> None:
        """Keep what is known of a picture by its content and its levels."""
        self.hashes[index] = np.frombuffer(content_hash(content), np.uint8)
        self.thumbnails[index] = thumbnail(picture)
        self.sizes[index] = picture.shape[:2]

    def count_changed(self, preprocessing: Preprocessing) -> int:
        """Return how many pictures that could be read are of another size than a network's input."""
        other = (self.sizes != preprocessing.shape[1:]).any(1)
        other[list(self.reasons)] = False
        return int(other.sum())


def read_here(part: Part, preprocessing: Preprocessing, pixels: NDArray[np.uint8], known: Known) -> None:
    """Read the pictures of a part in this process.

    Args:
        part: the pictures.
        preprocessing: how they become the inputs of a network.
        pixels: uint8 (N, channels, rows, columns), which is filled.
        known: room for as many pictures, which is filled.
    """
    for index in range(len(part)):
        try:
            content = part.content(index)
            picture = part.decoded(content, index)
        except KilonetError as error:
            known.reasons[index] = str(error)
            continue
        pixels[index] = preprocessing.apply(picture)
        known.add(index, content, picture)


def read_in_processes(part: Part, preprocessing: Preprocessing, pixels: NDArray[np.uint8], known: Known) -> None:
    """Read the pictures of a part in several processes, with a progress bar on a terminal; see `read_here`."""
    chunks = iter([range(start, min(start + _CHUNK, len(part))) for start in range(0, len(part), _CHUNK)])
    lock = threading.Lock()
    errors: list[BaseException] = []
    readers = [_Reader(preprocessing) for _ in range(_processes(len(part)))]
    # None: no bar where stderr is no terminal.
    with tqdm(total=len(part), unit="image", file=sys.stderr, disable=None) as bar:

        def work(reader: _Reader) -> None:
            try:
                while not errors and not reader.stopped:
                    with lock:
                        chunk = next(chunks, None)
                    if chunk is None:
                        return
                    reader.read(part, chunk, pixels, known)
                    with lock:
                        bar.update(len(chunk))
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits.
                errors.append(error)

        threads = [threading.Thread(target=work, args=(reader,), daemon=True) for reader in readers]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            # After Ctrl-C too: the threads end when their processes do.
            for reader in readers:
                reader.stop()
    if errors:
        raise errors[0]


def _processes(pictures: int) -> int:
    free = available_memory()
    room = cores() if free is None else free // _PROCESS_BYTES
    return max(1, min(cores(), room, -(-pictures // _CHUNK)))


class _Reader:
    """A process that reads pictures, started when it is first needed and again after it broke down."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        self._process: subprocess.Popen[bytes] | None = None
        self._pipes: tuple[IO[bytes], IO[bytes]]
        self.stopped = False

    def read(self, part: Part, chunk: Sequence[int], pixels: NDArray[np.uint8], known: Known) -> None:
        """Read some pictures of a part into their places."""
        try:
            self._ask(part, chunk, pixels, known)
        except (OSError, EOFError, ValueError):
            self._end()
            if self.stopped:
                return
            if len(chunk) == 1:
                name = part.name(chunk[0])
                known.reasons[chunk[0]] = f"{name}: the decoder broke down over it; save it anew as PNG or JPEG"
                return
            for index in chunk:
                self.read(part, [index], pixels, known)

    def stop(self) -> None:
        """End the process for good."""
        self.stopped = True
        self._end()

    def _ask(self, part: Part, chunk: Sequence[int], pixels: NDArray[np.uint8], known: Known) -> None:
        requests: list[dict[str, object]] = []
        contents: list[bytes] = []
        for index in chunk:
            path = part.path(index)
            if path is not None:
                requests.append({"name": os.fspath(path)})
                continue
            try:
                contents.append(part.content(index))
                requests.append({"name": part.name(index), "bytes": len(contents[-1])})
            except KilonetError as error:
                requests.append({"error": str(error)})
        sink, source = self._streams()
        sink.write(json.dumps(requests).encode() + b"\n" + b"".join(contents))
        sink.flush()
        reasons: list[str | None] = json.loads(source.readline() or b"!")
        for index, reason in zip(chunk, reasons, strict=True):
            if reason is not None:
                known.reasons[index] = reason
                continue
            arrays: tuple[NDArray[Any], ...] = (known.hashes, known.thumbnails, known.sizes, pixels)
            for array in arrays:
                array[index] = np.frombuffer(_exactly(source, array[index].nbytes), array.dtype).reshape(
                    array.shape[1:]
                )

    def _streams(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process is None:
            paths = os.pathsep.join(path for path in sys.path if path)
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", _START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": paths},
            )
            if self._process.stdin is None or self._process.stdout is None:
                raise EOFError
            self._pipes = self._process.stdin, self._process.stdout
            self._pipes[0].write(json.dumps(asdict(self._preprocessing)).encode() + b"\n")
        return self._pipes

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in self._pipes:
                # What is left to be written cannot be.
                with contextlib.suppress(OSError):
                    stream.close()


def _exactly(stream: IO[bytes], count: int) -> bytes:
    found = stream.read(count)
    if len(found) != count:
        raise EOFError
    return found


def answer_requests() -> None:
    """Read the pictures that are asked for on stdin, until it is closed: what a process of `read_in_processes` does.

    The first line is the preprocessing. Each line that follows asks for a list of pictures, by the paths of their files
    or by the number of their bytes, which come after it. Each answer is a line with the reasons why pictures cannot be
    read, then for each other one what `Known` has of it, and its pixels.
    """
    # Ctrl-C reaches all processes of a terminal; the one that asked ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    options = json.loads(source.readline() or b"null")
    if options is None:
        return
    preprocessing = Preprocessing(tuple(options["shape"]), options["resize"], tuple(options["padding"]))
    while line := source.readline():
        reasons: list[str | None] = []
        records: list[bytes] = []
        for request in json.loads(line):
            content = _exactly(source, request["bytes"]) if "bytes" in request else None
            try:
                if "error" in request:
                    raise KilonetError(request["error"])
                if content is None:
                    content = read_content(Path(request["name"]))
                picture = decode(content, request["name"], evenly=True).values
                inputs = preprocessing.apply(picture)
                size = np.array(picture.shape[:2], np.int32)
                records += [content_hash(content), *(a.tobytes() for a in (thumbnail(picture), size, inputs))]
                reasons.append(None)
            except KilonetError as error:
                reasons.append(str(error))
        sink.write(json.dumps(reasons).encode() + b"\n" + b"".join(records))
        sink.flush()
