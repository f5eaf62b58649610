"""What the server counts, and the picture it gives of itself."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import psutil

from alphavel.websocket.files import room_for_connections

if TYPE_CHECKING:
    from alphavel.websocket.server import WebSocketServer

COUNTERS = (
    "messages_out",
    "bytes_in",
    "bytes_out",
    "handshakes",
    "slow_consumers",
    "rate_limited",
    "deduplicated",
    "webhooks_delivered",
    "webhooks_failed",
    "webhooks_dropped",
    "bus_published",
    "bus_received",
    "bus_refused",
    "errors",
)


class Tally:
    """
    Messages of one protocol.

    Attributes:
        messages_in: Received.
        messages_out: Queued for connections; counted where metrics are on.
    """

    __slots__ = ("messages_in", "messages_out")

    def __init__(self) -> None:
        self.messages_in = self.messages_out = 0


class Counters:
    """
    Running totals since the start.

    Attributes:
        messages_in: Messages received, pings and pongs not counted.
        messages_out: Messages queued for connections, each connection counted.
        tallies: Messages by the name of their protocol.
        bytes_in, bytes_out: Bytes read from and written to sockets after their handshakes.
        handshakes: WebSocket handshakes that succeeded.
        refusals: Those that were refused, by a word that says why.
        auth_failures: Tokens, signatures and subscriptions that were refused, by a word that says why.
        slow_consumers: Connections closed because they did not read.
        rate_limited: Messages dropped because too many came in a second.
        deduplicated: Messages dropped because their idempotency key had been used.
        webhooks_delivered, webhooks_dropped: Events that a receiver was told of, and those it never will be.
        webhooks_failed: Requests to receivers that failed; most are made again.
        bus_published, bus_received: Messages to and from other workers and senders.
        bus_refused: Messages from the bus that were malformed or not signed with our secret.
        errors: Exceptions that left a handler or an authorizer.
    """

    __slots__ = (*COUNTERS, "auth_failures", "refusals", "tallies")

    def __init__(self) -> None:
        for name in COUNTERS:
            setattr(self, name, 0)
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self.refusals: Counter[str] = Counter()
        self.auth_failures: Counter[str] = Counter()

    messages_out: int
    bytes_in: int
    bytes_out: int
    handshakes: int
    slow_consumers: int
    rate_limited: int
    deduplicated: int
    webhooks_delivered: int
    webhooks_failed: int
    webhooks_dropped: int
    bus_published: int
    bus_received: int
    bus_refused: int
    errors: int

    def as_dict(self) -> dict[str, int]:
        """All totals by name."""
        totals = {"messages_in": self.messages_in, "handshakes_refused": self.handshakes_refused}
        totals["auth_failures"] = self.auth_failures.total()
        return totals | {name: getattr(self, name) for name in COUNTERS}

    @property
    def handshakes_refused(self) -> int:
        """For whatever reason."""
        return self.refusals.total()

    @property
    def messages_in(self) -> int:
        """See above."""
        return sum(tally.messages_in for tally in self.tallies.values())


class Rates:
    """Messages a second over the last seconds, from totals that somebody samples once a second."""

    def __init__(self, seconds: int = 5) -> None:
        self._seconds = seconds
        self._samples: list[tuple[float, int, int]] = []

    def sample(self, counters: Counters, now: float) -> None:
        """Take a sample; `now` in seconds on a clock that never goes back."""
        self._samples.append((now, counters.messages_in, counters.messages_out))
        del self._samples[: -self._seconds - 1]

    def per_second(self) -> tuple[float, float]:
        """Messages in and out a second, 0 before the second sample."""
        if len(self._samples) < 2:
            return 0.0, 0.0
        (then, first_in, first_out), (now, last_in, last_out) = self._samples[0], self._samples[-1]
        elapsed = max(now - then, 1e-9)
        return (last_in - first_in) / elapsed, (last_out - first_out) / elapsed


def snapshot(server: WebSocketServer) -> dict[str, Any]:
    """
    Return the state of this worker, JSON-able: what `alpha websocket:stats` shows and the dashboard draws.

    Keys: `pid`, `server` (whose worker it is: those with the same one know each other's users), `version`, `state` (`ready` or
    `draining`), `listening`, `driver`, `writer`, `uptime` (seconds), `connections`, `users`, `connections_everywhere` and
    `users_everywhere` (on all workers of the server or the fleet; a user once), `channels` (list of `{"name", "subscribers",
    "type"}`, with `"app"` where apps are configured), `memory` (resident bytes), `messages_in_per_second`,
    `messages_out_per_second`, `webhooks_waiting`, `bus_up` (whether other servers are reached), `bus_dropped`, with the driver
    redis those of `RedisBus.figures`, and the totals of `Counters`.
    """
    from alphavel.websocket import __version__

    managers = [app.connections for app in server.apps]
    per_second_in, per_second_out = server.rates.per_second()
    return {
        "pid": os.getpid(),
        "server": server.siblings.server if server.siblings is not None else str(os.getpid()),
        "version": __version__,
        "state": "draining" if server.is_draining else "ready",
        "listening": server.listening,
        "driver": server.settings.broadcasting.driver,
        "writer": server.reactor.writer.name if server.is_running else "",
        "uptime": time.monotonic() - server.started_at,
        "connections": sum(len(manager.connections) for manager in managers),
        "max_connections": room_for_connections(server.settings.options.max_connections),
        "users": sum(len(manager.users) for manager in managers),
        "connections_everywhere": sum(manager.total for manager in managers),
        "users_everywhere": sum(len((manager.everywhere or manager).users) for manager in managers),
        "channels": [
            {**channel.stats(), **({"app": app.id} if app.id else {})}
            for app in server.apps
            for channel in list(app.connections.channels.values())
        ],
        "memory": psutil.Process().memory_info().rss,
        "webhooks_waiting": server.webhooks.waiting,
        "bus_up": server.relay.bus.is_up,
        "bus_dropped": server.relay.bus.dropped,
        **server.relay.bus.figures(),
        "messages_in_per_second": per_second_in,
        "messages_out_per_second": per_second_out,
        **server.counters.as_dict(),
    }
