"""
From a client's message to what is done about it.

What needs no application code (a ping, a public subscription without hooks) is done at once, in the hub. What does runs
in a greenlet; while one runs for a connection, further messages of that connection wait behind it, so that each
connection's events are handled in the order they came, and connections do not wait for each other.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson

from alphavel.websocket.auth import AuthenticationError
from alphavel.websocket.channels import Kind, Member, name_error
from alphavel.websocket.channels.authorizers import DENIED, Grant
from alphavel.websocket.frames import Opcode, frame
from alphavel.websocket.protocols import (
    Broadcast,
    Command,
    Custom,
    ErrorCode,
    Message,
    Ping,
    Refresh,
    Refused,
    Subscribe,
    Unsubscribe,
)
from alphavel.websocket.protocols.alphavel import RESERVED_EVENTS

if TYPE_CHECKING:
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.server import WebSocketServer

logger = logging.getLogger("alphavel.websocket")

_FLOOD = 10  # times the limit of messages a second at which a connection is closed instead of told


class Dispatcher:
    """Executes the commands of all connections of one server."""

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server
        self._counts: dict[Connection, int] = {}
        self._execute: dict[type, Callable[[Connection, Any], None]] = {
            Ping: self._ping,
            Subscribe: self._subscribe,
            Unsubscribe: self._unsubscribe,
            Broadcast: self._broadcast,
            Refresh: self._refresh,
            Custom: self._custom,
            Refused: self._refused,
            Opened: self._opened,
            Closed: self._closed,
            InTurn: self._in_turn,
        }

    # Coming in, in the hub

    def received(self, connection: Connection, opcode: Opcode, payload: Any) -> None:
        """Take a message, a ping or a pong. Does not block."""
        if not self._within_rate(connection):
            return
        if opcode is Opcode.PING:
            connection.transport.send_frame(frame(Opcode.PONG, payload))
            return
        if opcode is Opcode.PONG:
            return
        self._server.counters.messages_in += 1
        command = connection.protocol.decode(payload)
        if connection.waiting is not None or self._runs_application_code(command):
            self.enqueue(connection, command, payload)
        else:
            self._execute[type(command)](connection, command)

    def enqueue(self, connection: Connection, command: Any, payload: str | bytes = "") -> None:
        """Have a greenlet execute a command after those of the same connection that came before."""
        waiting = connection.waiting
        if waiting is not None:
            waiting.append((command, payload))
            if len(waiting) >= self._server.settings.options.max_waiting_messages:
                connection.transport.pause()
            return
        connection.waiting = deque([(command, payload)])
        self._server.tasks.spawn(self._work, connection)

    def second_passed(self) -> None:
        """Begin to count messages a second anew."""
        self._counts.clear()

    def _within_rate(self, connection: Connection) -> bool:
        limit = self._server.settings.options.max_messages_per_second
        if limit is None:
            return True
        count = self._counts[connection] = self._counts.get(connection, 0) + 1
        if count <= limit:
            return True
        self._server.counters.rate_limited += 1
        if count == limit + 1:
            self.error(connection, ErrorCode.CLIENT_EVENT_REJECTED, f"At most {limit} messages a second; the rest is dropped.")
        elif count > limit * _FLOOD:
            connection.transport.close(1008, "too many messages")
        return False

    def _runs_application_code(self, command: Command) -> bool:
        server = self._server
        if server.hooks.life_cycle["message"]:
            return True
        kind = type(command)
        if kind is Subscribe:
            return isinstance(command.channel, str) and (  # type: ignore[union-attr]
                Kind.of(command.channel) is not Kind.PUBLIC or server.authorizers.covers(command.channel)  # type: ignore[union-attr]
            )
        return kind in (Broadcast, Custom, Refresh)

    # In a greenlet

    def _work(self, connection: Connection) -> None:
        waiting = connection.waiting
        assert waiting is not None
        resume_below = self._server.settings.options.max_waiting_messages // 2
        try:
            while waiting:
                command, payload = waiting.popleft()
                if len(waiting) == resume_below and connection.is_open:
                    connection.transport.resume()
                self._run(connection, command, payload)
        finally:
            connection.waiting = None

    def _run(self, connection: Connection, command: Any, payload: str | bytes) -> None:
        try:
            if isinstance(command, (Closed, InTurn)):
                self._execute[type(command)](connection, command)
            elif connection.is_open or (connection.transport.left_by_peer and isinstance(command, Custom)):
                if self._server.hooks.life_cycle["message"] and not isinstance(command, (Opened, Refused)):
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
        name = getattr(command, "event", None) or getattr(command, "channel", None)
        logger.exception("A handler failed: %s %r of connection %s", what, name, connection.socket_id)
        context = {}
        if isinstance(command, (Subscribe, Broadcast)):
            context["channel"] = command.channel
        elif isinstance(command, Custom):
            context["data"] = {"event": command.event}
        self.error(connection, ErrorCode.HANDLER_FAILED, "The server failed to handle this event.", **context)

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
        self.error(connection, command.code, command.message)

    def _subscribe(self, connection: Connection, command: Subscribe) -> None:
        server, name = self._server, command.channel
        if not self._good_name(connection, name):
            return
        manager = server.connections
        if not manager.is_subscribed(connection, name):
            limit = server.settings.options.max_channels_per_connection
            if len(connection.channels) >= limit:
                self.error(connection, ErrorCode.TOO_MANY, f"A connection may be on at most {limit} channels.", channel=name)
                return
            grant = self._grant(connection, name)
            if not grant.allowed:
                self.error(connection, ErrorCode.UNAUTHORIZED, "Unauthorized", channel=name)
                return
            if not connection.is_open:  # the authorizer may have taken its time
                return
            if not self._join(connection, name, grant):
                return
        connection.transport.send_frame(connection.protocol.subscribed(manager.channels[name], time.time()))

    def _join(self, connection: Connection, name: str, grant: Grant) -> bool:
        server = self._server
        member = None
        if Kind.of(name) is Kind.PRESENCE:
            assert connection.user is not None
            member = Member(connection.user.id, grant.info, time.time())
            refusal = self._presence_refusal(name, member)
            if refusal is not None:
                self.error(connection, ErrorCode.TOO_MANY, refusal, channel=name)
                return False
        existing = server.connections.channels.get(name)
        if existing is not None:
            server.reactor.settle(existing.subscribers)
        channel, gained = server.connections.subscribe(connection, name, member)
        if gained is not None:
            server.announce(channel, "member_added", gained, except_id=connection.socket_id)
        return True

    def _presence_refusal(self, name: str, member: Member) -> str | None:
        settings = self._server.settings.presence
        if len(orjson.dumps(member.info, option=orjson.OPT_NON_STR_KEYS)) > settings.max_info_size:
            return f"The member's info is larger than {settings.max_info_size} bytes."
        channel = self._server.connections.channels.get(name)
        members = channel.members if channel is not None else None
        if settings.max_members is not None and members and member.id not in members and len(members) >= settings.max_members:
            return f"The channel takes at most {settings.max_members} members."
        return None

    def _grant(self, connection: Connection, name: str) -> Grant:
        """Deny is the default: only a public channel without an authorizer is open to anybody."""
        kind = Kind.of(name)
        if connection.user is None and kind is not Kind.PUBLIC:
            return DENIED
        if kind is Kind.PUBLIC and not self._server.authorizers.covers(name):
            return Grant(True, {})
        return self._server.authorizers.ask(connection.user, name)

    def _unsubscribe(self, connection: Connection, command: Unsubscribe) -> None:
        name = command.channel
        if not self._good_name(connection, name):
            return
        self._server.leave(connection, name)
        answer = connection.protocol.unsubscribed(name)
        if answer is not None:
            connection.transport.send_frame(answer)

    def _broadcast(self, connection: Connection, command: Broadcast) -> None:
        server, name, message = self._server, command.channel, command.message
        if not self._good_name(connection, name):
            return
        event = message.get("event") if isinstance(message, dict) else None
        if not isinstance(event, str) or not event:
            self.error(connection, ErrorCode.BAD_MESSAGE, 'Expected "message":{"event":…,"data":…}.', channel=name)
        elif event in RESERVED_EVENTS or event.startswith("pusher"):
            self.error(connection, ErrorCode.BAD_MESSAGE, f"The event {event!r} belongs to the protocol.", channel=name)
        elif not server.connections.is_subscribed(connection, name):
            self.error(connection, ErrorCode.UNAUTHORIZED, "Not subscribed to this channel", channel=name)
        elif not server.authorizers.covers(name) or not server.authorizers.ask(connection.user, name).allowed:
            self.error(connection, ErrorCode.UNAUTHORIZED, "Unauthorized", channel=name)
        elif self._good_event_name(connection, event):
            assert isinstance(message, dict)
            outgoing = {"event": event, **({"data": message["data"]} if "data" in message else {})}
            server.publish(Message(outgoing), (name,), (), False, frozenset((connection.socket_id,)))

    def _refresh(self, connection: Connection, command: Refresh) -> None:
        try:
            user = self._server.verify(command.token)
        except AuthenticationError as error:
            self.error(connection, ErrorCode.UNAUTHORIZED, str(error))
            return
        if connection.user is None or user.id != connection.user.id:
            self.error(connection, ErrorCode.UNAUTHORIZED, "The fresh token belongs to another user.")
            return
        connection.user = user
        self._server.reactor.heartbeat.watch(connection.transport)
        connection.transport.send_frame(connection.protocol.refreshed(user.expires_at))

    def _custom(self, connection: Connection, command: Custom) -> None:
        if not connection.protocol.has_channels:
            connection.protocol.handler(connection, command.data)  # type: ignore[attr-defined]
            return
        if not self._good_event_name(connection, command.event):
            return
        handlers = self._server.hooks.events.get(command.event)
        if handlers is None:
            self.error(
                connection, ErrorCode.UNKNOWN_EVENT, f"There is no event {command.event!r}.", data={"event": command.event}
            )
            return
        self._call(handlers, connection, command.data, command.channel)

    # Errors

    def error(self, connection: Connection, code: int, message: str, **context: Any) -> None:
        """Send an error event; the connection stays."""
        answer = connection.protocol.error(code, message, context)
        if answer is not None:
            connection.transport.send_frame(answer)

    def _good_name(self, connection: Connection, name: Any) -> bool:
        problem = name_error(name, self._server.settings.options.max_channel_name_length)
        if problem is None:
            return True
        self.error(connection, ErrorCode.TOO_LONG if "at most" in problem else ErrorCode.BAD_MESSAGE, problem)
        return False

    def _good_event_name(self, connection: Connection, event: str) -> bool:
        limit = self._server.settings.options.max_event_name_length
        if len(event) <= limit:
            return True
        self.error(connection, ErrorCode.TOO_LONG, f"An event's name has at most {limit} characters.")
        return False


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
