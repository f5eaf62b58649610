"""A span for each guarded call (`tracing.enabled`): how long it took, in which state its circuit was, if it was refused."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from alphavel.circuit_breaker.errors import CircuitOpenError
from alphavel.circuit_breaker.manager import CircuitBreakerManager
from alphavel.foundation.tracing import tracer

if TYPE_CHECKING:
    from alphavel.circuit_breaker.wrapping import FunctionT, Guard


class TracedManager(CircuitBreakerManager):
    """A `CircuitBreakerManager` whose calls are seen; that it is another class is why the plain one costs nothing for it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """
        Raises:
            ConfigurationError: As the plain one; OpenTelemetry's API is not installed.
        """
        super().__init__(*arguments, **options)
        from alphavel.circuit_breaker import __version__

        self._tracer = tracer("alphavel.circuit_breaker", __version__)

    def call(self, service: str, function: Callable[[], Any], *arguments: Any, **options: Any) -> Any:
        """See `CircuitBreakerManager.call`."""
        with self._span(service):
            result = super().call(service, function, *arguments, **options)
        if inspect.iscoroutine(result):
            return self._awaited(service, result)
        return result

    def protect(self, service: str, *arguments: Any, **options: Any) -> Callable[[FunctionT], FunctionT]:
        """See `CircuitBreakerManager.protect`. The iteration of a generator is no span."""
        protect = super().protect(service, *arguments, **options)

        def decorate(function: FunctionT) -> FunctionT:
            protected: Any = protect(function)
            if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
                return protected  # type: ignore[no-any-return]

            @functools.wraps(protected)
            def traced(*args: Any, **kwargs: Any) -> Any:
                with self._span(service):
                    return protected(*args, **kwargs)

            @functools.wraps(protected)
            async def traced_async(*args: Any, **kwargs: Any) -> Any:
                with self._span(service):
                    return await protected(*args, **kwargs)

            return traced_async if inspect.iscoroutinefunction(function) else traced  # type: ignore[return-value]

        return decorate

    def guard(self, service: str, **options: Any) -> Guard:
        """See `CircuitBreakerManager.guard`."""
        return _TracedGuard(super().guard(service, **options), lambda: self._span(service))  # type: ignore[return-value]

    async def _awaited(self, service: str, result: Any) -> Any:
        with self._span(service):
            return await result

    @contextlib.contextmanager
    def _span(self, service: str) -> Iterator[None]:
        attributes = {"alphavel.circuit.service": service, "alphavel.circuit.state": self.get_state(service).value}
        with self._tracer.start_as_current_span(f"circuit {service}", attributes=attributes) as span:
            try:
                yield
            except CircuitOpenError:
                span.set_attribute("alphavel.circuit.refused", True)
                raise


class _TracedGuard:
    """A guard within a span."""

    def __init__(self, guard: Any, span: Callable[[], Any]) -> None:
        self._guard = guard
        self._make_span = span
        self._spans: list[Any] = []

    def __enter__(self) -> Any:
        span = self._make_span()
        span.__enter__()
        try:
            entered = self._guard.__enter__()
        except BaseException as error:
            span.__exit__(type(error), error, error.__traceback__)
            raise
        self._spans.append(span)
        return entered

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> Any:
        span = self._spans.pop()
        try:
            return self._guard.__exit__(kind, error, traceback)
        finally:
            with contextlib.suppress(BaseException):  # what it says of the error is recorded; it is raised by who calls
                span.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Any:
        return self.__enter__()

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> Any:
        return self.__exit__(kind, error, traceback)
