"""Several workers, and several servers: what they do more than one, and what it costs that they are one system."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Sequence

from benchmarks import plots
from benchmarks.contestants import NATIVE, authenticated, with_tokens, write_tokens
from benchmarks.fleet import Fleet, fan_out
from benchmarks.report import Table, number
from benchmarks.rounds import check, latencies, median, progress, ratio

SUBSCRIBERS = 1000
_ROOM = ("--subscribe", '{"event":"subscribe","data":{"channel":"presence-room"}}', "--ready", '"subscribed"')
_CONNECTED = ("--ready", '"connected"')


def spread(shapes: Sequence[tuple[int, int]], rounds: int, milliseconds: int) -> Table:
    """
    The same fan-out over more and more workers and nodes.

    Args:
        shapes: Workers and nodes of each fleet; one of several nodes has one worker each.
        rounds: Interleaved rounds.
        milliseconds: Of each flood.
    """
    what = f"Fan-out to {SUBSCRIBERS:,} subscribers over workers and nodes, 64 bytes; one worker publishes"
    samples: dict[str, list[dict[str, float]]] = {}
    with contextlib.ExitStack() as stack:
        fleets = []
        for workers, nodes in shapes:
            progress(f"{what}: starting {workers} workers, {nodes} nodes")
            fleets.append(stack.enter_context(Fleet(workers, nodes)))
            fleets[-1].connect(SUBSCRIBERS, *NATIVE)
        for number_ in range(rounds + 1):
            progress(f"{what}: round {number_} of {rounds}")
            for fleet in random.sample(fleets, len(fleets)):
                flood = fan_out(fleet, "flood", 1, milliseconds)
                paced = fan_out(fleet, "pace", 10_000, 50)
                if number_:
                    samples.setdefault(fleet.name, []).append({**flood, "p50": paced["p50"], "p99": paced["p99"]})
    rows, data = [], {}
    one = samples[fleets[0].name]
    for fleet in fleets:
        mine = samples[fleet.name]
        middle = data[fleet.name] = {key: median([sample[key] for sample in mine]) for key in mine[0]}
        relative = ratio([sample["rate"] for sample in mine], [sample["rate"] for sample in one])
        columns = ("server_us", "redis_us", "p50", "p99")
        rows.append((fleet.name, number(middle["rate"]), f"{relative:.2f}", *(number(middle[key]) for key in columns)))
    notes = [
        f"Medians of {rounds} interleaved rounds: a flood of {milliseconds} ms, one message a turn, then one message every 10 "
        "ms for the latencies (push to read, over all subscribers). Workers, nodes, Redis and the load clients share the cores "
        "of one machine, so that more processes are no more power here: what is shown is what it costs to be one system.",
    ]
    plots.bars("scale.png", [(name, middle["rate"]) for name, middle in data.items()], "messages/s", what)
    names = ("", "messages/s", "× 1 worker", "CPU µs", "Redis CPU µs", "p50 ms", "p99 ms")
    return Table(what, names, rows, notes, picture="scale.png", data=data)


def unneeded(shapes: Sequence[tuple[int, int]], rounds: int, count: int) -> Table:
    """What a publish costs the worker that makes it when no other worker or node has anybody on the channel."""
    what = "A publish that no other worker or node needs"
    audiences = (1, 50)
    samples: dict[tuple[str, int], list[float]] = {}
    with contextlib.ExitStack() as stack:
        fleets = []
        for workers, nodes in shapes:
            fleets.append(stack.enter_context(Fleet(workers, nodes)))
            fleets[-1].connect(200 * workers * nodes, *_CONNECTED)
            for audience in audiences:
                fleets[-1].workers[0].ask("gather", audience, f"of-{audience}")
        for number_ in range(rounds + 1):
            progress(f"{what}: round {number_} of {rounds}")
            for fleet in random.sample(fleets, len(fleets)):
                for audience in audiences:
                    cost = fleet.workers[0].ask("cost", count, f"of-{audience}")["us"]
                    if number_:
                        samples.setdefault((fleet.name, audience), []).append(cost)
    rows, data = [], {}
    for fleet in fleets:
        cells = []
        for audience in audiences:
            mine, alone = samples[fleet.name, audience], samples[fleets[0].name, audience]
            data[f"{fleet.name}, {audience}"] = {"us": median(mine), "ratio": ratio(mine, alone)}
            cells += [number(median(mine)), f"{ratio(mine, alone):.2f}"]
        rows.append((fleet.name, *cells))
    note = (
        f"Processor time of the worker that publishes, the system calls to its subscribers included. Medians of {rounds} "
        f"interleaved rounds of {count:,} messages, each written before the next is published."
    )
    names = ("", *(cell for audience in audiences for cell in (f"CPU µs, {audience} here", "× 1 worker")))
    return Table(what, names, rows, [note], data=data)


def presence(cases: Sequence[tuple[int, int]]) -> Table:
    """
    How long it takes that so many users join one presence channel, and all workers have one roster of them.

    Args:
        cases: Members and workers.
    """
    what = "Users join one presence channel, one after the other"
    tokens = with_tokens(write_tokens(max(members for members, _ in cases)))
    rows, data = [], {}
    for members, workers in cases:
        progress(f"{what}: {members:,}, {workers} workers")
        with Fleet(workers, environment=authenticated(), config="options: {max_outbox: 64 MiB}\n") as fleet:
            began, cpu = time.monotonic(), fleet.cpu_s()
            fleet.connect(members, *_ROOM, *tokens, "--concurrency", "200")
            joined = time.monotonic() - began
            while set(fleet.counts("members")) != {members}:
                time.sleep(0.02)
            agreed = time.monotonic() - began
            report = fleet.loads[0].ask("report")
            if report["closed"]:
                raise RuntimeError(f"{report['closed']} members were closed")
            used = fleet.cpu_s() - cpu
        data[f"{members}, {workers}"] = {"joined_s": joined, "agreed_s": agreed, "cpu_s": used}
        cells = (joined, agreed, members / agreed, used / members * 1e3)
        rows.append((f"{members:,} users, {workers} worker{'s' * (workers > 1)}", *map(number, cells)))
    most = max(members for members, _ in cases)
    notes = [
        f"Each is told who is there, and each of those of each that comes: of {most:,} users {most**2 // 2:,} events, and "
        f"rosters of up to {most:,} members. That grows with the square; presence channels are for rooms where people "
        "see each other."
    ]
    names = ("", "all have joined, s", "all workers agree, s", "members/s", "CPU ms a member")
    return Table(what, names, rows, notes, data=data)


def roster(connections: int) -> Table:
    """What workers know of each other, in memory: the same connections with tokens over one and over two workers."""
    what = f"Memory of what workers know of each other, {connections:,} connections with tokens, each of another user"
    tokens = with_tokens(write_tokens(connections + 100))
    each = {}
    for workers in (1, 2):
        progress(f"{what}: {workers} workers")
        with Fleet(workers, environment=authenticated()) as fleet:
            fleet.connect(100, *NATIVE, *tokens)
            empty = fleet.memory()
            fleet.connect(connections, *NATIVE, *tokens, "--offset", "100")
            time.sleep(1.0)
            each[workers] = (fleet.memory() - empty) / connections
    further = each[2] - each[1]
    rows = [
        ("1 worker, KB a connection", number(each[1] / 1024)),
        ("2 workers together, KB a connection", number(each[2] / 1024)),
    ]
    note = "Each worker knows all users of a server, so that it can say who is online without asking."
    return Table(what, ("", ""), rows, [note], data={"each": each[1], "further": further})


def storm(clients: int, workers: int) -> Table:
    """So many clients connect at once, as after a restart, while others get pushes."""
    what = f"{clients:,} clients connect at once to {workers} workers, while 100 others get a push every 20 ms"
    progress(what)
    with Fleet(workers) as fleet:
        fleet.connect(100, *NATIVE)
        calm = fan_out(fleet, "pace", 20_000, 100)
        listeners, cpu = fleet.loads[0], fleet.cpu_s()
        listeners.ask("mark", fleet.published)
        seconds = 3600.0
        going = threading.Event()

        def push() -> None:
            while not going.is_set():
                fleet.publish("pace", 20_000, 10)

        publisher = threading.Thread(target=push)
        publisher.start()
        try:
            half = clients // 2
            both = [
                (fleet.ports[0], half, (*_CONNECTED, "--concurrency", str(half), "--source", f"127.0.0.{n}")) for n in (2, 3)
            ]
            seconds = fleet.connect_from(both)
        finally:
            going.set()
            publisher.join()
        cpu = fleet.cpu_s() - cpu
        report = listeners.ask("until", fleet.published, 30_000)
        check(fleet.name, report)
        counts = fleet.counts("connections")
    p99 = latencies(report)["p99"]
    rows = [
        ("all are in after", f"{number(seconds)} s"),
        ("handshakes a second", number(clients / seconds)),
        ("CPU µs of the workers a handshake", number(cpu / clients * 1e6)),
        ("refused, lost", "0, 0"),
        ("connections of each worker", ", ".join(f"{count:,}" for count in counts)),
        ("push to read for the others, p99, before and meanwhile", f"{number(calm['p99'])} ms, {number(p99)} ms"),
    ]
    return Table(
        what, ("", ""), rows, data={"seconds": seconds, "counts": counts, "handshake_us": cpu / clients * 1e6, "p99": p99}
    )
