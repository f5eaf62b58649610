"""
A circuit breaker without locks, around blocking calls: for greenlets, threads, asyncio and several processes alike.

    from alphavel.circuit_breaker import CircuitBreaker, CircuitOpenError

    answer = CircuitBreaker.call("payment-api", lambda: requests.post(url, timeout=5), fallback=lambda: QUEUED)

Importing this package imports neither gevent nor Flask nor redis: what is not used costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Blueprint

    from alphavel.circuit_breaker.errors import CallTimeoutError, CircuitOpenError, FailedResultError, StoreError
    from alphavel.circuit_breaker.facade import CircuitBreaker
    from alphavel.circuit_breaker.listeners import Event
    from alphavel.circuit_breaker.manager import CircuitBreakerManager
    from alphavel.circuit_breaker.settings import CircuitBreakerSettings
    from alphavel.circuit_breaker.states import State

    blueprint: Blueprint

__version__ = "1.0.0"

_HOMES = {
    "CallTimeoutError": "errors",
    "CircuitBreaker": "facade",
    "CircuitBreakerManager": "manager",
    "CircuitBreakerSettings": "settings",
    "CircuitOpenError": "errors",
    "Event": "listeners",
    "FailedResultError": "errors",
    "State": "states",
    "StoreError": "errors",
    "blueprint": "integrations.flask",
}

# Without `blueprint`: `from alphavel.circuit_breaker import *` is to work where Flask is not installed.
__all__ = [
    "CallTimeoutError",
    "CircuitBreaker",
    "CircuitBreakerManager",
    "CircuitBreakerSettings",
    "CircuitOpenError",
    "Event",
    "FailedResultError",
    "State",
    "StoreError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__name__):
            raise
        raise ImportError(f"{name} needs {error.name}, which is not installed: pip install {error.name}") from error
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
