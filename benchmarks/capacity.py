"""
What many connections need, computed from what was measured: the table of docs/scaling.md.

What is assumed stands in `Workload` and `Machine` and on the page; everything else is read from the files of the last
`make bench-scale` and `make bench-100k` in `results/`.
"""

from __future__ import annotations

import json
import math
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.processes import ROOT, cpu_s, free_port
from benchmarks.report import RESULTS, Table, number, replace_section
from benchmarks.rounds import progress

PAGE = ROOT / "docs" / "scaling.md"
_ENVELOPE_BYTES = 250
_HEADERS_BYTES = 66  # of Ethernet, IPv4 and TCP with timestamps, for each segment
_FRAME_BYTES = 66  # 64 of the message, 2 of the frame


@dataclass(frozen=True)
class Workload:
    """
    What the clients do.

    Attributes:
        a_second: Messages each of them gets in a second.
        channel: Subscribers of a channel.
        back_within_s: Seconds in which all of them may have to come back.
    """

    a_second: float = 1.0
    channel: int = 1000
    back_within_s: float = 300.0


@dataclass(frozen=True)
class Machine:
    """
    What a machine has.

    Attributes:
        cores, memory_gib, gbit: Of it.
        busy: Share of each that is to be used.
    """

    cores: int = 16
    memory_gib: float = 64.0
    gbit: float = 10.0
    busy: float = 0.6


@dataclass(frozen=True)
class Measured:
    """
    What was measured here.

    Attributes:
        delivery_us: Processor time of one delivered message; where that was measured, among very many connections, whose
            sockets have left the processor's caches by their turn.
        handshake_us: Of a handshake.
        connection_bytes: Resident memory of a connection with a token, on one channel.
        known_bytes: What each other worker of a server keeps of it.
        publish_us, copy_us: Processor time of Redis for a published message, and for each node that gets it.
    """

    delivery_us: float
    handshake_us: float
    connection_bytes: float
    known_bytes: float
    publish_us: float
    copy_us: float

    @classmethod
    def of(cls, results: Mapping[str, Any], held: Mapping[str, Any] | None = None) -> Measured:
        """Take the figures out of the tables of a run of `make bench-scale` and, where there is one, of `make bench-100k`."""
        data = {table["title"].partition(",")[0].partition(" ")[0]: table["data"] for table in results["tables"]}
        redis, roster = data["Redis:"], data["Memory"]
        storm = next(table["data"] for table in results["tables"] if "connect at once" in table["title"])
        delivery_us = data["Fan-out"]["1 worker"]["server_us"]
        known_bytes = roster["further"]
        if held is not None:  # more of them, and each got a message a second
            delivery_us = held["server_share"] / held["connections"] * 1e6
            known_bytes = (held["memory"]["each"] - roster["each"]) / (len(held["counts"]) - 1)
        return cls(
            delivery_us, storm["handshake_us"], roster["each"], known_bytes,
            redis["publish_us"], redis["copy_us"],
        )  # fmt: skip


def redis_cost(count: int) -> Table:
    """Processor time of Redis for a message to few and to many nodes."""
    what = "Redis: what a published message costs it"
    samples = {}
    for nodes in (1, 10, 50):
        progress(f"{what}: {nodes} nodes")
        samples[nodes] = _redis_us(nodes, count)
    copy_us = (samples[50] - samples[1]) / 49
    rows = [(f"{nodes} nodes", number(us)) for nodes, us in samples.items()]
    data = {"copy_us": copy_us, "publish_us": max(0.0, samples[1] - copy_us)}
    return Table(
        what,
        ("", "CPU µs a message"),
        rows,
        [f"{_ENVELOPE_BYTES} bytes, sent in pipelines of 100, as the bus does."],
        data=data,
    )


def _redis_us(nodes: int, count: int) -> float:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="alphavel-bench-") as folder:
        options = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--client-output-buffer-limit", "pubsub 0 0 0"]
        process = subprocess.Popen(["redis-server", "--port", str(port), *options], cwd=folder, stdout=subprocess.DEVNULL)
        try:
            with _connected(port) as publisher:
                subscribers = [_connected(port) for _ in range(nodes)]
                for subscriber in subscribers:
                    subscriber.sendall(b"SUBSCRIBE b\r\n")
                    subscriber.recv(1000)
                threads = [threading.Thread(target=_read_all, args=(subscriber,)) for subscriber in subscribers]
                for thread in threads:
                    thread.start()
                envelope = b"x" * _ENVELOPE_BYTES
                command = b"*3\r\n$7\r\nPUBLISH\r\n$1\r\nb\r\n$%d\r\n%b\r\n" % (len(envelope), envelope)
                before = cpu_s(process.pid)
                for _ in range(count // 100):
                    publisher.sendall(command * 100)
                    answers = b""
                    while answers.count(b"\r\n") < 100:
                        answers += publisher.recv(65536)
                used = cpu_s(process.pid) - before
        finally:
            process.terminate()
            process.wait()
        for thread in threads:
            thread.join()
        for subscriber in subscribers:
            subscriber.close()
    return used / count * 1e6


def _connected(port: int) -> socket.socket:
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise RuntimeError("redis-server does not start")


def _read_all(sock: socket.socket) -> None:
    while sock.recv(1 << 20):
        pass


def write_page() -> str:
    """Write the table of docs/scaling.md from the newest results; return what was done."""
    scale, held = _newest("scale"), _newest("100k")
    if scale is None:
        return f"{PAGE.name} is as it was: there are no results of make bench-scale."
    data = held["tables"][0]["data"] if held is not None else None
    text = "\n".join(_page(Measured.of(scale, data), scale["machine"], data)).rstrip()
    PAGE.write_text(replace_section(PAGE.read_text(), "scaling", text))
    return f"Wrote {PAGE}"


def _newest(section: str) -> dict[str, Any] | None:
    files = sorted(RESULTS.glob(f"{section}-*.json"))
    result: dict[str, Any] | None = json.loads(files[-1].read_text()) if files else None
    return result


def _page(measured: Measured, machine: Mapping[str, Any], data: Mapping[str, Any] | None) -> Iterator[str]:
    work, box = Workload(), Machine()
    where = f"{machine['processor']}, Python {machine['python']}"
    yield f"Made by `make bench-scale` from its figures of {machine['date']} ({where}):"
    yield ""
    yield (
        f"- a delivered message: {number(measured.delivery_us)} µs of a core; a handshake: {number(measured.handshake_us)} µs;"
    )
    yield (
        f"- a connection with a token on a channel: {number(measured.connection_bytes / 1024)} KB in its worker, and "
        f"{number(measured.known_bytes / 1024)} KB in each other worker, which knows its user;"
    )
    yield (
        f"- Redis: {number(measured.publish_us)} µs for a message, {number(measured.copy_us)} µs for each node that gets it."
    )
    if data is not None:
        fullest = max(data["counts"]) / (sum(data["counts"]) / len(data["counts"]))
        yield (
            f"- held by one server with {len(data['counts'])} workers (`make bench-100k`): {data['connections']:,} "
            f"connections, one roster, {number(data['memory']['each'] / 1024)} KB each in all workers together; the fullest "
            f"worker had {fullest:.2f} times its share."
        )
    yield ""
    yield (
        f"Assumed: each connection gets {work.a_second:g} message of 64 bytes a second, channels have {work.channel:,} "
        f"subscribers, all come back within {work.back_within_s / 60:g} minutes after the worst. Machines have {box.cores} "
        f"cores, {box.memory_gib:g} GiB and {box.gbit:g} Gbit/s, of which {box.busy:.0%} are to be used. Each core "
        "has a worker, which knows the users of all others and gets what is published on Redis for its own."
    )
    yield ""
    known, redis = _first_limits(measured, work, box)
    yield (
        f"More machines help against everything but two things. At {number(known / 1e6)} million connections, each of another "
        "user, half of the memory of each machine is what its workers know of all users of the fleet; at "
        f"{number(redis / 1e6)} million one core of Redis is full, if each message goes to as many nodes as it has "
        f"subscribers. The first limit is {'what workers know of each other' if known < redis else 'Redis'}."
    )
    yield ""
    yield "| | 1 million | 10 million |"
    yield "| --- | --: | --: |"
    needs = [_needs(measured, work, box, count) for count in (1_000_000, 10_000_000)]
    for row in needs[0]:
        yield f"| {row} | {needs[0][row]} | {needs[1][row]} |"
    yield ""


def _needs(measured: Measured, work: Workload, box: Machine, count: int) -> dict[str, str]:
    core, memory = box.busy * 1e6, box.busy * box.memory_gib * 2**30
    deliveries = count * work.a_second
    steady = deliveries * measured.delivery_us / core
    storm = count / work.back_within_s * measured.handshake_us / core
    bits = deliveries * (_FRAME_BYTES + _HEADERS_BYTES) * 8
    # More machines do not make it less: every worker of a fleet knows all of its users.
    known = count * measured.known_bytes * box.cores
    least = math.ceil(known / (memory / 2))
    by = {
        "processors": (steady + storm) / box.cores,  # who is back gets messages while the others come
        "memory": count * measured.connection_bytes / (memory - known / least),
        "network": bits / (box.busy * box.gbit * 1e9),
    }
    wanted = max(least, *map(math.ceil, by.values()))
    # Each machine belongs to one fleet, and all fleets are alike: rather more of them than machines for nothing.
    fleets = min(range(least, wanted + 1), key=lambda fleets: math.ceil(wanted / fleets) * fleets)
    machines = math.ceil(wanted / fleets) * fleets
    published = deliveries / work.channel
    copies = min(machines * box.cores / fleets, work.channel)
    redis_cores = published * (measured.publish_us + copies * measured.copy_us) / core
    return {
        "messages delivered a second": number(deliveries),
        "cores for messages": number(steady),
        "cores for all coming back": number(storm),
        "network, out": f"{number(bits / 1e9)} Gbit/s",
        "memory of the connections": f"{number(count * measured.connection_bytes / 2**30)} GiB",
        "memory in each machine for what its workers know of all users": f"{number(known / 2**30)} GiB",
        "fleets, each with users of its own, for that to fit into half of the memory": f"{fleets:,}",
        "machines": f"{machines:,}",
        "which are so many because of": max(by, key=lambda name: by[name]),
        "published a second on Redis, each for so many nodes at most": f"{number(published)} × {number(copies)}",
        "Redis shards": f"{max(fleets, math.ceil(redis_cores)):,}",
        "network of Redis, out": f"{number(published * copies * _ENVELOPE_BYTES * 8 / 1e9)} Gbit/s",
    }


def _first_limits(measured: Measured, work: Workload, box: Machine) -> tuple[float, float]:
    """Connections at which what workers know of all users takes half of the memory, and at which a core of Redis is full."""
    known = box.busy * box.memory_gib * 2**30 / 2 / (measured.known_bytes * box.cores)
    a_message = measured.publish_us + work.channel * measured.copy_us  # to as many nodes as it has subscribers
    return known, box.busy * 1e6 / a_message * work.channel / work.a_second
