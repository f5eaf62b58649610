"""
From HTTP to WebSocket: an admitted request's socket leaves gevent's HTTP server and becomes a transport.

`Upgrades` is the part that pywsgi's handler lacks: it takes WebSocket requests before the application sees them, and
bounds what a client that never finishes its request can hold.
"""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
from gevent.pywsgi import Input, WSGIHandler
from gevent.socket import socket as GeventSocket

from alphavel.foundation import container
from alphavel.websocket.admission import admit, is_upgrade, serves
from alphavel.websocket.handshake import HandshakeError
from alphavel.websocket.logs import mask
from alphavel.websocket.transports import GreenletTransport, ParkedTransport, TlsTransport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from alphavel.websocket.admission import Admission
    from alphavel.websocket.server import WebSocketServer


def hand_over(server: WebSocketServer, admission: Admission, sock: Any, received: bytes, parked: bool = True) -> None:
    """
    Make an admitted request's socket a WebSocket.

    A plain socket is detached and the call returns at once, unless `parked` is False; a TLS socket, and any that is not to
    be parked, is served in the calling greenlet until it is closed.

    Args:
        server: Whose connection it is from now on.
        admission: What was decided; its response is written before anything else.
        sock: gevent socket.
        received: Bytes that came after the request's headers.
        parked: Whether to detach it.
    """
    arguments = (admission.connection, admission.deflate)
    if isinstance(sock, ssl.SSLSocket):
        transport: Any = TlsTransport(server.reactor, sock, *arguments)
    elif parked:
        transport = ParkedTransport(server.reactor, sock.detach(), *arguments)
    else:
        transport = GreenletTransport(server.reactor, sock, *arguments)
    if admission.response:
        transport.queue(admission.response)
    server.opened(transport)
    if received:
        transport.received(received)
    if isinstance(transport, GreenletTransport):
        transport.run()


def received_after_headers(rfile: io.BufferedReader, sock: Any) -> bytes:
    """Return what an HTTP server's reader holds beyond the request's headers, without waiting for more."""
    timeout = sock.gettimeout()
    sock.settimeout(0.0)
    try:
        held = rfile.peek()
    except (OSError, ValueError):
        held = b""
    finally:
        with contextlib.suppress(OSError):
            sock.settimeout(timeout)
    return rfile.read(len(held)) if held else b""


class _HeadersTooLargeError(ValueError):
    """A request's headers are larger than allowed."""


class _BoundedReader:
    """A reader of header lines that gives up when they are too many."""

    def __init__(self, rfile: Any, limit: int) -> None:
        self._rfile = rfile
        self._left = limit

    def readline(self, size: int = -1) -> bytes:
        line: bytes = self._rfile.readline(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise _HeadersTooLargeError("headers too large")
        return line


class Upgrades:
    """
    Mixed into a `gevent.pywsgi.WSGIHandler`.

    Attributes:
        parked: Whether plain sockets are parked; False: each is served by a greenlet.
    """

    parked = True

    # Requests whose headers have not come yet, of the whole process, oldest first.
    _pending: ClassVar[dict[Upgrades, None]] = {}

    if TYPE_CHECKING:
        environ: Any
        requestline: Any
        rfile: Any
        server: Any
        socket: Any

    def websocket_server(self) -> WebSocketServer:
        """The server that WebSockets go to."""
        server: WebSocketServer = container().make("websocket")
        return server

    # A request's headers: bounded in time, size and number

    def handle_one_request(self) -> Any:
        """Read a request and answer it; see pywsgi."""
        options = self.websocket_server().settings.options
        self._deadline = gevent.Timeout.start_new(options.handshake_timeout)
        self._make_room(options.max_pending_handshakes)
        self._pending[self] = None
        try:
            return super().handle_one_request()  # type: ignore[misc]
        except gevent.Timeout as timeout:
            if timeout is not self._deadline:
                raise
            if not getattr(self, "requestline", None):
                return None  # nothing came: a connection kept alive for nothing, or a probe
            return "408", HandshakeError(408, "The request's headers did not come in time.").response()
        finally:
            self._headers_are_here()

    def get_environ(self) -> Any:
        """Make the WSGI environ; the headers are complete when pywsgi calls this."""
        self._headers_are_here()
        return super().get_environ()  # type: ignore[misc]

    def _headers_are_here(self) -> None:
        self._deadline.close()
        self._pending.pop(self, None)

    def _make_room(self, limit: int) -> None:
        while len(self._pending) >= limit:
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            with contextlib.suppress(OSError):
                oldest.socket.shutdown(socket.SHUT_RD)  # it reads the end of its stream, and goes

    def MessageClass(self, rfile: Any, *arguments: Any) -> Any:  # noqa: N802 (pywsgi's name)
        """Parse headers, within bounds."""
        limit = self.websocket_server().settings.options.max_header_size
        return super().MessageClass(_BoundedReader(rfile, limit), *arguments)  # type: ignore[misc]

    def _handle_client_error(self, error: Exception) -> tuple[str, bytes]:
        if isinstance(error, (_HeadersTooLargeError, HTTPException)):  # too large, or more than a hundred
            return "431", HandshakeError(431, "The request's headers are too large.").response()
        answer: tuple[str, bytes] = super()._handle_client_error(error)  # type: ignore[misc]
        return answer

    # Upgrades

    def run_application(self) -> None:
        """Take a WebSocket request for one of the server's own paths; leave everything else to the application."""
        environ = self.environ
        server = self.websocket_server()
        if is_upgrade(environ) and serves(server, environ["PATH_INFO"]):
            self._upgrade(server)
        else:
            super().run_application()  # type: ignore[misc]

    def _upgrade(self, server: WebSocketServer) -> None:
        self.close_connection = True
        self.wsgi_input = Input(None, 0)  # a handshake has no body to be read to its end
        try:
            server.start()
            admission = admit(server, self.environ)
        except HandshakeError as error:
            self._note_status(f"{error.status} {HTTPStatus(error.status).phrase}")
            self.socket.sendall(error.response())
            return
        finally:
            _mask_secrets(self.environ)
            self.requestline = mask(self.requestline)
        self._note_status("101 Switching Protocols")
        received = received_after_headers(self.rfile, self.socket)
        sock = self.socket
        if self.parked and not isinstance(sock, ssl.SSLSocket):
            self.socket = None  # or pywsgi would close what is no longer its own
        hand_over(server, admission, sock, received, self.parked)

    def _note_status(self, status: str) -> None:
        """Tell the access log how it went."""
        self._orig_status = status
        self.status = status.encode()


class WebSocketHandler(Upgrades, WSGIHandler):  # type: ignore[misc]
    """pywsgi's handler with WebSockets: `WSGIServer(…, handler_class=WebSocketHandler)`."""


def _mask_secrets(environ: Any) -> None:
    """Keep tokens out of access logs, which are written from the environ."""
    for name in ("QUERY_STRING", "RAW_URI", "REQUEST_URI"):
        if name in environ:
            environ[name] = mask(environ[name])
    for name in ("HTTP_AUTHORIZATION", "HTTP_SEC_WEBSOCKET_PROTOCOL"):
        if name in environ:
            environ[name] = "***"


def has_socket(environ: Mapping[str, Any]) -> bool:
    """Whether a server on gevent's sockets serves the request and leaves the socket within reach, as pywsgi does."""
    rfile = environ.get("wsgi.input")
    return isinstance(rfile, io.BufferedReader) and isinstance(getattr(rfile.raw, "_sock", None), GeventSocket)


def take_socket(environ: Mapping[str, Any]) -> tuple[Any, bytes]:
    """Return the gevent socket under a WSGI request for which `has_socket` holds, and what came after its headers."""
    rfile = environ["wsgi.input"]
    sock = rfile.raw._sock
    return sock, received_after_headers(rfile, sock)
