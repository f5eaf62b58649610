"""
The door for Pusher's clients, `/app/{key}`: who is let in, and what those are told who are not.

A browser does not show a page the HTTP response to a failed handshake. So the handshake is accepted, and the connection is
closed at once with the code that tells the client what to do: 4000 to 4099 to stay away, 4100 to 4199 to come back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

from alphavel.websocket.files import room_for_connections
from alphavel.websocket.handshake import HandshakeError
from alphavel.websocket.protocols.pusher import VERSIONS

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.protocols.pusher import PusherProtocol
    from alphavel.websocket.server import WebSocketServer

PREFIX = "/app/"
SUBPROTOCOL = f"pusher-channels-protocol-{VERSIONS[-1]}"
_ANY_SUBPROTOCOL = re.compile(r"pusher-channels-protocol-([0-9]{1,3})")
REASONS = {
    4000: "tls_required", 4001: "unknown_app", 4003: "app_disabled", 4004: "app_full", 4005: "not_found", 4006: "version",
    4007: "version", 4008: "version", 4009: "origin", 4100: "full",
}  # fmt: skip
"""One word for counters, by the code of a refusal."""

_SPARE = 32  # connections over the limit that are told so, and not just refused

Refusal = tuple[int, str]


class Entrance(NamedTuple):
    """
    Attributes:
        protocol: What the connection is to speak.
        subprotocol: The one to name in the response, of those the client offered; None for none.
        refusal: Close code and reason where it is not let in.
    """

    protocol: PusherProtocol
    subprotocol: str | None
    refusal: Refusal | None


def leads_here(server: WebSocketServer, path: str) -> bool:
    """Whether a path is one of Pusher's clients; without an app that has a key, none is."""
    return path.startswith(PREFIX) and server.apps.any_key


def names_app(server: WebSocketServer, path: str) -> bool:
    """Whether a path is that of an app's clients, so that no page of the application's own can be meant."""
    return path.startswith(PREFIX) and server.apps.with_key(path[len(PREFIX) :]) is not None


def enter(server: WebSocketServer, environ: Mapping[str, Any], path: str) -> Entrance:
    """
    Decide about a client.

    Raises:
        HandshakeError: The server is so full that it cannot even be told.
    """
    subprotocol, offered = _offered(environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", ""))
    version, refusal = _version(environ.get("QUERY_STRING", ""), offered)
    app = server.apps.with_key(path[len(PREFIX) :])
    protocol = (app or server.apps.default).pusher(version)
    return Entrance(protocol, subprotocol, _check_server(server) or _check_app(app, path) or refusal or _check(app, environ))


def _check_server(server: WebSocketServer) -> Refusal | None:
    limit = room_for_connections(server.settings.options.max_connections)
    if server.reactor.sockets >= limit + _SPARE:
        raise HandshakeError(503, "The server is full.", [("Retry-After", "5")])
    if server.is_draining:
        return 4100, "the server is stopping, reconnect"
    return (4100, "the server is full, reconnect later") if server.reactor.sockets >= limit else None


def _check_app(app: App | None, path: str) -> Refusal | None:
    if app is None:
        return (4005, "path not found") if "/" in path[len(PREFIX) :] else (4001, "there is no app with this key")
    return None if app.settings.enabled else (4003, "the app is disabled")


def _offered(header: str) -> tuple[str | None, str | None]:
    """Return a subprotocol that the client offers, and the version in it: best one that is spoken here."""
    matches = [match for match in map(_ANY_SUBPROTOCOL.fullmatch, map(str.strip, header.split(","))) if match]
    # Another is named too: a browser takes no handshake that leaves out what it offered, and would not see the close code.
    best = next((match for match in matches if int(match[1]) in VERSIONS), matches[0] if matches else None)
    return (best[0], best[1]) if best else (None, None)


def _version(query: str, offered: str | None) -> tuple[int, Refusal | None]:
    """Return the version of the protocol to speak, the newest where there is a refusal."""
    newest = VERSIONS[-1]
    texts = parse_qs(query, keep_blank_values=True).get("protocol", [offered] if offered else [])
    if not texts or not texts[0]:
        return newest, (4008, "the protocol's version is missing: add ?protocol=7")
    text = texts[0]
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        return newest, (4006, "the protocol's version is not a number")
    version = int(text)
    if version in VERSIONS:
        return version, None
    return min(max(version, VERSIONS[0]), newest), (4007, f"protocol versions {VERSIONS[0]} to {newest} are spoken here")


def _check(app: App | None, environ: Mapping[str, Any]) -> Refusal | None:
    assert app is not None
    scheme = environ.get("wsgi.url_scheme", "http")
    if app.settings.tls_only and scheme != "https":
        return 4000, "this app accepts TLS only"
    rules = app.origins or app.server.origins
    if not rules.allows(environ.get("HTTP_ORIGIN"), environ.get("HTTP_HOST"), scheme):
        return 4009, "this page's origin may not connect, see allowed_origins"
    limit = app.settings.limits.connections
    if limit is not None and app.connections.total >= limit:
        return 4004, "the app is over its number of connections"
    return None
