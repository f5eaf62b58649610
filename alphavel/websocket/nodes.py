"""
The nodes of a fleet on the Redis bus: `bus.membership` with messages, a clock and turns.

What this node has to say goes out once for each turn of the loop, and no more than a hundred times a second; what the others
say is entered in order, in a greenlet of its own, so that pushes do not wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from alphavel.websocket import clock
from alphavel.websocket.bus.contract import ALL_KEPT_S
from alphavel.websocket.bus.envelope import write
from alphavel.websocket.bus.facts import Fact
from alphavel.websocket.bus.membership import BEATS_A_LEASE, Membership
from alphavel.websocket.lease import LeaseLeader
from alphavel.websocket.siblings import YIELD_EVERY, Siblings

if TYPE_CHECKING:
    from alphavel.websocket.bus.contract import Listener
    from alphavel.websocket.bus.redis import RedisBus
    from alphavel.websocket.relay import Relay
    from alphavel.websocket.server import WebSocketServer
    from alphavel.websocket.settings import RedisSettings

_FLUSH_S = 0.01
_MEET_S = 5.0
_QUIET_S = 0.25
_PATIENCE_S = 6.0  # how much later than this node others may find the bus again: they pause between their attempts


class Nodes:
    """
    This node among the others; see `siblings.FactBus`.

    Attributes:
        membership: Who they are.
    """

    def __init__(self, relay: Relay, bus: RedisBus, listener: Listener, settings: RedisSettings) -> None:
        """
        Args:
            relay: Carries messages.
            bus: What it carries them over.
            listener: Is told what the others say.
            settings: How long a lease is.
        """
        self._relay = relay
        self._bus = bus
        self._tick_s = settings.lease / BEATS_A_LEASE
        self._turns: deque[Callable[[], None]] = deque()
        self.leader = LeaseLeader(bus.client(), f"{settings.prefix}leader", bus.name, settings.lease, self._may_lead)
        self.membership = Membership(
            bus.name,
            _InTurn(listener, self._enter),
            self._send,
            lambda: self.leader.leads,
            self._tick_s,
            settings.keep,
            _PATIENCE_S,
        )
        self._wake, self._met, self._has_turns = Event(), Event(), Event()
        self._went_down: float | None = None
        self._meeting: gevent.Greenlet | None = None
        self._has_stopped = False
        self._greenlets: list[gevent.Greenlet] = []
        for kind in self.membership.kinds:
            relay.handle(f"node-{kind}", self._heard)
        bus.on_echo.append(self.membership.echo)
        bus.on_up.append(self._up)
        bus.on_down.append(self._down)

    @property
    def workers(self) -> list[str]:
        """See `siblings.FactBus`. Which of them are of one machine is not known."""
        return []

    # Going out

    def tell(self, fact: Fact, value: Any) -> None:
        """See `siblings.FactBus`."""
        self.membership.tell(fact, value)
        if fact.kind == "leader":
            self.membership.beat()  # before they are told: nobody takes the lead from a node that says it has it
        self._wake.set()

    def _send(self, to: str | None, kind: str, content: dict[str, Any]) -> None:
        # What is lost is told again when the next beat shows that it is missing.
        keys = None if to is None else (self._bus.keys.node(to),)
        self._bus.publish(write(f"node-{kind}", content), keys, lasting=kind == "bye")

    def _flush_forever(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._bus.is_up:  # else it waits, and the last of several changes of one thing counts
                self.membership.flush()
            gevent.sleep(_FLUSH_S)

    def _tick_forever(self) -> None:
        while True:
            gevent.sleep(self._tick_s)
            self.membership.tick()

    # Coming in

    def _heard(self, content: dict[str, Any]) -> None:
        if self._has_stopped:
            return
        self.membership.heard(content["kind"].removeprefix("node-"), content)
        if self.membership.is_due:
            self._wake.set()

    def _enter(self, turn: Callable[[], None], is_short: bool) -> None:
        if is_short and not self._turns:
            turn()  # so that who has come is known before what is pushed next
            return
        self._turns.append(turn)
        self._has_turns.set()

    def _enter_forever(self) -> None:
        while True:
            self._has_turns.wait()
            self._has_turns.clear()
            while self._turns:
                self._relay.guarded(self._turns[0])
                self._turns.popleft()

    # Life

    def start(self) -> None:
        """Meet the others; waits for them, but not for long."""
        self._greenlets = [gevent.spawn(work) for work in (self._flush_forever, self._tick_forever, self._enter_forever)]
        gevent.sleep(0)  # where Redis is there, the bus is about to say so
        if self._meeting is not None:
            self._met.wait(_MEET_S)

    def stop(self) -> None:
        """Say that this node leaves."""
        self.membership.bye()
        self._has_stopped = True
        self._end_meeting()
        gevent.killall(self._greenlets)

    def _up(self) -> None:
        away_s = ALL_KEPT_S if self._went_down is None else clock.now() - self._went_down
        self.membership.back(away_s)
        self._wake.set()
        self._end_meeting()
        self._meeting = gevent.spawn(self._meet)

    def _down(self) -> None:
        self._went_down = clock.now()
        self._end_meeting()
        self.membership.is_settled = False

    def _end_meeting(self) -> None:
        if self._meeting is not None:
            self._meeting.kill(block=False)

    def _meet(self) -> None:
        started = clock.now()
        while clock.now() < started + _MEET_S:
            gevent.sleep(_FLUSH_S)
            has_met = self.membership.has_heard_all and self.membership.has_caught_up and not self._turns
            if has_met and clock.now() > started + _QUIET_S:
                break
        self.membership.is_settled = True
        self.leader.ask()
        self._met.set()

    def _may_lead(self) -> bool:
        membership = self.membership
        return membership.is_hearing and (self.leader.leads or (membership.is_settled and not membership.somebody_leads))


class _InTurn:
    """Tells a listener one thing after the other; see `bus.contract.Listener`."""

    def __init__(self, listener: Listener, enter: Callable[[Callable[[], None], bool], None]) -> None:
        self._listener = listener
        self._enter = enter

    def all_facts(self) -> dict[Fact, Any]:
        return self._listener.all_facts()

    def kept_events(self, within_s: float) -> Iterable[dict[str, Any]]:
        return self._listener.kept_events(within_s)

    def said(self, worker: str, facts: list[tuple[Fact, Any]], are_all: bool) -> None:
        self._enter(lambda: self._listener.said(worker, facts, are_all), len(facts) < YIELD_EVERY and not are_all)

    def kept(self, event: dict[str, Any]) -> None:
        self._enter(lambda: self._listener.kept(event), True)

    def silent(self, worker: str) -> None:
        pass  # one that is silent is gone, until it is heard again

    def gone(self, worker: str) -> None:
        self._enter(lambda: self._listener.gone(worker), False)


def across_machines(server: WebSocketServer, relay: Relay, bus: RedisBus) -> tuple[Siblings, Nodes]:
    """Return the workers of a fleet, and what carries their facts. To be called before the bus starts."""
    settings = server.settings.broadcasting.redis
    siblings = Siblings(server, bus.name, f"{settings.place} {settings.prefix}")
    nodes = Nodes(relay, bus, siblings, settings)
    siblings.bus, siblings.leader = nodes, nodes.leader
    return siblings, nodes
