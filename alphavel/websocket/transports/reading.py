"""
Reading what has come on a socket. Two ways that do the same: in C, where pip found a compiler, and in Python.

In C the messages of a read are taken apart with it, where all of them are of the simplest kind, as nearly all are: small,
each whole in one frame, not compressed. For everything else, and always in Python, there is `frames.Parser`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import TypeAlias

_native: ModuleType | None
try:
    from alphavel.websocket.transports import _reading as _native
except ImportError:
    _native = None

NOTHING = -1

Read: TypeAlias = Callable[[int, bool], "tuple[int, list[str | bytes] | None]"]
"""
`read(fd, take_apart)` reads what has come on a non-blocking descriptor into the buffer. Never blocks, switches or raises.

Returns:
    How many bytes they are, 0 at the end of the stream and where the connection is broken, `NOTHING` where nothing has come;
    and their messages, a `str` for each text and `bytes` for each binary one. None: not asked for, or not so simple; then the
    bytes are for the parser.
"""


def new_read(buffer: bytearray, max_message_bytes: int) -> Read:
    """Return what reads into a buffer; messages of more than so many bytes are for the parser, who refuses them."""
    if _native is None:
        return PythonReader(buffer).read
    read: Read = _native.Reader(buffer, max_message_bytes).read
    return read


class PythonReader:
    """Reads, and takes nothing apart."""

    def __init__(self, buffer: bytearray) -> None:
        self._buffers = (buffer,)

    def read(self, fd: int, take_apart: bool, /) -> tuple[int, None]:
        """See `Read`."""
        try:
            return os.readv(fd, self._buffers), None
        except BlockingIOError:
            return NOTHING, None
        except OSError:
            return 0, None
