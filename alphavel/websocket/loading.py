"""Finding the application that is served along: `MODULE:APP`, as gunicorn and Flask write it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import click


def load_application(target: str | None) -> Callable[..., Any]:
    """
    Import an application.

    Args:
        target: `shop:app`, `shop.web:create_app()`, or `shop` for `shop:app`. None: an application with Alphavel's own pages.

    Raises:
        click.BadParameter: There is no such module or name, or it is no WSGI application.
    """
    if target is None:
        return _bare_application()
    module_name, _, name = target.partition(":")
    name = name or "app"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise  # the module is there; something it imports is not
        raise click.BadParameter(f"There is no module {module_name!r} here.", param_hint="--app") from error
    factory = name.endswith("()")
    application = getattr(module, name.removesuffix("()"), None)
    if factory and callable(application):
        application = application()
    if not callable(application):
        raise click.BadParameter(f"The module {module_name!r} has no application {name!r}.", param_hint="--app")
    return application  # type: ignore[no-any-return]


def _bare_application() -> Callable[..., Any]:
    from flask import Flask

    from alphavel.foundation import Alphavel

    app = Flask("alphavel.websocket", static_folder=None)
    Alphavel(app)
    return app
