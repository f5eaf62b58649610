"""
Histories of a fleet on Redis (see `bus.journal`), as a node has them: those of the channels that somebody here is on, always as
far as the last message that was delivered here.

A message of such a channel goes to Redis first, which numbers and keeps it, and then to the nodes, this one included: each
delivers by number. One that comes before its turn waits for those between, and where they do not come they are read from Redis.
While Redis is away such messages wait, within bounds; without numbers nobody could tell what comes first.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple

import gevent
import orjson
import redis
from gevent.event import Event

from alphavel.websocket.bus.envelope import EnvelopeError, MalformedError, write
from alphavel.websocket.bus.journal import META_S, Entry, Journal, Loaded, Place
from alphavel.websocket.channels import History, Kept, Position, is_cached
from alphavel.websocket.channels.positions import EPOCH_HEX
from alphavel.websocket.later import log_later
from alphavel.websocket.logs import get_logger
from alphavel.websocket.protocols import Message
from alphavel.websocket.protocols.messages import Delivery, FromClient

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.bus.redis import RedisBus
    from alphavel.websocket.server import WebSocketServer
    from alphavel.websocket.settings import RedisSettings

logger = get_logger("alphavel.websocket.bus")

_RETRY_S = 0.2
_GAP_S = 0.2  # how long messages between are waited for before they are read
_MAX_EARLY = 10_000


class _Item(NamedTuple):
    """Something that waits for Redis: a message for one channel with a history, or for others (`audience`) with a key."""

    message_id: str
    app: App
    message: Message
    channel: str | None
    content: dict[str, Any]
    audience: tuple[Any, ...]
    key: str | None


class SharedHistories:
    """
    Attributes:
        dropped: Messages that were given up: too many waited.
        queued_bytes: How much waits.
    """

    def __init__(self, server: WebSocketServer, bus: RedisBus, settings: RedisSettings) -> None:
        """
        Args:
            server: Whose apps they are.
            bus: Carries what was numbered.
            settings: Where Redis is.
        """
        self.dropped = 0
        self.queued_bytes = 0
        self._server = server
        self._bus = bus
        self._settings = settings
        self._journal = Journal(bus.client(), settings, bus.name)
        self._queue: deque[_Item] = deque()
        self._wake, self._empty = Event(), Event()
        self._empty.set()
        self._early: dict[tuple[str, str], dict[int, Entry]] = {}
        self._filling: set[tuple[str, str]] = set()
        self._learning: Counter[tuple[str, str]] = Counter()  # how many read a history to join, of which there is none here yet
        self._ids = f"{secrets.token_hex(6)}-"
        self._count = 0
        self._is_over = False
        self._greenlet: gevent.Greenlet | None = None
        server.relay.handle("kept", self._told)
        for app in server.apps:
            self.adopt(app)

    def adopt(self, app: App) -> None:
        """Have an app's histories be those of the fleet."""
        name = f"{self._settings.prefix}{app.id}".encode()
        app.histories.share(hashlib.blake2s(name, digest_size=EPOCH_HEX // 2).hexdigest())
        app.ordering.shared = self

    def start(self) -> None:
        """Begin to publish."""
        self._greenlet = gevent.spawn(self._publish_all)

    def stop(self, timeout: float) -> None:
        """Publish what waits, for so many seconds at most."""
        self._empty.wait(timeout)
        self._is_over = True
        self._wake.set()

    # Publishing. Does not switch.

    def publish(
        self, app: App, message: Message, kept: list[str], user: tuple[str | None] | None, *audience: Any, key: str | None
    ) -> None:
        """
        Queue a message.

        Args:
            app: The app.
            message: The message.
            kept: Its channels that keep a history.
            user: Of a client's event, who that is, which may be nobody; None for one of the application.
            audience: Its other channels, users, whether it is for everybody, and whom it is not for.
            key: Its idempotency key.
        """
        channels, users, everybody, excluded = audience
        for name in kept:
            content: dict[str, Any] = {"message": message.as_content(), "except": sorted(excluded)}
            if user is not None:
                content["user"] = user[0]
            self._put(app, message, name, content, (), key)
            key = None if key is None else f"{key}/{name}"
        if channels or users or everybody:
            self._put(app, message, None, {}, audience, key)

    def _put(
        self,
        app: App,
        message: Message,
        channel: str | None,
        content: dict[str, Any],
        audience: tuple[Any, ...],
        key: str | None,
    ) -> None:
        if self.queued_bytes + message.size > self._settings.max_queue:
            log_later(logger, logging.ERROR, "Messages of channels with a history are lost: too many wait for Redis")
            self.dropped += 1
            return
        self._count += 1
        self._queue.append(_Item(f"{self._ids}{self._count}", app, message, channel, content, audience, key))
        self.queued_bytes += message.size
        self._empty.clear()
        self._wake.set()

    # Publishing, in a greenlet

    def _publish_all(self) -> None:
        again = False
        while True:
            while self._queue:
                try:
                    self._publish_one(self._queue[0], again)
                except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                    again = True
                    log_later(logger, logging.WARNING, "Messages of channels with a history wait for Redis: %s", error)
                    gevent.sleep(_RETRY_S)
                    if self._is_over:
                        return
                    continue
                except redis.RedisError as error:
                    log_later(logger, logging.ERROR, "Redis refuses a message of a channel with a history: %s", error)
                    self.dropped += 1
                    self._give_back(self._queue[0])
                except Exception:  # whatever it is, the next message must go out
                    logger.exception("A message of a channel with a history cannot be published")
                    self.dropped += 1
                again = False
                self.queued_bytes -= self._queue.popleft().message.size
            self._empty.set()
            self._wake.clear()
            if self._is_over:
                return
            self._wake.wait()

    def _give_back(self, item: _Item) -> None:
        """Let who tries again be heard."""
        if item.key is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                self._journal.give_back(item.app.id, item.key, item.message_id)

    def _publish_one(self, item: _Item, again: bool) -> None:
        app = item.app
        if item.key is not None and not self._journal.use(app.id, item.key, item.message_id, app.ordering.keys.window_s):
            self._server.counters.deduplicated += 1
            return
        if item.channel is None:
            channels, users, everybody, excluded = item.audience
            app.publish_now(item.message, channels, users, everybody, excluded)
            return
        rules = app.histories.rules(item.channel)
        if rules is None:  # it has been switched off meanwhile
            app.publish_now(item.message, (item.channel,), (), False, frozenset(item.content["except"]))
            return
        sealed = self._journal.seal(item.content)
        place = self._journal.append(app.id, item.channel, rules, sealed, item.message_id, again, app.histories.number)
        written = write("kept", {"app": app.id, "channel": item.channel, "place": list(place), **item.content})
        for route in self._bus.routes(app.id, (item.channel,), (), False):
            self._bus.publish(written, route.to)
        self._came(app, item.channel, Entry(place, orjson.loads(orjson.dumps(item.content))))

    # Coming in

    def _told(self, content: dict[str, Any]) -> None:
        app, channel, place = self._server.apps.get(str(content.get("app"))), content.get("channel"), content.get("place")
        if not isinstance(channel, str) or not isinstance(place, list) or len(place) != 3:
            raise MalformedError("Expected a message with its channel and place.")
        entry = Entry(Place(str(place[0]), int(place[1]), int(place[2])), content)
        if app is not None:
            _event(entry)  # says what is wrong with it, before it can hold up others
            self._came(app, channel, entry)

    def _came(self, app: App, channel: str, entry: Entry) -> None:
        """Deliver a message when its turn has come; nothing where nobody here is, or is about to be, on the channel."""
        history, place = app.histories.get(channel) or self._begun(app, channel, entry), entry.place
        if history is None:
            return
        position = history.position
        if place.epoch == position.epoch and place.serial <= position.serial:
            return  # it has come before
        if place.epoch == position.epoch and place.serial == position.serial + 1:
            self._deliver(app, history, entry)
            self._deliver_following(app, history)
            return
        self._hold(app, channel, entry)
        self._fill_later(app, channel, _GAP_S if place.epoch == position.epoch else 0.0)

    def _begun(self, app: App, channel: str, entry: Entry) -> History | None:
        """A message has come for a channel without a history here: return one that begins with it, where somebody is on it."""
        if channel not in app.connections.channels:
            if self._learning[app.id, channel]:
                self._hold(app, channel, entry)
            if is_cached(channel):
                _cache(app, channel, _event(entry)[0])
            return None
        # They joined while Redis was away, or before the channel was to keep a history.
        place = entry.place
        history = app.histories.replace(channel, Position(place.epoch, place.serial - 1))
        if history is not None:
            history.lost_number = place.number - 1
            return history
        event, excluded, _ = _event(entry)  # other nodes keep a history already, or still
        subscribers = app.connections.channels[channel]
        app.server.counters.messages_out += app.fan_out(event, subscribers.subscribers, subscribers, excluded)
        _cache(app, channel, event)
        return None

    def _hold(self, app: App, channel: str, entry: Entry) -> None:
        early = self._early.setdefault((app.id, channel), {})
        if len(early) < _MAX_EARLY:
            early[entry.place.serial] = entry

    def _deliver(self, app: App, history: History, entry: Entry, now: int = 0) -> None:
        kept = _keep(history, entry, now)
        app.server.counters.messages_out += app.ordering.deliver_kept(history.channel, kept)
        _cache(app, history.channel, kept.message)

    def _deliver_following(self, app: App, history: History) -> None:
        """Deliver those whose turn has come by now."""
        early, position = self._early.get((app.id, history.channel)), history.position
        while early and (following := early.get(position.serial + 1)) is not None and following.place.epoch == position.epoch:
            del early[position.serial + 1]
            self._deliver(app, history, following)
            position = history.position

    def _fill_later(self, app: App, channel: str, after_s: float) -> None:
        if (app.id, channel) not in self._filling:
            self._filling.add((app.id, channel))
            gevent.spawn_later(after_s, self._fill, app, channel)

    def _fill(self, app: App, channel: str) -> None:
        """Read what should have come by now."""
        self._filling.discard((app.id, channel))
        if self._learning[app.id, channel]:
            self._fill_later(app, channel, _GAP_S)
            return
        history, early = app.histories.get(channel), self._early.get((app.id, channel))
        if history is None or not early:
            self._early.pop((app.id, channel), None)
            return
        position = history.position
        if all(entry.place.epoch == position.epoch and serial <= position.serial for serial, entry in early.items()):
            del self._early[app.id, channel]
            return
        try:
            self._read_on(app, history)
        except (redis.RedisError, OSError, EnvelopeError) as error:
            log_later(logger, logging.WARNING, "The history of a channel cannot be read: %s", error)
            self._fill_later(app, channel, _RETRY_S)

    def _read_on(self, app: App, history: History) -> None:
        """Deliver what Redis has and this node has not. Blocks the calling greenlet."""
        channel = history.channel
        known = self._early.pop((app.id, channel), {})  # is among what is read; what comes meanwhile may not be
        try:
            loaded = self._load(app, channel, history.position.serial)
            if loaded.epoch != history.position.epoch:
                loaded = self._load(app, channel, 0)
        except BaseException:
            self._early[app.id, channel] = known | self._early.get((app.id, channel), {})
            raise
        if app.histories.get(channel) is not history:
            return
        seen = 0
        if loaded.entries and loaded.epoch != history.position.epoch:
            seen = _seen(history.position, loaded)
            history.begin(Position(loaded.epoch, loaded.entries[0].place.serial - 1))
        history.before = loaded.before
        for entry in loaded.entries:
            if entry.place.serial > history.position.serial:
                if entry.place.serial > history.position.serial + 1:
                    history.skip_to(entry.place.serial - 1)
                if entry.place.serial <= seen:
                    _keep(history, entry, loaded.number)
                else:
                    self._deliver(app, history, entry, loaded.number)
        self._deliver_following(app, history)

    # Who joins

    def knows(self, app: App, channel: str, position: Position | None) -> bool:
        """Whether the history is here as far as a subscriber needs it, so that nothing has to be read."""
        if app.histories.rules(channel) is None:
            return True
        history = app.histories.get(channel)
        if history is None or channel not in app.connections.channels:
            return False
        return position is None or position.epoch != history.position.epoch or position.serial <= history.position.serial

    def learn(self, app: App, channel: str, position: Position | None) -> None:
        """
        Read a channel's history, for somebody who is about to join. Blocks the calling greenlet. Where Redis cannot be reached,
        there is none, and whoever joins is not told a position.
        """
        self._learning[app.id, channel] += 1  # what comes meanwhile may not be among what is read
        try:
            while not self.knows(app, channel, position):
                history = app.histories.get(channel)
                if history is not None and channel in app.connections.channels:
                    self._read_on(app, history)
                    return
                loaded = self._load(app, channel, 0)
                entered = app.histories.get(channel)
                if entered is not None and entered is not history and _is_as_far(entered.position, loaded):
                    return  # somebody else has read more
                if entered is None or channel not in app.connections.channels:  # or who is on it had to be given what came
                    self._enter(app, channel, loaded)
                    return
        except (redis.RedisError, OSError, EnvelopeError) as error:
            log_later(logger, logging.WARNING, "The history of a channel cannot be read: %s", error)
            if channel not in app.connections.channels:
                app.histories.forget(channel)
        finally:
            self._learning[app.id, channel] -= 1
            if not self._learning[app.id, channel]:
                del self._learning[app.id, channel]
                if (app.id, channel) in self._early:
                    self._fill_later(app, channel, _GAP_S)

    def read(self, app: App, channel: str) -> History | None:
        """
        Return a channel's history for somebody who only reads it, None where it keeps none. Blocks the calling greenlet.

        Raises:
            redis.RedisError, OSError: Redis cannot be reached.
        """
        if app.histories.rules(channel) is None:
            return None
        if not self.knows(app, channel, None):
            loaded = self._load(app, channel, 0)
            return app.histories.aside(channel, lambda history: _fill(history, loaded))
        return app.histories.get(channel)

    def _load(self, app: App, channel: str, after: int) -> Loaded:
        return self._journal.load(app.id, channel, after)

    def _enter(self, app: App, channel: str, loaded: Loaded) -> None:
        history = app.histories.replace(channel, Position(loaded.epoch, loaded.serial))
        app.histories.number = max(app.histories.number, loaded.number)
        if history is not None:
            _fill(history, loaded)
            self._deliver_following(app, history)


def _is_as_far(position: Position, loaded: Loaded) -> bool:
    return position.epoch == loaded.epoch and position.serial >= loaded.serial


def _seen(position: Position, loaded: Loaded) -> int:
    """Return up to where those who are at a position have seen a history that has another epoch."""
    before = loaded.before
    return min(position.serial, before.serial) if before is not None and before.epoch == position.epoch else 0


def _cache(app: App, channel: str, event: Message | FromClient) -> None:
    if is_cached(channel) and isinstance(event, Message):
        app.cache.put(channel, event)


def _fill(history: History, loaded: Loaded) -> None:
    first = loaded.entries[0].place if loaded.entries else None
    ttl_us = int(history.rules.ttl * 1e6)
    history.begin(Position(loaded.epoch, loaded.serial if first is None else first.serial - 1))
    # Of what is gone nothing is known but that it is older than what is kept, or than messages are kept.
    history.lost_number = (loaded.last or loaded.number - ttl_us) if first is None else first.number - 1
    if first is not None and first.serial == 1:  # whatever was before, its meta had gone
        history.lost_number = first.number - int(META_S * 1e6)
    for entry in loaded.entries:
        if entry.place.serial > history.position.serial + 1:
            history.skip_to(entry.place.serial - 1)
        _keep(history, entry, loaded.number)
    history.position = Position(loaded.epoch, loaded.serial)
    history.before = loaded.before


def _keep(history: History, entry: Entry, now: int) -> Kept:
    """Keep a message; `now`: Redis' time when it was read there, 0: it has just been published."""
    event, excluded, ttl = _event(entry)
    age = max(0.0, (now - entry.place.number) / 1e6)  # Redis' clock may have been set since
    return history.receive(event, excluded, ttl, entry.place.number, min(age, history.rules.ttl / 2))


def _event(entry: Entry) -> tuple[Message | FromClient, frozenset[str], float | None]:
    content = entry.content
    excluded = content.get("except", [])
    if not isinstance(excluded, list):
        raise MalformedError("Expected a list of those whom a message is not for.")
    try:
        message = Message.of_content(content.get("message"))
    except (TypeError, ValueError) as error:
        raise MalformedError(f"Expected a message: {error}") from None
    delivery = message.delivery or Delivery()
    event: Message | FromClient = FromClient(message, content["user"]) if "user" in content else message
    return event, frozenset(map(str, excluded)), delivery.ttl
