"""What checks find. A package brings its checks with `ServiceProvider.checks`; `alpha doctor` shows them."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple


class Level(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(NamedTuple):
    """
    What a check has found.

    Attributes:
        level: How bad it is.
        what: What was looked at, one or two words.
        text: What was found, a sentence.
        advice: What to do about it; empty where nothing is to be done.
    """

    level: Level
    what: str
    text: str
    advice: str = ""


Check = Callable[[], Iterable[Finding]]
"""A check: what it finds, in the order to be shown. It may take seconds, where it asks over a network."""


def good(what: str, text: str) -> Finding:
    """Something is as it should be."""
    return Finding(Level.OK, what, text)


def warning(what: str, text: str, advice: str) -> Finding:
    """Something works and should be otherwise."""
    return Finding(Level.WARNING, what, text, advice)


def wrong(what: str, text: str, advice: str) -> Finding:
    """Something keeps the application from working."""
    return Finding(Level.ERROR, what, text, advice)


def writable(path: str | os.PathLike[str]) -> bool:
    """Whether this user may write a file, or make it where it is missing."""
    target = Path(path)
    return os.access(target if target.exists() else target.parent, os.W_OK)
