"""
Writing to many sockets at once. Three ways that do the same: `io_uring` hands the kernel up to 128 frames in one system
call, `send` makes a call for each in C, `python` makes it from here and is always there.

The first two are in a C extension that pip builds where it finds a compiler, and that the server does without elsewhere.
"""

from __future__ import annotations

import errno
import os
from types import ModuleType
from typing import Protocol, TypeAlias

from alphavel.foundation.errors import ConfigurationError

_native: ModuleType | None
try:
    from alphavel.websocket.transports import _writing as _native
except ImportError:
    _native = None

Rest: TypeAlias = list[tuple[int, int]]
"""What did not go out whole: position or descriptor, and how much of it did, or minus an error's number."""

_AT_ONCE = 512  # of C: a millisecond or two; what Python does between two calls is paid 4 times less often than with 128

_NOT_BUILT = "its C extension was not built: there was no compiler when Alphavel was installed, or ALPHAVEL_PURE_PYTHON was set"
_REASONS = {
    errno.ENOSYS: "this system has none",
    errno.EINVAL: "it needs Linux 6.1",
    errno.EPERM: "the system forbids it (the sysctl kernel.io_uring_disabled, or a container's seccomp profile)",
}


class Writer(Protocol):
    """
    Writes without blocking or switching. For the thread that opened it. As text: its name and its note.

    Attributes:
        name: `io_uring`, `send` or `python`.
        note: Why it is not a faster one; empty where nothing is missing.
        at_once: Up to how many it should be given in a call.
    """

    name: str
    note: str
    at_once: int

    def write(self, fds: list[int], frames: list[bytes], /) -> tuple[int, Rest]:
        """
        Write a frame to each descriptor.

        Returns:
            Bytes that went out, and those that did not go out whole, by their position.
        """

    def write_row(
        self, fds: bytes, start: int, stop: int, ready: bytearray, frames: list[bytes], /
    ) -> tuple[int, Rest, list[int]]:
        """
        Write to descriptors in a row: `frames[ready[fd]]` to each.

        Args:
            fds: C `int`s.
            start, stop: From which on, and up to which.
            ready: See `Descriptors`.
            frames: Empty where there is none, as for number 0.

        Returns:
            Bytes that went out, those that did not go out whole, by descriptor, and the descriptors without a frame.
        """

    def close(self) -> None:
        """Give back what it holds."""


class _Named:
    name: str
    note: str

    def __str__(self) -> str:
        return f"{self.name} ({self.note})" if self.note else self.name


class PythonWriter(_Named):
    """A system call for each frame, from Python."""

    name = "python"
    at_once = 128

    def __init__(self, note: str = "") -> None:
        self.note = note

    def write(self, fds: list[int], frames: list[bytes], /) -> tuple[int, Rest]:
        """See `Writer`."""
        total, write = 0, os.write
        rest: Rest = []
        for position, fd in enumerate(fds):
            try:
                size = write(fd, frames[position])
            except OSError as error:
                rest.append((position, _result(error)))
                continue
            total += size
            if size != len(frames[position]):
                rest.append((position, size))
        return total, rest

    def write_row(
        self, fds: bytes, start: int, stop: int, ready: bytearray, frames: list[bytes], /
    ) -> tuple[int, Rest, list[int]]:
        """See `Writer`."""
        total, write = 0, os.write
        rest: Rest = []
        behind = []
        for fd in memoryview(fds).cast("i")[start:stop]:
            frame = frames[ready[fd]]
            if not frame:
                behind.append(fd)
                continue
            try:
                size = write(fd, frame)
            except OSError as error:
                rest.append((fd, _result(error)))
                continue
            total += size
            if size != len(frame):
                rest.append((fd, size))
        return total, rest, behind

    def close(self) -> None:
        """See `Writer`."""


class SendWriter(_Named):
    """A system call for each frame, from C."""

    name = "send"

    def __init__(self, native: ModuleType, note: str = "") -> None:
        self.note = note
        self.at_once = _AT_ONCE
        self.write = native.write
        self.write_row = native.write_row

    def close(self) -> None:
        """See `Writer`."""


class RingWriter(_Named):
    """A system call for many frames. Raises OSError where the system has no io_uring for us."""

    name = "io_uring"
    note = ""

    def __init__(self, native: ModuleType) -> None:
        ring = native.Ring()
        self.at_once = _AT_ONCE
        self.write = ring.write
        self.write_row = ring.write_row
        self.close = ring.close


def open_writer(wanted: str) -> Writer:
    """
    Return the writer that `broadcasting.writer` asks for, for the calling thread.

    Args:
        wanted: `io_uring`, `send`, `python`, or `auto` for the first of these that there is.

    Raises:
        ConfigurationError: That one is not to be had here.
    """
    if wanted == "python":
        return PythonWriter()
    if _native is None:
        if wanted != "auto":
            raise ConfigurationError(f"broadcasting.writer is {wanted}, but {_NOT_BUILT}. Reinstall it, or set auto or python.")
        return PythonWriter(note="no C extension")
    if wanted == "send":
        return SendWriter(_native)
    try:
        return RingWriter(_native)
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, str(error))
        if wanted != "auto":
            raise ConfigurationError(f"broadcasting.writer is {wanted}, but {reason}. Set auto or send.") from error
        return SendWriter(_native, f"no io_uring: {reason}")


def _result(error: OSError) -> int:
    return 0 if isinstance(error, BlockingIOError) else -(error.errno or errno.EIO)
