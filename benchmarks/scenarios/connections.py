"""What a connection costs: memory while it is idle, time while it is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import private
from benchmarks.contestants import (
    ALPHAVEL,
    GEVENT_WEBSOCKET,
    PUSHER,
    Contestant,
    Running,
    authenticated,
    with_an_app,
    with_tokens,
)
from benchmarks.load import LoadError
from benchmarks.processes import cpu_s
from benchmarks.report import Table, number
from benchmarks.rounds import check, latencies, median, progress

Case = tuple[str, Contestant, Callable[[Running, int], object], dict[str, str]]
"""Label, server, what opens so many connections more, environment of the server."""


def memory(cases: Sequence[Case], connections: int) -> Table:
    """
    Resident memory of idle connections.

    Args:
        cases: What to measure.
        connections: How many.
    """
    what = f"Resident memory of an idle connection, {connections:,} open"
    rows, data = [], {}
    notes = ["Resident memory of the server's processes from /proc, after less before, divided by the connections."]
    for label, contestant, hold, environment in cases:
        progress(f"{what}: {label}")
        try:
            data[label] = each = _bytes_each(contestant, environment, hold, connections)
        except LoadError as error:
            if contestant.is_ours:
                raise
            notes.append(f"{label} is left out: {error}.")
        else:
            rows.append((label, number(each / 1024)))
    return Table(what, ("Server", "KB a connection"), rows, notes, data=data)


def _bytes_each(
    contestant: Contestant, environment: dict[str, str], hold: Callable[[Running, int], object], connections: int
) -> float:
    with Running(contestant, environment) as running:
        # The first hundred bring in code and pools that later ones share.
        hold(running, 100)
        time.sleep(0.5)
        before = running.program.memory()
        hold(running, connections)
        time.sleep(1.0)
        return (running.program.memory() - before) / connections


def loading(*options: str) -> Callable[[Running, int], object]:
    """Return what opens connections of the load client with these options, each with another number."""
    return lambda running, count: running.load(count, "--offset", str(sum(load.opened for load in running.loads)), *options)


def memory_cases(tokens: Path) -> list[Case]:
    """Ours: bare, and with everything; and the naive server's."""
    with_token = loading(*ALPHAVEL.join, *with_tokens(tokens))
    return [
        ("Alphavel, anonymous", ALPHAVEL, loading(), {}),
        ("Alphavel, with token, on one channel", ALPHAVEL, with_token, authenticated()),
        ("Alphavel, Pusher protocol, on one channel", ALPHAVEL, loading(*PUSHER), with_an_app()),
        ("Alphavel, Pusher protocol, signed, on one private channel", ALPHAVEL, private.hold, with_an_app()),
        ("gevent-websocket", GEVENT_WEBSOCKET, loading(), {}),
    ]


def handshakes(cases: Sequence[tuple[str, Contestant, Sequence[str], dict[str, str]]], rounds: int, milliseconds: int) -> Table:
    """Connections opened one after another, 32 at a time, each closed as soon as it is open."""
    what = "Handshakes, 32 at a time, each closed by a reset as soon as it is open"
    started = [(label, Running(contestant, environment)) for label, contestant, _, environment in cases]
    samples: dict[str, list[dict[str, Any]]] = {label: [] for label, _ in started}
    try:
        for (_, running), (_, _, options, _) in zip(started, cases, strict=True):
            running.load(1, *options)
        for number_ in range(rounds + 1):
            progress(f"{what}: round {number_} of {rounds}")
            for label, running in started:
                sample = _handshake_round(running, milliseconds)
                if number_:
                    samples[label].append(sample)
    finally:
        for _, running in started:
            running.stop()
    columns = ("Server", "handshakes/s", "CPU µs", "a whole core: handshakes/s", "p50 ms", "p99 ms")
    rows = []
    for label, mine in samples.items():
        rate, cpu, p50, p99 = (median([sample[key] for sample in mine]) for key in ("rate", "server_us", "p50", "p99"))
        rows.append((label, number(rate), number(cpu), number(1e6 / cpu), number(p50), number(p99)))
    note = f"From connect to the server's first frame, or to the 101 response where it sends none. Medians of {rounds} rounds."
    return Table(what, columns, rows, [note], data=samples)


def handshake_cases(tokens: Path) -> list[tuple[str, Contestant, Sequence[str], dict[str, str]]]:
    """Ours with and without tokens, and the naive server's."""
    ready = ("--ready", '"connected"')
    return [
        ("Alphavel, HS256 token checked", ALPHAVEL, (*ready, *with_tokens(tokens)), authenticated()),
        ("Alphavel, anonymous", ALPHAVEL, ready, {}),
        ("gevent-websocket", GEVENT_WEBSOCKET, (), {}),
    ]


def _handshake_round(running: Running, milliseconds: int) -> dict[str, Any]:
    load = running.loads[0]
    before, began = running.program.cpu_s(), time.monotonic()
    client_before = cpu_s(load.pid)
    seen = load.ask("handshakes", milliseconds, 32)
    wall = time.monotonic() - began
    seen["messages"] = seen["handshakes"]
    check(running.name, seen)
    return {
        "rate": seen["handshakes"] / (milliseconds / 1000),
        "server_us": (running.program.cpu_s() - before) / seen["handshakes"] * 1e6,
        "server_share": (running.program.cpu_s() - before) / wall,
        "client_share": (cpu_s(load.pid) - client_before) / wall,
        **latencies(seen),
    }
