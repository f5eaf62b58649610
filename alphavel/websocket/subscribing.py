"""
Who may join: subscriptions of both protocols, from the request to the answer. Deny is the default.

Alphavel's clients came with a token, and the application's authorizers are asked here. Pusher's clients bring a signature:
the application was asked when it was made, so that nobody need be asked again, and checking it takes microseconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import orjson

from alphavel.websocket import resuming, subscriptions
from alphavel.websocket.auth.signatures import SignatureError, check_channel_auth
from alphavel.websocket.channels import POISON, Channel, Kind, Member, info_to_json, name_error, user_channel, user_of
from alphavel.websocket.channels.authorizers import DENIED
from alphavel.websocket.checks import HANDLER_FAILED, LONGEST_NAME_REPEATED, code_of, good_name, send_error
from alphavel.websocket.later import log_later
from alphavel.websocket.logs import about, get_logger
from alphavel.websocket.protocols import ErrorCode, OpenStream, ReadHistory, Resumption, Subscribe, SubscribeSigned, Unsubscribe
from alphavel.websocket.protocols.messages import FromClient
from alphavel.websocket.resuming import Wish

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.channels import Kept, Position
    from alphavel.websocket.channels.positions import EventId
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.server import WebSocketServer

T = TypeVar("T")

logger = get_logger("alphavel.websocket")

_POISONED = f"A user's id cannot be {POISON}."


class _RefusedError(Exception):
    """A subscription is refused; the text is for the client."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class _Granted(NamedTuple):
    name: str
    wish: Wish
    member: Member | None


class _Refusal(NamedTuple):
    name: Any
    error: _RefusedError


class Subscribing:
    """Executes the commands that put connections on channels and take them off."""

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server

    def takes_time(self, connection: Connection, command: Subscribe | SubscribeSigned) -> bool:
        """Whether an authorizer has to be asked, or the bus to be waited for."""
        name = command.channel
        # The name first: an expression of the application's is not to be matched against megabytes of a stranger's.
        if not _is_own(connection, name) and name_error(name, connection.app.max_channel_name_length) is not None:
            return False
        signed = isinstance(command, SubscribeSigned)
        asks = (not signed and Kind.of(name) is not Kind.PUBLIC) or self._is_guarded(name)
        shared = connection.app.ordering.shared
        return (
            asks
            or not self._server.relay.bus.hears(connection.app.id, name)
            or (shared is not None and (command.recover is not None or not shared.knows(connection.app, name, None)))
        )

    def subscribe(self, connection: Connection, command: Subscribe) -> None:
        """Put one of Alphavel's clients on a channel, or say why not."""
        name = command.channel
        limit = self._server.settings.options.max_channel_name_length
        self._join(connection, command, limit, lambda: self._check_granted(connection, name))

    def subscribe_signed(self, connection: Connection, command: SubscribeSigned) -> None:
        """Put one of Pusher's clients on a channel, or say why not."""
        name = command.channel
        if not isinstance(name, str) or user_of(name) is None:
            limit = connection.app.settings.limits.channel_name_length
            self._join(connection, command, limit, lambda: self._check_signed(connection, command))
        elif not _is_own(connection, name):
            text = "Only the user who is signed in on this connection may join this channel."
            _refuse(connection, name, _RefusedError(ErrorCode.UNAUTHORIZED, text))
        else:
            # What is pushed to a user goes to all of the user's connections, so that there is nothing to enter.
            self._heard(connection.app, name, None)
            connection.transport.send_frame(connection.protocol.subscribed(Channel(name), time.time()))

    def _join(
        self,
        connection: Connection,
        command: Subscribe | SubscribeSigned,
        max_length: int,
        check: Callable[[], Member | None],
    ) -> None:
        name, app = command.channel, connection.app
        joins = False
        missed: list[Kept] = []
        try:
            _check_name(name, max_length)
            wish = _wish_of(command)
            joins = not app.connections.is_subscribed(connection, name)
            if joins:
                self._check_number(connection)
                member = self._checked(lambda: self._heard(app, name, check(), wish.position))
                if not connection.is_open:  # that may have taken its time
                    return
                self._check_room(connection, name, member, isinstance(command, SubscribeSigned))
                resumption, missed = _resume(app, name, wish)
                subscriptions.join(app, connection, name, member)
            else:
                resumption, _ = _resume(app, name, Wish(wish.asks))
        except _RefusedError as refused:
            _refuse(connection, name, refused)
            return
        # Pusher's clients are told what Pusher tells them, unless they ask for more.
        _answer(connection, name, resumption if wish.asks or isinstance(command, Subscribe) else None, missed)
        if missed:
            resuming.give(connection, missed)
        if joins:  # or one client that subscribes again and again would have all others told each time
            app.counts.changed(name)

    def _heard(self, app: App, name: str, granted: T, position: Position | None = None) -> T:
        """
        Wait until what other nodes publish on the channel comes in, and until it is known here what they have published as far
        as `position`: who is told `subscribed` misses nothing from then on.
        """
        bus, shared = self._server.relay.bus, app.ordering.shared
        if not bus.hears(app.id, name):
            bus.wait(app.id, name)
        if shared is not None and not shared.knows(app, name, position):
            shared.learn(app, name, position)
        return granted

    def _check_room(self, connection: Connection, name: str, member: Member | None, signed: bool) -> None:
        limits, presence = connection.app.settings.limits, self._server.settings.presence
        most = limits.presence_members if signed else presence.max_members
        if member is not None and most is not None:
            members = connection.app.connections.member_ids(name)
            if member.id not in members and len(members) >= most:
                raise _RefusedError(ErrorCode.TOO_MANY, f"The channel takes at most {most} members.")

    def open_stream(self, connection: Connection, command: OpenStream) -> None:
        """Put an event stream on its channels, and say of which it may not join why."""
        app = connection.app
        granted = self._checked(lambda: [self._grant(connection, wanted, command) for wanted in command.subscriptions])
        if not connection.is_open:  # authorizers may have taken their time
            return
        missed: list[Kept] = []
        for answer in granted:
            if isinstance(answer, _Refusal):
                _refuse(connection, *answer)
                continue
            try:
                self._check_room(connection, answer.name, answer.member, signed=False)
                resumption, some = _resume(app, answer.name, answer.wish)
            except _RefusedError as refused:
                _refuse(connection, answer.name, refused)
                continue
            subscriptions.join(app, connection, answer.name, answer.member)
            _answer(connection, answer.name, resumption, some)
            missed += some
            app.counts.changed(answer.name)
        # In the order of all channels: who is cut off in the middle goes on after the last one that came.
        resuming.give(connection, sorted(missed, key=lambda kept: kept.number))
        if app.histories.keeps:
            connection.transport.send_frame(app.event_stream.event_id(app.histories.event_id))

    def _grant(self, connection: Connection, wanted: Subscribe, stream: OpenStream) -> _Granted | _Refusal:
        name = wanted.channel
        try:
            _check_name(name, self._server.settings.options.max_channel_name_length)
            wish = _wish_of(wanted, stream.last_event_id)
            member = self._heard(connection.app, name, self._check_granted(connection, name), wish.position)
            return _Granted(name, wish, member)
        except _RefusedError as refused:
            return _Refusal(name, refused)
        except Exception:  # an authorizer's, which says nothing of the other channels
            self._server.counters.errors += 1
            logger.exception("An authorizer failed", extra={**about(connection), "channel": name})
            return _Refusal(name, _RefusedError(ErrorCode.HANDLER_FAILED, HANDLER_FAILED))

    def _checked(self, check: Callable[[], T]) -> T:
        """Ask whether a connection may join, and once more where authorizers are to be asked again meanwhile."""
        reauthorization = self._server.reauthorization
        while True:
            times = reauthorization.times
            member = check()
            if reauthorization.times == times:
                return member

    def read_history(self, connection: Connection, command: ReadHistory) -> None:
        """Show one of Alphavel's clients what was said on a channel that it may join, or say why not."""
        name = command.channel
        try:
            _check_name(name, self._server.settings.options.max_channel_name_length)
            self._check_may_read(connection, name)
            answer = resuming.read(connection.app, name, command.limit, command.since)
        except _RefusedError as refused:
            _refuse(connection, name, refused)
        except ValueError as error:
            _refuse(connection, name, _RefusedError(ErrorCode.BAD_MESSAGE, str(error)))
        else:
            connection.transport.send_frame(connection.protocol.history(name, answer))  # type: ignore[attr-defined]

    def unsubscribe(self, connection: Connection, command: Unsubscribe) -> None:
        """Take a connection off a channel, whether it was on it or not."""
        name = command.channel
        if _is_own(connection, name):
            pass  # there was nothing to enter, so that there is nothing to leave
        elif not good_name(connection, name, connection.app.max_channel_name_length):
            return
        subscriptions.leave(connection.app, connection, name)
        answer = connection.protocol.unsubscribed(name)
        if answer is not None:
            connection.transport.send_frame(answer)

    def _check_number(self, connection: Connection) -> None:
        limit = self._server.settings.options.max_channels_per_connection
        if len(connection.subscribed) >= limit:
            raise _RefusedError(ErrorCode.TOO_MANY, f"A connection may be on at most {limit} channels.")

    def _is_guarded(self, name: str) -> bool:
        """Whether it is a public channel that is not open to anybody, because an authorizer covers it."""
        return Kind.of(name) is Kind.PUBLIC and self._server.authorizers.covers(name)

    def _check_granted(self, connection: Connection, name: str) -> Member | None:
        """Return who the connection is on a presence channel, None on others. Raises _RefusedError where it may not join."""
        kind, user = Kind.of(name), connection.user
        if kind is Kind.PUBLIC:
            self._check_public(connection, name)
            return None
        grant = DENIED if user is None else self._server.authorizers.ask(user, name)
        if user is None or not grant.allowed:
            raise _RefusedError(ErrorCode.UNAUTHORIZED, "Unauthorized")
        if kind is not Kind.PRESENCE:
            return None
        if user.id == POISON:
            raise _RefusedError(ErrorCode.BAD_MESSAGE, _POISONED)
        member = Member(user.id, grant.info, time.time())
        presence = self._server.settings.presence
        _check_info(member, presence.max_info_size)
        return member

    def _check_may_read(self, connection: Connection, name: str) -> None:
        """Ask the authorizer, now, whether it is on the channel or not: what it was granted once may be over."""
        if Kind.of(name) is Kind.PUBLIC:
            self._check_public(connection, name)
        elif connection.user is None or not self._server.authorizers.ask(connection.user, name).allowed:
            raise _RefusedError(ErrorCode.UNAUTHORIZED, "Unauthorized")

    def _check_public(self, connection: Connection, name: str) -> None:
        """A public channel is open to anybody, unless the application has an authorizer for it."""
        if self._is_guarded(name) and not self._server.authorizers.ask(connection.user, name).allowed:
            raise _RefusedError(ErrorCode.UNAUTHORIZED, "Unauthorized")

    def _check_signed(self, connection: Connection, command: SubscribeSigned) -> Member | None:
        """Return who the connection is on a presence channel, None on others. Raises _RefusedError where it may not join."""
        name, channel_data = command.channel, command.channel_data
        kind = Kind.of(name)
        if kind is Kind.PUBLIC:
            self._check_public(connection, name)
            return None
        app = connection.app
        limits = app.settings.limits
        signed = channel_data if kind is Kind.PRESENCE else None
        if signed is not None:
            if not isinstance(signed, str):
                raise _RefusedError(ErrorCode.BAD_MESSAGE, 'The "channel_data" is a text that holds JSON.')
            most = limits.presence_info_size + 8 * limits.user_id_length + 64  # escapes may make an id longer
            if len(signed) > most:
                raise _RefusedError(ErrorCode.TOO_LONG, f'The "channel_data" has at most {most} characters.')
        try:
            check_channel_auth(command.auth, app.key, app.secret, connection.socket_id, name, signed)
        except SignatureError as error:
            raise _RefusedError(ErrorCode.UNAUTHORIZED, str(error)) from None
        if kind is not Kind.PRESENCE:
            return None
        member = _signed_in_member(connection) if signed is None else _member_of(signed, limits.user_id_length)
        try:
            _check_info(member, limits.presence_info_size)
        except TypeError as error:  # such as: nested too deep
            raise _RefusedError(ErrorCode.BAD_MESSAGE, f"The member's info cannot be passed on: {error}.") from None
        return member


def _is_own(connection: Connection, name: Any) -> bool:
    """Whether it is the channel of the connection's own user."""
    return connection.user is not None and name == user_channel(connection.user.id)


def _user_id_error(user_id: object, max_length: int) -> str | None:
    """Say what is wrong with the id of a user whom a signature names, None where it is good."""
    if not isinstance(user_id, str) or not user_id:
        return "A user's id is a text of at least one character."
    if len(user_id) > max_length:
        return f"A user's id has at most {max_length} characters; this one has {len(user_id)}."
    return _POISONED if user_id == POISON else None


def _check_name(name: Any, max_length: int) -> None:
    problem = name_error(name, max_length)
    if problem is not None:
        raise _RefusedError(code_of(problem), problem)


def _member_of(channel_data: str, max_id_length: int) -> Member:
    try:
        data = orjson.loads(channel_data)
    except ValueError as error:
        raise _RefusedError(ErrorCode.BAD_MESSAGE, f'The "channel_data" is not JSON: {error}.') from None
    user_id = data.get("user_id") if isinstance(data, dict) else None
    if isinstance(user_id, int) and not isinstance(user_id, bool):
        user_id = str(user_id)  # 7 and "7" are one user: in the keys of a JSON object they could not be two
    problem = _user_id_error(user_id, max_id_length)
    if problem is not None:
        raise _RefusedError(code_of(problem), f'The "channel_data" needs a "user_id". {problem}')
    assert isinstance(user_id, str)
    return Member(user_id, data.get("user_info"), time.time())


def _signed_in_member(connection: Connection) -> Member:
    user = connection.user
    if user is None:
        raise _RefusedError(
            ErrorCode.UNAUTHORIZED, 'A presence channel needs "channel_data" that says who joins, or a user who has signed in.'
        )
    return Member(user.id, user.claims.get("user_info"), time.time())


def _check_info(member: Member, max_info: int) -> None:
    if len(info_to_json(member.info)) > max_info:
        raise _RefusedError(ErrorCode.TOO_MANY, f"The member's info is larger than {max_info} bytes.")


def _wish_of(command: Subscribe | SubscribeSigned, last: EventId | None = None) -> Wish:
    try:
        return Wish.of(command, last)
    except ValueError as error:
        raise _RefusedError(ErrorCode.BAD_MESSAGE, str(error)) from None


def _resume(app: App, name: str, wish: Wish) -> tuple[Resumption | None, list[Kept]]:
    try:
        return resuming.resume(app, name, wish)
    except ValueError as error:
        raise _RefusedError(ErrorCode.BAD_MESSAGE, str(error)) from None


def _answer(connection: Connection, name: str, resumption: Resumption | None, missed: list[Kept]) -> None:
    """Say that it is on the channel; then what the channel has kept for those who join, unless it has or gets that anyway."""
    app, protocol, transport = connection.app, connection.protocol, connection.transport
    channel = app.connections.channels[name]
    transport.send_frame(protocol.subscribed(channel, time.time(), resumption))
    if channel.is_cached:
        event = app.cache.get(name)
        answer = protocol.cache_miss(channel) if event is None else protocol.event(event, channel)
        recovered = resumption is not None and resumption.recovered is True
        has_it = recovered or any(not isinstance(kept.message, FromClient) for kept in missed)
        if answer is not None and (event is None or not has_it):
            transport.send_frame(answer)
        if event is None:
            app.emit("cache_miss", channel=name)


def _refuse(connection: Connection, name: Any, refused: _RefusedError) -> None:
    if refused.code == ErrorCode.UNAUTHORIZED:
        connection.app.server.counters.auth_failures["channel"] += 1
        more = {**about(connection), "channel": name[:LONGEST_NAME_REPEATED] if isinstance(name, str) else None}
        log_later(logger, logging.INFO, "A subscription is refused: %s", refused.message, extra=more)
    if isinstance(name, str) and 0 < len(name) <= LONGEST_NAME_REPEATED:
        answer = connection.protocol.subscription_error(name, refused.code, refused.message)
        connection.transport.send_frame(answer)
    else:
        send_error(connection, refused.code, refused.message)
