"""
How a push reaches the other workers of a fleet: what this one does is put on the bus, and what comes off the bus is done here.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket.bus import Bus, EnvelopeError, MalformedError
from alphavel.websocket.bus.connecting import check
from alphavel.websocket.bus.contract import Read
from alphavel.websocket.bus.envelope import write
from alphavel.websocket.bus.memory import MemoryBus
from alphavel.websocket.bus.pushes import push_content, read_push
from alphavel.websocket.logs import get_logger

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.bus.local import LocalBus
    from alphavel.websocket.handover.giving import Successor
    from alphavel.websocket.nodes import Nodes
    from alphavel.websocket.protocols import Message
    from alphavel.websocket.senders.redis import RedisCarrier
    from alphavel.websocket.server import WebSocketServer
    from alphavel.websocket.settings import BroadcastingSettings
    from alphavel.websocket.shared_histories import SharedHistories

logger = get_logger("alphavel.websocket.bus")

_COUNTED = ("push", "client_event", "terminate")


class Relay:
    """
    Between a server and the bus.

    Attributes:
        bus: What carries; the one without peers until the server starts.
        successor: The process that has, or is about to have, the clients of this one, see `handover`.
        lag: Seconds that the latest probe of another node was on its way; None before the first.
    """

    def __init__(self, server: WebSocketServer) -> None:
        self.bus: Bus = MemoryBus()
        self.lag: float | None = None
        self._local: LocalBus | None = None
        self._nodes: Nodes | None = None
        self._histories: SharedHistories | None = None
        self._server = server
        self._carrier: RedisCarrier | None = None
        self.successor: Successor | None = None
        self._kinds: dict[str, Callable[[dict[str, Any]], None]] = {
            "push": self._pushed,
            "client_event": self._sent_by_client,
            "terminate": self._terminated,
            "probe": self._probed,
            "key": self._key_used,
        }

    @property
    def sends_only(self) -> bool:
        """Whether pushes of this process go elsewhere: over Redis alone where no server runs in it, or to its successor."""
        return self.successor is not None or (not self._server.is_running and self._settings.driver == "redis")

    @property
    def _settings(self) -> BroadcastingSettings:
        return self._server.settings.broadcasting

    # Going out

    def send(self, app: App, message: Message, *audience: Any) -> int:
        """Publish from a process without a running server, see `senders.redis`, or without its clients any more."""
        if self.successor is not None:
            return self.successor.publish(app.settings, message, *audience)
        if self._carrier is None:
            from alphavel.websocket.senders.redis import RedisCarrier

            self._carrier = RedisCarrier(self._server.settings)
        return self._carrier.publish(app.settings, message, *audience)

    def push(
        self,
        app: App,
        message: Message,
        channels: tuple[str, ...],
        users: tuple[str, ...],
        everybody: bool,
        excluded: frozenset[str],
    ) -> None:
        """Have the other workers deliver a message; see `App.deliver` for the audience. In the reactor's thread only."""
        if self.bus.has_peers:
            self._server.counters.bus_published += self.bus.push(app.id, message, channels, users, everybody, excluded)

    def client_event(self, app: App, channel: str, message: Message, user_id: str | None, socket_id: str) -> None:
        """Have the other workers deliver a client's event; see `App.deliver_client_event`. In the reactor's thread only."""
        if self.bus.has_peers:
            for route in self.bus.routes(app.id, (channel,), (), False):
                content = push_content(app.id, message, (channel,), (), False, frozenset((socket_id,)))
                self._publish(write("client_event", {**content, "user": user_id}), route.to)

    def terminate(self, app: App, user_id: str, code: int, reason: str) -> None:
        """Have the other workers close a user's connections."""
        if self.bus.has_peers:
            content = {"app": app.id, "user": user_id, "code": code, "reason": reason}
            self._server.reactor.call(self._publish, write("terminate", content))

    def handle(self, kind: str, handler: Callable[[dict[str, Any]], None]) -> None:
        """
        Say who takes a kind of envelopes. Those of one node come in the order they were told in.

        Args:
            kind: Its name.
            handler: Called, in a greenlet, with the payload, whose `origin` is the node that told it; raises MalformedError for
                one that makes no sense.
        """
        self._kinds[kind] = handler

    def tell(self, kind: str, content: dict[str, Any], lasting: bool = True) -> None:
        """
        Tell all other nodes something that is not counted, see `handle` and `Bus.publish`. Returns at once. In the reactor's
        thread only.
        """
        if self.bus.has_peers:
            self.bus.publish(write(kind, content), None, lasting)

    def probe(self) -> None:
        """Have the other nodes see how long a message takes that is on its way now."""
        self.tell("probe", {"at": time.time()}, lasting=False)

    def _publish(self, written: bytes, to: Sequence[Any] | None = None) -> None:
        self.bus.publish(written, to)
        self._server.counters.bus_published += 1

    # Coming in

    def _received(self, read: Read) -> None:
        self.guarded(lambda: self._take(read()))

    def _take(self, content: dict[str, Any] | None) -> None:
        if content is None:
            return
        kind = content["kind"]
        self._kinds.get(kind, _unknown)(content)
        if kind in _COUNTED:
            self._server.counters.bus_received += 1

    def guarded(self, take: Callable[[], None]) -> None:
        """Take something from the bus; what is wrong with it is counted and logged, and harms nobody."""
        try:
            take()
        except EnvelopeError as error:
            self._server.counters.bus_refused += 1
            logger.warning("A message from the bus is refused: %s", error)
        except Exception:  # whatever it is, the next message must be heard
            self._server.counters.errors += 1
            logger.exception("A message from the bus could not be delivered")

    def _pushed(self, content: dict[str, Any]) -> None:
        app_id, message, channels, users, everybody, excluded = read_push(content)
        app = self._app(app_id)
        if app is not None:
            try:
                app.deliver(message, channels, users, everybody, excluded)
            except ValueError as error:  # a channel's name that is none here
                raise MalformedError(str(error)) from None

    def _sent_by_client(self, content: dict[str, Any]) -> None:
        app_id, message, channels, _, _, excluded = read_push(content)
        user_id = content.get("user")
        if len(channels) != 1 or len(excluded) != 1 or not (user_id is None or isinstance(user_id, str)):
            raise MalformedError("Expected a client's event with one channel, one sender and perhaps a user.")
        app = self._app(app_id)
        if app is not None:
            app.deliver_client_event(channels[0], message, user_id, *excluded)

    def _terminated(self, content: dict[str, Any]) -> None:
        app = self._app(content.get("app"))
        user_id, code, reason = content.get("user"), content.get("code"), content.get("reason")
        if not isinstance(user_id, str) or not isinstance(code, int) or not isinstance(reason, str):
            raise MalformedError("Expected user, code and reason.")
        if app is not None:
            app.close_user(user_id, code, reason)

    def _probed(self, content: dict[str, Any]) -> None:
        if not isinstance(content.get("at"), float):
            raise MalformedError("Expected a time.")
        self.lag = max(0.0, time.time() - content["at"])  # two machines' clocks differ, if only a little

    def _key_used(self, content: dict[str, Any]) -> None:
        app, key = self._app(content.get("app")), content.get("key")
        if not isinstance(key, str):
            raise MalformedError("Expected an idempotency key.")
        if app is not None:
            app.ordering.keys.use(key)

    def _app(self, app_id: Any) -> App | None:
        # A sender that was told of no apps means the first.
        return self._server.apps.get(str(app_id)) if app_id else self._server.apps.default

    # Life

    @staticmethod
    def check(settings: BroadcastingSettings) -> None:
        """
        Check that a server can reach the other workers.

        Raises:
            ConfigurationError: The driver is for processes that only send, redis-py is not installed or the URL makes no sense.
        """
        if settings.driver == "http":
            raise ConfigurationError(
                "with http this process only sends, to a server elsewhere. The server itself needs memory or redis: set it in "
                "config/websocket.yaml or with ALPHAVEL_BROADCAST_DRIVER.",
                key="broadcasting.driver",
            )
        if settings.driver == "redis":
            check(settings.redis)

    def carry(self, bus: LocalBus) -> None:
        """Use the bus among the workers of this machine."""
        self._local = bus

    def start(self) -> None:
        """Join the fleet. May block the calling greenlet for a moment."""
        if self._local is not None:
            self.bus = self._local
            self.bus.start(self._received)
        elif self._settings.driver == "redis":
            self._join_fleet()

    def _join_fleet(self) -> None:
        from alphavel.websocket.bus.redis import RedisBus
        from alphavel.websocket.nodes import across_machines
        from alphavel.websocket.shared_histories import SharedHistories

        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"
        self.bus = bus = RedisBus(self._settings.redis, name)
        self._server.siblings, self._nodes = across_machines(self._server, self, bus)
        self._histories = SharedHistories(self._server, bus, self._settings.redis)
        bus.start(self._received)
        self._nodes.start()
        self._histories.start()

    def stop(self, timeout: float) -> None:
        """Publish what waits, for so many seconds at most, and leave the fleet."""
        if self._histories is not None:
            self._histories.stop(timeout)
        if self._nodes is not None:
            self._nodes.stop()
        if self._server.siblings is not None:
            self._server.siblings.leave()
        bus, self.bus = self.bus, MemoryBus()
        bus.stop(timeout)
        self._nodes = self._server.siblings = self._local = self._histories = None


def _unknown(content: dict[str, Any]) -> None:
    raise MalformedError(f"There is no kind {content['kind']!r:.40} here; a newer version may know it.")
