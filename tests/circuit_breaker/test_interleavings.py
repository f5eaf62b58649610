"""
Every way in which the steps of a few callers can follow each other.

The step that changes something is `swap`; between it and the look before it others can have moved on. Here a circuit stops
before each swap (in the last test before each look as well) until a scheduler lets it go on. A call is with the service
from its first swap to its second. So the real breaker is driven through every schedule: depth first, each from the
beginning, until there is none left.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Any

import greenlet
import pytest

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitBreakerSettings, CircuitOpenError, State
from alphavel.circuit_breaker.settings import load
from alphavel.circuit_breaker.stores.memory import MemoryCircuit, MemoryStore
from tests.circuit_breaker.conftest import Clock


class SteppedCircuit(MemoryCircuit):
    """A circuit that waits for its turn before it swaps, and if told so before it looks."""

    __slots__ = ("_looks",)

    def __init__(self, record: Any, rules: Any, looks: bool) -> None:
        super().__init__(record, rules)
        self._looks = looks

    def newest(self) -> Any:
        if self._looks:
            take_turn()
        return super().newest()

    def swap(self, old: Any, record: Any) -> Any:
        take_turn()
        return super().swap(old, record)


class SteppedStore(MemoryStore):
    def __init__(self, clock: Clock, looks: bool) -> None:
        super().__init__(clock)
        self._looks = looks

    def circuit(self, service: str, record: Any, rules: Any, tally: Any) -> SteppedCircuit:
        return SteppedCircuit(record, rules, self._looks)


def take_turn() -> None:
    """Give way to the scheduler, where there is one."""
    parent = greenlet.getcurrent().parent
    if parent is not None:
        parent.switch()


def all_schedules(story: Callable[[], tuple[list[Callable[[], None]], Callable[[], None]]]) -> int:
    """
    Run a story in every order of its actors' steps.

    Args:
        story: Makes a new world; returns its actors, and a check for when all are done.

    Returns:
        How many orders there were.
    """
    pending: list[list[int]] = [[]]
    many = 0
    while pending:
        prefix = pending.pop()
        actors, check = story()
        greenlets = [greenlet.greenlet(actor) for actor in actors]
        taken: list[int] = []
        while alive := [index for index, actor in enumerate(greenlets) if not actor.dead]:
            if len(taken) < len(prefix):
                turn = prefix[len(taken)]
            else:
                turn = alive[0]
                pending += [[*taken, other] for other in alive[1:]]
            taken.append(turn)
            greenlets[turn].switch()
        check()
        many += 1
        assert many < 100_000, "more schedules than a test should take"
    return many


@functools.cache
def _settings(**thresholds: Any) -> CircuitBreakerSettings:
    return load({"thresholds": {"failure_threshold": 1, "success_threshold": 100, "trial_timeout": 100, **thresholds}})


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class World:
    """One service, callers that count what reached it, an operator, and a clock."""

    def __init__(self, looks: bool = False, **thresholds: Any) -> None:
        self.clock = Clock()
        self.manager = CircuitBreakerManager(_settings(**thresholds), store=SteppedStore(self.clock, looks))
        self.running = self.most_running = self.reached = self.refused = 0

    def caller(self, outcome: str = "success") -> None:
        running = 0
        try:
            with self.manager.guard("api", ignore=KeyError):
                running = 1  # until it has told how it ended
                self.running += 1
                self.reached += 1
                self.most_running = max(self.most_running, self.running)
                if outcome != "success":
                    raise {"failure": ValueError, "ignored": KeyError}[outcome]
        except CircuitOpenError:
            self.refused += 1
        except (ValueError, KeyError):
            pass
        finally:
            self.running -= running

    def failed_before(self) -> World:
        self.manager.open("api")
        self.clock.advance(30)
        return self

    @property
    def state(self) -> State:
        return self.manager.get_state("api")

    def recovers(self) -> None:
        """Whatever happened: the circuit has a way out, and no permit is lost on it."""
        if self.state is State.ISOLATED:
            self.manager.close("api")
        for _ in range(4):
            self.clock.advance(30)
            self.caller()
        assert self.state is State.CLOSED
        assert self.manager.get_stats("api")["failures"] == 0


@pytest.mark.parametrize("permits", [1, 2])
def test_three_callers_never_get_more_permits_than_there_are(permits):
    def story():
        world = World(half_open_requests=permits).failed_before()

        def check():
            # A circuit that has closed meanwhile lets the rest through: count those that ran at once.
            assert world.most_running <= max(permits, 3 if world.state is State.CLOSED else 0)
            assert world.reached >= permits
            if world.reached == permits:
                assert world.state is State.CLOSED
            world.recovers()

        return [world.caller] * 3, check

    assert all_schedules(story) > 100


def test_trials_that_all_run_at_once_are_exactly_the_permits():
    def story():
        world = World(half_open_requests=2).failed_before()
        admitted = []

        def caller():
            breaker = world.manager.service("api")
            permit = breaker.enter(breaker.now())
            if not isinstance(permit, CircuitOpenError):
                admitted.append(permit)

        def check():
            assert len(admitted) == 2  # none of them has ended, so neither fewer nor more
            for permit in admitted:
                world.manager.service("api").succeeded(permit, 0.0, None, world.manager.service("api").own_policy)
            assert world.state is State.CLOSED

        return [caller] * 3, check

    assert all_schedules(story) > 5


@pytest.mark.parametrize("outcomes", [("success", "failure", "ignored"), ("failure", "failure", "success"), ("ignored",) * 3])
def test_no_order_of_results_loses_a_permit_or_the_way_out(outcomes):
    def story():
        world = World(half_open_requests=2).failed_before()
        actors = [lambda outcome=outcome: world.caller(outcome) for outcome in outcomes]
        return actors, world.recovers

    assert all_schedules(story) > 100


@pytest.mark.parametrize("act", ["open", "close", "reset", "isolate", "disable", "metrics_only"])
def test_operator_comes_between_any_two_steps(act):
    expected = {"isolate": State.ISOLATED, "disable": State.DISABLED, "metrics_only": State.METRICS_ONLY}

    def story():
        world = World(half_open_requests=1).failed_before()

        def operator():
            getattr(world.manager, act)("api")

        def check():
            if act in expected:  # nothing that began before the operator came undoes what he did
                assert world.state is expected[act]
                world.manager.close("api")
            world.recovers()

        return [world.caller, lambda: world.caller("failure"), operator], check

    assert all_schedules(story) > 100


def test_trials_expire_between_any_two_steps():
    def story():
        world = World(half_open_requests=1, trial_timeout=10).failed_before()

        def time_passes():
            take_turn()
            world.clock.advance(10)

        return [world.caller, lambda: world.caller("failure"), time_passes], world.recovers

    assert all_schedules(story) > 100


def test_failures_of_three_callers_are_all_counted_whatever_their_order():
    def story():
        world = World(failure_threshold=3)

        def check():
            assert world.state is State.OPEN
            assert world.manager.get_stats("api")["total_failures"] == 3

        return [lambda: world.caller("failure")] * 3, check

    assert all_schedules(story) > 5


@pytest.mark.parametrize("act", ["open", "close"])
def test_fast_path_is_never_left_with_a_view_that_no_longer_holds(act):
    def story():
        world = World(looks=True, half_open_requests=1, failure_threshold=1)

        def caller():
            with contextlib.suppress(ValueError, CircuitOpenError):
                world.manager.call("api", lambda: int("broken"))

        def check():
            breaker = world.manager.service("api")
            flows = world.state is State.CLOSED
            assert (breaker.flowing is not None, breaker.refusing is not None) == (flows, not flows)
            world.recovers()

        return [caller, lambda: getattr(world.manager, act)("api")], check

    assert all_schedules(story) > 100
