"""Every store against the blackboard model, over random stories of calls that overlap, times, and operators."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError
from tests.circuit_breaker.conftest import Clock
from tests.circuit_breaker.model import Call, Model, Rules

_names = (f"-{number}" for number in itertools.count())

rules = st.builds(
    dict,
    failure_threshold=st.integers(1, 7),
    success_threshold=st.sampled_from([0, 34, 50, 80, 100]),
    timeout=st.sampled_from([1, 5, 20]),
    recovery_timeout=st.sampled_from([0, 3, 8]),
    half_open_requests=st.integers(1, 4),
    trial_timeout=st.sampled_from([2, 10]),
    recovery_backoff=st.sampled_from([1, 2]),
    recovery_timeout_max=st.just(10),
    ramp=st.sampled_from([[], [10, 50], [34]]),
    ramp_step=st.sampled_from([1, 4]),
)
steps = st.one_of(
    st.tuples(st.just("begin"), st.none()),
    st.tuples(st.sampled_from(["success", "failure", "failure", "ignored"]), st.integers(0, 5)),
    # A quarter of a second, and so any sum of them, is exact in binary.
    st.tuples(st.just("advance"), st.sampled_from([0.25, 1.0, 3.0, 4.75])),
    st.tuples(st.sampled_from(["open", "close", "reset", "isolate", "disable", "metrics_only"]), st.none()),
)
# Stories in which mostly calls happen: an operator comes by once in a while.
stories = st.lists(st.one_of(steps, steps, steps.filter(lambda step: step[0] not in _CONTROLS)), max_size=60)
_CONTROLS = ("open", "close", "reset", "isolate", "disable", "metrics_only")


class ServiceError(Exception):
    pass


no_checks = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@settings(max_examples=250, **no_checks)
@given(thresholds=rules, story=stories)
def test_breaker_does_what_the_model_does(store_config: Any, clock: Clock, thresholds: dict[str, Any], story: Any) -> None:
    with _managers(store_config, thresholds, clock, 1) as (manager,):
        _follow(lambda: manager, clock, thresholds, story)


@settings(max_examples=150, **no_checks)
@given(thresholds=rules, story=stories, seed=st.randoms())
def test_processes_that_share_a_file_are_as_one(
    tmp_path: Path, clock: Clock, thresholds: dict[str, Any], story: Any, seed: Any
) -> None:
    thresholds = {**thresholds, "ramp": []}  # the share that is let through is each process's own
    config = {"default": "shared", "stores": {"shared": {"path": str(tmp_path / "file"), "max_workers": 3}}}
    with _managers(config, thresholds, clock, 3) as managers:
        _follow(lambda: seed.choice(managers), clock, thresholds, story)


@contextmanager
def _managers(config: Any, thresholds: Any, clock: Clock, many: int) -> Iterator[list[CircuitBreakerManager]]:
    config = copy.deepcopy({**config, "thresholds": thresholds})
    shared, redis = (config["stores"].get(name, {}) for name in ("shared", "redis"))
    if "path" in shared:  # each story begins with an empty store
        shared.update(path=shared["path"] + next(_names), max_workers=3, max_services=2)
    if "prefix" in redis:
        redis["prefix"] += next(_names)
    managers = [CircuitBreakerManager(config, clock=clock) for _ in range(many)]
    try:
        yield managers
    finally:
        for manager in managers:
            manager.shut_down()


def _follow(pick: Any, clock: Clock, thresholds: dict[str, Any], story: Any) -> None:
    name = "api"
    model = Model(Rules(**{**thresholds, "ramp": tuple(thresholds["ramp"])}))
    under_way: list[tuple[Call, Any]] = []
    try:
        for act, detail in story:
            if act == "advance":
                clock.advance(detail)
            elif act in _CONTROLS:
                getattr(pick(), act)(name)
                model.control(act, clock.now)
            elif act == "begin":
                under_way += _begin(pick(), name, model, clock)
            else:
                if not under_way:
                    under_way += _begin(pick(), name, model, clock)
                if under_way:
                    call, guard = under_way.pop(detail % len(under_way))
                    _end(guard, act)
                    model.end(call, act, clock.now)
            _compare(pick(), name, model, clock)
    finally:
        for _, guard in under_way:
            _end(guard, "ignored")


def _begin(manager: Any, name: str, model: Model, clock: Clock) -> list[tuple[Call, Any]]:
    guard = manager.guard(name, ignore=KeyError)
    answer = model.ask(clock.now)
    try:
        guard.__enter__()
    except CircuitOpenError as error:
        assert not isinstance(answer, Call), "refused what the model lets through"
        assert error.retry_after == pytest.approx(answer, abs=1e-4) if answer is not None else error.retry_after is None
        return []
    assert isinstance(answer, Call), "let through what the model refuses"
    return [(answer, guard)]


def _end(guard: Any, outcome: str) -> None:
    error = {"success": None, "failure": ServiceError(), "ignored": KeyError()}[outcome]
    guard.__exit__(type(error) if error else None, error, None)


def _compare(manager: Any, name: str, model: Model, clock: Clock) -> None:
    stats = manager.get_stats(name)
    expected = {
        "state": model.shown,
        "total_successes": model.totals["success"],
        "total_failures": model.totals["failure"],
        "ignored": model.totals["ignored"],
        "rejected": model.totals["rejected"],
    }
    if model.state in ("closed", "recovering"):
        expected["failures"] = model.recent(clock.now)
    if model.state == "half_open":
        expected["failures"] = model.bad
    assert {key: stats[key] for key in expected} == expected
