"""Very many connections for a long time, with heartbeats on and a broadcast to all of them every second."""

from __future__ import annotations

import math
import statistics
import threading
import time

from benchmarks.contestants import NATIVE, authenticated, with_tokens, write_tokens
from benchmarks.fleet import Fleet
from benchmarks.processes import cpu_s
from benchmarks.report import Table, number
from benchmarks.rounds import check, progress

PER_WORKER = 18_000
"""Below the 20,000 files that a process may hold on many machines."""


def hold(connections: int, seconds: int) -> Table:
    """
    Hold connections with tokens, each on one channel, on one server.

    Args:
        connections: How many, over as many workers and load clients as they need.
        seconds: How long.
    """
    what = f"{connections:,} connections of one server for {seconds / 60:g} minutes, a broadcast to all every second"
    count = max(2, math.ceil(connections / PER_WORKER))
    each = [connections // count + (number_ < connections % count) for number_ in range(count)]
    tokens = with_tokens(write_tokens(connections))
    with Fleet(count, environment=authenticated()) as fleet:
        empty, began = fleet.memory(), time.monotonic()
        for number_, share in enumerate(each):
            progress(f"{what}: client {number_ + 1} of {count} opens {share:,} connections")
            options = (*NATIVE, *tokens, "--offset", str(sum(each[:number_])), "--track", str(seconds + 10))
            fleet.connect_from([(fleet.ports[0], share, (*options, "--source", f"127.0.0.{number_ + 1}"))])
        opening_s = time.monotonic() - began
        rosters, counts = set(fleet.counts("subscribers")), fleet.counts("connections")
        if rosters != {connections}:
            raise RuntimeError(f"the workers count {rosters} subscribers, there are {connections:,}")
        full, cpu = fleet.memory(), fleet.cpu_s()
        clients = sum(cpu_s(load.pid) for load in fleet.loads)
        for load in fleet.loads:
            load.ask("mark", 0)
        publisher = threading.Thread(target=lambda: fleet.publish("pace", 1_000_000, seconds, timeout_s=seconds + 120))
        publisher.start()
        _wait(what, fleet, seconds)
        publisher.join()
        for load in fleet.loads:
            load.tell("until", fleet.published, 30_000)
        reports = [load.hear() for load in fleet.loads]
        for report in reports:
            check(fleet.name, report)
        server_share = (fleet.cpu_s() - cpu) / seconds
        client_share = (sum(cpu_s(load.pid) for load in fleet.loads) - clients) / seconds
        end = fleet.memory()
        last = _last_receivers([load.ask("arrivals")["arrivals"] for load in fleet.loads])
    messages = sum(report["messages"] for report in reports)
    if messages != connections * seconds:
        raise RuntimeError(f"expected {connections * seconds:,} messages, got {messages:,}")
    rows = [
        ("workers, load clients", f"{count}, {count}"),
        ("opened in", f"{opening_s:.1f} s, {number(connections / opening_s)} a second, token checked"),
        ("connections of each worker", ", ".join(f"{share:,}" for share in counts)),
        ("subscribers of the channel, as each worker counts them", f"{connections:,}"),
        ("connections lost", "0"),
        ("messages received, lost", f"{messages:,}, 0"),
        ("pings answered", f"{sum(report['pings'] for report in reports):,}"),
        ("from push to the last of all receivers, p50", f"{number(statistics.median(last))} ms"),
        ("from push to the last of all receivers, p99", f"{number(statistics.quantiles(last, n=100)[98])} ms"),
        ("memory a connection, all workers", f"{number((full - empty) / connections / 1024)} KB"),
        ("memory at the end against the begin", f"{end / full:.3f}"),
        ("servers', clients' share of one core", f"{server_share:.0%}, {client_share:.0%}"),
    ]
    memory = {"empty": empty, "full": full, "end": end, "each": (full - empty) / connections}
    data = {"last_ms": last, "reports": reports, "memory": memory, "counts": counts, "connections": connections}
    return Table(what, ("", ""), rows, data={**data, "server_share": server_share})


def _wait(what: str, fleet: Fleet, seconds: int) -> None:
    """Let it go on, and say now and then how it goes."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(30, left))
        reports = [load.ask("report") for load in fleet.loads]
        count, closed = (sum(report[key] for report in reports) for key in ("connections", "closed"))
        progress(f"{what}: {max(0, left - 30):.0f} s left, {count:,} open, {closed} lost")


def _last_receivers(arrivals: list[list[list[int]]]) -> list[float]:
    """For each broadcast the time until the last connection of all workers had it, in milliseconds."""
    slowest: dict[int, int] = {}
    for of_worker in arrivals:
        for sequence, at_ns, last_ns, _ in of_worker:
            slowest[sequence] = max(slowest.get(sequence, 0), last_ns - at_ns)
    return [slowest[sequence] / 1e6 for sequence in sorted(slowest)]
