"""What a refused call leaves behind: nothing, so that a service that is away does not fill memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError


def call(manager: CircuitBreakerManager) -> None:
    manager.call("api", lambda: 1)


def protect(manager: CircuitBreakerManager) -> None:
    manager.protect("api")(lambda: 1)()


def guard(manager: CircuitBreakerManager) -> None:
    with manager.guard("api"):
        pass


def protect_async(manager: CircuitBreakerManager) -> None:
    async def work() -> None: ...

    coroutine = manager.protect("api")(work)()
    try:
        coroutine.send(None)  # without a loop, which would keep the exception of its task
    finally:
        coroutine.close()
        del coroutine


@pytest.mark.parametrize("use", [call, protect, protect_async, guard])
@pytest.mark.parametrize("state", ["open", "half_open", "isolated"])
def test_a_refusal_is_gone_once_its_handler_is(bench, use: Callable[[CircuitBreakerManager], None], state: str):
    """
    A frame that held the exception it raised made a cycle of both: each refused call left two kilobytes to the garbage
    collector.
    """
    api = bench(half_open_requests=1, recovery_timeout=30)
    if state == "isolated":
        api.manager.isolate("api")
    else:
        api.manager.open("api")
    trial = None
    if state == "half_open":
        api.advance(30)
        trial = api.manager.guard("api")
        trial.__enter__()
    gc.collect()
    gc.disable()
    try:
        try:
            use(api.manager)
        except CircuitOpenError as error:
            assert error.state == state
            kept = weakref.ref(error)
        assert kept() is None
    finally:
        gc.enable()
        if trial is not None:
            trial.__exit__(None, None, None)
