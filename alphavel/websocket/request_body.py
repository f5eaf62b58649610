"""Reading a request's body from a client that may stop in the middle of it."""

from __future__ import annotations

import errno
from typing import Any

import gevent


class PatientReader:
    """A reader that waits so long for the body to go on, and no longer: a client that sends nothing holds no greenlet."""

    def __init__(self, rfile: Any, timeout: float) -> None:
        """
        Args:
            rfile: Buffered reader of a gevent socket.
            timeout: Seconds without a byte after which the client is as good as gone.
        """
        self._rfile = rfile
        self._timeout = timeout

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer at the end of the stream. Raises OSError where they stop coming."""
        pieces = []
        while size > 0:
            with self._patience():
                piece = self._rfile.read1(size)
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def readline(self, size: int = -1) -> bytes:
        """Return a line. Raises OSError where it does not come in time."""
        with self._patience():
            line: bytes = self._rfile.readline(size)
        return line

    def _patience(self) -> Any:
        # An error that pywsgi takes in silence: the connection is closed.
        return gevent.Timeout(self._timeout, OSError(errno.EPIPE, "the request's body stopped coming"))
