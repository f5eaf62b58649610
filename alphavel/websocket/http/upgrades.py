"""
Upgrade requests that reach Flask, as they do under gevent's plain pywsgi and under gevent-websocket's handler and worker.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable
from typing import Any

from flask import Response, request

from alphavel.websocket import event_stream
from alphavel.websocket.admission import Admission, admit, asks_for_websocket
from alphavel.websocket.errors import NOT_PATCHED
from alphavel.websocket.facade import WebSocket
from alphavel.websocket.frames import close_frame
from alphavel.websocket.handshake import HandshakeError
from alphavel.websocket.upgrade import hand_over, has_socket, mask_secrets, take_socket

__all__ = ["asks_for_websocket", "connect", "stream"]

_NO_SOCKET = (
    "This HTTP server cannot hand sockets over. Serve with alpha websocket:serve, gevent's pywsgi or "
    "gunicorn -k egg:alphavel#geventwebsocket."
)
# What a client is told that has been upgraded before it could be refused, by HTTP status.
_CLOSE_CODES = {401: 4009, 403: 4003, 404: 4004, 503: 4100}


class _Taken(Response):
    """The response to a request whose socket is gone: there is nobody to send anything to."""

    def __call__(self, environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """End the request the way a vanished client does, which every server takes in silence."""
        raise OSError(errno.EPIPE, "the connection has become a WebSocket")


def connect() -> Response:
    """Turn the request into a WebSocket."""
    environ = request.environ
    WebSocket.proxies.restate(environ)
    stock = environ.get("wsgi.websocket")
    if stock is None and not has_socket(environ):
        return _refusal(HandshakeError(501, _NO_SOCKET))
    if not WebSocket.is_running and not WebSocket.is_draining:
        return _refusal(HandshakeError(501, NOT_PATCHED))
    try:
        admission = admit(WebSocket, environ)
    except HandshakeError as error:
        if stock is None:
            return _refusal(error)
        # It has been upgraded already: a close frame is all that can be said, to one who may be gone.
        reason = error.text.encode()[:120].decode(errors="ignore")
        with contextlib.suppress(OSError):
            stock.stream.write(close_frame(_CLOSE_CODES.get(error.status, 1008), reason))
        return Response()
    finally:
        mask_secrets(environ)
    if stock is not None:
        _serve_upgraded(stock, admission)
        return Response()
    sock, received = take_socket(environ)
    hand_over(WebSocket, admission, sock, received)
    return _Taken()


def stream() -> Response | None:
    """Turn the request into an event stream, where it is one for it."""
    environ = request.environ
    if not event_stream.takes(WebSocket, environ):
        return None
    WebSocket.proxies.restate(environ)
    if not has_socket(environ):
        return _refusal(HandshakeError(501, _NO_SOCKET))
    if not WebSocket.is_running and not WebSocket.is_draining:
        return _refusal(HandshakeError(501, NOT_PATCHED))
    try:
        admission = event_stream.admit(WebSocket, environ)
    except HandshakeError as error:
        return _refusal(error)
    finally:
        mask_secrets(environ)
    sock, received = take_socket(environ)
    hand_over(WebSocket, admission, sock, received)
    return _Taken()


def _refusal(error: HandshakeError) -> Response:
    headers = [*error.headers, ("Connection", "close")]
    return Response(error.text + "\n", error.status, headers, mimetype="text/plain")


def _serve_upgraded(stock: Any, admission: Admission) -> None:
    """Serve a socket that gevent-websocket has upgraded, in the greenlet of its request."""
    handler = stock.stream.handler
    upgraded = admission._replace(response=b"", deflate=None)  # it has sent its own response, without extensions
    _, received = take_socket({"wsgi.input": handler.rfile})
    stock.closed = True  # the closing handshake is ours; its own would write to a socket that has ended
    hand_over(WebSocket, upgraded, handler.socket, received, parked=False)
