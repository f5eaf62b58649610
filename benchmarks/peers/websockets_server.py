"""websockets: its `broadcast()`. `python -m benchmarks.peers.websockets_server PORT [uvloop]`"""

from __future__ import annotations

import asyncio
import sys

from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.peers.asyncio_commands import obey
from benchmarks.servers.commands import message

subscribers: set[ServerConnection] = set()


async def handle(connection: ServerConnection) -> None:
    if connection.request is not None and connection.request.path == "/echo":
        async for text in connection:
            await connection.send(text)
        return
    subscribers.add(connection)
    try:
        await connection.wait_closed()
    finally:
        subscribers.discard(connection)


async def main() -> None:
    # Its documentation advises to switch compression off where memory or speed count.
    async with serve(handle, "127.0.0.1", int(sys.argv[1]), compression=None, backlog=4096):
        await obey(
            lambda data: broadcast(subscribers, message(data)),
            lambda: (connection.transport.get_write_buffer_size() for connection in subscribers),
        )


if __name__ == "__main__":
    if "uvloop" in sys.argv:
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
