"""
A chat behind an HTTP API, to begin with: `alpha vendor:publish --tag=websocket-controller` wrote it.

    from controllers.chat_controller import blueprint as chat

    app.register_blueprint(chat)

Change who may enter, and where messages are kept. Tokens are checked where config/websocket.yaml names a key, see `auth`.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict, deque
from typing import Any

from flask import Blueprint, abort, request
from flask.views import MethodView

from alphavel.websocket import Connection, WebSocket
from alphavel.websocket.auth import AuthenticationError

MAX_TEXT_LENGTH = 1000

blueprint = Blueprint("chat", __name__, url_prefix="/chat")

# The last hundred of each room, in this process. In an application of yours, a table.
_messages: defaultdict[str, deque[dict[str, Any]]] = defaultdict(lambda: deque(maxlen=100))
_numbers = itertools.count(1)


def may_enter(user: Any, room: str) -> bool:
    """Who may read and write in a room: the one place that says so, for HTTP and for WebSockets."""
    return True


def name_of(user: Any) -> str:
    """What the others see."""
    return str(user.claims.get("name", user.id))


class ChatController(MethodView):
    """
    `/chat/rooms/<room>/messages`: GET what was said, POST `{"text": "hi"}`.

    Pages subscribe to `presence-chat.room.<room>`, ask for what was said, and get `new-message` from then on; with the header
    `X-Socket-ID` a page does not get what it has said itself.
    """

    def get(self, room: str) -> dict[str, Any]:
        """What was said, the oldest first."""
        self._enter(room)
        return {"messages": list(_messages[room])}

    def post(self, room: str) -> tuple[dict[str, Any], int]:
        """Say something."""
        user, data = self._enter(room), request.get_json()
        text = data.get("text") if isinstance(data, dict) else None
        if not isinstance(text, str) or not 1 <= len(text.strip()) <= MAX_TEXT_LENGTH:
            abort(400, f"A text has 1 to {MAX_TEXT_LENGTH} characters.")
        author = {"id": user.id, "name": name_of(user)}
        message = {"id": next(_numbers), "user": author, "text": text.strip(), "timestamp": time.time()}
        _messages[room].append(message)
        WebSocket.to_channel(f"presence-chat.room.{room}").to_others().push({"event": "new-message", "data": message})
        return message, 201

    def _enter(self, room: str) -> Any:
        """Return whose request it is, or refuse it."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        try:
            user = WebSocket.verify(token if scheme == "Bearer" else "")
        except AuthenticationError as error:
            abort(401, str(error))
        if not may_enter(user, room):
            abort(403)
        return user


blueprint.add_url_rule("/rooms/<room>/messages", view_func=ChatController.as_view("messages"))


@WebSocket.channel("presence-chat.room.{room}")
def join(user: Any, room: str) -> dict[str, str] | bool:
    """Who is let in, and what the other members are told of them."""
    return {"name": name_of(user)} if may_enter(user, room) else False


@WebSocket.event("typing")
def typing(connection: Connection, data: Any) -> None:
    """`{"event": "typing", "data": {"room": "1"}}`: the others in the room are told, by the name in the token."""
    channel = f"presence-chat.room.{data.get('room')}" if isinstance(data, dict) else ""
    if channel in connection.channels:
        others = WebSocket.to_channel(channel).except_(connection.socket_id)
        others.push({"event": "typing", "data": {"name": name_of(connection.user)}})
