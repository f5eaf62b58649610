"""
What workers of a fleet say of themselves: facts by key, the last one of a key counts. Pure: no I/O.

A fact is that a channel has so many subscribers here, that a user is on a presence channel here, or that an app, a user or a
client's address has so many connections here. Whoever reads it needs nothing that came before, so that it does not matter who
carries it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from alphavel.websocket.bus.envelope import MalformedError

LASTING = frozenset(("channel", "member", "user", "connections", "address"))
"""The kinds of facts that are so until something else is said; others are said once."""


class Fact(NamedTuple):
    """
    What a fact is about.

    Attributes:
        kind: `channel`, `member`, `user`, `connections`, `address`; `leader`: that a worker leads no more; `told_…` and
            `untold_…`: see `ledger`.
        app: Id of the app; empty for an address.
        name: Name of the channel, or the address; empty for a user, and for connections.
        user: Id of the user; empty for a channel, an address, and for connections.
    """

    kind: str
    app: str
    name: str
    user: str


def write_facts(facts: Iterable[tuple[Fact, Any]]) -> bytes:
    """Return facts as JSON; the value None: it is not so any more."""
    return orjson.dumps(facts_content(facts), option=orjson.OPT_NON_STR_KEYS)


def facts_content(facts: Iterable[tuple[Fact, Any]]) -> list[list[Any]]:
    """Return facts as `write_facts` writes them."""
    return [[*fact, value] for fact, value in facts]


def read_facts(data: bytes) -> list[tuple[Fact, Any]]:
    """
    Read what `write_facts` wrote.

    Raises:
        MalformedError: It is not like that.
    """
    try:
        content = orjson.loads(data)
    except ValueError as error:
        raise MalformedError(f"Expected facts: {error}") from None
    return facts_of(content)


def facts_of(content: Any) -> list[tuple[Fact, Any]]:
    """
    Read what `facts_content` returned.

    Raises:
        MalformedError: It is not like that.
    """
    try:
        facts = [(Fact(kind, app, name, user), value) for kind, app, name, user, value in content]
    except (TypeError, ValueError) as error:
        raise MalformedError(f"Expected facts: {error}") from None
    for fact, value in facts:
        if not all(isinstance(part, str) for part in fact) or not (value is None or _FITS.get(fact.kind, _any)(value)):
            raise MalformedError(f"Expected a fact; got {(*fact, value)!r:.200}.")
    return facts


def _any(value: Any) -> bool:
    return True  # of a newer version, which knows what it is


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _is_member(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], (int, float))


_FITS = {"channel": _is_count, "user": _is_count, "address": _is_count, "member": _is_member}
