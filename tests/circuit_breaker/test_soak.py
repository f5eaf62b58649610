"""A real HTTP server that fails, hangs, resets connections, recovers, and collapses when all come back at once."""

from __future__ import annotations

import http.client
import http.server
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError, State
from tests.support import wait_until

SECONDS = float(os.environ.get("ALPHAVEL_SOAK_SECONDS", "1.5"))
"""How long each phase lasts; `make soak-breaker` takes longer."""
PATIENCE_S, HANG_S = 1.0, 2.5
"""What a caller waits for an answer, and how long a service takes that hangs. An answer that is fine must not take so long."""


class Service(http.server.ThreadingHTTPServer):
    """Answers as `mode` says: fine, fail, hang, reset; `limit`: calls in a tenth of a second that it survives."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode = "fine"
        self.limit: float | None = None
        self.times: list[float] = []
        self.answered: Counter[str] = Counter()

    def handle_error(self, *_: object) -> None:
        """A client that gave up is no news here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        service = self.server
        service.answered[service.mode] += 1
        if service.mode == "hang":
            time.sleep(HANG_S)
        if service.mode == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        self.send_response(503 if service.mode == "fail" or self._collapses() else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _collapses(self) -> bool:
        service, now = self.server, time.monotonic()
        if service.limit is None:
            return False
        service.times.append(now)
        recent = sum(moment > now - 0.1 for moment in service.times[-200:])
        if recent > service.limit:
            return True
        service.limit *= 1.03  # it warms up with every call it serves
        return False

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(service: Service) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", service.server_address[1], timeout=PATIENCE_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


def callers(
    manager: CircuitBreakerManager, service: Service, stop: threading.Event, many: int, pause_s: float
) -> list[threading.Thread]:
    def work() -> None:
        while not stop.is_set():
            try:
                manager.call("http", lambda: ask(service))
            except (OSError, http.client.HTTPException, CircuitOpenError):
                pass
            time.sleep(pause_s)

    threads = [threading.Thread(target=work) for _ in range(many)]
    for thread in threads:
        thread.start()
    return threads


def test_breaker_spares_a_service_in_trouble_and_finds_out_when_it_is_back(service, store_config):
    thresholds = {"failure_threshold": 5, "timeout": 10, "recovery_timeout": 0.1, "half_open_requests": 2, "trial_timeout": 2}
    manager = CircuitBreakerManager({**store_config, "thresholds": thresholds})
    manager.configure("http", failure_if=lambda status: status >= 500)
    stop = threading.Event()
    threads = callers(manager, service, stop, 8, 0.005)
    try:
        for trouble in ("fail", "hang", "reset"):
            service.mode = "fine"
            wait_until(lambda: manager.get_state("http") is State.CLOSED, 60, f"to close before {trouble}")
            service.answered.clear()
            time.sleep(SECONDS / 3)
            assert service.answered["fine"] > 0
            service.mode = trouble
            wait_until(lambda: manager.get_state("http") is not State.CLOSED, 60, f"to open in {trouble}")
            before = manager.get_stats("http")["rejected"]
            service.answered.clear()
            began = time.monotonic()
            time.sleep(SECONDS)
            took = time.monotonic() - began
            # Two trials in a tenth of a second at most, and those that were under way.
            assert service.answered[trouble] <= 2 * (took * 10 + 10) + 8
            assert manager.get_stats("http")["rejected"] > before
        service.mode = "fine"
        wait_until(lambda: manager.get_state("http") is State.CLOSED, 60, "to close at last")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        manager.shut_down()


def test_service_that_collapses_when_all_return_reopens_at_most_once_with_a_ramp(service):
    thresholds = {
        "failure_threshold": 5, "timeout": 1, "recovery_timeout": 0.2, "half_open_requests": 2,
        "ramp": [10, 25, 50], "ramp_step": 0.5,
    }  # fmt: skip
    manager = CircuitBreakerManager({"thresholds": thresholds})
    manager.configure("http", failure_if=lambda status: status >= 500)
    openings: list[str] = []
    stop = threading.Event()
    service.mode = "fail"
    threads = callers(manager, service, stop, 12, 0.02)
    try:
        wait_until(lambda: manager.get_state("http") is not State.CLOSED, 60)
        manager.on("state_change", lambda event: openings.append(event.previous) if event.state is State.OPEN else None)
        service.limit, service.mode = 12.0, "fine"
        wait_until(lambda: manager.get_state("http") is State.CLOSED, 60, "to close for good")
        time.sleep(0.5)
        assert openings.count(State.RECOVERING) + openings.count(State.CLOSED) <= 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()
