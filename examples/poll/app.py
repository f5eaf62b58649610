"""A poll: clients send an event of the application's own, the server checks it, counts, and tells everybody."""

from __future__ import annotations

from collections import Counter
from typing import Any

from flask import Flask, Response, send_file

from alphavel.websocket import Connection, WebSocket, blueprint

CHOICES = ("Tea", "Coffee", "Water")

app = Flask(__name__)
app.register_blueprint(blueprint)
votes = Counter(dict.fromkeys(CHOICES, 0))


@app.get("/")
def page() -> Response:
    return send_file("index.html")


@app.get("/result")
def result() -> dict[str, int]:
    return dict(votes)


@WebSocket.event("vote")
def vote(connection: Connection, data: Any) -> None:
    """`{"event": "vote", "data": {"choice": "Tea"}}`. It came from outside: anything may be in it."""
    choice = data.get("choice") if isinstance(data, dict) else None
    if not isinstance(choice, str) or choice not in votes:
        connection.send({"event": "refused", "data": f"Choose one of {', '.join(CHOICES)}."})
        return
    before = connection.state.get("choice")  # a dict of ours that is gone with the connection
    if before is not None:
        votes[before] -= 1
    connection.state["choice"] = choice
    votes[choice] += 1
    WebSocket.to_channel("poll").push({"event": "result", "data": dict(votes)})
