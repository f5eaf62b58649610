"""One message to all subscribers: as fast as it goes, and by the clock."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence

from benchmarks import plots
from benchmarks.contestants import Contestant, Running
from benchmarks.load import BUILD
from benchmarks.report import Table, number
from benchmarks.rounds import FanOut, fan_out, interleaved, median, progress, ratio

SUBSCRIBERS = 1000


def throughput(running: Sequence[Running], burst: int, rounds: int, milliseconds: int, baseline: str, nap_us: int = 0) -> Table:
    """
    Flat out, `burst` messages in each turn of the server's loop.

    Args:
        running: Servers with connected clients.
        burst: Messages a turn.
        rounds, milliseconds: How many, and how long each.
        baseline: Name of the one that the others are compared to.
        nap_us: How long the client sleeps between two looks at its sockets; 0: the kernel wakes it for each message, and lets
            the sender pay for that.
    """
    what = f"Fan-out to {SUBSCRIBERS:,} subscribers, 64 bytes, {_turn(burst)}"
    if nap_us:
        what += f", the client looks every {nap_us} µs"

    def measure(one: Running) -> FanOut:
        one.loads[0].ask("nap", nap_us)
        try:
            return fan_out(one, "flood", burst, milliseconds)
        finally:
            one.loads[0].ask("nap", 0)

    samples = interleaved(running, rounds, measure, what)
    rows = []
    for one in _measured(running, samples):
        mine = samples[one.name]
        limited = sum(sample.client_was_limit for sample in mine) > len(mine) / 2
        rows.append(
            (
                one.name + (" (the client was the limit)" if limited else ""),
                number(median([sample.rate for sample in mine])),
                f"{ratio(_rates(mine), _rates(samples[baseline])):.2f}",
                number(median([sample.server_us for sample in mine])),
                f"{ratio(_cpu(samples[baseline]), _cpu(mine)):.2f}",
                f"{median([sample.server_share for sample in mine]):.0%}",
                f"{median([sample.client_share for sample in mine]):.0%}",
            )
        )
    note = (
        f"Medians of {rounds} interleaved rounds of {milliseconds} ms; ratios are medians of the ratios of the same rounds. "
        f'"Messages/s" counts until the last client has read the last message; "CPU µs" is the server\'s processor time for '
        f"one delivered message, what the kernel does for it included."
    )
    columns = ("Server", "messages/s", f"× {baseline}", "CPU µs", f"× {baseline}", "server", "client")
    return Table(what, columns, rows, [note], data=_data(samples))


def draw(table: Table, name: str) -> None:
    """Draw the rates of a table of `throughput`."""
    rates = [(name, median([sample["rate"] for sample in mine])) for name, mine in table.data.items()]
    table.picture = name
    plots.bars(name, rates, "messages/s", table.title)


def paced(running: Sequence[Running], rounds: int, every_us: int, count: int) -> Table:
    """One message every so often, and how long the clients wait for it."""
    what = f"From push to read, {SUBSCRIBERS:,} subscribers, one message every {every_us / 1000:g} ms"
    samples = interleaved(running, rounds, lambda one: fan_out(one, "pace", every_us, count), what)
    rows = []
    for one in _measured(running, samples):
        times = [sample.latency_ms for sample in samples[one.name]]
        rows.append((one.name, *(number(median([time[key] for time in times])) for key in ("p50", "p99", "p999"))))
    note = f"Milliseconds over all subscribers; medians of {rounds} interleaved rounds of {count} messages."
    return Table(what, ("Server", "p50 ms", "p99 ms", "p99.9 ms"), rows, [note], data=_data(samples))


def slow_readers(contestant: Contestant, rounds: int, count: int) -> Table:
    """What the others notice of clients that read nothing: the same push by the clock without and with some of them."""
    what = f"From push to read, {SUBSCRIBERS:,} subscribers, a message of 4 KB every 20 ms, while others read nothing"
    samples: dict[int, list[FanOut]] = {0: [], 1: [], 20: []}
    with Running(contestant) as running:
        running.connect(SUBSCRIBERS)
        for number_ in range(rounds + 1):
            progress(f"{what}: round {number_} of {rounds}")
            for deaf, mine in samples.items():
                if deaf:
                    running.connect(deaf, "--deaf", str(deaf))
                sample = fan_out(running, "pace", 20_000, count, 4096)
                if deaf:
                    running.loads.pop().stop()
                if number_:
                    mine.append(sample)
    rows = []
    for deaf, mine in samples.items():
        p99, calm = ([sample.latency_ms["p99"] for sample in some] for some in (mine, samples[0]))
        p50 = median([sample.latency_ms["p50"] for sample in mine])
        rows.append((str(deaf), number(p50), number(median(p99)), f"{ratio(p99, calm):.2f}"))
    columns = ("Clients that read nothing", "p50 ms", "p99 ms", "p99 against none")
    note = f"Of those that read; medians of {rounds} interleaved rounds of {count} messages."
    return Table(what, columns, rows, [note], data={deaf: [vars(sample) for sample in mine] for deaf, mine in samples.items()})


def view_latency(running: Sequence[Running], rounds: int, milliseconds: int, burst: int) -> Table:
    """How long a plain Flask view takes while the fan-out runs flat out in the same process."""
    what = f"A plain Flask view while the fan-out runs flat out, {_turn(burst)}"

    def measure(one: Running) -> Mapping[str, float]:
        load = one.loads[0]
        load.ask("mark", one.published)
        one.program.tell("flood", burst, milliseconds + 200)
        probe = subprocess.run(
            [str(BUILD / "probe"), str(one.port), "/plain", str(milliseconds), "2000"],
            capture_output=True,
            text=True,
            check=True,
        )
        one.published = one.program.hear()["published"]
        load.ask("until", one.published, 60_000)
        seen = json.loads(probe.stdout)
        return {"requests": seen["requests"], **{key: value / 1e6 for key, value in seen["latency_ns"].items()}}

    samples = interleaved(running, rounds, measure, what)
    rows = [
        (
            one.name,
            *(number(median([sample[key] for sample in samples[one.name]])) for key in ("p50", "p99", "max", "requests")),
        )
        for one in _measured(running, samples)
    ]
    note = f"One request after another, 2 ms apart, {milliseconds} ms a round; medians of {rounds} interleaved rounds."
    return Table(what, ("Server", "p50 ms", "p99 ms", "max ms", "requests"), rows, [note], data=samples)


def _measured(running: Sequence[Running], samples: Mapping[str, object]) -> list[Running]:
    return [one for one in running if one.name in samples]


def _turn(burst: int) -> str:
    return "one message a turn (K=1)" if burst == 1 else f"bursts of {burst} a turn (K={burst})"


def _rates(samples: Sequence[FanOut]) -> list[float]:
    return [sample.rate for sample in samples]


def _cpu(samples: Sequence[FanOut]) -> list[float]:
    return [sample.server_us for sample in samples]


def _data(samples: Mapping[str, Sequence[FanOut]]) -> object:
    return {name: [vars(sample) for sample in mine] for name, mine in samples.items()}
