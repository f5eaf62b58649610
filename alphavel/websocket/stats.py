"""What the server counts, and the picture it gives of itself."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from alphavel.websocket.server import WebSocketServer

COUNTERS = (
    "messages_in",
    "messages_out",
    "bytes_in",
    "bytes_out",
    "handshakes",
    "handshakes_refused",
    "slow_consumers",
    "rate_limited",
    "errors",
)


class Counters:
    """
    Running totals since the start.

    Attributes:
        messages_in: Messages received, pings and pongs not counted.
        messages_out: Messages queued for connections, each connection counted.
        bytes_in, bytes_out: Bytes read from and written to sockets after their handshakes.
        handshakes, handshakes_refused: WebSocket handshakes.
        slow_consumers: Connections closed because they did not read.
        rate_limited: Messages dropped because too many came in a second.
        errors: Exceptions that left a handler or an authorizer.
    """

    __slots__ = COUNTERS

    def __init__(self) -> None:
        for name in COUNTERS:
            setattr(self, name, 0)

    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    handshakes: int
    handshakes_refused: int
    slow_consumers: int
    rate_limited: int
    errors: int

    def as_dict(self) -> dict[str, int]:
        """All totals by name."""
        return {name: getattr(self, name) for name in COUNTERS}


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

    Keys: `pid`, `version`, `state` (`ready` or `draining`), `listening`, `uptime` (seconds), `connections`, `users`,
    `channels` (list of `{"name", "subscribers", "type"}`), `memory` (resident bytes), `messages_in_per_second`,
    `messages_out_per_second`, and the totals of `Counters`.
    """
    from alphavel.websocket import __version__

    manager = server.connections
    per_second_in, per_second_out = server.rates.per_second()
    return {
        "pid": os.getpid(),
        "version": __version__,
        "state": "draining" if server.is_draining else "ready",
        "listening": server.listening,
        "driver": server.settings.broadcasting.driver,
        "uptime": time.monotonic() - server.started_at,
        "connections": len(manager.connections),
        "max_connections": server.settings.options.max_connections,
        "users": len(manager.users),
        "channels": [channel.stats() for channel in list(manager.channels.values())],
        "memory": psutil.Process().memory_info().rss,
        "messages_in_per_second": per_second_in,
        "messages_out_per_second": per_second_out,
        **server.counters.as_dict(),
    }
