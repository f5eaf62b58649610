"""socketify: `publish` to a topic. `python -m benchmarks.peers.socketify_server PORT`"""

from __future__ import annotations

import sys

from socketify import App, OpCode

from benchmarks.peers.asyncio_commands import obey
from benchmarks.servers.commands import CHANNEL, message

app = App()


def echo(ws, text, opcode) -> None:
    ws.send(text, opcode)


app.ws("/echo", {"compression": 0, "message": echo, "idle_timeout": 0})
app.ws(
    "/",
    {
        "compression": 0,
        "idle_timeout": 0,
        "max_backpressure": 64 * 1024 * 1024,
        "open": lambda ws: ws.subscribe(CHANNEL),
    },
)


def publish(data: str) -> None:
    app.publish(CHANNEL, message(data), OpCode.TEXT)


if __name__ == "__main__":
    app.listen({"port": int(sys.argv[1]), "host": "127.0.0.1"}, lambda config: app.run_async(obey(publish, lambda: ())))
    app.run()
