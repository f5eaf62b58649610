"""`python -m benchmarks.scenarios.deltas_run CSV COUNT`: push quotes to a server in this process, count what clients get."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import base64  # noqa: E402
import csv  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402

from alphavel.websocket import WebSocketServer  # noqa: E402
from alphavel.websocket.frames import Opcode, frame  # noqa: E402
from alphavel.websocket.serve import Service  # noqa: E402
from alphavel.websocket.settings import (  # noqa: E402
    ChannelSettings,
    CompressionSettings,
    OptionsSettings,
    WebSocketSettings,
)

_KINDS = {
    "whole": ("/", False),
    "permessage-deflate": ("/", True),
    "deltas": ("/?delta=true", False),
}
_ROUNDS = 15


def _rows(path: str) -> list[dict[str, Any]]:
    with open(path, newline="") as file:
        return [{"time": row.pop(""), **{key: float(value) for key, value in row.items()}} for row in csv.DictReader(file)]


def _quotes(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield {"symbol": "EURUSD", **{key.lower(): value for key, value in row.items()}}


def _tickers(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for index, row in enumerate(rows):
        day = rows[max(0, index - 23) : index + 1]
        close = row["Close"]
        yield {
            "symbol": "EURUSD",
            "name": "Euro / US Dollar",
            "base": {"currency": "EUR", "precision": 5},
            "quote": {"currency": "USD", "precision": 5},
            "status": "trading",
            "time": row["time"],
            "last": close,
            "open_24h": day[0]["Open"],
            "high_24h": max(each["High"] for each in day),
            "low_24h": min(each["Low"] for each in day),
            "change_24h": round(close - day[0]["Open"], 5),
            "change_24h_percent": round(100 * (close / day[0]["Open"] - 1), 3),
            "volume_24h": sum(each["Volume"] for each in day),
            "previous_close": rows[max(0, index - 1)]["Close"],
            "limits": {"min_order": 1000, "max_order": 50_000_000, "tick": 1e-05},
        }


class _Client:
    def __init__(self, port: int, path: str, compressed: bool) -> None:
        self.received = 0
        self._sock = socket.create_connection(("127.0.0.1", port))
        key = base64.b64encode(os.urandom(16)).decode()
        extension = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" if compressed else ""
        self._sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{extension}\r\n".encode()
        )
        self._until(b"\r\n\r\n")
        self._sock.sendall(frame(Opcode.TEXT, b'{"event":"subscribe","data":{"channel":"ticks"}}', mask=b"1234"))
        gevent.sleep(0.2)  # the answer may be compressed: it is not looked at
        self._sock.recv(65536)
        self._reading = gevent.spawn(self._read)

    def _until(self, text: bytes) -> None:
        data = b""
        while text not in data:
            data += self._sock.recv(65536)

    def _read(self) -> None:
        while data := self._sock.recv(65536):
            self.received += len(data)

    def close(self) -> None:
        self._reading.kill()
        self._sock.close()


def _serve(takeover: bool = False) -> tuple[WebSocketServer, Service]:
    compression = CompressionSettings(enabled=True, threshold=1, context_takeover=takeover)
    settings = WebSocketSettings(
        port=0, options=OptionsSettings(compression=compression), channels={"ticks": ChannelSettings(delta=True)}
    )
    server = WebSocketServer(settings)
    service = Service(server, lambda environ, respond: [])
    service.start()
    return server, service


def _bytes(
    server: WebSocketServer, port: int, kinds: dict[str, tuple[str, bool]], data: list[dict[str, Any]]
) -> dict[str, int]:
    clients = {name: _Client(port, path, compressed) for name, (path, compressed) in kinds.items()}
    for each in data:
        server.to_channel("ticks").push({"event": "tick", "data": each})
        server.drain(0)
    gevent.sleep(0.5)
    for client in clients.values():
        client.close()
    gevent.sleep(0.1)
    return {name: client.received for name, client in clients.items()}


def _push_us(server: WebSocketServer, port: int, path: str, data: list[dict[str, Any]]) -> float:
    client, costs = _Client(port, path, False), []
    for _ in range(_ROUNDS):
        took = 0.0
        for each in data:
            began = time.perf_counter()
            server.to_channel("ticks").push({"event": "tick", "data": each})
            took += time.perf_counter() - began
            server.drain(0)
        costs.append(took / len(data) * 1e6)
    client.close()
    gevent.sleep(0.1)
    return statistics.median(costs)


def main() -> None:
    """Measure."""
    rows = _rows(sys.argv[1])[: int(sys.argv[2])]
    server, service = _serve()
    keeping, keeping_service = _serve(takeover=True)
    told = {}
    for name, data in (("quote", list(_quotes(rows))), ("ticker", list(_tickers(rows)))):
        sizes = _bytes(server, service.port, _KINDS, data)
        sizes |= _bytes(keeping, keeping_service.port, {"permessage-deflate, with context": ("/", True)}, data)
        some = data[:500]
        told[name] = {
            "bytes": sizes,
            "push_us": _push_us(server, service.port, "/", some),
            "push_delta_us": _push_us(server, service.port, "/?delta=true", some),
        }
    print(json.dumps(told))
    for each in (server, keeping):
        each.stop(0.5)


if __name__ == "__main__":
    main()
