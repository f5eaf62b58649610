"""Circuits in Redis: no command on the closed path, and life without Redis."""

from __future__ import annotations

import contextlib
import re
import socket
import time

import pytest

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError, State
from tests.redis_server import RedisServer
from tests.support import wait_until


@pytest.fixture
def own_redis():
    """A Redis that this test may stop."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def make():
    made = []

    def make_(server, timeout=5.0, retry=0.1, **thresholds):
        store = {"url": server.url, "timeout": timeout, "retry": retry}
        made.append(CircuitBreakerManager({"default": "redis", "stores": {"redis": store}, "thresholds": thresholds}))
        return made[-1]

    yield make_
    for manager in made:
        manager.shut_down()


def _commands(server):
    statistics = server.command("INFO", "commandstats").decode()
    return {name: int(calls) for name, calls in re.findall(r"cmdstat_([^:]+):calls=(\d+)", statistics)}


def _at_rest(server):
    """Return how often each command was used, once none is used any more: who listens looks at the circuit once."""
    before = _commands(server)
    time.sleep(0.3)
    after = _commands(server)
    return after if {name for name in after if after[name] != before.get(name)} <= {"info"} else None


def test_closed_path_sends_no_command_and_joining_writes_nothing(own_redis, make):
    manager = make(own_redis)
    manager.call("api", lambda: 1)
    wait_until(lambda: "subscribe" in _commands(own_redis))
    before = wait_until(lambda: _at_rest(own_redis))
    for _ in range(1000):
        manager.call("api", lambda: 1)
    after = _commands(own_redis)
    assert {name for name in after if after[name] != before.get(name, 0)} <= {"info"}
    assert own_redis.command("DBSIZE") == b":0\r\n"


def test_change_reaches_the_others_without_their_asking(own_redis, make):
    one, other = make(own_redis, failure_threshold=2), make(own_redis, failure_threshold=2)
    for manager in (one, other):
        manager.call("api", lambda: 1)
    wait_until(lambda: own_redis.command("PUBSUB", "NUMSUB", "alphavel:circuit:changes").endswith(b":2\r\n"))
    for manager in (one, other):
        with pytest.raises(ZeroDivisionError):
            manager.call("api", lambda: 1 / 0)
    wait_until(lambda: one.get_state("api") is other.get_state("api") is State.OPEN)
    one.close("api")
    wait_until(lambda: other.service("api").flowing is not None)


def test_new_process_joins_what_is_there_and_resets_nothing(own_redis, make):
    make(own_redis).isolate("api")
    late = make(own_redis)
    with pytest.raises(CircuitOpenError) as refusal:
        late.call("api", lambda: 1)
    assert refusal.value.state is State.ISOLATED


def test_lost_key_is_a_closed_circuit(own_redis, make):
    manager = make(own_redis, failure_threshold=1, recovery_timeout=0)
    manager.open("api")
    own_redis.command("FLUSHALL")
    assert manager.call("api", lambda: "fine") == "fine"
    assert manager.get_state("api") is State.CLOSED


def test_without_redis_the_breaker_goes_on_with_what_it_knows_and_says_so_once(own_redis, make, caplog):
    manager = make(own_redis, failure_threshold=2, recovery_timeout=1000)
    manager.call("api", lambda: 1)
    own_redis.stop()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            manager.call("api", lambda: 1 / 0)
    with pytest.raises(CircuitOpenError):
        manager.call("api", lambda: 1)
    assert manager.get_stats("api")["state"] == "open"
    assert caplog.text.count("cannot be reached") == 1
    assert ".. This process" not in caplog.text
    own_redis.start()
    wait_until(lambda: manager.call("api", lambda: True, fallback=lambda: False), what="Redis' word to hold again")


def test_process_that_starts_without_redis_protects_all_the_same(own_redis, make):
    own_redis.stop()
    manager = make(own_redis, failure_threshold=1)
    with pytest.raises(ZeroDivisionError):
        manager.call("api", lambda: 1 / 0)
    with pytest.raises(CircuitOpenError):
        manager.call("api", lambda: 1)


def test_new_services_do_not_each_wait_for_a_redis_that_hangs(own_redis, make):
    manager = make(own_redis, timeout=0.1, retry=600)
    own_redis.stop()
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", own_redis.port), backlog=200) as hanging:
        for number in range(50):
            assert manager.call(f"api-{number}", lambda: "fine") == "fine"
        hanging.setblocking(False)
        asked = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                hanging.accept()[0].close()
                asked += 1
    # Once by the first of them; the rest is the one thread that listens, which waits 0.1 s each time.
    assert 1 <= asked <= 3 + (time.monotonic() - began) / 0.1


def test_redis_that_hangs_costs_no_more_than_its_time_limit_and_not_for_every_call(own_redis, make):
    manager = make(own_redis, timeout=0.2, retry=60, failure_threshold=1000)
    manager.call("api", lambda: 1)
    assert own_redis.command("CLIENT", "PAUSE", "60000", "ALL") == b"+OK\r\n"
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(ZeroDivisionError):
            manager.call("api", lambda: 1 / 0)
    assert time.monotonic() - began < 10  # a hundred limits would be 20
    assert manager.get_state("api") is State.CLOSED
