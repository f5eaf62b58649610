"""What the foundation needs to know of this package. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphavel.foundation import ServiceProvider

if TYPE_CHECKING:
    import click
    from flask import Flask

    from alphavel.circuit_breaker.manager import CircuitBreakerManager
    from alphavel.foundation.checks import Check
    from alphavel.foundation.circuits import Circuits
    from alphavel.foundation.container import Container
    from alphavel.foundation.metrics import Family


class CircuitBreakerProvider(ServiceProvider):
    """Binds `circuit_breaker`, registers the blueprint, brings the `circuit-breaker:` commands and files to publish."""

    name = "circuit-breaker"
    package = "alphavel.circuit_breaker"

    def register(self, container: Container) -> None:
        """Bind the manager: made from `config/circuit_breaker.yaml` when it is first used."""
        container.bind("circuit_breaker", make_manager)
        container.bind("circuits", _reach)

    def boot(self, app: Flask) -> None:
        """Register the blueprint, unless the application has done so."""
        from alphavel.circuit_breaker.integrations.flask import blueprint

        if blueprint.name not in app.blueprints:
            app.register_blueprint(blueprint)

    def commands(self) -> Iterable[click.Command]:
        """`circuit-breaker:stats`, `:reset`, `:open`, `:close`, `:isolate` and `:disable`."""
        from alphavel.circuit_breaker.console import COMMANDS

        return COMMANDS

    def checks(self) -> Iterable[Check]:
        """The configuration, and whether the store can be used."""
        from alphavel.circuit_breaker.doctor import checks

        return checks()

    def metrics(self, container: Container) -> Iterable[Family]:
        """States and counts of the circuits, where anything in this process has used one."""
        manager = container.made("circuit_breaker")
        if manager is None or not manager.settings.metrics.enabled:
            return ()
        from alphavel.circuit_breaker.metrics import families

        return families(manager)

    def publishes(self) -> Mapping[str, Iterable[tuple[Path, str]]]:
        """The configuration file with all settings, documented, and a service to begin with."""
        folder = Path(__file__).parent
        return {
            "circuit-breaker-config": [(folder / "config" / "circuit_breaker.yaml", "config/circuit_breaker.yaml")],
            "circuit-breaker-service": [(folder / "templates" / "payment_service.py", "services/payment_service.py")],
        }


def _reach(container: Container) -> Circuits:
    from alphavel.circuit_breaker.reaching import circuits_around

    return circuits_around(container)


def make_manager(*_: Any) -> CircuitBreakerManager:
    """
    Make a manager from the configuration, and have this process answer `alpha circuit-breaker:…` where circuits are in memory.

    Raises:
        ConfigurationError: The configuration is wrong.
        StoreError: The configured store cannot be used.
    """
    manager = manager_of_configuration()
    if manager.store.name == "memory" and manager.settings.control.enabled:
        from alphavel.circuit_breaker.control import Control

        Control(manager).start()
    return manager


def manager_of_configuration() -> CircuitBreakerManager:
    """Make a manager that answers no commands; see `make_manager`."""
    from alphavel.circuit_breaker.manager import CircuitBreakerManager
    from alphavel.circuit_breaker.settings import CircuitBreakerSettings
    from alphavel.foundation.config import Config

    config = Config()
    source = str(config.folder / "circuit_breaker.yaml")
    settings = config.settings("circuit_breaker", CircuitBreakerSettings)
    if settings.tracing.enabled:
        from alphavel.circuit_breaker.tracing import TracedManager

        return TracedManager(settings, source=source)
    return CircuitBreakerManager(settings, source=source)
