"""
`python -m tests.circuit_breaker.integrations.soak threads|gevent`: sixteen callers of a real HTTP server that breaks, hangs,
resets and recovers. Prints what the callers saw, what the breaker counted, and what reached the server.
"""

from __future__ import annotations

import sys

if sys.argv[1:] == ["gevent"]:
    from gevent import monkey

    monkey.patch_all()

import json
import threading
import time
from collections import Counter

import requests

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError
from alphavel.circuit_breaker.integrations.requests import CircuitBreakerAdapter
from tests.circuit_breaker.integrations.servers import HttpServer, running
from tests.support import wait_until

CALLERS = 16
PATIENCE_S = 60.0
PHASES = ("/500", "/hang", "/reset", "/half")


class Soak:
    """
    Attributes:
        path: What all callers ask for at the moment.
        seen: How their calls ended.
    """

    def __init__(self, server: HttpServer) -> None:
        thresholds = {"failure_threshold": 5, "recovery_timeout": 0.2, "half_open_requests": 3, "recovery_jitter": 0.5}
        self.manager = CircuitBreakerManager({"thresholds": thresholds})
        self.changes: Counter[str] = Counter()
        self.manager.on("state_change", lambda event: self.changes.update([event.state.value]))
        self.server = server
        self.path = "/200"
        self.seen: Counter[str] = Counter()
        self._ended = False

    def call(self) -> None:
        """Call until told to end. One `Counter` for each caller: they add up at the end."""
        seen: Counter[str] = Counter()
        session = requests.Session()
        session.mount("http://", CircuitBreakerAdapter("api", manager=self.manager))
        while not self._ended:
            try:
                response = session.get(self.server.url + self.path, timeout=0.3)
                seen["failed" if response.status_code >= 500 else "succeeded"] += 1
            except CircuitOpenError:
                seen["refused"] += 1
                time.sleep(0.01)
            except requests.RequestException:
                seen["failed"] += 1
            time.sleep(0.001)
        session.close()
        self.seen.update(seen)

    def run(self) -> None:
        """Go through all phases: each lasts until the circuit has opened, each pause until it has closed again."""
        callers = [threading.Thread(target=self.call) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        for path in PHASES:
            wait_until(lambda: self.state == "closed" and self.stats["successes"] > 50, PATIENCE_S, "closed")
            self.path = path
            openings = self.changes["open"]
            # Twice: the trials of a service that is still broken open it again.
            wait_until(lambda openings=openings: self.changes["open"] >= openings + 2, PATIENCE_S, f"{path}: open")
            self.path = "/200"
        wait_until(lambda: self.state == "closed", PATIENCE_S, "closed at the end")
        self._ended = True
        for caller in callers:
            caller.join()

    @property
    def state(self) -> str:
        """Of the circuit."""
        return str(self.manager.get_state("api"))

    @property
    def stats(self) -> dict:
        """Of the service."""
        return self.manager.get_stats("api")


def main() -> None:
    """Run, and print."""
    with running(HttpServer()) as server:
        soak = Soak(server)
        soak.run()
        print(json.dumps({"seen": soak.seen, "stats": soak.stats, "reached": server.total, "changes": soak.changes}))


if __name__ == "__main__":
    main()
