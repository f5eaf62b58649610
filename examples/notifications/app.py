"""Private notifications: a channel that only its user may join, pushed to by whatever process has news."""

from __future__ import annotations

import time
from typing import Any

import jwt
from flask import Flask, Response, abort, request, send_file

from alphavel.websocket import WebSocket, blueprint

app = Flask(__name__)
app.register_blueprint(blueprint)


@app.get("/")
def page() -> Response:
    return send_file("index.html")


@app.get("/token")
def token() -> str:
    """Who types a name is that person: here would be your log-in."""
    name = request.args.get("name", "").strip().casefold()
    if not 1 <= len(name) <= 40:
        abort(400, "A name has 1 to 40 characters.")
    return jwt.encode({"sub": name, "exp": int(time.time()) + 600}, WebSocket.settings.auth.secret or "", "HS256")


@WebSocket.channel("private-user.{user_id}")
def own_channel(user: Any, user_id: str) -> bool:
    return bool(user.id == user_id)
