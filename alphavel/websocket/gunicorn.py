"""
The gunicorn worker: `gunicorn -k egg:alphavel#geventwebsocket shop:app`.

Connections are parked as under `alpha websocket:serve`; gunicorn's own options decide where it listens, over TLS or not. The
workers of one arbiter are one server, as those of `alpha websocket:serve --workers` are.
"""

from __future__ import annotations

import atexit
import logging
import os
from typing import TYPE_CHECKING, Any

import gevent
from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler

if TYPE_CHECKING:
    from alphavel.websocket.server import WebSocketServer

_LAST_ACCEPTED_S = 0.5


class GeventWebSocketWorker(GeventPyWSGIWorker):  # type: ignore[misc]
    """gunicorn's gevent worker on pywsgi, with WebSockets that need no greenlet."""

    _stopped = False
    _arbiter = 0  # process that removes the folder where its workers meet

    @classmethod
    def setup(cls) -> None:
        """Prepare the arbiter; gunicorn calls this in its process, each time it reads its configuration."""
        if cls._arbiter != os.getpid():
            cls._arbiter = os.getpid()
            atexit.register(_remove_folder, cls._arbiter)

    def patch(self) -> None:
        """Monkey-patch the worker's process, then import what must come after that."""
        super().patch()
        from alphavel.websocket.http_server import HttpServer
        from alphavel.websocket.upgrade import Upgrades

        worker, servers = self, []

        class WebSocketHandler(Upgrades, PyWSGIHandler):  # type: ignore[misc]
            def run_application(self) -> None:
                worker.count_request()
                super().run_application()

        class Server(HttpServer):
            shares_listener = True

            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                servers.append(self)

        self.wsgi_handler, self.server_class, self._servers = WebSocketHandler, Server, servers

    def count_request(self) -> None:
        """Stop after `max_requests`, which gunicorn's own workers on pywsgi do not; a handshake counts as a request."""
        self.nr += 1
        if self.nr == self.max_requests:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False

    def run(self) -> None:
        """Serve until gunicorn says stop; then clients are handed over while gunicorn ends its HTTP requests."""
        from alphavel.foundation import container
        from alphavel.foundation.control import ControlError, ControlServer
        from alphavel.foundation.providers import register_all
        from alphavel.websocket import logs
        from alphavel.websocket.connections import renew_process_part
        from alphavel.websocket.control import commands
        from alphavel.websocket.factory import serving
        from alphavel.websocket.files import raise_file_limit
        from alphavel.websocket.listening import url_of

        renew_process_part()
        register_all(container())
        server = serving(container())
        if not logging.getLogger().handlers and not logging.getLogger("alphavel").handlers:
            logs.set_up(server.settings.logging)  # the application has logging as it wants it, or leaves it to us
        server.is_worker = True
        scheme = "wss" if self.cfg.is_ssl else "ws"
        server.listening = [url_of(scheme, address, server.settings.path) for address in self.cfg.address]
        if self.cfg.workers > 1 and server.settings.broadcasting.driver == "memory":
            server.join_workers_of(self.ppid)
        server.start()
        warning = raise_file_limit(server.settings.options.max_connections)
        if warning:
            self.log.warning(warning)
        control = ControlServer("websocket", commands(server))
        try:
            control.start()
        except ControlError as error:
            self.log.warning("`alpha websocket:stats` will not find this worker: %s", error)
        goodbye = gevent.spawn(self._hand_over_when_stopping, server)
        try:
            super().run()
        finally:
            self._stopped = True
            goodbye.join()
            control.stop()

    def _hand_over_when_stopping(self, server: WebSocketServer) -> None:
        from alphavel.websocket.upgrade import Upgrades

        while self.alive:
            gevent.sleep(0.1)
        server.is_retiring = True
        for accepting in self._servers:  # at once: others accept in its place, and who is accepted here now would be refused
            accepting.stop_accepting()
        gevent.sleep(_LAST_ACCEPTED_S)
        server.stop(timeout=min(server.settings.options.drain_timeout, self.cfg.graceful_timeout))
        while not self._stopped:  # gunicorn waits for every connection, those kept alive for nothing included
            Upgrades.end_idle(server)
            gevent.sleep(0.1)


def _remove_folder(arbiter: int) -> None:
    if os.getpid() == arbiter:  # workers inherit what is to be done at the arbiter's end
        from alphavel.websocket.workers import WorkersFolder

        WorkersFolder.remove_of(arbiter)
