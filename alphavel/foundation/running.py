"""The folder where processes of one user find each other. Imports nothing that gevent patches."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from pathlib import Path

FOLDER_VARIABLE = "ALPHAVEL_RUN_DIR"


class ControlError(Exception):
    """The folder of the sockets cannot be trusted or used."""


def run_dir() -> Path:
    """
    Return the folder of the sockets, made where it is missing: `ALPHAVEL_RUN_DIR`, else `$XDG_RUNTIME_DIR/alphavel`, else
    one of the user's own in the folder for temporary files.

    Raises:
        ControlError: It belongs to somebody else, or others may enter it.
    """
    named, runtime = os.environ.get(FOLDER_VARIABLE), os.environ.get("XDG_RUNTIME_DIR")
    if named:
        folder = Path(named)
    elif runtime and os.path.isdir(runtime):
        folder = Path(runtime) / "alphavel"
    else:
        folder = Path(tempfile.gettempdir()) / f"alphavel-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise ControlError(f"Cannot use {folder}: {error}. Name another folder in {FOLDER_VARIABLE}.") from error
    whose = "" if status.st_uid == os.getuid() else f" It is {_name(status.st_uid)}'s, and this is {_name(os.getuid())}."
    if whose or stat.S_IMODE(status.st_mode) & 0o077 or not stat.S_ISDIR(status.st_mode):
        raise ControlError(f"{folder} must be a folder of this user's that nobody else may enter (mode 0700).{whose}")
    return folder


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
