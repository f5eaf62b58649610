"""
Who gets in with `GET /sse?channels=chat.1,private-user.7`: for proxies that block WebSockets, and for curl.

The same tokens, origins and authorizers as for a WebSocket, and the same parked socket: once the response's headers are
written, the connection is one like all others, that never says anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import orjson

from alphavel.websocket.admission import (
    Admission,
    authenticate,
    check_address,
    check_again,
    check_capacity,
    check_origin,
    refusals_told,
)
from alphavel.websocket.channels.positions import EventId
from alphavel.websocket.connections import Connection
from alphavel.websocket.files import room_for_connections
from alphavel.websocket.handshake import HandshakeError
from alphavel.websocket.protocols import OpenStream, Subscribe
from alphavel.websocket.protocols.event_stream import RETRY_MS

if TYPE_CHECKING:
    from alphavel.websocket.server import WebSocketServer

_MAX_PARAMETERS = 10


def takes(server: WebSocketServer, environ: Mapping[str, Any]) -> bool:
    """Whether a request is for an event stream, and not for a page of the application's own at that path."""
    path = server.settings.event_stream.path
    return path is not None and environ["PATH_INFO"] == path and "channels=" in environ.get("QUERY_STRING", "")


def admit(server: WebSocketServer, environ: Mapping[str, Any]) -> Admission:
    """
    Decide about a request that `takes` said yes to. May block the calling greenlet, where keys are fetched to check a token.

    Args:
        server: The server it wants to.
        environ: WSGI environ.

    Raises:
        HandshakeError: It is refused; says with which HTTP response.
    """
    with refusals_told(server, environ):
        check_address(server, environ)
        room = room_for_connections(server.settings.options.max_connections)
        check_capacity(server, room)
        command = _read(server, environ)
        check_origin(server, environ)
        user, _ = authenticate(server, environ, True)
        check_again(server, environ, room, user)
    server.counters.handshakes += 1
    connection = Connection(server.apps.default.event_stream, user, environ.get("REMOTE_ADDR", ""))
    return Admission(_response(environ.get("HTTP_ORIGIN")), connection, None, first=command)


def _read(server: WebSocketServer, environ: Mapping[str, Any]) -> OpenStream:
    if environ["REQUEST_METHOD"] != "GET":
        raise HandshakeError(405, "An event stream is for GET.", [("Allow", "GET")])
    try:
        query = parse_qs(environ.get("QUERY_STRING", ""), max_num_fields=_MAX_PARAMETERS)
        names = list(dict.fromkeys(name for text in query.get("channels", []) for name in text.split(",") if name))
        limit = server.settings.options.max_channels_per_connection
        if len(names) > limit:
            raise ValueError(f"channels: expected at most {limit} names with commas; got {len(names)}.")  # noqa: TRY301 (one way out)
        recover = orjson.loads(query["recover"][0]) if "recover" in query else {}
        if not isinstance(recover, dict):
            raise ValueError('recover: expected {"channel":{"epoch":…,"serial":…}}.')  # noqa: TRY004, TRY301
        rewind = orjson.loads(query["rewind"][0]) if "rewind" in query else {}
        if not isinstance(rewind, dict):
            rewind = dict.fromkeys(names, rewind)
        last = environ.get("HTTP_LAST_EVENT_ID") or query.get("last_event_id", [""])[0]
        last_event_id = EventId.read(last) if last else None
    except ValueError as error:
        raise HandshakeError(400, str(error)) from None
    return OpenStream([Subscribe(name, recover.get(name), rewind.get(name)) for name in names], last_event_id)


def _response(origin: str | None) -> bytes:
    lines = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Cache-Control: no-store", "Connection: close"]
    lines.append("X-Accel-Buffering: no")  # nginx passes on what it has
    if origin is not None:  # it has been checked
        lines += [f"Access-Control-Allow-Origin: {origin}", "Vary: Origin"]
    return ("\r\n".join([*lines, "", ""]) + f"retry: {RETRY_MS}\n\n").encode()
