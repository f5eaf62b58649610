"""
Who is in a fleet, and what the others say of themselves, over a bus that may lose what it carries: Redis pub/sub does.

Nothing is kept in Redis, so that nothing is lost or stale there. Every node numbers its changes and repeats the last number
with each beat, three in the time of a lease. Who finds a number missing, or meets a node it does not know, asks that node for
all it has to say (`catching_up`). A node that is silent for the time of a lease is gone.

Pure: no I/O and no clock, so that no clock can jump; time comes as ticks, one for each beat. A node hears its own beats, too.
While it does not, it is deaf, and nobody else's silence means anything: that is so while Redis is away, and for a process that
was stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alphavel.websocket.bus.catching_up import Asking, Telling
from alphavel.websocket.bus.contract import ALL_KEPT_S, Listener
from alphavel.websocket.bus.envelope import MalformedError
from alphavel.websocket.bus.facts import Fact, facts_content, facts_of

BEATS_A_LEASE = 3
MAX_NODES = 10_000
_CHANGES = 1000  # in one message

Send = Callable[[str | None, str, dict[str, Any]], None]
"""`send(to, kind, content)`: to the node of that name, None: to all; each node's messages come in order, if they come."""


class _Peer:
    """
    Another node.

    Attributes:
        seq: Number of its last change that is known here; None: nothing is.
        age: How many ticks it has been there.
        leads: Whether it says that it leads.
        missed: Ticks that have passed without a word of it.
        is_heard: Whether it has said anything since the last tick.
        asking: What it is being asked for.
    """

    __slots__ = ("age", "asking", "is_heard", "leads", "missed", "name", "seq")

    def __init__(self, name: str) -> None:
        self.name = name
        self.seq: int | None = None
        self.age = 0
        self.leads = False
        self.missed = 0
        self.is_heard = True
        self.asking: Asking | None = None


class Membership:
    """
    One node's part in it.

    Attributes:
        name: Of this node, never used before.
        is_settled: Whether this node has met the others, as far as they can be met, since it came or came back.
    """

    def __init__(
        self,
        name: str,
        listener: Listener,
        send: Send,
        leads: Callable[[], bool],
        tick_s: float,
        keep_s: float,
        patience_s: float,
    ) -> None:
        """
        Args:
            name: See above.
            listener: Is told what the others say.
            send: Puts a message on the bus.
            leads: Tells whether this node leads.
            tick_s: Seconds from one tick to the next.
            keep_s: Seconds until the others are forgotten by a node that hears nothing at all.
            patience_s: Seconds that others may take longer to find the bus again than this node.
        """
        self.name = name
        self.is_settled = False
        self._listener = listener
        self._send = send
        self._leads = leads
        self._tick_s = tick_s
        self._keep = max(BEATS_A_LEASE, round(keep_s / tick_s))
        self._patience = -int(-patience_s // tick_s)
        self._recent_s = (BEATS_A_LEASE + 1) * tick_s + patience_s
        self._seq = self._age = self._deaf = self._sessions = 0
        self._has_echo = self._has_answers = False
        self._lacks_s = ALL_KEPT_S  # events of cache channels of so many last seconds may have been missed
        self._changes: dict[Fact, Any] = {}
        self._peers: dict[str, _Peer] = {}
        self._tellings: dict[str, Telling] = {}
        self._handlers: dict[str, Callable[[_Peer, dict[str, Any]], None]] = {
            "beat": self._beats,
            "facts": self._changed,
            "ask": self._asks,
            "state": self._answers,
            "bye": self._leaves,
        }

    @property
    def kinds(self) -> list[str]:
        """Names of the kinds of messages."""
        return list(self._handlers)

    @property
    def nodes(self) -> list[str]:
        """Names of the others."""
        return [peer.name for peer in self._peers.values() if peer.seq is not None]

    @property
    def has_caught_up(self) -> bool:
        """Whether all that is known to be missing has come."""
        return all(peer.seq is not None and peer.asking is None for peer in self._peers.values())

    @property
    def has_heard_all(self) -> bool:
        """Whether this node hears itself, and has heard all others that it knows since the last tick."""
        return self._has_echo and all(peer.is_heard for peer in self._peers.values())

    @property
    def is_hearing(self) -> bool:
        """Whether this node has heard itself within a lease."""
        return self._deaf < BEATS_A_LEASE

    @property
    def is_due(self) -> bool:
        """Whether something waits for `flush`."""
        return bool(self._changes) or self._has_answers

    @property
    def somebody_leads(self) -> bool:
        """Whether another node says that it leads."""
        return any(peer.leads for peer in self._peers.values())

    # What this node says

    def tell(self, fact: Fact, value: Any) -> None:
        """Tell a fact about this node, with the next `flush`; None: it is not so any more."""
        self._changes.pop(fact, None)  # the order is that of the last changes
        self._changes[fact] = value

    def flush(self) -> None:
        """Send what waits."""
        changes, self._changes = facts_content(self._changes.items()), {}
        for start in range(0, len(changes), _CHANGES):
            self._seq += 1
            self._send(None, "facts", {"seq": self._seq, "facts": changes[start : start + _CHANGES]})
        if self._has_answers:
            self.beat()

    def beat(self, away_s: float | None = None) -> None:
        """Say that this node is there; `away_s`: that it is new or back after so many seconds, and wants to hear all others."""
        self._has_answers = False
        content = {"seq": self._seq, "age": self._age, "leads": self._leads()}
        self._send(None, "beat", content if away_s is None else {**content, "away": min(away_s, ALL_KEPT_S)})

    def back(self, away_s: float) -> None:
        """This node hears others for the first time, or again after so many seconds."""
        self.is_settled = self._has_echo = False
        self._lacks_s = max(self._lacks_s, away_s + 2 * self._tick_s)
        for peer in self._peers.values():
            peer.missed, peer.is_heard = -self._patience, False
        self.beat(away_s)

    def bye(self) -> None:
        """Say that this node leaves."""
        self.flush()
        self._send(None, "bye", {})

    def tick(self) -> None:
        """The time between two beats has passed."""
        self._age += 1
        if self._has_echo:
            self._deaf = 0
            if self._lacks_s == ALL_KEPT_S and self._age > 1 and all(peer.age < self._age for peer in self._peers.values()):
                self._lacks_s = 0.0  # nobody has been there for longer
            for peer in list(self._peers.values()):
                self._look_after(peer)
        else:
            self._deaf += 1
            if self._deaf >= self._keep:
                for peer in list(self._peers.values()):
                    self._drop(peer)
        for name, telling in list(self._tellings.items()):
            telling.idle += 1
            if telling.idle > BEATS_A_LEASE:
                del self._tellings[name]
        self._has_echo = False
        self.beat()

    def _look_after(self, peer: _Peer) -> None:
        peer.missed = 0 if peer.is_heard else peer.missed + 1
        peer.is_heard = False
        if peer.missed >= BEATS_A_LEASE:
            self._drop(peer)
        elif peer.asking is not None:
            if not peer.asking.is_moving:
                self._ask(peer, peer.asking.facts, peer.asking.kept_s)
            else:
                peer.asking.is_moving = False

    def _drop(self, peer: _Peer) -> None:
        del self._peers[peer.name]
        self._tellings.pop(peer.name, None)
        if peer.seq is not None:
            self._listener.gone(peer.name)

    # What the others say

    def echo(self) -> None:
        """A message of this node's own has come back."""
        self._has_echo = True

    def heard(self, kind: str, content: dict[str, Any]) -> None:
        """
        Take a message of another node.

        Args:
            kind: One of `kinds`.
            content: As it was sent; besides, `origin`: the node that sent it.

        Raises:
            MalformedError: It makes no sense.
        """
        name = content["origin"]
        peer = self._peers.get(name)
        if peer is None:
            if len(self._peers) >= MAX_NODES:
                raise MalformedError(f"There are {MAX_NODES} nodes already.")
            peer = self._peers[name] = _Peer(name)
        peer.is_heard = True
        self._handlers[kind](peer, content)

    def _beats(self, peer: _Peer, content: dict[str, Any]) -> None:
        seq, peer.age, peer.leads = _number(content, "seq"), _number(content, "age"), content.get("leads") is True
        away_s = content.get("away", 0.0)
        if not isinstance(away_s, (int, float)):
            raise MalformedError("Expected a beat with the seconds that its node was away.")
        if away_s:
            self._has_answers = True
        if (peer.seq is None or peer.seq < seq) and (peer.asking is None or not peer.asking.facts):
            self._catch_up(peer)
        elif peer.asking is None:
            # What it has kept while it was away may have reached nobody; what all others have kept while this node was away,
            # any of them knows.
            kept_s = max(self._lacking(peer), away_s if away_s < ALL_KEPT_S else 0.0)
            if kept_s:
                self._ask(peer, False, kept_s)

    def _lacking(self, peer: _Peer) -> float:
        """Of how many seconds a peer is to be asked for events of cache channels."""
        if not self._lacks_s or any(other.asking is not None and other.asking.kept_s for other in self._peers.values()):
            return 0.0
        if self._lacks_s == ALL_KEPT_S and peer.age <= self._age:  # one that is as new as this node has as little
            return 0.0
        return self._lacks_s

    def _changed(self, peer: _Peer, content: dict[str, Any]) -> None:
        seq, facts = _number(content, "seq"), facts_of(content.get("facts"))
        if peer.asking is not None and peer.asking.facts:
            peer.asking.changed(seq, facts)
            self._finish(peer, peer.asking)
        elif peer.seq is None or seq > peer.seq + 1:
            self._catch_up(peer).changed(seq, facts)
        elif seq == peer.seq + 1:
            peer.seq = seq
            self._listener.said(peer.name, facts, False)

    def _leaves(self, peer: _Peer, content: dict[str, Any]) -> None:
        self._drop(peer)

    # Catching up

    def _catch_up(self, peer: _Peer) -> Asking:
        kept_s = max(self._lacking(peer), peer.asking.kept_s if peer.asking is not None else 0.0)
        if peer.seq is not None:  # events of cache channels may have been lost with the changes that were
            kept_s = max(kept_s, self._recent_s)
        return self._ask(peer, True, kept_s)

    def _ask(self, peer: _Peer, facts: bool, kept_s: float) -> Asking:
        self._sessions += 1
        peer.asking = Asking(f"{self._sessions}", facts, kept_s)
        self._ask_for_part(peer, peer.asking)
        return peer.asking

    def _ask_for_part(self, peer: _Peer, asking: Asking) -> None:
        content = {"session": asking.session, "part": asking.part, "facts": asking.facts, "kept": asking.kept_s}
        self._send(peer.name, "ask", content)

    def _asks(self, peer: _Peer, content: dict[str, Any]) -> None:
        session, number, kept_s = content.get("session"), _number(content, "part"), content.get("kept")
        if not isinstance(session, str) or not isinstance(kept_s, (int, float)):
            raise MalformedError("Expected a question with session, part, facts and kept.")
        telling = self._tellings.get(peer.name)
        if number == 0:
            facts = self._listener.all_facts() if content.get("facts") else None
            events = self._listener.kept_events(kept_s) if kept_s else ()
            telling = self._tellings[peer.name] = Telling(session, facts, events)
        part = telling.part(number) if telling is not None and telling.session == session else None
        if part is None:
            return  # it will ask again from the beginning
        told, kept, is_last = part
        if is_last:
            self._tellings.pop(peer.name, None)
        self.flush()  # so that the number tells what is in the part
        answer = {
            "session": session,
            "part": number,
            "last": is_last,
            "seq": self._seq,
            "facts": facts_content(told),
            "kept": kept,
        }
        self._send(peer.name, "state", answer)

    def _answers(self, peer: _Peer, content: dict[str, Any]) -> None:
        asking, kept = peer.asking, content.get("kept")
        seq, facts = _number(content, "seq"), facts_of(content.get("facts"))
        if not isinstance(kept, list):
            raise MalformedError("Expected an answer with kept events.")
        if asking is None or content.get("session") != asking.session:
            return
        if not asking.took(_number(content, "part"), seq, facts, content.get("last") is True):
            return
        for event in kept:
            self._listener.kept(event)
        if content.get("last") is True:
            self._finish(peer, asking)
        else:
            self._ask_for_part(peer, asking)

    def _finish(self, peer: _Peer, asking: Asking) -> None:
        result = asking.result()
        if result is None:
            return
        peer.asking = None
        if asking.kept_s >= self._lacks_s:
            self._lacks_s = 0.0
        if asking.facts:
            peer.seq, facts = result
            self._listener.said(peer.name, list(facts.items()), True)


def _number(content: dict[str, Any], name: str) -> int:
    value = content.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise MalformedError(f"Expected {name}, a number; got {value!r:.100}.")
    return value
