"""`broadcasting.driver: redis`: pushes go over the bus to all servers of the fleet at once."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from alphavel.websocket.bus.connecting import check, connect
from alphavel.websocket.bus.envelope import Envelopes
from alphavel.websocket.bus.journal import Journal, Place
from alphavel.websocket.bus.keys import Keys, routes
from alphavel.websocket.bus.pushes import push_content
from alphavel.websocket.channels import Histories
from alphavel.websocket.errors import BroadcastError

if TYPE_CHECKING:
    from alphavel.websocket.protocols import Message
    from alphavel.websocket.settings import AppSettings, WebSocketSettings

T = TypeVar("T")


class RedisCarrier:
    """
    See `contract.Carrier`. `publish` returns how many servers took the message: those with somebody whom it is for; all take
    what is for everybody and what cache channels keep. Of several channels, each server counts once for one of them.
    """

    def __init__(self, settings: WebSocketSettings) -> None:
        """
        Raises:
            ConfigurationError: redis-py is not installed, or the URL makes no sense.
        """
        redis = settings.broadcasting.redis
        check(redis)
        self._settings = redis
        self._window_s = settings.broadcasting.idempotency_window
        self._histories = Histories()
        self._histories.configure(settings.channels, 0)
        self._keys = Keys(redis.prefix)
        self._client: Any = None
        self._envelopes = Envelopes(f"sender-{os.getpid()}-{secrets.token_hex(8)}", redis.secret)

    def publish(
        self,
        app: AppSettings,
        message: Message,
        channels: Iterable[str],
        users: Iterable[str],
        everybody: bool,
        excluded: frozenset[str],
    ) -> int:
        """See `contract.Carrier`."""
        app_id, key = str(app.id), message.delivery and message.delivery.idempotency_key
        if key is None:
            return self._hand_over(app_id, message, tuple(channels), users, everybody, excluded)
        value = secrets.token_hex(12)
        if not self._attempt(lambda again: self._journal().use(app_id, key, value, self._window_s)):
            return 0
        try:
            return self._hand_over(app_id, message, tuple(channels), users, everybody, excluded)
        except BroadcastError:
            with contextlib.suppress(BroadcastError):  # who tries again is to be heard
                self._attempt(lambda again: self._journal().give_back(app_id, key, value))
            raise

    def _hand_over(
        self,
        app_id: str,
        message: Message,
        names: tuple[str, ...],
        users: Iterable[str],
        everybody: bool,
        excluded: frozenset[str],
    ) -> int:
        rules = self._histories.rules
        others = tuple(name for name in names if rules(name) is None)
        parts = [
            (route.to[0], push_content(app_id, message, route.channels, route.users, route.everybody, excluded))
            for route in routes(self._keys, app_id, others, tuple(users), everybody)
        ]
        kept = [self._keep(app_id, name, message, excluded) for name in names if rules(name) is not None]
        return max([*self._publish("push", parts), *self._publish("kept", kept)], default=0)

    def _keep(self, app_id: str, channel: str, message: Message, excluded: frozenset[str]) -> tuple[bytes, dict[str, Any]]:
        """Have Redis number and keep a message of a channel with a history; return where to tell the servers what."""
        rules = self._histories.rules(channel)
        assert rules is not None
        content = {"message": message.as_content(), "except": sorted(excluded)}
        message_id = secrets.token_hex(12)

        def append(again: bool) -> Place:
            journal = self._journal()
            return journal.append(app_id, channel, rules, journal.seal(content), message_id, again)

        place = self._attempt(append)
        return self._keys.of(app_id, channel), {"app": app_id, "channel": channel, "place": list(place), **content}

    def _journal(self) -> Journal:
        return Journal(self._connected(), self._settings, self._envelopes.origin)

    def tell(self, app: AppSettings, what: str, content: dict[str, Any]) -> None:
        """See `contract.Carrier`."""
        self._publish(what, [(self._keys.all, {"app": str(app.id), **content})])

    def _publish(self, kind: str, parts: Iterable[tuple[bytes, dict[str, Any]]]) -> list[int]:
        # With ids, so that they can be sent again: servers that have them already drop them.
        sealed = [(key, self._envelopes.seal(kind, {"id": secrets.token_hex(8), **content})) for key, content in parts]
        return self._attempt(lambda again: self._send(sealed)) if sealed else []

    def _attempt(self, what: Callable[[bool], T]) -> T:
        """Do something, and once more where the connection was lost; raise BroadcastError where it cannot be done."""
        from redis import RedisError
        from redis.exceptions import ConnectionError as LostError

        try:
            try:
                return what(False)
            except LostError:  # the connection may be one kept from the last time, and Redis restarted since
                return what(True)
        except (RedisError, OSError) as error:
            raise BroadcastError(f"Redis at {self._settings.place} cannot be reached: {error}") from error

    def _connected(self) -> Any:
        if self._client is None:
            self._client = connect(self._settings)
        return self._client

    def _send(self, envelopes: list[tuple[bytes, bytes]]) -> list[int]:
        client = self._connected()
        if self._settings.cluster:
            return [int(client.spublish(key, envelope)) for key, envelope in envelopes]
        pipeline = client.pipeline(transaction=False)
        for key, envelope in envelopes:
            pipeline.publish(key, envelope)
        return [int(count) for count in pipeline.execute()]

    def ask(self, app: AppSettings, path: str, parameters: dict[str, str]) -> dict[str, Any]:
        """Raise BroadcastError: the bus carries no questions."""
        raise BroadcastError(
            "This process only sends, with broadcasting.driver redis. To ask, set broadcasting.driver to http."
        )
