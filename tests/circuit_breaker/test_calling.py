"""Ways to call: call, protect, guard; what is returned, raised and counted."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import pickle

import pytest

from alphavel.circuit_breaker import CallTimeoutError, CircuitBreakerManager, CircuitOpenError, FailedResultError, State


def test_call_returns_what_the_function_returns(bench):
    assert bench().manager.call("api", lambda: 42) == 42


def test_refusal_is_a_new_object_each_time_and_survives_pickling(bench):
    api = bench()
    api.manager.isolate("api")
    first, second = api.refused(), api.refused()
    assert first is not second
    copy = pickle.loads(pickle.dumps(first))
    assert (copy.service, copy.state, str(copy)) == ("api", State.ISOLATED, str(first))


def test_fallback_is_given_the_exception_if_it_takes_one(bench):
    api = bench(failure_threshold=1)
    api.manager.open("api")
    assert api.succeed(fallback=lambda: "plain") == "plain"
    assert isinstance(api.succeed(fallback=lambda error: error), CircuitOpenError)
    assert api.succeed(fallback=lambda amount=5: amount) == 5
    assert api.succeed(fallback=dict) == {}


def test_fallback_runs_for_refusals_alone_unless_told_otherwise(bench):
    with pytest.raises(ZeroDivisionError):
        bench().manager.call("api", lambda: 1 / 0, fallback=lambda: "instead")
    eager = bench(fallback_on="failure").manager
    assert eager.call("api", lambda: 1 / 0, fallback=repr) == "ZeroDivisionError('division by zero')"


def test_default_value_is_the_fallback_of_all_where_it_is_configured(clock):
    manager = CircuitBreakerManager({"fallbacks": {"default": "default_value", "default_value": {"queued": True}}}, clock=clock)
    manager.open("api")
    manager.call("api", lambda: 1)["mine"] = "and nobody else's"
    assert manager.call("api", lambda: 1) == {"queued": True}
    with pytest.raises(CircuitOpenError):
        manager.call("api", lambda: 1, fallback="exception")


def test_cache_gives_the_last_good_result_of_each_key_until_it_is_too_old(clock):
    manager = CircuitBreakerManager({"fallbacks": {"default": "cache", "cache": {"ttl": 60}}}, clock=clock)
    manager.call("rates", lambda: 1.1, key="EUR")
    manager.call("rates", lambda: 1.3, key="GBP")
    manager.isolate("rates")
    clock.advance(50)
    assert manager.call("rates", lambda: 0, key="EUR") == 1.1
    assert manager.call("rates", lambda: 0, key="GBP") == 1.3
    assert manager.get_stats("rates")["cache"] == {"entries": 2, "age": 50.0, "stale_age": 50.0}
    with pytest.raises(CircuitOpenError):
        manager.call("rates", lambda: 0, key="JPY")
    clock.advance(11)
    with pytest.raises(CircuitOpenError):
        manager.call("rates", lambda: 0, key="EUR")


def test_cache_of_one_call_keeps_its_result_without_any_configuration(bench):
    api = bench()
    assert api.succeed(fallback="cache") == "fine"
    api.manager.isolate("api")
    assert api.manager.call("api", lambda: "new", fallback="cache") == "fine"


def test_a_key_that_no_dict_can_have_is_refused_before_the_service_is_called(bench):
    """The service had done its work, and its result was lost."""
    api, reached = bench(), []
    with pytest.raises(TypeError, match=r"key takes what a dict can have as a key.*got \['EUR'\]"):
        api.manager.call("api", lambda: reached.append(1), fallback="cache", key=["EUR"])
    with pytest.raises(TypeError, match="key takes what a dict can have"):
        api.manager.protect("api", fallback="cache", key=lambda: {})(lambda: reached.append(1))()
    assert reached == []


def test_a_failure_counts_whatever_fallback_or_key_it_comes_with(bench):
    api, reached = bench(), []

    def service(*_):
        reached.append(1)
        return 1 / 0

    with pytest.raises(TypeError, match="fallback takes a function"):  # before the call, or when the fallback is needed
        api.manager.call("api", service, fallback="later")
    with pytest.raises(ZeroDivisionError):
        api.manager.protect("api", key=lambda currency: currency.upper())(service)(None)  # nothing is kept: no key is needed
    assert api.stats["total_failures"] == len(reached) > 0


def test_cache_is_bounded(clock):
    manager = CircuitBreakerManager({"fallbacks": {"default": "cache", "cache": {"max_entries": 3}}}, clock=clock)
    for number in range(10):
        manager.call("api", lambda number=number: number, key=number)
    assert manager.get_stats("api")["cache"]["entries"] == 3
    manager.isolate("api")
    assert [manager.call("api", lambda: -1, key=number, fallback=None) for number in (7, 8, 9)] == [7, 8, 9]


def test_fallback_that_is_no_function_is_refused_with_what_to_write(bench):
    with pytest.raises(TypeError, match="fallback=lambda: 5"):
        bench().manager.protect("api", fallback=5)


def test_ignored_exceptions_count_as_nothing(bench):
    api = bench(failure_threshold=1)

    @api.manager.protect("api", ignore=(ValueError, lambda error: "mine" in str(error)))
    def work(error):
        raise error

    for error in (ValueError("x"), RuntimeError("mine")):
        with pytest.raises(type(error)):
            work(error)
    assert (api.state, api.stats["ignored"]) == (State.CLOSED, 2)
    with pytest.raises(RuntimeError):
        work(RuntimeError("yours"))
    assert api.state is State.OPEN


def test_recorded_exceptions_alone_are_failures(bench):
    api = bench(failure_threshold=1)
    api.manager.configure("api", record=ConnectionError)
    api.fail(3)
    assert api.state is State.CLOSED
    api.fail(error=ConnectionResetError())
    assert api.state is State.OPEN


def test_results_are_judged_where_the_service_answers_with_failures(bench):
    api = bench(failure_threshold=2)

    @api.manager.protect("api", failure_if=lambda status: status >= 500, fallback_on="failure", fallback=lambda e: e)
    def get(status):
        return status

    assert get(200) == 200
    judged = get(503)
    assert isinstance(judged, FailedResultError)
    assert judged.result == 503
    get(500)
    assert api.state is State.OPEN


def test_judge_whose_answer_is_neither_true_nor_false_keeps_no_permit(bench):
    class Neither:
        def __bool__(self):
            raise ValueError("an array of several values is neither")

    api = bench(failure_threshold=1, half_open_requests=1)
    api.manager.configure("api", failure_if=lambda result: Neither())
    assert api.succeed() == "fine"
    assert api.state is State.OPEN


def test_judge_that_raises_counts_a_failure_and_keeps_no_permit(bench):
    api = bench(failure_threshold=1, half_open_requests=1)
    api.manager.configure("api", failure_if=lambda result: result.no_such_attribute)
    assert api.succeed() == "fine"
    assert api.state is State.OPEN
    api.advance(30)
    api.succeed()
    assert api.state is State.OPEN


def test_protected_function_keeps_its_name_signature_and_defaults(bench):
    marker = object()

    def charge(amount, /, currency="EUR", *notes, urgent=False, marker=marker, **extra):
        """Charge."""
        return amount, currency, notes, urgent, marker, extra

    wrapped = bench().manager.protect("api")(charge)
    assert (wrapped.__name__, wrapped.__doc__, wrapped.__wrapped__) == ("charge", "Charge.", charge)
    assert inspect.signature(wrapped) == inspect.signature(charge)
    assert wrapped(1) == charge(1)
    assert wrapped(1, "USD", "a", "b", urgent=True, color="red") == charge(1, "USD", "a", "b", urgent=True, color="red")
    with pytest.raises(TypeError):
        wrapped()


def test_what_is_no_function_is_refused_where_it_is_decorated(bench):
    """@protect above @staticmethod made a method of it, which was given self; above @classmethod its first call failed."""
    protect = bench().manager.protect("api")
    for kind in (classmethod, staticmethod):
        with pytest.raises(TypeError, match=f"@{kind.__name__} goes above @protect"):
            protect(kind(print))
    for thing in (5, None, property(print)):
        with pytest.raises(TypeError, match="protect goes around a function; got"):
            protect(thing)
    with pytest.raises(TypeError, match=r"ignore takes exception types .*; got 'ValueError'"):
        bench().manager.protect("api", ignore="ValueError")


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (lambda: 1, (), {}),
        (lambda _private: _private, (1,), {}),
        (lambda a, *, b: (a, b), (1,), {"b": 2}),
        (lambda *a: a, (1, 2), {}),
        (lambda **k: k, (), {"view": 1, "type": 2}),
        (lambda a, /: a, (1,), {}),
        (lambda a, b=2, /, c=3: (a, b, c), (1,), {"c": 4}),
        (lambda a=1, *, b=2: (a, b), (), {"b": 5}),
        (lambda type, breaker, look: (type, breaker, look), (1, 2, 3), {}),
        (max, (3, 7, 5), {}),
    ],
)
def test_functions_of_every_shape_are_called_as_without_the_breaker(bench, function, args, kwargs):
    manager = bench().manager
    assert manager.protect("api")(function)(*args, **kwargs) == function(*args, **kwargs)
    assert manager.get_stats("api")["total_successes"] == 1


def test_protected_method_gets_its_instance(bench):
    api = bench(failure_threshold=1)

    class Payments:
        fee = 3

        @api.manager.protect("api", fallback=lambda: "queued")
        def charge(self, amount):
            return amount + self.fee

        @staticmethod
        @api.manager.protect("api")
        def ping():
            return "pong"

        @classmethod
        @api.manager.protect("api")
        def name(cls):
            return cls.__name__

    assert (Payments().charge(1), Payments.ping(), Payments.name()) == (4, "pong", "Payments")
    api.manager.open("api")
    assert Payments().charge(1) == "queued"


def test_key_of_a_protected_function_is_told_from_its_arguments(bench):
    api = bench()

    @api.manager.protect("api", fallback="cache", key=lambda currency: currency)
    def rate(currency):
        return {"EUR": 1.1, "GBP": 1.3}[currency]

    rate("EUR"), rate("GBP")
    api.manager.isolate("api")
    assert (rate("EUR"), rate("GBP")) == (1.1, 1.3)


def test_protected_generator_is_watched_while_it_runs(bench):
    api = bench(failure_threshold=1)

    @api.manager.protect("api")
    def rows(fail):
        got = yield 1
        yield got
        if fail:
            raise ValueError("connection lost")
        return "end"

    generator = rows(False)
    assert next(generator) == 1
    assert generator.send("sent") == "sent"
    with pytest.raises(StopIteration) as end:
        next(generator)
    assert (end.value.value, api.stats["total_successes"]) == ("end", 1)
    with pytest.raises(ValueError, match="lost"):
        list(rows(True))
    assert api.state is State.OPEN
    with pytest.raises(CircuitOpenError):
        next(rows(False))


def test_generator_that_is_abandoned_gives_its_permit_back(bench):
    api = bench(failure_threshold=1, half_open_requests=1)
    rows = api.manager.protect("api")(lambda: (yield from (1, 2, 3)))
    api.fail()
    api.advance(30)
    generator = rows()
    next(generator)
    assert api.refused().state is State.HALF_OPEN
    generator.close()
    api.succeed()
    assert api.state is State.CLOSED


def test_async_functions_are_awaited_with_the_permit_held(bench):
    api = bench(failure_threshold=2, half_open_requests=1)

    @api.manager.protect("api", fallback=lambda: _later("queued"))
    async def get(fail):
        await asyncio.sleep(0)
        if fail:
            raise ValueError
        return "fine"

    @api.manager.protect("api")
    async def stream():
        yield 1
        raise ValueError

    async def story():
        assert inspect.iscoroutinefunction(get)
        assert await get(False) == "fine"
        assert await api.manager.call("api", lambda: _later("called")) == "called"
        async with api.manager.guard("api"):
            await asyncio.sleep(0)
        assert api.stats["total_successes"] == 3
        with pytest.raises(ValueError):
            await get(True)
        with pytest.raises(ValueError):
            [item async for item in stream()]
        assert api.state is State.OPEN
        assert await get(False) == "queued"
        api.advance(30)
        trial = asyncio.ensure_future(api.manager.call("api", lambda: asyncio.sleep(60)))
        await asyncio.sleep(0)
        assert api.refused().state is State.HALF_OPEN
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial
        assert await get(False) == "fine"
        assert api.state is State.CLOSED

    asyncio.run(story())


def test_async_function_behind_another_decorator_is_awaited_with_the_permit_held(bench):
    """`inspect` takes what such a decorator returns for a plain function: its coroutine, once made, was a success."""
    for timed in ({}, {"slow_call_duration": 10}):
        api = bench(failure_threshold=1, **timed)

        def decorated(fail):
            return work(fail)

        async def work(fail):
            await asyncio.sleep(0)
            return 1 // (not fail)

        protected = api.manager.protect(api.service)(decorated)
        assert asyncio.run(protected(False)) == 1
        assert api.stats["total_successes"] == 1
        with pytest.raises(ZeroDivisionError):
            asyncio.run(protected(True))
        assert (api.state, api.stats["total_successes"]) == (State.OPEN, 1)


def test_result_of_an_async_function_that_could_be_awaited_too_is_left_alone(bench):
    class Client:
        def __await__(self):
            raise AssertionError("nobody asked for that")

    client = Client()

    async def connect():
        return client

    assert asyncio.run(bench().manager.protect("api")(connect)()) is client


def test_protected_async_generator_gets_what_is_sent_and_thrown_in_and_has_ended_once_it_is_closed(bench):
    api = bench(failure_threshold=1)
    seen = []

    @contextlib.asynccontextmanager
    @api.manager.protect("api", ignore=KeyError)
    async def transaction():
        try:
            yield "session"
            seen.append("commit")
        except KeyError:
            seen.append("rollback")
            raise

    @api.manager.protect("api")
    async def echo():
        got = None
        try:
            while True:
                got = yield got
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async def story():
        async with transaction() as session:
            assert session == "session"
        with pytest.raises(KeyError):
            async with transaction():
                raise KeyError
        items = echo()
        assert await items.asend(None) is None
        assert await items.asend("sent") == "sent"
        await items.aclose()
        assert seen == ["commit", "rollback", "closed"]

    asyncio.run(story())
    assert (api.state, api.stats["total_successes"], api.stats["ignored"]) == (State.CLOSED, 1, 2)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError()])
def test_call_that_is_cut_short_is_no_failure_for_a_function_that_did_not_think_of_it(bench, error):
    api = bench(failure_threshold=1)
    api.manager.configure("api", record=lambda error: not isinstance(error, ValueError))
    api.fail(error=error)
    assert (api.state, api.stats["ignored"]) == (State.CLOSED, 1)
    api.manager.configure("api", record=type(error))
    api.fail(error=error)
    assert api.state is State.OPEN


async def _later(value):
    await asyncio.sleep(0)
    return value


def test_async_call_that_takes_too_long_is_cancelled_and_counts(bench):
    api = bench(failure_threshold=1)

    @api.manager.protect("api", timeout=0.01)
    async def hang():
        await asyncio.sleep(60)

    with pytest.raises(CallTimeoutError, match=r"'api' took longer than 0.01 s"):
        asyncio.run(hang())
    assert api.state is State.OPEN


def test_timeout_that_makes_no_sense_is_refused_and_the_service_is_not_called(bench):
    api = bench()
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="timeout takes a positive number"):
            api.succeed(timeout=timeout)
    assert api.reached == 0


def test_generator_is_protected_with_nothing_it_cannot_have(bench):
    manager = bench().manager

    def rows():
        yield 1

    async def stream():
        yield 1

    for function in (rows, stream):
        for options in ({"fallback": list}, {"fallback": "cache"}, {"timeout": 5}, {"key": 1}, {"failure_if": bool}):
            with pytest.raises(TypeError, match=rf"{function.__name__} is a generator.* no {next(iter(options))}\."):
                manager.protect("api", **options)(function)
        manager.protect("api", fallback="exception", ignore=ValueError)(function)


def test_guard_counts_its_block_and_cannot_be_entered_twice_at_once(bench):
    api = bench(failure_threshold=1)
    guard = api.manager.guard("api", ignore=KeyError)
    with guard, pytest.raises(RuntimeError, match="in use"), guard:
        pass
    with pytest.raises(KeyError), guard:
        raise KeyError
    with pytest.raises(ValueError), guard:
        raise ValueError
    assert api.state is State.OPEN
    with pytest.raises(CircuitOpenError), guard:
        pass


def test_guard_of_a_service_that_judges_results_and_keeps_them_judges_and_keeps_nothing(bench):
    """A block has no result. None was judged in its place, which counted failures, and was kept as the last good result."""
    api = bench(failure_threshold=1, fallback_on="failure")
    api.manager.configure("api", failure_if=lambda answer: answer.status >= 500)
    with api.manager.guard("api"):
        pass
    assert (api.state, api.stats["total_successes"]) == (State.CLOSED, 1)

    @api.manager.protect("api")
    def rows():
        yield 1

    assert list(rows()) == [1]
    assert (api.state, api.stats["total_successes"]) == (State.CLOSED, 2)
    api.manager.configure("cached", fallback="cache")
    with api.manager.guard("cached"):
        pass
    assert api.manager.get_stats("cached")["cache"] is None


def test_fallback_of_a_service_does_not_run_for_a_block_it_cannot_answer_for(bench):
    manager = bench(fallback_on="failure").manager
    ran = []
    manager.configure("api", fallback=ran.append)
    with pytest.raises(ZeroDivisionError), manager.guard("api"):
        1 / 0  # noqa: B018
    manager.isolate("api")
    with pytest.raises(CircuitOpenError), manager.guard("api"):
        pass
    assert ran == []


def test_listeners_hear_what_happens_and_one_that_raises_hurts_no_call(bench, caplog):
    api = bench(failure_threshold=1)
    heard = []

    @api.manager.on("state_change")
    def broken(event):
        raise RuntimeError("listener")

    for name in ("state_change", "refused", "failed", "succeeded"):
        api.manager.on(name, heard.append)
    api.succeed()
    api.fail()
    api.refused()
    assert [(event.name, event.service, event.state) for event in heard] == [
        ("succeeded", "api", State.CLOSED),
        ("state_change", "api", State.OPEN),
        ("failed", "api", State.OPEN),
        ("refused", "api", State.OPEN),
    ]
    assert heard[1].reason == "1 failure within 60 s"
    assert str(heard[2].error) == "broken"
    assert "A listener of state_change raised" in caplog.text
    api.manager.off("refused", heard.append)
    api.refused()
    assert len(heard) == 4


def test_unknown_event_is_refused_with_those_there_are(bench):
    with pytest.raises(ValueError, match="state_change, refused, failed, slow, succeeded"):
        bench().manager.on("opened", print)


def test_each_change_is_one_structured_log_line(bench, caplog):
    caplog.set_level("INFO", logger="alphavel.circuit_breaker")
    api = bench(failure_threshold=1, half_open_requests=1)
    api.fail()
    api.advance(30)
    api.succeed()
    assert [record.getMessage() for record in caplog.records] == [
        "circuit changed service='api' from=closed to=open reason='1 failure within 60 s' retry_after=30.0 metrics_only=False",
        "circuit changed service='api' from=open to=half_open reason='the recovery time of 30 s is over' retry_after=None"
        " metrics_only=False",
        "circuit changed service='api' from=half_open to=closed reason='1 of 1 trials succeeded' retry_after=None"
        " metrics_only=False",
    ]
    assert (caplog.records[0].levelname, caplog.records[0].circuit_service, caplog.records[0].circuit_to) == (
        "WARNING", "api", "open"
    )  # fmt: skip


def test_stats_tell_counts_and_times(bench):
    api = bench(failure_threshold=2)
    api.succeed()
    api.advance(5)
    api.fail(2)
    api.advance(5)
    api.refused()
    assert api.stats == {
        "service": "api",
        "state": "open",
        "failures": 0,
        "successes": 0,
        "success_rate": 33.33,
        "total_requests": 3,
        "total_failures": 2,
        "total_successes": 1,
        "last_failure_time": 1e9 + 1005,
        "last_success_time": 1e9 + 1000,
        "last_failure": "ServiceError: broken",
        "rejected": 1,
        "slow": 0,
        "ignored": 0,
        "opened_at": 1e9 + 1005,
        "retry_after": 25.0,
        "would_be": None,
        "would_have_rejected": 0,
        "cache": None,
    }
    assert api.manager.get_all_stats() == {"api": api.stats}


def test_explain_says_why_in_every_state(bench):
    api = bench(failure_threshold=2, half_open_requests=2, ramp=[50], failure_rate=50)
    explain = api.manager.explain
    words = explain("api")
    assert "is closed. It lets all calls through. 0 of 2 failures within 60 s; 2 more would open it, and so would 50 %" in words
    api.succeed()
    api.fail()
    words = explain("api")
    assert "1 of 2 failures within 60 s; 1 more would open it" in words
    assert "50 % of at least 20 calls that failed (here 1 of 2)." in words
    api.fail()
    words = explain("api")
    assert "opened 0.0 s ago and refuses all calls; in 30.0 s it lets 2 trials through. The last failure here: Servi" in words
    api.advance(30)
    assert "its recovery time is over: the next 2 calls are trials" in explain("api")
    api.succeed()
    assert "1 of 2 trials have begun; 1 succeeded, 0 failed" in explain("api")
    api.succeed()
    assert "lets 50 % of the calls through" in explain("api")
    said = {"isolate": "refuses all calls until", "disable": "whatever happens", "metrics_only": "only reports"}
    for act, expected in said.items():
        getattr(api.manager, act)("api")
        assert expected in explain("api")
