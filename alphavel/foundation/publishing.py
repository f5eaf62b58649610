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

    Raises:
        OSError: It cannot be written.
    """
    path, new = Path(target), source.read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:  # x: never over a file that is there, or has just come
            file.write(new)
        return Outcome.WRITTEN, ""
    except FileExistsError:
        old = path.read_bytes()
    if old == new:
        return Outcome.UNCHANGED, ""
    difference = _difference(old, new, target)
    if not force:
        return Outcome.KEPT, difference
    path.write_bytes(new)
    return Outcome.OVERWRITTEN, difference


def _difference(old: bytes, new: bytes, target: str) -> str:
    before, after = (text.decode(errors="replace").splitlines() for text in (old, new))
    return "".join(f"{line}\n" for line in difflib.unified_diff(before, after, target, f"{target} (published)", lineterm=""))
