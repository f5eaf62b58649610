"""picows: a loop over its transports. `python -m benchmarks.peers.picows_server PORT [uvloop]`"""

from __future__ import annotations

import asyncio
import sys

from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from benchmarks.peers.asyncio_commands import obey
from benchmarks.servers.commands import message

subscribers: set[WSTransport] = set()


class Subscriber(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        subscribers.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        subscribers.discard(transport)


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        transport.send(frame.msg_type, frame.get_payload_as_bytes())


def listener_for(request: WSUpgradeRequest) -> WSListener:
    return Echo() if request.path == b"/echo" else Subscriber()


def publish(data: str) -> None:
    payload = message(data).encode()
    for transport in subscribers:
        transport.send(WSMsgType.TEXT, payload)


async def main() -> None:
    await ws_create_server(listener_for, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await obey(publish, lambda: (transport.underlying_transport.get_write_buffer_size() for transport in subscribers))


if __name__ == "__main__":
    if "uvloop" in sys.argv:
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
