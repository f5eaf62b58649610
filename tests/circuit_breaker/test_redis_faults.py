"""Redis full or slow, its connections cut, black-holed and stranded: what a process does meanwhile and after."""

from __future__ import annotations

import threading
import time

import pytest

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError, State
from alphavel.circuit_breaker.stores import redis_listener
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from tests.support import python, run, wait_until

WITHIN_S = 30
"""For what takes a fraction of a second on a machine that has nothing else to do."""


@pytest.fixture
def server():
    """A Redis that this test may break."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def proxy(server):
    """What stands before it."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def make():
    made = []

    def make_(port, timeout=5, retry=0.05, **thresholds):
        store = {"url": f"redis://127.0.0.1:{port}/0", "timeout": timeout, "retry": retry}
        made.append(CircuitBreakerManager({"default": "redis", "stores": {"redis": store}, "thresholds": thresholds}))
        return made[-1]

    yield make_
    for manager in made:
        manager.shut_down()
    assert not listeners(), "a listener outlives its manager"


def listeners():
    return [thread for thread in threading.enumerate() if thread.name == "alphavel-circuits"]


def hears(server):
    """Wait until somebody listens."""
    with server.client() as client:
        wait_until(lambda: client.pubsub_numsub("alphavel:circuit:changes")[0][1] == 1, WITHIN_S)


def fail(manager, service="api"):
    with pytest.raises(ZeroDivisionError):
        manager.call(service, lambda: 1 / 0)


# -- totals ------------------------------------------------------------------------------------------------------------


def test_totals_are_counted_once_where_the_answer_to_them_was_lost(server, proxy, make):
    """A process that was not told that Redis had added its totals added them again, for good."""
    one, other = make(proxy.port, timeout=1), make(server.port)
    one.call("api", lambda: 1)
    assert one.get_stats("api")["total_successes"] == 1  # and Redis knows the script
    for _ in range(9):
        one.call("api", lambda: 1)
    proxy.black_hole("client")  # Redis does what it is asked; nobody hears of it
    assert one.get_stats("api")["total_successes"] == 10
    client = server.client()
    wait_until(lambda: client.hget("alphavel:circuit:totals:api", "successes") == b"10", WITHIN_S)
    proxy.cut()
    proxy.heal()
    one.call("api", lambda: 1)
    for manager in (one, other):
        wait_until(lambda manager=manager: manager.get_stats("api")["total_successes"] == 11, WITHIN_S)
    assert client.hget("alphavel:circuit:totals:api", "successes") == b"11"
    client.close()


def test_totals_never_exceed_the_calls_there_were_while_connections_are_cut(server, proxy, make):
    one, other = make(proxy.port, failure_threshold=10**6), make(server.port, failure_threshold=10**6)
    calls, seen, over = [], [], threading.Event()

    def work(manager):
        while not over.is_set():
            calls.append(1)
            manager.call("api", lambda: 1)
            time.sleep(0.0002)

    def look(manager):
        while not over.is_set():
            manager.store._reported = float("-inf")  # asks all each time
            total = manager.get_stats("api")["total_successes"]
            seen.append((total, len(calls)))

    threads = [threading.Thread(target=what, args=(manager,)) for what in (work, look) for manager in (one, other)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            proxy.black_hole("client")
            time.sleep(0.02)
            proxy.cut()
            proxy.heal()
            time.sleep(0.1)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert [pair for pair in seen if pair[0] > pair[1]] == []
    for manager in (one, other):
        wait_until(lambda manager=manager: manager.get_stats("api")["total_successes"] == len(calls), WITHIN_S)


_FORKING = """
import os, sys
from alphavel.circuit_breaker import CircuitBreakerManager
manager = CircuitBreakerManager({"default": "redis", "stores": {"redis": {"url": sys.argv[1], "timeout": 5}}})
for _ in range(10):
    manager.call("api", lambda: 1)
child = os.fork()
manager.call("api", lambda: 1)
manager.get_stats("api")
if child:
    os.waitpid(child, 0)
    print(manager.get_stats("api")["total_successes"])
manager.shut_down()
"""


def test_forked_process_does_not_count_once_more_what_its_parent_counted(server):
    result = run(python(), "-W", "ignore", "-c", _FORKING, server.url)
    assert result.stdout == "12\n", result.stderr


# -- the thread that listens -------------------------------------------------------------------------------------------


def test_listener_outlives_cuts_at_any_moment_and_hears_what_comes_after(server, proxy, make):
    manager, operator = make(proxy.port), make(server.port)
    manager.call("api", lambda: 1)
    over = threading.Event()

    def move():
        while not over.is_set():
            operator.open("api")
            operator.close("api")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for number in range(40):
            time.sleep(0.003 * (number % 10))
            proxy.cut()
    finally:
        over.set()
        mover.join()
    operator.isolate("api")
    wait_until(lambda: manager.service("api").refusing, WITHIN_S)
    assert len(listeners()) == 2  # pytest fails a test in which a thread has ended by an exception


def test_listener_outlives_what_is_no_text(server, make):
    manager, operator = make(server.port), make(server.port)
    manager.call("api", lambda: 1)
    hears(server)
    client = server.client()
    for nonsense in (b"\xff\xfe", b"", b"\0", b"api\xff", b"?" * 1000):
        client.publish("alphavel:circuit:changes", nonsense)
    client.close()
    operator.isolate("api")
    wait_until(lambda: manager.service("api").refusing, WITHIN_S)


def test_listener_outlives_an_error_of_its_own(server, make, monkeypatch, caplog):
    manager, operator = make(server.port), make(server.port)
    manager.call("api", lambda: 1)
    hears(server)
    mishaps = iter([KeyError("mishap")])

    def report():
        for mishap in mishaps:
            raise mishap

    monkeypatch.setattr(manager.store, "report", report)
    server.command("PUBLISH", "alphavel:circuit:changes", redis_listener.REPORT)
    wait_until(lambda: "KeyError: 'mishap'. It begins again." in caplog.text, WITHIN_S)
    operator.isolate("api")
    wait_until(lambda: manager.service("api").refusing, WITHIN_S)


def test_listener_ends_with_its_manager_at_whatever_moment_that_is_closed(server, make):
    """Closing started a second listener, and took from it the connection that it was reading from: it died of ValueError."""
    for number in range(60):
        manager = make(server.port, half_open_requests=1, recovery_timeout=0)
        manager.open("api")
        with manager.guard("api"):
            time.sleep(0.0005 * (number % 8))
        manager.shut_down()
        assert not listeners()


def test_line_that_has_died_without_a_word_is_noticed(server, proxy, make, monkeypatch):
    monkeypatch.setattr(redis_listener, "_QUIET_S", 0.5)
    monkeypatch.setattr(redis_listener, "_ANSWER_S", 0.5)
    manager, operator = make(proxy.port, timeout=0.5), make(server.port)
    manager.call("api", lambda: 1)
    hears(server)
    proxy.strand()
    operator.isolate("api")
    wait_until(lambda: manager.service("api").refusing, WITHIN_S)
    with pytest.raises(CircuitOpenError):
        manager.call("api", lambda: 1)


# -- Redis that does not do as asked -----------------------------------------------------------------------------------


def test_full_redis_leaves_each_process_with_circuits_of_its_own_that_protect(server, make, caplog):
    """It can be read all the same: taken for one that is back, it closed the circuit anew at each look."""
    manager = make(server.port, failure_threshold=2, recovery_timeout=1000)
    manager.call("api", lambda: 1)
    assert server.command("CONFIG", "SET", "maxmemory", "1") == b"+OK\r\n"
    for _ in range(2):
        fail(manager)
    until = time.monotonic() + 0.7
    while time.monotonic() < until:
        with pytest.raises(CircuitOpenError):
            manager.call("api", lambda: 1)
        time.sleep(0.01)
    assert caplog.text.count("cannot be reached") == 1
    assert "maxmemory" in caplog.text
    assert server.command("CONFIG", "SET", "maxmemory", "0") == b"+OK\r\n"
    wait_until(lambda: manager.call("api", lambda: True, fallback=lambda: False), WITHIN_S, "Redis' word to hold again")
    assert manager.get_state("api") is State.CLOSED


def test_slow_redis_costs_time_and_nothing_else(server, proxy, make, caplog):
    proxy.delay_s = 0.05
    manager = make(proxy.port, failure_threshold=3)
    for _ in range(3):
        fail(manager)
    with pytest.raises(CircuitOpenError):
        manager.call("api", lambda: 1)
    assert manager.get_stats("api")["total_failures"] == 3
    assert not caplog.records
