"""Decoding in processes: a file may keep a decoder busy for long, or break it, and only a process can be stopped.

In threads, two files could keep all of them busy for minutes, in which no image is answered and the service cannot end.
"""

import contextlib
import multiprocessing
import signal
import struct
from dataclasses import dataclass
from math import prod
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from time import monotonic

from kilonet.data.containers import open_container
from kilonet.data.decode import WORKING_SIDE, DecodeLimits, Picture, decode
from kilonet.serve.refusal import Refusal, decoder_ended, unreadable
from kilonet.utils.errors import KilonetError

_QUICK_BYTES = 16 << 10
_QUICK_PIXELS = 1 << 18
_LARGE_PIXELS = 1 << 22
_PNG_HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@dataclass(frozen=True)
class ImageFile:
    """An image file that was sent."""

    content: bytes
    name: str = "the image"
    """The file's name in messages."""
    side: int = WORKING_SIDE
    """The longest side to decode it to, as for `kilonet.data.decode.decode`."""

    @property
    def is_quick(self) -> bool:
        """Whether it takes little time whatever it holds: a PNG file of few bytes and few pixels, such as a digit's."""
        return len(self.content) <= _QUICK_BYTES and 0 < self._png_pixels <= _QUICK_PIXELS

    def is_large(self, *, evenly: bool) -> bool:
        """Return whether decoding it takes hundreds of megabytes.

        Args:
            evenly: as for `kilonet.data.decode.decode`; if not, only PNG files can, as others are scaled as they are
                read.
        """
        return (self._pixels if evenly else self._png_pixels) > _LARGE_PIXELS

    @property
    def _pixels(self) -> int:
        """The pixels by the file's head, or the most that a file of its length has without compression."""
        try:
            container = None if self._png_pixels else open_container(self.content)
        except (ValueError, struct.error):
            return 0  # Decoding will say what is wrong.
        return self._png_pixels or (prod(container.size) if container and container.size else 8 * len(self.content))

    @property
    def _png_pixels(self) -> int:
        """The pixels of a PNG file by its head; 0 for other files."""
        size = self.content[len(_PNG_HEAD) :][:8]
        return prod(struct.unpack(">II", size)) if self.content.startswith(_PNG_HEAD) and len(size) == 8 else 0


class Decoder:
    """A process that decodes files, one at a time. It is started when it is first needed, and again after its end."""

    def __init__(self, limits: DecodeLimits, *, evenly: bool) -> None:
        """Start nothing yet.

        Args:
            limits: the limits of a file.
            evenly: as for `kilonet.data.decode.decode`.
        """
        self._limits, self._evenly = limits, evenly
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    def decode(self, file: ImageFile, deadline: float) -> Picture | None:
        """Decode a file.

        Args:
            file: the file.
            deadline: the time, by `time.monotonic`, at which to give up and to end the process.

        Returns:
            the picture, or None if it was not there in time.

        Raises:
            KilonetError: the file is over a limit, damaged or no image.
            Refusal: the process ended.
        """
        connection = self._running()
        try:
            connection.send(file)
            found: Picture | str | None = None
            if connection.poll(max(0.0, deadline - monotonic())):
                found = connection.recv()
        except (EOFError, OSError):
            raise self._ended(file.name) from None
        if found is None:
            self.stop()
        if isinstance(found, str):
            raise KilonetError(found)
        return found

    def stop(self) -> None:
        """End the process at once."""
        if self._process and self._connection:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._connection.close()
        self._process = self._connection = None

    def _running(self) -> Connection:
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            self._connection, other = context.Pipe()
            # A daemon: it is ended with this process.
            self._process = context.Process(target=_decode_files, args=(other, self._limits, self._evenly), daemon=True)
            self._process.start()
            other.close()
        return self._connection

    def _ended(self, name: str) -> Refusal:
        """Return the refusal of the file with which the process ended, by itself or by a signal."""
        process = self._process
        if process:
            process.join()
        code = process.exitcode if process else None
        self.stop()
        if code in (-signal.SIGTERM, -getattr(signal, "SIGKILL", signal.SIGTERM)):
            return decoder_ended()
        return unreadable(f"{name}: the decoder broke down over it; save it anew as PNG or JPEG")


def _decode_files(connection: Connection, limits: DecodeLimits, evenly: bool) -> None:
    """Answer each file with its picture, or with the reason why there is none, until the other end is closed."""
    # Ctrl-C reaches all processes of a terminal; the service ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        while True:
            file = connection.recv()
            try:
                found: Picture | str = decode(file.content, file.name, limits, evenly=evenly, side=file.side)
            except KilonetError as error:
                found = str(error)
            connection.send(found)
