"""
Who gets in: an upgrade request is checked from the cheapest to the dearest question, before anything is upgraded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from alphavel.websocket.auth import AuthenticationError, User
from alphavel.websocket.auth.tokens import find_token
from alphavel.websocket.connections import Connection
from alphavel.websocket.frames.deflate import Deflate, negotiate
from alphavel.websocket.handshake import Handshake, HandshakeError

if TYPE_CHECKING:
    from alphavel.websocket.protocols import Protocol
    from alphavel.websocket.server import WebSocketServer

SUBPROTOCOL = "alphavel.v1"
_RETRY_AFTER_S = "5"


class Admission(NamedTuple):
    """
    A request that is let in.

    Attributes:
        response: The bytes of the 101 response.
        connection: The connection to be, without a transport yet.
        deflate: The agreed compression, or None.
    """

    response: bytes
    connection: Connection
    deflate: Deflate | None


def is_upgrade(environ: Mapping[str, Any]) -> bool:
    """Whether a request asks for a WebSocket, well or badly."""
    return str(environ.get("HTTP_UPGRADE", "")).lower() == "websocket"


def serves(server: WebSocketServer, path: str) -> bool:
    """Whether a path is Alphavel's or a raw route of the application."""
    return path == server.settings.path or path in server.hooks.routes


def admit(server: WebSocketServer, environ: Mapping[str, Any], path: str | None = None) -> Admission:
    """
    Decide about an upgrade request. May block the calling greenlet, where keys are fetched to check a token.

    Args:
        server: The server it wants to.
        environ: WSGI environ.
        path: Path to take it for; None: the request's own.

    Raises:
        HandshakeError: It is refused; says with which HTTP response.
    """
    try:
        return _admit(server, environ, path if path is not None else environ.get("PATH_INFO", "/"))
    except HandshakeError:
        server.counters.handshakes_refused += 1
        raise


def _admit(server: WebSocketServer, environ: Mapping[str, Any], path: str) -> Admission:
    _check_capacity(server)
    handshake = Handshake.from_environ(environ)
    protocol, auth = _route(server, path)
    if not server.origins.allows(environ.get("HTTP_ORIGIN"), environ.get("HTTP_HOST"), environ.get("wsgi.url_scheme", "http")):
        raise HandshakeError(403, "This page's origin may not connect; see allowed_origins in config/websocket.yaml.")
    user, subprotocol = _authenticate(server, environ, auth)
    deflate, extensions = _negotiate(server, handshake)
    _check_capacity(server)  # checking a token may have taken its time
    response = handshake.response(subprotocol=subprotocol, extensions=extensions)
    server.counters.handshakes += 1
    return Admission(response, Connection(protocol, user, environ.get("REMOTE_ADDR", "")), deflate)


def _check_capacity(server: WebSocketServer) -> None:
    if server.is_draining:
        raise HandshakeError(503, "The server is stopping.", [("Retry-After", _RETRY_AFTER_S)])
    if server.reactor.sockets >= server.settings.options.max_connections:
        raise HandshakeError(503, "The server is full.", [("Retry-After", _RETRY_AFTER_S)])


def _route(server: WebSocketServer, path: str) -> tuple[Protocol, bool]:
    route = server.hooks.routes.get(path)
    if route is not None:
        return route.protocol, route.auth  # type: ignore[return-value]
    if path == server.settings.path:
        return server.protocol, True
    raise HandshakeError(404, "There is no WebSocket here.")


def _authenticate(server: WebSocketServer, environ: Mapping[str, Any], auth: bool) -> tuple[User | None, str | None]:
    settings = server.settings.auth
    try:
        credential = find_token(environ, settings.token_query_param if settings.token_in_query else None)
        if credential.token is not None and auth and server.verifier.enabled:
            return server.verify(credential.token), credential.subprotocol
    except AuthenticationError as error:
        raise HandshakeError(401, str(error), [("WWW-Authenticate", "Bearer")]) from error
    if auth and server.verifier.enabled and not settings.anonymous:
        raise HandshakeError(401, "A token is needed to connect.", [("WWW-Authenticate", "Bearer")])
    return None, credential.subprotocol


def _negotiate(server: WebSocketServer, handshake: Handshake) -> tuple[Deflate | None, str | None]:
    settings = server.settings.options.compression
    if not settings.enabled:
        return None, None
    agreement = negotiate(
        handshake.extensions,
        context_takeover=settings.context_takeover,
        server_max_window_bits=settings.server_max_window_bits,
        client_max_window_bits=settings.client_max_window_bits,
    )
    if agreement is None:
        return None, None
    return Deflate(agreement, settings.level, settings.threshold), agreement.header
