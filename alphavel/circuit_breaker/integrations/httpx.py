"""
`httpx`: transports, for `Client` and for `AsyncClient`.

    client = httpx.Client(transport=CircuitBreakerTransport("payment-api"))
    client = httpx.AsyncClient(transport=AsyncCircuitBreakerTransport())        # a breaker for each host
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import httpx

from alphavel.circuit_breaker.errors import CircuitOpenError
from alphavel.circuit_breaker.fallbacks import NOTHING
from alphavel.circuit_breaker.integrations.protection import Protection, ServiceName, failures, http_failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from alphavel.circuit_breaker.breaker import Breaker, Permit
    from alphavel.circuit_breaker.fallbacks import Policy
    from alphavel.circuit_breaker.manager import CircuitBreakerManager


class _Call:
    """
    A request under way. Its permit is held until the body has come to its end: a server that sends headers and then hangs
    has failed.
    """

    def __init__(self, breaker: Breaker, policy: Policy) -> None:
        self._breaker = breaker
        self._policy = policy
        self._began = breaker.now()
        self._permit: Permit | None = None

    def enter(self) -> httpx.Response | None:
        """Begin. Returns what answers in place of the service where the call is refused; raises where nothing does."""
        permit = self._breaker.enter(self._began)
        if isinstance(permit, CircuitOpenError):
            try:
                answer: httpx.Response = self._breaker.refused(permit, self._policy)
            finally:
                del permit  # see Breaker.refused
            return answer
        self._permit = permit
        return None

    def succeeded(self, response: httpx.Response | None = None) -> httpx.Response | None:
        """End; returns what answers instead, where the answer was judged a failure and a fallback is to run."""
        permit, self._permit = self._permit, None
        if permit is None:
            return response
        policy = self._policy if response is not None else self._policy.of_block()
        answer: httpx.Response | None = self._breaker.succeeded(permit, self._began, response, policy)
        return answer

    def failed(self, error: BaseException) -> httpx.Response | None:
        """End; returns what answers instead, where a fallback is to run."""
        permit, self._permit = self._permit, None
        if permit is None:
            return None
        answer = self._breaker.failed(permit, self._began, error, self._policy)
        return None if answer is NOTHING else answer

    def broke_off(self, error: BaseException) -> None:
        """End in the middle of the body: nothing can answer instead any more."""
        self._policy = self._policy.of_block()
        self.failed(error)

    def is_failure(self, response: httpx.Response) -> bool:
        """Whether the status says already that the call has failed."""
        judge = self._policy.judge.failure_if
        try:
            return judge is not None and bool(judge(response))
        except Exception:  # noqa: BLE001 (somebody else's code)
            return True  # `succeeded` asks it again, logs it and counts a failure


# What a transport meets on the network; `httpx.InvalidURL`, an unsupported protocol and the like are the caller's mistakes.
_NETWORK = (httpx.TimeoutException, httpx.NetworkError, httpx.ProxyError, httpx.RemoteProtocolError, OSError)


class CircuitBreakerTransport(httpx.BaseTransport):
    """
    A transport whose requests go through circuit breakers. A refused one raises `CircuitOpenError` at once.

    Failures: connections that cannot be made or break, also in the middle of a body, time-outs, 5xx, and 429 with
    Retry-After. Such an answer is returned as ever. Each redirect is a call of its own, to the breaker of its own host. A call
    ends with its body: who streams must read to the end or close, as httpx wants it anyway.
    """

    def __init__(
        self,
        service: ServiceName = None,
        *,
        transport: httpx.BaseTransport | None = None,
        manager: CircuitBreakerManager | None = None,
        fallback: Callable[..., httpx.Response] | None = None,
        failure_if: Callable[[httpx.Response], bool] | None = None,
    ) -> None:
        """
        Args:
            service, manager, fallback: See `Protection`; `service` may be a function of the URL.
            transport: The one that does the work; None: `httpx.HTTPTransport()`.
            failure_if: Says of an answer, its body not read yet, whether it is a failure, in place of the rule above.
        """
        self._protection = _protection(service, manager, fallback, failure_if)
        self._transport = httpx.HTTPTransport() if transport is None else transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; see `httpx.BaseTransport`."""
        call = _begin(self._protection, request)
        if (instead := call.enter()) is not None:
            return instead
        try:
            response = self._transport.handle_request(request)
        except BaseException as error:
            if (instead := call.failed(error)) is not None:
                return instead
            raise
        if call.is_failure(response):
            answer = call.succeeded(response) or response
            if answer is not response:
                response.close()
            return answer
        response.stream = _Body(response.stream, call)
        return response

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()


class AsyncCircuitBreakerTransport(httpx.AsyncBaseTransport):
    """`CircuitBreakerTransport` for `httpx.AsyncClient`."""

    def __init__(
        self,
        service: ServiceName = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        manager: CircuitBreakerManager | None = None,
        fallback: Callable[..., httpx.Response] | None = None,
        failure_if: Callable[[httpx.Response], bool] | None = None,
    ) -> None:
        """See `CircuitBreakerTransport`; the default transport is `httpx.AsyncHTTPTransport()`."""
        self._protection = _protection(service, manager, fallback, failure_if)
        self._transport = httpx.AsyncHTTPTransport() if transport is None else transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; see `httpx.AsyncBaseTransport`."""
        call = _begin(self._protection, request)
        if (instead := call.enter()) is not None:
            return instead
        try:
            response = await self._transport.handle_async_request(request)
        except BaseException as error:
            if (instead := call.failed(error)) is not None:
                return instead
            raise
        if call.is_failure(response):
            answer = call.succeeded(response) or response
            if answer is not response:
                await response.aclose()
            return answer
        response.stream = _AsyncBody(response.stream, call)
        return response

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any, call: _Call) -> None:
        self._stream = stream
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except GeneratorExit:
            raise  # the reader has had enough; `close` follows
        except BaseException as error:
            self._call.broke_off(error)
            raise
        self._call.succeeded()

    def close(self) -> None:
        self._call.succeeded()  # read to the end or not: what came was fine
        self._stream.close()


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, stream: Any, call: _Call) -> None:
        self._stream = stream
        self._call = call

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._stream:
                yield piece
        except GeneratorExit:
            raise  # the reader has had enough; `aclose` follows
        except BaseException as error:
            self._call.broke_off(error)
            raise
        self._call.succeeded()

    async def aclose(self) -> None:
        self._call.succeeded()  # read to the end or not: what came was fine
        await self._stream.aclose()


def is_failure(response: httpx.Response) -> bool:
    """Whether an answer is the server's failure; see `http_failed`."""
    return http_failed(response.status_code, "retry-after" in response.headers)


def _protection(
    service: ServiceName,
    manager: CircuitBreakerManager | None,
    fallback: Callable[..., Any] | None,
    failure_if: Callable[[httpx.Response], bool] | None,
) -> Protection:
    judge = failures(*_NETWORK)
    judge.failure_if = failure_if or is_failure
    return Protection(service, judge, manager, fallback)


def _begin(protection: Protection, request: httpx.Request) -> _Call:
    breaker = protection.breaker(str(request.url))
    return _Call(breaker, protection.policy(breaker))
