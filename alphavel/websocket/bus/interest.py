"""
What no other node listens to need not be published: whether that is so, and how a node learns in time that it is no longer.

Redis says of each message how many have taken it. Where that was this node alone, it watches the key: it has itself told when
somebody else begins to listen. Where the next message for the key, too, was taken by this node alone, nobody else listens, and
from then on messages for it are only kept, for nodes that were away (see `replaying`).

    this node  SUBSCRIBE watch:K             another  SUBSCRIBE K
               PUBLISH K …        → 1                 PUBSUB NUMSUB watch:K  → 1: it has to wait
                                                      PUBLISH watch:K {"kind":"listens"}
               {"kind":"heard","key":K} → the other   tells its client `subscribed`

Redis does one after the other: either the other's subscription came before that message, which then was taken by two, or this
node is told of it.

Who hangs, or is not reached, cannot answer. So this node publishes something to itself again and again, and believes what it
knows for `LEASE_S` after the last time that it did so and it came back: whatever was said before has come, too. Who waits for
answers waits longer. That something was taken by one also says that one Redis has both of this node's connections.

Redis may have given up this node's connection before this node knows, so that whoever begins to listen is told to wait for
nobody. So when it knows, it publishes what it kept since it last heard itself: `late`, with their ages, for those who listened
by then.

A node whose connection broke announces none of its keys: it asks what it missed, and whoever is asked forgets what is here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import gevent

from alphavel.websocket import clock
from alphavel.websocket.bus.envelope import MalformedError, write
from alphavel.websocket.later import log_later
from alphavel.websocket.logs import get_logger

if TYPE_CHECKING:
    from alphavel.websocket.bus.keys import Keys
    from alphavel.websocket.bus.outbox import Outbox
    from alphavel.websocket.bus.subscriber import Subscriber

logger = get_logger("alphavel.websocket.bus")

LEASE_S = 1.0
_WAIT_S = 1.25 * LEASE_S
_PROVE_EVERY_S = LEASE_S / 4
_MAX_WATCHED = 65_536

Watched = dict[bytes, object]
"""Keys, and what tells this time of watching from another."""


class Interest:
    """What this node knows of who listens, and what it says of itself."""

    def __init__(self, name: str, keys: Keys, subscriber: Subscriber, outbox: Outbox) -> None:
        """
        Args:
            name: Of this node.
            keys: Names.
            subscriber: What comes in.
            outbox: What goes out.
        """
        self._keys = keys
        self._own = keys.node(name)
        self._subscriber = subscriber
        self._outbox = outbox
        self._watched: Watched = {}
        self._alone = outbox.alone
        self._proof = _Proof()
        self._doubtful_since = 0.0
        self._announced: dict[bytes, _Announced] = {}

    # Who publishes

    def watched(self, keys: Iterable[bytes]) -> Watched:
        """Return which of some keys are watched now, for `taken`, and cannot have been left and joined again meanwhile."""
        watched, subscriber = self._watched, self._subscriber
        return {
            key: watched[key]
            for key in keys
            if key in watched and subscriber.is_steady(key) and subscriber.is_steady(self._keys.watch(key))
        }

    def taken(self, watched: Watched, keys: Iterable[bytes], counts: Sequence[int | Exception]) -> None:
        """Take note of how many have taken messages; `watched`: as it was before they were sent."""
        for key, count in zip(keys, counts, strict=True):
            if key == self._own:
                self._proof.is_taken = count == 1
                self._check_proof()
            if not self._keys.is_for_some(key):
                continue
            if count != 1:
                self.shared(key)
            elif key in watched:
                if self._watched.get(key) is watched[key]:
                    self._alone.keys.add(key)
            elif key not in self._watched and self._subscriber.is_steady(key) and len(self._watched) < _MAX_WATCHED:
                self._watched[key] = object()
                self._subscriber.want(self._keys.watch(key))

    def shared(self, key: bytes) -> None:
        """Somebody else listens to a key, or this node does not any more."""
        if self._watched.pop(key, None) is not None:
            self._alone.keys.discard(key)
            self._subscriber.unwant(self._keys.watch(key))

    def forget(self) -> None:
        """Others may listen to whatever it is, perhaps on another Redis: what is proven of this one says nothing of that."""
        self._proof, self._alone.until = _Proof(), 0.0
        for key in list(self._watched):
            self.shared(key)

    def listens(self, watch: bytes, content: dict[str, Any]) -> None:
        """Another node has begun to listen."""
        key = self._keys.watched(watch)
        if key is None:
            raise MalformedError("Expected a key that is watched.")
        self.shared(key)
        self._outbox.note(self._keys.node(content["origin"]), write("heard", {"key": key.decode("latin-1")}))

    # Who begins to listen

    def announce(self, key: bytes) -> None:
        """This node listens to a key: see that whoever publishes to it knows."""
        if not self._keys.is_for_some(key):
            self._subscriber.confirm(key)
            return
        announced = _Announced(self._subscriber.since(key))
        self._announced.pop(key, None)  # the oldest stand first
        self._announced[key] = announced
        self._outbox.announce(self._keys.watch(key), lambda count: self._told(key, announced, count))

    def _told(self, key: bytes, announced: _Announced, count: int | Exception) -> None:
        if isinstance(count, Exception):
            log_later(logger, logging.ERROR, "Redis does not let nodes tell each other what they listen to: %s", count)
        elif announced.answers < count:
            announced.awaited = count
            gevent.spawn_later(_WAIT_S, self._over, key, announced)
            return
        self._over(key, announced)

    def heard(self, to: bytes, content: dict[str, Any]) -> None:
        """Another node knows that this one listens."""
        key = content.get("key")
        if not isinstance(key, str):
            raise MalformedError("Expected a key.")
        self._answered(key.encode("latin-1", "replace"))

    def echoed(self, key: bytes, envelope: bytes) -> None:
        """Something that this node published has come back. It may itself be one of those it told."""
        if key == self._own:
            self._proof.has_come = envelope.endswith(self._proof.end)
            self._check_proof()
            return
        watched = self._keys.watched(key)
        if watched is not None:
            self._answered(watched)

    def _answered(self, key: bytes) -> None:
        announced = self._announced.get(key)
        if announced is not None:
            announced.answers += 1
            if announced.awaited is not None and announced.answers >= announced.awaited:
                self._over(key, announced)

    def _over(self, key: bytes, announced: _Announced) -> None:
        if self._announced.get(key) is announced:
            del self._announced[key]
            if self._subscriber.since(key) == announced.since:  # or it was left and joined again
                self._subscriber.confirm(key)

    # Life

    def keep(self, patience_s: float) -> None:
        """
        Have what is known proven again and again. Blocks the calling greenlet.

        Args:
            patience_s: Time that an announcement may take. After it the subscriber's connection is given up: when it is
                made anew, nothing need be announced.
        """
        while True:
            gevent.sleep(_PROVE_EVERY_S)
            if self._watched:
                self._outbox.note(self._own, self._prove)
            oldest = next(iter(self._announced.values()), None)
            if oldest is not None and oldest.at < clock.now() - patience_s - _WAIT_S:
                self._subscriber.give_up("it has not taken for long that this node listens")

    def _prove(self) -> bytes:
        self._proof = _Proof(clock.now())
        return self._proof.written

    def _check_proof(self) -> None:
        if self._proof.is_taken and self._proof.has_come:
            self._alone.until, self._doubtful_since = self._proof.at + LEASE_S, self._proof.at

    def went_down(self) -> None:
        """What others say does not come in any more."""
        self._outbox.tell_late(self._doubtful_since)
        self.forget()
        self._announced.clear()
        self._outbox.announce_nothing()


class _Proof:
    """Something that this node publishes to itself."""

    __slots__ = ("at", "end", "has_come", "is_taken", "written")

    def __init__(self, at: float = 0.0) -> None:
        self.at = at
        self.written = write("proof", {"at": at})
        self.end = self.written[1:] + b"}"  # of its envelope
        self.is_taken = self.has_come = False


class _Announced:
    __slots__ = ("answers", "at", "awaited", "since")

    def __init__(self, since: float) -> None:
        self.since = since  # when the key was wanted
        self.at = clock.now()
        self.answers = 0
        self.awaited: int | None = None  # not known yet
