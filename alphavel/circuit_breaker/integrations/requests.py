"""
`requests`: an adapter to mount on a session.

    session = requests.Session()
    session.mount("https://api.stripe.com/", CircuitBreakerAdapter("payment-api"))
    session.mount("https://", CircuitBreakerAdapter())        # all others: a breaker for each host
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import (
    ChunkedEncodingError,
    ConnectionError,
    ContentDecodingError,
    RetryError,
    Timeout,
)

from alphavel.circuit_breaker.integrations.protection import Protection, ServiceName, failures, http_failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from alphavel.circuit_breaker.manager import CircuitBreakerManager


class CircuitBreakerAdapter(HTTPAdapter):
    """
    An `HTTPAdapter` whose requests go through circuit breakers. A refused one raises `CircuitOpenError` at once.

    Failures: connections that cannot be made or break, time-outs, 5xx, and 429 with Retry-After. Such an answer is returned
    to the caller as ever. Each redirect is a request of its own, to the breaker of its own host. What `max_retries` repeats
    is one call.

    With `stream=True` a request has succeeded once its headers are there; what becomes of its body is the caller's.
    """

    def __init__(
        self,
        service: ServiceName = None,
        *,
        manager: CircuitBreakerManager | None = None,
        fallback: Callable[..., requests.Response] | None = None,
        failure_if: Callable[[requests.Response], bool] | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            service, manager, fallback: See `Protection`; `service` may be a function of the URL.
            failure_if: Says of an answer whether it is a failure, in place of the rule above.
            options: Those of `HTTPAdapter`.
        """
        super().__init__(**options)
        judge = failures(ConnectionError, Timeout, ChunkedEncodingError, ContentDecodingError, RetryError)
        judge.failure_if = failure_if or is_failure
        self._protection = Protection(service, judge, manager, fallback)

    def send(self, request: requests.PreparedRequest, stream: bool = False, *args: Any, **options: Any) -> requests.Response:
        """Send a request; see `HTTPAdapter.send`."""

        def send() -> requests.Response:
            response = super(CircuitBreakerAdapter, self).send(request, stream, *args, **options)
            if not stream:
                _ = response.content  # the session would read it a moment later, where nobody counts what goes wrong
            return response

        response: requests.Response = self._protection.call(request.url or "", send)
        return response


def is_failure(response: requests.Response) -> bool:
    """Whether an answer is the server's failure; see `http_failed`."""
    return http_failed(response.status_code, "Retry-After" in response.headers)
