"""Flask-SocketIO on gevent: `emit` to everybody. `python -m benchmarks.peers.flask_socketio_server PORT`"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

import gevent  # noqa: E402
from flask import Flask  # noqa: E402
from flask_socketio import SocketIO  # noqa: E402
from gevent.fileobject import FileObject  # noqa: E402

from benchmarks.servers.commands import EVENT, Publisher  # noqa: E402

app = Flask(__name__)
socketio = SocketIO(app, async_mode="gevent")

# 64 bytes on the wire, like all others: 42["m","…"]
_SIZE = 64 - len(f'42["{EVENT}",""]')


@app.get("/plain")
def plain() -> str:
    return "ok"


@socketio.on("connect")
def connected() -> None:
    """Accept: without a handler python-socketio does so too, but says so in its log."""


if __name__ == "__main__":
    publisher = Publisher(lambda data: socketio.emit(EVENT, data.ljust(_SIZE)), lambda: gevent.sleep(0), gevent.sleep)
    gevent.spawn(lambda: publisher.serve(line.decode() for line in FileObject(sys.stdin.buffer, "rb")))
    socketio.run(app, host="127.0.0.1", port=int(sys.argv[1]))
