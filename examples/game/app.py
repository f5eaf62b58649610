"""A small game: everybody runs after one coin. The server alone knows where everything is; pages send keys and draw."""

from __future__ import annotations

import itertools
import random
from dataclasses import asdict, dataclass
from typing import Any

from flask import Flask, Response, send_file

from alphavel.websocket import Connection, WebSocket, blueprint

SIZE = 16
STEPS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}

app = Flask(__name__)
app.register_blueprint(blueprint)


@dataclass
class Player:
    """A square of one colour."""

    id: str
    hue: int
    x: int = 0
    y: int = 0
    score: int = 0


players: dict[str, Player] = {}
coin = [SIZE // 2, SIZE // 2]
hues = itertools.count(20, 137)  # the golden angle: neighbours never look alike


@app.get("/")
def page() -> Response:
    return send_file("index.html")


@WebSocket.on("open")
def enter(connection: Connection) -> None:
    players[connection.socket_id] = Player(connection.socket_id, next(hues) % 360)


@WebSocket.on("close")
def leave(connection: Connection) -> None:
    players.pop(connection.socket_id, None)


@WebSocket.event("move")
def move(connection: Connection, data: Any) -> None:
    """`{"event": "move", "data": "ArrowLeft"}`: one step. Nobody can send where to be, so nobody can cheat."""
    player, step = players.get(connection.socket_id), STEPS.get(data) if isinstance(data, str) else None
    if player is None or step is None:
        return
    player.x, player.y = (player.x + step[0]) % SIZE, (player.y + step[1]) % SIZE
    if [player.x, player.y] == coin:
        player.score += 1
        coin[:] = random.randrange(SIZE), random.randrange(SIZE)


@WebSocket.every(0.05)
def show() -> None:
    """Twenty pictures a second: one push each, however many steps were made and however many look."""
    board = {"size": SIZE, "coin": coin, "players": [asdict(player) for player in players.values()]}
    WebSocket.to_channel("game").push({"event": "board", "data": board})
