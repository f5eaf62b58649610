"""
gevent-websocket, used as everybody does: a list of sockets and a loop over them.

`python -m benchmarks.servers.gevent_websocket PORT`
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

import gevent  # noqa: E402
from flask import Flask  # noqa: E402
from gevent.fileobject import FileObject  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402
from geventwebsocket.handler import WebSocketHandler  # noqa: E402

from benchmarks.servers.commands import Publisher, message  # noqa: E402

flask = Flask(__name__)
clients = set()


@flask.get("/plain")
def plain() -> str:
    return "ok"


def application(environ, start_response):
    ws = environ.get("wsgi.websocket")
    if ws is None:
        return flask(environ, start_response)
    if environ["PATH_INFO"] == "/echo":
        while (text := ws.receive()) is not None:
            ws.send(text)
        return []
    clients.add(ws)
    try:
        while ws.receive() is not None:
            pass
    finally:
        clients.discard(ws)
    return []


def publish(data: str) -> None:
    text = message(data)
    for ws in list(clients):
        ws.send(text)


if __name__ == "__main__":
    server = WSGIServer(("127.0.0.1", int(sys.argv[1])), application, handler_class=WebSocketHandler, log=None, backlog=4096)
    server.start()
    Publisher(publish, lambda: gevent.sleep(0), gevent.sleep).serve(
        line.decode() for line in FileObject(sys.stdin.buffer, "rb")
    )
