"""Logs are written in a thread: a reader that is slow or gone delays nobody, and what is dropped is counted."""

import logging
import os
import time

from kilonet.serve.logs import BackgroundHandler


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("kilonet.serve", logging.INFO, __file__, 1, text, None, None)


def test_lines_arrive_in_order() -> None:
    reading, writing = os.pipe()
    handler = BackgroundHandler(writing)
    for number in range(100):
        handler.emit(record(f"line {number} \udcff"))
    handler.finish()
    assert os.read(reading, 1 << 16).decode().splitlines() == [f"line {number} ?" for number in range(100)]


def test_a_pipe_that_nobody_reads_delays_nothing_and_its_dropped_lines_are_counted() -> None:
    reading, writing = os.pipe()
    handler = BackgroundHandler(writing, most_waiting=10)
    began = time.monotonic()
    for number in range(200):
        handler.emit(record(1000 * "x"))
        time.sleep(0.001 * (number < 100))
    assert time.monotonic() - began < 1
    assert 0 < handler.dropped < 190
    handler.finish()
    assert time.monotonic() - began < 3
    os.close(reading)


def test_a_closed_pipe_ends_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    handler = BackgroundHandler(writing)
    for _ in range(3):
        handler.emit(record("x"))
    handler.finish()
    assert handler.dropped == 0
