"""
Configuration files: YAML in a folder, `${NAME:-default}` read from the environment.

The folder is the one that is asked for, else the one named by `ALPHAVEL_CONFIG`, else `config` in the working directory.
"""

from __future__ import annotations

import os
import re
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
        path = self.folder / f"{name}.yaml"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return load_settings(cls, {}, "defaults")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cannot be read: {error}", str(path)) from error
        return load_settings(cls, parse(text, str(path)), str(path))


def parse(text: str, source: str) -> Any:
    """
    Parse YAML, with references to the environment filled in.

    Raises:
        ConfigurationError: It is no YAML, has a key twice, or refers to a variable that is not set and has no default.
    """
    try:
        return yaml.load(text, Loader=_Loader) or {}  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"is not valid YAML: {error}", source) from error
    except _UnsetVariableError as error:
        raise ConfigurationError(
            f"line {error.line} refers to ${{{error.name}}}, which is not set in the environment. Set it, or give a default: "
            f"${{{error.name}:-default}}.",
            source,
        ) from error


class _UnsetVariableError(Exception):
    def __init__(self, name: str, line: int) -> None:
        super().__init__(name, line)
        self.name = name
        self.line = line


class _Loader(yaml.SafeLoader):
    """SafeLoader that fills in references and refuses a key that stands twice."""


def _construct_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = loader.construct_scalar(node)
    if "${" not in text:
        return text

    def fill(match: re.Match[str]) -> str:
        value = os.environ.get(match[1]) or match[2]
        if value is None:
            raise _UnsetVariableError(match[1], node.start_mark.line + 1)
        return value

    return EnvironmentText(_REFERENCE.sub(fill, text))


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands here twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:str", _construct_text)
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
