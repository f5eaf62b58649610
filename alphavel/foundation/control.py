"""
How commands talk to running processes of the same user: a Unix socket for each process, in a folder nobody else can enter.

One request a connection: a line of JSON in, a line of JSON out.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "ALPHAVEL_RUN_DIR"
_MAX_REQUEST_BYTES = 64 * 1024

Handler = Callable[..., Any]


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
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077 or not stat.S_ISDIR(status.st_mode):
        raise ControlError(f"{folder} must be a folder of this user's that nobody else may enter (mode 0700).")
    return folder


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

    def start(self) -> None:
        """Begin to answer. Raises ControlError where the folder cannot be used."""
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
        threading.Thread(target=self._answer_all, args=(server,), name="alphavel-control", daemon=True).start()

    def stop(self) -> None:
        """Answer no more and remove the socket."""
        if self._path is not None:
            self._server = None
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as waker:
                waker.connect(str(self._path))
            self._path.unlink(missing_ok=True)
            self._path = None

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
            return {"result": handler(**request.get("arguments", {}))}
        except (ValueError, TypeError, KeyError, LookupError) as error:
            return {"error": f"{type(error).__name__}: {error}"}


def ask_all(name: str, command: str, timeout_s: float = 2.0, **arguments: Any) -> list[Any]:
    """
    Ask every running process that answers to `name`.

    Returns:
        The results in the order of process ids; processes that do not answer in time are left out.

    Raises:
        ControlError: The folder cannot be used, or a process answers with an error.
    """
    results = []
    for path in sorted(run_dir().glob(f"{name}-*.sock"), key=lambda path: int(path.stem.rpartition("-")[2])):
        with contextlib.suppress(OSError):
            answer = _ask(path, {"command": command, "arguments": arguments}, timeout_s)
            if "error" in answer:
                raise ControlError(answer["error"])
            results.append(answer["result"])
    return results


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
