"""The clock for what servers promise each other: how long one leads, was away, or may believe what it knows of the others."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

# Others go on while this machine is suspended, and so must the clock.
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

now: Callable[[], float] = functools.partial(time.clock_gettime, _CLOCK)
"""Seconds. Never goes back, whatever is done to the time of day."""
