"""Tokens that are not valid any more though they have not expired, by their `jti`: RFC 7519, section 4.1.7. No I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

DAY_S = 86400.0
MAX_JTI = 256
_MAX_REVOKED = 1_000_000


class Revocations:
    """
    Each is kept until its token has expired by itself; a dict needs no lock, one that is full forgets the oldest.

    Tokens expire by the wall clock, which may be set back and make them last longer, or forward for a while: a revocation is
    over when it is so by both clocks.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        max_revoked: int = _MAX_REVOKED,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            clock: Seconds on a clock that never goes back.
            max_revoked: How many are kept.
            wall_clock: Unix time.
        """
        self._clock = clock
        self._wall_clock = wall_clock
        self._max = max_revoked
        self._until: dict[str, tuple[float, float]] = {}  # on the one clock and on the other

    def add(self, jti: str, for_s: float) -> None:
        """Revoke the token with this id, for so many seconds."""
        until, wall = self._clock() + for_s, self._wall_clock() + for_s
        known, known_wall = self._until.pop(jti, (until, wall))
        self._until[jti] = max(until, known), max(wall, known_wall)
        if len(self._until) > self._max:
            del self._until[next(iter(self._until))]

    def __contains__(self, jti: object) -> bool:
        until = self._until.get(jti) if isinstance(jti, str) else None
        if until is None:
            return False
        if self._left(until) > 0:
            return True
        del self._until[jti]  # type: ignore[arg-type]
        return False

    def __len__(self) -> int:
        return len(self._until)

    def left(self) -> Iterator[tuple[str, float]]:
        """Yield each with the seconds that it still has."""
        for jti, until in list(self._until.items()):
            left = self._left(until)
            if left > 0:
                yield jti, left

    def _left(self, until: tuple[float, float]) -> float:
        return max(until[0] - self._clock(), until[1] - self._wall_clock())


def check_revocation(jti: Any, expires_in: Any) -> None:
    """
    Check what is said of a token.

    Raises:
        ValueError: It makes no sense.
    """
    if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI:
        raise ValueError(f"A jti is a text of 1 to {MAX_JTI} characters; got {ascii(jti)[:40]}.")
    if not isinstance(expires_in, (int, float)) or isinstance(expires_in, bool) or not 0 < expires_in < float("inf"):
        raise ValueError(f"A token expires in a number of seconds; got {ascii(expires_in)[:40]}.")
