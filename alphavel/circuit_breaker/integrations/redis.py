"""
`redis-py`: a client, sync or async, whose commands go through a circuit breaker.

    cache = protect(redis.Redis.from_url(url, socket_timeout=0.5), "cache")
    cache.get("user:7")                    # CircuitOpenError at once while Redis is away
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import AuthenticationError, ConnectionError, TimeoutError

from alphavel.circuit_breaker.integrations.protection import Protection, failures

if TYPE_CHECKING:
    from alphavel.circuit_breaker.manager import CircuitBreakerManager

ClientT = TypeVar("ClientT")


def protect(client: ClientT, service: str = "redis", *, manager: CircuitBreakerManager | None = None) -> ClientT:
    """
    Have every command and every pipeline of a client go through the breaker of `service`.

    Failures: connections that cannot be made or break, time-outs, a server that is still loading. What Redis answers to a wrong
    command, or to a wrong password, is none. Pub/sub connections listen rather than call; they are left alone.

    Args:
        client: A `redis.Redis` or `redis.asyncio.Redis`. Give it a `socket_timeout`, or a hanging server holds its callers.
        service: Name of the service.
        manager: Whose breakers; None: those of this process, as configured.

    Returns:
        The same client.

    Raises (each command):
        CircuitOpenError: The circuit refuses.
    """
    judge = failures(ConnectionError, TimeoutError, OSError, but=lambda error: isinstance(error, AuthenticationError))
    protection = Protection(service, judge, manager)
    _through(client, "execute_command", protection)
    make_pipeline = client.pipeline  # type: ignore[attr-defined]

    def pipeline(*args: Any, **options: Any) -> Any:
        made = make_pipeline(*args, **options)
        for method in ("execute", "immediate_execute_command"):  # the second is what WATCH and reads after it use
            _through(made, method, protection)
        return made

    client.pipeline = pipeline  # type: ignore[attr-defined]
    return client


def _through(thing: Any, method: str, protection: Protection) -> None:
    """Put the breaker in front of a method of one object."""
    original = getattr(thing, method)
    call: Any = protection.call_async if inspect.iscoroutinefunction(original) else protection.call

    def protected(*args: Any, **options: Any) -> Any:
        return call("", lambda: original(*args, **options))

    setattr(thing, method, protected)
