"""What the foundation needs to know of this package. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphavel.foundation import ServiceProvider

if TYPE_CHECKING:
    import click
    from flask import Flask

    from alphavel.foundation.container import Container
    from alphavel.websocket.server import WebSocketServer


class WebSocketProvider(ServiceProvider):
    """Binds `websocket`, registers the blueprint, brings the `websocket:` commands and the configuration file."""

    name = "websocket"
    package = "alphavel.websocket"
    requires = ("gevent", "flask", "jwt", "orjson", "psutil")

    def register(self, container: Container) -> None:
        """Bind the server: made from `config/websocket.yaml` when it is first used."""
        container.bind("websocket", make_server)

    def boot(self, app: Flask) -> None:
        """Register the blueprint, unless the application has done so."""
        from alphavel.websocket.http.blueprint import blueprint

        if blueprint.name not in app.blueprints:
            app.register_blueprint(blueprint)

    def commands(self) -> Iterable[click.Command]:
        """`websocket:serve` and `websocket:stats`."""
        from alphavel.websocket.console import serve, stats

        return (serve, stats)

    def publishes(self) -> Mapping[str, Iterable[tuple[Path, str]]]:
        """The configuration files with all settings, documented."""
        folder = Path(__file__).parent / "config"
        return {
            "websocket-config": [
                (folder / "websocket.yaml", "config/websocket.yaml"),
                (folder / "gunicorn.conf.py", "config/gunicorn.conf.py"),
            ]
        }


def make_server(*_: Any) -> WebSocketServer:
    """
    Make a server from the configuration.

    Raises:
        ConfigurationError: The configuration is wrong.
    """
    from alphavel.foundation.config import Config
    from alphavel.websocket.server import WebSocketServer
    from alphavel.websocket.settings import WebSocketSettings

    return WebSocketServer(Config().settings("websocket", WebSocketSettings))
