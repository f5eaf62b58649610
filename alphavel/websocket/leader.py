"""
One worker of a fleet leads: it runs the timers and tells the webhooks.

On one machine it is the one that holds the lock of a file (`FileLeader`): the kernel gives it back when its process ends,
whatever ended it and whoever it has forked, so that there are never two, and soon one. Over Redis see `lease`.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

import gevent

_ASK_EVERY_S = 0.5
_STAND_BACK_S = 1.0


class Leader(Protocol):
    """
    This worker's part in it.

    Attributes:
        leads: Whether it is this one.
    """

    @property
    def leads(self) -> bool:
        """See above."""

    def start(self, elected: Callable[[], None], deposed: Callable[[], None]) -> None:
        """Stand for it; `elected` and `deposed` are called, in a greenlet, when this worker begins to lead and when it ends."""

    def ask(self) -> None:
        """Lead, where nobody does. May be called in the hub."""

    def ask_now(self) -> None:
        """The same, with an answer in `leads` when it returns; waits for a moment."""

    def stand_back(self) -> None:
        """Let another one lead, if there is one that wants to."""

    def stop(self) -> None:
        """Lead no more."""


class FileLeader:
    """See `Leader`."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: Of the file, the same for all workers.
        """
        self.leads = False
        self._file: IO[bytes] = open(path, "ab")  # noqa: SIM115 (open as long as the worker runs)
        self._asking: gevent.Greenlet | None = None
        self._elected: Callable[[], None] = lambda: None
        self._not_before = 0.0

    def start(self, elected: Callable[[], None], deposed: Callable[[], None]) -> None:
        """See `Leader`. Who leads here is never deposed."""
        self._elected = elected
        self.ask()
        self._asking = gevent.spawn(self._ask_forever)

    def ask(self) -> None:
        """See `Leader`."""
        if time.monotonic() >= self._not_before:
            self.ask_now()

    def ask_now(self) -> None:
        """See `Leader`."""
        if self.leads or self._file.closed:
            return
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        self.leads = True
        self._elected()

    def stand_back(self) -> None:
        """See `Leader`."""
        if self.leads:
            self.leads = False
            self._not_before = time.monotonic() + _STAND_BACK_S
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def stop(self) -> None:
        """See `Leader`."""
        if self._asking is not None:
            self._asking.kill(block=False)
        self.leads = False
        self._file.close()

    def _ask_forever(self) -> None:
        while True:
            gevent.sleep(_ASK_EVERY_S)
            self.ask()
