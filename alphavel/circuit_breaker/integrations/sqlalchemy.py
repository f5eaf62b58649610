"""
SQLAlchemy: an engine whose connections and statements go through a circuit breaker.

    engine = protect(create_engine("postgresql+psycopg://…", connect_args={"connect_timeout": 3}), "orders-db")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from alphavel.circuit_breaker.errors import CircuitOpenError
from alphavel.circuit_breaker.integrations.protection import Protection, failures

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Dialect, Engine, ExceptionContext

    from alphavel.circuit_breaker.manager import CircuitBreakerManager

_CALL = "_alphavel_call"


def protect(
    engine: Engine,
    service: str | None = None,
    *,
    manager: CircuitBreakerManager | None = None,
    failure_if: Callable[[BaseException], bool] | None = None,
) -> Engine:
    """
    Have every new connection and every statement of an engine go through the breaker of `service`.

    Failures: connections that cannot be made, and those that turn out to be lost in a statement or a commit. What the
    database answers, a violated constraint, a deadlock, a statement cut short by its own time limit, is none.

    Args:
        engine: An engine; of an async one its `sync_engine`. Call this after other listeners of `do_connect` are registered.
        service: Name of the service; None: host and port of the engine's URL.
        manager: Whose breakers; None: those of this process, as configured.
        failure_if: Says of an exception of the driver whether it is a failure although the connection lives:
            `lambda error: isinstance(error, psycopg.errors.QueryCanceled)`.

    Returns:
        The same engine.

    Raises (each statement, each new connection):
        CircuitOpenError: The circuit refuses.
    """
    _Listeners(engine, service, manager, failure_if).listen()
    return engine


class _Listeners:
    def __init__(
        self,
        engine: Engine,
        service: str | None,
        manager: CircuitBreakerManager | None,
        failure_if: Callable[[BaseException], bool] | None,
    ) -> None:
        self._engine = engine
        self._failure_if = failure_if
        # Where this judge is asked, it is clear already that the connection is at fault.
        protection = Protection(service, failures(Exception), manager)
        url = engine.url
        self._breaker = protection.breaker(f"//{url.host or url.drivername}" + (f":{url.port}" if url.port else ""))
        self._policy = protection.policy(self._breaker)

    def listen(self) -> None:
        for name, listener in (
            ("do_connect", self._connect),
            ("before_cursor_execute", self._before),
            ("after_cursor_execute", self._after),
            ("handle_error", self._error),
        ):
            event.listen(self._engine, name, listener)

    def _connect(self, dialect: Dialect, _: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return self._breaker.run(lambda: dialect.connect(*args, **options), self._policy)

    def _before(self, _connection: Any, _cursor: Any, _statement: Any, _parameters: Any, context: Any, _many: bool) -> None:
        self._end(context)  # an insert of many rows comes here once for each of its batches
        began = self._breaker.now()
        permit = self._breaker.enter(began)
        if isinstance(permit, CircuitOpenError):
            try:
                raise permit
            finally:
                del permit  # see Breaker.refused
        setattr(context, _CALL, (permit, began))

    def _after(self, _connection: Any, _cursor: Any, _statement: Any, _parameters: Any, context: Any, _many: bool) -> None:
        self._end(context)

    def _end(self, context: Any) -> None:
        call = context.__dict__.pop(_CALL, None)
        if call is not None:
            self._breaker.succeeded(call[0], call[1], None, self._policy)

    def _error(self, problem: ExceptionContext) -> None:
        error = problem.original_exception
        # Without a connection: one that could not be made, which `_connect` has counted, or a dead one that a ping found in
        # the pool, which is about to be replaced.
        if problem.connection is None or isinstance(error, CircuitOpenError):
            return
        call = None if problem.execution_context is None else problem.execution_context.__dict__.pop(_CALL, None)
        if not (problem.is_disconnect or (self._failure_if is not None and self._failure_if(error))):
            if call is not None:
                # It has answered: alive, whatever it thinks of the statement.
                self._breaker.succeeded(call[0], call[1], None, self._policy)
            return
        if call is None:  # lost in a commit or a rollback, which are no calls of their own
            began = self._breaker.now()
            permit = self._breaker.enter(began)
            if isinstance(permit, CircuitOpenError):
                return
            call = (permit, began)
        self._breaker.failed(call[0], call[1], error, self._policy)
