"""Which settings differ from their defaults, and who said so: a file, a variable of the environment, the command line."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from alphavel.foundation.schema import EnvironmentText, Setting, default_of, element_of


class Said(NamedTuple):
    """
    A setting that differs from its default.

    Attributes:
        key: Dotted.
        shown: Its value for people; `***` for a secret.
        origin: Who said so.
    """

    key: str
    shown: str
    origin: str


def origins(settings: Any, values: Any, source: str, prefix: str = "") -> Iterator[Said]:
    """
    Yield what differs from the defaults, in the order in which the settings are declared.

    Args:
        settings: A settings dataclass as it holds now.
        values: What the file says, see `config.parse`.
        source: The file's name.
        prefix: Of the keys.
    """
    values = values if isinstance(values, Mapping) else {}
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, declared = getattr(settings, field.name), field.metadata["setting"]
        if dataclasses.is_dataclass(hints[field.name]):
            yield from origins(value, values.get(field.name), source, f"{prefix}{field.name}.")
        elif value != default_of(field):
            yield Said(
                prefix + field.name, _shown(hints[field.name], value, declared), _origin(field.name, values, declared, source)
            )


def _origin(name: str, values: Mapping[str, Any], declared: Setting, source: str) -> str:
    given = values.get(name)
    if isinstance(given, EnvironmentText) and given.variables:
        return f"environment variable {', '.join(given.variables)}"
    if name in values:
        return source
    if declared.env and os.environ.get(declared.env):
        return f"environment variable {declared.env}"
    return "command line"


def _shown(hint: Any, value: Any, declared: Setting) -> str:
    if declared.secret and value is not None:
        return "***"
    if element_of(hint) is not None or isinstance(value, Mapping):  # there may be secrets in them
        return f"{len(value)} configured"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)
