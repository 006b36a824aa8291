"""Decoders in processes of their own: whatever a file does to one, the service goes on."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from helpers import refusal
from kilonet.data.datasets import DataSet
from kilonet.data.decode import DecodeLimits
from kilonet.models.model import load_model
from kilonet.serve.answering import Answering
from kilonet.serve.bodies import Body
from kilonet.serve.classifiers import thread_safe
from kilonet.serve.decoding import Decoder, ImageFile
from kilonet.serve.metrics import Metrics
from kilonet.serve.refusal import Refusal
from kilonet.utils.errors import KilonetError
from service import LIMITS, in_loop, png


@dataclass(frozen=True)
class Evil(ImageFile):
    """A file that makes its decoder call a function, as if by a fault of the library."""

    call: tuple[Callable[..., Any], Any] = (time.sleep, 60)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        function, argument = self.call
        return function, (argument,)


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    started = Decoder(DecodeLimits(), evenly=False)
    yield started
    started.stop()


PHOTO = ImageFile(png(np.zeros((40, 30), np.uint8), "JPEG"))


def soon() -> float:
    return time.monotonic() + 30


def test_a_file_is_decoded_or_refused_as_in_this_process(decoder: Decoder) -> None:
    found = decoder.decode(PHOTO, soon())
    assert found
    assert found.values.shape == (40, 30, 1)
    with pytest.raises(KilonetError) as error:
        decoder.decode(ImageFile(PHOTO.content[:100], "'a.jpg'"), soon())
    refusal(error, "'a.jpg'")
    assert decoder.decode(PHOTO, soon())


def test_a_file_that_takes_too_long_is_given_up_and_the_next_is_decoded(decoder: Decoder) -> None:
    assert decoder.decode(PHOTO, soon())
    began = time.monotonic()
    assert decoder.decode(Evil(b""), time.monotonic() + 0.2) is None
    assert time.monotonic() - began < 2
    assert decoder.decode(PHOTO, soon())


def test_a_file_that_breaks_its_decoder_is_refused_and_the_next_is_decoded(decoder: Decoder) -> None:
    calls = (((os._exit, 3), 422), ((signal.raise_signal, signal.SIGKILL), 503))
    for call, status in calls:
        with pytest.raises(Refusal) as refused:
            decoder.decode(Evil(b"", call=call), soon())
        assert refused.value.status == status
        assert decoder.decode(PHOTO, soon())


def test_quick_files_are_small_pngs_by_their_head() -> None:
    assert ImageFile(png(np.zeros((512, 512), np.uint8))).is_quick
    assert not ImageFile(png(np.zeros((512, 513), np.uint8))).is_quick
    assert not ImageFile(PHOTO.content).is_quick
    assert not ImageFile(png(np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8))).is_quick
    large = ImageFile(png(np.zeros((2048, 2049), np.uint8)))
    assert (large.is_large(evenly=False), large.is_quick, PHOTO.is_large(evenly=False)) == (True, False, False)
    # Of a network of other images, no file is scaled as it is read.
    for form in ("JPEG", "WEBP", "BMP"):
        small, photo = (ImageFile(png(np.zeros(shape, np.uint8), form)) for shape in ((64, 64), (2048, 2049)))
        assert (small.is_large(evenly=True), photo.is_large(evenly=True), photo.is_large(evenly=False)) == (
            False,
            True,
            False,
        )
    for length in range(32):
        assert ImageFile(png(np.zeros((1, 1), np.uint8))[:length]).is_quick == (length >= 24)


def test_files_that_keep_all_decoders_busy_delay_no_quick_request(mnist: DataSet) -> None:
    limits = replace(LIMITS, seconds=1.5)
    answering = Answering(thread_safe(load_model("best")), limits, Metrics("0123456789"))
    seven = ImageFile(png(mnist.test.pixels[0, 0].numpy()))

    def ask(file: ImageFile, *, is_quick: bool) -> tuple[float, bytes | Refusal]:
        began = time.monotonic()
        try:
            found: bytes | Refusal = in_loop(answering.json(Body(lambda: [file], is_quick)))
        except Refusal as refused:
            found = refused
        return time.monotonic() - began, found

    with ThreadPoolExecutor(1) as thread:
        evil = thread.submit(ask, Evil(b""), is_quick=False)
        for _ in range(5):
            took, answer = ask(seven, is_quick=True)
            assert took < 1
            assert isinstance(answer, bytes)
    took, refused = evil.result()
    assert 1 < took < 4
    assert isinstance(refused, Refusal)
    assert (refused.status, "no answer within 1.5 s" in refused.line) == (503, True)
