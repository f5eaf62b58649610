"""
Who gets in: an upgrade request is checked from the cheapest to the dearest question, before anything is upgraded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

from alphavel.websocket import pusher_entrance
from alphavel.websocket.auth import AuthenticationError, User
from alphavel.websocket.auth.tokens import Credential, find_token
from alphavel.websocket.channels import user_channel
from alphavel.websocket.connections import Connection
from alphavel.websocket.files import room_for_connections
from alphavel.websocket.frames.deflate import Deflate, negotiate
from alphavel.websocket.handshake import Handshake, HandshakeError
from alphavel.websocket.logs import get_logger
from alphavel.websocket.signing_in import has_enough

if TYPE_CHECKING:
    from alphavel.websocket.protocols import Command, Protocol
    from alphavel.websocket.server import WebSocketServer

SUBPROTOCOL = "alphavel.v1"
_RETRY_AFTER_S = "5"
_SHOWN = 200  # characters of what a client sent

logger = get_logger("alphavel.websocket")


class Admission(NamedTuple):
    """
    A request that is let in.

    Attributes:
        response: The bytes of the response.
        connection: The connection to be, without a transport yet.
        deflate: The agreed compression, or None.
        refusal: Close code and reason of one that is let in only to be told that it may not stay.
        first: What it asks for by coming.
    """

    response: bytes
    connection: Connection
    deflate: Deflate | None
    refusal: tuple[int, str] | None = None
    first: Command | None = None


def asks_for_websocket(server: WebSocketServer, environ: Mapping[str, Any]) -> bool:
    """Whether a request is for a WebSocket of ours, or for what can be nothing else and is to be told so."""
    path = environ["PATH_INFO"]
    if not _is_upgrade(environ):
        return pusher_entrance.names_app(server, path)
    return path == server.settings.path or path in server.hooks.routes or pusher_entrance.leads_here(server, path)


def _is_upgrade(environ: Mapping[str, Any]) -> bool:
    # A proxy that was not told to pass on `Upgrade` does pass on the key.
    return str(environ.get("HTTP_UPGRADE", "")).lower() == "websocket" or "HTTP_SEC_WEBSOCKET_KEY" in environ


def admit(server: WebSocketServer, environ: Mapping[str, Any]) -> Admission:
    """
    Decide about an upgrade request. May block the calling greenlet, where keys are fetched to check a token.

    Args:
        server: The server it wants to.
        environ: WSGI environ.

    Raises:
        HandshakeError: It is refused; says with which HTTP response.
    """
    with refusals_told(server, environ):
        return _admit(server, environ, environ.get("PATH_INFO", "/"))


@contextlib.contextmanager
def refusals_told(server: WebSocketServer, environ: Mapping[str, Any]) -> Iterator[None]:
    """Count and log a HandshakeError that goes through."""
    try:
        yield
    except HandshakeError as error:
        server.counters.refusals[error.reason] += 1
        _tell_refusal(environ, error.text, error.reason)
        raise


def _admit(server: WebSocketServer, environ: Mapping[str, Any], path: str) -> Admission:
    check_address(server, environ)
    if pusher_entrance.leads_here(server, path) and path not in server.hooks.routes:
        return _admit_pusher(server, environ, path)
    room = room_for_connections(server.settings.options.max_connections)
    check_capacity(server, room)
    handshake = Handshake.from_environ(environ)
    protocol, auth = _route(server, path, environ.get("QUERY_STRING", ""))
    check_origin(server, environ)
    user, subprotocol = authenticate(server, environ, auth)
    deflate, extensions = _negotiate(server, handshake)
    check_again(server, environ, room, user)
    response = handshake.response(subprotocol=subprotocol, extensions=extensions)
    server.counters.handshakes += 1
    return Admission(response, Connection(protocol, user, environ.get("REMOTE_ADDR", "")), deflate)


def _admit_pusher(server: WebSocketServer, environ: Mapping[str, Any], path: str) -> Admission:
    handshake = Handshake.from_environ(environ)
    protocol, subprotocol, refusal = pusher_entrance.enter(server, environ, path)
    connection = Connection(protocol, None, environ.get("REMOTE_ADDR", ""))
    if refusal is not None:
        reason = "stopping" if server.is_draining else pusher_entrance.REASONS[refusal[0]]
        server.counters.refusals[reason] += 1
        _tell_refusal(environ, refusal[1], reason)
        return Admission(handshake.response(subprotocol), connection, None, refusal)
    deflate, extensions = _negotiate(server, handshake)
    server.counters.handshakes += 1
    return Admission(handshake.response(subprotocol, extensions), connection, deflate)


def _hear(server: WebSocketServer, user: User) -> None:
    """Wait until what other nodes push to the user comes in: who is told `connected` is to miss nothing from then on."""
    bus, app_id, name = server.relay.bus, server.apps.default.id, user_channel(user.id)
    if not bus.hears(app_id, name):
        bus.wait(app_id, name)


def check_origin(server: WebSocketServer, environ: Mapping[str, Any]) -> None:
    """Raise HandshakeError where the request comes from a web page that may not connect."""
    if not server.origins.allows(environ.get("HTTP_ORIGIN"), environ.get("HTTP_HOST"), environ.get("wsgi.url_scheme", "http")):
        raise HandshakeError(403, "This page's origin may not connect; see allowed_origins in config/websocket.yaml.")


def check_capacity(server: WebSocketServer, room: int) -> None:
    """
    Raise HandshakeError where there is no room for one more connection.

    Args:
        server: Whose connection it is to be.
        room: What `room_for_connections` says.
    """
    if server.is_draining:
        raise HandshakeError(503, "The server is stopping.", [("Retry-After", _RETRY_AFTER_S)], reason="stopping")
    # Past the limit of open files the kernel would let newcomers wait without a word.
    if server.reactor.sockets >= room:
        raise HandshakeError(503, "The server is full.", [("Retry-After", _RETRY_AFTER_S)])


def check_address(server: WebSocketServer, environ: Mapping[str, Any]) -> None:
    """Raise HandshakeError where the client's address has too much already. Counts a handshake."""
    address = environ.get("REMOTE_ADDR", "")
    server.addresses.check_handshake(address)
    server.addresses.check_open(address)


def check_again(server: WebSocketServer, environ: Mapping[str, Any], room: int, user: User | None) -> None:
    """Raise HandshakeError where there is no room any more: checking a token may have taken its time."""
    check_capacity(server, room)
    server.addresses.check_open(environ.get("REMOTE_ADDR", ""))
    if user is not None and has_enough(server.apps.default, user.id):
        raise HandshakeError(429, "This user has too many connections.", [("Retry-After", "30")], reason="user_full")


def _tell_refusal(environ: Mapping[str, Any], text: str, reason: str) -> None:
    origin = environ.get("HTTP_ORIGIN")
    more = {"reason": reason, "address": environ.get("REMOTE_ADDR"), "path": environ.get("PATH_INFO", "")[:_SHOWN]}
    logger.info("A handshake is refused: %s", text, extra={**more, "origin": origin and origin[:_SHOWN]})


def _route(server: WebSocketServer, path: str, query: str) -> tuple[Protocol, bool]:
    route = server.hooks.routes.get(path)
    if route is not None:
        return route.protocol, route.auth  # type: ignore[return-value]
    if path == server.settings.path:
        wants_deltas = "delta=" in query and parse_qs(query).get("delta") == ["true"]
        return server.apps.default.delta if wants_deltas else server.apps.default.native, True
    raise HandshakeError(404, "There is no WebSocket here.")


def authenticate(server: WebSocketServer, environ: Mapping[str, Any], auth: bool) -> tuple[User | None, str | None]:
    """
    Check the token that a request brings. May block the calling greenlet.

    Args:
        server: Whose settings say what is needed.
        environ: WSGI environ.
        auth: Whether a token counts here at all.

    Returns:
        The user, None for an anonymous one, and the subprotocol that the answer is to name.

    Raises:
        HandshakeError: It is not valid, or there is none where one is needed.
    """
    settings = server.settings.auth
    try:
        credential = _find_token(server, environ)
        if credential.token is not None and auth and server.verifier.enabled:
            user = server.verify(credential.token)
            _hear(server, user)
            return user, credential.subprotocol
    except AuthenticationError as error:
        raise HandshakeError(401, str(error), [("WWW-Authenticate", "Bearer")]) from error
    if auth and server.verifier.enabled and not settings.anonymous:
        server.counters.auth_failures["missing"] += 1
        raise HandshakeError(401, "A token is needed to connect.", [("WWW-Authenticate", "Bearer")])
    return None, credential.subprotocol


def _find_token(server: WebSocketServer, environ: Mapping[str, Any]) -> Credential:
    settings = server.settings.auth
    try:
        return find_token(environ, settings.token_query_param if settings.token_in_query else None)
    except AuthenticationError as error:
        server.counters.auth_failures[error.reason] += 1
        raise


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
