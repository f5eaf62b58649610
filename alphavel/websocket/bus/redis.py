"""
The bus over Redis pub/sub, for servers on many machines.

A node listens to what is for all nodes, and to each channel and user that somebody here is on, or is; see `keys`.

What holds: a subscriber gets each message that any node publishes after the subscriber was told `subscribed`, once, and
those of one node for one channel in the order they were published. The first subscriber of a channel on a node is told when
Redis has said that the node listens to it, and whoever publishes to it knows (see `interest`); who comes later waits for
nobody. A message whose fate is unknown because a connection broke is sent again, and dropped by those who have it. What is
published while Redis is away waits, and what a node misses while its own connection is broken is told again by the nodes that
published it.

What does not: each of these has a bound, `max_queue` and `max_kept`; past it messages are lost, which is counted and logged by
the one who drops them and by the one who misses them. Processes that only send keep nothing: theirs are lost for nodes that
Redis does not reach. Among messages for different channels no order is promised.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from alphavel.websocket import clock
from alphavel.websocket.bus.connecting import check
from alphavel.websocket.bus.contract import Receive, Route
from alphavel.websocket.bus.envelope import Envelopes, MalformedError, write
from alphavel.websocket.bus.facts import Fact
from alphavel.websocket.bus.interest import Interest
from alphavel.websocket.bus.keys import Keys, routes
from alphavel.websocket.bus.numbering import Numbers, Seen
from alphavel.websocket.bus.one_server import OneServer
from alphavel.websocket.bus.outbox import Outbox, Replay
from alphavel.websocket.bus.pushes import push_by_routes
from alphavel.websocket.bus.reconnecting import MAX_PAUSE_S, Reconnecting
from alphavel.websocket.bus.replaying import MARGIN_S, Message, Missing, read_late, read_replay
from alphavel.websocket.channels import user_channel
from alphavel.websocket.later import log_later
from alphavel.websocket.logs import get_logger

if TYPE_CHECKING:
    from alphavel.websocket import protocols
    from alphavel.websocket.bus.cluster import Cluster
    from alphavel.websocket.settings import RedisSettings

logger = get_logger("alphavel.websocket.bus")

_GOODBYE_S = 1.0


class RedisBus:
    """
    See `contract.Bus`.

    Attributes:
        name: Of this node: the origin of its envelopes.
        on_up: Called, in a greenlet, each time this node is on the bus, the first time or again: all that others publish from
            now on comes in.
        on_down: Called, in a greenlet, each time the connection is lost.
        on_echo: Called, in a greenlet, each time something that this node published has come back: Redis carries both ways.
        on_missed: Called, in a greenlet, with the name of a node, when something that it told all nodes is lost for this one.
    """

    has_peers = True

    def __init__(self, settings: RedisSettings, name: str) -> None:
        """
        Args:
            settings: Where Redis is, and how it is used.
            name: Of this node, never used before.
        """
        check(settings)
        self.name = name
        self.on_up: list[Callable[[], None]] = []
        self.on_down: list[Callable[[], None]] = []
        self.on_echo: list[Callable[[], None]] = []
        self.on_missed: list[Callable[[str], None]] = []
        self.keys = Keys(settings.prefix)
        self._settings = settings
        self._envelopes = Envelopes(name, settings.secret)
        self._outbox = Outbox(self._envelopes, settings.max_queue, settings.max_kept)
        self._reconnecting = Reconnecting(settings.place)
        self._servers = self._make_servers()
        self._subscriber = self._servers.subscriber
        self._interest = self._make_interest()
        self._seen = Seen()
        self._missing = Missing(self._deliver)
        self._receive: Receive = lambda read: None
        self._first_up = Event()
        self._reconnects = -1
        self._is_asked = False  # whether it has asked what it missed
        self._is_heard = False  # whether Redis carries what this node says, since then
        for key in (self.keys.all, self.keys.node(name)):
            self._subscriber.want(key)

    def _make_servers(self) -> OneServer | Cluster:
        if not self._settings.cluster:
            return OneServer(self._settings, self._reconnecting, self._came, self._went)
        from alphavel.websocket.bus.cluster import Cluster

        return Cluster(self._settings, self._reconnecting, self._came, self._went)

    def _make_interest(self) -> Interest | None:
        servers = self._servers
        if not isinstance(servers, OneServer):  # the shards of a cluster do nothing one after the other
            return None
        interest = Interest(self.name, self.keys, servers.subscriber, self._outbox)
        servers.subscriber.on_listening = interest.announce
        servers.subscriber.on_unwanted = interest.shared  # or another node's listening could be taken for this one's
        self._outbox.tell = servers.tell
        return interest

    # What is carried to this node

    def want(self, fact: Fact, is_so: bool) -> None:
        """See `contract.Bus`."""
        if fact.kind not in ("channel", "user"):
            return
        key = self.keys.of(fact.app, fact.name if fact.kind == "channel" else user_channel(fact.user))
        if key != self.keys.all:
            (self._subscriber.want if is_so else self._subscriber.unwant)(key)

    def hears(self, app_id: str, channel: str) -> bool:
        """See `contract.Bus`."""
        return self._subscriber.hears(self.keys.of(app_id, channel))

    def wait(self, app_id: str, channel: str) -> None:
        """See `contract.Bus`."""
        key = self.keys.of(app_id, channel)
        self._subscriber.want(key)
        try:
            self._subscriber.wait(key)
        finally:
            self._subscriber.unwant(key)  # kept a moment longer: the caller is about to want it itself

    # Publishing

    def routes(self, app_id: str, channels: Sequence[str], users: Sequence[str], everybody: bool) -> Sequence[Route]:
        """See `contract.Bus`. It is not known who has whom: to each key, whoever listens to it."""
        return routes(self.keys, app_id, channels, users, everybody)

    def push(
        self,
        app_id: str,
        message: protocols.Message,
        channels: tuple[str, ...],
        users: tuple[str, ...],
        everybody: bool,
        excluded: frozenset[str],
    ) -> int:
        """See `contract.Bus`."""
        if len(channels) == 1 and not (users or everybody or excluded):
            channel = channels[0]
            if self._outbox.keep(self.keys.of(app_id, channel), app_id, channel, message):
                return 1
        return push_by_routes(self, app_id, message, channels, users, everybody, excluded)

    def publish(self, written: bytes, to: Sequence[Any] | None = None, lasting: bool = True) -> None:
        """See `contract.Bus`."""
        outbox = self._outbox
        if not lasting:
            written = b'%b,"sent":%d}' % (written[:-1], outbox.sent)
        for key in (self.keys.all,) if to is None else to:
            (outbox.put if lasting else outbox.note)(key, written)

    def drain(self, below: int, timeout: float | None) -> bool:
        """Return at once: a Redis that is away must not stop those who publish to clients of this node."""
        return True

    # Life

    @property
    def is_up(self) -> bool:
        """See `contract.Bus`."""
        return self._subscriber.is_up and self._outbox.is_up

    @property
    def buffered_bytes(self) -> int:
        """See `contract.Bus`."""
        return self._outbox.queued_bytes

    @property
    def dropped(self) -> int:
        """See `contract.Bus`."""
        return self._outbox.dropped

    def client(self) -> Any:
        """Return a redis-py client for other commands; they block the calling greenlet."""
        return self._servers.client()

    def figures(self) -> dict[str, Any]:
        """See `contract.Bus`."""
        return {
            "bus_duplicates": self._seen.duplicates,
            "bus_missed": self._seen.missed,
            "bus_reconnects": max(0, self._reconnects),
            "bus_keys": self._subscriber.size,
            "bus_unneeded": self._outbox.unneeded,
        }

    def start(self, receive: Receive) -> None:
        """See `contract.Bus`. Waits for Redis, but not for long: a server starts while it is away, too."""
        self._receive = receive
        self._servers.start()
        self._publishing = gevent.spawn(self._reconnecting.keep, self._publish, "publish")
        if self._interest is not None:
            self._proving = gevent.spawn(self._interest.keep, 2 * self._settings.timeout)
        self._first_up.wait(self._settings.timeout)

    def stop(self, timeout: float) -> None:
        """See `contract.Bus`."""
        self._outbox.finish(timeout)
        # Nothing is killed: what connects at the moment would leave a socket behind. It ends by itself, soon or a little later.
        self._reconnecting.end()
        if self._interest is not None:
            self._proving.kill(block=False)
        self._publishing.join(_GOODBYE_S)
        self._servers.stop(_GOODBYE_S)

    def _publish(self) -> None:
        if self._interest is not None:
            self._interest.forget()  # it may be another Redis
            self._ping()
            if self._subscriber.is_up and self._is_asked:
                self._ask_all()  # where it listens nobody may have heard what it asked and announced
        self._outbox.run(self._ping, self._send)

    def _ping(self) -> None:
        self._reconnecting.reach(self._servers.ping)

    def _send(self, messages: list[tuple[bytes, bytes]]) -> Sequence[int | Exception]:
        if self._interest is None or not self._servers.counts_all:
            return self._servers.send(messages)
        keys = [key for key, _ in messages]
        watched = self._interest.watched(keys)
        counts = self._servers.send(messages)
        self._interest.taken(watched, keys, counts)
        return counts

    def _went(self, is_up: bool) -> None:
        if is_up:
            self._reconnects += 1
            log_later(logger, logging.INFO, "Redis at %s is reached", self._settings.place)
            self._ask_all()
            self._first_up.set()
        else:
            self._missing.lost(self._subscriber.heard_at)
            if self._interest is not None:
                self._interest.went_down()
        self._outbox.check()
        gevent.spawn(self._call_all, self.on_up if is_up else self.on_down)

    def _call_all(self, callbacks: list[Callable[..., None]], *arguments: Any) -> None:
        for callback in callbacks:
            try:
                callback(*arguments)
            except Exception:  # whatever it is, the others are to be called
                logger.exception("Something that was told of the bus failed")

    # What comes

    def _came(self, key: bytes, since: float, message: bytes) -> None:
        self._receive(functools.partial(self._read, key, since, message))

    def _read(self, key: bytes, since: float, message: bytes) -> dict[str, Any] | None:
        content = self._envelopes.open(message)
        if content is None:
            self._is_heard = True
            for heard in self.on_echo:
                heard()
            if self._interest is not None:
                self._interest.echoed(key, message)
            return None
        if content["kind"] in ("listens", "heard"):
            if self._interest is not None:
                (self._interest.listens if content["kind"] == "listens" else self._interest.heard)(key, content)
            return None
        if content["kind"] == "ask":
            self._asked(content)
            return None
        if content["kind"] == "replay":
            self._told_again(content)
            return None
        if content["kind"] == "late":
            self._told_late(content)
            return None
        numbers = content.get("numbers")
        if numbers is None:  # of a process that only sends, or one of those that may be lost
            self._has_all(content["origin"], content.get("sent"))
            message_id = content.pop("id", None)
            return content if message_id is None or self._seen.is_first(str(message_id)) else None
        del content["numbers"]
        came = Message(_numbers(numbers), key, content)
        origin = content["origin"]
        if not self._missing.awaits(origin):
            self._meet(origin, is_new=False)  # one that could not be asked publishes again
        if self._missing.awaits(origin):
            self._missing.hold(came)
            return None
        return content if self._is_new(came, since) else None

    def _is_new(self, message: Message, since: float) -> bool:
        origin, numbers = message.content["origin"], message.numbers
        if not self._seen.is_new(origin, self._servers.stream(message.key), numbers):
            return False
        missed = self._seen.gap(origin, message.key, since, numbers.place)
        if missed:
            log_later(logger, logging.ERROR, "%d messages of the node %s did not come", missed, origin)
            if message.key == self.keys.all:
                gevent.spawn(self._call_all, self.on_missed, origin)
        return True

    def _has_all(self, origin: str, number: Any) -> None:
        if type(number) is int and self._servers.has_one_stream and self._missing.has_answered(origin):
            self._seen.has_all(origin, 0, number)

    def _deliver(self, message: Message) -> None:
        since = self._subscriber.since(message.key)
        if since and self._is_new(message, since) and self._seen.is_first(_id_of(message)):
            self._receive(lambda: message.content)

    # What was missed

    def _ask_all(self) -> None:
        self._missing.begin()
        self._is_asked = self._is_heard = False
        self._ask(self.keys.all)
        self._wait_for_answers()

    def _ask(self, key: bytes) -> None:
        self._outbox.note(key, lambda: write("ask", self._question(key)))

    def _question(self, key: bytes) -> dict[str, Any]:
        """As it is when it is sent, which may take a while."""
        seen = self._seen.last(0) if self._servers.has_one_stream else {}
        missing, is_again = self._missing, key != self.keys.all
        if not is_again:
            self._is_asked = True
        return {"session": missing.session, "away": missing.away_s, "seen": seen, "again": is_again}

    def _asked(self, content: dict[str, Any]) -> None:
        origin, away, seen, session = content["origin"], content.get("away"), content.get("seen"), content.get("session")
        number = seen.get(self.name) if isinstance(seen, dict) else -1
        if not isinstance(away, (int, float)) or type(session) is not int or not (number is None or type(number) is int):
            raise MalformedError("Expected a session, for how long the node was away, and what it has seen.")
        since = clock.now() - away - self._settings.timeout - MARGIN_S
        if self._interest is not None:
            self._interest.forget()  # it listens to what it listened to, without a word
        self._outbox.replay(Replay(self.keys.node(origin), session, number, since))
        if not content.get("again"):
            self._meet(origin, session == 1)

    def _meet(self, origin: str, is_new: bool) -> None:
        if self._missing.met(origin, is_new):
            self._ask(self.keys.node(origin))
            gevent.spawn_later(self._patience_s, self._missing.late_over, origin)

    def _told_again(self, content: dict[str, Any]) -> None:
        session, messages, is_last = read_replay(content)
        self._missing.told(content["origin"], session, self._meant_for_this(messages), is_last)

    def _told_late(self, content: dict[str, Any]) -> None:
        for message in self._meant_for_this([read_late(content)]):
            if self._missing.awaits(content["origin"]):  # something before it is yet to come
                self._missing.hold(message)
            elif self._seen.is_first(_id_of(message)):  # not by its number: later ones for other keys have come
                self._receive(functools.partial(dict, message.content))

    def _meant_for_this(self, messages: list[tuple[float, Message]]) -> list[Message]:
        now = clock.now()
        return [message for age, message in messages if 0 < self._subscriber.since(message.key) <= now - age]

    @property
    def _patience_s(self) -> float:
        """So long it may take a node whose connection is dead to find out, and to make another one."""
        return 3 * self._settings.timeout + MAX_PAUSE_S

    def _wait_for_answers(self) -> None:
        self._missing.is_moving = False
        gevent.spawn_later(self._patience_s, self._asked_long_ago, self._missing.session)

    def _asked_long_ago(self, session: int) -> None:
        if session != self._missing.session or not self._subscriber.is_up:
            return
        if self._missing.is_moving or not self._is_heard:
            self._wait_for_answers()
        else:
            self._missing.over()


def _numbers(value: Any) -> Numbers:
    if not isinstance(value, list) or len(value) != 3 or not all(type(number) is int and number > 0 for number in value):
        raise MalformedError("Expected three numbers: of the connection, of the message, and of its place.")
    return Numbers(*value)


def _id_of(message: Message) -> str:
    """What a message is known by that may be told late, and again."""
    return f"{message.content['origin']} {message.numbers.number}"
