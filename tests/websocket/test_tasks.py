"""Handlers run in greenlets that are used again: none may notice."""

from __future__ import annotations

import contextvars

import gevent
import gevent.local
import pytest
from greenlet import getcurrent

from alphavel.websocket.tasks import Tasks

variable = contextvars.ContextVar("variable", default="nothing")


@pytest.fixture
def tasks():
    return Tasks()


def test_functions_run_in_the_order_in_which_they_were_given(tasks):
    seen = []
    for number in range(100):
        tasks.run(seen.append, number)
    assert seen == []

    assert tasks.finish(5)
    assert seen == list(range(100))


def test_function_that_waits_holds_up_none_of_those_behind_it(tasks):
    seen, go_on = [], gevent.event.Event()

    def wait():
        go_on.wait()
        seen.append("waited")

    tasks.run(wait)
    for number in range(3):
        tasks.run(seen.append, number)
    gevent.sleep(0.01)
    assert seen == [0, 1, 2]
    assert len(tasks) == 1

    go_on.set()
    assert tasks.finish(5)
    assert seen == [0, 1, 2, "waited"]
    assert len(tasks) == 0


def test_functions_in_one_greenlet_share_no_context_variable_and_no_greenlet_local(tasks):
    local = gevent.local.local()
    seen, greenlets = [], set()

    def leave(number):
        greenlets.add(id(getcurrent()))
        seen.append((variable.get(), getattr(local, "value", "nothing")))
        variable.set(number)
        if number % 2:
            local.value = number

    for number in range(50):
        tasks.run(leave, number)
    assert tasks.finish(5)

    assert seen == [("nothing", "nothing")] * 50
    assert len(greenlets) < 50  # some were used again, or this shows nothing


def test_greenlet_that_is_still_to_be_woken_is_not_used_again(tasks):
    timeouts, greenlets = [], []

    def forget_a_timeout():
        timeouts.append(gevent.Timeout.start_new(60))
        greenlets.append(id(getcurrent()))

    tasks.run(forget_a_timeout)
    tasks.run(lambda: greenlets.append(id(getcurrent())))
    assert tasks.finish(5)
    timeouts[0].close()

    assert greenlets[0] != greenlets[1]


def test_functions_that_do_not_end_are_ended_after_the_timeout(tasks):
    ended = []

    def never():
        try:
            gevent.sleep(1000)
        finally:
            ended.append(True)

    tasks.run(never)
    tasks.spawn(never)
    gevent.sleep(0)

    assert not tasks.finish(0.05)
    gevent.sleep(0)
    assert ended == [True, True]
    assert len(tasks) == 0


def test_functions_that_take_long_together_leave_turns_to_the_loop(tasks):
    turns = []
    timer = gevent.get_hub().loop.timer(0.0, 0.001)
    timer.start(lambda: turns.append(True))
    for _ in range(2000):
        tasks.run(sum, range(2000))
    try:
        assert tasks.finish(20)
    finally:
        timer.stop()
        timer.close()

    assert turns


def test_function_that_ends_its_greenlet_ends_nothing_else(tasks):
    seen = []

    def leave():
        raise gevent.GreenletExit

    tasks.run(leave)
    tasks.run(seen.append, 1)
    assert tasks.finish(5)

    assert seen == [1]
