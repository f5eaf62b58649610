"""Three servers in processes of their own, the way from each to Redis, and what can happen to them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.proxy import Proxy
from tests.redis_server import RedisServer, running_redis
from tests.websocket.receiver import Receiver
from tests.websocket.several_workers import Server

LEASE_S = 3.0
TIMEOUT_S = 1.0
KEEP_S = 60.0  # what was published is kept for so long, and the others are taken to be there

_MORE = """    limits: {{client_events_per_second: 100000}}
broadcasting:
  driver: redis
  redis: {{url: "redis://127.0.0.1:{port}/0", timeout: {timeout}, lease: {lease}, keep: {keep}, secret: "a fleet's secret"}}
"""
_PATIENT = "services: {{'webhooks {place}': {{failure_threshold: 1000}}}}"  # rounds are short
_SILENT = "heartbeat_check_interval: 3600, heartbeat_idle_time: 7200, max_messages_per_second: null"
_STATE = """{
    "channels": {name: WebSocket.get_channel_stats(name)["subscribers"] for name in WebSocket.get_channels()},
    "rooms": {
        name: sorted(member["id"] for member in WebSocket.get_presence(name))
        for name in WebSocket.get_channels() if name.startswith("presence-")
    },
    "connections": WebSocket.connections.total,
    "up": WebSocket.relay.bus.is_up,
    "others": len(WebSocket.siblings.bus.membership.nodes),
    "leads": WebSocket.siblings.leader.leads,
    "missed": WebSocket.relay.bus.figures()["bus_missed"],
    "unneeded": WebSocket.relay.bus.figures()["bus_unneeded"],
    "dropped": WebSocket.relay.bus.dropped,
}"""


class Node:
    """
    A server, and its way to Redis.

    Attributes:
        number: 0, 1, 2.
        name: Of its process: another one after each start.
        proxy: The way to Redis.
        is_running: Whether it can be asked for anything.
    """

    def __init__(self, number: int, folder: Path, redis: RedisServer, receiver: Receiver) -> None:
        self.number = number
        self.proxy = Proxy(redis.port)
        self.is_running = True
        self._starts = self._elections = 0
        (folder / "config").mkdir(parents=True)
        (folder / "config/circuit_breaker.yaml").write_text(_PATIENT.format(place=receiver.url.split("/")[2]))
        more = _MORE.format(port=self.proxy.port, timeout=TIMEOUT_S, lease=LEASE_S, keep=KEEP_S)
        self._server = Server(folder, workers=1, webhooks=receiver, more=more, options=_SILENT)

    @property
    def name(self) -> str:
        return f"node {self.number}.{self._starts}"

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def output(self) -> str:
        """What it has logged. To be read now and then: a pipe that is full would stop it."""
        return self._server.program.output

    @property
    def elections(self) -> int:
        """How often it has begun to lead."""
        return self._elections + self.output.count("This node leads:")

    def do(self, code: str) -> Any:
        """Have it evaluate an expression."""
        return self._server.do(" ".join(code.split()), self._server.program.process.pid)

    def state(self) -> dict[str, Any]:
        """Return what it says of itself and of the fleet."""
        return self.do(_STATE)

    def waits_for(self) -> Any:
        """Return what it wants of Redis and has not got, and what it knows of webhooks, to find out why somebody waits."""
        subscriber, telling, webhooks = "WebSocket.relay.bus._subscriber", "WebSocket.siblings.webhooks", "WebSocket.webhooks"
        values = [f"{subscriber}.{name}" for name in ("_waiting", "_fresh", "_unanswered", "_leaving", "_wanted", "_confirmed")]
        values += [f"{telling}.{name}" for name in ("_telling", "_told", "_untold", "_tells")]
        values += [f"dict({telling}.ledger.facts())", f"{webhooks}._waiting", f"{webhooks}.waiting"]
        return self.do("{" + ", ".join(f"{value!r}: str({value})" for value in values) + "}")

    def push(self, channel: str, numbers: list[int]) -> None:
        """Have it publish numbers."""
        event = f'{{"event": "said", "data": {{"by": {self.name!r}, "n": n}}}}'
        self.do(f"[WebSocket.to_channel({channel!r}).push({event}) for n in {numbers}]")

    def sends_all(self) -> bool:
        """Whether Redis has all that it has published."""
        return self.do("WebSocket.relay.bus.buffered_bytes") == 0

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.is_running = False
        os.kill(self._server.program.process.pid, signal.SIGKILL)
        self._server.program.process.wait()

    def start_again(self) -> None:
        """Start it after it was killed."""
        self._elections = self.elections
        self._server.program.__exit__()
        self._server.start()
        self._server.program.wait_for("auth  ", 120)
        self._starts += 1
        self.is_running = True

    def stop(self) -> None:
        """Let it stand still."""
        self.is_running = False
        os.kill(self._server.program.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        os.kill(self._server.program.process.pid, signal.SIGCONT)
        self.is_running = True

    def close(self) -> None:
        """End it and its way to Redis."""
        self._server.close()
        self.proxy.close()


@contextlib.contextmanager
def running_fleet(folder: Path) -> Iterator[tuple[RedisServer, list[Node], Receiver]]:
    """Three nodes, their Redis, and who takes their webhooks."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(running_redis())
        receiver = Receiver()
        stack.callback(receiver.stop)
        nodes = []
        for number in range(3):
            nodes.append(Node(number, folder / f"node-{number}", redis, receiver))
            stack.callback(nodes[-1].close)
        yield redis, nodes, receiver
