"""The breaker around a function, a method, a generator, an `async def`, or a block of statements."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from alphavel.circuit_breaker.breaker import ORDINARY
from alphavel.circuit_breaker.errors import CircuitOpenError
from alphavel.circuit_breaker.fallbacks import NOTHING, Policy

if TYPE_CHECKING:
    from alphavel.circuit_breaker.breaker import Breaker, Permit

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class Guard:
    """
    `with CircuitBreaker.guard("payment-api"):`, and `async with`. One guard may be used again, but not inside itself.

    The block cannot be answered for: there is no fallback, a refusal is raised at its beginning. It has no result to judge or
    to keep, and no time limit.
    """

    __slots__ = ("_began", "_breaker", "_permit", "_policy")

    def __init__(self, breaker: Breaker, policy: Policy) -> None:
        self._breaker = breaker
        self._policy = policy.of_block()
        self._permit: Permit | None = None
        self._began = 0.0

    def __enter__(self) -> Guard:
        if self._permit is not None:
            raise RuntimeError(
                f"This guard of {self._breaker.service!r} is in use; take another one for a block inside its block."
            )
        self._began = self._breaker.now()
        permit = self._breaker.enter(self._began)
        if isinstance(permit, CircuitOpenError):
            try:
                raise permit
            finally:
                del permit  # see Breaker.refused
        self._permit = permit
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        permit, self._permit = self._permit, None
        assert permit is not None
        if error is None:
            self._breaker.succeeded(permit, self._began, None, self._policy)
        else:
            self._breaker.failed(permit, self._began, error, self._policy)

    async def __aenter__(self) -> Guard:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


class Site:
    """
    A place that calls a service: the service's policy with what this place wants otherwise.

    Attributes:
        breaker: The breaker.
        changes: Attributes of the policy that are otherwise here.
    """

    __slots__ = ("_made", "breaker", "changes")

    def __init__(self, breaker: Breaker, changes: dict[str, Any]) -> None:
        self.breaker = breaker
        self.changes = changes
        self._made = (breaker.own_policy, breaker.own_policy.replaced(**changes))

    def policy(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Policy:
        """Return what holds for a call with these arguments."""
        own, policy = self._made
        if own is not self.breaker.own_policy:  # it was configured anew
            own = self.breaker.own_policy
            policy = own.replaced(**self.changes)
            self._made = (own, policy)
        return policy.replaced(key=policy.key(*args, **kwargs)) if policy.cached and callable(policy.key) else policy

    @property
    def fast(self) -> bool:
        """Whether the plain or the timed path will do where the circuit allows it."""
        return not ({"timeout", "judge"} & self.changes.keys() or self.changes.get("cached"))


def protected(function: FunctionT, site: Site) -> FunctionT:
    """
    Return `function` with a breaker around it: same name, same signature, same kind.

    Args:
        function: A function, a method in its class, a generator function, an `async def`.
        site: What holds here.

    Raises:
        TypeError: It is no function, or a generator function of which something is asked that a generator cannot have.
    """
    if isinstance(function, (classmethod, staticmethod)):
        raise TypeError(f"@{type(function).__name__} goes above @protect, which takes a function.")
    if not callable(function):
        raise TypeError(f"protect goes around a function; got {function!r}.")
    breaker = site.breaker
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        _check_generator(function, site.changes)
    wrapper: Any
    if inspect.isasyncgenfunction(function):

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with Guard(breaker, site.policy(args, kwargs)):
                # What `yield from` is to other generators: what is sent and thrown in arrives, and who closes waits.
                async with contextlib.aclosing(function(*args, **kwargs)) as items:
                    step = items.asend(None)
                    while True:
                        try:
                            item = await step
                        except StopAsyncIteration:
                            return
                        try:
                            step = items.asend((yield item))
                        except GeneratorExit:
                            raise
                        except BaseException as error:  # noqa: BLE001 (handed on)
                            step = items.athrow(error)

    elif inspect.iscoroutinefunction(function):

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await breaker.run_async(lambda: function(*args, **kwargs), site.policy(args, kwargs))

    elif inspect.isgeneratorfunction(function):

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with Guard(breaker, site.policy(args, kwargs)):
                return (yield from function(*args, **kwargs))

    elif site.fast:
        wrapper = _fast(function, site)
    else:

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return breaker.run(lambda: function(*args, **kwargs), site.policy(args, kwargs))

    functools.update_wrapper(wrapper, function)
    return cast(FunctionT, wrapper)


def _check_generator(function: Callable[..., Any], changes: dict[str, Any]) -> None:
    judge = changes.get("judge")
    asked = {
        "fallback": changes.get("fallback") is not None or changes.get("cached"),
        "timeout": "timeout" in changes,
        "key": "key" in changes,
        "failure_if": judge is not None and judge.failure_if is not None,
    }
    if any(asked.values()):
        raise TypeError(
            f"{function.__qualname__} is a generator: its items are handed out before it ends, so it takes no "
            f"{' and no '.join(name for name, given in asked.items() if given)}. Protect what it calls in place of it."
        )


def _fast(function: Callable[..., Any], site: Site) -> Callable[..., Any]:
    breaker = site.breaker

    def ask(*args: Any, **kwargs: Any) -> Any:
        return breaker.ask(lambda: function(*args, **kwargs), site.policy(args, kwargs))

    def failed(view: Any, began: float | None, error: BaseException, *args: Any, **kwargs: Any) -> Any:
        return breaker.failed((view, ORDINARY), began, error, site.policy(args, kwargs))

    def awaiting(coroutine: Any, view: Any, began: float | None, *args: Any, **kwargs: Any) -> Any:
        return breaker.awaiting(coroutine, (view, ORDINARY), site.policy(args, kwargs), began)

    def slow(view: Any, began: float, result: Any) -> Any:
        return breaker.succeeded((view, ORDINARY), began, result, breaker.own_policy)

    # Handing on `*args, **kwargs` costs more than all the rest of the plain path together, so the wrapper is compiled
    # with the parameters of the function it stands for.
    signature = _Parameters(function)
    names: dict[str, Any] = {
        "ask": ask, "failed": failed, "slow": slow, "function": function, "breaker": breaker, "now": breaker.now,
        "look": breaker.look, "NOTHING": NOTHING, "limit": breaker.slow_after, "awaiting": awaiting, "type": type,
        "CoroutineType": CoroutineType, "own": not site.changes,
    }  # fmt: skip
    template = _TIMED if breaker.rules.slow_call_duration or breaker.rules.failure_rate else _PLAIN
    source = template.format(declared=signature.declared, passed=signature.passed)
    namespace = {f"_{name}": value for name, value in names.items()} | signature.defaults
    exec(compile(source, f"<circuit breaker of {breaker.service}>", "exec"), namespace)  # noqa: S102 (names of parameters only)
    wrapper: Callable[..., Any] = namespace["wrapper"]
    return wrapper


_PLAIN = """
def wrapper({declared}):
    _view = _breaker.flowing
    if _view is None:
        _open = _breaker.refusing
        if _open is not None and _own and _breaker.own_policy.refuses and (_began := _now()) < _open[0]:
            raise _breaker.refusal(_open, _began)
        return _ask({passed})
    try:
        _result = _function({passed})
    except BaseException as _error:
        _answer = _failed(_view, None, _error, {passed})
        if _answer is _NOTHING:
            raise
        return _answer
    if _type(_result) is _CoroutineType:
        return _awaiting(_result, _view, None, {passed})
    for _number in _breaker.successes:
        break
    if _number >= _breaker.due:
        _look(_number)
    return _result
"""
"""`Breaker.call`, see there; refusals as in `Breaker.run`, without the frames between, each of which a traceback would keep."""

_TIMED = """
def wrapper({declared}):
    _view = _breaker.timing
    if _view is None:
        _open = _breaker.refusing
        if _open is not None and _own and _breaker.own_policy.refuses and (_began := _now()) < _open[0]:
            raise _breaker.refusal(_open, _began)
        return _ask({passed})
    _began = _now()
    try:
        _result = _function({passed})
    except BaseException as _error:
        _answer = _failed(_view, _began, _error, {passed})
        if _answer is _NOTHING:
            raise
        return _answer
    if _type(_result) is _CoroutineType:
        return _awaiting(_result, _view, _began, {passed})
    _ended = _now()
    if _ended - _began > _limit:
        return _slow(_view, _began, _result)
    _rates = _view.rates
    if _rates is not None:
        _part = _rates.current
        for _ in _part.calls if _ended < _part.until else _rates.at(_ended).calls:
            break
    for _ in _breaker.successes:
        break
    _breaker.succeeded_at = _ended
    return _result
"""
"""`Breaker.ask` as far as its timed path, see there."""

_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


class _Parameters:
    """The parameters of a function as source: how they are declared, and how they are passed on."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.declared, self.passed = "*args, **kwargs", "*args, **kwargs"
        self.defaults: dict[str, Any] = {}
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # some of those written in C tell nothing
            return
        if any(parameter.name.startswith("_") for parameter in parameters):
            return  # could be one of the template's own names
        self.declared, self.passed = self._declared(parameters), self._passed(parameters)

    def _declared(self, parameters: list[inspect.Parameter]) -> str:
        words, kinds = [], [parameter.kind for parameter in parameters]
        for index, parameter in enumerate(parameters):
            if parameter.kind is parameter.KEYWORD_ONLY and not {parameter.VAR_POSITIONAL, parameter.KEYWORD_ONLY} & set(
                kinds[:index]
            ):
                words.append("*")
            default = ""
            if parameter.default is not parameter.empty:
                default = f"=_default_{index}"
                self.defaults[f"_default_{index}"] = parameter.default
            words.append(f"{_STARS.get(parameter.kind, '')}{parameter.name}{default}")
            if parameter.kind is parameter.POSITIONAL_ONLY and kinds[index + 1 : index + 2] != [parameter.POSITIONAL_ONLY]:
                words.append("/")
        return ", ".join(words)

    @staticmethod
    def _passed(parameters: list[inspect.Parameter]) -> str:
        return ", ".join(
            f"{parameter.name}={parameter.name}"
            if parameter.kind is parameter.KEYWORD_ONLY
            else f"{_STARS.get(parameter.kind, '')}{parameter.name}"
            for parameter in parameters
        )
