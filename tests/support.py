"""Helpers of all tests."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import greenlet

ROOT = Path(__file__).parent.parent
# Below Linux's ephemeral ports. Suites that run side by side have each a part of them.
_PORTS = [int(text) for text in os.environ.get("TEST_PORTS", "20000-32000").split("-")]


@contextlib.contextmanager
def nothing_switches() -> Iterator[None]:
    """Fail where the block switches to another greenlet."""
    switches: list[Any] = []
    before = greenlet.settrace(lambda event, pair: switches.append((event, pair)))
    try:
        yield
    finally:
        greenlet.settrace(before)
    assert not switches, f"switched: {switches}"


def wait_until(condition: Callable[[], Any], timeout_s: float = 30.0, what: str = "") -> Any:
    """Wait until `condition()` is true and return what it returned."""
    deadline = time.monotonic() + timeout_s
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or condition}"
        time.sleep(0.01)


class Program:
    """A program that a test started; its output so far is in `output`. Whatever it started ends with the block."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path | str = ROOT,
        pass_fds: Collection[int] = (),
        stdin: int | None = None,
        user: str | None = None,
        **environment: str,
    ) -> None:
        self.process = subprocess.Popen(
            [str(argument) for argument in arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "default", **environment},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
            user=user,
            group=None if user is None else pwd.getpwnam(user).pw_gid,
            extra_groups=None if user is None else [],
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._output = b""

    @property
    def output(self) -> str:
        assert self.process.stdout is not None
        if not self.process.stdout.closed:
            with contextlib.suppress(BlockingIOError):
                while piece := os.read(self.process.stdout.fileno(), 65536):
                    self._output += piece
        return self._output.decode(errors="replace")

    def wait_for(self, text: str, timeout_s: float = 60.0) -> str:
        """Wait until the output holds `text`."""

        def seen() -> bool:
            if text in self.output:
                return True
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output}"
            return False

        wait_until(seen, timeout_s, f"{text!r} in:\n{self.output}")
        return self.output

    def stop(self, timeout_s: float = 60.0) -> int:
        """Send SIGTERM and wait for the end."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait for the end, and make one where it does not come."""
        try:
            wait_until(lambda: self.process.poll() is not None, timeout_s)
        except AssertionError:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.output  # noqa: B018 (reads what is left)
            assert self.process.stdout is not None
            self.process.stdout.close()
        return self.process.returncode

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its workers too, who outlive a parent that was killed
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def free_port() -> int:
    """Return a port that nobody listens on, and that the system gives to no client in the meantime."""
    while True:
        port = random.randrange(*_PORTS)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("", port))
            return port


def python() -> str:
    """Return the path of this Python."""
    return sys.executable


def script(name: str) -> str:
    """Return the path of a command that is installed beside this Python."""
    return str(Path(sys.executable).parent / name)


def run(*arguments: str, cwd: Path | str = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
