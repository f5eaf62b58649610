"""
Service providers: how a package tells the foundation what it brings. Found by the entry-point group
`alphavel.providers`, whoever wrote them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click
    from flask import Flask

    from alphavel.foundation.checks import Check
    from alphavel.foundation.container import Container
    from alphavel.foundation.metrics import Family

GROUP = "alphavel.providers"


class ProviderWarning(UserWarning):
    """A provider is installed and cannot be used."""


class ServiceProvider:
    """
    Base of all providers. Importing one must be cheap: it happens in every `alpha` command.

    Attributes:
        name: Short name, also the prefix of its commands.
        package: The package it stands for.
        requires: Modules without which the package cannot be used.
    """

    name = ""
    package = ""
    requires: tuple[str, ...] = ()

    def register(self, container: Container) -> None:
        """Bind what the package offers. Bind factories: nothing is to be made yet."""

    def boot(self, app: Flask) -> None:
        """Set up the Flask application: blueprints, extensions. Called after all providers have registered."""

    def commands(self) -> Iterable[click.Command]:
        """Commands of `alpha`."""
        return ()

    def publishes(self) -> Mapping[str, Iterable[tuple[Path, str]]]:
        """Files that `alpha vendor:publish --tag=TAG` writes: `{tag: [(source, target)]}`, targets relative."""
        return {}

    def checks(self) -> Iterable[Check]:
        """What `alpha doctor` is to look at."""
        return ()

    def metrics(self, container: Container) -> Iterable[Family]:
        """What the package counts and measures in this process. Asked at every scrape: cheap, and nothing is made for it."""
        return ()

    def missing(self) -> list[str]:
        """Modules of `requires` that are not installed."""
        return [module for module in self.requires if not _is_installed(module)]


def discover() -> list[ServiceProvider]:
    """Return the providers of all installed packages, by name. One that cannot be loaded is left out with a warning."""
    found: dict[str, ServiceProvider] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            provider = _load(entry)
        except Exception as error:  # noqa: BLE001 (somebody else's code)
            warnings.warn(
                f"The provider {entry.name!r} ({entry.value}) cannot be loaded: {error}", ProviderWarning, stacklevel=2
            )
        else:
            found[entry.name] = provider
    return [found[name] for name in sorted(found)]


def _load(entry: importlib.metadata.EntryPoint) -> ServiceProvider:
    provider = entry.load()()
    if not isinstance(provider, ServiceProvider):
        raise TypeError(f"expected a subclass of ServiceProvider, got {type(provider).__name__}")
    if not provider.name or not provider.package:
        raise TypeError(f"{type(provider).__name__} must say its name and its package")
    return provider


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # the package that a submodule would be in is not there either
        return False


def usable() -> list[ServiceProvider]:
    """Return the discovered providers whose requirements are installed."""
    return [provider for provider in discover() if not provider.missing()]


def register_all(container: Container) -> list[ServiceProvider]:
    """Have all usable providers bind what they offer, unless the name is bound already; return them."""
    providers = usable()
    for provider in providers:
        if not container.bound(provider.name.replace("-", "_")):
            provider.register(container)
    return providers
