"""
Configuration files: YAML in a folder, `${NAME:-default}` read from the environment.

The folder is the one that is asked for, else the one named by `ALPHAVEL_CONFIG`, else `config` in the working directory.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml

from alphavel.foundation.errors import ConfigurationError
from alphavel.foundation.schema import EnvironmentText, load_settings

T = TypeVar("T")

FOLDER_VARIABLE = "ALPHAVEL_CONFIG"
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class Config:
    """
    A folder of configuration files.

    Attributes:
        folder: Where they are looked for. It need not exist unless it was asked for.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        """
        Raises:
            ConfigurationError: A folder was asked for, here or in the environment, and is not there.
        """
        asked = folder or os.environ.get(FOLDER_VARIABLE)
        self.folder = Path(asked or "config")
        if asked and not self.folder.is_dir():
            raise ConfigurationError(f"There is no configuration folder {str(self.folder)!r}.")

    def settings(self, name: str, cls: type[T]) -> T:
        """
        Read `name.yaml`; without the file, everything is as the defaults say.

        Raises:
            ConfigurationError: Says what is wrong in which file, at which key.
        """
        return load_settings(cls, *self.read(name))

    @contextlib.contextmanager
    def naming(self, name: str) -> Iterator[None]:
        """Have errors of those who use the settings of `name.yaml` name it, where it is there."""
        try:
            yield
        except ConfigurationError as error:
            path = self.folder / f"{name}.yaml"
            raise (error.in_file(str(path)) if path.exists() else error) from error.__cause__

    def read(self, name: str) -> tuple[Any, str]:
        """
        Return what `name.yaml` says and what to call it: its path, or `defaults` where it is not there.

        Raises:
            ConfigurationError: It cannot be read, or is no YAML.
        """
        path = self.folder / f"{name}.yaml"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            other = path.with_suffix(".yml")
            if other.exists():
                raise ConfigurationError(f"is not read: call it {path.name}.", str(other)) from None
            return {}, "defaults"
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cannot be read: {error}", str(path)) from error
        return parse(text, str(path)), str(path)


def parse(text: str, source: str) -> Any:
    """
    Parse YAML, with references to the environment filled in.

    Raises:
        ConfigurationError: It is no YAML, has a key twice, or refers to a variable that is not set and has no default.
    """
    try:
        parsed = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        # Without its cause, whose text holds the line: there may be a secret in it.
        raise ConfigurationError(f"is not valid YAML: {_problem(error)}", source) from None
    except _BadReferenceError as error:
        raise ConfigurationError(
            f"line {error.line}: a reference to the environment is written ${{NAME}} or ${{NAME:-default}}, and has its brace.",
            source,
        ) from None
    except _UnsetVariableError as error:
        raise ConfigurationError(
            f"line {error.line} refers to ${{{error.name}}}, which is not set in the environment. Set it, or give a default: "
            f"${{{error.name}:-default}}.",
            source,
        ) from None
    except RecursionError:
        raise ConfigurationError("is not valid YAML: things stand too deep in each other.", source) from None
    return {} if parsed is None else parsed


def _problem(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the text itself."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{error.problem or error.context}."


class _UnsetVariableError(Exception):
    def __init__(self, name: str, line: int) -> None:
        super().__init__(name, line)
        self.name = name
        self.line = line


class _BadReferenceError(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Loader(yaml.SafeLoader):
    """SafeLoader that fills in references, and refuses a key that stands twice and what is not what it looks like."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        except (ValueError, OverflowError, LookupError, AttributeError):
            # PyYAML goes by the look of a value, and `2026-02-30` looks like a date.
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"this looks like a value of the kind {kind!r} and is none; put a text in quotes", node.start_mark
            ) from None


def _construct_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = loader.construct_scalar(node)
    if "${" not in text:
        return text

    if "${" in _REFERENCE.sub("", text):
        raise _BadReferenceError(node.start_mark.line + 1)

    used = []

    def fill(match: re.Match[str]) -> str:
        if os.environ.get(match[1]):
            used.append(match[1])
        value = os.environ.get(match[1]) or match[2]
        if value is None:
            raise _UnsetVariableError(match[1], node.start_mark.line + 1)
        return value

    filled = EnvironmentText(_REFERENCE.sub(fill, text))
    filled.variables = tuple(used)
    return filled


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a text", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands here twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:str", _construct_text)
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
