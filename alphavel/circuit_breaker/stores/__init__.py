"""Where circuits are kept: one contract, several stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from alphavel.circuit_breaker.errors import StoreError
from alphavel.circuit_breaker.stores.contract import Store

if TYPE_CHECKING:
    from alphavel.circuit_breaker.settings import CircuitBreakerSettings


def make_store(settings: CircuitBreakerSettings, clock: Callable[[], float]) -> Store:
    """
    Make the store that `default` names.

    Raises:
        StoreError: It cannot be used.
        ConfigurationError: What it is configured with makes no sense.
    """
    if settings.default == "shared":
        from alphavel.circuit_breaker.stores.shared import SharedStore

        return SharedStore(settings.stores.shared, settings.largest_threshold, clock)
    if settings.default == "redis":
        try:
            from alphavel.circuit_breaker.stores.redis import RedisStore
        except ImportError as error:
            raise StoreError('The store `redis` needs the redis package: pip install "alphavel[redis]".') from error

        return RedisStore(settings.stores.redis, clock)
    from alphavel.circuit_breaker.stores.memory import MemoryStore

    return MemoryStore(clock)
