"""Memory of CPU runs."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # from glibc's malloc.h
_MAX_INT = 2**31 - 1
_TOP_PAD = 64 << 20


def keep_freed_memory() -> bool:
    """Let malloc keep freed memory instead of returning it to the kernel at once.

    By default glibc maps every large block again and unmaps it when freed. So each step of a CPU run faults in the same
    gigabytes page by page, which is slow in a virtual machine. With these settings the process keeps its size.

    Returns:
        Whether it took effect (only glibc has these settings).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _MAX_INT), (_M_TOP_PAD, _TOP_PAD))
    return all([mallopt(option, value) for option, value in settings])
