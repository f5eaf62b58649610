"""
`alpha websocket:serve`: one process with one HTTP server, which answers the Flask application's requests and turns
WebSocket requests into connections; from the first listen to the last goodbye.
"""

from __future__ import annotations

import errno
import logging
import resource
import signal
import ssl
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from gevent.pywsgi import WSGIServer
from gevent.server import _tcp_listener

from alphavel.foundation.config import Config
from alphavel.foundation.control import ControlError, ControlServer
from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket import logs
from alphavel.websocket.logs import mask
from alphavel.websocket.server import WebSocketServer
from alphavel.websocket.settings import WebSocketSettings
from alphavel.websocket.upgrade import WebSocketHandler

logger = logging.getLogger("alphavel.websocket")

_SPARE_FILES = 64  # descriptors a process needs besides its connections


class ListenError(Exception):
    """The address cannot be listened on."""


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
        tls: tuple[str, str] | None = None,
        handler_class: type[WebSocketHandler] = WebSocketHandler,
        read_settings: Callable[[], WebSocketSettings] | None = None,
    ) -> None:
        """
        Args:
            server: Its settings say where to listen.
            application: WSGI application for all other requests.
            tls: Files of a certificate and its key, to end TLS here.
            handler_class: pywsgi handler.
            read_settings: Reads the configuration anew, for `reload`.

        Raises:
            ListenError: The address is in use, or not of this machine.
            OSError: The certificate or its key cannot be read.
        """
        self.server = server
        self._read_settings = read_settings or (lambda: Config().settings("websocket", WebSocketSettings))
        settings = server.settings
        self.http = _HttpServer(
            _listen(settings.host, settings.port, settings.options.backlog),
            application,
            server=server,
            handler_class=handler_class,
            log=_AccessLog() if settings.logging.access else None,
            **({"ssl_context": _tls_context(*tls)} if tls else {}),
        )
        self._scheme = "wss" if tls else "ws"
        self._control = ControlServer("websocket", {"stats": server.get_stats})
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
        self.server.listening = [f"{self._scheme}://{settings.host}:{self.port}{settings.path}"]
        try:
            self._control.start()
        except ControlError as error:
            logger.warning("`alpha websocket:stats` will not find this server: %s", error)

    def run(self) -> bool:
        """
        Serve until SIGTERM or SIGINT, then drain; SIGHUP reads the configuration anew. A second signal stops at once.

        Returns:
            Whether all clients and handlers could be waited for.
        """
        gevent.signal_handler(signal.SIGTERM, self._signalled)
        gevent.signal_handler(signal.SIGINT, self._signalled)
        gevent.signal_handler(signal.SIGHUP, self.reload)
        self._stop.wait()
        return self.stop()

    def reload(self) -> None:
        """Take the configuration as the file says now; where it is wrong, go on with the old one and say so."""
        try:
            settings = self._read_settings()
            self.server.configure(settings)
            logs.set_up(settings.logging)
        except (ConfigurationError, OSError) as error:
            logger.error("The configuration was not taken: %s", error)
        else:
            logger.info("Configuration reloaded")

    def stop(self) -> bool:
        """Hand clients over, finish handlers and requests; see `WebSocketServer.stop`."""
        logger.info("Stopping: %d connections are handed over", len(self.server.connections.connections))
        deadline = time.monotonic() + self.server.settings.options.drain_timeout
        clean = self.server.stop()
        self.http.close()
        self.http.stop(timeout=max(0.0, deadline - time.monotonic()))
        self._control.stop()
        logger.info("Stopped")
        return clean

    def _signalled(self) -> None:
        if self._stop.is_set():
            raise SystemExit(1)
        self._stop.set()


class _HttpServer(WSGIServer):  # type: ignore[misc]
    """pywsgi's server, which its handlers ask for the WebSocket server."""

    def __init__(
        self, listener: Any, application: Any, *, server: WebSocketServer, handler_class: type, **options: Any
    ) -> None:
        self._websocket = server
        bound = type("BoundHandler", (handler_class,), {"websocket_server": lambda handler: server})
        super().__init__(listener, application, handler_class=bound, **options)

    def wrap_socket_and_handle(self, sock: Any, address: Any) -> None:
        """Serve one TLS connection; see gevent. A client that does not finish the TLS handshake is let go in silence."""
        try:
            with gevent.Timeout(self._websocket.settings.options.handshake_timeout, TimeoutError):
                tls_sock = self.wrap_socket(sock, **self.ssl_args)
        except OSError:
            return
        try:
            self.handle(tls_sock, address)
        finally:
            tls_sock.close()


def _tls_context(certfile: str, keyfile: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certfile, keyfile)
    return context


class _AccessLog:
    """Takes pywsgi's access lines into our log, where tokens are masked."""

    def write(self, line: str) -> None:
        logging.getLogger("alphavel.http").info(mask(line.rstrip()))


def _listen(host: str, port: int, backlog: int) -> Any:
    try:
        return _tcp_listener((host, port), backlog=backlog, reuse_addr=True)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ListenError(f"Port {port} of {host} is in use. Stop what uses it, or choose another with --port.") from error
        raise ListenError(f"Cannot listen on {host}, port {port}: {error.strerror or error}.") from error


def raise_file_limit(max_connections: int) -> str | None:
    """
    Raise the limit of open files as far as the system lets this process, towards what `max_connections` need.

    Returns:
        A sentence for the user where it does not suffice, else None.
    """
    needed = max_connections + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        reachable = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
        soft = reachable
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    return (
        f"This process may open {soft} files, so it can hold about {soft - _SPARE_FILES} connections, not the "
        f"{max_connections} of options.max_connections. Raise the limit to {needed} (`ulimit -n {needed}`, LimitNOFILE= in "
        f"systemd, minfds= in Supervisor) or lower max_connections."
    )


def banner(service: Service, workers: int) -> str:
    """What the server says of itself when it starts."""
    server = service.server
    auth = "on, anonymous clients on public channels" if server.settings.auth.anonymous else "on"
    if not server.verifier.enabled:
        auth = "off: no key is set, so anybody may connect, to public channels only"
    lines = [
        ("listening", ", ".join(server.listening)),
        ("workers", str(workers)),
        ("driver", server.settings.broadcasting.driver),
        ("auth", auth),
    ]
    return "Alphavel WebSocket server\n" + "\n".join(f"  {name:<10} {value}" for name, value in lines)
