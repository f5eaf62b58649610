"""Connections, then messages for a while, and what became of them."""

from __future__ import annotations

import os
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gevent
import orjson
from gevent.pool import Pool

from alphavel.websocket.bench.client import BenchError, Client, Target

Progress = Callable[[int], None]
"""Told of each step: so many more are done."""

_AT_ONCE = 64  # handshakes on their way at the same time
_TICK_S = 0.005
_STEP_S = 0.1
_LAST_ANSWERS_S = 2.0
_PARTS = (0.5, 0.9, 0.99, 0.999)


@dataclass
class Result:
    """
    What was measured. Times in seconds.

    Attributes:
        connected, failed, lost: Connections that were made, could not be made, and ended before the end.
        reasons: Why, and how often.
        connecting: How long it took to make them.
        sent: Messages: pings, or pushes.
        expected, received: Answers, or deliveries to clients.
        skipped: Pings that were not sent because the one before was not answered yet, or pushes that others held up.
        lasted: How long messages were sent.
        latencies: Of each that was received.
        client_load: Share of a processor core that this program took.
    """

    connected: int = 0
    failed: int = 0
    lost: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    connecting: float = 0.0
    sent: int = 0
    expected: int = 0
    received: int = 0
    skipped: int = 0
    lasted: float = 0.0
    latencies: array[float] = field(default_factory=lambda: array("d"))
    client_load: float = 0.0

    def percentiles(self) -> dict[str, float]:
        """Latencies in seconds by name: `p50`, `p90`, `p99`, `p99.9`, `max`; empty where nothing was received."""
        if not self.latencies:
            return {}
        ordered = sorted(self.latencies)
        found = {f"p{part * 100:g}": ordered[min(len(ordered) - 1, int(part * len(ordered)))] for part in _PARTS}
        return {**found, "max": ordered[-1]}

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        names = (
            "connected",
            "failed",
            "lost",
            "connecting",
            "sent",
            "expected",
            "received",
            "skipped",
            "lasted",
            "client_load",
        )
        rate = self.received / self.lasted if self.lasted else 0.0
        figures = {name: getattr(self, name) for name in names}
        return {**figures, "received_per_second": rate, "latency": self.percentiles(), "reasons": dict(self.reasons)}


class Load:
    """The clients of one run."""

    def __init__(self, target: Target, sources: Sequence[str] = ()) -> None:
        self.result = Result()
        self._target = target
        self._sources = sources
        self._clients: list[Client] = []
        self._subscribed = 0
        self._event = f"alphavel-bench-{os.urandom(4).hex()}"  # others may measure on this channel at the same time
        self._cpu = time.process_time()

    def connect(self, many: int, per_second: float, progress: Progress) -> None:
        """
        Make connections. Where the first cannot be made no other is tried: what is wrong with it is known at once.

        Args:
            many: How many.
            per_second: At most so many a second.
            progress: Told of each.
        """
        began, tls, pool = time.perf_counter(), self._target.tls(), Pool(_AT_ONCE)

        def one(number: int) -> None:
            source = self._sources[number % len(self._sources)] if self._sources else None
            client = Client(self._target, self._heard, source)
            try:
                client.connect(tls)
            except BenchError as error:
                self.result.failed += 1
                self.result.reasons[str(error)[:200]] += 1
            else:
                self.result.connected += 1
                self._clients.append(client)
            progress(1)

        one(0)
        for number in range(1, many if self._clients else 1):
            gevent.sleep(max(0.0, began + number / per_second - time.perf_counter()))
            pool.spawn(one, number)  # waits where too many are on their way
        pool.join()
        self.result.connecting = time.perf_counter() - began

    def subscribe(self, channel: str, timeout: float) -> None:
        """Put all on a channel. Raises BenchError where not all are on it in time."""
        for client in self._clients:
            client.subscribe(channel)
        deadline = time.perf_counter() + timeout
        while self._subscribed < len(self._clients):
            if time.perf_counter() > deadline:
                raise BenchError(f"{len(self._clients) - self._subscribed} clients could not subscribe to {channel}.")
            gevent.sleep(_TICK_S)

    def pings(self, per_second: float, seconds: float, progress: Progress) -> None:
        """Have the clients send pings, one after the other, and wait for the answers."""
        turn = 0

        def ping() -> None:
            nonlocal turn
            client = self._clients[turn % len(self._clients)]
            turn += 1
            if client.ended:
                return
            if client.sent_at is not None:
                self.result.skipped += 1
                return
            self.result.sent += 1
            self.result.expected += 1
            client.ping(time.perf_counter())

        self._run(ping, per_second, seconds, progress)

    def pushes(self, push: Callable[[str, Any], Any], size: int, per_second: float, seconds: float, progress: Progress) -> None:
        """
        Have events pushed, and see when they arrive at the clients.

        Args:
            push: Called with an event's name and data, in greenlets of its own.
            size: Characters of the data.
            per_second, seconds: How often, and for how long.
            progress: Told of each tenth of a second.
        """
        pool, filling = Pool(_AT_ONCE), "x" * size

        def one() -> None:
            try:
                push(self._event, {"at": time.perf_counter(), "filling": filling})
            except Exception as error:  # noqa: BLE001 (whatever it is, it is a result)
                self.result.reasons[f"push: {str(error)[:200]}"] += 1
                return
            self.result.sent += 1
            self.result.expected += len(self._clients)

        def begin() -> None:
            if pool.full():
                self.result.skipped += 1
            else:
                pool.spawn(one)

        self._run(begin, per_second, seconds, progress)
        pool.join(timeout=_LAST_ANSWERS_S)

    def _run(self, act: Callable[[], None], per_second: float, seconds: float, progress: Progress) -> None:
        began, done, steps = time.perf_counter(), 0, 0
        while (elapsed := time.perf_counter() - began) < seconds and not all(client.ended for client in self._clients):
            due = int(elapsed * per_second)
            while done < due:
                act()
                done += 1
            while steps < int(elapsed / _STEP_S):
                progress(1)
                steps += 1
            gevent.sleep(_TICK_S)
        self.result.lasted = time.perf_counter() - began
        deadline = time.perf_counter() + _LAST_ANSWERS_S
        while self.result.received < self.result.expected and time.perf_counter() < deadline:
            gevent.sleep(_TICK_S)

    def finish(self) -> Result:
        """Close all connections and return what was measured."""
        self.result.client_load = (time.process_time() - self._cpu) / max(self.result.lasted + self.result.connecting, 1e-3)
        for client in self._clients:
            if client.ended:
                self.result.lost += 1
                self.result.reasons[client.ended[:200]] += 1
            client.close()
        return self.result

    def _heard(self, client: Client, name: str, data: Any) -> None:
        if name in ("pong", "pusher:pong") and client.sent_at is not None:
            self._measured(client.sent_at)
            client.sent_at = None
        elif name == self._event:
            content = orjson.loads(data) if isinstance(data, str) else data  # Pusher's data is JSON in a text
            self._measured(float(content["at"]))
        elif name in ("subscribed", "pusher_internal:subscription_succeeded"):
            self._subscribed += 1

    def _measured(self, since: float) -> None:
        self.result.received += 1
        self.result.latencies.append(time.perf_counter() - since)
