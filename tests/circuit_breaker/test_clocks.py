"""Wall clocks that are set while a circuit is open: of processes, and of Redis. Its recovery takes as long as it should."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError, State
from tests.redis_server import RedisServer
from tests.support import Program, python, wait_until
from tests.wall_clock import WallClock

HOUR_S = 3600
RECOVERY_S = 2.0
BUSY_S = 5.0  # what a machine that has other things to do may add
PROCESSES = {"memory": 1, "shared": 4, "redis": 8}


@pytest.fixture
def wall_clock(tmp_path):
    """Not the breaker's own."""
    return WallClock(tmp_path)


def found(program):
    """Return what a process has found so far: `[state, when]`."""
    return [json.loads(line)[:2] for line in program.output.splitlines() if line.startswith("[")]


def recover(programs, jump):
    """Break the service; once all circuits are open mend it and set the clock; return how long each circuit was open."""

    def tell(word):
        for program in programs:
            program.process.stdin.write(word + b"\n")
            program.process.stdin.flush()

    def all_are(state):
        wait_until(lambda: all(found(program)[-1:] and found(program)[-1][0] == state for program in programs), 30, state)

    all_are("closed")
    tell(b"break")
    all_are("open")
    tell(b"mend")
    jump()
    all_are("closed")
    opened = [max(when for state, when in found(program) if state == "open") for program in programs]
    return [found(program)[-1][1] - when for program, when in zip(programs, opened, strict=True)]


@pytest.fixture
def processes():
    """`processes(config, environments)` starts one process for each environment."""
    programs = []

    def start(config, environments):
        for environment in environments:
            command = (python(), "-m", "tests.circuit_breaker.watch_worker", json.dumps(config))
            programs.append(Program(*command, stdin=subprocess.PIPE, **environment))
        return programs

    yield start
    for program in programs:
        with program:
            assert "Traceback" not in program.output, program.output
            program.process.stdin.close()


def config(store, folder, redis):
    thresholds = {"failure_threshold": 20, "recovery_timeout": RECOVERY_S}
    stores = {"shared": {"path": str(folder / "circuits")}, "redis": {"url": redis.url}}
    return {"default": store, "thresholds": thresholds, "stores": {store: stores[store]} if store in stores else {}}


@pytest.mark.parametrize("seconds", [HOUR_S, -2 * HOUR_S])
@pytest.mark.parametrize("store", PROCESSES)
def test_recovery_takes_its_time_though_the_clock_of_half_the_processes_is_set(
    store, seconds, processes, wall_clock, tmp_path, redis_server
):
    redis_server.command("FLUSHALL")
    environments = [wall_clock.environment if number % 2 == 0 else {} for number in range(PROCESSES[store])]
    programs = processes(config(store, tmp_path, redis_server), environments)
    took = recover(programs, lambda: wall_clock.jump(seconds))
    assert min(took) > RECOVERY_S - 0.5, took
    assert max(took) < RECOVERY_S + BUSY_S, took


@pytest.mark.parametrize("seconds", [HOUR_S, -2 * HOUR_S])
def test_recovery_takes_its_time_though_redis_clock_is_set(seconds, processes, wall_clock, tmp_path):
    with RedisServer(**wall_clock.environment) as redis:
        programs = processes(config("redis", tmp_path, redis), [{}] * 4)
        took = recover(programs, lambda: wall_clock.jump(seconds))
    assert min(took) > RECOVERY_S - 0.5, took
    assert max(took) < RECOVERY_S + BUSY_S, took


def test_process_that_starts_after_redis_clock_was_set_back_waits_no_longer_than_others(wall_clock, tmp_path):
    """For it the circuit was to open two hours from then, and to recover after that."""
    with RedisServer(**wall_clock.environment) as redis:
        before = CircuitBreakerManager(config("redis", tmp_path, redis))
        before.open("api")
        before.shut_down()
        wall_clock.jump(-2 * HOUR_S)
        began = time.monotonic()
        after = CircuitBreakerManager(config("redis", tmp_path, redis))
        with pytest.raises(CircuitOpenError) as refused:
            after.call("api", lambda: "fine")
        assert 0 < refused.value.retry_after <= RECOVERY_S

        def recovered():
            try:
                after.call("api", lambda: "fine")
            except CircuitOpenError:
                time.sleep(0.01)
            return after.get_state("api") is State.CLOSED

        wait_until(recovered, 30)
        assert time.monotonic() - began < RECOVERY_S + BUSY_S
        after.shut_down()
