"""The states and how a circuit moves between them."""

from __future__ import annotations

import threading

import pytest

from alphavel.circuit_breaker import CircuitOpenError, State
from alphavel.circuit_breaker.settings import ThresholdSettings
from alphavel.circuit_breaker.states import TRANSITIONS, Outcome, Record, admit, ended, opened


def test_circuit_opens_at_the_threshold_and_not_before(bench):
    api = bench(failure_threshold=3)
    api.fail(2)
    assert api.state is State.CLOSED
    api.fail()
    assert api.state is State.OPEN
    error = api.refused()
    assert (error.service, error.state, error.retry_after) == ("api", State.OPEN, 30.0)
    assert error.last_failure == "ServiceError: broken"
    assert "'api' is open; ask again in 30.0 s (last failure: ServiceError: broken)" in str(error)


def test_failures_older_than_the_window_do_not_count(bench):
    api = bench(failure_threshold=3, timeout=10)
    api.fail(2)
    api.advance(10)
    api.fail(2)
    assert api.state is State.CLOSED
    api.advance(9.75)
    api.fail()
    assert api.state is State.OPEN


def test_window_is_exact_where_failures_are_spread(bench):
    api = bench(failure_threshold=3, timeout=10)
    for _ in range(50):  # never more than two in any ten seconds
        api.fail()
        api.advance(5)
    assert api.state is State.CLOSED
    api.fail()
    api.fail()
    assert api.state is State.OPEN


def test_successes_between_failures_do_not_hide_them(bench):
    api = bench(failure_threshold=3)
    for _ in range(3):
        api.fail()
        if api.state is State.CLOSED:
            api.succeed()
    assert api.state is State.OPEN


def test_half_open_circuit_closes_when_enough_trials_have_succeeded(bench):
    api = bench(failure_threshold=1, success_threshold=60, half_open_requests=3)
    api.fail()
    api.advance(30)
    api.succeed()
    assert api.state is State.HALF_OPEN
    api.fail()
    assert api.state is State.HALF_OPEN
    api.succeed()
    assert api.state is State.CLOSED


def test_half_open_circuit_opens_the_moment_the_rate_is_out_of_reach(bench):
    api = bench(failure_threshold=1, success_threshold=80, half_open_requests=3)
    api.fail()
    api.advance(30)
    api.succeed()
    api.fail()  # two of three is less than 80 %
    assert api.state is State.OPEN
    assert api.refused().retry_after == 30.0


def test_half_open_circuit_refuses_the_call_past_its_trials_and_says_which_refusal_it_is(bench):
    api = bench(failure_threshold=1, half_open_requests=1)
    api.fail()
    api.advance(30)

    def trial():
        error = api.refused()
        assert error.state is State.HALF_OPEN
        assert "half-open" in str(error)
        return "done"

    assert api.manager.call("api", trial) == "done"
    assert api.state is State.CLOSED


def test_late_failure_from_an_old_generation_does_not_open_the_breaker(bench):
    api = bench(failure_threshold=1)
    with pytest.raises(ValueError, match="late"), api.manager.guard("api"):
        api.manager.close("api")
        raise ValueError("late")
    assert api.state is State.CLOSED
    assert api.stats["total_failures"] == 1


def test_late_trial_of_an_older_half_open_does_not_close_the_breaker(bench):
    api = bench(failure_threshold=1, half_open_requests=1, trial_timeout=10)
    api.fail()
    api.advance(30)
    with api.manager.guard("api"):
        api.advance(10)  # it has not come back: the next caller gets its permit
        with api.manager.guard("api"):
            api.manager.open("api")
    assert api.state is State.OPEN


def test_trial_that_never_returns_gives_its_permit_back_after_a_bound(bench):
    api = bench(failure_threshold=1, half_open_requests=2, trial_timeout=10, success_threshold=100)
    api.fail()
    api.advance(30)
    breaker = api.manager.service("api")
    lost = breaker.enter(breaker.now())
    assert not isinstance(lost, CircuitOpenError)
    api.succeed()
    assert api.refused().state is State.HALF_OPEN
    api.advance(10)
    assert api.succeed() == "fine"
    assert api.state is State.CLOSED
    breaker.failed(lost, 0.0, ValueError("very late"), breaker.own_policy)
    assert api.state is State.CLOSED


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_trial_that_is_cut_short_gives_its_permit_back_at_once(bench, error):
    api = bench(failure_threshold=1, half_open_requests=1)
    api.fail()
    api.advance(30)
    for _ in range(5):
        api.fail(error=error)
    assert api.state is State.HALF_OPEN
    api.succeed()
    assert api.state is State.CLOSED


def test_recovery_time_backs_off_up_to_its_maximum_and_starts_over_after_a_recovery(bench):
    api = bench(failure_threshold=1, half_open_requests=1, recovery_backoff=2, recovery_timeout=10, recovery_timeout_max=35)
    waits = []
    for _ in range(4):
        api.fail()
        waits.append(api.refused().retry_after)
        api.advance(waits[-1])
    assert waits == [10, 20, 35, 35]
    api.succeed()
    api.fail()
    assert api.refused().retry_after == 10


def test_recovery_time_is_spread_by_jitter(bench):
    waits = set()
    for _ in range(20):
        api = bench(failure_threshold=1, recovery_timeout=10, recovery_jitter=0.5)
        api.fail()
        waits.add(api.refused().retry_after)
    assert len(waits) > 1
    assert all(10 <= wait <= 15 for wait in waits)


def test_backoff_survives_a_service_that_is_down_for_months():
    record, rules = Record(), ThresholdSettings(recovery_backoff=10.0, recovery_timeout_max=600.0)
    for _ in range(5000):
        record = opened(record, rules, 0.0)
    assert record.wait == 600.0


def test_ramp_lets_growing_shares_through_and_then_closes(bench):
    api = bench(failure_threshold=2, half_open_requests=1, ramp=[10, 25, 50], ramp_step=10)
    api.fail(2)
    api.advance(30)
    api.succeed()
    assert api.state is State.RECOVERING
    for percent in (10, 25, 50):
        before = api.reached
        for _ in range(200):
            try:
                api.succeed()
            except CircuitOpenError as error:
                assert error.state is State.RECOVERING
        assert api.reached - before == 2 * percent
        api.advance(10)
    api.succeed()
    assert api.state is State.CLOSED


def test_ramp_falls_back_to_open_when_the_service_fails_again(bench):
    api = bench(failure_threshold=2, half_open_requests=1, ramp=[50], ramp_step=10)
    api.fail(2)
    api.advance(30)
    api.succeed()
    failed = 0
    while failed < 2:
        try:
            api.fail()
            failed += 1
        except CircuitOpenError:
            pass
    assert api.state is State.OPEN


def test_isolated_circuit_refuses_until_it_is_closed(bench):
    api = bench()
    api.manager.isolate("api")
    api.advance(1e6)
    error = api.refused()
    assert (error.state, error.retry_after) == (State.ISOLATED, None)
    api.manager.close("api")
    assert api.succeed() == "fine"


def test_disabled_circuit_lets_all_through_and_still_counts(bench):
    api = bench(failure_threshold=2)
    api.manager.disable("api")
    api.fail(10)
    assert api.state is State.DISABLED
    assert api.stats["total_failures"] == 10


def test_metrics_only_refuses_nobody_and_says_what_it_would_have_done(bench):
    api = bench(failure_threshold=2, mode="metrics_only", half_open_requests=1)
    refused = []
    api.manager.on("refused", refused.append)
    api.fail(2)
    assert (api.state, api.stats["would_be"]) == (State.METRICS_ONLY, "open")
    assert api.succeed() == "fine"
    assert api.stats["would_have_rejected"] == 1
    assert (api.stats["rejected"], refused[0].state) == (0, State.METRICS_ONLY)
    api.advance(30)
    api.succeed()
    assert (api.state, api.stats["would_be"]) == (State.METRICS_ONLY, "closed")


def test_manual_controls_move_a_circuit_from_any_state_to_any_other(bench):
    acts = {"open": State.OPEN, "close": State.CLOSED, "isolate": State.ISOLATED, "disable": State.DISABLED,
            "metrics_only": State.METRICS_ONLY}  # fmt: skip
    for first in acts:
        for second, state in acts.items():
            api = bench()
            getattr(api.manager, first)(api.service)
            getattr(api.manager, second)(api.service)
            assert api.state is state


def test_reset_begins_anew(bench):
    api = bench(failure_threshold=2)
    api.succeed()
    api.fail(2)
    api.refused()
    api.manager.reset("api")
    stats = api.stats
    assert api.state is State.CLOSED
    assert {key: stats[key] for key in ("failures", "successes", "total_requests", "rejected", "last_failure")} == {
        "failures": 0, "successes": 0, "total_requests": 0, "rejected": 0, "last_failure": None
    }  # fmt: skip
    api.fail()
    assert api.state is State.CLOSED


def test_failure_rate_opens_over_a_minimum_of_calls(bench):
    api = bench(failure_threshold=1000, failure_rate=50, minimum_calls=10)
    for _ in range(4):
        api.succeed()
        api.fail()
    api.fail()
    assert api.state is State.CLOSED  # nine calls say nothing
    api.fail()
    assert api.state is State.OPEN


def test_failure_rate_forgets_what_is_older_than_the_window(bench):
    api = bench(failure_threshold=1000, failure_rate=50, minimum_calls=10, timeout=10)
    for _ in range(9):
        api.fail()
    api.advance(11)
    for _ in range(8):
        api.succeed()
    api.fail(2)
    assert api.state is State.CLOSED


def test_slow_calls_open_the_circuit_by_their_rate(bench):
    api = bench(slow_call_duration=1, slow_call_rate=50, minimum_calls=4)
    seen = []
    api.manager.on("slow", seen.append)
    for _ in range(2):
        api.succeed()
    for _ in range(2):
        api.manager.call("api", lambda: api.advance(2))
    assert api.state is State.OPEN
    assert (api.stats["slow"], [event.duration for event in seen]) == (2, [2.0, 2.0])


def test_table_of_transitions_is_what_the_machine_does():
    rules = ThresholdSettings(half_open_requests=1, trial_timeout=5)
    ramped = ThresholdSettings(half_open_requests=1, ramp=(50,), ramp_step=10)
    open_ = opened(Record(), rules, 0.0)
    half = admit(open_, rules, 30.0, 0).record
    assert half is not None
    again = ended(half, half.generation, Outcome.FAILURE, rules, 31.0)
    closed = ended(half, half.generation, Outcome.SUCCESS, rules, 31.0)
    recovering = ended(half, half.generation, Outcome.SUCCESS, ramped, 31.0)
    renewed = admit(half, rules, 35.0, 0).record
    assert again and closed and recovering and renewed
    done = admit(recovering, ramped, 41.0, 1).record
    assert done
    walked = {
        (Record().state, open_.state), (open_.state, half.state), (half.state, again.state), (half.state, closed.state),
        (half.state, recovering.state), (half.state, renewed.state), (recovering.state, done.state),
        (recovering.state, opened(recovering, ramped, 32.0).state),
    }  # fmt: skip
    assert walked == {(start, end) for (start, _), end in TRANSITIONS.items()}


def test_threads_that_fail_at_once_open_the_circuit_once(bench):
    api = bench(failure_threshold=10)
    changes = []
    api.manager.on("state_change", changes.append)
    barrier = threading.Barrier(20)

    def work():
        barrier.wait()
        with pytest.raises(Exception):  # noqa: B017 (its own failure, or a refusal)
            api.manager.call("api", lambda: 1 / 0)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(event.previous, event.state) for event in changes] == [(State.CLOSED, State.OPEN)]
