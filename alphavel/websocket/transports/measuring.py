"""
A reactor that measures itself, for servers whose metrics are on. The others run `Reactor`, and pay for nothing of this.

Latencies are sampled, one push at a time: while one is being followed the others pass unmeasured, so a burst costs no more
than a single push.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from alphavel.foundation.metrics import Histogram
from alphavel.websocket.transports.reactor import Reactor

if TYPE_CHECKING:
    from alphavel.websocket.channels import Channel
    from alphavel.websocket.channels.audience import Audience
    from alphavel.websocket.protocols import Message
    from alphavel.websocket.transports.batch import Batch

LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LAG_EVERY_S = 0.25


class MeasuringReactor(Reactor):
    """
    See `Reactor`. Besides, it counts what is sent by protocol.

    Attributes:
        latencies: Seconds from a push to the moment when the system had taken its frames, or they waited for a slow reader.
        lags: Seconds by which the loop came late to a timer: how long everybody waited for somebody's code.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.latencies = Histogram(LATENCIES)
        self.lags = Histogram(LAGS)
        self._followed: tuple[Batch, float] | None = None
        self._expected = time.perf_counter() + _LAG_EVERY_S
        self._lag_timer = self.loop.timer(_LAG_EVERY_S, _LAG_EVERY_S)
        self._lag_timer.start(self._look_at_the_clock, update=True)

    def publish(self, message: Message, subscribers: Audience, channel: Channel | None, excluded: frozenset[str]) -> None:
        """See `Reactor.publish`."""
        began = 0.0 if self._followed else time.perf_counter()
        super().publish(message, subscribers, channel, excluded)
        if began:
            if self._batches:
                self._followed = self._batches[-1], began
            else:  # there was so much that it has been written at once
                self.latencies.observe(time.perf_counter() - began)
        for protocol, count in subscribers.row().protocols.items():
            protocol.tally.messages_out += count
        for socket_id in excluded:
            left_out = subscribers.get(socket_id)
            if left_out is not None:
                left_out.protocol.tally.messages_out -= 1

    def flush(self, within: float | None) -> None:
        """See `Reactor.flush`."""
        super().flush(within)
        if self._followed and self._followed[0] not in self._batches:
            self.latencies.observe(time.perf_counter() - self._followed[1])
            self._followed = None

    def stop(self) -> None:
        """See `Reactor.stop`."""
        self._lag_timer.stop()
        super().stop()

    def _look_at_the_clock(self) -> None:
        now = time.perf_counter()
        self.lags.observe(max(0.0, now - self._expected))
        self._expected = now + _LAG_EVERY_S
