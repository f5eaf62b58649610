"""
What a circuit breaker costs: per call, per refusal, per service; beside circuitbreaker, purgatory and pybreaker in one run.

Times are processor time of the calling thread, so that other work on the machine does not count as ours. In each of many
short rounds all contestants run one after the other, in another order each time; what is told is the median over rounds.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import random
import statistics
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import circuitbreaker
import purgatory
import pybreaker
import redis

from alphavel.circuit_breaker import CircuitBreakerManager
from alphavel.circuit_breaker.stores.file import Geometry
from benchmarks.processes import free_port
from benchmarks.report import Report, Table, number
from benchmarks.rounds import progress

SERVICE = "payment-api"
_BATCH = 2000
_NS = 1e9


class ServiceError(Exception):
    """What the service fails with, until the circuit is open."""


def work() -> int:
    """The protected function: as little as there is."""
    return 1


def broken() -> int:
    """The protected function of an open circuit."""
    raise ServiceError("broken")


@dataclass(frozen=True)
class Contestant:
    """
    Attributes:
        name: As the tables have it.
        call: Calls once.
        target: What a round aims at, in nanoseconds over the bare call; None: nothing is promised.
        check: Says after the run whether what was measured is what it should have been.
    """

    name: str
    call: Callable[[], Any]
    target: int | None = None
    check: Callable[[], bool] = lambda: True


def run(report: Report, quick: bool) -> None:
    """Measure everything. About a minute."""
    rounds = 5 if quick else 101
    with contextlib.ExitStack() as stack:
        report.add(_closed(closed(stack), rounds))
    report.add(_refusing(refusing(), rounds))
    report.add(flat(3 if quick else 41, [1, 1000] if quick else [1, 100, 10_000, 100_000]))
    report.add(memory(500 if quick else 10_000))


# -- per call ----------------------------------------------------------------------------------------------------------


def closed(stack: contextlib.ExitStack) -> list[Contestant]:
    """Everybody with a closed circuit."""
    plain = CircuitBreakerManager()
    timed = CircuitBreakerManager({"thresholds": {"slow_call_duration": 1.0}})
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="alphavel-bench-"))
    shared = CircuitBreakerManager({"default": "shared", "stores": {"shared": {"path": f"{folder}/circuits"}}})
    stack.callback(shared.shut_down)
    url = stack.enter_context(redis_server())
    fleet = CircuitBreakerManager({"default": "redis", "stores": {"redis": {"url": url, "timeout": 5.0}}})
    stack.callback(fleet.shut_down)
    for manager in (plain, timed, shared, fleet):
        manager.call(SERVICE, work)
    time.sleep(0.5)  # until the redis store listens
    commands = stack.enter_context(contextlib.closing(redis.Redis.from_url(url)))
    before = _circuit_commands(commands)

    def no_command() -> bool:
        return _circuit_commands(commands) == before

    return [
        Contestant("bare call", work),
        Contestant("alphavel, decorator", plain.protect(SERVICE)(work), 100),
        Contestant("alphavel, call()", lambda: plain.call(SERVICE, work)),
        Contestant("alphavel, slow-call detection", timed.protect(SERVICE)(work), 250),
        Contestant("alphavel, shared store", shared.protect(SERVICE)(work), 1000),
        Contestant("alphavel, redis store", fleet.protect(SERVICE)(work), 1000, no_command),
        Contestant("circuitbreaker", circuitbreaker.circuit(failure_threshold=5)(work)),
        Contestant("purgatory", purgatory.SyncCircuitBreakerFactory()(SERVICE)(work)),
        Contestant("pybreaker", pybreaker.CircuitBreaker()(work)),
    ]


def _circuit_commands(client: redis.Redis) -> int:
    """Return how many commands Redis has carried out, but for those of connecting, asking, and checking health."""
    stats: Any = client.info("commandstats")
    besides = ("info", "ping", "hello", "client", "select")
    return sum(one["calls"] for name, one in stats.items() if not name.removeprefix("cmdstat_").startswith(besides))


def _closed(contestants: list[Contestant], rounds: int) -> Table:
    samples = interleaved(contestants, rounds, lambda one: timed_ns(one.call), "closed circuit")
    table = _table("A call through a closed circuit", contestants, samples)
    wrong = [one.name for one in contestants if not one.check()]
    assert not wrong, f"not what was to be measured: {wrong}"
    table.notes.append(f"{versions()}.")
    table.notes.append("The redis store sent no command during the rounds: Redis' own counter says so.")
    return table


# -- per refusal -------------------------------------------------------------------------------------------------------


def refusing() -> list[Contestant]:
    """Everybody with an open circuit."""
    manager = CircuitBreakerManager({"thresholds": {"failure_threshold": 1, "recovery_timeout": 86_400}})
    purgatories = purgatory.SyncCircuitBreakerFactory(default_threshold=1, default_ttl=86_400)
    protected = [
        ("alphavel, decorator", manager.protect(SERVICE)(broken)),
        ("circuitbreaker", circuitbreaker.circuit(failure_threshold=1, recovery_timeout=86_400)(broken)),
        ("purgatory", purgatories(SERVICE)(broken)),
        ("pybreaker", pybreaker.CircuitBreaker(fail_max=1, reset_timeout=86_400)(broken)),
    ]
    contestants = []
    for name, function in protected:
        caught = catching(function)
        with contextlib.suppress(Exception):
            function()
        contestants.append(Contestant(name, caught, 900 if name.startswith("alphavel") else None))
    return contestants


def catching(function: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that calls and catches."""

    def call() -> Any:
        try:
            return function()
        except Exception as error:
            return type(error)

    return call


def _refusing(contestants: list[Contestant], rounds: int) -> Table:
    for one in contestants:
        assert one.call() is not ServiceError, f"{one.name} does not refuse"
    samples = interleaved(contestants, rounds, lambda one: timed_ns(one.call), "open circuit")
    table = _table("A refused call: the exception raised and caught", contestants, samples, base=None)
    kept = {one.name: kept_bytes(one.call) for one in contestants}
    table.columns = [*table.columns, "bytes kept a call"]
    table.rows = [(*row, number(kept[row[0]]) if kept[row[0]] >= 1 else "0") for row in table.rows]
    return table


def kept_bytes(call: Callable[[], Any], calls: int = 1000) -> float:
    """Return how much memory each call leaves behind that only the garbage collector would take away, or nobody."""
    call()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(calls):
            call()
        return max(0.0, (tracemalloc.get_traced_memory()[0] - before) / calls)
    finally:
        tracemalloc.stop()
        gc.enable()


# -- many services -----------------------------------------------------------------------------------------------------


def flat(rounds: int, sizes: list[int]) -> Table:
    """One service among 1 to 100,000."""
    contestants = []
    for size in sizes:
        manager = CircuitBreakerManager()
        names = [f"service-{number}" for number in range(size)]
        for name in names:
            manager.call(name, work)
        one = names[size // 2]
        contestants.append(Contestant(f"{size:,}", lambda manager=manager, one=one: manager.call(one, work)))
    samples = interleaved(contestants, rounds, lambda one: timed_ns(one.call), "many services")
    rows = [(one.name, f"{statistics.median(samples[one.name]):.0f}") for one in contestants]
    return Table("One service among many, `manager.call()`", ["services", "ns a call"], rows, data=samples)


def memory(services: int) -> Table:
    """Bytes a service in memory, what calls add, and bytes a row of the shared file."""
    manager, purgatories = CircuitBreakerManager(), purgatory.SyncCircuitBreakerFactory()
    breakers: dict[str, Callable[[str], Callable[[], Any]]] = {
        "alphavel": lambda name: functools.partial(manager.service(name).call, work),
        "circuitbreaker": lambda name: functools.partial(circuitbreaker.CircuitBreaker(name=name).call, work),
        "purgatory": lambda name: functools.partial(_in_context, purgatories.get_breaker(name)),
        "pybreaker": lambda name: functools.partial(pybreaker.CircuitBreaker(name=name).call, work),
    }
    rows = []
    for name, make in breakers.items():
        progress(f"memory: {name}")
        call = make("used")
        rows.append((name, f"{bytes_each(make, services):,.0f}", f"{10_000 * kept_bytes(call, 10_000):,.0f}"))
    row_bytes = Geometry(services=256, workers=64, ring=5).row_bytes
    notes = [
        f"{services:,} services, names counted, each called once. Target: at most 1,100 bytes, no more after calls.",
        f"The shared store takes {row_bytes} bytes for a service and a worker slot. Target: at most 80.",
    ]
    return Table("Memory of a service", ["", "bytes", "bytes more after 10,000 calls"], rows, notes)


def _in_context(breaker: Any) -> int:
    with breaker:
        return work()


def bytes_each(make: Callable[[str], Callable[[], Any]], services: int) -> float:
    """Return how many bytes a service takes; what calls it is not counted."""
    kept: list[Any] = [None] * services
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for index in range(services):
        call = make(f"service-{index}")
        call()
        kept[index] = _of(call)
    del call
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return taken / services


def _of(call: Any) -> Any:
    """The breaker that is called: a partial's bound method, or its argument."""
    return getattr(call.func, "__self__", None) or call.args[0]


# -- how it is measured ------------------------------------------------------------------------------------------------


def timed_ns(call: Callable[[], Any], batch: int = _BATCH) -> float:
    """Return the processor time of one call, in nanoseconds, the loop's own taken away."""
    counted = [None] * batch
    began = time.thread_time_ns()
    for _ in counted:
        call()
    middle = time.thread_time_ns()
    for _ in counted:
        pass
    ended = time.thread_time_ns()
    return ((middle - began) - (ended - middle)) / batch


def interleaved(
    contestants: list[Contestant], rounds: int, measure: Callable[[Contestant], float], what: str
) -> dict[str, list[float]]:
    """Measure all in every round, in another order each time; the first round warms up. Samples by name."""
    samples: dict[str, list[float]] = {one.name: [] for one in contestants}
    gc.collect()
    gc.freeze()
    for turn in range(rounds + 1):
        if turn % 25 == 0:
            progress(f"{what}: round {turn} of {rounds}")
        for one in random.sample(contestants, len(contestants)):
            sample = measure(one)
            if turn:
                samples[one.name].append(sample)
    gc.unfreeze()
    return samples


def _table(title: str, contestants: list[Contestant], samples: dict[str, list[float]], base: str | None = "bare call") -> Table:
    zero = samples[base] if base else [0.0] * len(samples[contestants[0].name])
    rows = []
    for one in contestants:
        median = statistics.median(samples[one.name])
        over = statistics.median(ours - theirs for ours, theirs in zip(samples[one.name], zero, strict=True))
        row = [one.name, f"{median:,.0f}"]
        if base:
            times = statistics.median(ours / theirs for ours, theirs in zip(samples[one.name], zero, strict=True))
            row += ["" if one.name == base else f"{over:,.0f}", f"{times:.1f}"]
        rows.append((*row, "" if one.target is None else f"{one.target:,}"))
    columns = ["", "ns a call", *(["ns over the bare call", "times the bare call"] if base else []), "target"]
    return Table(title, columns, rows, data=samples)


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """A Redis of our own on a free port; yields its URL."""
    port = free_port()
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, cwd=tempfile.gettempdir())
    try:
        client = redis.Redis(port=port)
        for _ in range(200):
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                break
            time.sleep(0.05)
        client.close()
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def versions() -> str:
    """Return whose versions ran."""
    return ", ".join(f"{name} {version(name)}" for name in ("circuitbreaker", "purgatory", "pybreaker"))
