"""
Calls that may fail for long: through the circuit breaker of this process, where one is installed.

A package that calls a service says so with `guarded`, and need not know who guards it. A breaker is whatever is bound to
`circuit_breaker` and has the one method of `Breaker`; one that has `suggest`, too, is told what suits the service.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from alphavel.foundation.container import Container, container
from alphavel.foundation.providers import register_all

T = TypeVar("T")

BINDING = "circuit_breaker"


class Breaker(Protocol):
    """What is asked of a circuit breaker."""

    def call(self, service: str, function: Callable[[], T]) -> T:
        """Call the function and return its result, or raise at once where the service is known to be down."""


def guarded(
    service: str,
    function: Callable[[], T],
    bindings: Container | None = None,
    suggested: Mapping[str, Any] | None = None,
) -> T:
    """
    Call a function that may fail because a service is down.

    Args:
        service: Name of the service, for the breaker's configuration and statistics.
        function: What to call.
        bindings: Where to look for a breaker; None: the container of this process.
        suggested: Thresholds of this service where nobody has configured others: `suggest(service, thresholds)` of the breaker.

    Returns:
        What the function returns.

    Raises:
        Whatever the function raises, and what the breaker raises when it refuses the call.
    """
    if bindings is None:
        bindings = container()
        _register_once()
    if not bindings.bound(BINDING):
        return function()
    breaker: Breaker = bindings.make(BINDING)
    if suggested is not None:
        suggest = getattr(breaker, "suggest", None)
        if suggest is not None:
            suggest(service, suggested)
    return breaker.call(service, function)


@functools.cache
def _register_once() -> None:
    if not container().bound(BINDING):
        register_all(container())
