"""Messages from clients: echoes, and many small channels whose members publish."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contestants import ALPHAVEL, Contestant, Running, authenticated, limit, with_tokens, write_tokens
from benchmarks.processes import cpu_s
from benchmarks.report import Table, number
from benchmarks.rounds import check, fan_out, interleaved, latencies, median, progress, ratio

ECHO = ("--path", "/echo")
ROOMS, MEMBERS = 100, 100


def echo(running: Sequence[Running], rounds: int, milliseconds: int, baseline: str) -> Table:
    """Round trips: each connection sends again when its answer has come; then half of that by the clock."""
    connections = running[0].loads[0].opened
    what = f"Echo, 64 bytes, {connections:,} connections"
    peaks = interleaved(running, rounds, lambda one: _echo_round(one, milliseconds, 0), what)
    running = [one for one in running if one.name in peaks]
    half = {one.name: int(median([sample["rate"] for sample in peaks[one.name]]) / 2) for one in running}
    calm = interleaved(
        running, rounds, lambda one: _echo_round(one, milliseconds, half[one.name]), f"{what}, at half of its peak"
    )
    rows = []
    for one in [one for one in running if one.name in calm]:
        mine = peaks[one.name]
        rates, theirs = ([sample["rate"] for sample in samples] for samples in (mine, peaks[baseline]))
        rows.append(
            (
                one.name,
                number(median(rates)),
                f"{ratio(rates, theirs):.2f}",
                number(median([sample["server_us"] for sample in mine])),
                number(median([sample["p99"] for sample in mine])),
                number(median([sample["p50"] for sample in calm[one.name]])),
                number(median([sample["p99"] for sample in calm[one.name]])),
            )
        )
    columns = ("Server", "messages/s", f"× {baseline}", "CPU µs", "p99 ms", "p50 ms at half load", "p99 ms at half load")
    note = (
        f"Medians of {rounds} interleaved rounds of {milliseconds} ms. At half load the client sends by the clock and counts "
        f"from the moment at which a message was due."
    )
    return Table(what, columns, rows, [note], data={"peak": peaks, "half": calm})


def rooms(rounds: int, milliseconds: int) -> Table:
    """A member of each of many small channels publishes, against the server, and the limit, publishing to large ones."""
    tokens = write_tokens(ROOMS * MEMBERS)
    join = ("--subscribe", '{"event":"subscribe","data":{"channel":"room.%g"}}', "--ready", '"subscribed"')
    publish = '{"event":"broadcast","data":{"channel":"room.%g","message":{"event":"m","data":"%d"}}}'
    what = f"Clients publish: {ROOMS} channels of {MEMBERS} members, one of each publishes"
    large = (1000, ROOMS * MEMBERS)
    publishing = [ALPHAVEL, *([the_limit] if isinstance(the_limit := limit(), Contestant) else [])]
    labels = [f"{ROOMS} channels of {MEMBERS}"]
    labels += [f"{one.name}, one channel of {count:,}, the server publishes" for one in publishing for count in large]
    samples: dict[str, list[dict[str, float]]] = {label: [] for label in labels}
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(Running(ALPHAVEL, authenticated()))]
        options = ("--group-size", str(MEMBERS), "--publish", publish, *with_tokens(tokens))
        running[0].load(ROOMS * MEMBERS, *join, *options)
        for contestant in publishing:
            for count in large:
                running.append(stack.enter_context(Running(contestant, authenticated())))
                running[-1].connect(count, *(with_tokens(tokens) if contestant.is_ours else ()))
        for number_ in range(rounds + 1):
            progress(f"{what}: round {number_} of {rounds}")
            for label, one in zip(labels, running, strict=True):
                if one is running[0]:
                    sample = _rate_of(one, one.loads[0], "publish", milliseconds)
                else:
                    sample = vars(fan_out(one, "flood", 1, milliseconds))
                if number_:
                    samples[label].append(sample)
    rows = []
    for label, mine in samples.items():
        cpu, theirs = ([sample["server_us"] for sample in some] for some in (mine, samples[labels[1]]))
        rows.append(
            (label, number(median([sample["rate"] for sample in mine])), number(median(cpu)), f"{ratio(cpu, theirs):.2f}")
        )
    note = (
        f"With {large[1]:,} sockets each of them is out of the processor's caches when its turn comes; the rows of one channel "
        f"of {large[1]:,} show what that costs without anything else, and those of the C loop what it costs the kernel alone."
    )
    columns = ("", "delivered/s", "CPU µs a delivery", f"× one channel of {large[0]:,}")
    return Table(what, columns, rows, [note], data=samples)


def _echo_round(running: Running, milliseconds: int, rate: int) -> dict[str, float]:
    load = running.loads[0]
    return _rate_of(running, load, "echo", milliseconds, rate)


def _rate_of(running: Running, load: Any, *command: object) -> dict[str, float]:
    server_before, client_before = running.program.cpu_s(), cpu_s(load.pid)
    seen: Mapping[str, Any] = load.ask(*command)
    server = running.program.cpu_s() - server_before
    check(running.name, seen)
    return {
        "rate": seen["messages"] / ((seen["last_read_ns"] - seen["marked_ns"]) / 1e9),
        "server_us": server / seen["messages"] * 1e6,
        "client_share": (cpu_s(load.pid) - client_before) / seen["wall_s"],
        **latencies(seen),
    }
