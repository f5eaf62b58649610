"""`Alphavel(app)`: everything that is installed, set up on a Flask application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alphavel.foundation.container import container
from alphavel.foundation.providers import ServiceProvider, register_all

if TYPE_CHECKING:
    from flask import Flask


class Alphavel:
    """
    A Flask extension that registers and boots every installed provider.

        app = Flask(__name__)
        Alphavel(app)

    Attributes:
        providers: Those that were set up.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self.providers: list[ServiceProvider] = []
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Set up an application; for application factories."""
        self.providers = register_all(container())
        for provider in self.providers:
            provider.boot(app)
        app.extensions["alphavel"] = self
