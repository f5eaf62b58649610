"""
Realtime broadcasting for Flask on gevent: public, private and presence channels, JWT, a Laravel-like API.

    from alphavel.websocket import WebSocket, blueprint

    app.register_blueprint(blueprint)
    WebSocket.to_channel("chat.room.1").push({"event": "new-message", "data": {"text": "hi"}})

Importing this package imports neither gevent nor Flask: what is not used costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphavel.websocket.broadcasting import Broadcast
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.errors import BroadcastError, NotRunningError
    from alphavel.websocket.facade import WebSocket
    from alphavel.websocket.http.blueprint import blueprint
    from alphavel.websocket.server import WebSocketServer
    from alphavel.websocket.settings import WebSocketSettings

__version__ = "1.0.0"

_HOMES = {
    "Broadcast": "broadcasting",
    "BroadcastError": "errors",
    "Connection": "connections",
    "NotRunningError": "errors",
    "WebSocket": "facade",
    "WebSocketServer": "server",
    "WebSocketSettings": "settings",
    "blueprint": "http.blueprint",
}

__all__ = [
    "Broadcast",
    "BroadcastError",
    "Connection",
    "NotRunningError",
    "WebSocket",
    "WebSocketServer",
    "WebSocketSettings",
    "__version__",
    "blueprint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__name__):
            raise
        raise ImportError(
            f'{name} needs {error.name}, which is not installed. Install what it needs: pip install "alphavel[websocket]"'
        ) from error
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
