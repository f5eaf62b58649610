"""What a process holds, as its allocators see it: to tell what is used from what is kept for later."""

from __future__ import annotations

import ctypes
import gc
import sys


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2`, mallinfo(3): glibc 2.33 and later."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()  # noqa: SIM905
    ]


def heap() -> dict[str, int]:
    """
    Collect what nobody needs, then count.

    Returns:
        `objects` that the garbage collector knows, `blocks` of Python's own allocator, bytes that malloc has given out
        (`malloc_used`) and that it keeps (`malloc_free`).
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _MallocInfo
    info = libc.mallinfo2()
    return {
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
        "malloc_used": info.uordblks + info.hblkhd,
        "malloc_free": info.fordblks,
    }
