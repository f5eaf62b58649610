"""What `WebSocket` is in this process: a server, or a sender. Imports nothing heavy, and nothing that gevent patches."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from alphavel.foundation import ConfigurationError

if TYPE_CHECKING:
    from alphavel.foundation.container import Container
    from alphavel.websocket.senders import Sender
    from alphavel.websocket.server import WebSocketServer
    from alphavel.websocket.settings import WebSocketSettings

_SERVER_NEEDS = ("gevent", "flask", "jwt", "psutil")


def make(*_: Any) -> WebSocketServer | Sender:
    """
    Make what the facade resolves to: the server, or a sender where this process only sends. Without gevent's patches no
    server can ever run in it.

    Raises:
        ConfigurationError: The configuration is wrong, or something is not installed that it needs.
    """
    from alphavel.foundation.config import Config
    from alphavel.websocket.settings import WebSocketSettings

    config = Config()
    settings = config.settings("websocket", WebSocketSettings)
    driver = settings.broadcasting.driver
    with config.naming("websocket"):
        if driver == "http" or (driver == "redis" and not _is_patched()):
            from alphavel.websocket.senders import Sender

            return Sender(settings)
        return _make_server(settings)


def serving(container: Container) -> WebSocketServer:
    """
    Return the server for a process that is about to serve.

    Raises:
        ConfigurationError: The configuration is that of a process that only sends, or something is not installed.
    """
    bound = container.make("websocket")
    if not bound.sends_only:
        server: WebSocketServer = bound
        return server
    # The application was imported, and used the facade, before gevent patched the process (gunicorn's preload_app).
    server = _make_server(bound.settings)
    server.take_over(bound)
    container.instance("websocket", server)
    return server


def check_installed() -> None:
    """
    Check that a server could run here.

    Raises:
        ConfigurationError: Something is not installed.
    """
    missing = [module for module in _SERVER_NEEDS if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigurationError(
            f'The WebSocket server needs {", ".join(missing)}: pip install "alphavel[websocket]". A process that only sends '
            "does not: set broadcasting.driver to http or redis."
        )


def _make_server(settings: WebSocketSettings) -> WebSocketServer:
    check_installed()
    from alphavel.websocket.server import WebSocketServer

    return WebSocketServer(settings)


def _is_patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")  # asked only where it is loaded: a sender need not have it
    return monkey is not None and bool(monkey.is_module_patched("socket"))
