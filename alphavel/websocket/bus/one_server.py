"""One Redis server, or the one that Sentinels name: one connection to listen, one to publish."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
import redis

from alphavel.websocket.bus.connecting import connect
from alphavel.websocket.bus.reconnecting import Reconnecting
from alphavel.websocket.bus.subscriber import Receive, Subscriber

if TYPE_CHECKING:
    from alphavel.websocket.settings import RedisSettings


class OneServer:
    """
    Attributes:
        subscriber: What comes in.
        has_one_stream: Whether all messages of a node come in the order of their numbers.
        counts_all: Whether all are counted who take a message. One server of a cluster counts only those who listen on itself.
    """

    has_one_stream = True

    def __init__(
        self, settings: RedisSettings, reconnecting: Reconnecting, receive: Receive, went: Callable[[bool], None]
    ) -> None:
        """See `Subscriber`."""
        self.counts_all = False  # not known yet
        self._reconnecting = reconnecting
        self._client = connect(settings)
        self._publishing: Any = None  # the connection for that, taken from the client's pool until it breaks
        self.subscriber = Subscriber(self._client.pubsub, receive, went, settings.timeout, reconnecting.reach)

    def start(self) -> None:
        """Begin to listen."""
        self._listening = gevent.spawn(self._reconnecting.keep, self.subscriber.run, "listen")

    def stop(self, timeout: float) -> None:
        """Listen no more, and close all connections; `reconnecting` has ended."""
        self.subscriber.stop()
        self._listening.join(timeout)
        self._client.close()

    @staticmethod
    def stream(key: bytes) -> int:
        """Return within what messages come in the order of their numbers, see `numbering.Seen`: all of a node."""
        return 0

    def client(self) -> Any:
        """Return the client, for other commands."""
        return self._client

    def ping(self) -> None:
        """Ask whether it takes what is published. Blocks the calling greenlet."""
        hello, pong = self._ask([("HELLO",), ("PING",)])
        if isinstance(pong, Exception):
            raise pong
        self.counts_all = not _is_of_cluster(hello)

    def send(self, messages: list[tuple[bytes, bytes]]) -> list[Any]:
        """See `outbox.Send`."""
        return self._ask([("PUBLISH", key, envelope) for key, envelope in messages])

    def tell(self, messages: list[tuple[bytes, bytes]]) -> list[Any]:
        """Like `send`, but return how many listened to each key, those who listen to patterns aside."""
        keys = [key for key, _ in messages]
        numbers, *answers = self._ask([("PUBSUB", "NUMSUB", *keys), *(("PUBLISH", *message) for message in messages)])
        if isinstance(numbers, Exception):
            return answers  # it may not be asked: those who listen to patterns are counted, too
        return [answer if isinstance(answer, Exception) else n for answer, n in zip(answers, numbers[1::2], strict=True)]

    def _ask(self, commands: list[tuple[str | bytes, ...]]) -> list[Any]:
        """
        Have Redis carry commands out, and return what it answers to each, which may be a redis.ResponseError.

        A pipeline of redis-py takes a connection from the pool and checks it each time, which costs more than one publish.
        """
        if self._publishing is None:
            self._publishing = self._client.connection_pool.get_connection()
        connection = self._publishing
        answers: list[Any] = []
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            for _ in commands:
                try:
                    answers.append(connection.read_response())
                except redis.ResponseError as error:
                    answers.append(error)
        except BaseException:
            # An answer may still be on its way; the pool's next one is connected anew, to whom Sentinels name by then.
            self._publishing = None
            connection.disconnect()
            self._client.connection_pool.release(connection)
            raise
        return answers


def _is_of_cluster(hello: Any) -> bool:
    """Whether a server has said so, in a list or, over RESP3, a map. One before Redis 6 errs, and is a single one."""
    if isinstance(hello, list):
        hello = dict(zip(hello[::2], hello[1::2], strict=False))
    return isinstance(hello, dict) and hello.get(b"mode") == b"cluster"
