"""The application that alphavel.js is tested against."""

from __future__ import annotations

import os
import time

import jwt
from flask import Flask, request

from alphavel.websocket import WebSocket, blueprint

app = Flask(__name__)
app.register_blueprint(blueprint)

granted: set[str] = set()


@app.get("/token")
def token() -> str:
    """A token of the user asked for, with so many seconds to live."""
    claims = {"sub": request.args.get("user", "1"), "exp": time.time() + float(request.args.get("seconds", 60))}
    return jwt.encode(claims, os.environ["ALPHAVEL_JWT_SECRET"])


@app.post("/push/<channel>/<event>")
def push(channel: str, event: str) -> dict[str, int]:
    """Push the request's JSON to the others on a channel."""
    return {"queued": WebSocket.to_channel(channel).to_others().push({"event": event, "data": request.get_json()})}


@app.post("/reauthorize/<pattern>")
def reauthorize(pattern: str) -> dict[str, int]:
    """Ask the authorizers again."""
    return {"ended": WebSocket.reauthorize(pattern)}


@WebSocket.channel("presence-room.{room}")
def room(user, room):
    return {"name": f"User {user.id}"}


@WebSocket.channel("chat.{room}")
def chat(user, room):
    return True


@WebSocket.channel("private-once.{number}")
def once(user, number):
    fresh = number not in granted
    granted.add(number)
    return fresh


@WebSocket.event("close me")
def close_me(connection, data):
    connection.close(data["code"], "asked for")


@WebSocket.event("echo")
def echo(connection, data):
    connection.send({"event": "echoed", "data": data})


@WebSocket.event("fail")
def fail(connection):
    raise RuntimeError("this handler fails on purpose")
