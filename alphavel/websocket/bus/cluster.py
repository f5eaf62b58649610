"""
A Redis Cluster, with its sharded pub/sub (Redis 7): each key belongs to a slot, each slot to a shard, and only that shard's
nodes carry what is published to the key. One connection to listen to each shard, one to publish to each.

Slots move from shard to shard, and a replica takes a dead master's place. Who asks the wrong node is told so; then the cluster
is asked anew who has what.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import gevent
import redis
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from alphavel.websocket import clock
from alphavel.websocket.bus.connecting import connect, connect_to_node
from alphavel.websocket.bus.reconnecting import Reconnecting
from alphavel.websocket.bus.subscriber import Receive, Subscriber, slot_of

if TYPE_CHECKING:
    from alphavel.websocket.settings import RedisSettings

_ASK_AGAIN_S = 0.2
_TRIES = 5
_MOMENT_S = 0.01
_ELSEWHERE = (
    redis.exceptions.AskError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)  # AskError: MOVED, too


class Cluster:
    """
    See `one_server.OneServer`.

    Attributes:
        subscriber: What comes in, from all shards.
    """

    has_one_stream = False
    counts_all = False

    def __init__(
        self, settings: RedisSettings, reconnecting: Reconnecting, receive: Receive, went: Callable[[bool], None]
    ) -> None:
        """See `Subscriber`."""
        self._settings = settings
        self._client: Any = None
        self._connecting = BoundedSemaphore()
        self.subscriber = Shards(self, settings, reconnecting, receive, went)

    def start(self) -> None:
        """Begin to listen."""
        self.subscriber.start()

    def stop(self, timeout: float) -> None:
        """Listen no more, and close all connections; `reconnecting` has ended."""
        self.subscriber.stop(timeout)
        if self._client is not None:
            self._client.close()

    @staticmethod
    def stream(key: bytes) -> int:
        """Return within what messages come in the order of their numbers, see `numbering.Seen`: those of one slot."""
        return slot_of(key)

    def client(self) -> Any:
        """Return a client for other commands. It connects when it is first used; that raises redis.RedisError."""
        return _Lazily(self._connected)

    def _connected(self) -> Any:
        with self._connecting, _as_lost():
            if self._client is None:
                self._client = connect(self._settings)
            return self._client

    def look_up(self) -> None:
        """Ask the cluster who has what. Blocks the calling greenlet."""
        client = self._connected()
        with _as_lost():
            client.nodes_manager.initialize()

    def primaries(self) -> list[Any]:
        """Return the masters."""
        nodes: list[Any] = self._connected().get_primaries()
        return nodes

    def node_of(self, key: bytes) -> Any:
        """Return the master that has a key; raises redis.RedisError where none has."""
        with _as_lost():
            return self._client.nodes_manager.get_node_from_slot(slot_of(key))

    def ping(self) -> None:
        """Ask whether all masters are there. Blocks the calling greenlet."""
        client = self._connected()
        with _as_lost():
            client.ping(target_nodes=client.PRIMARIES)

    def send(self, messages: list[tuple[bytes, bytes]]) -> list[Any]:
        """See `outbox.Send`. Those for one slot are sent in order, whichever shard has it."""
        answers: list[Any] = [None] * len(messages)
        left = list(range(len(messages)))
        for _ in range(_TRIES):
            elsewhere = []
            for node, numbers in self._by_node(messages, left):
                pipeline = self._client.get_redis_connection(node).pipeline(transaction=False)
                for number in numbers:
                    pipeline.spublish(*messages[number])
                for number, result in zip(numbers, pipeline.execute(raise_on_error=False), strict=True):
                    if isinstance(result, _ELSEWHERE):
                        elsewhere.append(number)
                    else:
                        answers[number] = result
            if not elsewhere:
                return answers
            left = sorted(elsewhere)
            gevent.sleep(_ASK_AGAIN_S)
            self.look_up()
        raise redis.ConnectionError("the cluster does not say who has a slot")

    def _by_node(self, messages: list[tuple[bytes, bytes]], numbers: list[int]) -> list[tuple[Any, list[int]]]:
        self._connected()
        nodes: dict[str, tuple[Any, list[int]]] = {}
        for number in numbers:
            node = self.node_of(messages[number][0])
            nodes.setdefault(node.name, (node, []))[1].append(number)
        return list(nodes.values())


@contextlib.contextmanager
def _as_lost() -> Iterator[None]:
    """redis-py has exceptions of clusters that are no RedisErrors."""
    try:
        yield
    except redis.exceptions.RedisClusterException as error:
        raise redis.ConnectionError(str(error)) from error


class _Lazily:
    """Has what a client has that is connected when it is first asked for something."""

    def __init__(self, connected: Callable[[], Any]) -> None:
        self._connected = connected

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connected(), name)


class Shards:
    """
    A `Subscriber` of each shard, as one.

    Attributes:
        is_up: Whether all are.
        heard_at: When the one that went down was last heard.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: RedisSettings,
        reconnecting: Reconnecting,
        receive: Receive,
        went: Callable[[bool], None],
    ) -> None:
        """See `Subscriber`."""
        self.is_up = False
        self.heard_at = clock.now()
        self._cluster = cluster
        self._settings = settings
        self._reconnecting = reconnecting
        self._receive = receive
        self._went = went
        self._wanted: dict[bytes, int] = {}
        self._since: dict[bytes, float] = {}
        self._places: dict[bytes, str] = {}  # of what is wanted: name of the node that has it
        self._shards: dict[str, Subscriber] = {}
        self._bases: dict[str, bytes] = {}  # of each shard, a key of its own
        self._greenlets: list[gevent.Greenlet] = []
        self._look_up = Event()
        self._look_up.set()
        self._is_over = False

    # See `Subscriber`

    def want(self, key: bytes) -> None:
        """See `Subscriber`."""
        self._wanted[key] = self._wanted.get(key, 0) + 1
        if self._wanted[key] == 1:
            self._since[key] = clock.now()
            if self._shards:
                self._place(key)

    def unwant(self, key: bytes) -> None:
        """See `Subscriber`."""
        self._wanted[key] -= 1
        if not self._wanted[key]:
            del self._wanted[key], self._since[key]
            place = self._places.pop(key, None)
            if place in self._shards:
                self._shards[place].unwant(key)

    def hears(self, key: bytes) -> bool:
        """See `Subscriber`."""
        shard = self._shards.get(self._places.get(key, ""))
        return not self.is_up or (shard is not None and shard.hears(key))

    def wait(self, key: bytes) -> None:
        """See `Subscriber`."""
        while not self.hears(key):
            shard = self._shards.get(self._places.get(key, ""))
            if shard is not None:
                shard.wait(key)
            gevent.sleep(_MOMENT_S)  # where the key has moved, this takes a moment

    @property
    def size(self) -> int:
        """See `Subscriber`."""
        return len(self._wanted)

    def since(self, key: bytes) -> float:
        """See `Subscriber`. Whichever shard it was on."""
        return self._since.get(key, 0.0)

    # Life

    def start(self) -> None:
        """Begin to listen."""
        self._greenlets.append(gevent.spawn(self._reconnecting.keep, self._look_up_forever, "ask who has what"))

    def stop(self, timeout: float) -> None:
        """Listen no more."""
        self._is_over = True
        self._look_up.set()
        for shard in self._shards.values():
            shard.stop()
        gevent.joinall(self._greenlets, timeout)

    def _look_up_forever(self) -> None:
        while not self._is_over:
            self._look_up.wait()
            self._look_up.clear()
            try:
                self._cluster.look_up()
                self._arrange()
            except BaseException:
                self._look_up.set()
                raise
            gevent.sleep(_ASK_AGAIN_S)

    def _arrange(self) -> None:
        """Have a subscriber for each shard, and each key where it belongs."""
        masters = {node.name: node for node in self._cluster.primaries()}
        for name in [name for name in self._shards if name not in masters]:
            self._shards.pop(name).stop()
        for name, node in masters.items():
            if not self._is_over:
                self._shards[name] = self._shards.get(name) or self._listen_to(node)
                self._rebase(node)
        for key in list(self._wanted):
            place = self._places.get(key)
            if place != self._cluster.node_of(key).name:
                if place in self._shards:
                    self._shards[place].unwant(key)
                self._place(key)
        self._settle()

    def _listen_to(self, node: Any) -> Subscriber:
        # Not the client of it that the cluster has: that connects anew, without a word, when the cluster is asked who has what.
        client = connect_to_node(self._settings, node.host, node.port)

        def run() -> None:
            try:
                shard.run()
            except (redis.RedisError, OSError):
                self._look_up.set()  # a slot may have moved, or another node taken the place of this one
                if self._is_there(node.name, shard):
                    raise
            finally:
                client.close()

        shard = Subscriber(
            client.pubsub,
            self._receive,
            lambda is_up: self._shard_went(shard),
            self._settings.timeout,
            self._reconnecting.reach,
            is_sharded=True,
        )
        is_there = functools.partial(self._is_there, node.name, shard)
        self._greenlets.append(gevent.spawn(self._reconnecting.keep, run, f"listen at {node.name}", is_there))
        return shard

    def _is_there(self, name: str, shard: Subscriber) -> bool:
        return self._shards.get(name) is shard

    def _rebase(self, node: Any) -> None:
        """See to it that there is something to listen to: a connection that is down is to be known before it is needed."""
        base, shard = self._bases.get(node.name), self._shards[node.name]
        if base is not None and self._cluster.node_of(base).name == node.name and shard.since(base):
            return
        if base is not None and shard.since(base):
            shard.unwant(base)
        names = (f"{self._settings.prefix}shard:{number}".encode() for number in itertools.count())
        base = self._bases[node.name] = next(name for name in names if self._cluster.node_of(name).name == node.name)
        shard.want(base)

    def _place(self, key: bytes) -> None:
        try:
            place = self._places[key] = self._cluster.node_of(key).name
        except redis.RedisError:  # nobody has it at the moment
            self._look_up.set()
        else:
            if place in self._shards:
                self._shards[place].want(key)

    def _shard_went(self, shard: Subscriber) -> None:
        if not shard.is_up:
            self.heard_at = shard.heard_at
        self._settle()

    def _settle(self) -> None:
        is_up = bool(self._shards) and all(shard.is_up for shard in self._shards.values())
        if is_up != self.is_up:
            self.is_up = is_up
            self._went(is_up)
