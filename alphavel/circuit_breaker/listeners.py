"""
The application's own code that wants to know: `manager.on("state_change", handler)`.

Handlers run in the caller's thread or greenlet after the state has settled. One that raises is logged and hurts no call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from alphavel.circuit_breaker.states import State

logger = logging.getLogger("alphavel.circuit_breaker")

EventName = Literal["state_change", "refused", "failed", "slow", "succeeded"]
EVENTS: tuple[EventName, ...] = ("state_change", "refused", "failed", "slow", "succeeded")


@dataclass(frozen=True)
class Event:
    """
    Something that happened to a service.

    Attributes:
        name: `state_change`, `refused` (in METRICS_ONLY: would have been), `failed`, `slow`, `succeeded`.
        service: Name of the service.
        state: Its state, after a change the new one.
        previous: state_change: the state before.
        reason: state_change: why, in words.
        duration: failed, slow, succeeded: seconds the call took.
        error: failed: the exception; None where `failure_if` judged the result.
        retry_after: state_change to open, refused: seconds until it makes sense to ask again; None where nobody knows.
    """

    name: EventName
    service: str
    state: State
    previous: State | None = None
    reason: str | None = None
    duration: float | None = None
    error: BaseException | None = None
    retry_after: float | None = None


Handler = Callable[[Event], object]


class Listeners:
    """Handlers by event. Lists are replaced, never changed: whoever is walking over one is not disturbed."""

    __slots__ = EVENTS

    def __init__(self) -> None:
        for name in EVENTS:
            setattr(self, name, ())

    state_change: tuple[Handler, ...]
    refused: tuple[Handler, ...]
    failed: tuple[Handler, ...]
    slow: tuple[Handler, ...]
    succeeded: tuple[Handler, ...]

    def add(self, name: EventName, handler: Handler) -> None:
        """
        Register a handler.

        Raises:
            ValueError: There is no such event.
        """
        setattr(self, name, (*self._of(name), handler))

    def remove(self, name: EventName, handler: Handler) -> None:
        """
        Forget a handler; nothing happens where it is not registered.

        Raises:
            ValueError: There is no such event.
        """
        setattr(self, name, tuple(known for known in self._of(name) if known != handler))

    def _of(self, name: str) -> tuple[Handler, ...]:
        if name not in EVENTS:
            raise ValueError(f"There is no event {name!r}; there are {', '.join(EVENTS)}.")
        handlers: tuple[Handler, ...] = getattr(self, name)
        return handlers

    @property
    def watching(self) -> bool:
        """Whether somebody wants to know how long each call took."""
        return bool(self.succeeded or self.failed or self.slow)


def tell(handlers: tuple[Handler, ...], event: Event) -> None:
    """Call all handlers with an event."""
    for handler in handlers:
        try:
            handler(event)
        except Exception:
            logger.exception("A listener of %s raised; the call it was told of goes on.", event.name)
