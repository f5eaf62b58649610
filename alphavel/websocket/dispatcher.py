"""
From a client's message to what is done about it.

What needs no application code (a ping, a public subscription without hooks) is done at once, in the hub. What does runs
in a greenlet; while one runs for a connection, further messages of that connection wait behind it, so that each
connection's events are handled in the order they came, and connections do not wait for each other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson

from alphavel.websocket.auth import AuthenticationError
from alphavel.websocket.channels import name_error
from alphavel.websocket.checks import HANDLER_FAILED, good_event_name, send_error
from alphavel.websocket.client_events import ClientEvents
from alphavel.websocket.frames import Opcode, frame
from alphavel.websocket.later import log_later
from alphavel.websocket.logs import about, get_logger, serves_connection
from alphavel.websocket.protocols import (
    Broadcast,
    ClientEvent,
    Command,
    Custom,
    ErrorCode,
    OpenStream,
    Ping,
    Pong,
    ReadHistory,
    Refresh,
    Refused,
    SignIn,
    Subscribe,
    SubscribeSigned,
    Unsubscribe,
)
from alphavel.websocket.signing_in import sign_in
from alphavel.websocket.subscribing import Subscribing

if TYPE_CHECKING:
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.server import WebSocketServer

logger = get_logger("alphavel.websocket")

_FOR_THE_APPLICATION = frozenset((Broadcast, Custom, ReadHistory, Refresh))
_FLOOD = 10  # times the limit of messages a second at which a connection is closed instead of told


class Dispatcher:
    """Executes the commands of all connections of one server."""

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server
        self._counts: dict[Connection, int] = {}
        self._subscribing = Subscribing(server)
        self._client_events = ClientEvents(server)
        self._execute: dict[type, Callable[[Connection, Any], None]] = {
            Ping: self._ping,
            Pong: lambda connection, command: None,
            Subscribe: self._subscribing.subscribe,
            SubscribeSigned: self._subscribing.subscribe_signed,
            OpenStream: self._subscribing.open_stream,
            Unsubscribe: self._subscribing.unsubscribe,
            ReadHistory: self._subscribing.read_history,
            Broadcast: self._client_events.broadcast,
            ClientEvent: self._client_events.client_event,
            Refresh: self._refresh,
            SignIn: sign_in,
            Custom: self._custom,
            Refused: self._refused,
            Opened: self._opened,
            Closed: self._closed,
            InTurn: self._in_turn,
        }

    # Coming in, in the hub

    def received(self, connection: Connection, message: str | bytes) -> None:
        """Take a message. Does not block."""
        if not self._within_rate(connection):
            return
        protocol = connection.protocol
        protocol.tally.messages_in += 1
        command = protocol.decode(message)
        if connection.waiting is not None or self._takes_time(connection, command):
            self.enqueue(connection, command, message)
        else:
            self._execute[type(command)](connection, command)

    def pinged(self, connection: Connection, opcode: Opcode, payload: bytes) -> None:
        """Take a ping or a pong. Does not block."""
        if self._within_rate(connection) and opcode is Opcode.PING:
            connection.transport.send_frame(frame(Opcode.PONG, payload))

    def enqueue(self, connection: Connection, command: Any, payload: str | bytes = "") -> None:
        """Have a greenlet execute a command after those of the same connection that came before."""
        waiting = connection.waiting
        if waiting is not None:
            waiting.append((command, payload))
            if len(waiting) >= self._server.settings.options.max_waiting_messages:
                connection.transport.pause()
            return
        connection.waiting = [(command, payload)]
        self._server.tasks.run(self._work, connection)

    def second_passed(self) -> None:
        """Begin to count messages a second anew."""
        self._counts.clear()
        self._client_events.second_passed()

    def _within_rate(self, connection: Connection) -> bool:
        limit = self._server.settings.options.max_messages_per_second
        if limit is None:
            return True
        count = self._counts[connection] = self._counts.get(connection, 0) + 1
        if count <= limit:
            return True
        self._server.counters.rate_limited += 1
        if count == limit + 1:
            send_error(connection, ErrorCode.CLIENT_EVENT_REJECTED, f"At most {limit} messages a second; the rest is dropped.")
        elif count > limit * _FLOOD:
            log_later(logger, logging.WARNING, "A client sends too many messages; closing it", extra=about(connection))
            connection.transport.close(1008, "too many messages")
        return False

    def _takes_time(self, connection: Connection, command: Command) -> bool:
        if type(command) in _FOR_THE_APPLICATION or self._server.hooks.life_cycle["message"]:
            return True
        if isinstance(command, (Subscribe, SubscribeSigned)):
            return self._subscribing.takes_time(connection, command)
        return False

    # In a greenlet

    @serves_connection
    def _work(self, connection: Connection) -> None:
        waiting = connection.waiting
        assert waiting is not None
        resume_below = self._server.settings.options.max_waiting_messages // 2
        try:
            while waiting:
                command, payload = waiting.pop(0)
                if len(waiting) == resume_below:
                    connection.transport.resume()
                self._run(connection, command, payload)
        finally:
            connection.waiting = None

    def _run(self, connection: Connection, command: Any, payload: str | bytes) -> None:
        try:
            if isinstance(command, (Closed, InTurn)):
                self._execute[type(command)](connection, command)
            elif connection.is_open or (connection.transport.left_by_peer and isinstance(command, Custom)):
                # An event stream is opened by its request, and what was refused could not be read: no messages, both.
                if self._server.hooks.life_cycle["message"] and not isinstance(command, (Opened, OpenStream, Refused)):
                    event = orjson.loads(payload) if connection.protocol.has_channels else payload
                    self._call(self._server.hooks.life_cycle["message"], connection, event)
                self._execute[type(command)](connection, command)
        except Exception:  # noqa: BLE001 (the application's code: whatever it raises is logged and answered)
            self._failed(connection, command)

    def _call(self, handlers: list[Callable[..., Any]], *arguments: Any) -> None:
        for handler in handlers:
            handler(*arguments)

    def _failed(self, connection: Connection, command: Any) -> None:
        self._server.counters.errors += 1
        what = type(command).__name__.lower()
        # Handlers of "message" see what a client sent before its names are checked: any JSON, of any size.
        name = repr(getattr(command, "event", None) or getattr(command, "channel", None))
        logger.exception("A handler failed: %s %.300s", what, name, extra=about(connection))
        options = self._server.settings.options
        channel: Any = getattr(command, "channel", None)
        named = name_error(channel, connection.app.max_channel_name_length) is None
        if isinstance(command, (Subscribe, SubscribeSigned)) and named:
            answer = connection.protocol.subscription_error(channel, ErrorCode.HANDLER_FAILED, HANDLER_FAILED)
            connection.transport.send_frame(answer)
            return
        context: dict[str, Any] = {}
        if isinstance(command, (Broadcast, ReadHistory)) and named:
            context["channel"] = channel
        elif isinstance(command, Custom) and len(command.event) <= options.max_event_name_length:
            context["data"] = {"event": command.event}
        send_error(connection, ErrorCode.HANDLER_FAILED, HANDLER_FAILED, **context)

    # Commands

    def _opened(self, connection: Connection, command: Opened) -> None:
        self._call(self._server.hooks.life_cycle["open"], connection)

    def _closed(self, connection: Connection, command: Closed) -> None:
        self._call(self._server.hooks.life_cycle["close"], connection, command.code, command.reason)

    def _in_turn(self, connection: Connection, command: InTurn) -> None:
        command.action()

    def _ping(self, connection: Connection, command: Ping) -> None:
        connection.transport.send_frame(connection.protocol.pong(time.time()))

    def _refused(self, connection: Connection, command: Refused) -> None:
        send_error(connection, command.code, command.message)

    def _refresh(self, connection: Connection, command: Refresh) -> None:
        try:
            user = self._server.verify(command.token)
        except AuthenticationError as error:
            send_error(connection, ErrorCode.UNAUTHORIZED, str(error))
            return
        if connection.user is None or user.id != connection.user.id:
            send_error(connection, ErrorCode.UNAUTHORIZED, "The fresh token belongs to another user.")
            return
        connection.user = user
        self._server.reactor.heartbeat.watch(connection.transport)
        connection.transport.send_frame(connection.protocol.refreshed(user.expires_at))  # type: ignore[attr-defined]

    def _custom(self, connection: Connection, command: Custom) -> None:
        if not connection.protocol.has_channels:
            connection.protocol.handler(connection, command.data)  # type: ignore[attr-defined]
            return
        if not good_event_name(connection, command.event, self._server.settings.options.max_event_name_length):
            return
        handlers = self._server.hooks.events.get(command.event)
        if handlers is None:
            send_error(
                connection, ErrorCode.UNKNOWN_EVENT, f"There is no event {command.event!r}.", data={"event": command.event}
            )
            return
        self._call(handlers, connection, command.data, command.channel)


class Opened:
    """The connection is open: its open handlers are due."""


class Closed:
    """The connection has ended: its close handlers are due, after all that it sent."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason


class InTurn:
    """Something to do after all that came before it."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action
