"""
Writes a configuration file that shows every setting with its default: `python -m alphavel.foundation.example CLASS`.

The files that packages publish are made with this, so that they cannot say anything else than the code.
"""

from __future__ import annotations

import dataclasses
import sys
import textwrap
import typing
from importlib import import_module
from typing import Any

import yaml

from alphavel.foundation.schema import Setting, default_of, element_of

_WIDTH = 110
_HINT = "Each value below is the default: keep the lines you change. ${NAME:-default} reads the environment."


def example_file(cls: type) -> str:
    """
    Return YAML with all settings of a settings dataclass.

    Args:
        cls: Its docstring's first line becomes the title.
    """
    lines = _comment(_first_line(cls), "") + _comment(_HINT, "") + _lines(cls, "")
    return "\n".join(lines) + "\n"


def _lines(cls: Any, indent: str) -> list[str]:
    hints = typing.get_type_hints(cls)
    lines: list[str] = []
    for field in dataclasses.fields(cls):
        declared: Setting = field.metadata["setting"]
        lines.append("")
        if dataclasses.is_dataclass(hints[field.name]):
            lines += _comment(declared.doc, indent)
            lines.append(f"{indent}{field.name}:")
            nested = _lines(hints[field.name], indent + "  ")
            lines += nested[1:] if nested[0] == "" else nested
            continue
        lines += _comment(" ".join(filter(None, [declared.doc, _bounds(declared)])), indent)
        lines.append(f"{indent}{field.name}: {_value(default_of(field), declared)}")
        element = element_of(hints[field.name])
        if element is not None:
            lines += _item(element, indent)
    return lines


def _item(cls: Any, indent: str) -> list[str]:
    """One item of a list, as comments: with none in the list, there is nothing to show otherwise."""
    lines = _lines(cls, "  ")[1:]
    lines[0] = f"- {lines[0][2:]}"
    return [f"{indent}# {line}".rstrip() for line in lines]


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _bounds(declared: Setting) -> str:
    if len(declared.choices) > 1:
        return f"One of {', '.join(declared.choices)}."
    unit = f" {declared.unit}" if declared.unit else ""
    if declared.minimum is not None and declared.maximum is not None:
        return f"{declared.minimum:g} to {declared.maximum:g}{unit}."
    return f"In {declared.unit}." if declared.unit else ""


def _value(default: Any, declared: Setting) -> str:
    if not declared.env:
        return shown(default, declared)
    if isinstance(default, tuple):  # as a list is written in a variable
        default = ",".join(map(str, default)) or None
    return f"${{{declared.env}:-{'' if default is None else shown(default, declared)}}}"


def shown(default: Any, declared: Setting) -> str:
    """Return the default of a setting as a file would say it: `null`, `[HS256]`, `2 MiB`."""
    if declared.unit == "bytes" and isinstance(default, int) and default and default % 1024 == 0:
        return f"{default // 2**20} MiB" if default % 2**20 == 0 else f"{default // 1024} KiB"
    if isinstance(default, tuple):
        default = list(default)
    return "null" if default is None else str(yaml.safe_dump(default, default_flow_style=True)).replace("\n...", "").strip()


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    sys.stdout.write(example_file(getattr(import_module(module), name)))
