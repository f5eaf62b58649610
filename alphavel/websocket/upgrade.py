"""
From HTTP to WebSocket: an admitted request's socket leaves gevent's HTTP server and becomes a transport.

`Upgrades` is the part that pywsgi's handler lacks: it takes WebSocket requests, and those for the HTTP API, before the
application sees them, and bounds what a client that never finishes its request can hold.
"""

from __future__ import annotations

import contextlib
import errno
import io
import socket
import ssl
import time
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
from gevent import socket as gevent_socket
from gevent.pywsgi import Input, WSGIHandler

from alphavel.foundation import container
from alphavel.websocket import api, event_stream
from alphavel.websocket.admission import admit, asks_for_websocket
from alphavel.websocket.handshake import HandshakeError
from alphavel.websocket.http_server import HttpServer, most_pending
from alphavel.websocket.logs import get_logger, mask
from alphavel.websocket.request_body import PatientReader
from alphavel.websocket.request_head import HeadReader, HeadTooLargeError, check_request_line
from alphavel.websocket.transports import GreenletTransport, ParkedTransport, TlsTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    send_at_once(sock)
    arguments = (admission.connection, admission.deflate)
    if isinstance(sock, ssl.SSLSocket):
        transport: Any = TlsTransport(server.reactor, sock, *arguments)
    elif parked:
        transport = ParkedTransport(server.reactor, sock.detach(), *arguments)
    else:
        transport = GreenletTransport(server.reactor, sock, *arguments)
    if admission.response:
        transport.queue(admission.response)
    if admission.refusal is not None:
        server.refused(transport, *admission.refusal)
    else:
        server.opened(transport, admission.first)
    if received:
        transport.received(received)
    if isinstance(transport, GreenletTransport):
        transport.run()


def send_at_once(sock: Any) -> None:
    """
    Switch Nagle's algorithm off (RFC 1122, section 4.2.3.4): it would hold a small frame, or the body that pywsgi writes after
    the headers, until the peer has acknowledged what came before, which it may put off for 40 ms.
    """
    with contextlib.suppress(OSError):  # a Unix socket knows no such thing
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def bound_writing(sock: Any, seconds: float) -> None:
    """
    Have the kernel give a connection up whose peer takes nothing for so long, though it is still there; 0: as the system does.

    RFC 5482. Nothing is to be done for each write, and a peer that is merely slow has all the time it needs.
    """
    with contextlib.suppress(OSError, AttributeError):  # a Unix socket knows no such thing, nor do other systems
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


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


logger = get_logger("alphavel.http")


_YIELD_EVERY = 8  # requests for the HTTP API answered on one connection before others get a turn


class Upgrades:
    """
    Mixed into a `gevent.pywsgi.WSGIHandler`.

    Attributes:
        parked: Whether plain sockets are parked; False: each is served by a greenlet.
    """

    parked = True
    _pending: ClassVar[dict[Any, float]] = HttpServer.waiting_for_headers
    _answered = 0  # requests for the HTTP API on this connection

    if TYPE_CHECKING:
        client_address: Any
        environ: Any
        headers: Any
        path: Any
        request_version: Any
        requestline: Any
        response_headers: Any
        rfile: Any
        server: Any
        socket: Any
        wsgi_input: Any

    def websocket_server(self) -> WebSocketServer:
        """The server that WebSockets go to."""
        server: WebSocketServer = container().make("websocket")
        return server

    # A request's headers: bounded in time, size and number

    def handle_one_request(self) -> Any:
        """Read a request and answer it; see pywsgi."""
        server = self.websocket_server()
        self.environ = None  # behind a proxy, the next request of a connection may be another client's
        self._deadline = gevent.Timeout.start_new(server.settings.options.handshake_timeout)
        self._make_room(most_pending(server))
        self._pending[self] = time.monotonic()
        try:
            more = super().handle_one_request()  # type: ignore[misc]
            return None if more is True and server.is_retiring else more
        except gevent.Timeout as timeout:
            if timeout is not self._deadline:
                raise
            if not getattr(self, "requestline", None):
                return None  # nothing came: a connection kept alive for nothing, or a probe
            return self._refused(HandshakeError(408, "The request's headers did not come in time."))
        finally:
            self._headers_are_here()

    def get_environ(self) -> Any:
        """Make the WSGI environ; the headers are complete when pywsgi calls this."""
        self._headers_are_here()
        environ = super().get_environ()  # type: ignore[misc]
        server, body = self.websocket_server(), self.wsgi_input
        if body.content_length or body.chunked_input:
            body.rfile = PatientReader(body.rfile, server.settings.options.body_timeout)
        if server.proxies.any:
            server.proxies.restate(environ)
        return environ

    def _headers_are_here(self) -> None:
        self._deadline.close()
        self._pending.pop(self, None)

    def _make_room(self, limit: int) -> None:
        while len(self._pending) >= limit:
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            with contextlib.suppress(OSError):
                oldest.socket.shutdown(socket.SHUT_RD)  # it reads the end of its stream, and goes

    @classmethod
    def end_idle(cls, server: WebSocketServer) -> None:
        """End the connections that wait for a request, so that a server that stops need not wait for it too."""
        for handler in list(cls._pending):
            if handler.websocket_server() is server:
                with contextlib.suppress(OSError):
                    handler.socket.shutdown(socket.SHUT_RD)

    def read_request(self, raw_requestline: str) -> Any:
        """Parse the head of a request, see pywsgi; refuse one that could be read in two ways."""
        check_request_line(raw_requestline)
        done = super().read_request(raw_requestline)  # type: ignore[misc]
        if self.headers.get("transfer-encoding"):
            self.close_connection = True  # pywsgi is less strict about chunks: nobody is to argue where the next request begins
        return done

    def MessageClass(self, rfile: Any, *arguments: Any) -> Any:  # noqa: N802 (pywsgi's name)
        """Parse headers, within bounds."""
        limit = self.websocket_server().settings.options.max_header_size
        return super().MessageClass(HeadReader(rfile, limit, self.request_version), *arguments)  # type: ignore[misc]

    def handle(self) -> None:
        """Serve one HTTP connection; see pywsgi. One that is gone before its answer was written ends in silence."""
        bound_writing(self.socket, self.websocket_server().settings.options.body_timeout)
        with contextlib.suppress(OSError):
            super().handle()  # type: ignore[misc]

    def _sendall(self, data: bytes) -> None:
        try:
            super()._sendall(data)  # type: ignore[misc]
        except TimeoutError as error:  # see `bound_writing`
            raise OSError(errno.EPIPE, "the answer was not taken") from error  # which pywsgi takes in silence

    def _handle_client_error(self, error: Exception) -> tuple[str, bytes] | None:
        # In place of pywsgi's, which lets any stranger write tracebacks, and request lines with tokens, into the log.
        if isinstance(error, OSError) and not isinstance(error, ValueError):
            return None  # reset by its peer
        if isinstance(error, (HeadTooLargeError, HTTPException)):  # too large, or more than a hundred
            return self._refused(HandshakeError(431, "The request's headers are too large."))
        logger.debug("A request from %s makes no sense: %s", self.client_address, error)
        return self._refused(HandshakeError(400, "This is no HTTP request."))

    def _refused(self, error: HandshakeError) -> tuple[str, bytes]:
        self.websocket_server().counters.refusals[error.reason] += 1
        return str(error.status), error.response()

    # Upgrades

    def run_application(self) -> None:
        """Take a request for one of the server's own paths; leave everything else to the application."""
        environ = self.environ
        server = self.websocket_server()
        if asks_for_websocket(server, environ):
            self._upgrade(server, admit, "101 Switching Protocols")
        elif event_stream.takes(server, environ):
            self._upgrade(server, event_stream.admit, "200 OK")
        elif api.takes(server, environ["PATH_INFO"], environ["QUERY_STRING"]):
            self._answer(server)
        elif server.exposes_metrics_at(environ["PATH_INFO"]):
            from alphavel.websocket.metrics.exposing import answer

            if not server.is_draining:
                server.start()
            self._send(server, answer(server, environ))
        else:
            super().run_application()  # type: ignore[misc]

    def _upgrade(self, server: WebSocketServer, admit: Callable[..., Admission], status: str) -> None:
        self.close_connection = True
        self.wsgi_input = Input(None, 0)  # a handshake has no body to be read to its end
        try:
            if not server.is_draining:  # or one that has just stopped would start again
                server.start()
            admission = admit(server, self.environ)
        except HandshakeError as error:
            self._note_status(f"{error.status} {HTTPStatus(error.status).phrase}")
            self.socket.sendall(error.response())
            return
        finally:
            mask_secrets(self.environ)
            self.requestline = mask(self.requestline)
        self._note_status(status)
        received = received_after_headers(self.rfile, self.socket)
        sock = self.socket
        bound_writing(sock, 0)  # it has an outbox from now on
        if self.parked and not isinstance(sock, ssl.SSLSocket):
            self.socket = None  # or pywsgi would close what is no longer its own
        hand_over(server, admission, sock, received, self.parked)

    # The HTTP API

    def _answer(self, server: WebSocketServer) -> None:
        # Not through WSGI: an event costs about half of what it does when Flask routes it.
        if not server.is_draining:
            server.start()
        try:
            body = self._read_body(server)
        except api.ApiError as error:
            response = api.Response.refusal(error)
            self.close_connection = True
        else:
            response = api.handle(server, api.Request.from_environ(self.environ, self.path, body))
        self._send(server, response)
        self._answered += 1
        if self._answered % _YIELD_EVERY == 0:
            # A client that is faster than we are has sent its next request already, and reading that does not switch: all
            # others would wait for as long as it goes on.
            gevent.sleep(0)

    def _send(self, server: WebSocketServer, response: api.Response) -> None:
        self._note_status(f"{response.status} {HTTPStatus(response.status).phrase}")
        data = response.serialize(not (self.close_connection or server.is_retiring), self.environ["REQUEST_METHOD"])
        self._sendall(data)
        self.response_length = len(data)

    def _read_body(self, server: WebSocketServer) -> bytes:
        limit, timeout = api.body_limit(server), server.settings.options.handshake_timeout
        try:
            with gevent.Timeout(timeout, api.ApiError(408, "The request's body did not come in time.")):
                body: bytes = self.wsgi_input.read(limit + 1)
        except OSError as error:
            raise OSError(errno.EPIPE, "the client went away") from error  # which pywsgi takes in silence
        if len(body) > limit:
            raise api.ApiError(413, f"The body is larger than {limit} bytes.")
        return body

    def log_request(self) -> None:
        """Write the access log; see pywsgi. gunicorn's wants what only a request has that an application answered."""
        self.response_headers = self.response_headers or []
        self.environ = self.environ or dict.fromkeys(("REQUEST_METHOD", "RAW_URI", "PATH_INFO", "SERVER_PROTOCOL"), "-")
        super().log_request()  # type: ignore[misc]

    def _note_status(self, status: str) -> None:
        """Tell the access log how it went."""
        self._orig_status = status
        self.status = status.encode()


class WebSocketHandler(Upgrades, WSGIHandler):  # type: ignore[misc]
    """pywsgi's handler with WebSockets: `WSGIServer(…, handler_class=WebSocketHandler)`."""

    def format_request(self) -> str:
        """Make a line of the access log, with the client's address where a proxy has told it."""
        peer = self.client_address
        with contextlib.suppress(AttributeError, KeyError, TypeError):
            self.client_address = self.environ["REMOTE_ADDR"]
        try:
            return super().format_request()  # type: ignore[no-any-return]
        finally:
            self.client_address = peer


def mask_secrets(environ: Any) -> None:
    """Keep tokens out of access logs, which are written from the environ."""
    for name in ("QUERY_STRING", "RAW_URI", "REQUEST_URI"):
        if name in environ:
            environ[name] = mask(environ[name])
    for name in ("HTTP_AUTHORIZATION", "HTTP_SEC_WEBSOCKET_PROTOCOL"):
        if name in environ:
            environ[name] = "***"


def has_socket(environ: Mapping[str, Any]) -> bool:
    """Whether a server on gevent's sockets serves the request and leaves the socket within reach, as pywsgi does."""
    rfile = _reader(environ)
    return isinstance(rfile, io.BufferedReader) and isinstance(getattr(rfile.raw, "_sock", None), gevent_socket.socket)


def take_socket(environ: Mapping[str, Any]) -> tuple[Any, bytes]:
    """Return the gevent socket under a WSGI request for which `has_socket` holds, and what came after its headers."""
    rfile = _reader(environ)
    sock = rfile.raw._sock
    return sock, received_after_headers(rfile, sock)


def _reader(environ: Mapping[str, Any]) -> Any:
    rfile = environ.get("wsgi.input")
    return rfile.rfile if isinstance(rfile, Input) else rfile  # pywsgi puts one around it, except for upgrades
