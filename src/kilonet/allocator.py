"""Keeping freed memory in the process: glibc gives every large freed block back, and each step pays for it again."""

import ctypes
import ctypes.util
import functools
import platform

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGE = 1 << 30


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep freed activations for the next step; returns whether it was told.

    Source of the two parameters: mallopt(3). Anything but glibc is left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(ctypes.util.find_library("c"))
    return all(library.mallopt(parameter, _LARGE) == 1 for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD))
