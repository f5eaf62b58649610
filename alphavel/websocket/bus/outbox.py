"""
What this node publishes, on its way to Redis: it waits here, in order and bounded, until Redis has said that it has it, and is
kept for a while after that, for nodes that Redis did not reach (see `replaying`).

Where the connection breaks nobody knows what of the last batch Redis took, so that all of it is sent again, over a connection
with a higher number; receivers drop what they have (see `numbering`).
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from gevent.event import Event

from alphavel.websocket import clock
from alphavel.websocket.bus.kept import Kept, Published
from alphavel.websocket.bus.numbering import Numbering, Numbers
from alphavel.websocket.bus.pushes import write_push
from alphavel.websocket.later import log_later
from alphavel.websocket.logs import get_logger

if TYPE_CHECKING:
    from alphavel.websocket.bus.envelope import Envelopes
    from alphavel.websocket.protocols import Message

logger = get_logger("alphavel.websocket.bus")

_AT_ONCE = 256  # messages in one round trip
_BYTES_AT_ONCE = 256 * 1024
_PING_EVERY_S = 10.0
_MAX_NOTES = 4096
_MAX_UNWRITTEN = 64
_MAX_UNWRITTEN_SIZE = 16 * 1024

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


class Replay(NamedTuple):
    """
    What another node asks for, after it was away.

    Attributes:
        key: Where that node listens.
        session: What that node calls its question.
        number: It has all of ours up to this number; None: it does not know which it has.
        since: When it was last reached, seconds on `clock`; for that case.
    """

    key: bytes
    session: int
    number: int | None
    since: float


class Alone:
    """
    Where this node alone listens, as far as is known, see `interest`.

    Attributes:
        keys: To what.
        until: When that is no longer to be believed, seconds on `clock`.
    """

    __slots__ = ("keys", "until")

    def __init__(self) -> None:
        self.keys: set[bytes] = set()
        self.until = 0.0

    def has(self, key: bytes) -> bool:
        """Whether nobody else listens to a key."""
        return key in self.keys and clock.now() < self.until


class Outbox:
    """
    Attributes:
        is_up: Whether Redis takes what is sent.
        dropped: What was given up: there was no room, or Redis refused it.
        queued_bytes: How much waits.
        sent: Number of the last message that whoever listens has been given, and with it all before.
        unneeded: How many were for nobody elsewhere: they were kept only, for nodes that were away.
        alone: What nobody else listens to.
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
        self.alone = Alone()
        self.tell: Send = lambda messages: ()
        self._envelopes = envelopes
        self._max_queue = max_queue
        self._numbering = Numbering()
        self._line = 1
        self._queue: deque[Item | Replay] = deque()
        self._late: deque[Kept] = deque()
        self._notes: deque[tuple[bytes, Note]] = deque(maxlen=_MAX_NOTES)
        self._announcements: dict[bytes, Told] = {}
        self._published = Published(max_kept)
        self._unwritten: list[tuple[float, bytes, str, str, Message]] = []
        self._wake, self._empty = Event(), Event()
        self._empty.set()
        self._doubts = 0  # how often something was told late
        self._in_doubt = self._is_over = False

    # Coming in. Does not switch.

    def put(self, key: bytes, written: bytes) -> None:
        """Queue a message. One that no longer fits is dropped and counted; who misses it finds out by its number."""
        self._write_kept()
        number, place = self._numbering.next(key)
        if not self._queue and self.alone.has(key):
            self.sent = number
            self.unneeded += 1
            self._published.add([(clock.now(), key, written, number, place, True)])
        elif self.queued_bytes + len(written) > self._max_queue:
            self._drop("too many wait for Redis")
        else:
            self._append(Item(key, written, number, place))
            self.queued_bytes += len(written)

    def keep(self, key: bytes, app_id: str, channel: str, message: Message) -> bool:
        """
        Keep a push to one channel, where `put` would only keep it; False where somebody else listens, or may. It is written
        together with some others, which costs a part of what it costs each time by itself.
        """
        now, alone, unwritten = clock.now(), self.alone, self._unwritten
        if key not in alone.keys or now >= alone.until or self._queue:
            return False
        self.unneeded += 1
        unwritten.append((now, key, app_id, channel, message))
        if len(unwritten) >= _MAX_UNWRITTEN or message.size > _MAX_UNWRITTEN_SIZE:
            self._write_kept()
        return True

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
        self._write_kept()
        self._doubts += 1
        last = self._late[-1].number if self._late else 0
        late = [kept for kept in self._published.since(since) if kept.is_unneeded and kept.number > last]
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
                if self._notes:
                    self._send_notes(send)
                elif self._announcements:
                    self._send_announcements()
                elif self._late:
                    self._send_late(send)
                elif self._queue:
                    first = self._queue[0]
                    self._send_replay(first, send) if isinstance(first, Replay) else self._send_messages(send)
                else:
                    self._rest()
        finally:
            self.is_up = False

    def _rest(self) -> None:
        self._empty.set()
        self._wake.clear()
        if not self._wake.wait(_PING_EVERY_S):
            self._in_doubt = True

    def _send_notes(self, send: Send) -> None:
        notes = list(self._notes)
        send([(key, self._envelopes.wrap(note if isinstance(note, bytes) else note())) for key, note in notes])
        for note in notes:  # not the first so many: others may have been forgotten meanwhile
            with contextlib.suppress(ValueError):
                self._notes.remove(note)

    def _send_announcements(self) -> None:
        some = list(islice(self._announcements.items(), _AT_ONCE))
        counts = self.tell([(key, self._envelopes.seal("listens", {})) for key, _ in some])
        for (key, told), count in zip(some, counts, strict=True):
            if self._announcements.get(key) is told:  # neither taken back nor announced anew meanwhile
                del self._announcements[key]
                told(count)

    def _send_late(self, send: Send) -> None:
        kept = self._late[0]
        send([(kept.key, self._envelopes.seal("late", {"item": _told_again(kept)}))])
        self._late.popleft()

    def _send_replay(self, replay: Replay, send: Send) -> None:
        for portion in self._replayed(replay):
            send([(replay.key, self._envelopes.seal("replay", portion))])
        self._queue.popleft()

    def _send_messages(self, send: Send) -> None:
        batch = list(self._batch())
        needed = [item for item in batch if not self.alone.has(item.key)]
        sealed = [
            (item.key, self._envelopes.wrap(item.written, Numbers(self._line, item.number, item.place))) for item in needed
        ]
        doubts = self._doubts
        try:
            results = send(sealed) if sealed else ()
        except BaseException:
            self._line += 1
            raise
        self.unneeded += len(batch) - len(needed)
        answers = {item.number: result for item, result in zip(needed, results, strict=True)}
        now, kept = clock.now(), []
        for item in batch:
            self._queue.popleft()
            self.queued_bytes -= len(item.written)
            self.sent = item.number
            answer = answers.get(item.number)
            if isinstance(answer, Exception):
                self._drop(f"Redis refuses them: {answer}")
            else:
                kept.append((now, *item, answer is None))
        if kept:
            self._published.add(kept)
        if self._doubts != doubts:  # while some of it was passed over, and was not kept yet
            self.tell_late(now)

    def _batch(self) -> Iterator[Item]:
        size = 0
        for item in takewhile(lambda item: isinstance(item, Item), islice(self._queue, _AT_ONCE)):
            size += len(item.written)  # type: ignore[union-attr]
            yield item  # type: ignore[misc]
            if size > _BYTES_AT_ONCE:
                return

    # What was sent

    def _write_kept(self) -> None:
        if self._unwritten:
            following = self._numbering.next
            self._published.add([
                (at, key, write_push(app_id, message, channel), *following(key), True)
                for at, key, app_id, channel, message in self._unwritten
            ])  # fmt: skip
            self._unwritten.clear()
            self.sent = self._numbering.number  # nothing waits: `put` writes these first

    def _replayed(self, replay: Replay) -> Iterator[dict[str, Any]]:
        """Make portions of what a node may have missed, the last of which says so."""
        self._write_kept()
        published, number = self._published, replay.number
        portion: list[list[Any]] = []
        size = 0
        for kept in published.since(replay.since) if number is None else published.after(number):
            if size > _BYTES_AT_ONCE:
                yield {"session": replay.session, "items": portion, "is_last": False}
                portion, size = [], 0
            portion.append(_told_again(kept))
            size += len(kept.written)
        yield {"session": replay.session, "items": portion, "is_last": True}


def _told_again(kept: Kept) -> list[Any]:
    age = clock.now() - kept.at
    return [kept.number, kept.place, age, kept.key.decode("latin-1"), orjson.Fragment(kept.written)]
