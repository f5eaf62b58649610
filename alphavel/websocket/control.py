"""What a running server answers to commands, and to its siblings: see `foundation.control`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphavel.foundation.control import Handler
    from alphavel.websocket.server import WebSocketServer


def commands(server: WebSocketServer) -> dict[str, Handler]:
    """Return the functions that answer, by command."""

    def metrics() -> list[Any]:
        from alphavel.websocket.metrics.fleet import of_worker

        return [os.getpid(), [family.as_json() for family in of_worker(server)]]

    return {"stats": server.get_stats, "metrics": metrics}
