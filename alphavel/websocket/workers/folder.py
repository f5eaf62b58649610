"""
The folder of one run of a server, where its workers find each other: sockets, what each wants, and the lock of the one that
leads. Nobody else can enter it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import IO

from alphavel.foundation.running import run_dir

_PREFIX = "workers-"
_LOCK = "lock"


class WorkersFolder:
    """
    A folder of the run of one parent process, made by the parent or by the first of its workers.

    Attributes:
        path: Where it is.
    """

    def __init__(self, parent: int) -> None:
        """
        Make the folder where it is missing, and clear away those of parents that are gone.

        Args:
            parent: Process id of the parent of the workers.

        Raises:
            ControlError: The folder for sockets cannot be used.
        """
        _sweep()
        self.path = run_dir() / f"{_PREFIX}{parent}"
        self.path.mkdir(mode=0o700, exist_ok=True)
        # Held by the parent and, inherited, by its workers: while one of them lives the folder stays.
        self._lock: IO[bytes] = open(self.path / _LOCK, "wb")  # noqa: SIM115 (open as long as the process runs)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    @staticmethod
    def remove_of(parent: int) -> None:
        """Remove the folder of a parent that knows that all of its workers have ended."""
        shutil.rmtree(run_dir() / f"{_PREFIX}{parent}", ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder; all workers have ended."""
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)


def _sweep() -> None:
    for folder in run_dir().glob(f"{_PREFIX}*"):
        pid = folder.name[len(_PREFIX) :]
        if pid.isdecimal() and not _is_alive(int(pid)) and _is_free(folder / _LOCK):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_free(lock: Path) -> bool:
    with contextlib.suppress(OSError), open(lock, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return not lock.exists()
