"""Writing a package's files into an application, never over somebody's work."""

from __future__ import annotations

import difflib
import enum
from pathlib import Path


class Outcome(enum.Enum):
    """What became of a file."""

    WRITTEN = "written"
    OVERWRITTEN = "overwritten"
    UNCHANGED = "unchanged"
    KEPT = "kept"


def publish(source: Path, target: str, force: bool) -> tuple[Outcome, str]:
    """
    Write `source` to `target`, relative to the working directory.

    Returns:
        What became of it, and what is or was different, as a unified diff; empty where nothing is.
    """
    path, new = Path(target), source.read_text(encoding="utf-8")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(new, encoding="utf-8")
        return Outcome.WRITTEN, ""
    old = path.read_text(encoding="utf-8")
    if old == new:
        return Outcome.UNCHANGED, ""
    difference = "".join(difflib.unified_diff(old.splitlines(True), new.splitlines(True), target, f"{target} (published)"))
    if not force:
        return Outcome.KEPT, difference
    path.write_text(new, encoding="utf-8")
    return Outcome.OVERWRITTEN, difference
