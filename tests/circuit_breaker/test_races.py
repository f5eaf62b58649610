"""Callers that race: greenlets, threads, processes. What is counted are the calls that reached the service."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

import pytest

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError, State
from tests.support import ROOT, wait_until

PERMITS = 3


@pytest.fixture
def switching_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_thousand_greenlets_get_exactly_the_permits_there_are(bench):
    import gevent
    from gevent.event import Event

    api = bench(failure_threshold=1, half_open_requests=PERMITS)
    done, outcomes = Event(), Counter()
    api.fail()
    api.advance(30)
    api.reached = 0

    def service():
        api.reached += 1
        done.wait()

    def caller():
        try:
            api.manager.call(api.service, service)
        except CircuitOpenError as error:
            outcomes[error.state] += 1
        else:
            outcomes["served"] += 1

    callers = [gevent.spawn(caller) for _ in range(1000)]
    gevent.sleep(0)
    gevent.idle()
    assert api.reached == PERMITS
    done.set()
    gevent.joinall(callers, timeout=30, raise_error=True)
    assert outcomes == {State.HALF_OPEN: 1000 - PERMITS, "served": PERMITS}
    assert api.state is State.CLOSED


def test_32_threads_get_exactly_the_permits_there_are(bench, switching_often):
    api = bench(failure_threshold=1, half_open_requests=PERMITS, success_threshold=100)
    for _ in range(10):
        api.manager.reset(api.service)
        api.fail()
        api.advance(30)
        reached: list[int] = []
        refused: list[int] = []
        barrier, done = threading.Barrier(32), threading.Event()

        def caller(reached=reached, refused=refused, barrier=barrier, done=done):
            barrier.wait()
            try:
                api.manager.call(api.service, lambda: (reached.append(1), done.wait()))
            except CircuitOpenError:
                refused.append(1)

        threads = [threading.Thread(target=caller) for _ in range(32)]
        try:
            for thread in threads:
                thread.start()
            # All of them, not only those refused: a thread that has its permit may not have reached the service yet.
            wait_until(lambda reached=reached, refused=refused: len(reached) + len(refused) == 32, 60)
            assert (len(reached), len(refused)) == (PERMITS, 32 - PERMITS)
        finally:
            done.set()  # nobody is left behind for the tests that follow
            for thread in threads:
                thread.join()
        assert api.state is State.CLOSED


def test_no_call_is_lost_from_the_totals_of_threads(bench, switching_often):
    api = bench(failure_threshold=1000)

    def work():
        for number in range(500):
            try:
                api.manager.call(api.service, lambda number=number: 1 // (number % 5))
            except ZeroDivisionError:
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (api.stats["total_successes"], api.stats["total_failures"]) == (8 * 400, 8 * 100)


def test_breaker_that_many_threads_move_about_is_never_stuck(bench, switching_often):
    api = bench(failure_threshold=2, half_open_requests=2, recovery_timeout=0, ramp=[50], ramp_step=0.5)
    acts = ["open", "close", "isolate", "disable", "metrics_only", "reset"]
    stop = time.monotonic() + 1.0

    def operator():
        number = 0
        while time.monotonic() < stop:
            number += 1
            getattr(api.manager, acts[number % len(acts)])(api.service)
            api.advance(0.01)

    def caller():
        number = 0
        while time.monotonic() < stop:
            number += 1
            try:
                api.manager.call(api.service, lambda number=number: 1 // (number % 3))
            except (ZeroDivisionError, CircuitOpenError):
                pass

    threads = [threading.Thread(target=work) for work in [operator, operator, *[caller] * 6]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    api.manager.open(api.service)
    for _ in range(10):
        api.advance(1)
        try:
            api.succeed()
        except CircuitOpenError:
            pass
    assert api.state is State.CLOSED


@pytest.mark.parametrize("kind", ["shared", "redis"])
def test_eight_processes_get_exactly_the_permits_there_are(kind, tmp_path, redis_server):
    thresholds = {"half_open_requests": PERMITS, "recovery_timeout": 0, "success_threshold": 100}
    stores = {"shared": {"path": str(tmp_path / "circuits")}, "redis": {"url": redis_server.url, "prefix": f"{tmp_path}:"}}
    config = {"default": kind, "stores": stores, "thresholds": thresholds}
    stores["redis"]["timeout"] = 5
    manager = CircuitBreakerManager(config)
    processes = [_worker(config) for _ in range(8)]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for number in range(6):
            service, file = f"api-{number}", tmp_path / f"reached-{number}"
            manager.open(service)
            at = time.monotonic() + 0.3
            for process in processes:
                process.stdin.write(json.dumps({"service": service, "file": str(file), "at": at, "until": at + 0.5}) + "\n")
                process.stdin.flush()
            for process in processes:
                assert process.stdout.readline() == "quiet\n"
            for process in processes:
                process.stdin.write("go on\n")
                process.stdin.flush()
            for process in processes:
                assert process.stdout.readline() == "done\n"
            assert len(file.read_bytes()) == PERMITS, f"in round {number}"
            wait_until(lambda service=service: manager.get_state(service) is State.CLOSED)
            wait_until(lambda service=service: manager.get_stats(service)["total_successes"] == PERMITS)
    finally:
        for process in processes:
            process.stdin.close()
            process.wait(60)
            process.stdout.close()
        manager.shut_down()


def _worker(config: dict[str, Any]) -> Any:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.circuit_breaker.race_worker", json.dumps(config)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
