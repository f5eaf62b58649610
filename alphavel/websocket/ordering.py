"""
Messages whose turn has to be decided: those of channels that keep a history get a serial there, and a key is used once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from alphavel.websocket.channels import Kept, is_cached
from alphavel.websocket.channels.keys import Keys
from alphavel.websocket.protocols.messages import FromClient

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.channels.deltas import Link
    from alphavel.websocket.protocols import Message
    from alphavel.websocket.shared_histories import SharedHistories


class Ordering:
    """
    Decides, and delivers, for one app. Nothing here switches.

    Attributes:
        keys: The idempotency keys of late.
        shared: The histories of the fleet, which decides in this one's place; None: there is none.
    """

    def __init__(self, app: App) -> None:
        self.keys = Keys()
        self.shared: SharedHistories | None = None
        self._app = app

    def concerns(self, message: Message, channels: Iterable[str]) -> bool:
        """Whether a message is to be published here."""
        delivery, rules = message.delivery, self._app.histories.rules
        if delivery is not None and delivery.idempotency_key is not None:
            return True
        return self._app.histories.keeps and any(rules(name) is not None for name in channels)

    def publish(
        self, message: Message, channels: tuple[str, ...], users: tuple[str, ...], everybody: bool, excluded: frozenset[str]
    ) -> int:
        """Publish a message of the application; see `Broadcaster.publish`. A key that has been used: 0."""
        app, delivery = self._app, message.delivery
        key, ttl = (None, None) if delivery is None else (delivery.idempotency_key, delivery.ttl)
        for name in channels:
            app.check_channel_name(name)  # before anything: nothing of what is refused has happened
        if self.shared is not None:
            return self._share(message, channels, users, everybody, excluded)
        if key is not None and not self.keys.use(key):
            app.server.counters.deduplicated += 1
            return 0
        if key is not None:
            app.server.relay.tell("key", {"app": app.id, "key": key})
        queued, others = 0, []
        for name in channels:
            kept = app.histories.keep(name, message, excluded, ttl)
            if kept is None:
                others.append(name)
            else:
                queued += self.deliver_kept(name, kept)
                if is_cached(name):
                    app.cache.put(name, message)
        app.server.counters.messages_out += queued
        if others or users or everybody:
            queued += app.publish_now(message, tuple(others), users, everybody, excluded)
        return queued

    def client_event(self, name: str, message: Message, user_id: str | None, socket_id: str) -> bool:
        """Publish a client's event; return False on a channel that keeps no history, where nothing is to be decided."""
        app = self._app
        if self.shared is not None:
            if app.histories.rules(name) is None:
                return False
            self.shared.publish(app, message, [name], (user_id,), (), (), False, frozenset((socket_id,)), key=None)
            return True
        kept = app.histories.keep(name, FromClient(message, user_id), frozenset((socket_id,)))
        if kept is not None:
            app.server.counters.messages_out += self.deliver_kept(name, kept)
        return kept is not None

    def _share(
        self, message: Message, channels: tuple[str, ...], users: tuple[str, ...], everybody: bool, excluded: frozenset[str]
    ) -> int:
        """Have the fleet decide. Returns for how many connections here it would be now: it comes back in a moment."""
        app, rules, delivery = self._app, self._app.histories.rules, message.delivery
        assert self.shared is not None
        kept = [name for name in channels if rules(name) is not None]
        others = tuple(name for name in channels if rules(name) is None)
        key = None if delivery is None else delivery.idempotency_key
        self.shared.publish(app, message, kept, None, others, users, everybody, excluded, key=key)
        books = app.connections
        audiences = [books.channels[name].subscribers for name in channels if name in books.channels]
        audiences += [books.users[user_id] for user_id in users if user_id in books.users]
        audiences += [books.connections] if everybody else []
        return sum(len(audience) - sum(socket_id in audience for socket_id in excluded) for audience in audiences)

    def deliver_kept(self, name: str, kept: Kept) -> int:
        """Queue a message of a history for the subscribers of its channel here; return for how many."""
        channel = self._app.connections.channels.get(name)
        if channel is None:
            return 0
        event: Kept | Link = kept
        if channel.chain is not None and not isinstance(kept.message, FromClient):
            event = channel.chain.link(kept, kept.message, channel, kept.excluded)
        return self._app.fan_out(event, channel.subscribers, channel, kept.excluded)
