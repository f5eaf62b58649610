"""
The gunicorn worker: `gunicorn -k egg:alphavel#geventwebsocket shop:app`.

Connections are parked as under `alpha websocket:serve`; gunicorn's own options decide where it listens, over TLS or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gevent
from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler

if TYPE_CHECKING:
    from alphavel.websocket.server import WebSocketServer


class GeventWebSocketWorker(GeventPyWSGIWorker):  # type: ignore[misc]
    """gunicorn's gevent worker on pywsgi, with WebSockets that need no greenlet."""

    def patch(self) -> None:
        """Monkey-patch the worker's process, then import what must come after that."""
        super().patch()
        from alphavel.websocket.upgrade import Upgrades

        self.wsgi_handler = type("WebSocketHandler", (Upgrades, PyWSGIHandler), {})

    def run(self) -> None:
        """Serve until gunicorn says stop; then clients are handed over while gunicorn ends its HTTP requests."""
        from alphavel.foundation import container
        from alphavel.foundation.control import ControlError, ControlServer
        from alphavel.foundation.providers import register_all
        from alphavel.websocket.connections import renew_process_part
        from alphavel.websocket.serve import raise_file_limit

        renew_process_part()
        register_all(container())
        server: WebSocketServer = container().make("websocket")
        server.listening = [str(listener) for listener in self.cfg.address]
        server.start()
        warnings = [raise_file_limit(server.settings.options.max_connections), self._warn_of_workers(server)]
        for warning in filter(None, warnings):
            self.log.warning(warning)
        control = ControlServer("websocket", {"stats": server.get_stats})
        try:
            control.start()
        except ControlError as error:
            self.log.warning("`alpha websocket:stats` will not find this worker: %s", error)
        goodbye = gevent.spawn(self._hand_over_when_stopping, server)
        try:
            super().run()
        finally:
            goodbye.join()
            control.stop()

    def _hand_over_when_stopping(self, server: WebSocketServer) -> None:
        while self.alive:
            gevent.sleep(0.1)
        server.stop(timeout=min(server.settings.options.drain_timeout, self.cfg.graceful_timeout))

    def _warn_of_workers(self, server: Any) -> str | None:
        if self.cfg.workers == 1 or server.settings.broadcasting.driver != "memory":
            return None
        return (
            f"{self.cfg.workers} workers with broadcasting.driver memory: a push reaches the clients of one worker only. "
            "Run one worker."
        )
