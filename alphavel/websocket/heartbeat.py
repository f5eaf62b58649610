"""
One timer wheel for all connections: who has been silent for long is pinged, who stays silent is closed.

The wheel turns once a second and looks only at those that are due in that second. A connection costs it one entry of a
set, and receiving something costs it nothing: the transport notes the tick, and the wheel looks at the note when it
comes by.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphavel.websocket.settings import OptionsSettings
    from alphavel.websocket.transports.base import Transport

TICK_S = 1.0

IDLE = (4201, "nothing received for too long")
EXPIRED = (4009, "token expired")


class Heartbeat:
    """
    Attributes:
        tick: Seconds since the start, a whole number. All transports share the object.
    """

    def __init__(self, loop: Any) -> None:
        self.tick = 0
        self._slots: dict[int, set[Transport]] = {}
        self._check_every = self._idle_limit = 0
        self._timer = loop.timer(TICK_S, TICK_S)
        self._timer.start(self.turn)

    def configure(self, options: OptionsSettings) -> None:
        """Take the settings; those already in the wheel meet them when they are next due."""
        self._check_every = max(1, math.ceil(options.heartbeat_check_interval / TICK_S))
        self._idle_limit = max(1, math.ceil(options.heartbeat_idle_time / TICK_S))

    def watch(self, transport: Transport) -> None:
        """Begin to look after an open transport."""
        self._place(transport, self._next_check(transport))

    def schedule(self, transport: Transport, seconds: float) -> None:
        """Look at a transport in `seconds`, and not before."""
        self._place(transport, max(1, math.ceil(seconds / TICK_S)))

    def forget(self, transport: Transport) -> None:
        """Look no more."""
        slot = self._slots.get(transport.due)
        if slot is not None:
            slot.discard(transport)
            if not slot:  # a set that is empty is as large as it ever was
                del self._slots[transport.due]

    def turn(self) -> None:
        """Advance by one tick and look at those that are due."""
        self.tick += 1
        for transport in self._slots.pop(self.tick, ()):
            self._look_at(transport)

    def transports(self) -> Iterator[Transport]:
        """All transports in the wheel."""
        for slot in list(self._slots.values()):
            yield from list(slot)

    def stop(self) -> None:
        """Stop turning."""
        self._timer.stop()

    def _look_at(self, transport: Transport) -> None:
        if not transport.is_open:
            transport.abort()  # it had its time for the closing handshake
            return
        silent = self.tick - transport.seen
        user = transport.connection.user
        if user is not None and user.expires_at is not None and user.expires_at <= time.time():
            transport.close(*EXPIRED)
        elif silent >= self._idle_limit and transport.connection.protocol.is_duplex:
            transport.close(*IDLE)
        else:
            if silent >= self._check_every:
                transport.send_frame(transport.connection.protocol.ping)
            if transport.is_open:
                self._place(transport, self._next_check(transport))

    def _next_check(self, transport: Transport) -> int:
        ticks = min(self._check_every, self._idle_limit)
        user = transport.connection.user
        if user is not None and user.expires_at is not None:
            ticks = min(ticks, math.ceil((user.expires_at - time.time()) / TICK_S))
        return max(1, ticks)

    def _place(self, transport: Transport, ticks: int) -> None:
        self.forget(transport)
        transport.due = self.tick + ticks
        self._slots.setdefault(transport.due, set()).add(transport)
