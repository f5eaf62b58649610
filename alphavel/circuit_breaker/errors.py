"""What callers of a protected service may meet besides the service's own exceptions."""

from __future__ import annotations

from typing import Any

from alphavel.circuit_breaker.states import State


class CircuitOpenError(Exception):
    """
    The call was refused; the service was not asked. A new object every time, so that no traceback outlives its handler.

    Attributes:
        service: Name of the service.
        state: OPEN (or ISOLATED), or HALF_OPEN or RECOVERING, where others are trying the service right now.
        retry_after: Seconds until it makes sense to ask again; None where only an operator knows.
        last_failure: The service's last failure, such as `ConnectTimeout: timed out`; None where none is known.
    """

    # All four are what BaseException keeps anyway: no __init__ to run, and it can be pickled as it is.
    args: tuple[str, State, float | None, str | None]

    @property
    def service(self) -> str:
        return self.args[0]

    @property
    def state(self) -> State:
        return self.args[1]

    @property
    def retry_after(self) -> float | None:
        return self.args[2]

    @property
    def last_failure(self) -> str | None:
        return self.args[3]

    def __str__(self) -> str:
        service, state, retry_after, last_failure = self.args
        words = {
            State.HALF_OPEN: "is half-open and all its trial calls are under way",
            State.RECOVERING: "is recovering and takes a part of the calls only",
            State.ISOLATED: "is isolated by an operator",
        }.get(state, "is open")
        again = f"; ask again in {retry_after:.1f} s" if retry_after is not None else ""
        last = f" (last failure: {last_failure})" if last_failure else ""
        return f"The circuit of {service!r} {words}{again}{last}."


class CallTimeoutError(TimeoutError):
    """
    A call took longer than its `timeout`; it counts as a failure.

    Attributes:
        service: Name of the service.
        seconds: What it was given.
    """

    def __init__(self, service: str, seconds: float) -> None:
        super().__init__(f"A call of {service!r} took longer than {seconds:g} s.")
        self.service = service
        self.seconds = seconds


class FailedResultError(Exception):
    """
    Given to a fallback when `failure_if` judged a result to be a failure.

    Attributes:
        service: Name of the service.
        result: The result.
    """

    def __init__(self, service: str, result: Any) -> None:
        super().__init__(f"{service!r} answered with a failure: {result!r:.200}")
        self.service = service
        self.result = result


class StoreError(Exception):
    """A store cannot be used; the text says why and what to do. Raised at start, never by a call."""
