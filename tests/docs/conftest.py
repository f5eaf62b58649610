"""What is run here are programs of their own; a person's configuration, and servers that run here, have no say in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.environment import _clean_environment  # noqa: F401 (a fixture: pytest finds it here)
from tests.support import Program, free_port, script


class Server:
    """
    A server in a process of its own.

    Attributes:
        address: `127.0.0.1:PORT`.
    """

    def __init__(self, program: Program, port: int) -> None:
        self.program = program
        self.address = f"127.0.0.1:{port}"
        program.wait_for("listening", 60)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """`serve("shop:app", cwd=folder)` starts `alpha websocket:serve`."""
    programs: list[Program] = []

    def start(target: str, *options: str, cwd: Path, alpha: str = "", **environment: str) -> Server:
        port = free_port()
        command = [
            alpha or script("alpha"),
            "websocket:serve",
            "--app",
            target,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            *options,
        ]
        programs.append(Program(*command, cwd=cwd, **environment))
        return Server(programs[-1], port)

    yield start
    for program in programs:
        with program:
            program.stop()
