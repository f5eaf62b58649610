"""What Alphavel is told of this package. Importing it is cheap: it happens in every `alpha` command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alphavel.foundation import Container, ServiceProvider
from alphavel_maintenance import Maintenance

if TYPE_CHECKING:
    from flask import Flask


class MaintenanceProvider(ServiceProvider):
    """Binds `maintenance`, closes the application, brings two commands and a configuration file."""

    name = "maintenance"
    package = "alphavel_maintenance"

    def register(self, container: Container) -> None:
        """Bind a factory: nothing is made, and Flask not imported, before somebody asks for it."""
        container.bind("maintenance", _make)

    def boot(self, app: Flask) -> None:
        """`Alphavel(app)` calls this."""
        app.before_request(Maintenance.answer)  # a wrong configuration stops the start

    def commands(self) -> Iterable[click.Command]:
        """`maintenance:down` and `maintenance:up`."""
        return (down, up)

    def publishes(self) -> Mapping[str, Iterable[tuple[Path, str]]]:
        """The configuration file with all settings, documented."""
        return {"maintenance-config": [(Path(__file__).parent / "config/maintenance.yaml", "config/maintenance.yaml")]}


def _make(_: Container) -> object:
    from alphavel.foundation.config import Config
    from alphavel_maintenance.maintenance import Maintenance
    from alphavel_maintenance.settings import MaintenanceSettings

    return Maintenance(Config().settings("maintenance", MaintenanceSettings))


@click.command("maintenance:down")
def down() -> None:
    """Close the application: every request is answered with 503."""
    Maintenance.down()
    click.echo("The application is closed. alpha maintenance:up opens it again.")


@click.command("maintenance:up")
def up() -> None:
    """Open the application again."""
    Maintenance.up()
    click.echo("The application is open.")
