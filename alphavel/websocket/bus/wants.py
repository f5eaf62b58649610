"""
Which worker has somebody a push is for: a table of bytes in shared memory for each, which its owner writes and all read.

A byte stands for all channels and users whose names have the same checksum, so that a worker may be sent what it wants not,
and is never left out: the byte is set before a client is told that it is subscribed. A message that said so could come later
than the push.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

_SIZE = 1 << 20
_MASK = _SIZE - 1


def channel_key(app_id: str, name: str) -> int:
    """Return the place of a channel in all tables."""
    return crc32(f"{app_id}\0c{name}".encode()) & _MASK


def user_key(app_id: str, user_id: str) -> int:
    """Return the place of a user in all tables."""
    return crc32(f"{app_id}\0u{user_id}".encode("utf-8", "surrogatepass")) & _MASK


class Wants:
    """This worker's own table."""

    def __init__(self, path: Path) -> None:
        """Make the table, for others to read. Memory is taken for the pages that are written only."""
        self._path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            self._table = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._counts: dict[int, int] = {}

    def add(self, key: int) -> None:
        """Enter a channel or user that somebody here is on, or is; once for each."""
        self._counts[key] = self._counts.get(key, 0) + 1
        self._table[key] = 1

    def remove(self, key: int) -> None:
        """Strike what was added."""
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]
            self._table[key] = 0

    def close(self) -> None:
        """Let nobody find the table any more."""
        self._path.unlink(missing_ok=True)


class TheirWants:
    """
    The table of another worker.

    Attributes:
        table: Not 0 at the places of what is wanted.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError where there is no such table."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.table = mmap.mmap(descriptor, _SIZE, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)

    def any(self, keys: Iterable[int]) -> bool:
        """Whether one of them is wanted there."""
        table = self.table
        for key in keys:  # noqa: SIM110 (a generator would take as long as the whole loop)
            if table[key]:
                return True
        return False

    def close(self) -> None:
        """Read no more."""
        self.table.close()
