"""
The bus between the workers of a server against pyzmq's `zmq.green` over Unix sockets: two processes, one sends, one receives.

`python -m benchmarks.local_bus`, or as a part of `make bench-scale`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import Table, number
from benchmarks.rounds import median, progress, ratio

_WAYS = ("ours", "zmq.green")


def compare(rounds: int, count: int) -> Table:
    """Messages of 200 bytes, as fast as they go and one at a time."""
    what = "The bus between two workers, messages of 200 bytes"
    try:
        import zmq.green  # noqa: F401
    except ImportError as error:
        return Table(what, ("",), [], [f"Not measured here: pyzmq cannot be imported ({error})."])
    samples: dict[str, list[dict[str, float]]] = {way: [] for way in _WAYS}
    for number_ in range(rounds + 1):
        progress(f"{what}: round {number_} of {rounds}")
        for way in _WAYS:
            sample = _round(way, count)
            if number_:
                samples[way].append(sample)
    rows = []
    for way in _WAYS:
        rates = [[sample["rate"] for sample in samples[each]] for each in (way, "zmq.green")]
        middle = {key: median([sample[key] for sample in samples[way]]) for key in samples[way][0]}
        cells = (middle["rate"], middle["cpu_us"], middle["p50_us"], middle["p99_us"])
        rows.append(("`bus/local`" if way == "ours" else way, *map(number, cells), f"{ratio(*rates):.2f}"))
    columns = ("", "messages/s", "CPU µs a message, both", "alone: p50 µs", "p99 µs", "× zmq.green")
    note = f"Medians of {rounds} interleaved rounds of {count:,} messages; zmq.green with PUSH and PULL over ipc://."
    return Table(what, columns, rows, [note], data=samples)


def _round(way: str, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="alphavel-bus-") as folder:
        command = [sys.executable, "-m", "benchmarks.local_bus"]
        receiver = subprocess.Popen([*command, "receive", way, folder, str(count)], stdout=subprocess.PIPE, text=True)
        sender = subprocess.Popen([*command, "send", way, folder, str(count)], stdout=subprocess.PIPE, text=True)
        said = [json.loads(process.communicate(timeout=120)[0]) for process in (sender, receiver)]
    sent, received = said
    return {
        "rate": count / (received["last"] - sent["first"]),
        "cpu_us": (sent["cpu_s"] + received["cpu_s"]) / count * 1e6,
        "p50_us": received["p50_us"],
        "p99_us": received["p99_us"],
    }


# In processes of their own: who sends and who receives


class _Ours:
    """`bus.local`, with the question who wants a message, as the relay asks it."""

    def __init__(self, folder: str, name: str) -> None:
        from alphavel.websocket.bus.facts import Fact
        from alphavel.websocket.bus.local import LocalBus

        self.took: Any = None
        self._bus = LocalBus(Path(folder), name, _Nobody(), 60.0)
        self._bus.start(lambda read: self.took(read()))
        if name == "receive":
            self._bus.want(Fact("channel", "1", "b", ""), True)

    def is_ready(self) -> bool:
        return bool(self._bus.routes("1", ("b",), (), False))

    def send(self, content: dict[str, Any]) -> None:
        from alphavel.websocket.bus.envelope import write

        for route in self._bus.routes("1", ("b",), (), False):
            self._bus.publish(write("push", content), route.to)

    def let_go(self) -> None:
        self._bus.drain(1 << 20, None)


class _Nobody:
    """A worker with nothing to tell."""

    def all_facts(self) -> dict[Any, Any]:
        return {}

    def events_for_newcomer(self) -> tuple[()]:
        return ()

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None


class _Zmq:
    """`zmq.green`, with the same envelopes."""

    def __init__(self, folder: str, name: str) -> None:
        import gevent
        import zmq.green as zmq

        from alphavel.websocket.bus import Envelopes

        self.took: Any = None
        self._envelopes = Envelopes(name)
        context = zmq.Context()
        self._socket = context.socket(zmq.PUSH if name == "send" else zmq.PULL)
        self._socket.set_hwm(0)
        if name == "send":
            self._socket.connect(f"ipc://{folder}/zmq")
        else:
            self._socket.bind(f"ipc://{folder}/zmq")
            gevent.spawn(self._receive)

    def is_ready(self) -> bool:
        return True

    def send(self, content: dict[str, Any]) -> None:
        self._socket.send(self._envelopes.seal("push", content))

    def let_go(self) -> None:
        pass

    def _receive(self) -> None:
        while True:
            self.took(self._envelopes.open(self._socket.recv()))


def _content(stamp: float) -> dict[str, Any]:
    return {"app": "1", "channels": ["b"], "users": [], "at": stamp, "message": "x" * 100}


_ALONE = 300


def _send(end: Any, count: int) -> dict[str, float]:
    import gevent

    while not end.is_ready():
        gevent.sleep(0.01)
    first = time.monotonic()
    for number_ in range(count):
        end.send(_content(0.0))
        if number_ % 64 == 63:  # as many as a turn of a loop may bring
            gevent.sleep(0)
            end.let_go()
    cpu_s = time.process_time()
    gevent.sleep(1.0)
    for _ in range(_ALONE):
        end.send(_content(time.monotonic()))
        gevent.sleep(0.002)
    gevent.sleep(1.0)
    return {"first": first, "cpu_s": cpu_s}


def _receive(end: Any, count: int) -> dict[str, float]:
    from gevent.event import Event

    seen, done = [], Event()
    state = {"number": 0, "last": 0.0, "cpu_s": 0.0}

    def took(content: dict[str, Any]) -> None:
        state["number"] += 1
        if state["number"] == count:
            state["last"], state["cpu_s"] = time.monotonic(), time.process_time()
        elif state["number"] > count:
            seen.append((time.monotonic() - content["at"]) * 1e6)
            if len(seen) == _ALONE:
                done.set()

    end.took = took
    if not done.wait(100):
        raise SystemExit(f"{state['number']} of {count + _ALONE} messages came")
    seen.sort()
    return {"last": state["last"], "cpu_s": state["cpu_s"], "p50_us": seen[_ALONE // 2], "p99_us": seen[_ALONE * 99 // 100]}


def _main(what: str, way: str, folder: str, count: str) -> None:
    from gevent import monkey

    monkey.patch_all()
    end = _Ours(folder, what) if way == "ours" else _Zmq(folder, what)
    end.took = lambda content: None
    print(json.dumps((_send if what == "send" else _receive)(end, int(count))), flush=True)
    os._exit(0)  # nobody waits for greenlets that wait for messages


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _main(*sys.argv[1:])
    else:
        print(compare(5, 100_000).markdown())
