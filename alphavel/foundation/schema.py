"""
Settings declared once, as frozen dataclasses: their types, defaults, units and bounds.

    @dataclass(frozen=True)
    class Settings:
        port: int = setting(9501, "Port to listen on.", minimum=0, maximum=65535)
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, Union

from alphavel.foundation.errors import ConfigurationError

T = TypeVar("T")

_SIZES = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_DURATIONS = {
    "ms": 0.001, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0,
    "minutes": 60.0, "h": 3600.0, "hour": 3600.0, "hours": 3600.0, "d": 86400.0, "day": 86400.0, "days": 86400.0,
}  # fmt: skip
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")
_KINDS: dict[type, str] = {str: "a text", list: "a list", dict: "settings"}
_TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class EnvironmentText(str):
    """
    A text that came from the environment: it is read as whatever the setting wants.

    Attributes:
        variables: Those it was made of; none where they were not set and a default stands in their place.
    """

    variables: tuple[str, ...] = ()


_KINDS[EnvironmentText] = "a text"


class Setting(NamedTuple):
    """What is known of a setting besides its type and default."""

    doc: str
    unit: str | None
    env: str | None
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    secret: bool


def setting(
    default: Any,
    doc: str,
    *,
    unit: str | None = None,
    env: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    """
    Declare a field of a settings dataclass.

    Args:
        default: Its default; a class or another callable makes one.
        doc: What it is for.
        unit: `bytes` (then "2 MiB" is understood) or `seconds` (then "30s" is).
        env: Environment variable that gives the value where the file does not.
        minimum, maximum: Bounds of a number, both allowed.
        choices: The only texts allowed.
        secret: Never shown, in no error and no `repr`.
    """
    metadata = {"setting": Setting(doc, unit, env, minimum, maximum, choices, secret)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata, repr=not secret)
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


def load_settings(cls: type[T], values: Mapping[str, Any], source: str) -> T:
    """
    Make settings from what a file says; what it does not say comes from the environment, else from the defaults.

    Args:
        cls: A dataclass of `setting` fields; fields may be such dataclasses themselves, `dict[str, …]` of them, or
            `tuple[…, ...]` of them, which a file writes as a list.
        values: The file's mapping.
        source: The file's name, for errors.

    Raises:
        ConfigurationError: An unknown key, a wrong type, a value out of bounds.
    """
    settings: T = _load(cls, values, source, "")
    return settings


def describe(cls: type) -> Iterator[tuple[str, Setting, Any]]:
    """Yield `(dotted key, setting, default)` of all settings, nested ones included."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            for key, nested, default in describe(hints[field.name]):
                yield f"{field.name}.{key}", nested, default
        else:
            yield field.name, field.metadata["setting"], default_of(field)


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a `setting` field."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _load(cls: Any, values: Any, source: str, prefix: str) -> Any:
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        key = prefix.rstrip(".") or None
        raise ConfigurationError(f"expected settings, one `name: value` a line; got {_kind_of(values)}.", source, key)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise ConfigurationError(_unknown(str(key), list(fields)), source, f"{prefix}{key}")
    hints = typing.get_type_hints(cls)
    loaded = {}
    for name, field in fields.items():
        where, declared = prefix + name, field.metadata["setting"]
        if dataclasses.is_dataclass(hints[name]):
            loaded[name] = _load(hints[name], values.get(name), source, f"{where}.")
        elif name in values:
            loaded[name] = _convert(hints[name], values[name], declared, source, where)
        elif declared.env and os.environ.get(declared.env):
            text = EnvironmentText(os.environ[declared.env])
            loaded[name] = _convert(hints[name], text, declared, f"environment variable {declared.env}", where)
    return cls(**loaded)


def _kind_of(value: Any) -> str:
    """Say what stands where settings should, and not show it: there may be secrets in it."""
    return _KINDS.get(type(value), repr(value))


def _unknown(key: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1)
    return f"there is no such setting. {f'Did you mean `{nearest[0]}`?' if nearest else 'There are: ' + ', '.join(known)}"


def _convert(hint: Any, value: Any, declared: Setting, source: str, where: str) -> Any:
    if hint is Any:
        return value
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None or (isinstance(value, EnvironmentText) and not value):
        if type(None) in kinds:
            return None
        if value is not None and typing.get_origin(kinds[0]) is tuple:
            return ()
        raise ConfigurationError(f"expected {_expected(kinds, declared)}; got nothing.", source, where)
    for kind in kinds:
        if typing.get_origin(kind) is dict:
            return _convert_dict(kind, value, declared, source, where)
        if element_of(kind) is not None:
            return _convert_list(kind, value, source, where)
        converted = _as(kind, value, declared.unit)
        if converted is not None:
            _check_bounds(converted, declared, source, where)
            return converted
    shown = f"{_KINDS.get(type(value), 'a value')} that is not shown" if declared.secret else repr(value)
    raise ConfigurationError(f"expected {_expected(kinds, declared)}; got {shown}.", source, where)


def _convert_dict(kind: Any, value: Any, declared: Setting, source: str, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"expected names and their settings; got {_kind_of(value)}.", source, where)
    of = typing.get_args(kind)[1]
    if dataclasses.is_dataclass(of):
        return {str(name): _load(of, given, source, f"{where}.{name}.") for name, given in value.items()}
    if of is Any:
        return {str(name): given for name, given in value.items()}
    return {str(name): _convert(of, given, declared, source, f"{where}.{name}") for name, given in value.items()}


def element_of(hint: Any) -> Any:
    """Return the settings dataclass of which `hint` is a tuple, None where it is something else."""
    arguments = typing.get_args(hint) if typing.get_origin(hint) is tuple else ()
    return arguments[0] if arguments and dataclasses.is_dataclass(arguments[0]) else None


def _convert_list(kind: Any, value: Any, source: str, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigurationError(f"expected a list, each item beginning with `- `; got {_kind_of(value)}.", source, where)
    of = element_of(kind)
    return tuple(_load(of, given, source, f"{where}[{index}].") for index, given in enumerate(value))


def _as(kind: Any, value: Any, unit: str | None) -> Any:
    """Return `value` as a `kind`, None where it is not one."""
    if kind is bool:
        return value if isinstance(value, bool) else _TRUTHS.get(value.lower()) if isinstance(value, EnvironmentText) else None
    if kind in (int, float):
        return _number(kind, value, unit)
    if kind is str:
        return str(value) if isinstance(value, str) else None
    if typing.get_origin(kind) is tuple:
        if isinstance(value, EnvironmentText):
            value = [word.strip() for word in value.split(",") if word.strip()]
        elif isinstance(value, str):
            value = [value]
        return _items(typing.get_args(kind)[0], value, unit) if isinstance(value, (list, tuple)) else None
    return None


def _items(kind: Any, values: Any, unit: str | None) -> tuple[Any, ...] | None:
    items = tuple(_as(kind, value, unit) for value in values)
    return None if None in items else items


def _number(kind: type, value: Any, unit: str | None) -> Any:
    if isinstance(value, str):
        quantity = _QUANTITY.fullmatch(value)
        if quantity and unit in ("bytes", "seconds"):
            factor = (_SIZES if unit == "bytes" else _DURATIONS).get(quantity[2].lower())
            return None if factor is None else _finite(kind, float(quantity[1]) * factor)
        if not isinstance(value, EnvironmentText):
            return None
        try:
            return _finite(kind, kind(value))
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return _finite(kind, value) if kind is float or isinstance(value, int) or value.is_integer() else None


def _finite(kind: type, number: float) -> Any:
    """Return a number as a `kind`, None where it is too large for a float or none at all."""
    try:
        return kind(number) if math.isfinite(number) else None
    except OverflowError:
        return None


def _check_bounds(value: Any, declared: Setting, source: str, where: str) -> None:
    if declared.choices and value not in declared.choices:
        raise ConfigurationError(f"expected one of {', '.join(declared.choices)}; got {value!r}.", source, where)
    low, high = declared.minimum, declared.maximum
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    # `not >=` and not `<`: a NaN is out of every bound.
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        sides = (("at least", low), ("at most", high))
        bounds = " and ".join(f"{word} {_figure(bound)}" for word, bound in sides if bound is not None)
        unit = f" {declared.unit}" if declared.unit else ""
        raise ConfigurationError(f"expected {bounds}{unit}; got {_figure(value)}.", source, where)


def _figure(number: float) -> str:
    return f"{int(number):,}" if float(number).is_integer() else f"{number:g}"


def _expected(kinds: tuple[Any, ...], declared: Setting) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    plurals = {int: "a list of whole numbers", float: "a list of numbers"}
    words = [
        names.get(kind) or plurals.get((*typing.get_args(kind), str)[0], "a list of texts")
        for kind in kinds
        if kind is not type(None)
    ]
    if declared.unit in ("bytes", "seconds"):
        words[-1] += f" of {declared.unit} (or {'`2 MiB`' if declared.unit == 'bytes' else '`30s`'})"
    if type(None) in kinds:
        words.append("null")
    return " or ".join(words)
