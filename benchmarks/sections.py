"""What each command measures, and how long."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks import capacity, local_bus
from benchmarks.contestants import ALPHAVEL, GEVENT_WEBSOCKET, WRITERS, Contestant, Running, limit, write_tokens
from benchmarks.load import BUILD, HERE, LoadError
from benchmarks.peers.catalogue import HERE as PEERS
from benchmarks.peers.catalogue import peers as all_peers
from benchmarks.report import Report, Table
from benchmarks.rounds import progress
from benchmarks.scenarios import connections, deltas, fan_out, growth, handover, history, hold, messages, profile, soak
from benchmarks.scenarios import scale as scaling

NAP_US = 200
"""Of a client that is not woken for each message, as one on another machine does not wake its server's kernel."""


def bench(report: Report, quick: bool) -> None:
    """Alphavel against gevent-websocket used naively, and against the limit. Under four minutes."""
    rounds, milliseconds = (2, 80) if quick else (12, 200)
    tokens = write_tokens(1000)
    contestants, _ = _available([ALPHAVEL, GEVENT_WEBSOCKET, limit(), limit(uring=True)])
    with _all_running(contestants, lambda one: one.connect(fan_out.SUBSCRIBERS)) as running:
        report.add(fan_out.throughput(running, 1, rounds, milliseconds, GEVENT_WEBSOCKET.name))
        report.add(fan_out.throughput(running, 1, rounds, milliseconds, GEVENT_WEBSOCKET.name, nap_us=NAP_US))
        report.add(fan_out.throughput(running, 16, rounds, milliseconds, GEVENT_WEBSOCKET.name))
        report.add(fan_out.paced(running, 2 if quick else 5, 10_000, 20 if quick else 100))
        report.add(fan_out.view_latency(running[:2], 1 if quick else 4, 300 if quick else 1000, 1))
        report.add(fan_out.view_latency(running[:2], 1 if quick else 4, 300 if quick else 1000, 16))
    report.add(fan_out.slow_readers(ALPHAVEL, 1 if quick else 5, 25))
    with _all_running(contestants[:3], lambda one: one.load(1000, *messages.ECHO)) as running:
        report.add(messages.echo(running, 1 if quick else 5, 100 if quick else 300, GEVENT_WEBSOCKET.name))
    report.add(connections.handshakes(connections.handshake_cases(tokens), 1 if quick else 5, 200 if quick else 1000))
    report.add(growth.other_channels(1 if quick else 7, 100 if quick else 250, 1000 if quick else 100_000))
    if quick:
        return
    curve = growth.subscribers([1, 10, 100, 1000, 5000, 10_000, 19_000], 5, 200)
    report.add(curve)
    report.add(growth.memory(curve))
    report.add(growth.load_latency([10, 20, 50, 100, 150, 200, 250, 300], 1.5))


def peers(report: Report, quick: bool) -> None:
    """Alphavel against everybody who installs here. Under eight minutes, once they are installed."""
    subprocess.run([str(PEERS / "install.sh")], check=True)
    contestants, missing = _available([ALPHAVEL, GEVENT_WEBSOCKET, *all_peers(), limit(), limit(uring=True)])
    rounds, milliseconds = (1, 80) if quick else (7, 250)
    baseline = "uWebSockets" if any(one.name == "uWebSockets" for one in contestants) else GEVENT_WEBSOCKET.name
    report.add(Table("Who was measured", ("Name", "Version"), [(one.name, one.version) for one in contestants], missing))
    with _all_running(contestants, lambda one: one.connect(fan_out.SUBSCRIBERS)) as running:
        for burst, nap_us, picture in ((1, 0, "peers-1.png"), (1, NAP_US, "peers-1-nap.png"), (16, 0, "peers-16.png")):
            table = fan_out.throughput(running, burst, rounds, milliseconds, baseline, nap_us)
            if not quick:
                fan_out.draw(table, picture)
            report.add(table)
        report.add(fan_out.paced(running, 1 if quick else 3, 10_000, 20 if quick else 50))
    cases = [(one.name, one, connections.loading(*one.join), {}) for one in contestants if not one.name.startswith("C loop")]
    report.add(connections.memory(cases, 500 if quick else 5_000))


def echoes(report: Report, quick: bool) -> None:
    """What clients say: round trips, against everybody who installs and echoes; publishing. Three minutes."""
    subprocess.run([str(PEERS / "install.sh")], check=True)
    everybody = [ALPHAVEL, GEVENT_WEBSOCKET, *(peer for peer in all_peers() if peer.echoes), limit()]
    contestants, missing = _available(everybody)
    baseline = "uWebSockets" if any(one.name == "uWebSockets" for one in contestants) else GEVENT_WEBSOCKET.name
    with _all_running(contestants, lambda one: one.load(1000, *messages.ECHO)) as running:
        table = messages.echo(running, 1 if quick else 15, 80 if quick else 150, baseline)
    table.notes.extend(missing)
    report.add(table)
    report.add(messages.rooms(1 if quick else 7, 100 if quick else 400))


def memory(report: Report, quick: bool) -> None:
    """What an idle connection holds. A minute."""
    tokens = write_tokens(1000 if quick else 10_100)
    report.add(connections.memory(connections.memory_cases(tokens), 500 if quick else 10_000))


def writers(report: Report, quick: bool) -> None:
    """The ways to write to sockets against loops in C that do nothing else. Under a minute."""
    tried = [limit(True, *words) for words in (["few"], ["ring"], ["files"], ["silent"], ["ring", "files", "silent"])]
    contestants, missing = _available([limit(), limit(uring=True), *tried, *WRITERS])
    rounds, milliseconds = (2, 80) if quick else (20, 80)
    with _all_running(contestants, lambda one: one.connect(fan_out.SUBSCRIBERS)) as running:
        for burst in (1, 16):
            table = fan_out.throughput(running, burst, rounds, milliseconds, contestants[0].name)
            table.notes.extend(missing)
            report.add(table)


def flame_graphs(report: Report, quick: bool) -> None:
    """Where the time of fan-out, echo and handshakes goes. Under two minutes."""
    for name in profile.WORK:
        report.add(profile.flame_graph(name, 1 if quick else 10, BUILD if quick else HERE))


def very_many(report: Report, quick: bool, seconds: int) -> None:
    """A hundred thousand connections over several workers."""
    report.add(hold.hold(1000, 5) if quick else hold.hold(100_000, seconds))


def scale(report: Report, quick: bool) -> None:
    """Several workers and several servers. About five minutes."""
    shapes = [(1, 1), (2, 1), (1, 2)] if quick else [(1, 1), (2, 1), (4, 1), (1, 2), (1, 3)]
    report.add(scaling.spread(shapes, 1 if quick else 7, 80 if quick else 250))
    report.add(scaling.unneeded(shapes, 1 if quick else 9, 200 if quick else 2000))
    report.add(local_bus.compare(1 if quick else 3, 5000 if quick else 100_000))
    report.add(scaling.presence([(200, 1), (200, 2)] if quick else [(2000, 1), (2000, 2), (10_000, 2)]))
    report.add(scaling.roster(200 if quick else 10_000))
    report.add(scaling.storm(500 if quick else 10_000, 2))
    report.add(capacity.redis_cost(1000 if quick else 20_000))


def histories(report: Report, quick: bool) -> None:
    """What histories and deltas cost, and what clients notice of a server that is replaced. Under three minutes."""
    rounds, milliseconds = (2, 80) if quick else (12, 200)
    contestants, _ = _available([ALPHAVEL, history.with_history()])
    with _all_running(contestants, lambda one: one.connect(fan_out.SUBSCRIBERS)) as running:
        for burst in (1, 16):
            report.add(fan_out.throughput(running, burst, rounds, milliseconds, ALPHAVEL.name))
    report.add(history.memory(10_000 if quick else 100_000))
    report.add(history.coming_back(200 if quick else 10_000))
    report.add(handover.pause(500 if quick else 10_000))
    report.add(deltas.savings(200 if quick else 5000))


def endurance(report: Report, quick: bool, seconds: int) -> None:
    """Clients that come and go and misbehave."""
    report.add(soak.soak(5 if quick else seconds, seed=int(time.time())))


@contextlib.contextmanager
def _all_running(contestants: Sequence[Contestant], connect: Callable[[Running], object]) -> Iterator[list[Running]]:
    with contextlib.ExitStack() as stack:
        running = []
        for contestant in contestants:
            progress(f"starting {contestant.name}")
            one = stack.enter_context(Running(contestant))
            try:
                connect(one)
            except LoadError as error:
                if contestant.is_ours:
                    raise
                progress(f"{contestant.name} is left out: {error}")
            else:
                running.append(one)
        yield running


def _available(contestants: Sequence[Contestant | str]) -> tuple[list[Contestant], list[str]]:
    """Those that can be started, and a sentence for each of the others."""
    available, missing = [], []
    for contestant in contestants:
        problem = contestant if isinstance(contestant, str) else contestant.problem()
        if problem is None and isinstance(contestant, Contestant):
            available.append(contestant)
        else:
            name = contestant.name if isinstance(contestant, Contestant) else "The C loop"
            missing.append(f"Not measured here: {name} ({str(problem).splitlines()[-1]}).")
    return available, missing
