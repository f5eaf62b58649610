"""The echo server that the Autobahn suite tests: a raw route with compression, over the transport named on the command line."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from alphavel.websocket import WebSocketServer  # noqa: E402
from alphavel.websocket.serve import Service  # noqa: E402
from alphavel.websocket.settings import (  # noqa: E402
    AuthSettings,
    CompressionSettings,
    OptionsSettings,
    WebSocketSettings,
)
from alphavel.websocket.upgrade import WebSocketHandler  # noqa: E402

MIB = 2**20


class GreenletHandler(WebSocketHandler):
    """Serves each WebSocket in a greenlet."""

    parked = False


def main(transport: str) -> None:
    """Serve on any free port, which is the first line of the output."""
    options = OptionsSettings(
        max_connections=1000,
        max_message_size=64 * MIB,
        max_outbox=256 * MIB,
        max_messages_per_second=None,
        compression=CompressionSettings(
            enabled=True, threshold=0, context_takeover=True, server_max_window_bits=15, client_max_window_bits=15
        ),
    )
    server = WebSocketServer(WebSocketSettings(host="127.0.0.1", port=0, options=options, auth=AuthSettings(enabled=False)))

    @server.route("/echo", auth=False)
    def echo(connection, message):
        connection.send(message)

    handler = WebSocketHandler if transport == "parked" else GreenletHandler
    service = Service(server, lambda environ, start_response: [], handler_class=handler)
    service.start()
    service.run(ready=lambda: print(service.port, flush=True), release=lambda: None)


if __name__ == "__main__":
    main(sys.argv[1])
