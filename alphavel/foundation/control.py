"""
How commands talk to running processes of the same user: a Unix socket for each process, in a folder nobody else can enter.

One request a connection: a line of JSON in, a line of JSON out.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from alphavel.foundation.running import FOLDER_VARIABLE, ControlError, run_dir

__all__ = ["FOLDER_VARIABLE", "ControlError", "ControlServer", "Handler", "ask_all", "run_dir", "running"]

_MAX_REQUEST_BYTES = 64 * 1024

Handler = Callable[..., Any]


class ControlServer:
    """Answers commands about this process, in a thread of its own (a greenlet, where gevent has patched threads)."""

    def __init__(self, name: str, handlers: dict[str, Handler]) -> None:
        """
        Args:
            name: What is asked, such as `websocket`.
            handlers: Functions by command; their arguments and results are JSON.
        """
        self._name = name
        self._handlers = handlers
        self._server: socketserver.UnixStreamServer | None = None
        self._path: Path | None = None

    def start(self, forked: bool = False) -> None:
        """
        Begin to answer.

        Args:
            forked: Whether this is called from a hook of `os.register_at_fork`.

        Raises:
            ControlError: The folder cannot be used.
        """
        path = run_dir() / f"{self._name}-{os.getpid()}.sock"
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            server = _Server(str(path), self._handlers)
        except OSError as error:
            raise ControlError(f"Cannot listen at {path}: {error}.") from error
        finally:
            os.umask(before)
        self._server, self._path = server, path
        if forked:
            # Thread.start() would wait for the thread to run, and so, under gevent, enter a hub that is still the parent's.
            _thread.start_new_thread(self._answer_all, (server,))
        else:
            threading.Thread(target=self._answer_all, args=(server,), name="alphavel-control", daemon=True).start()

    def stop(self) -> None:
        """Answer no more and remove the socket."""
        if self._path is not None:
            self._server = None
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as waker:
                waker.connect(str(self._path))
            self._path.unlink(missing_ok=True)
            self._path = None

    def abandon(self) -> None:
        """In a forked child: let go of the socket, which is the parent's, and leave it where it is."""
        if self._server is not None:
            self._server.socket.close()
        self._server = self._path = None

    def _answer_all(self, server: socketserver.UnixStreamServer) -> None:
        with server:
            while self._server is server:
                server.handle_request()  # waits without a timeout: nobody asks, nothing runs


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, handlers: dict[str, Handler]) -> None:
        super().__init__(path, _Request)
        self.handlers = handlers


class _Request(socketserver.StreamRequestHandler):
    timeout = 5.0

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            answer = self._answer(self.rfile.readline(_MAX_REQUEST_BYTES))
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    def _answer(self, line: bytes) -> dict[str, Any]:
        assert isinstance(self.server, _Server)
        try:
            request = json.loads(line)
            handler = self.server.handlers[request["command"]]
            answer = {"result": handler(**request.get("arguments", {}))}
            json.dumps(answer)
            return answer
        except Exception as error:  # noqa: BLE001 (who asks is told; a command must not hurt the process it asks about)
            return {"error": f"{type(error).__name__}: {error}"}


def running(name: str) -> list[int]:
    """Return the ids of the processes that answer to `name`, or did until they were killed. Raises ControlError."""
    return [int(path.stem[len(name) + 1 :]) for path in _sockets(name)]


def ask_all(
    name: str,
    command: str,
    timeout_s: float = 2.0,
    *,
    silent: list[int] | None = None,
    only: Collection[int] | None = None,
    **arguments: Any,
) -> list[Any]:
    """
    Ask every running process that answers to `name`.

    Args:
        name: What they answer to.
        command: What is asked.
        timeout_s: How long each of them may take.
        silent: A list to add the ids of those processes to that are there and do not answer.
        only: Ids of those to ask; None: all.
        arguments: Those of the command.

    Returns:
        The results in the order of process ids; processes that do not answer in time are left out.

    Raises:
        ControlError: The folder cannot be used, or a process answers with an error.
    """
    results = []
    for path in _sockets(name):
        if only is not None and int(path.stem[len(name) + 1 :]) not in only:
            continue
        try:
            answer = _ask(path, {"command": command, "arguments": arguments}, timeout_s)
        except OSError:
            if silent is not None and path.exists():  # where the process is gone, `_ask` has removed it
                silent.append(int(path.stem[len(name) + 1 :]))
            continue
        if "error" in answer:
            raise ControlError(answer["error"])
        results.append(answer["result"])
    return results


def _sockets(name: str) -> list[Path]:
    found = [path for path in run_dir().glob(f"{name}-*.sock") if path.stem[len(name) + 1 :].isdecimal()]
    return sorted(found, key=lambda path: int(path.stem[len(name) + 1 :]))


def _ask(path: Path, request: dict[str, Any], timeout_s: float) -> Any:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)  # its process is gone
            raise
        client.sendall(json.dumps(request).encode() + b"\n")
        with client.makefile("rb") as answers:
            line = answers.readline()
    try:
        return json.loads(line)
    except ValueError:
        raise OSError("no answer") from None
