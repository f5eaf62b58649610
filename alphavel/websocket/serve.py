"""
`alpha websocket:serve`: one process with one HTTP server, which answers the Flask application's requests and turns
WebSocket requests into connections; from the first listen to the last goodbye.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event

from alphavel.foundation.config import Config
from alphavel.foundation.control import ControlError, ControlServer
from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket import logs, notify
from alphavel.websocket.control import commands
from alphavel.websocket.http_server import HttpServer
from alphavel.websocket.listening import listen, url_of
from alphavel.websocket.logs import ACCESS, mask
from alphavel.websocket.server import WebSocketServer
from alphavel.websocket.settings import WebSocketSettings
from alphavel.websocket.tls import tls_context
from alphavel.websocket.upgrade import WebSocketHandler, send_at_once

logger = logs.get_logger("alphavel.websocket")

_COLLECT_AFTER = 10_000  # new objects
_RETIRE_S = 0.5
_GOODBYE_S = 5.0
_BEAT_EVERY_S = 0.25


class Service:
    """
    A running server: HTTP, WebSockets, and the socket that commands talk to.

    Attributes:
        server: The WebSocket server.
        http: gevent's HTTP server.
    """

    def __init__(
        self,
        server: WebSocketServer,
        application: Callable[..., Any],
        handler_class: type[WebSocketHandler] = WebSocketHandler,
        read_settings: Callable[[], WebSocketSettings] | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        """
        Args:
            server: Its settings say where to listen, and whether TLS is ended here.
            application: WSGI application for all other requests.
            handler_class: pywsgi handler.
            read_settings: Reads the configuration anew, for `reload`.
            listener: A socket that listens already, in place of one where the settings say.

        Raises:
            ListenError: The address is in use, or not of this machine.
            ConfigurationError: The certificate or its key cannot be used.
        """
        self.server = server
        self._read_settings = read_settings or (lambda: Config().settings("websocket", WebSocketSettings))
        settings = server.settings
        with Config().naming("websocket"):
            tls = tls_context(settings.tls)
        self.http = _HttpServer(
            _adopt(listener or listen(settings.host, settings.port, settings.options.backlog)),
            application,
            server=server,
            handler_class=handler_class,
            log=_AccessLog() if settings.logging.access else None,
            **({"ssl_context": tls} if tls else {}),
        )
        self._scheme = "wss" if tls else "ws"
        self._control = ControlServer("websocket", {**commands(server), "reload": self.replace})
        self._hold: Callable[[], None] = lambda: None
        self._release: Callable[[], None] = lambda: None
        self._is_replacing = False
        self._is_replaced = False
        self._stop = Event()

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self.http.server_port
        return port

    def start(self) -> None:
        """Begin to accept."""
        settings = self.server.settings
        self.server.start()
        self.http.start()
        self.server.listening = [url_of(self._scheme, self.http.address, settings.path)]
        try:
            self._control.start()
        except ControlError as error:
            logger.warning("`alpha websocket:stats` will not find this server: %s", error)

    def run(self, ready: Callable[[], None], hold: Callable[[], None], release: Callable[[], None]) -> bool:
        """
        Serve until SIGTERM or SIGINT, then drain; SIGHUP reads the configuration anew. A second signal stops at once.

        Args:
            ready: Called when signals are understood.
            hold: Takes what only one process can have; the caller has done so for the first time.
            release: Gives that back, when another one takes over.

        Returns:
            Whether all clients and handlers could be waited for.
        """
        gevent.signal_handler(signal.SIGTERM, self._signalled)
        gevent.signal_handler(signal.SIGINT, self._signalled)
        gevent.signal_handler(signal.SIGHUP, self.reload)
        self._hold, self._release = hold, release
        ready()
        notify.ready()
        interval = notify.watchdog_interval()
        if interval is not None:
            gevent.spawn(_feed_the_watchdog, interval)
        _spare_the_collector()
        self._stop.wait()
        if self.server.relay.successor is None:
            notify.stopping()
        return self.stop()

    def replace(self) -> dict[str, Any]:
        """
        Have a new process with the code of now take over, see `handover`, and end; with several workers it is the parent who
        can replace them.

        Returns:
            `{"pid": …, "connections": …, "left": …}`, or `{"parent": …}`.

        Raises:
            HandoverError: It did not take over, and this process goes on.
        """
        if self.server.is_worker:
            return {"parent": os.getppid()}
        if self._stop.is_set() or self._is_replaced:
            return {}
        from alphavel.websocket.handover.giving import hand_over
        from alphavel.websocket.handover.pipe import HandoverError

        if self._is_replacing:
            raise HandoverError("Another process is just taking over.")
        self._is_replacing = True
        try:
            told = hand_over(self, self._release, self._hold)
        finally:
            self._is_replacing = False
        self._is_replaced = True
        gevent.spawn_later(_RETIRE_S, self._stop.set)  # as `_retire`: who was accepted just now has yet to say what it wants
        return told

    def run_as_worker(self, lifeline: int, beat: Callable[[], None], ready: Callable[[], None]) -> bool:
        """
        Serve until the parent says stop, by SIGTERM or by its end, then drain. SIGUSR2: another accepts in this one's place.

        A signal may come twice, from the parent and from who sends it to all processes of a service; what is to be done
        about a second one is the parent's to say, which sends SIGKILL.

        Args:
            lifeline: A descriptor that can be read from when the parent has ended.
            beat: Called now and then for as long as the loop turns.
            ready: Called when signals are understood.
        """
        gevent.signal_handler(signal.SIGTERM, self._stop.set)
        gevent.signal_handler(signal.SIGUSR2, self._retire)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        watcher = gevent.get_hub().loop.io(lifeline, 1)
        watcher.start(self._stop.set)
        pulse = gevent.get_hub().loop.timer(0.0, _BEAT_EVERY_S)
        pulse.start(beat)  # to the end of the process: one that hangs while it drains is to be noticed, too
        ready()
        _spare_the_collector()
        self._stop.wait()
        watcher.stop()
        return self.stop()

    def _retire(self) -> None:
        self.server.is_retiring = True
        self.http.stop_accepting()
        # Who was accepted just now is to get in, and to be told to come back, rather than to be refused.
        gevent.spawn_later(_RETIRE_S, self._stop.set)

    def reload(self) -> None:
        """Take configuration and certificate as the files say now; where one is wrong, go on with the old ones and say so."""
        notify.reloading()
        try:
            settings = self._read_settings()
            with Config().naming("websocket"):
                tls = tls_context(settings.tls)
                logs.check(settings.logging)
                self.server.configure(settings)
            if tls is not None and self.http.ssl_enabled:
                self.http.use_certificate(tls)
            logs.set_up(settings.logging)
        except ConfigurationError as error:
            logger.error("The configuration was not taken: %s", error)
        else:
            logger.info("Configuration reloaded")
        notify.ready()

    def stop(self) -> bool:
        """Hand clients over, finish handlers and requests; see `WebSocketServer.stop`."""
        logger.info("Stopping: %d connections are handed over", len(self.server.connections.connections))
        deadline = time.monotonic() + self.server.settings.options.drain_timeout
        clean = self.server.stop()
        self.http.close()
        WebSocketHandler.end_idle(self.server)
        clean = self.http.finish(deadline - time.monotonic()) and clean
        self.http.stop(timeout=0.0)
        if self.server.relay.successor is not None:
            self.server.relay.successor.finish(_GOODBYE_S)
        self._control.stop()
        logger.info("Stopped")
        return clean

    def _signalled(self) -> None:
        if self._stop.is_set():
            raise SystemExit(1)
        self._stop.set()


def _feed_the_watchdog(interval: float) -> None:
    """Say that the loop still turns, in a greenlet that gets its turn only then."""
    while True:
        notify.alive()
        gevent.sleep(interval)


def _spare_the_collector() -> None:
    """Tune the garbage collector of this process, which is a server's from now on."""
    # Modules, classes and routes stay: no collection need look at them, and at none of their caches, again.
    gc.collect()
    gc.freeze()
    # A turn of the loop makes a thousand short-lived objects, hardly one of them in a cycle: look at more of them at once.
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])


class _HttpServer(HttpServer):
    """The HTTP server of one WebSocket server, which its handlers ask for it."""

    def __init__(
        self, listener: Any, application: Any, *, server: WebSocketServer, handler_class: type, **options: Any
    ) -> None:
        self._websocket = server
        bound = type("BoundHandler", (handler_class,), {"websocket_server": lambda handler: server})
        super().__init__(listener, application, handler_class=bound, **options)

    def websocket_server(self) -> WebSocketServer:
        """The server that WebSockets go to."""
        return self._websocket


class _AccessLog:
    """Takes pywsgi's access lines into our log, where tokens are masked."""

    def write(self, line: str) -> None:
        logging.getLogger(ACCESS).info("%s", mask(line.rstrip()))


def _adopt(listener: socket.socket) -> Any:
    """Take a socket that listens, be it from before gevent patched the process."""
    adopted = socket.socket(listener.family, listener.type, fileno=listener.detach())
    adopted.setblocking(False)
    send_at_once(adopted)  # accepted sockets inherit it
    return adopted
