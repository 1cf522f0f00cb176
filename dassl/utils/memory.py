"""Memory of CPU runs."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # from glibc's malloc.h
_MAX_INT = 2**31 - 1
_TOP_PAD = 64 << 20


def keep_freed_memory() -> None:
    """Let malloc keep freed memory instead of returning it to the kernel at once.

    By default glibc maps every large block again and unmaps it when freed. So each step of a CPU run faults in the same
    gigabytes page by page, which is slow in a virtual machine. With these settings the process keeps its size. Only
    glibc has them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _MAX_INT), (_M_TOP_PAD, _TOP_PAD)):
            mallopt(option, value)
