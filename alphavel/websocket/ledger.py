"""
What webhooks are to be told once of what all workers of a fleet see: that channels come and go, and members.

Each worker sees each change; the one that leads tells it, and tells the others that it has. What it could not tell any more,
the next one that leads does: every worker keeps what is not yet told, which is nothing most of the time. Plain dicts, no I/O.
"""

from __future__ import annotations

from typing import Any

from alphavel.websocket.bus.facts import Fact

_EVENTS = {"channel": ("channel_vacated", "channel_occupied"), "member": ("member_removed", "member_added")}
_TOLD = "told_"


def event_of(fact: Fact, is_so: bool) -> tuple[str, dict[str, Any]]:
    """Return the name of the event that says so of a channel or a member, and its payload."""
    user = {"user_id": fact.user} if fact.kind == "member" else {}
    return _EVENTS[fact.kind][is_so], {"channel": fact.name, **user}


def told_fact(fact: Fact) -> Fact:
    """Return what says that webhooks have been told of a channel or a member."""
    return fact._replace(kind=_TOLD + fact.kind)


def what_was_told(fact: Fact) -> Fact | None:
    """Return what `told_fact` was made of, None for another fact."""
    kind = fact.kind[len(_TOLD) :]
    return fact._replace(kind=kind) if fact.kind.startswith(_TOLD) and kind in _EVENTS else None


class Ledger:
    """What is not yet told."""

    def __init__(self) -> None:
        self._told_last: dict[Fact, bool] = {}  # of those only that are another way now

    def changed(self, fact: Fact, is_so: bool, is_news: bool = True) -> bool:
        """Note a change; without news it is one that was told long ago. Return whether it is to be told."""
        if self._told_last.get(fact) is is_so:
            del self._told_last[fact]
            return False
        if is_news:
            self._told_last.setdefault(fact, not is_so)
        return is_news

    def drop(self, fact: Fact) -> None:
        """Note that this worker tells it now."""
        self._told_last.pop(fact, None)

    def told(self, fact: Fact, was_so: bool, is_so: bool) -> None:
        """Note that webhooks have been told that something `was_so`; it `is_so` now."""
        if was_so is is_so:
            self._told_last.pop(fact, None)
        else:
            self._told_last[fact] = was_so

    def take(self) -> list[tuple[Fact, bool]]:
        """Return what is to be told, as it is now, and keep nothing."""
        told_last, self._told_last = self._told_last, {}
        return [(fact, not was_so) for fact, was_so in told_last.items()]

    def __len__(self) -> int:
        return len(self._told_last)
