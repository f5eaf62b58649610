"""`WebSocket`: the server of this process, found when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alphavel.foundation import facade

if TYPE_CHECKING:
    from alphavel.websocket.server import WebSocketServer

WebSocket: WebSocketServer = facade("websocket", hint='Install it with `pip install "alphavel[websocket]"`.')
