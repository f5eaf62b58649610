"""
What the workers and nodes of a fleet serve while they are measured. Each takes commands on a Unix socket of its own, those of
`commands.py` and a few more, and answers each with a line of JSON.

    ask WHAT          counts: connections and subscribers here, members and subscribers everywhere
    gather N CHANNEL  put N of this worker's connections on a channel
    cost N CHANNEL    publish N messages, one in each turn of the loop; processor time for one, in microseconds
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import socket
import time
from pathlib import Path

import gevent
from flask import Flask

from alphavel.websocket import WebSocket, blueprint, subscriptions
from benchmarks.servers.commands import CHANNEL, EVENT, Publisher

FOLDER = "ALPHAVEL_BENCH_FOLDER"
ROOM = "presence-room"
_MAX_BUFFERED = 65536

app = Flask(__name__)
app.register_blueprint(blueprint)


@WebSocket.channel("presence-{room}")
def room(user, room):
    return True


@WebSocket.on("worker_start")
def obey():
    gc.collect()
    path = Path(os.environ[FOLDER]) / f"{os.getpid()}.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen()
    os.rename(f"{path}.new", path)
    gevent.spawn(_accept, listener)


def _accept(listener):
    publisher = Publisher(lambda data: WebSocket.to_channel(CHANNEL).push({"event": EVENT, "data": data}), _drain, gevent.sleep)
    while True:
        sock, _ = listener.accept()
        gevent.spawn(_obey, sock, publisher)


def _obey(sock, publisher):
    with sock, sock.makefile("rw") as stream:
        for line in stream:
            name, *words = line.split()
            known = {"ask": _ask, "gather": _gather, "cost": _cost}.get(name)
            answer = known(*words) if known else publisher.obey(line)
            stream.write(json.dumps(answer) + "\n")
            stream.flush()


def _drain():
    WebSocket.drain(timeout=1.0)
    deadline = time.monotonic() + 1.0
    while WebSocket.relay.bus.buffered_bytes > _MAX_BUFFERED and time.monotonic() < deadline:
        gevent.sleep(0.001)


def _ask(_what):
    manager = WebSocket.connections
    here = manager.channels.get(CHANNEL)
    return {
        "connections": len(manager.connections),
        "subscribers_here": len(here.subscribers) if here else 0,
        "subscribers": manager.count(CHANNEL),
        "members": len(manager.member_ids(ROOM)),
        "dropped": WebSocket.relay.bus.dropped,
    }


def _gather(count, channel):
    app_ = WebSocket.apps.default
    for connection in list(itertools.islice(app_.connections.connections.values(), int(count))):
        subscriptions.join(app_, connection, channel, None)
    return {"gathered": WebSocket.connections.count(channel)}


def _cost(count, channel):
    began = time.process_time()
    for _ in range(int(count)):
        WebSocket.to_channel(channel).push({"event": EVENT, "data": "x"})
        WebSocket.drain(timeout=1.0)  # it has been written when this returns
    return {"us": (time.process_time() - began) / int(count) * 1e6}
