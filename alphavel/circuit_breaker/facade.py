"""`CircuitBreaker`: the manager of this process, found when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alphavel.foundation import facade

if TYPE_CHECKING:
    from alphavel.circuit_breaker.manager import CircuitBreakerManager

CircuitBreaker: CircuitBreakerManager = facade(
    "circuit_breaker", hint='Install it with `pip install "alphavel[circuit-breaker]"`.'
)
