"""Under gevent: time limits, greenlets that are killed, and what belongs to somebody else."""

from __future__ import annotations

import asyncio
import sys

import gevent
import pytest

from alphavel.circuit_breaker import CallTimeoutError, State


def test_call_that_takes_too_long_is_interrupted_and_counts(bench):
    api = bench(failure_threshold=1)
    with pytest.raises(CallTimeoutError, match=r"'api' took longer than 0.01 s"):
        api.manager.call("api", lambda: gevent.sleep(60), timeout=0.01)
    assert api.state is State.OPEN


def test_timeout_of_somebody_else_passes_through_and_counts(bench):
    api = bench(failure_threshold=1)
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.01) as limit:
        api.manager.call("api", lambda: gevent.sleep(60), timeout=30)
    assert caught.value is limit
    assert api.state is State.OPEN


def test_trial_of_a_killed_greenlet_gives_its_permit_back(bench):
    api = bench(failure_threshold=1, half_open_requests=1)
    api.fail()
    api.advance(30)
    trial = gevent.spawn(api.manager.call, "api", lambda: gevent.sleep(60))
    gevent.sleep(0)
    assert api.refused().state is State.HALF_OPEN
    trial.kill()
    api.succeed()
    assert api.state is State.CLOSED


def test_listener_that_switches_may_be_killed_and_costs_no_permit(bench):
    api = bench(failure_threshold=1, half_open_requests=1)
    api.fail()
    api.advance(30)
    api.manager.on("state_change", lambda event: gevent.sleep(60))
    trial = gevent.spawn(api.succeed)
    gevent.sleep(0.05)
    trial.kill()
    assert api.manager.service("api").circuit.newest().record.taken == 0


@pytest.fixture
def without_gevent(monkeypatch):
    monkeypatch.delitem(sys.modules, "gevent")


def test_timeout_that_nothing_could_keep_says_what_to_do_and_is_no_failure_of_the_service(bench, without_gevent):
    api = bench(failure_threshold=1, fallback_on="failure")
    with pytest.raises(RuntimeError, match="Give the client its own time limit"):
        api.succeed(timeout=1, fallback=lambda: "the mistake is hidden")
    assert (api.reached, api.state, api.stats["total_requests"]) == (0, State.CLOSED, 0)


def test_timeout_of_what_is_awaited_needs_no_gevent(bench, without_gevent):
    api = bench(failure_threshold=2)

    async def hang():
        await asyncio.sleep(60)

    async def story():
        with pytest.raises(CallTimeoutError):
            await api.manager.call("api", lambda seconds=60: asyncio.sleep(seconds), timeout=0.01)

    asyncio.run(story())
    coroutine = api.manager.call("api", hang, timeout=0.01)
    with pytest.raises(CallTimeoutError):
        asyncio.run(coroutine)
    assert api.state is State.OPEN
