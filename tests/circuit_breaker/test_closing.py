"""A manager that is shut down while it is used: callers get what their calls returned, in every store."""

from __future__ import annotations

import sys
import threading

import pytest

from alphavel.circuit_breaker import CircuitOpenError, State
from tests.circuit_breaker.conftest import ServiceError
from tests.support import wait_until


@pytest.fixture
def in_thread():
    """Start functions in threads; return for each a list that gets what it returned or raised."""
    threads = []

    def start(function):
        outcome = []

        def run():
            try:
                outcome.append(function())
            except BaseException as error:
                outcome.append(error)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return outcome

    yield start
    for thread in threads:
        thread.join(30)


class Call:
    """A call of a service that returns, or raises, when it is told to."""

    def __init__(self, api, in_thread, use, error=None):
        self.began, self.end = threading.Event(), threading.Event()

        def service():
            self.began.set()
            assert self.end.wait(30)
            if error is not None:
                raise error
            return "fine"

        self.outcome = in_thread(lambda: use(api.manager, service))
        assert self.began.wait(30)

    def ends(self):
        self.end.set()
        return wait_until(lambda: self.outcome, 30)[0]


def _guarded(manager, service):
    with manager.guard("api"):
        return service()


USES = {
    "call": lambda manager, service: manager.call("api", service),
    "protect": lambda manager, service: manager.protect("api")(service)(),
    "guard": _guarded,
}


@pytest.mark.parametrize("error", [None, ServiceError("broken")], ids=["succeeds", "fails"])
@pytest.mark.parametrize("state", [State.CLOSED, State.HALF_OPEN])
@pytest.mark.parametrize("use", USES)
def test_call_under_way_gives_its_caller_what_it_returned(bench, in_thread, use, state, error):
    """It raised `ValueError: operation forbidden on released memoryview object` where the store was the shared file."""
    api = bench(failure_threshold=1, half_open_requests=1, slow_call_duration=0.001, slow_call_rate=100)
    if state is State.HALF_OPEN:
        api.fail()
        api.advance(30)
    call = Call(api, in_thread, USES[use], error)
    assert api.state is state
    api.manager.shut_down()
    assert call.ends() is error if error else call.ends() == "fine"
    assert api.state is (State.OPEN if error else State.CLOSED)


def test_circuits_of_a_closed_manager_go_on_in_this_process(bench):
    api = bench(failure_threshold=2, half_open_requests=1)
    api.succeed()
    api.manager.shut_down()
    for service in ("api", "new"):
        api.service = service
        api.succeed()
        api.fail(times=2)
        assert api.refused().state is State.OPEN
        api.advance(30)
        api.succeed()
        assert api.state is State.CLOSED
        assert api.stats["total_successes"] >= 2
        assert "lets all calls through" in api.manager.explain(service)
        api.manager.isolate(service)
        assert api.refused().state is State.ISOLATED
        api.manager.reset(service)
        api.succeed()
    assert {"api", "new"} <= set(api.manager.names())
    assert {"api", "new"} <= api.manager.get_all_stats().keys()
    api.manager.shut_down()  # once more


def test_threads_that_call_while_it_is_shut_down_raise_nothing_of_ours(bench, in_thread):
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(3):
            api = bench(failure_threshold=3, half_open_requests=2, recovery_timeout=0)
            enough, calls = threading.Event(), []

            def work(api=api, enough=enough, calls=calls):
                while not enough.is_set():
                    calls.append(1)
                    try:
                        api.manager.call(api.service, lambda: 1 // (len(calls) % 3))
                    except (ZeroDivisionError, CircuitOpenError):
                        pass
                    if len(calls) % 20 == 0:
                        api.manager.get_stats(api.service)
                return "no other exception"

            outcomes = [in_thread(work) for _ in range(4)]
            wait_until(lambda calls=calls: len(calls) > 50, 60)
            api.manager.shut_down()
            seen = len(calls)
            wait_until(lambda calls=calls, seen=seen: len(calls) > seen + 50, 60)
            enough.set()
            for outcome in outcomes:
                assert wait_until(lambda outcome=outcome: outcome, 60) == ["no other exception"]
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("store_config", ["shared", "redis"], indirect=True)
def test_what_a_closed_manager_counts_is_not_counted_for_the_others(make_manager):
    one = make_manager()
    one.call("api", lambda: 1)
    one.shut_down()
    other = make_manager()  # in the shared file, at the place that the first one had
    for _ in range(5):
        one.call("api", lambda: 1)
    assert one.get_stats("api")["total_successes"] >= 5
    other.call("api", lambda: 1)
    wait_until(lambda: other.get_stats("api")["total_successes"] == 2)
