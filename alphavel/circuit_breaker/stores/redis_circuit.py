"""One service whose record is in Redis; see `redis`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from alphavel.circuit_breaker.states import CLOSED, HALF_OPEN, OPEN, RECOVERING, Record, decode, encode, known
from alphavel.circuit_breaker.stores.contract import Totals, View, totals_of
from alphavel.circuit_breaker.stores.memory import MemoryCircuit

if TYPE_CHECKING:
    from alphavel.circuit_breaker.settings import ThresholdSettings
    from alphavel.circuit_breaker.stores.redis import RedisStore
    from alphavel.circuit_breaker.window import Tally

_BUSY_LOOK_S = 0.02
"""For how long a circuit whose permits are all taken is believed to be so."""


class _RedisView(View):
    """
    A view, and the text in Redis that it was made from.

    Attributes:
        raw: The text; empty: none.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: str, record: Record, rules: ThresholdSettings, before: View | None = None) -> None:
        super().__init__(record, rules, before)
        self.raw = raw


class _Account:
    """
    What this process counts, and under which name it tells Redis.

    Attributes:
        tally: What is counted.
        name: No other process, and no other tally, has it.
        told: What Redis is known to have been told.
    """

    __slots__ = ("name", "tally", "told")

    def __init__(self, tally: Tally, told: Totals) -> None:
        self.tally, self.told = tally, told
        self.name = secrets.token_hex(8)


class RedisCircuit:
    """See `Circuit`."""

    __slots__ = ("__weakref__", "_account", "_alone", "_changed", "_first", "_looked", "_rules", "_service", "_store", "_view")

    def __init__(self, store: RedisStore, service: str, record: Record, rules: ThresholdSettings, tally: Tally) -> None:
        self._store = store
        self._service = service
        self._rules = rules
        self._account = _Account(tally, Totals())
        self._first = record
        self._view = _RedisView("", record, rules)
        self._looked = float("-inf")
        self._alone: MemoryCircuit | None = None
        self._changed: Callable[[], None] | None = None

    # -- its record ----------------------------------------------------------------------------------------------------

    @property
    def steady(self) -> bool:
        """See `Circuit.steady`."""
        return self._store.watched and self._alone is None

    def listen(self, changed: Callable[[], None]) -> None:
        """See `Circuit.listen`."""
        self._changed = changed
        self._store.circuits[self._service] = self
        if self._alone is None:
            self.look()  # what has changed since it was made, nobody has told it
        changed()

    def told_of_change(self) -> None:
        """Have the breaker find out how calls go now."""
        if self._changed is not None:
            self._changed()

    def newest(self) -> View:
        """See `Circuit.newest`."""
        self._store.watch()
        alone = self._alone  # read once, here and below: another thread may end it at any moment
        record = self._view.record
        if alone is not None:
            if not self._store.may_ask:
                return alone.newest()
            self.look()
        elif record.state is HALF_OPEN and (
            record.taken < self._rules.half_open_requests or time.monotonic() - self._looked > _BUSY_LOOK_S
        ):
            self.look()
        alone = self._alone
        return self._view if alone is None else alone.newest()

    def meet(self) -> None:
        """Look for the first time. Where Redis has just been found away, no new service waits for it again."""
        if self._store.may_ask:
            self.look()
        else:
            self.go_alone()

    def look(self) -> None:
        """Ask Redis for the record that holds."""
        before, store = self._view, self._store
        raw: str | None = store.ask(lambda: store.redis.get(self._key("record")) or "")
        if raw is None:
            self.go_alone()
        else:
            self._take(raw, before)

    def swap(self, old: View, record: Record) -> View | None:
        """See `Circuit.swap`."""
        if (alone := self._alone) is not None:
            return alone.swap(old, record)
        if not isinstance(old, _RedisView):
            return None  # of the time when this process was alone
        new, store = encode(record), self._store
        renewed = record.generation != old.record.generation
        # What an operator has set stays until an operator takes it away.
        lasting = record.shadow or record.state not in (CLOSED, OPEN, HALF_OPEN, RECOVERING)
        kept_ms = 0 if lasting else int(1000 * (store.settings.expire + record.wait))
        keys = [self._key("record"), self._key("failures"), store.key("services"), store.key("changes")]
        arguments: list[Any] = [old.raw, new, kept_ms, int(renewed), self._service]
        answer = store.ask(lambda: store.swap_script(keys, arguments))
        if answer is None:
            self.go_alone()
            return None
        won, raw = answer
        if not won:
            self._take(raw, old)
            return None
        view = _RedisView(new, record, self._rules, old)
        if self._view is old:  # else another thread has taken up this record, or one after it
            self._view = view
        return view

    def calm(self) -> View | None:
        """See `Circuit.calm`."""
        return None

    def go_alone(self) -> None:
        """Go on with what this process knows, until Redis has told more."""
        if self._alone is None:
            self._alone = MemoryCircuit(self._view.record, self._rules)
            self.told_of_change()

    def _take(self, raw: str, before: View) -> None:
        """
        Take up what Redis said to somebody who had seen `before`.

        Where another thread has taken something up meanwhile, that may be newer: it stays. Whatever was changed last is
        published last, so the listener looks again after it.
        """
        self._looked = time.monotonic()
        was_alone, self._alone = self._alone, None
        if raw != self._view.raw and self._view is before:
            record, now = decode(raw) if raw else None, self._store.now()
            if record is None:
                # Gone. The new generation is one that nobody has seen: no late call is taken for one of it.
                record = self._first._replace(generation=int(now * 1e6), since=now)
            self._view = _RedisView(raw, known(record, now), self._rules, self._view)
        if was_alone is not None:
            self.told_of_change()

    # -- its failures --------------------------------------------------------------------------------------------------

    def note_failure(self, view: View, now: float) -> int:
        """See `Circuit.note_failure`."""
        if self._alone is not None:
            return self._note_alone(view, now)
        newest, store, rules = self._view, self._store, self._rules
        if view.record.generation != newest.record.generation:
            return 0
        keys = [self._key("record"), self._key("failures"), store.key("services")]
        since = repr(now - rules.timeout)
        arguments: list[Any] = [newest.raw, repr(now), since, rules.failure_threshold, rules.timeout, self._service]
        answer = store.ask(lambda: store.fail_script(keys, arguments))
        if answer is None:
            self.go_alone()
            return self._note_alone(view, now)
        noted, what = answer
        if noted:
            return int(what)
        self._take(what, newest)
        self.told_of_change()
        return 0

    def _note_alone(self, view: View, now: float) -> int:
        alone = self._alone
        if alone is None:
            return 0
        newest = alone.newest()
        return alone.note_failure(newest, now) if newest.record.generation == view.record.generation else 0

    def failures(self, view: View, now: float) -> int:
        """See `Circuit.failures`."""
        alone, store = self._alone, self._store
        if alone is not None:
            return alone.failures(alone.newest(), now)
        times = store.ask(lambda: store.redis.lrange(self._key("failures"), 0, -1)) or []
        return sum(float(moment) > now - self._rules.timeout for moment in times)

    # -- its totals ----------------------------------------------------------------------------------------------------

    def succeeded(self, number: int, now: float) -> None:
        """See `Circuit.succeeded`."""

    def refused(self, number: int) -> None:
        """See `Circuit.refused`."""

    def counted(self) -> None:
        """See `Circuit.counted`."""

    def others(self, tally: Tally) -> Totals:
        """See `Circuit.others`."""
        if not self._store.may_ask:
            return Totals()
        self._store.ask_for_reports()
        return self._tell(self._account) or Totals()

    def report(self) -> None:
        """Tell what this process has counted, if there is anything new."""
        account = self._account
        if totals_of(account.tally) != account.told:
            self._tell(account)

    def forget(self, tally: Tally) -> None:
        """See `Circuit.forget`."""
        # What was counted until now is told once more and forgotten in one step: a report that is under way in another
        # thread then has nothing to add. What is counted from now on has a name of its own.
        before, self._account = self._account, _Account(tally, Totals())
        self._tell(before, forget=True)

    def after_fork(self) -> None:
        """Tell under a name of its own what a new process counts; what it was born with its parent tells."""
        tally = self._account.tally
        self._account = _Account(tally, totals_of(tally))
        self.told_of_change()

    def _tell(self, account: _Account, forget: bool = False) -> Totals | None:
        """Tell what was counted; return what all others have, as of the same step. None: Redis cannot be reached."""
        own, store = totals_of(account.tally), self._store
        keys = [self._key("totals"), store.key("told", f"{self._service}:{account.name}"), store.key("services")]
        arguments: list[Any] = [*own[:5], *account.told[:5], int(store.settings.expire), self._service, int(forget)]
        all_: list[int] | None = store.ask(lambda: store.report_script(keys, arguments))
        if all_ is None:
            return None
        account.told = own
        return Totals(*[every - mine for every, mine in zip(all_, own[:5], strict=True)])

    def _key(self, kind: str) -> str:
        return self._store.key(kind, self._service)
