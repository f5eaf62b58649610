"""Finding the application that is served along: `MODULE:APP`, as gunicorn and Flask write it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import click

_FACTORIES = ("create_app", "make_app")  # what Flask takes for factories, too


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
    if "/" in module_name or module_name.endswith(".py") or not all(module_name.split(".")):
        raise click.BadParameter(f"Expected MODULE:APP, such as shop:app for shop.py; got {target!r}.", param_hint="--app")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise  # the module is there; something it imports is not
        raise click.BadParameter(f"There is no module {module_name!r} here.", param_hint="--app") from error
    factory, parenthesis, arguments = name.partition("(")
    application = getattr(module, factory, None)
    if parenthesis and callable(application):
        if arguments != ")":
            raise click.BadParameter(f"A factory is called without arguments, {factory}(); got {name!r}.", param_hint="--app")
        application = application()
    if not callable(application):
        raise click.BadParameter(f"The module {module_name!r} has no application {name!r}.", param_hint="--app")
    if not parenthesis and _is_factory(application):
        text = f"{name!r} is no application. If it makes one, write {module_name}:{name}()."
        raise click.BadParameter(text, param_hint="--app")
    return application  # type: ignore[no-any-return]


def _is_factory(function: Callable[..., Any]) -> bool:
    """Whether it is a function that cannot be meant to be called with an environ and `start_response`."""
    if not inspect.isfunction(function):
        return False
    if function.__name__ in _FACTORIES:
        return True
    try:
        inspect.signature(function).bind({}, None)
    except TypeError:
        return True
    return False


def _bare_application() -> Callable[..., Any]:
    from flask import Flask

    from alphavel.foundation import Alphavel

    app = Flask("alphavel.websocket", static_folder=None)
    Alphavel(app)
    return app
