"""
What a server and its connections are, as another process can go on with it: JSON-able, and descriptors beside it. Nothing here
switches.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from alphavel.websocket import transcripts
from alphavel.websocket.auth import User
from alphavel.websocket.channels import Member
from alphavel.websocket.connections import Connection
from alphavel.websocket.protocols import Message
from alphavel.websocket.transports import ParkedTransport

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.protocols import Protocol
    from alphavel.websocket.server import WebSocketServer

_STRICT = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


class Moving(NamedTuple):
    """
    A connection on its way to another process.

    Attributes:
        connection: The connection.
        waiting: Bytes that wait to be written.
        content: All that the other process has to know of it.
    """

    connection: Connection
    waiting: bytes
    content: dict[str, Any]


def move_all(server: WebSocketServer) -> list[Moving]:
    """
    Stop all connections that another process can go on with. Those that cannot be moved (TLS that ends here, compression, a
    handler that runs, state that JSON cannot hold) stay as they are.
    """
    server.reactor.flush(within=None)
    everyone = [connection for app in server.apps for connection in app.connections.connections.values()]
    return [moving for moving in map(_move, everyone) if moving is not None]


def _move(connection: Connection) -> Moving | None:
    transport, protocol = connection.transport, _protocol_key(connection)
    if not transport.can_move or connection.waiting is not None or protocol is None:
        return None
    content: dict[str, Any] = {
        "id": connection.socket_id, "app": connection.app.id, "protocol": protocol, "address": connection.remote_addr,
        "channels": [(channel.name, _member_id(connection, channel)) for channel in connection.subscribed],
    }  # fmt: skip
    if connection.user is not None:
        user = connection.user
        content["user"] = (user.id, user.payload.decode("latin-1"), user.expires_at)
    watching = connection.app.connections.watching(connection)
    if watching:
        content["watching"] = watching
    if connection.has_state:
        state = _json(connection.state)
        if state is None:
            return None
        content["state"] = orjson.Fragment(state)
    waiting, read = transport.move()
    if waiting:
        content["waiting"] = waiting.decode("latin-1")
    if read is not None:
        content["read"] = read
    return Moving(connection, waiting, content)


def _json(state: dict[str, Any]) -> bytes | None:
    """Return JSON of which the very same can be made again; None where there is none: a date would come back as a text."""
    try:
        text = orjson.dumps(state, option=_STRICT)
    except TypeError:
        return None
    return text if orjson.loads(text) == state else None


def _protocol_key(connection: Connection) -> str | None:
    protocol = connection.protocol
    if not protocol.has_channels:
        return f"route {protocol.path}"  # type: ignore[attr-defined]
    return next((key for key, known in connection.app.protocols.items() if known is protocol), None)


def _member_id(connection: Connection, channel: Any) -> str | None:
    return None if channel.member_of is None else channel.member_of[connection.socket_id].id


class Entering:
    """Enters what another process had, without telling anybody: to its clients nothing has happened."""

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server
        self._entered: list[tuple[Connection, bytes, dict[str, Any] | None]] = []
        self._members: dict[tuple[str, str], dict[str, Member]] = {}  # by app and channel

    def state(self, content: dict[str, Any]) -> None:
        """Enter what `state_of` returned, before the app's connections; nothing where the app is not here any more."""
        app = self._server.apps.get(content["id"])
        if app is None:
            return
        for name, members in content["members"].items():
            self._members[app.id, name] = {key: Member(key, *about) for key, about in members.items()}
        for name, left, message in content["cached"]:
            app.cache.put(name, Message.of_content(message), left)
        app.histories.go_on(content["epoch"], content["number"], content["forgotten"])
        for key, age in content["keys"]:
            app.ordering.keys.enter(key, age)

    def history(self, app_id: str, content: dict[str, Any]) -> None:
        """Enter what one of `transcripts_of` was."""
        app = self._server.apps.get(app_id)
        if app is not None:
            transcripts.enter(app.histories, content)

    def connection(self, content: dict[str, Any], fd: int) -> None:
        """Enter a connection, which neither reads nor writes until `go`. One whose app or route is gone is closed."""
        app = self._server.apps.get(content["app"])
        protocol = None if app is None else _protocol_of(app, content["protocol"])
        if app is None or protocol is None:
            os.close(fd)
            return
        given = content.get("user")
        user = None if given is None else User(given[0], given[1].encode("latin-1"), given[2])
        connection = Connection(protocol, user, content["address"])
        connection.socket_id = content["id"]
        if "state" in content:
            connection.state.update(content["state"])
        ParkedTransport(self._server.reactor, fd, connection)
        manager = app.connections
        manager.add(connection)
        for name, member_id in content["channels"]:
            manager.subscribe(connection, name, None if member_id is None else self._members[app.id, name][member_id])
        if "watching" in content:
            manager.watch(connection, tuple(content["watching"]))
        self._entered.append((connection, content.get("waiting", "").encode("latin-1"), content.get("read")))

    def go(self) -> None:
        """Go on with all of them: the other process has let go."""
        self._order_members()
        for connection, waiting, read in self._entered:
            connection.transport.go_on(waiting, read)
            self._server.moved_in(connection)

    def _order_members(self) -> None:
        for (app_id, name), members in self._members.items():
            app = self._server.apps.get(app_id)
            channel = None if app is None else app.connections.channels.get(name)
            if channel is not None and channel.members is not None:
                channel.members = {key: member for key, member in members.items() if key in channel.members}


def _protocol_of(app: App, key: str) -> Protocol | None:
    if key.startswith("route "):
        route = app.server.hooks.routes.get(key.removeprefix("route "))
        return None if route is None else route.protocol  # type: ignore[return-value]
    return app.protocols.get(key)


def state_of(app: App) -> dict[str, Any]:
    """Return what an app knows beside its connections."""
    channels = app.connections.channels.values()
    return {
        "id": app.id,
        "members": {
            channel.name: {member.id: (member.info, member.connected_at) for member in channel.members.values()}
            for channel in channels if channel.members is not None
        },
        "cached": [(name, left, message.as_content()) for name, message, left in app.cache.events()],
        "epoch": app.histories.epoch, "number": app.histories.number, "forgotten": app.histories.forgotten,
        "keys": app.ordering.keys.ages(),
    }  # fmt: skip


def transcripts_of(app: App) -> Iterable[dict[str, Any]]:
    """Return the histories of an app's channels."""
    return map(transcripts.transcript, app.histories)
