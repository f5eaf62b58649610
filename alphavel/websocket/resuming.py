"""
Coming back to a channel that keeps a history: what a client says of where it was, and what it is given of what it missed.

A subscriber is entered and its missed messages are queued with nothing in between that switches, so that each message is either
among those or comes live, and none is both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from alphavel.websocket.channels import Kept, Position
from alphavel.websocket.channels.history import last
from alphavel.websocket.channels.positions import EventId
from alphavel.websocket.protocols import Resumption
from alphavel.websocket.protocols.messages import FromClient

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.protocols import Subscribe, SubscribeSigned

MAX_LIMIT = 1000


class Wish(NamedTuple):
    """
    What a subscriber wants of the history.

    Attributes:
        asks: Whether it wants anything.
        position: Where it was; None where it comes for the first time.
        socket_id: What it was called there: what it was left out of then is nothing that it missed.
        rewind: How many of the last messages it wants.
        last: The last message it saw, of whatever channel.
    """

    asks: bool = False
    position: Position | None = None
    socket_id: str = ""
    rewind: int = 0
    last: EventId | None = None

    @classmethod
    def of(cls, command: Subscribe | SubscribeSigned, last: EventId | None = None) -> Wish:
        """
        Read `recover` and `rewind`; `last`, which only event streams say, goes before them: a browser that comes back asks once
        more for all that stands in the address, and it is the last that it has seen.

        Raises:
            ValueError: They make no sense.
        """
        recover, rewind = command.recover, command.rewind
        if last is not None:
            return cls(True, last=last)
        if recover is None and rewind is None:
            return _NONE
        if rewind is not None and (not isinstance(rewind, int) or isinstance(rewind, bool) or not 1 <= rewind <= MAX_LIMIT):
            raise ValueError(f'"rewind" is a number of messages from 1 to {MAX_LIMIT}; got {ascii(rewind)[:40]}.')
        if recover is None or recover is True:
            return cls(True, None, "", rewind or 0)
        position = Position.read(recover, command.channel)
        socket_id = recover.get("socket_id")
        return cls(True, position, socket_id if isinstance(socket_id, str) else "", 0)


_NONE = Wish()


def resume(app: App, channel: str, wish: Wish) -> tuple[Resumption | None, list[Kept]]:
    """
    Say where a subscriber is from now on, and what it is to be given before anything new. Does not switch.

    Args:
        app: The channel's app.
        channel: Its name.
        wish: What the subscriber wants.

    Returns:
        `(None, [])` where the channel keeps no history and nothing was asked.

    Raises:
        ValueError: The position is in the future.
    """
    history = app.histories.of(channel) if app.histories.keeps else None
    if history is None:
        return (Resumption(None, False if wish.position else None), []) if wish.asks else (None, [])
    if wish.last is not None:
        since = history.after(wish.last)
    elif wish.position is not None:
        since = history.since(wish.position)
    else:
        return Resumption(history.position, None), last(history.entries(), wish.rewind) if wish.rewind else []
    missed = [kept for kept in since or () if wish.socket_id not in kept.excluded]
    return Resumption(history.position, since is not None), missed


def give(connection: Connection, missed: list[Kept]) -> None:
    """Queue what a subscriber missed, each in the very bytes that all get."""
    transport, protocol, channels = connection.transport, connection.protocol, connection.app.connections.channels
    frames = [kept.frame(protocol, channels[kept.channel]) for kept in missed]
    if frames:
        transport.send_frames(frames)
        connection.app.server.counters.messages_out += len(frames)


def read(app: App, channel: str, limit: Any = None, since: Any = None) -> dict[str, Any]:
    """
    Read a channel's history.

    Args:
        app: The channel's app.
        channel: Its name.
        limit: At most so many messages, 1 to 1000; None: 100.
        since: A position: those that came after it, from there on. None: the last ones.

    Returns:
        `{"epoch": …, "serial": 57, "messages": [{"serial": 56, "event": …, "data": {…}}, …]}`, the oldest first; where not all
        that came after `since` is known any more, `"recovered": False` and the last ones.

    Raises:
        ValueError: The channel keeps no history, or limit or position make no sense.
    """
    limit = 100 if limit is None else limit
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f'"limit" is a number of messages from 1 to {MAX_LIMIT}; got {ascii(limit)[:40]}.')
    position = None if since is None else Position.read(since, channel)
    shared = app.ordering.shared
    history = shared.read(app, channel) if shared is not None else app.histories.of(channel) if app.histories.keeps else None
    if history is None:
        raise ValueError(f"The channel {channel} keeps no history (channels in config/websocket.yaml).")
    after = None if position is None else history.since(position)
    entries = last(history.entries(), limit) if after is None else after[:limit]
    answer = {**history.position._asdict(), "messages": [_shown(kept) for kept in entries]}
    return answer if position is None else {**answer, "recovered": after is not None}


def _shown(kept: Kept) -> dict[str, Any]:
    event = kept.message
    message, user_id = (event.message, event.user_id) if isinstance(event, FromClient) else (event, None)
    shown: dict[str, Any] = {"serial": kept.serial, "event": message.event}
    if message.json_data is not None:
        shown["data"] = orjson.loads(message.json_data)
    return shown if user_id is None else {**shown, "user_id": user_id}
