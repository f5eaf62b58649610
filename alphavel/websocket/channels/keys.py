"""Idempotency keys: which have been used of late. Bounded in time and number. No I/O."""

from __future__ import annotations

import time
from collections.abc import Callable

_MAX_KEYS = 100_000


class Keys:
    """
    Attributes:
        window_s: Seconds a key is remembered.
    """

    def __init__(self, window_s: float = 300.0, clock: Callable[[], float] = time.monotonic, max_keys: int = _MAX_KEYS) -> None:
        """
        Args:
            window_s: Seconds a key is remembered.
            clock: Seconds on a clock that never goes back.
            max_keys: Where there are more, the oldest is forgotten before its time.
        """
        self.window_s = window_s
        self._clock = clock
        self._max_keys = max_keys
        self._used: dict[str, float] = {}  # when, the oldest first

    def use(self, key: str) -> bool:
        """Use a key; return False where it has been used within the window."""
        now = self._clock()
        self._forget_before(now - self.window_s)
        if key in self._used:
            return False
        self._used[key] = now
        if len(self._used) > self._max_keys:
            del self._used[next(iter(self._used))]
        return True

    def ages(self) -> list[tuple[str, float]]:
        """Return the keys, with the seconds since they were used; the oldest first."""
        now = self._clock()
        return [(key, now - used) for key, used in self._used.items()]

    def enter(self, key: str, age: float) -> None:
        """Enter a key that another process has used so many seconds ago."""
        self._used[key] = self._clock() - age

    def _forget_before(self, oldest: float) -> None:
        while self._used:
            key = next(iter(self._used))
            if self._used[key] > oldest:
                return
            del self._used[key]

    def __len__(self) -> int:
        return len(self._used)
