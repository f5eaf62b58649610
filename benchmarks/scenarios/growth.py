"""How cost grows: with subscribers, with connections, with load, with channels that are none of a message's business."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence

from benchmarks import plots
from benchmarks.contestants import ALPHAVEL, Running
from benchmarks.report import Table, number
from benchmarks.rounds import FanOut, fan_out, interleaved, median, progress, ratio

CHANNELS_EACH = 100


def subscribers(counts: Sequence[int], rounds: int, milliseconds: int) -> Table:
    """Time and processor time for one message against the number of those who get it."""
    what = "Cost of one message against its subscribers"
    rows, points = [], []
    with Running(ALPHAVEL) as running:
        before = running.program.memory()
        connected, memory = 0, []
        for count in counts:
            # One more client with those that are missing; the first one's sequence numbers are the ones checked last.
            running.connect(count - connected)
            connected = count
            time.sleep(0.3)
            memory.append((count, (running.program.memory() - before) / 1024))
            samples = []
            for number_ in range(rounds):
                progress(f"{what}: {count:,} subscribers, round {number_ + 1} of {rounds}")
                samples.append(_all_loads(running, milliseconds))
            us = median([sample for sample, _ in samples])
            points.append((count, us, median([sample for _, sample in samples])))
            rows.append((f"{count:,}", number(us), number(us / count), number(points[-1][2] / count)))
    plots.lines(
        "subscribers.png",
        [
            ("time", [(count, us) for count, us, _ in points]),
            ("server's processor time", [(count, cpu) for count, _, cpu in points]),
        ],
        "subscribers",
        "µs a message",
        what,
    )
    columns = ("Subscribers", "µs a message", "µs a delivery", "CPU µs a delivery")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    note = (
        f"One process, which may open {files:,} files here. More subscribers than that are several workers', each at its own "
        "point of this curve; 100,000 over six are further below."
    )
    return Table(what, columns, rows, [note], "subscribers.png", {"points": points, "memory_kb": memory})


def _all_loads(running: Running, milliseconds: int) -> tuple[float, float]:
    for load in running.loads:
        load.ask("mark", running.published)
    first, cpu = running.published, running.program.cpu_s()
    last = running.publish("flood", 1, milliseconds)
    for load in running.loads:
        load.tell("until", last, 60_000)
    reports = [load.hear() for load in running.loads]
    if any(report["behind"] or report["lost"] for report in reports):
        raise RuntimeError("messages were lost")
    took = max(report["last_read_ns"] for report in reports) - min(report["first_at_ns"] for report in reports)
    return took / 1000 / (last - first), (running.program.cpu_s() - cpu) * 1e6 / (last - first)


def memory(table: Table) -> Table:
    """Memory against connections, from the same run as `subscribers`."""
    points = table.data["memory_kb"]
    plots.lines(
        "memory.png", [("resident", [(n, kb / 1024) for n, kb in points])], "connections", "MiB", "Memory against connections"
    )
    rows = [(f"{count:,}", number(kb / 1024), number(kb / count)) for count, kb in points]
    return Table(
        "Memory against connections, each on one channel", ("Connections", "MiB", "KB a connection"), rows, picture="memory.png"
    )


def load_latency(rates: Sequence[int], seconds: float) -> Table:
    """From push to read against the rate of messages to 1,000 subscribers."""
    what = "From push to read against load, 1,000 subscribers"
    points: dict[str, list[tuple[float, float]]] = {"p50": [], "p99": [], "p999": []}
    rows = []
    with Running(ALPHAVEL) as running:
        running.connect(1000)
        fan_out(running, "pace", 10_000, 20)
        for rate in rates:
            progress(f"{what}: {rate} messages a second")
            sample = fan_out(running, "pace", 1_000_000 // rate, int(rate * seconds))
            for key, line in points.items():
                line.append((rate, sample.latency_ms[key]))
            rows.append((f"{rate:,}", f"{rate * 1000:,}", *(number(sample.latency_ms[key]) for key in points)))
    plots.lines("latency.png", list(points.items()), "messages a second", "ms", what)
    columns = ("Messages a second", "deliveries a second", "p50 ms", "p99 ms", "p99.9 ms")
    return Table(what, columns, rows, picture="latency.png", data=points)


def other_channels(rounds: int, milliseconds: int, many: int) -> Table:
    """The same fan-out on a server with one channel, and on one with very many."""
    what = f"Fan-out to 1,000 subscribers on a server with 1 and with {many:,} channels"
    few = Running(ALPHAVEL)
    full = Running(ALPHAVEL)
    try:
        for one in (few, full):
            one.connect(1000)
        progress(f"{what}: subscribing")
        subscribe = '{"event":"subscribe","data":{"channel":"c%n"}}'
        per_connection = ("--subscriptions", str(CHANNELS_EACH), "--subscribe", subscribe, "--ready", '"subscribed"')
        full.load(many // CHANNELS_EACH, *per_connection)
        samples: dict[str, list[FanOut]] = {"few": [], "full": []}
        for _ in range(rounds):
            for key, one in (("few", few), ("full", full)):
                samples[key] += interleaved([one], 1, lambda running: fan_out(running, "flood", 1, milliseconds), what)[
                    one.name
                ]
    finally:
        few.stop()
        full.stop()
    rows = [
        (
            label,
            number(median([sample.rate for sample in samples[key]])),
            number(median([sample.server_us for sample in samples[key]])),
            f"{ratio([s.server_us for s in samples[key]], [s.server_us for s in samples['few']]):.3f}",
        )
        for key, label in (("few", "1 channel"), ("full", f"{many + 1:,} channels"))
    ]
    return Table(
        what, ("", "messages/s", "CPU µs", "× one channel"), rows, data={k: [vars(s) for s in v] for k, v in samples.items()}
    )
