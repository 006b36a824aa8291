"""Telling the allocator to keep freed memory."""

import platform

import pytest

from helpers import python
from kilonet import allocator


def test_glibc_is_told_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    told = allocator.keep_freed_memory.__wrapped__
    assert told() == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert told() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives freed blocks back so eagerly")
def test_a_large_block_is_not_given_back_and_taken_again() -> None:
    script = """
import resource
import numpy
from kilonet.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        numpy.empty(1 << 24, numpy.uint8)[::4096] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_freed_memory()
faults()
print(given_back, faults())
"""
    given_back, kept = map(int, python(script).out.split())
    assert kept < given_back / 10
