"""A live dashboard: figures once a second, to everybody who looks."""

from __future__ import annotations

import os
import time
from collections import deque

from flask import Flask, Response, send_file

from alphavel.websocket import WebSocket, blueprint

app = Flask(__name__)
app.register_blueprint(blueprint)
orders: deque[float] = deque()  # when they came; in an application of yours a query


@app.get("/")
def page() -> Response:
    return send_file("index.html")


@app.post("/orders")
def order() -> tuple[str, int]:
    orders.append(time.monotonic())
    return "", 201


@WebSocket.every(1.0)
def publish() -> None:
    """Runs in one process, however many workers there are; where nobody looks, a push costs next to nothing."""
    while orders and orders[0] < time.monotonic() - 60:
        orders.popleft()
    figures = {
        "orders": len(orders),
        "load": os.getloadavg()[0],
        "viewers": WebSocket.get_channel_stats("dashboard")["subscribers"],
    }
    WebSocket.to_channel("dashboard").push({"event": "metrics-update", "data": figures})
