"""The load client, a program in C (`client/`): built here, driven over its standard input, one line of JSON for each answer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILD = HERE / ".build"


class LoadError(RuntimeError):
    """The client could not do what it was asked."""


def make(folder: str) -> None:
    """Build the programs of a folder here, where they are not built or are older than their sources."""
    made = subprocess.run(
        ["make", "-s", "-C", str(HERE / folder), f"BUILD={BUILD}"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise LoadError(f"{folder} does not build (it needs gcc and make):\n{made.stderr}")


class Load:
    """
    A running client with all its connections open.

    Attributes:
        opened: How many connections it has.
        seconds: How long opening them took.
    """

    def __init__(self, port: int, connections: int, arguments: Sequence[str] = (), must_open: bool = True) -> None:
        """
        Args:
            port: Where the server listens.
            connections: How many to open.
            arguments: Further options of the client, see `client/load.c`.
            must_open: Whether a refused connection is an error.
        """
        make("client")
        self._process = subprocess.Popen(
            [str(BUILD / "load"), "--port", str(port), "--connections", str(connections), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        opened = self._answer()
        self.opened: int = opened["opened"]
        self.seconds: float = opened["seconds"]
        if must_open and self.opened != connections:
            self.stop()
            raise LoadError(f"{self.opened} of {connections} connections could be opened on port {port}")

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def ask(self, *words: object) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.tell(*words)
        return self._answer()

    def tell(self, *words: object) -> None:
        """Send a command; `hear` its answer later."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Wait for the answer to the oldest command that has none yet."""
        return self._answer()

    def stop(self) -> None:
        """Close all connections."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LoadError(f"The load client ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
