"""
What all integrations share: which service a call goes to, and which exceptions are that service's failures.

An integration knows better than the general rule: a refused connection is the service's failure, an address that cannot be
parsed is the caller's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Union
from urllib.parse import urlsplit

from alphavel.circuit_breaker.errors import CallTimeoutError
from alphavel.circuit_breaker.facade import CircuitBreaker
from alphavel.circuit_breaker.fallbacks import Policy
from alphavel.circuit_breaker.judging import Judge

if TYPE_CHECKING:
    from alphavel.circuit_breaker.breaker import Breaker
    from alphavel.circuit_breaker.manager import CircuitBreakerManager

ServiceName = Union[str, Callable[[str], str], None]


def host_of(url: str) -> str:
    """Return the host of a URL, and its port where the URL names one: `api.example.com`, `127.0.0.1:8080`."""
    parts = urlsplit(url)
    host = parts.hostname or "(no host)"
    return f"{host}:{parts.port}" if parts.port else host


def failures(*types: type[BaseException], but: Callable[[BaseException], bool] | None = None) -> Judge:
    """
    Return a judge for whom an exception of these types is the service's failure, and every other `Exception` is not.

    Args:
        types: The service's failures. A call's time limit is always one, `gevent.Timeout` too.
        but: Says of an exception of these types that it is none.
    """
    known = (*types, CallTimeoutError)

    def is_no_failure(error: BaseException) -> bool:
        if not isinstance(error, Exception):
            return False  # the breaker's general rule knows these: GreenletExit, gevent.Timeout, …
        return not isinstance(error, known) or (but is not None and but(error))

    return Judge(ignore=is_no_failure)


def http_failed(status: int, has_retry_after: bool) -> bool:
    """Whether an HTTP answer is the server's failure: 5xx, or 429 that asks to stay away for a while. 4xx are the caller's."""
    return status >= 500 or (status == 429 and has_retry_after)


class Protection:
    """
    Calls of one client through the breakers of the services it talks to.

    Attributes:
        judge: Tells failures.
    """

    def __init__(
        self,
        service: ServiceName,
        judge: Judge,
        manager: CircuitBreakerManager | None = None,
        fallback: Callable[..., Any] | None = None,
    ) -> None:
        """
        Args:
            service: Name of the one service, or a function that makes it from the address; None: the host.
            judge: Tells failures.
            manager: Whose breakers; None: those of this process, as configured.
            fallback: Answers where a call is refused (with `fallback_on: failure` also where it fails), given the exception
                if it takes one. None: the exception is raised. The fallbacks of the configuration are not asked: what is
                returned must be what the client's library returns.

        Raises:
            TypeError: The service is no name and no function.
        """
        if service is not None and not callable(service) and (not isinstance(service, str) or not service):
            raise TypeError(f"service takes a name, a function that makes one of an address, or None; got {service!r}.")
        self._service = service
        self._manager = CircuitBreaker if manager is None else manager
        self._fallback = Policy(fallback).fallback
        self.judge = judge

    def breaker(self, address: str) -> Breaker:
        """Return the breaker of the service at an address."""
        service = self._service
        if service is None:
            service = host_of(address)
        elif callable(service):
            service = service(address)
        return self._manager.service(service)

    def policy(self, breaker: Breaker) -> Policy:
        """Return what calls of this client want of a breaker."""
        return breaker.own_policy.replaced(judge=self.judge, fallback=self._fallback, cached=False)

    def call(self, address: str, function: Callable[[], Any]) -> Any:
        """Call a function unless the circuit of the service at this address refuses."""
        breaker = self.breaker(address)
        return breaker.run(function, self.policy(breaker))

    async def call_async(self, address: str, function: Callable[[], Awaitable[Any]]) -> Any:
        """Like `call`; awaits what the function returns."""
        breaker = self.breaker(address)
        return await breaker.run_async(function, self.policy(breaker))
