"""A chat: a view takes what somebody says and pushes it to the room; the room remembers the last hundred messages."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, abort, request, send_file

from alphavel.websocket import WebSocket, blueprint

app = Flask(__name__)
app.register_blueprint(blueprint)


@app.get("/")
def page() -> Response:
    return send_file("index.html")


@app.post("/rooms/<int:room>/messages")
def say(room: int) -> tuple[str, int]:
    """`{"name": "Ada", "text": "hi"}`"""
    said = request.get_json()
    if not isinstance(said, dict):
        abort(400, "Expected a JSON object.")
    name, text = str(said.get("name", "")).strip(), str(said.get("text", "")).strip()
    if not 1 <= len(name) <= 40 or not 1 <= len(text) <= 1000:
        abort(400, "A name has 1 to 40 characters, a text 1 to 1000.")
    WebSocket.to_channel(f"chat.room.{room}").push({"event": "new-message", "data": {"name": name, "text": text}})
    return "", 204


@app.get("/rooms/<int:room>/messages")
def messages(room: int) -> dict[str, Any]:
    """What was said, for those who come later: config/websocket.yaml has `chat.*` keep it."""
    return WebSocket.history(f"chat.room.{room}")
