"""Whether the end of a call is the service's failure: by the exception, or by the result."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable
from typing import Any, Union

from alphavel.circuit_breaker.states import Outcome

Matcher = Union[type[BaseException], Callable[[BaseException], bool]]
Matchers = Union[Matcher, Iterable[Matcher], None]


class Judge:
    """
    Judges exceptions and results.

    Without `record` and `ignore`, every `Exception` is a failure, and so is a `gevent.Timeout`, whoever set it. Other
    exceptions (KeyboardInterrupt, GreenletExit, CancelledError, …) cut a call short and say nothing about the service: they
    count where `record` names their type, and functions are not asked about them.
    """

    __slots__ = ("_ignored", "_recorded", "failure_if")

    def __init__(
        self, record: Matchers = None, ignore: Matchers = None, failure_if: Callable[[Any], bool] | None = None
    ) -> None:
        """
        Args:
            record: The only exceptions that are failures: types, or functions that say so of an exception, or several.
            ignore: Exceptions that are none, whatever `record` says.
            failure_if: Says of a result whether it is a failure.

        Raises:
            TypeError: It is none of these.
        """
        self._recorded = None if record is None else _matchers(record, "record")
        self._ignored = None if ignore is None else _matchers(ignore, "ignore")
        if failure_if is not None and not callable(failure_if):
            raise TypeError(f"failure_if takes a function of a result; got {failure_if!r}.")
        self.failure_if = failure_if

    def outcome(self, error: BaseException) -> Outcome:
        """Return FAILURE or IGNORED."""
        if self._ignored is not None and _matches(self._ignored, error):
            return Outcome.IGNORED
        if self._recorded is not None:
            return Outcome.FAILURE if _matches(self._recorded, error) else Outcome.IGNORED
        return Outcome.FAILURE if _is_of_a_call(error) else Outcome.IGNORED

    def without_results(self) -> Judge:
        """Return a judge of the same exceptions, for what has no result."""
        judge = copy.copy(self)
        judge.failure_if = None
        return judge


DEFAULT_JUDGE = Judge()


def _matchers(given: Any, name: str) -> tuple[Matcher, ...]:
    matchers = tuple(given) if isinstance(given, Iterable) and not isinstance(given, (type, str)) else (given,)
    for matcher in matchers:
        if not callable(matcher) or (isinstance(matcher, type) and not issubclass(matcher, BaseException)):
            raise TypeError(f"{name} takes exception types and functions of an exception; got {matcher!r}.")
    return matchers


def _matches(matchers: tuple[Matcher, ...], error: BaseException) -> bool:
    # A function such as `lambda error: not isinstance(error, NotFound)` does not have Ctrl+C in mind; a type is meant.
    asked = _is_of_a_call(error)
    return any(isinstance(error, matcher) if isinstance(matcher, type) else asked and matcher(error) for matcher in matchers)


def _is_of_a_call(error: BaseException) -> bool:
    """Whether an exception may say something about the service, and not only that the call was cut short."""
    return isinstance(error, Exception) or _is_gevent_timeout(error)


def _is_gevent_timeout(error: BaseException) -> bool:
    module = sys.modules.get("gevent.timeout")  # where gevent is not loaded, nobody can have raised one
    return module is not None and isinstance(error, module.Timeout)
