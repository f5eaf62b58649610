"""
What webhooks are to be told once of what all workers of a fleet see: that channels come and go, and members.

Each worker sees each change. The one that leads tells it, and says to the others that it was told when the receivers have taken
it. Until then every worker keeps it: what one that is killed could not tell any more the next one does. That is nothing most of
the time. Plain dicts, no I/O; the time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any, NamedTuple

from alphavel.websocket.bus.facts import Fact

_EVENTS = {"channel": ("channel_vacated", "channel_occupied"), "member": ("member_removed", "member_added")}
_MEANINGS = {name: (kind, is_so) for kind, names in _EVENTS.items() for is_so, name in zip((False, True), names, strict=True)}
_TOLD, _UNTOLD = "told_", "untold_"
_UNSURE = "unsure"
_MAX_UNDONE = 10_000


def event_of(fact: Fact, is_so: bool) -> tuple[str, dict[str, Any]]:
    """Return the name of the event that says so of a channel or a member, and its payload."""
    user = {"user_id": fact.user} if fact.kind == "member" else {}
    return _EVENTS[fact.kind][is_so], {"channel": fact.name, **user}


def fact_of(app_id: str, name: str, payload: dict[str, Any]) -> tuple[Fact, bool] | None:
    """Return what an event says, as `event_of` takes it; None: nothing of what all workers see."""
    kind, is_so = _MEANINGS.get(name, ("", False))
    return (Fact(kind, app_id, payload["channel"], payload.get("user_id", "")), is_so) if kind else None


def told_fact(fact: Fact) -> Fact:
    """Return what says that webhooks have been told of a channel or a member."""
    return fact._replace(kind=_TOLD + fact.kind)


def untold_fact(fact: Fact) -> Fact:
    """Return what says that webhooks are yet to be told of one; its value: what they were told last."""
    return fact._replace(kind=_UNTOLD + fact.kind)


def what_was_told(fact: Fact) -> Fact | None:
    """Return what `told_fact` was made of, None for another fact."""
    return _without(_TOLD, fact)


def what_is_untold(fact: Fact) -> Fact | None:
    """Return what `untold_fact` was made of, None for another fact."""
    return _without(_UNTOLD, fact)


def _without(prefix: str, fact: Fact) -> Fact | None:
    kind = fact.kind[len(prefix) :]
    return fact._replace(kind=kind) if fact.kind.startswith(prefix) and kind in _EVENTS else None


class _Last(NamedTuple):
    was_so: bool  # what webhooks were told
    since: float | None  # when it became another way; None: that is yet to be seen here


class Ledger:
    """What is not known to be told."""

    def __init__(self, held_s: float, max_undone: int = _MAX_UNDONE) -> None:
        """
        Args:
            held_s: What is undone within so many seconds nobody has told: it was held back for longer.
            max_undone: Changes that are kept though they are undone; past it the oldest are forgotten.
        """
        self._held_s = held_s
        self._max_undone = max_undone
        self._last: dict[Fact, _Last] = {}  # of those only that are another way now
        # As they were told last, and another way meanwhile: whoever was about to tell that may have done so, or not.
        self._undone: dict[Fact, bool] = {}

    def changed(self, fact: Fact, is_so: bool, now: float, is_news: bool = True) -> bool:
        """Note a change; without news it is one that was told long ago. Return whether it is to be told."""
        last = self._last.get(fact)
        if last is not None and last.was_so is is_so:
            del self._last[fact]
            # Of the two ways that a change is undone, it is leaving and coming back that may not have been told.
            if last.since is not None and not (is_so and now - last.since < self._held_s):
                self._note_undone(fact, is_so)
            return False
        is_unsure = self._undone.pop(fact, None) is not None
        if is_news or is_unsure:
            self._last.setdefault(fact, _Last(not is_so, -inf if is_unsure else now))
        return is_news

    def told(self, fact: Fact, was_so: bool, is_so: bool) -> None:
        """Note that webhooks have been told that something `was_so`; it `is_so` now."""
        has_seen_both = self._undone.pop(fact, None) is not None
        if was_so is is_so:
            self._last.pop(fact, None)
        else:
            self._last.setdefault(fact, _Last(was_so, -inf if has_seen_both else None))

    def heard(self, fact: Fact, value: Any, is_so: bool, now: float) -> None:
        """Note what another ledger says of what is untold, see `facts`; it `is_so` now."""
        if fact in self._last or fact in self._undone:
            return
        if value is not is_so and isinstance(value, bool):
            self._last[fact] = _Last(value, now)
        else:
            self._note_undone(fact, is_so)

    def facts(self) -> Iterator[tuple[Fact, Any]]:
        """Return what there is to say to others that have not seen it."""
        for fact, last in self._last.items():
            yield untold_fact(fact), last.was_so
        for fact in self._undone:
            yield untold_fact(fact), _UNSURE

    def untold(self) -> list[tuple[Fact, list[bool]]]:
        """Return what is to be told, one thing after the other, the last as it is now."""
        unsure = [(fact, [True] if is_so else [True, False]) for fact, is_so in self._undone.items()]
        return [(fact, [not last.was_so]) for fact, last in self._last.items()] + unsure

    def _note_undone(self, fact: Fact, is_so: bool) -> None:
        self._undone[fact] = is_so
        if len(self._undone) > self._max_undone:
            del self._undone[next(iter(self._undone))]

    def __len__(self) -> int:
        return len(self._last) + len(self._undone)
