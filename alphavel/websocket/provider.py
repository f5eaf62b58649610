"""What the foundation needs to know of this package. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from alphavel.foundation import ServiceProvider

if TYPE_CHECKING:
    import click
    from flask import Flask

    from alphavel.foundation.checks import Check
    from alphavel.foundation.container import Container


class WebSocketProvider(ServiceProvider):
    """Binds `websocket`, registers the blueprint, brings the `websocket:` commands and files to publish."""

    name = "websocket"
    package = "alphavel.websocket"
    requires = ("orjson",)  # what a process needs that only sends; a server needs more, see `factory`

    def register(self, container: Container) -> None:
        """Bind the server, or what sends to one: made from `config/websocket.yaml` when it is first used."""
        from alphavel.websocket.factory import make

        container.bind("websocket", make)

    def boot(self, app: Flask) -> None:
        """Register the blueprint, unless the application has done so."""
        from alphavel.websocket.http.blueprint import blueprint

        if blueprint.name not in app.blueprints:
            app.register_blueprint(blueprint)

    def commands(self) -> Iterable[click.Command]:
        """`websocket:serve`, `websocket:reload`, `websocket:stats` and `websocket:bench`."""
        from alphavel.websocket.bench.command import bench
        from alphavel.websocket.console import reload, serve, stats

        return (serve, reload, stats, bench)

    def checks(self) -> Iterable[Check]:
        """Configuration, keys, limits, the port, Redis, certificates and the C extension."""
        from alphavel.websocket.doctor import checks

        return checks()

    def publishes(self) -> Mapping[str, Iterable[tuple[Path, str]]]:
        """The configuration files with all settings, documented, and a controller to begin with."""
        folder = Path(__file__).parent
        return {
            "websocket-config": [
                (folder / "config/websocket.yaml", "config/websocket.yaml"),
                (folder / "config/gunicorn.conf.py", "config/gunicorn.conf.py"),
            ],
            "websocket-controller": [(folder / "templates/chat_controller.py", "controllers/chat_controller.py")],
        }
