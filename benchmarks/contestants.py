"""Who is measured: how each is started, and how a client joins its channel."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.load import BUILD, Load, LoadError, make
from benchmarks.processes import Program, ServerError, free_port, python

SECRET = secrets.token_urlsafe(48)
"""Key of the tokens of this run."""

PUSHER_KEY, PUSHER_SECRET = "bench-key", "bench-secret"

PUSHER = (
    *("--path", f"/app/{PUSHER_KEY}?protocol=7&client=bench&version=1.0", "--greeting", "connection_established"),
    *("--subscribe", '{"event":"pusher:subscribe","data":{"channel":"b"}}', "--ready", "subscription_succeeded"),
)
NATIVE = ("--subscribe", '{"event":"subscribe","data":{"channel":"b"}}', "--ready", '"subscribed"')


@dataclass(frozen=True)
class Contestant:
    """
    One server.

    Attributes:
        name: As the tables call it.
        command: `command(port)` that starts it.
        version: Of what.
        join: Options of the load client for a connection to the measured channel.
        environment: Added to ours.
        publishes_from_outside: Whether the command is a program that starts the server and posts to it: then only what it
            started counts as the server.
        echoes: Whether it has a path /echo.
    """

    name: str
    command: Callable[[int], Sequence[str]]
    version: str
    join: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    publishes_from_outside: bool = False
    echoes: bool = True

    @property
    def is_ours(self) -> bool:
        """Whether it is Alphavel."""
        return self.name.startswith("Alphavel")

    def problem(self) -> str | None:
        """Why it cannot be measured here, None where it can: it is started once to see."""
        try:
            Running(self).stop()
        except (OSError, ServerError) as error:
            return str(error).strip()
        return None


class Running:
    """A started contestant with its clients."""

    def __init__(self, contestant: Contestant, environment: Mapping[str, str] | None = None) -> None:
        self.contestant = contestant
        self.port = free_port()
        environment = {**contestant.environment, **(environment or {})}
        self.program = Program(contestant.command(self.port), environment, contestant.publishes_from_outside)
        self.published = 0
        self.loads: list[Load] = []
        self.others: list[Program] = []  # clients that are no load clients

    @property
    def name(self) -> str:
        """As the tables call it."""
        return self.contestant.name

    def connect(self, connections: int, *more: str) -> Load:
        """Open connections that join the measured channel."""
        return self.load(connections, *self.contestant.join, *more)

    def load(self, connections: int, *arguments: str) -> Load:
        """Open connections with options of their own."""
        load = Load(self.port, connections, arguments)
        self.loads.append(load)
        return load

    def publish(self, *command: object) -> int:
        """Have the server publish; the number of the last message."""
        self.published = self.program.ask(*command)["published"]
        return self.published

    def stop(self) -> None:
        """End clients and server."""
        for client in (*self.loads, *self.others):
            client.stop()
        self.program.stop()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def alphavel_command(port: int, *more: str) -> list[str]:
    """The command a user would type."""
    alpha = str(Path(sys.executable).with_name("alpha"))
    app = "benchmarks.servers.alphavel_app:app"
    return [alpha, "websocket:serve", "--app", app, "--host", "127.0.0.1", "--port", str(port), *more]


ALPHAVEL = Contestant("Alphavel", alphavel_command, f"alphavel {version('alphavel')}", NATIVE)

WRITERS = [
    Contestant(f"Alphavel, {writer}", alphavel_command, ALPHAVEL.version, NATIVE, {"ALPHAVEL_WRITER": writer})
    for writer in ("io_uring", "send", "python")
]
"""Alphavel with each of the ways it has to write to sockets."""

GEVENT_WEBSOCKET = Contestant(
    "gevent-websocket",
    lambda port: python("benchmarks.servers.gevent_websocket", str(port)),
    f"gevent-websocket {version('gevent-websocket')}, gevent {version('gevent')}",
)


def write_tokens(count: int) -> Path:
    """Write a file of HS256 tokens, each of another user, for the load client's `--tokens`."""
    import jwt

    path = BUILD / "tokens.txt"
    expires = int(time.time()) + 3600
    path.write_text("".join(jwt.encode({"sub": f"user-{n}", "exp": expires}, SECRET, "HS256") + "\n" for n in range(count)))
    return path


def with_tokens(path: Path) -> Sequence[str]:
    """Options of the load client that send them."""
    return ("--tokens", str(path), "--header", "Authorization: Bearer %t")


def authenticated() -> dict[str, Any]:
    """Environment of an Alphavel that checks those tokens."""
    return {"ALPHAVEL_JWT_SECRET": SECRET}


def limit(uring: bool = False, *words: str) -> Contestant | str:
    """The C program that only sends, or why there is none; `words` try what a ring offers besides, see limit.c."""
    try:
        make("peers/limit")
    except LoadError as error:
        return str(error)
    arguments = ["uring", *words] if uring else []
    return Contestant(
        ", ".join(["C loop, io_uring", *words]) if uring else "C loop, send()",
        lambda port: [str(BUILD / "limit"), str(port), *arguments],
        "the limit: it only sends",
    )


def with_an_app() -> dict[str, str]:
    """Environment of an Alphavel with an app of the Pusher protocol."""
    folder = BUILD / "config"
    folder.mkdir(parents=True, exist_ok=True)
    text = f"apps:\n  - id: bench\n    key: {PUSHER_KEY}\n    secret: {PUSHER_SECRET}\n"
    (folder / "websocket.yaml").write_text(text)
    return {"ALPHAVEL_CONFIG": str(folder)}
