"""Servers as processes: started, spoken to on their standard input, looked at in /proc, ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class ServerError(RuntimeError):
    """A server did not start, or did not answer."""


class Program:
    """A running server with everything that it started."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None, below_only: bool = False) -> None:
        """
        Args:
            command: Program and arguments; it says `{"ready": true}` and takes commands.
            environment: Added to ours.
            below_only: Whether only the processes that it starts are the server.

        Raises:
            ServerError: It ended, or said nothing.
        """
        self._below_only = below_only
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 (closed by `stop`)
        self._process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self.hear(timeout_s=30)
        except ServerError:
            self.stop()
            raise

    def ask(self, *words: object, timeout_s: float = 60) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.tell(*words)
        return self.hear(timeout_s)

    def tell(self, *words: object) -> None:
        """Send a command; `hear` its answer later."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()

    def hear(self, timeout_s: float = 60) -> dict[str, Any]:
        """Wait for the next answer."""
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise ServerError(f"no answer within {timeout_s} s from {self._describe()}") from None
        if answer is None:
            raise ServerError(f"ended with {self._process.wait()}: {self._describe()}")
        return answer

    def pids(self) -> list[int]:
        """The server's processes."""
        below = list(_children(self._process.pid))
        return below if self._below_only else [self._process.pid, *below]

    def cpu_s(self) -> float:
        """Processor time of all its threads so far, in seconds, to the nanosecond."""
        return sum(map(cpu_s, self.pids()))

    def memory(self) -> int:
        """Resident memory of all its processes, in bytes."""
        return sum(map(resident, self.pids()))

    def stop(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # closed by `stop`
            for line in self._process.stdout:
                if line.startswith("{"):
                    self._answers.put(json.loads(line))
        self._answers.put(None)

    def _describe(self) -> str:
        self._log.seek(0)
        return f"{self._process.args!r}\n{self._log.read()[-2000:]}"


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def python(module: str, *arguments: str, interpreter: str = sys.executable) -> list[str]:
    """The command that runs a module."""
    return [interpreter, "-m", module, *arguments]


def cpu_s(pid: int) -> float:
    """Processor time of a process in seconds: the scheduler's own count, which is finer than the clock ticks of `stat`."""
    total = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError, ValueError):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def resident(pid: int) -> int:
    """Resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _children(pid: int) -> Iterable[int]:
    children = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children += [int(child) for child in (task / "children").read_text().split()]
    return [descendant for child in children for descendant in (child, *_children(child))]
