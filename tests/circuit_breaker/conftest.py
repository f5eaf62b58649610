"""A breaker whose clock the test moves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError, State
from tests.redis_server import RedisServer


class Clock:
    """A clock that stands still until it is told to advance."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class ServiceError(Exception):
    """What the service of these tests fails with."""


class Bench:
    """One service `api` under test, in words: succeed, fail, advance."""

    def __init__(self, manager: CircuitBreakerManager, clock: Clock, service: str = "api") -> None:
        self.manager, self.clock, self.service = manager, clock, service
        self.reached = 0

    def succeed(self, **options: Any) -> Any:
        return self.manager.call(self.service, self._work, **options)

    def _work(self) -> str:
        self.reached += 1
        return "fine"

    def fail(self, times: int = 1, error: BaseException | None = None) -> None:
        for _ in range(times):
            with pytest.raises(type(error) if error else ServiceError):
                self.manager.call(self.service, lambda: self._break(error))

    def _break(self, error: BaseException | None) -> None:
        self.reached += 1
        raise error or ServiceError("broken")

    def refused(self) -> CircuitOpenError:
        """Call; fail unless the call is refused. Return the refusal."""
        before = self.reached
        with pytest.raises(CircuitOpenError) as caught:
            self.succeed()
        assert self.reached == before
        return caught.value

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @property
    def state(self) -> State:
        return self.manager.get_state(self.service)

    @property
    def stats(self) -> dict[str, Any]:
        return self.manager.get_stats(self.service)


STORES = ("memory", "shared", "redis")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis of these tests' own."""
    with RedisServer() as server:
        yield server


@pytest.fixture(params=STORES)
def store_config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The part of a configuration that names a store; each in turn, and each one empty."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        return {"default": "redis", "stores": {"redis": {"url": server.url, "prefix": f"{tmp_path}:", "timeout": 5}}}
    return {"default": request.param, "stores": {"shared": {"path": str(tmp_path / "circuits"), "max_workers": 16}}}


@pytest.fixture
def make_manager(store_config: dict[str, Any], clock: Clock) -> Iterator[Callable[..., CircuitBreakerManager]]:
    """Make managers that share a store, as processes do; `memory` has nothing to share."""
    made = []

    def make(config: dict[str, Any] | None = None, **thresholds: Any) -> CircuitBreakerManager:
        whole = {**store_config, "thresholds": thresholds, **(config or {})}
        made.append(CircuitBreakerManager(whole, clock=clock, wall_clock=lambda: clock.now + 1e9))
        return made[-1]

    yield make
    for manager in made:
        manager.shut_down()


@pytest.fixture
def bench(make_manager: Callable[..., CircuitBreakerManager], clock: Clock) -> Callable[..., Bench]:
    """Make a bench with some thresholds in an empty store."""
    number = itertools.count()

    def make(config: dict[str, Any] | None = None, **thresholds: Any) -> Bench:
        return Bench(make_manager(config, **thresholds), clock, "api" if not (n := next(number)) else f"api{n}")

    return make
