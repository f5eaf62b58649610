"""
Events that clients send to each other, in both protocols: who may, and how many. Each is built anew here; what else a
client puts into one, such as somebody's user id, goes nowhere.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from alphavel.websocket.channels import Kind
from alphavel.websocket.checks import good_event_name, good_name, send_error
from alphavel.websocket.protocols import Broadcast, ClientEvent, ErrorCode, Message
from alphavel.websocket.protocols.alphavel import RESERVED_EVENTS

if TYPE_CHECKING:
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.server import WebSocketServer

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class ClientEvents:
    """Executes the commands that pass events from one client to the others on a channel."""

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server
        self._counts: dict[Connection, int] = {}

    def second_passed(self) -> None:
        """Begin to count client events a second anew."""
        self._counts.clear()

    def client_event(self, connection: Connection, command: ClientEvent) -> None:
        """Pass on an event of one of Pusher's clients, or say why not."""
        problem = self._problem(connection, command)
        if problem is None:
            try:
                message = Message({"event": command.event, "data": command.data})
            except TypeError as error:  # such as: nested too deep
                problem = str(error)
            else:
                limit = connection.app.settings.limits.client_event_size
                if len(message.json_data or b"") <= limit:
                    connection.app.client_event(connection, command.channel, message)
                    return
                problem = f"the data has at most {limit} bytes."
        send_error(connection, ErrorCode.CLIENT_EVENT_REJECTED, f"Client event rejected: {problem}")

    def _problem(self, connection: Connection, command: ClientEvent) -> str | None:
        app, name = connection.app, command.channel
        limits = app.settings.limits
        if not app.settings.client_events:
            return "client events are not enabled for this app (client_events in config/websocket.yaml)."
        count = self._counts[connection] = self._counts.get(connection, 0) + 1
        if count > limits.client_events_per_second:
            self._server.counters.rate_limited += 1
            return f"rate limit, at most {limits.client_events_per_second} a second."
        if len(command.event) > limits.event_name_length:
            return f"an event's name has at most {limits.event_name_length} characters."
        if _CONTROL.search(command.event):
            return "an event's name has no control characters."
        if not isinstance(name, str) or Kind.of(name) not in (Kind.PRIVATE, Kind.PRESENCE):
            return "client events go to private and presence channels only, and not to encrypted ones."
        if not app.connections.is_subscribed(connection, name):
            return "this connection is not subscribed to the channel."
        return None

    def broadcast(self, connection: Connection, command: Broadcast) -> None:
        """Pass on an event of one of Alphavel's clients, where the channel's authorizer grants it, or say why not."""
        server, name, message = self._server, command.channel, command.message
        if not good_name(connection, name, server.settings.options.max_channel_name_length):
            return
        event = message.get("event") if isinstance(message, dict) else None
        if not isinstance(event, str) or not event:
            send_error(connection, ErrorCode.BAD_MESSAGE, 'Expected "message":{"event":…,"data":…}.', channel=name)
        elif event in RESERVED_EVENTS or event.startswith("pusher"):
            send_error(connection, ErrorCode.BAD_MESSAGE, f"The event {event!r} belongs to the protocol.", channel=name)
        elif not connection.app.connections.is_subscribed(connection, name):
            send_error(connection, ErrorCode.UNAUTHORIZED, "Not subscribed to this channel", channel=name)
        elif not server.authorizers.covers(name) or not server.authorizers.ask(connection.user, name).allowed:
            send_error(connection, ErrorCode.UNAUTHORIZED, "Unauthorized", channel=name)
        elif good_event_name(connection, event, server.settings.options.max_event_name_length):
            assert isinstance(message, dict)
            outgoing: dict[str, Any] = {"event": event, **({"data": message["data"]} if "data" in message else {})}
            try:
                checked = Message(outgoing)
            except TypeError:  # JSON is read 1,024 levels deep and written 254
                send_error(connection, ErrorCode.BAD_MESSAGE, "The data is nested too deeply.", channel=name)
                return
            connection.app.client_event(connection, name, checked)
