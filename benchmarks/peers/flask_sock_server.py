"""flask-sock on gevent's server: a loop over the sockets. `python -m benchmarks.peers.flask_sock_server PORT`"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

import gevent  # noqa: E402
from flask import Flask  # noqa: E402
from flask_sock import Sock  # noqa: E402
from gevent.fileobject import FileObject  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402

from benchmarks.servers.commands import Publisher, message  # noqa: E402

app = Flask(__name__)
sock = Sock(app)
subscribers = set()


@sock.route("/")
def subscribe(ws) -> None:
    subscribers.add(ws)
    try:
        while True:
            ws.receive()
    finally:
        subscribers.discard(ws)


@sock.route("/echo")
def echo(ws) -> None:
    while True:
        ws.send(ws.receive())


def publish(data: str) -> None:
    text = message(data)
    for ws in list(subscribers):
        ws.send(text)


if __name__ == "__main__":
    WSGIServer(("127.0.0.1", int(sys.argv[1])), app, log=None, backlog=4096).start()
    Publisher(publish, lambda: gevent.sleep(0), gevent.sleep).serve(
        line.decode() for line in FileObject(sys.stdin.buffer, "rb")
    )
