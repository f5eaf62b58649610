"""The application's timers, `@WebSocket.every(…)`: of several workers the one that leads runs them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import gevent

from alphavel.websocket.broadcasting import run_timer

if TYPE_CHECKING:
    from alphavel.websocket.hooks import Handler
    from alphavel.websocket.server import WebSocketServer


class Timers:
    """Those of one server."""

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server
        self._running: list[gevent.Greenlet] = []
        self._calls: set[gevent.Greenlet] = set()  # of handlers

    def start(self) -> None:
        """Call handlers from now on; none in a server that is stopping."""
        if self._server.is_draining:
            return
        for timer in self._server.hooks.timers:
            self._running.append(gevent.spawn(self._run, timer.seconds, timer.handler))

    def stop(self) -> None:
        """Call no more; a handler that was called goes on."""
        gevent.killall(self._running)
        self._running.clear()

    def join(self) -> None:
        """Wait for the handlers that were called. Blocks the calling greenlet."""
        gevent.joinall(list(self._calls))

    def _run(self, seconds: float, handler: Handler) -> None:
        server = self._server

        def call() -> None:
            if server.siblings is not None and not server.siblings.leader.leads:
                return  # another one may: this process was stopped for a while, or hears nothing
            handling = server.tasks.spawn(server.run_logged, handler, f"every({seconds})")
            self._calls.add(handling)
            handling.link(self._calls.discard)
            handling.join()

        run_timer(seconds, call, gevent.sleep, time.monotonic)
