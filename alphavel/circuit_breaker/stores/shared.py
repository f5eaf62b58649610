"""
Circuits of one machine: all processes that open the same file have the same circuits, without locks.

See `file` for how that can be. What is decided (the record) is a file's name. What is counted stands in mapped memory, in
rows that one process writes. The first 8 bytes of a service's own row repeat the generation of its record, so that an
ordinary call finds out with one read that nothing has changed. That number is a hint and no more: whoever changes a record
writes it, and whoever looks at a record and finds a newer one writes it too, so a process that is killed between the two
steps delays the others until the next failure, or a second, and loses nothing.
"""

from __future__ import annotations

import contextlib
import operator
import os
import struct
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from alphavel.circuit_breaker.errors import StoreError
from alphavel.circuit_breaker.listeners import logger
from alphavel.circuit_breaker.states import HALF_OPEN, Record, State, decode, encode
from alphavel.circuit_breaker.stores import file as files
from alphavel.circuit_breaker.stores.contract import Totals, View, totals_of
from alphavel.circuit_breaker.stores.memory import MemoryCircuit
from alphavel.circuit_breaker.window import Tally

if TYPE_CHECKING:
    from alphavel.circuit_breaker.settings import SharedSettings, ThresholdSettings

_TAG = 0xFFF
"""
The low bits of a failure's time hold its generation. Of a time since the start of the machine they are less than 20 µs in
the first half year.
"""
_LOOK_S = 1.0
"""How long a record that refuses calls is believed without a look."""
_ATTEMPTS = 8
# Fields of a row, in units of 8 and of 4 bytes.
_SUCCESSES, _FAILURES, _REJECTED, _LAST_SUCCESS, _RING = 0, 1, 2, 3, 5
_SLOW, _IGNORED = 8, 9
_HINT = 3
"""Slot 0 has the generation there; its other fields are what the totals were at the last reset."""
_MAX_RING = 1000
_MAX_UINT32 = 2**32 - 1


class Row(NamedTuple):
    """The row of a service and worker slot, in units of 8 bytes, of 4, and as floats."""

    words: memoryview[int]
    halves: memoryview[int]
    times: memoryview[float]


class SharedStore:
    """
    See `Store`.

    Attributes:
        file: The file.
        geometry: Its rows.
        slot: Number of this process's slot; 0: none was free, and each circuit is this process's own.
    """

    name = "shared"
    told = True

    def __init__(self, settings: SharedSettings, threshold: int, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            settings: Where the file is, and for how many.
            threshold: The largest failure threshold of all services.
            clock: Seconds; one clock for all processes, such as `time.monotonic`, which counts from the machine's start.

        Raises:
            StoreError: The file cannot be used.
        """
        if threshold > _MAX_RING:
            raise StoreError(
                f"The store `shared` keeps at most {_MAX_RING} failures of a service, and a failure_threshold is {threshold}. "
                "Choose a lower one, or failure_rate."
            )
        self.now = clock
        self.geometry = files.Geometry(settings.max_services, settings.max_workers, max(5, threshold))
        self.file = files.CircuitFile(settings.path or default_path(), self.geometry)
        self.words = memoryview(self.file.map).cast("Q")
        self.slot = 0
        self._full = False
        self._circuits: weakref.WeakSet[SharedCircuit] = weakref.WeakSet()
        self._join()
        _stores.add(self)

    def circuit(self, service: str, record: Record, rules: ThresholdSettings, tally: Tally) -> SharedCircuit | MemoryCircuit:
        """See `Store.circuit`."""
        try:
            number = files.register(self.file.folder, self.geometry.services, service, encode(record)) if self.slot else None
        except OSError as error:
            logger.error("The shared circuit of %r cannot be used: %s. This process goes on with its own.", service, error)
            number = None
        else:
            if number is None and self.slot:
                self._say_full(service)
        if number is None:
            return MemoryCircuit(record, rules)
        circuit = SharedCircuit(self, number, record, rules, tally)
        self._circuits.add(circuit)
        return circuit

    def _say_full(self, service: str) -> None:
        if not self._full:  # once: names may be many
            self._full = True
            logger.error(
                "There is no room for the shared circuit of %r; this process goes on with its own, and so with further ones. "
                "Raise stores.shared.max_services.", service,
            )  # fmt: skip

    def services(self) -> list[str]:
        """See `Store.services`."""
        with contextlib.suppress(OSError):
            return files.registered(self.file.folder)
        return []

    def problem(self) -> str | None:
        """See `Store.problem`."""
        if self.slot:
            return None
        return f"All {self.geometry.workers} worker slots of the shared circuits are in use. Raise stores.shared.max_workers."

    def close(self) -> None:
        """
        See `Store.close`. Calls that are under way end as they would; from now on each circuit is this process's own.

        The file stays mapped for as long as a circuit refers to it: then the garbage collector unmaps it.
        """
        _stores.discard(self)
        slot, self.slot = self.slot, 0
        for circuit in tuple(self._circuits):
            circuit.join()
        if slot:
            with contextlib.suppress(OSError):
                files.release(self.file.folder, slot)

    def after_fork(self) -> None:
        """Take a slot of its own for a new process: its parent goes on writing to the old one."""
        self._join()
        for circuit in tuple(self._circuits):
            circuit.join()

    def row(self, number: int, slot: int) -> Row:
        """Return the row of a service and slot."""
        begin, size = self.geometry.row(number, slot), self.geometry.row_bytes
        raw = memoryview(self.file.map)[begin : begin + size]
        return Row(raw.cast("Q"), raw.cast("I"), raw.cast("d"))

    def own_row(self, number: int) -> Row:
        """Return the row that this process writes. Without a slot it is memory that nobody reads, and takes any number."""
        if self.slot:
            return self.row(number, self.slot)
        raw = memoryview(bytearray(self.geometry.row_bytes))
        return Row(raw.cast("q"), raw.cast("i"), raw.cast("d"))

    def _join(self) -> None:
        self.slot = files.claim(self.file.folder, self.geometry.workers)
        if not self.slot:
            logger.error(
                "All %d worker slots of the shared circuits are in use; this process goes on with circuits of its own. "
                "Raise stores.shared.max_workers.", self.geometry.workers,
            )  # fmt: skip


class SharedCircuit:
    """See `Circuit`."""

    __slots__ = (
        "__weakref__", "_alone", "_calm", "_flowing", "_folder", "_generation", "_hint", "_looked", "_name", "_number",
        "_places", "_rules", "_seat", "_store", "_tally", "_view", "_words",
    )  # fmt: skip

    steady = False

    def __init__(self, store: SharedStore, number: int, record: Record, rules: ThresholdSettings, tally: Tally) -> None:
        self._store = store
        self._words = store.words
        self._number = number
        self._folder = os.path.join(store.file.folder, f"service~{number}")
        self._hint = store.geometry.row(number, 0) // 8 + _HINT
        self._rules = rules
        self._tally = tally
        self._alone: MemoryCircuit | None = None
        self._flowing: View | None = None
        self._adopt(View(record, rules), encode(record))
        self.join()
        self._look()

    def join(self) -> None:
        """Begin to write to the row of this process; what stands there is the total of those who had it before."""
        if not self._store.slot:
            self._alone = self._alone or MemoryCircuit(self._view.record, self._rules)
            self._flowing = None
        row = self._store.own_row(self._number)
        self._sit_down(row, _less(_totals(row), totals_of(self._tally)))
        ring = row.words[_RING:].tolist()
        self._places = count(ring.index(min(ring)))  # the oldest goes first

    def _sit_down(self, row: Row, before: Totals) -> None:
        # One attribute: where a slot is given back while others call, nobody adds to one row what stood in another. Whoever
        # has just read it may still write to a row that is another process's by then, which the next call there mends.
        self._seat = row.words, row.times, before.successes + 1, row, before

    def listen(self, changed: Callable[[], None]) -> None:
        """See `Circuit.listen`."""

    def newest(self) -> View:
        """See `Circuit.newest`."""
        alone = self._alone  # read once, here and below: another thread may end it at any moment
        if alone is None and self._words[self._hint] == self._generation:
            if self._calm:
                return self._view
            if self._view.record.state is not HALF_OPEN and self._store.now() < self._looked + _LOOK_S:
                return self._view
        elif alone is not None and (not self._store.slot or self._store.now() < self._looked + _LOOK_S):
            return alone.newest()
        return self._look()

    def calm(self) -> View | None:
        """See `Circuit.calm`."""
        view = self._flowing
        return view if view is not None and self._words[self._hint] == view.record.generation else None

    def swap(self, old: View, record: Record) -> View | None:
        """See `Circuit.swap`."""
        if (alone := self._alone) is not None:
            return alone.swap(old, record)
        name = encode(record)
        try:
            won = files.swap(self._folder, encode(old.record), name)
        except OSError as error:
            self._go_alone(error)
            return None
        if not won:
            self._look()
            return None
        view = View(record, self._rules, old)
        self._adopt(view, name)
        self._look()  # says so to the others
        return view

    def _look(self) -> View:
        """Look at what holds; see to it that the hint says so."""
        if not self._store.slot and (alone := self._alone) is not None:
            return alone.newest()
        self._looked = self._store.now()
        try:
            for _ in range(_ATTEMPTS):
                name, record = self._read()
                if name != self._name:
                    self._adopt(View(record, self._rules, self._view), name)
                if self._words[self._hint] >= record.generation:
                    break
                # Somebody may have moved on between these lines, and this may put the hint back: look once more.
                self._words[self._hint] = record.generation
        except OSError as error:
            return self._go_alone(error)
        if self._alone is not None and self._store.slot:
            self._alone = None
            self._adopt(self._view, self._name)
        return self._view

    def _read(self) -> tuple[str, Record]:
        for _ in range(_ATTEMPTS):
            names = [name for name in os.listdir(self._folder) if name != "name"]
            if names == [self._name]:
                return self._name, self._view.record
            known = [(name, record) for name in names if (record := decode(name)) is not None]
            if known:
                return max(known, key=lambda pair: pair[1])
            # Not seen: a file that is renamed while a folder is listed may be listed under neither name.
        # Somebody has removed it. What this process knows is the best there is.
        files.touch(os.path.join(self._folder, self._name))
        self._words[self._hint] = self._generation
        return self._name, self._view.record

    def _adopt(self, view: View, name: str) -> None:
        self._view, self._name, self._generation = view, name, view.record.generation
        self._calm = view.record.state in _CALM
        self._flowing = view if view.record.flows and self._alone is None else None

    def _go_alone(self, error: OSError) -> View:
        alone = self._alone
        if alone is None:
            logger.error(
                "The shared circuit in %s cannot be reached: %s. This process goes on with its own.", self._folder, error
            )
            alone = self._alone = MemoryCircuit(self._view.record, self._rules)
            self._flowing = None
        return alone.newest()

    def note_failure(self, view: View, now: float) -> int:
        """See `Circuit.note_failure`."""
        newest = self._look()  # at the record itself: the hint may be older
        if (alone := self._alone) is not None:
            return alone.note_failure(newest, now)
        self.counted()
        generation = view.record.generation
        if newest.record.generation != generation:
            return 0
        # Threads of this process write to places of their own; each adds first and counts then.
        place = _RING + next(self._places) % self._store.geometry.ring
        self._seat[0][place] = _bits(now) & ~_TAG | generation & _TAG
        return self._within(generation, now)

    def failures(self, view: View, now: float) -> int:
        """See `Circuit.failures`."""
        if (alone := self._alone) is not None:
            return alone.failures(view, now)
        return self._within(view.record.generation, now)

    def _within(self, generation: int, now: float) -> int:
        oldest, tag = _bits(max(0.0, now - self._rules.timeout)) & ~_TAG, generation & _TAG
        return sum(time & _TAG == tag and time & ~_TAG > oldest for row in self._rows() for time in self._ring(row))

    def _ring(self, row: int) -> list[int]:
        # A row without a failure has an empty ring, and most rows have none.
        if not self._words[row + _FAILURES]:
            return []
        return self._words[row + _RING : row + _RING + self._store.geometry.ring].tolist()

    def _rows(self) -> range:
        geometry = self._store.geometry
        first = geometry.row(self._number, 1) // 8
        step = geometry.row_bytes // 8
        return range(first, first + geometry.workers * step, step)

    def succeeded(self, number: int, now: float) -> None:
        """See `Circuit.succeeded`."""
        words, times, base, _, _ = self._seat
        words[_SUCCESSES] = base + number
        times[_LAST_SUCCESS] = now

    def refused(self, number: int) -> None:
        """See `Circuit.refused`."""
        words, _, _, _, before = self._seat
        words[_REJECTED] = before.rejected + number + 1

    def counted(self) -> None:
        """See `Circuit.counted`."""
        _, _, _, row, before = self._seat
        _put(row, _plus(before, totals_of(self._tally)))

    def others(self, tally: Tally) -> Totals:
        """See `Circuit.others`."""
        store = self._store
        total = _less(self._seat[-1], self._forgotten())
        for slot in range(1, store.geometry.workers + 1):
            if slot != store.slot:
                total = _plus(total, _totals(store.row(self._number, slot)))
        failed = [time & ~_TAG for row in self._rows() for time in self._ring(row)]
        latest = max(failed, default=0)
        return total._replace(last_failure=struct.unpack("<d", struct.pack("<Q", latest))[0] if latest else None)

    def forget(self, tally: Tally) -> None:
        """See `Circuit.forget`."""
        before = _plus(self.others(self._tally), _plus(self._forgotten(), totals_of(self._tally)))
        _, _, _, row, own = self._seat
        own = _plus(own, totals_of(self._tally))
        self._tally = tally
        self._sit_down(row, own)
        # Rows of others cannot be set back; what they held at this moment is taken off whenever they are summed.
        common = self._store.row(self._number, 0)
        common.words[_SUCCESSES] = before.successes
        _put(common, before)
        for place in range(_RING, len(row.words)):
            row.words[place] = 0
        row.times[_LAST_SUCCESS] = 0.0

    def _forgotten(self) -> Totals:
        return _totals(self._store.row(self._number, 0))._replace(last_success=None)


_CALM = (State.CLOSED, State.DISABLED, State.RECOVERING)
"""States that refuse nobody, or of which a record does not change without a new generation."""


def default_path() -> str:
    """Return the file of this user in memory, where Linux has a place for that, else among the temporary files."""
    folder = "/dev/shm" if sys.platform == "linux" and os.path.isdir("/dev/shm") else tempfile.gettempdir()  # noqa: S108
    return os.path.join(folder, f"alphavel-circuits-{os.getuid()}")


def _bits(moment: float) -> int:
    # Of positive floats the greater one has the greater bits.
    bits: int = struct.unpack("<Q", struct.pack("<d", moment))[0]
    return bits


def _totals(row: Row) -> Totals:
    words, halves, times = row
    return Totals(
        words[_SUCCESSES], words[_FAILURES], halves[_IGNORED], words[_REJECTED], halves[_SLOW], times[_LAST_SUCCESS] or None
    )


def _put(row: Row, totals: Totals) -> None:
    """Write all but the successes, which are written one by one."""
    row.words[_FAILURES], row.words[_REJECTED] = totals.failures, totals.rejected
    row.halves[_SLOW], row.halves[_IGNORED] = min(totals.slow, _MAX_UINT32), min(totals.ignored, _MAX_UINT32)


def _plus(one: Totals, other: Totals) -> Totals:
    latest = max(one.last_success or 0.0, other.last_success or 0.0)
    return _each(operator.add, one, other)._replace(last_success=latest or None)


def _less(one: Totals, other: Totals) -> Totals:
    return _each(operator.sub, one, other)._replace(last_success=one.last_success)


def _each(operation: Callable[[int, int], int], one: Totals, other: Totals) -> Totals:
    return Totals(*map(operation, one[:5], other[:5]))


_stores: weakref.WeakSet[SharedStore] = weakref.WeakSet()


def _after_fork() -> None:
    for store in tuple(_stores):
        store.after_fork()


os.register_at_fork(after_in_child=_after_fork)
