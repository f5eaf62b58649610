"""
The blueprint: `app.register_blueprint(blueprint)` puts the WebSocket server into a Flask application.

Under Alphavel's own server and gunicorn worker, upgrade requests never reach Flask. Under gevent's plain pywsgi, or under
gevent-websocket's handler and worker, they come to `connect` here, which takes the socket over.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, has_request_context, request, send_from_directory
from gevent import monkey

from alphavel.foundation.facades import Facade
from alphavel.websocket.admission import Admission, admit
from alphavel.websocket.facade import WebSocket
from alphavel.websocket.frames import close_frame
from alphavel.websocket.handshake import HandshakeError
from alphavel.websocket.upgrade import hand_over, has_socket, take_socket

if TYPE_CHECKING:
    from flask.blueprints import BlueprintSetupState

blueprint = Blueprint("alphavel_websocket", __name__, static_folder=None)

_STATIC = Path(__file__).parent / "static"
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


@blueprint.record
def _add_websocket_rules(state: BlueprintSetupState) -> None:
    # A rule with websocket=True never matches an ordinary request, so that these hide nothing of the application's.
    for rule in ("/", "/<path:path>"):
        state.add_url_rule(rule, "connect", connect, websocket=True)


@blueprint.before_app_request
def _start() -> None:
    server = WebSocket
    if isinstance(server, Facade):
        server.current_socket_id = _socket_id_of_request
    if monkey.is_module_patched("socket"):
        server.start()


def _socket_id_of_request() -> str | None:
    return request.headers.get("X-Socket-ID") if has_request_context() else None


def connect(path: str = "") -> Response:
    """Turn the request into a WebSocket."""
    environ = request.environ
    stock = environ.get("wsgi.websocket")
    if stock is None and not has_socket(environ):
        return _refusal(HandshakeError(501, _NO_SOCKET))
    try:
        admission = admit(WebSocket, environ, f"/{path}")
    except HandshakeError as error:
        if stock is None:
            return _refusal(error)
        # It has been upgraded already: a close frame is all that can be said.
        stock.stream.write(close_frame(_CLOSE_CODES.get(error.status, 1008), error.text[:120]))
        return Response()
    if stock is not None:
        _serve_upgraded(stock, admission)
        return Response()
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


@blueprint.get("/health")
def health() -> tuple[dict[str, Any], int, dict[str, str]]:
    """`{"status": "ready"}`, or 503 and `{"status": "draining"}` (`"stopped"`) when a load balancer should send nobody."""
    status = "draining" if WebSocket.is_draining else "ready" if WebSocket.is_running else "stopped"
    return {"status": status}, 200 if status == "ready" else 503, {"Cache-Control": "no-store"}


@blueprint.get("/alphavel.js")
def client() -> Response:
    """The JavaScript client, a module without dependencies."""
    return send_from_directory(_STATIC, "alphavel.js", mimetype="text/javascript", max_age=300)
