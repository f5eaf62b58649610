"""
Five workers, one breaker: what one of them finds out, all of them know.

With `default: shared` the circuit is a file in shared memory that all processes of a machine map; with `default: redis` all
machines share it. Without that each worker would have to fail for itself.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError
from alphavel.circuit_breaker.integrations.requests import CircuitBreakerAdapter
from examples.circuit_breaker.servers import Http

RECOVERY_S = 3


def make_manager(file: str) -> CircuitBreakerManager:
    """In an application of yours this is config/circuit_breaker.yaml."""
    return CircuitBreakerManager(
        {
            "default": "shared",
            "stores": {"shared": {"path": file}},
            "services": {"stock": {"failure_threshold": 3, "recovery_timeout": RECOVERY_S, "half_open_requests": 1}},
        }
    )


def work(file: str, url: str) -> None:
    """What each worker does: ask whenever it is told to, and say what came of it."""
    http = requests.Session()
    http.mount(url, CircuitBreakerAdapter("stock", manager=make_manager(file)))
    for _ in sys.stdin:
        try:
            print(http.get(url, timeout=5).status_code, flush=True)
        except CircuitOpenError:
            print("refused", flush=True)


class Worker(subprocess.Popen[str]):
    """A process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "examples.circuit_breaker.several_processes", *arguments]
        super().__init__(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self) -> str:
        """Have it ask; return what it says."""
        assert self.stdin is not None
        assert self.stdout is not None
        print("ask", file=self.stdin, flush=True)
        return self.stdout.readline().strip()


def main() -> None:
    """Break the service, have one worker after the other ask for it, and see who asks when it is back."""
    with Http("7 left") as stock, tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        file = str(Path(folder, "circuits"))
        workers = [processes.enter_context(Worker(file, stock.url)) for _ in range(5)]
        manager = make_manager(file)
        stock.mood = "broken"
        for number, worker in enumerate(workers, 1):
            print(f"worker {number}: {worker.ask()}")
        print(f"asked {stock.requests} times, by 5 workers; the circuit is {manager.get_state('stock')}")
        stock.mood = "fine"
        time.sleep(RECOVERY_S)
        for number, worker in enumerate(workers, 1):
            print(f"worker {number}: {worker.ask()}")
        print(f"the circuit is {manager.get_state('stock')}, for all of them")


if __name__ == "__main__":
    work(*sys.argv[1:]) if sys.argv[1:] else main()
