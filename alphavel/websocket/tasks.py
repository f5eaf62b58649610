"""Greenlets that run the application's code, counted so that a stopping server can wait for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent.pool import Group


class Tasks:
    """A group of greenlets that can be waited for and, past a bound, ended."""

    def __init__(self) -> None:
        self._group = Group()

    def spawn(self, function: Callable[..., Any], *arguments: Any) -> gevent.Greenlet:
        """Run `function(*arguments)` in a greenlet of its own, after the caller has yielded."""
        return self._group.spawn(function, *arguments)

    def finish(self, timeout: float) -> bool:
        """
        Wait until all have ended; after `timeout` seconds end those that have not. Blocks the calling greenlet.

        Returns:
            False where some had to be ended.
        """
        self._group.join(timeout)
        if not self._group:
            return True
        self._group.kill(timeout=1.0)
        return False

    def __len__(self) -> int:
        return len(self._group)
