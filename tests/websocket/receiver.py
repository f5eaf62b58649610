"""A web server that takes webhooks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Delivery(NamedTuple):
    """One request that came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        return json.loads(self.body)["events"]


class Receiver:
    """
    Attributes:
        deliveries: Requests that came, the refused ones too.
        answers: Statuses to answer with, in order; 200 when there are none left.
        refuses: Whether it answers 503 instead.
        accepted: Requests that it has not refused.
        gate: Requests wait for it before they are answered.
        body: What to answer with besides the status, piece by piece, with a pause after each.
        connections: Connections that came.
    """

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.answers: list[int] = []
        self.refuses = False
        self.accepted: list[Delivery] = []
        self.gate = threading.Event()
        self.gate.set()
        self.body: Iterable[bytes] = ()
        self.pause_s = 0.0
        self.connections = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                receiver.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                delivery = Delivery(self.path, dict(self.headers), body)
                receiver.deliveries.append(delivery)
                receiver.gate.wait(20)
                status = 503 if receiver.refuses else receiver.answers.pop(0) if receiver.answers else 200
                if status == 200:
                    receiver.accepted.append(delivery)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                if not receiver.body:
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                try:
                    for piece in receiver.body:
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                        time.sleep(receiver.pause_s)
                    self.wfile.write(b"0\r\n\r\n")
                except OSError:  # the client did not want all of it
                    self.close_connection = True

            def log_message(self, *arguments: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/webhooks"

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events that came, in order."""
        return [event for delivery in self.deliveries for event in delivery.events]

    @property
    def taken(self) -> list[dict[str, Any]]:
        """All events that it has not refused, in order."""
        return [event for delivery in self.accepted for event in delivery.events]

    def stop(self) -> None:
        self.gate.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)
