"""Who reads this page: a presence channel tells everybody on it who comes and who goes."""

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
    name = request.args.get("name", "").strip()
    if not 1 <= len(name) <= 40:
        abort(400, "A name has 1 to 40 characters.")
    claims = {"sub": name.casefold(), "name": name, "exp": int(time.time()) + 600}
    return jwt.encode(claims, WebSocket.settings.auth.secret or "", "HS256")


@WebSocket.channel("presence-page.{number}")
def may_enter(user: Any, number: str) -> dict[str, str]:
    """What the others are told of a user. False would refuse; without an authorizer nobody may enter."""
    return {"name": user.claims["name"]}


@app.get("/readers")
def readers() -> list[dict[str, Any]]:
    """The server knows, too."""
    return WebSocket.get_presence("presence-page.1")
