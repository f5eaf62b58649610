"""What a caller gets in place of an answer: a function's result, a value, the last good result, or the exception."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Literal, Union

from alphavel.circuit_breaker.judging import DEFAULT_JUDGE, Judge

if TYPE_CHECKING:
    from alphavel.circuit_breaker.settings import CacheSettings

Fallback = Union[Callable[..., Any], Literal["exception", "cache"]]

NOTHING: Any = object()
"""There is no fallback: the exception goes on."""


class Policy:
    """
    What one place that calls a service wants; made once for a decorated function, not for each of its calls.

    Attributes:
        fallback: A function given the exception; None: the exception goes on.
        cached: Whether the last good result is the fallback.
        on_failure: Whether the fallback also runs where the call fails.
        timeout: Seconds the call may take, None: any.
        key: For the cache: which of the service's results, or a function that tells it from the call's arguments.
        judge: Tells failures.
        light: Whether a call that returns is a success, and nothing else is to be done with it.
        refuses: Whether there is no fallback at all.
    """

    __slots__ = ("cached", "fallback", "judge", "key", "light", "on_failure", "refuses", "timeout")

    def __init__(
        self,
        fallback: Fallback | None = None,
        on_failure: bool = False,
        timeout: float | None = None,
        key: Any = None,
        judge: Judge = DEFAULT_JUDGE,
    ) -> None:
        """
        Raises:
            TypeError: The fallback is no function and none of the known words.
        """
        self.fallback = fallback_function(fallback)
        self.cached = fallback == "cache"
        self.on_failure = on_failure
        self.timeout = timeout
        self.key = key
        self.judge = judge
        self._settle()

    def _settle(self) -> None:
        self.light = self.timeout is None and not self.cached and self.judge.failure_if is None
        self.refuses = self.fallback is None and not self.cached

    def replaced(self, **changes: Any) -> Policy:
        """
        Return a copy with some attributes changed.

        Raises:
            TypeError: Results are to be kept by a key that a dict cannot have. Better now than when there is a result.
        """
        copy: Policy = Policy.__new__(Policy)
        for name in self.__slots__:
            setattr(copy, name, changes.get(name, getattr(self, name)))
        copy._settle()
        if copy.cached and "key" in changes:
            try:
                hash(copy.key)
            except TypeError:
                raise TypeError(f"key takes what a dict can have as a key, a text or a tuple; got {copy.key!r}.") from None
        return copy

    def of_block(self) -> Policy:
        """Return what is left of it for a block of statements, which has no result to judge, to keep or to replace."""
        if self.fallback is None and self.light:
            return self
        return self.replaced(fallback=None, cached=False, timeout=None, judge=self.judge.without_results())


def fallback_function(fallback: Any) -> Callable[[BaseException], Any] | None:
    """
    Return a function that takes the exception, whether the given one does or not; None for `exception` and `cache`.

    Raises:
        TypeError: It is no function and none of these words.
    """
    if fallback is None or fallback in ("exception", "cache"):
        return None
    if not callable(fallback):
        raise TypeError(
            f'fallback takes a function, "cache" or "exception"; got {fallback!r}. For a value: fallback=lambda: {fallback!r}.'
        )
    return fallback if _takes_one(fallback) else lambda _: fallback()


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some of those written in C tell nothing
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    # `lambda amount=5: …` has a parameter of its own use; one without a default can only be meant for the exception.
    return any(p.kind in positional and (p.default is p.empty) for p in parameters)


class ResultCache:
    """
    The last good results of one service.

    Each step is one operation on a dict. Where two threads store at once past the limit, both make room: the cache may hold
    an entry or two fewer than it could, never more than one for each thread that is storing.
    """

    __slots__ = ("_results", "_settings", "last_age")

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._results: dict[Hashable, tuple[float, Any]] = {}
        self.last_age: float | None = None

    def put(self, key: Hashable, result: Any, now: float) -> None:
        """Keep a result in place of the one before."""
        self._results.pop(key, None)  # so that it becomes the youngest
        self._results[key] = (now, result)
        if len(self._results) > self._settings.max_entries:
            with contextlib.suppress(RuntimeError):  # another thread changed the dict just now: it makes room, too
                self._results.pop(next(iter(self._results)), None)

    def get(self, key: Hashable, now: float) -> Any:
        """Return the result kept for the key, NOTHING where there is none or it is too old."""
        kept = self._results.get(key)
        if kept is None or now - kept[0] > self._settings.ttl:
            return NOTHING
        self.last_age = now - kept[0]
        return kept[1]

    def clear(self) -> None:
        """Forget all."""
        self._results.clear()
        self.last_age = None

    def stats(self, now: float) -> dict[str, Any]:
        """Return how many results there are, the age of the youngest, and how old the last one handed out was."""
        ages = [now - when for when, _ in tuple(self._results.values())]
        return {"entries": len(ages), "age": min(ages, default=None), "stale_age": self.last_age}
