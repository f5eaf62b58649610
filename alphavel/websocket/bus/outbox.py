"""
What this node publishes, on its way to Redis: it waits here, in order and bounded, until Redis has said that it has it, and is
kept for a while after that, for nodes that Redis did not reach (see `replaying`).

Where the connection breaks nobody knows what of the last batch Redis took, so that all of it is sent again, over a connection
with a higher number; receivers drop what they have (see `numbering`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from gevent.event import Event

from alphavel.websocket.bus.numbering import Numbering, Numbers
from alphavel.websocket.later import log_later
from alphavel.websocket.logs import get_logger

if TYPE_CHECKING:
    from alphavel.websocket.bus.envelope import Envelopes

logger = get_logger("alphavel.websocket.bus")

_AT_ONCE = 256  # messages in one round trip
_BYTES_AT_ONCE = 256 * 1024
_PING_EVERY_S = 10.0
_KEEP_S = 60.0
_MAX_NOTES = 4096

Note = bytes | Callable[[], bytes]
"""An envelope's content, or what writes it when it is about to be sent."""

Send = Callable[[list[tuple[bytes, bytes]]], Sequence[int | Exception]]
"""
`send([(key, envelope), …])`: returns for each how many Redis gave it to, or why it refused it. Blocks the calling greenlet;
raises where it is not known which of them Redis has taken.
"""

Told = Callable[[int | Exception], None]
"""`told(count)`: how many nodes an announcement has to be answered by, or why Redis refused it."""


class Item(NamedTuple):
    """Something that is published."""

    key: bytes
    written: bytes
    number: int
    place: int


class Kept(NamedTuple):
    """Something that was published, or was for nobody, and when: seconds on the monotonic clock."""

    at: float
    item: Item
    is_unneeded: bool


class Replay(NamedTuple):
    """
    What another node asks for, after it was away.

    Attributes:
        key: Where that node listens.
        session: What that node calls its question.
        number: It has all of ours up to this number; None: it does not know which it has.
        since: When it was last reached, seconds on the monotonic clock; for that case.
    """

    key: bytes
    session: int
    number: int | None
    since: float


class Outbox:
    """
    Attributes:
        is_up: Whether Redis takes what is sent.
        dropped: What was given up: there was no room, or Redis refused it.
        queued_bytes: How much waits.
        sent: Number of the last message that whoever listens has been given, and with it all before.
        unneeded: How many were for nobody elsewhere: they were kept only, for nodes that were away.
        is_unneeded: Says of a key whether that is so; until it is set, of none.
        tell: Sends announcements as `Send` does, but returns how many have to answer. To be set before `announce` is called.
    """

    def __init__(self, envelopes: Envelopes, max_queue: int, max_kept: int) -> None:
        """
        Args:
            envelopes: Seals what is sent.
            max_queue: Bytes that may wait.
            max_kept: Bytes of what was sent that are kept.
        """
        self.is_up = False
        self.dropped = self.unneeded = 0
        self.queued_bytes = self.sent = 0
        self.is_unneeded: Callable[[bytes], bool] = lambda key: False
        self.tell: Send = lambda messages: ()
        self._envelopes = envelopes
        self._max_queue = max_queue
        self._max_kept = max_kept
        self._numbering = Numbering()
        self._line = 1
        self._queue: deque[Item | Replay] = deque()
        self._late: deque[Kept] = deque()
        self._notes: deque[tuple[bytes, Note]] = deque(maxlen=_MAX_NOTES)
        self._announcements: dict[bytes, Told] = {}
        self._kept: deque[Kept] = deque()
        self._kept_bytes = 0
        self._wake, self._empty = Event(), Event()
        self._empty.set()
        self._in_doubt = self._is_over = False

    # Coming in. Does not switch.

    def put(self, key: bytes, written: bytes) -> None:
        """Queue a message. One that no longer fits is dropped and counted; who misses it finds out by its number."""
        item = Item(key, written, *self._numbering.next(key))
        if not self._queue and self.is_unneeded(key):
            self._done(item, is_unneeded=True)
            return
        if self.queued_bytes + len(written) > self._max_queue:
            self._drop("too many wait for Redis")
            return
        self._append(item)
        self.queued_bytes += len(written)

    def note(self, key: bytes, note: Note) -> None:
        """Queue a message that goes before all others and has no number. Of too many the first are forgotten."""
        self._notes.append((key, note))
        self._wake.set()

    def announce(self, key: bytes, told: Told) -> None:
        """Queue that this node listens, before all messages, in place of what was to be announced for the same key."""
        self._announcements[key] = told
        self._wake.set()

    def announce_nothing(self) -> None:
        """Take back what was to be announced."""
        self._announcements.clear()

    def replay(self, replay: Replay) -> None:
        """Queue what another node asks for."""
        self._append(replay)

    def tell_late(self, since: float) -> None:
        """Queue what was for nobody from a time on, before what came later: somebody may have listened after all."""
        doubtful = list(takewhile(lambda kept: kept.at >= since, reversed(self._kept)))
        late = [kept for kept in reversed(doubtful) if kept.is_unneeded]
        if late:
            self._late.extend(late)
            self._empty.clear()
            self._wake.set()

    def check(self) -> None:
        """Ask Redis at once whether it is there: something says that it may not be."""
        self._in_doubt = True
        self._wake.set()

    def finish(self, timeout: float) -> None:
        """Block the calling greenlet until all is sent, for so many seconds at most, and send no more."""
        self._empty.wait(timeout)
        self._is_over = True
        self._wake.set()

    def _append(self, item: Item | Replay) -> None:
        self._queue.append(item)
        self._empty.clear()
        self._wake.set()

    def _drop(self, why: str) -> None:
        log_later(logger, logging.ERROR, "Messages to other nodes are lost: %s", why)
        self.dropped += 1

    # Going out

    def run(self, ping: Callable[[], Any], send: Send) -> None:
        """
        Send what is queued, and what will be. Blocks the calling greenlet; what `ping` and `send` raise ends it, and nothing
        is lost by that.
        """
        self._in_doubt = True
        try:
            while not self._is_over:
                if self._in_doubt:
                    ping()
                    self.is_up, self._in_doubt = True, False
                if self._notes or self._announcements or self._late or self._queue:
                    self._send_some(send)
                    continue
                self._empty.set()
                self._wake.clear()
                if not self._wake.wait(_PING_EVERY_S):
                    self._in_doubt = True
        finally:
            self.is_up = False

    def _send_some(self, send: Send) -> None:
        if self._notes:
            notes = list(self._notes)
            send([(key, self._envelopes.wrap(note if isinstance(note, bytes) else note())) for key, note in notes])
            for note in notes:  # not the first so many: others may have been forgotten meanwhile
                with contextlib.suppress(ValueError):
                    self._notes.remove(note)
            return
        if self._announcements:
            some = list(islice(self._announcements.items(), _AT_ONCE))
            counts = self.tell([(key, self._envelopes.seal("listens", {})) for key, _ in some])
            for (key, told), count in zip(some, counts, strict=True):
                if self._announcements.get(key) is told:  # neither taken back nor announced anew meanwhile
                    del self._announcements[key]
                    told(count)
            return
        if self._late:
            kept = self._late[0]
            late = {"session": 0, "items": [_told_again(kept, time.monotonic())], "is_last": True}
            send([(kept.item.key, self._envelopes.seal("late", late))])
            self._late.popleft()
            return
        first = self._queue[0]
        if isinstance(first, Replay):
            for written in self._replayed(first):
                send([(first.key, self._envelopes.wrap(written))])
            self._queue.popleft()
            return
        batch = list(self._batch())
        needed = [item for item in batch if not self.is_unneeded(item.key)]
        sealed = [
            (item.key, self._envelopes.wrap(item.written, Numbers(self._line, item.number, item.place))) for item in needed
        ]
        try:
            results = send(sealed) if sealed else ()
        except BaseException:
            self._line += 1
            raise
        answers = {item.number: result for item, result in zip(needed, results, strict=True)}
        for item in batch:
            self._queue.popleft()
            self.queued_bytes -= len(item.written)
            answer = answers.get(item.number)
            if isinstance(answer, Exception):
                self.sent = item.number
                self._drop(f"Redis refuses them: {answer}")
            else:
                self._done(item, is_unneeded=answer is None)

    def _batch(self) -> Iterator[Item]:
        size = 0
        for item in takewhile(lambda item: isinstance(item, Item), islice(self._queue, _AT_ONCE)):
            size += len(item.written)  # type: ignore[union-attr]
            yield item  # type: ignore[misc]
            if size > _BYTES_AT_ONCE:
                return

    # What was sent

    def _done(self, item: Item, is_unneeded: bool) -> None:
        self.sent = item.number
        self.unneeded += is_unneeded
        kept, now = self._kept, time.monotonic()
        kept.append(Kept(now, item, is_unneeded))
        self._kept_bytes += len(item.written)
        while kept and (self._kept_bytes > self._max_kept or kept[0].at < now - _KEEP_S):
            self._kept_bytes -= len(kept.popleft().item.written)

    def _replayed(self, replay: Replay) -> Iterable[bytes]:
        """Write what a node may have missed, in portions, the last of which says so."""
        now = time.monotonic()
        number, since = replay.number, replay.since
        missed = [kept for kept in self._kept if (kept.at >= since if number is None else kept.item.number > number)]
        portion: list[list[Any]] = []
        size = 0
        for kept in missed:
            if size > _BYTES_AT_ONCE:
                yield self._portion(replay, portion, False)
                portion, size = [], 0
            portion.append(_told_again(kept, now))
            size += len(kept.item.written)
        yield self._portion(replay, portion, True)

    def _portion(self, replay: Replay, items: list[list[Any]], is_last: bool) -> bytes:
        return self._envelopes.write("replay", {"session": replay.session, "items": items, "is_last": is_last})


def _told_again(kept: Kept, now: float) -> list[Any]:
    item = kept.item
    return [item.number, item.place, now - kept.at, item.key.decode("latin-1"), orjson.Fragment(item.written)]
