"""Servers of several workers, and several servers over Redis, with their load clients."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import alphavel_command
from benchmarks.load import Load
from benchmarks.processes import ROOT, ServerError, cpu_s, free_port, resident
from benchmarks.rounds import check, latencies
from benchmarks.servers.scale_app import FOLDER

APP = "benchmarks.servers.scale_app:app"
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Worker:
    """
    One process that serves.

    Attributes:
        pid: Its process.
        place: Its socket for commands.
    """

    pid: int
    place: Path

    def ask(self, *words: object, timeout_s: float = 120) -> dict[str, Any]:
        """Have it do something and return its answer."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(self.place))
            with sock.makefile("rw") as stream:
                stream.write(" ".join(map(str, words)) + "\n")
                stream.flush()
                answer: dict[str, Any] = json.loads(stream.readline() or "{}")
                return answer


class Fleet:
    """
    One server with some workers, or several servers with one each and Redis between them.

    Attributes:
        name: As the tables call it.
        ports: Where the servers listen.
        workers: The processes that serve.
        loads: The clients.
        published: Number of the last message.
    """

    def __init__(
        self, workers: int = 1, nodes: int = 1, environment: Mapping[str, str] | None = None, config: str = ""
    ) -> None:
        """
        Args:
            workers: Processes of each server.
            nodes: Servers; more than one meet over Redis.
            environment: Added to ours.
            config: What config/websocket.yaml says.
        """
        self.name = f"{nodes} nodes over Redis" if nodes > 1 else f"{workers} worker{'s' * (workers > 1)}"
        self.loads: list[Load] = []
        self.published = 0
        self._folder = Path(tempfile.mkdtemp(prefix="alphavel-bench-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._redis: subprocess.Popen[bytes] | None = None
        (self._folder / "websocket.yaml").write_text(config)
        own = {
            **os.environ,
            FOLDER: str(self._folder),
            "ALPHAVEL_CONFIG": str(self._folder),
            "ALPHAVEL_RUN_DIR": str(self._folder / "run"),
        }
        if nodes > 1:
            own |= {"ALPHAVEL_BROADCAST_DRIVER": "redis", "ALPHAVEL_REDIS_URL": self._start_redis()}
        self.ports = [free_port() for _ in range(nodes)]
        with open(self._folder / "log", "wb") as log:
            for port in self.ports:
                command = [*alphavel_command(port), "--app", APP, "--workers", str(workers)]
                self._processes.append(
                    subprocess.Popen(command, cwd=ROOT, env={**own, **(environment or {})}, stdout=log, stderr=log)
                )
        self.workers = self._wait_for(workers * nodes)

    def _start_redis(self) -> str:
        port = free_port()
        options = ["--save", "", "--appendonly", "no", "--client-output-buffer-limit", "pubsub 0 0 0"]
        self._redis = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", *options], cwd=self._folder, stdout=subprocess.DEVNULL
        )
        return f"redis://127.0.0.1:{port}/0"

    def _wait_for(self, count: int) -> list[Worker]:
        deadline = time.monotonic() + _PATIENCE_S
        while len(found := sorted(self._folder.glob("*.sock"))) < count:
            if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
                said = (self._folder / "log").read_text()[-2000:]
                self.stop()
                raise ServerError(f"{self.name}: {len(found)} of {count} started\n{said}")
            time.sleep(0.05)
        return [Worker(int(place.stem), place) for place in found]

    def connect(self, connections: int, *arguments: str) -> float:
        """
        Open connections, with a load client for each server, all at once.

        Returns:
            Seconds until the last of them was open.
        """
        share = [connections // len(self.ports)] * len(self.ports)
        share[0] += connections - sum(share)
        return self.connect_from([(port, count, arguments) for port, count in zip(self.ports, share, strict=True) if count])

    def connect_from(self, clients: Sequence[tuple[int, int, Sequence[str]]]) -> float:
        """The same with clients that are given: port, connections, options of the load client."""
        began = time.monotonic()
        opened: list[Load | Exception] = [ServerError("not opened")] * len(clients)

        def open_one(number: int, port: int, count: int, arguments: Sequence[str]) -> None:
            try:
                opened[number] = Load(port, count, arguments)
            except Exception as error:
                opened[number] = error

        threads = [threading.Thread(target=open_one, args=(number, *client)) for number, client in enumerate(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - began
        for load in opened:
            if isinstance(load, Exception):
                raise load
            self.loads.append(load)
        return took

    def publish(self, *command: object, timeout_s: float = 120) -> int:
        """Have the first worker publish; the number of the last message."""
        self.published = self.workers[0].ask(*command, timeout_s=timeout_s)["published"]
        return self.published

    def cpu_s(self) -> float:
        """Processor time of all workers so far, in seconds."""
        return sum(cpu_s(worker.pid) for worker in self.workers)

    def redis_cpu_s(self) -> float:
        """Processor time of Redis so far, in seconds; 0 without."""
        return cpu_s(self._redis.pid) if self._redis is not None else 0.0

    def memory(self) -> int:
        """Resident memory of all workers, in bytes."""
        return sum(resident(worker.pid) for worker in self.workers)

    def counts(self, what: str) -> list[int]:
        """What each worker answers to `ask`."""
        return [worker.ask("ask", what)[what] for worker in self.workers]

    def stop(self) -> None:
        """End everything."""
        for load in self.loads:
            load.stop()
        for process in [*self._processes, *([self._redis] if self._redis is not None else [])]:
            process.terminate()
        for process in [*self._processes, *([self._redis] if self._redis is not None else [])]:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def fan_out(fleet: Fleet, command: str, *arguments: object) -> dict[str, float]:
    """
    Have the first worker publish, and wait until all clients have everything.

    Returns:
        `rate` (messages delivered a second); `server_us` and `redis_us` (processor time of all workers, and of Redis, for one
        delivered message), `redis_message_us` (of Redis for one published message); `p50`, `p99` (milliseconds from push to
        read, the worst load client's).
    """
    for load in fleet.loads:
        load.ask("mark", fleet.published)
    first, cpu, redis_cpu = fleet.published, fleet.cpu_s(), fleet.redis_cpu_s()
    last = fleet.publish(command, *arguments)
    for load in fleet.loads:
        load.tell("until", last, int(_PATIENCE_S * 1000))
    reports = [load.hear() for load in fleet.loads]
    for report in reports:
        check(fleet.name, report)
    messages = sum(report["messages"] for report in reports)
    took = (max(report["last_read_ns"] for report in reports) - min(report["first_at_ns"] for report in reports)) / 1e9
    redis_s = fleet.redis_cpu_s() - redis_cpu
    return {
        "rate": messages / max(took, 1e-9),
        "server_us": (fleet.cpu_s() - cpu) / messages * 1e6,
        "redis_us": redis_s / messages * 1e6,
        "redis_message_us": redis_s / max(1, last - first) * 1e6,
        **{key: max(latencies(report)[key] for report in reports) for key in ("p50", "p99")},
    }
