"""
Redis servers of the tests' own: on free ports of loopback, with nothing on disk, ended by their process ids; one, one that
Sentinel watches, or a cluster.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import redis

from tests.support import free_port, wait_until


class RedisServer:
    """
    A real redis-server; `with RedisServer() as server: ...`.

    Attributes:
        url: How clients reach it.
        port: Its port.
    """

    def __init__(self, *options: str, **environment: str) -> None:
        """
        Args:
            options: Further ones of the command line: `"--requirepass", "secret"`.
            environment: Further variables.
        """
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._environment = {**os.environ, **environment}
        self._folder = tempfile.TemporaryDirectory(prefix="alphavel-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """Where it runs."""
        return Path(self._folder.name)

    def arguments(self) -> list[str]:
        """Return its command line."""
        basic = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        return ["redis-server", *basic, *self._options]

    def start(self) -> None:
        """Start it, or start it again after `stop`, and wait until it answers."""
        self._process = subprocess.Popen(
            self.arguments(),
            cwd=self._folder.name,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, what="an answer of redis-server")

    def stop(self) -> None:
        """End it; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> redis.Redis:
        """Return a client of its own, to look at what is there."""
        return redis.Redis.from_url(self.url)

    def command(self, *words: str) -> bytes:
        """Send a command, return the raw beginning of its answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
            client.sendall(" ".join(words).encode() + b"\r\n")
            return client.recv(65536)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "redis-server ended"
        with contextlib.suppress(OSError):
            return self.command("PING").startswith((b"+PONG", b"-NOAUTH"))
        return False

    def __enter__(self) -> RedisServer:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._folder.cleanup()


class Sentinel(RedisServer):
    """A Sentinel that watches a master; it finds the replicas by itself, and calls the service `mymaster`."""

    def __init__(self, master: RedisServer) -> None:
        super().__init__()
        (self.folder / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n"
        )

    def arguments(self) -> list[str]:
        """See `RedisServer`."""
        return ["redis-server", "sentinel.conf", "--sentinel"]


@contextlib.contextmanager
def running_redis(*options: str, **environment: str) -> Iterator[RedisServer]:
    """A Redis server for the length of a `with` block."""
    with RedisServer(*options, **environment) as server:
        yield server


@contextlib.contextmanager
def running_sentinel() -> Iterator[tuple[RedisServer, RedisServer, Sentinel]]:
    """A master, its replica, and a Sentinel that knows of both."""
    with (
        RedisServer() as master,
        RedisServer("--replicaof", "127.0.0.1", str(master.port)) as replica,
        Sentinel(master) as sentinel,
    ):
        with sentinel.client() as client:
            wait_until(lambda: client.execute_command("SENTINEL", "REPLICAS", "mymaster"), 30, "the replica to be found")
        wait_until(lambda: _follows(replica), 30, "the replica to follow")
        yield master, replica, sentinel


@contextlib.contextmanager
def running_cluster(replicas: int = 0) -> Iterator[list[RedisServer]]:
    """A cluster of three masters, each with so many replicas."""
    with contextlib.ExitStack() as stack:
        servers = []
        for _ in range(3 * (1 + replicas)):
            clustered = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "1500")
            servers.append(stack.enter_context(RedisServer(*clustered)))
        places = [f"127.0.0.1:{server.port}" for server in servers]
        create = ["redis-cli", "--cluster", "create", *places, "--cluster-replicas", str(replicas), "--cluster-yes"]
        made = subprocess.run(create, capture_output=True, text=True, check=False, timeout=60)
        assert made.returncode == 0, made.stdout + made.stderr
        for server in servers:
            wait_until(lambda server=server: b"cluster_state:ok" in server.command("CLUSTER", "INFO"), 30, "the cluster")
            wait_until(lambda server=server: _follows(server), 30, "the replica to follow")
        yield servers


def _follows(server: RedisServer) -> bool:
    """Whether a server is a master, or a replica that has all that its master has."""
    answer = server.command("INFO", "replication")
    return b"role:master" in answer or b"master_link_status:up" in answer
