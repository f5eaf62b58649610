"""Going to the background, and the pid file. No gevent here: a process is forked before its hub exists."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path
from typing import IO


class PidFileError(Exception):
    """The pid file belongs to a running process, or cannot be written."""


class Daemon:
    """
    A process in the background whose parent waits until it says how its start went.

    The parent prints what the start has to say and ends with its exit code, so that a shell, a script or a person sees the
    same as without `--daemon`.
    """

    def __init__(self) -> None:
        self._report = -1

    def fork(self) -> None:
        """Return in the background process; the calling process ends when `started` or `failed` was called there."""
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork():
            os.close(writing)
            with os.fdopen(reading, "rb") as reports:
                report = reports.read()
            succeeded, text = report[:1] == b"+", report[1:].decode(errors="replace")
            print(text or "The server ended before it had started.", file=sys.stdout if succeeded else sys.stderr)
            sys.stdout.flush()
            os._exit(0 if succeeded else 1)
        os.close(reading)
        os.setsid()
        if os.fork():  # not a session leader any more: no terminal can ever become ours
            os._exit(0)
        self._report = writing

    def started(self, text: str) -> None:
        """Let the parent print `text` and end well, and let go of the terminal."""
        self._finish(b"+", text)
        self.detach()

    def detach(self) -> None:
        """Let go of the terminal."""
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)

    def leave(self) -> None:
        """In a process that the background process has forked: how the start went is not this one's to say."""
        if self._report >= 0:
            os.close(self._report)
            self._report = -1

    @property
    def is_starting(self) -> bool:
        """Whether the parent still waits to hear how the start went."""
        return self._report >= 0

    def failed(self, text: str) -> None:
        """Let the parent print `text` and end badly."""
        self._finish(b"-", text)

    def _finish(self, mark: bytes, text: str) -> None:
        if self._report >= 0:
            os.write(self._report, mark + text.encode())
            os.close(self._report)
            self._report = -1


class PidFile:
    """A file with the process's id, locked while the process runs, so that one left behind by a crash does not matter."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._file: IO[str] | None = None

    def write(self) -> None:
        """
        Take the file.

        Raises:
            PidFileError: Its process runs, or it cannot be written.
        """
        try:
            file = open(self._path, "a+", encoding="ascii")  # noqa: SIM115 (open as long as the process runs)
        except OSError as error:
            text = f"The pid file {self._path} cannot be written: {error.strerror}. Name another one with --pid-file."
            raise PidFileError(text) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip()
            file.close()
            raise PidFileError(f"A server with the pid file {self._path} is running already, process {pid}.") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file

    def remove(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None
