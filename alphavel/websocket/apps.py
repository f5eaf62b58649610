"""
Apps: tenants of one server, each with a key, a secret, limits, connections and channels of its own.

The first app is the default: Alphavel's own protocol, raw routes and `WebSocket.to_channel` are at home there. With none
configured there is still one, which has no key, so that no Pusher client can connect to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket import resuming
from alphavel.websocket.auth.origins import OriginRules
from alphavel.websocket.broadcasting import NOBODY, Broadcaster
from alphavel.websocket.channels import EventCache, Histories, is_cached, name_error, user_of
from alphavel.websocket.connections import ConnectionManager
from alphavel.websocket.counts import SubscriptionCounts
from alphavel.websocket.ordering import Ordering
from alphavel.websocket.protocols import Message
from alphavel.websocket.protocols.alphavel import AlphavelProtocol
from alphavel.websocket.protocols.delta import DeltaProtocol
from alphavel.websocket.protocols.event_stream import EventStreamProtocol
from alphavel.websocket.protocols.messages import FromClient, ToUser
from alphavel.websocket.protocols.pusher import VERSIONS, PusherProtocol
from alphavel.websocket.settings import AppSettings
from alphavel.websocket.tracing import trace_publish

if TYPE_CHECKING:
    from alphavel.websocket.channels import Channel
    from alphavel.websocket.channels.audience import Audience
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.protocols import Protocol
    from alphavel.websocket.server import WebSocketServer
    from alphavel.websocket.settings import WebSocketSettings
    from alphavel.websocket.siblings import Siblings

Listener = Callable[["App", str, dict[str, Any]], None]
"""
`listener(app, what, payload)`: told what happens on channels, in the hub: it must neither block nor raise.

`channel_occupied`, `channel_vacated`, `cache_miss`: `{"channel"}`. `member_added`, `member_removed`: `{"channel", "user_id"}`.
`client_event`: `{"channel", "event", "data", "socket_id"}`, on presence channels also `user_id`; the data is JSON text.
`subscription_count`: `{"channel", "subscription_count"}`.
"""


class App(Broadcaster):
    """
    One app. `to_channel` and its siblings reach the connections of this app only.

    Attributes:
        id, key, secret: What names it in the HTTP API, what names it to clients, and what signs.
        settings: What the configuration says of it.
        connections: Who is connected, subscribed and present.
        cache: The last events of cache channels.
        histories: What was published on channels that keep a history.
        ordering: Publishes what has a place in a history, or a key.
        native, event_stream, delta: Alphavel's own protocol, for the connections of this app.
        protocols: All protocols of this app, by a name that tells each from the others.
        counts: Tells subscribers how many they are, where the settings say so.
        server: The server it belongs to.
        siblings: The other workers of the server or the fleet; None where there can be none.
    """

    def __init__(self, server: WebSocketServer, settings: AppSettings) -> None:
        self.server = server
        self.siblings: Siblings | None = None
        self.connections = ConnectionManager()
        self.native = AlphavelProtocol(self)
        self.event_stream = EventStreamProtocol(self)
        self.delta = DeltaProtocol(self)
        self._pusher = PusherProtocol(self)
        self._old_pusher = PusherProtocol(self, VERSIONS[0])
        self.protocols: dict[str, Protocol] = {
            "alphavel": self.native, "event_stream": self.event_stream, "delta": self.delta,
            "pusher": self._pusher, "old pusher": self._old_pusher,
        }  # fmt: skip
        for protocol in self.protocols.values():
            protocol.tally = server.counters.tallies[protocol.name]
        self.counts = SubscriptionCounts(self)
        self.cache = EventCache(settings.limits.cache_ttl)
        self.histories = Histories()
        self.ordering = Ordering(self)
        self.configure(settings)

    def configure(self, settings: AppSettings) -> None:
        """Take settings, at the start or anew."""
        self.settings = settings
        self.id, self.key, self.secret = str(settings.id), settings.key, settings.secret
        self.cache.ttl_s = settings.limits.cache_ttl
        self.origins = OriginRules(settings.allowed_origins) if settings.allowed_origins else None

    @property
    def max_channel_name_length(self) -> int:
        """Characters that a name of a channel here may have, whichever protocol it is joined with."""
        return max(self.settings.limits.channel_name_length, self.server.settings.options.max_channel_name_length)

    def pusher(self, version: int) -> PusherProtocol:
        """Return the Pusher protocol of a version, for the connections of this app; those of 6 and 7 get the same frames."""
        return self._old_pusher if version == VERSIONS[0] else self._pusher

    # Publishing

    def publish(
        self,
        message: Message,
        channels: Iterable[str] = (),
        users: Iterable[str] = (),
        everybody: bool = False,
        excluded: frozenset[str] = NOBODY,
    ) -> int:
        """See `Broadcaster.publish`. Raises NotRunningError, and ValueError for what cannot be a channel's name."""
        server, audience = self.server, (tuple(channels), tuple(users), everybody, excluded)
        if server.relay.sends_only:
            return server.relay.send(self, message, *audience)
        return server.reactor.call(self._publish, message, *audience)

    def fan_out(self, message: Any, subscribers: Audience, channel: Channel | None, excluded: frozenset[str] = NOBODY) -> int:
        """Queue what stands in a batch like a message; return for how many connections. In the reactor's thread only."""
        self.server.reactor.publish(message, subscribers, channel, excluded)
        return len(subscribers) - sum(1 for socket_id in excluded if socket_id in subscribers)

    def _publish(
        self, message: Message, channels: tuple[str, ...], users: tuple[str, ...], everybody: bool, excluded: frozenset[str]
    ) -> int:
        if self.server.relay.successor is not None:  # while another thread was waiting for this one
            return self.server.relay.send(self, message, channels, users, everybody, excluded)
        if (self.histories.keeps or message.delivery is not None) and self.ordering.concerns(message, channels):
            return self.ordering.publish(message, channels, users, everybody, excluded)
        return self.publish_now(message, channels, users, everybody, excluded)

    def publish_now(
        self, message: Message, channels: tuple[str, ...], users: tuple[str, ...], everybody: bool, excluded: frozenset[str]
    ) -> int:
        """Deliver a message about which nothing is to be decided, here and on the other workers."""
        queued = self.deliver(message, channels, users, everybody, excluded)
        self.server.relay.push(self, message, channels, users, everybody, excluded)
        return queued

    def deliver(
        self, message: Message, channels: Iterable[str], users: Iterable[str], everybody: bool, excluded: frozenset[str]
    ) -> int:
        """Queue a message for the connections of this process, and return for how many. In the reactor's thread only."""
        queued = 0
        for name in channels:
            channel = self.connections.channels.get(name)
            if channel is not None:
                event = message if channel.chain is None else channel.chain.link(message, message, channel, excluded)
                queued += self.fan_out(event, channel.subscribers, channel, excluded)
            else:
                user_id = user_of(name)
                if user_id is not None:
                    queued += self._push_to_user(message, user_id, excluded)
                    continue
                self.check_channel_name(name)
            if is_cached(name):
                self.cache.put(name, message)
        for user_id in users:
            queued += self._push_to_user(message, user_id, excluded)
        if everybody:
            queued += self.fan_out(message, self.connections.connections, None, excluded)
        self.server.counters.messages_out += queued
        return queued

    def _push_to_user(self, message: Message, user_id: str, excluded: frozenset[str]) -> int:
        theirs = self.connections.users.get(user_id)
        return 0 if theirs is None else self.fan_out(ToUser(message, user_id), theirs, None, excluded)

    def check_channel_name(self, name: str) -> None:
        """Raise ValueError for what cannot be a channel's name, or stand for a user."""
        problem = None if user_of(name) is not None else name_error(name, self.max_channel_name_length)
        if problem is not None:
            raise ValueError(f"Cannot push to the channel {name!r}. {problem}")

    def requesting_socket_id(self) -> str | None:
        """See `Broadcaster`."""
        return self.server.requesting_socket_id()

    # Questions

    def get_presence(self, channel: str) -> list[dict[str, Any]]:
        """Members of a presence channel: `[{"id": "123", "connected_at": 1732291200.5, "info": {...}}]`."""
        return self.connections.roster(channel)

    def get_channels(self) -> list[str]:
        """Names of the channels somebody is subscribed to."""
        return self.connections.names()

    def get_channel_stats(self, channel: str) -> dict[str, Any]:
        """`{"name": "chat.room.1", "subscribers": 2, "type": "public"}`."""
        return self.connections.stats_of(channel)

    def history(self, channel: str, limit: int = 100, since: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """See `resuming.read`."""
        return resuming.read(self, channel, limit, since)

    def info(self, channel: str, wanted: Iterable[str]) -> dict[str, Any]:
        """
        Return attributes of a channel, as Pusher's HTTP API names them.

        Args:
            channel: Its name.
            wanted: Out of `user_count` (presence channels), `subscription_count`, `cache` (cache channels: `{"data", "ttl"}`,
                or None where nothing is kept). What the channel cannot give is left out.
        """
        attributes: dict[str, Any] = {}
        for name in wanted:
            if name == "subscription_count":
                attributes[name] = self.connections.count(channel)
            elif name == "user_count" and channel.startswith("presence-"):
                attributes[name] = len(self.connections.member_ids(channel))
            elif name == "cache" and is_cached(channel):
                event = self.cache.get(channel)
                attributes[name] = event and {"data": event.text, "ttl": int(self.cache.time_left(channel))}
        return attributes

    # What happens

    def client_event(self, sender: Connection, name: str, message: Message) -> None:
        """Pass an event of a client on to the others on a channel, on all workers; the caller has checked that it may."""
        channel, socket_id = self.connections.channels.get(name), sender.socket_id
        member = channel.member_of.get(socket_id) if channel and channel.member_of else None
        user_id = member.id if member else None
        if not self.histories.keeps or not self.ordering.client_event(name, message, user_id, socket_id):
            self.deliver_client_event(name, message, user_id, socket_id)
            self.server.relay.client_event(self, name, message, user_id, socket_id)
        if self.server.listeners:
            user = {} if user_id is None else {"user_id": user_id}
            payload = {"channel": name, "event": message.event, "data": message.text, "socket_id": socket_id}
            self.emit("client_event", **payload, **user)

    def deliver_client_event(self, name: str, message: Message, user_id: str | None, socket_id: str) -> None:
        """Queue a client's event for the others on a channel in this process; `user_id`: who that is, with presence."""
        channel = self.connections.channels.get(name)
        if channel is not None:
            event, sender = FromClient(message, user_id), frozenset((socket_id,))
            self.server.counters.messages_out += self.fan_out(event, channel.subscribers, channel, sender)

    def emit(self, what: str, **payload: Any) -> None:
        """Tell the listeners, see `Listener`. Costs nothing where there are none."""
        for listener in self.server.listeners:
            listener(self, what, payload)

    def reauthorize(self, pattern: str) -> int:
        """See `Reauthorization.reauthorize`."""
        return self.server.reauthorization.reauthorize(self, pattern)

    def terminate_user(self, user_id: str, code: int = 4009, reason: str = "terminated by the application") -> int:
        """
        Close all connections of a user who has signed in or came with a token, on all workers; return how many they were
        on this one.
        """
        self.server.relay.terminate(self, user_id, code, reason)
        return self.close_user(user_id, code, reason)

    def close_user(self, user_id: str, code: int, reason: str) -> int:
        """Close a user's connections of this process; return how many they were."""
        theirs = list(self.connections.users.get(user_id, {}).values())
        for connection in theirs:
            connection.close(code, reason)
        return len(theirs)


class Apps:
    """
    The apps of one server.

    Attributes:
        default: The first one. It stays the same object for the life of the server.
    """

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server
        self.default = App(server, AppSettings())
        self._by_id: dict[str, App] = {self.default.id: self.default}
        self._by_key: dict[str, App] = {}

    def __iter__(self) -> Iterator[App]:
        return iter(list(self._by_id.values()))

    def get(self, app_id: str | int) -> App | None:
        """Return the app with an id, None where there is none."""
        return self._by_id.get(str(app_id))

    def with_key(self, key: str) -> App | None:
        """Return the app with a key, None where there is none."""
        return self._by_key.get(key)

    @property
    def any_key(self) -> bool:
        """Whether Pusher clients can connect at all."""
        return bool(self._by_key)

    def check(self, settings: WebSocketSettings, several: bool = False) -> None:
        """
        Check that apps can be taken from settings.

        Args:
            settings: The settings.
            several: Whether this is about to be one of several workers.

        Raises:
            ConfigurationError: One lacks its id, key or secret, two share one, the first changes while the server runs, or a
                history is larger than what a client may have waiting.
        """
        several = several or settings.options.workers > 1 or self._server.siblings is not None
        many = several and settings.broadcasting.driver == "memory"
        for pattern, channel in settings.channels.items():
            if many and channel.history.size:
                raise ConfigurationError(
                    "expected 0: of several workers Redis keeps the histories; set broadcasting.driver to redis.",
                    key=f"channels.{pattern}.history.size",
                )
            if 2 * channel.history.max_bytes > settings.options.max_outbox:
                raise ConfigurationError(
                    "expected at most half of options.max_outbox: who comes back is given a history at once, and is closed "
                    "where more than that waits for it.",
                    key=f"channels.{pattern}.history.max_bytes",
                )
        seen: set[tuple[str, str]] = set()
        for index, app in enumerate(settings.apps):
            OriginRules(app.allowed_origins)
            for name in ("id", "key", "secret"):
                if not str(getattr(app, name)):
                    raise ConfigurationError("is missing: an app has an id, a key and a secret.", key=f"apps[{index}].{name}")
            if not app.key.isascii() or not app.key.replace("-", "").replace("_", "").isalnum():
                raise ConfigurationError("expected letters, digits, - and _.", key=f"apps[{index}].key")
            for name in ("id", "key"):
                if (name, str(getattr(app, name))) in seen:
                    raise ConfigurationError("another app has the same.", key=f"apps[{index}].{name}")
                seen.add((name, str(getattr(app, name))))
        first = str(settings.apps[0].id) if settings.apps else ""
        if self._server.is_running and first != self.default.id:
            raise ConfigurationError("the first app cannot become another one while the server runs; restart it.", key="apps")

    def configure(self, settings: WebSocketSettings) -> None:
        """
        Take apps from settings that `check` has passed. Clients of an app that is gone are closed with 4003, and of one that is
        not enabled any more those of Pusher's.
        """
        before, self._by_id, self._by_key = self._by_id, {}, {}
        for index, given in enumerate(settings.apps or (AppSettings(),)):
            app = self.default if index == 0 else before.get(str(given.id)) or App(self._server, given)
            app.configure(given)
            app.histories.configure(settings.channels, settings.options.max_history)
            app.connections.rules = app.histories.channels
            trace_publish(app, settings.tracing.enabled)
            app.ordering.keys.window_s = settings.broadcasting.idempotency_window
            if self._server.siblings is not None and app.siblings is None:
                self._server.siblings.adopt(app)
            self._by_id[app.id] = app
            if app.key:
                self._by_key[app.key] = app
        for app in before.values():
            gone = app not in self._by_id.values()
            if gone or not app.settings.enabled:
                for connection in list(app.connections.connections.values()):
                    if gone or connection.protocol.name == "pusher":
                        connection.close(4003, "the app is gone" if gone else "the app is disabled")
