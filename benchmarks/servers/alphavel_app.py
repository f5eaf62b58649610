"""What Alphavel serves while it is measured: `alpha websocket:serve --app benchmarks.servers.alphavel_app:app`."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator

import gevent
from flask import Flask
from gevent.fileobject import FileObject

from alphavel.websocket import WebSocket, blueprint
from benchmarks.servers.commands import CHANNEL, EVENT, Publisher, say
from benchmarks.servers.heap import heap

app = Flask(__name__)
app.register_blueprint(blueprint)


@app.get("/plain")
def plain() -> str:
    return "ok"


@WebSocket.route("/echo", auth=False)
def echo(connection, message):
    connection.send(message)


@WebSocket.channel("room.{number}")
def room(user, number):
    return True


def _drain() -> None:
    WebSocket.drain(timeout=1.0)  # some clients read nothing on purpose


def _commands() -> Iterator[str]:
    for line in FileObject(sys.stdin.buffer, "rb"):
        if line.strip() == b"heap":  # of this server alone
            say(heap())
        else:
            yield line.decode()


@WebSocket.on("worker_start")
def obey():
    gc.collect()
    publisher = Publisher(lambda data: WebSocket.to_channel(CHANNEL).push({"event": EVENT, "data": data}), _drain, gevent.sleep)
    publisher.serve(_commands())
    os.kill(os.getpid(), signal.SIGTERM)  # nobody is left to measure it
