"""
Writes the reference from the code: `docs/configuration.md` from the settings, `docs/commands.md` from the commands, the
configuration files that the packages publish, and the figures in README.md.

`python -m scripts.reference`, `make reference`. Tests hold that the files in the tree are what this makes.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

import click

from alphavel.circuit_breaker.settings import CircuitBreakerSettings
from alphavel.foundation.console import alpha
from alphavel.foundation.example import example_file, shown
from alphavel.foundation.providers import ServiceProvider, discover
from alphavel.foundation.schema import Setting, default_of, element_of
from alphavel.websocket.settings import WebSocketSettings
from scripts.figures import readme

ROOT = Path(__file__).parent.parent
SETTINGS: dict[str, type] = {"websocket": WebSocketSettings, "circuit_breaker": CircuitBreakerSettings}
_KINDS = {Any: "anything", bool: "true or false", int: "whole number", float: "number", str: "text"}
_CONFIGURATION = """# Configuration

Every setting of `config/websocket.yaml` and `config/circuit_breaker.yaml`; made from the code by `make reference`.

Without any file everything is as the defaults below say. `alpha vendor:publish --tag=websocket-config` and
`--tag=circuit-breaker-config` write the files out, with each setting explained, to keep the lines you change.

- **Where.** In the folder of `alpha --config DIR`, else the one that `ALPHAVEL_CONFIG` names, else `config` in the working
  directory.
- **The environment.** `${NAME}` and `${NAME:-default}` in a file read it. Where a setting names a variable here, that one is
  read without the file saying so; the file goes before it.
- **Sizes and times** may carry a unit: `2 MiB`, `64 KB`, `30s`, `5 min`. A plain number is bytes, or seconds.
- **`null`** switches a limit or a feature off where the text says so.
- **Mistakes stop the start.** An unknown key, a wrong type or a value out of bounds is told with the file, the key and what was
  expected.
- **SIGHUP** has a running server read its file again; host, port and what else is decided at the start stays.
"""
_COMMANDS = """# Commands

All commands of `alpha`; made from the code by `make reference`. `alpha list` shows those of the packages that are installed,
and `alpha COMMAND --help` what stands here.

What ends well exits with 0. A mistake in the command line exits with 2; what cannot be done is told in one line, with exit
code 1.
"""


def pages() -> dict[Path, str]:
    """Return what is to stand in which file."""
    made = {
        ROOT / "docs/configuration.md": configuration(),
        ROOT / "docs/commands.md": commands(),
        ROOT / "README.md": readme(),
    }
    for name, cls in SETTINGS.items():
        made[ROOT / f"config/{name}.yaml"] = made[ROOT / f"alphavel/{name}/config/{name}.yaml"] = example_file(cls)
    return made


def _joined(parts: list[str]) -> str:
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


# Settings


def configuration() -> str:
    """Return the page about settings."""
    parts = [_CONFIGURATION]
    for name, cls in SETTINGS.items():
        parts.append(f"\n## config/{name}.yaml\n")
        parts += _section(cls, "")
    return _joined(parts)


def _section(cls: Any, prefix: str) -> Iterator[str]:
    """A table of the settings of one class, then a section for each group in it."""
    hints = typing.get_type_hints(cls)
    rows, groups = [], []
    for field in dataclasses.fields(cls):
        key, declared = f"{prefix}{field.name}", field.metadata["setting"]
        inner, suffix = _group(hints[field.name])
        if inner is not None:
            groups.append((inner, f"{key}{suffix}", declared.doc))
        if inner is None or suffix:
            rows.append(_row(key, hints[field.name], declared, default_of(field)))
    if rows:
        yield "| setting | | default | |\n|---|---|---|---|\n" + "\n".join(rows)
    for inner, key, doc in groups:
        yield f"\n### {key}\n\n{doc}\n"
        yield from _section(inner, f"{key}.")


def _group(hint: Any) -> tuple[Any, str]:
    """The settings class in a hint, and how its keys are written: `options.`, `apps[].`, `services.NAME.`."""
    if dataclasses.is_dataclass(hint):
        return hint, ""
    if element_of(hint) is not None:
        return element_of(hint), "[]"
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is dict and dataclasses.is_dataclass(arguments[1]):
        return arguments[1], ".NAME"
    return None, ""


def _row(key: str, hint: Any, declared: Setting, default: Any) -> str:
    name = key.rpartition(".")[2] if "." in key else key
    notes = [declared.doc]
    if declared.env:
        notes.append(f"Environment: `{declared.env}`.")
    return f"| `{name}` | {_cell(_kind(hint, declared))} | {_code(shown(default, declared))} | {_cell(' '.join(notes))} |"


def _kind(hint: Any, declared: Setting) -> str:
    if declared.choices:
        return ", ".join(f"`{choice}`" for choice in declared.choices)
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    words = [_word(kind) for kind in kinds if kind is not type(None)]
    text = " or ".join(words)
    if declared.unit:
        text = declared.unit
    low, high = declared.minimum, declared.maximum
    if low is not None and high is not None:
        text += f", {low:,g} to {high:,g}"
    elif low is not None:
        text += f", at least {low:,g}"
    return text + (", or null" if type(None) in kinds else "")


def _word(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        return "list" if dataclasses.is_dataclass(inner) else f"list of {_KINDS[inner]}s"
    if typing.get_origin(kind) is dict:
        return "names with settings"
    return _KINDS[kind]


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# Commands


def commands() -> str:
    """Return the page about commands."""
    providers = [provider for provider in discover() if provider.package.startswith("alphavel.")]
    parts = [_COMMANDS, "## alphavel.foundation", _command(alpha, "alpha")]
    parts += [_command(alpha.commands[name], f"alpha {name}") for name in sorted(alpha.commands)]
    parts += ["| tag | what it writes |\n|---|---|\n" + "\n".join(_tags(providers))]
    for provider in providers:
        parts.append(f"## {provider.package}")
        parts += [_command(command, f"alpha {command.name}") for command in provider.commands()]
    return _joined(parts)


def _tags(providers: list[ServiceProvider]) -> Iterator[str]:
    for tag, files in sorted((tag, files) for provider in providers for tag, files in provider.publishes().items()):
        yield f"| `{tag}` | {', '.join(f'`{target}`' for _, target in files)} |"


def _command(command: click.Command, name: str) -> str:
    with click.Context(command, info_name=name) as context:
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        records = [record for option in options if (record := option.get_help_record(context))]
    lines = [f"### {name}", "", inspect.cleandoc(command.help or ""), "", f"    {usage}"]
    if records:
        lines += ["", "| option | |", "|---|---|", *(f"| `{_cell(option)}` | {_cell(text)} |" for option, text in records)]
    return "\n".join(lines)


def main() -> None:
    """Write what has changed, and say so."""
    for path, text in pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
