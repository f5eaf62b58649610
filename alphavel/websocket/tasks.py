"""
Greenlets that run the application's code, counted so that a stopping server can wait for them.

A greenlet costs ten microseconds to make, most of it for its stack, and most handlers are done in less. So what is run here
runs in greenlets that are used again: one handler at a time, each as if in a greenlet of its own. One that a handler left
anything in, or that anything still refers to, is not used again.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Group
from greenlet import GreenletExit, getcurrent, greenlet

_SLICE_S = 0.002  # how long handlers may run one after another before the loop gets a turn
_CLOCK_EVERY = 8  # handlers between two looks at the clock
_MAX_IDLE = 16  # greenlets kept for later


class Tasks:
    """Greenlets that can be waited for and, past a bound, ended."""

    def __init__(self) -> None:
        self._group = Group()
        self._ready: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._busy: set[greenlet] = set()
        self._idle: list[greenlet] = []
        self._scheduled = False
        self._later: Any = None
        self._deadline = 0.0
        self._nothing_left = Event()

    def spawn(self, function: Callable[..., Any], *arguments: Any) -> gevent.Greenlet:
        """Run `function(*arguments)` in a greenlet that can be joined, after the caller has yielded."""
        return self._group.spawn(function, *arguments)

    def run(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run `function(*arguments)` in a greenlet, after the caller has yielded; in the order of the calls."""
        self._ready.append((function, arguments))
        if not self._scheduled:
            self._scheduled = True
            gevent.get_hub().loop.run_callback(self._run_ready)

    def finish(self, timeout: float) -> bool:
        """
        Wait until all have ended; after `timeout` seconds end those that have not. Blocks the calling greenlet.

        Returns:
            False where some had to be ended.
        """
        deadline = time.monotonic() + timeout
        self._group.join(timeout)
        with gevent.Timeout(max(0.0, deadline - time.monotonic()), False):
            while self._busy or self._ready:
                self._nothing_left.clear()
                self._nothing_left.wait()
        if not len(self):
            return True
        self._ready.clear()
        hub = gevent.get_hub()
        for worker in list(self._busy):
            hub.loop.run_callback(worker.throw, GreenletExit)
        self._group.kill(timeout=1.0)
        return False

    def __len__(self) -> int:
        return len(self._group) + len(self._busy) + len(self._ready)

    # In the hub

    def _run_ready(self) -> None:
        self._scheduled = False
        self._deadline = time.perf_counter() + _SLICE_S
        try:
            while self._ready:
                worker = self._idle.pop() if self._idle else greenlet(self._work, gevent.get_hub())
                self._busy.add(worker)
                worker.switch()  # comes back when nothing is ready, its time is over, or a handler waits for something
                if time.perf_counter() > self._deadline:
                    break
        finally:
            if self._ready and not self._scheduled:
                self._scheduled = True
                if self._later is None:
                    self._later = gevent.get_hub().loop.timer(0.0)
                # Not run_callback: callbacks may run a thousand times before the loop looks at its sockets.
                self._later.start(self._run_ready, update=False)

    # In a worker

    def _work(self) -> None:
        me = getcurrent()
        hub, ready = me.parent, self._ready
        references = sys.getrefcount(me)
        try:
            while True:
                done = 0
                while ready:
                    function, arguments = ready.popleft()
                    function(*arguments)
                    del function, arguments
                    if weakref.getweakrefcount(me) or sys.getrefcount(me) > references:
                        return  # something greenlet-local is left in it, or it is to be woken once more
                    me.gr_context = None  # what the handler set in context variables was its own
                    done += 1
                    if not done % _CLOCK_EVERY and time.perf_counter() > self._deadline:
                        break
                self._now_idle(me)
                if len(self._idle) >= _MAX_IDLE:
                    return
                self._idle.append(me)
                hub.switch()
        finally:
            self._now_idle(me)

    def _now_idle(self, worker: greenlet) -> None:
        self._busy.discard(worker)
        if not self._busy and not self._ready:
            self._nothing_left.set()
