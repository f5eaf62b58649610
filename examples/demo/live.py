"""The realtime part: one room, what is said in it, who types, and the dashboard's figures once a second."""

from __future__ import annotations

import itertools
import secrets
import time
from collections import deque
from typing import Any

from alphavel.websocket import Connection, WebSocket
from examples.demo.figures import Figures
from examples.demo.identity import Person

ROOM = "presence-lobby"
DASHBOARD = "dashboard"
MAX_TEXT_LENGTH = 1000

# What a newcomer is shown of the past. In memory: a restart begins anew.
messages: deque[dict[str, Any]] = deque(maxlen=100)
samples: deque[dict[str, Any]] = deque(maxlen=61)

_start = secrets.token_hex(4)  # ids of messages are not used again after a restart
_numbers = itertools.count(1)
_figures = Figures()


@WebSocket.channel(ROOM)
def may_enter(user: Any) -> dict[str, str]:
    """Anybody with a name may; the others are told the name."""
    return {"name": user.claims["name"]}


@WebSocket.event("say")
def say(connection: Connection, data: Any) -> None:
    """Somebody says something in the room: `{"text": …, "ref": …}`, the reference of the page that waits for it."""
    text, ref = (data.get("text"), data.get("ref")) if isinstance(data, dict) else (None, None)
    if not isinstance(ref, str) or len(ref) > 64:
        return
    problem = problem_with(text) or (None if ROOM in connection.channels else "Enter the room first.")
    if problem:
        connection.send({"event": "refused", "data": {"ref": ref, "reason": problem}})
        return
    author = _author(connection)
    message = {"id": f"{_start}-{next(_numbers)}", "from": author, "text": text.strip(), "at": time.time(), "ref": ref}
    messages.append(message)
    WebSocket.to_channel(ROOM).push({"event": "message", "data": message})


@WebSocket.event("typing")
def typing(connection: Connection) -> None:
    """Somebody types: the others are told, by the name in the token rather than by one the page might make up."""
    if ROOM in connection.channels:
        others = WebSocket.to_channel(ROOM).except_(connection.socket_id)
        others.push({"event": "typing", "data": {"from": _author(connection)}})


@WebSocket.every(1.0)
def publish_figures() -> None:
    """Everybody who looks at the dashboard gets the figures of this second."""
    sample = _figures.sample(WebSocket.get_stats())
    samples.append(sample)
    WebSocket.to_channel(DASHBOARD).push({"event": "figures", "data": sample})


def send_note(sender: Person, to: str, text: str) -> int:
    """
    Send a private note to one person, on whatever pages that person has open.

    Returns:
        How many pages it was sent to; 0 where the person is not here.
    """
    note = {"from": sender._asdict(), "text": text.strip(), "at": time.time()}
    return WebSocket.to_user(to).push({"event": "note", "data": note})


def problem_with(text: Any) -> str | None:
    """Say what is wrong with a text somebody wrote, or return None."""
    if not isinstance(text, str) or not text.strip():
        return "Write something first."
    if len(text) > MAX_TEXT_LENGTH:
        return f"At most {MAX_TEXT_LENGTH} characters, please."
    return None


def _author(connection: Connection) -> dict[str, str]:
    assert connection.user is not None  # without a token nobody is let in
    return {"id": connection.user.id, "name": connection.user.claims["name"]}
