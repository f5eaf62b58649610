"""One structured log line for each change of state, and the listeners told of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from alphavel.circuit_breaker.listeners import Event, Listeners, logger, tell
from alphavel.circuit_breaker.states import Record, State

if TYPE_CHECKING:
    from collections.abc import Mapping

_BAD = (State.OPEN, State.ISOLATED)


def announce(service: str, listeners: Listeners, old: Record, new: Record, why: str) -> None:
    """
    Say that a circuit has changed. Called after the change holds; a handler that raises is logged.

    The line reads `circuit changed service='payment-api' from=closed to=open reason='5 failures within 60 s' retry_after=30.0`;
    the same pairs are attributes of the log record, prefixed with `circuit_`.
    """
    retry_after = new.wait if new.state is State.OPEN else None
    if logger.isEnabledFor(logging.INFO):
        level = logging.WARNING if new.state in _BAD and not new.shadow else logging.INFO
        pairs: Mapping[str, object] = {
            "service": service,
            "from": old.state.value,
            "to": new.state.value,
            "reason": why,
            "retry_after": retry_after,
            "metrics_only": new.shadow,
        }
        logger.log(
            level,
            "circuit changed service=%r from=%s to=%s reason=%r retry_after=%s metrics_only=%s",
            *pairs.values(),
            extra={f"circuit_{name}": value for name, value in pairs.items()},
        )
    if listeners.state_change and (old.state, old.shadow) != (new.state, new.shadow):
        tell(
            listeners.state_change,
            Event("state_change", service, new.state, previous=old.state, reason=why, retry_after=retry_after),
        )
