"""
Whether a worker's loop still turns: a byte of memory that it shares with its parent, and changes now and then.

The parent counts its own looks, not seconds: where the whole group was stopped for an hour and goes on, each worker has missed
one look, and not an hour.
"""

from __future__ import annotations

import mmap


class Pulse:
    """Of one worker; made by the parent before it forks, so that both have it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)
        self._seen = 0
        self._missed = 0

    def beat(self) -> None:
        """Say, in the worker, that it is well."""
        self._memory[0] = (self._memory[0] + 1) % 256

    def missed(self) -> int:
        """Look, in the parent: for how many looks in a row, this one included, the worker has said nothing."""
        now = self._memory[0]
        self._missed = 0 if now != self._seen else self._missed + 1
        self._seen = now
        return self._missed
