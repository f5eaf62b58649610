"""
`urllib3`: a pool manager.

    http = CircuitBreakerPoolManager()                        # a breaker for each host
    http = CircuitBreakerPoolManager("payment-api", timeout=5.0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, PoolManager
from urllib3._request_methods import RequestMethods  # the only home it has in urllib3 2
from urllib3.exceptions import HTTPError, LocationValueError
from urllib3.util import Url

from alphavel.circuit_breaker.integrations.protection import Protection, ServiceName, failures, http_failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from alphavel.circuit_breaker.manager import CircuitBreakerManager


class CircuitBreakerPoolManager(PoolManager):
    """
    A `PoolManager` whose requests go through circuit breakers. A refused one raises `CircuitOpenError` at once.

    Failures: connections that cannot be made or break, time-outs, 5xx, and 429 with Retry-After. Such an answer is returned
    as ever. Each redirect is a call of its own, to the breaker of its own host. What `retries` repeats is one call.
    """

    def __init__(
        self,
        service: ServiceName = None,
        *,
        manager: CircuitBreakerManager | None = None,
        fallback: Callable[..., BaseHTTPResponse] | None = None,
        failure_if: Callable[[BaseHTTPResponse], bool] | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            service, manager, fallback: See `Protection`; `service` may be a function of the address `scheme://host:port`.
            failure_if: Says of an answer whether it is a failure, in place of the rule above.
            options: Those of `PoolManager`.
        """
        super().__init__(**options)
        judge = failures(HTTPError, OSError, but=lambda error: isinstance(error, LocationValueError))
        judge.failure_if = failure_if or is_failure
        self._protection = Protection(service, judge, manager, fallback)

    def connection_from_host(self, *args: Any, **options: Any) -> HTTPConnectionPool:
        """Return the pool of a host, its requests protected."""
        pool: Any = _ProtectedPool(super().connection_from_host(*args, **options), self._protection)
        return pool  # type: ignore[no-any-return]


class _ProtectedPool(RequestMethods):
    """
    A connection pool with a breaker in front of it, not inside: a pool repeats a request by calling itself, and that is
    still the same call.
    """

    def __init__(self, pool: HTTPConnectionPool, protection: Protection) -> None:
        super().__init__(pool.headers)
        self._pool = pool
        self._protection = protection
        default = {"http": 80, "https": 443}.get(pool.scheme or "")
        self._address = Url(scheme=pool.scheme, host=pool.host, port=None if pool.port == default else pool.port).url

    def urlopen(self, *args: Any, **options: Any) -> BaseHTTPResponse:
        response: BaseHTTPResponse = self._protection.call(self._address, lambda: self._pool.urlopen(*args, **options))
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def is_failure(response: BaseHTTPResponse) -> bool:
    """Whether an answer is the server's failure; see `http_failed`."""
    return http_failed(response.status, "Retry-After" in response.headers)
