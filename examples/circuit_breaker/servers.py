"""The real servers that the examples break: HTTP, PostgreSQL, Redis, SMTP. Each on a free port of loopback."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def free_port() -> int:
    """Return a port that nobody listens on, and that the system gives to no client in the meantime."""
    while True:
        port = random.randrange(20_000, 32_000)  # below Linux's ephemeral ports
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


class Http:
    """
    An HTTP service.

    Attributes:
        mood: `fine`; `broken`: it answers 500; `hanging`: it does not answer; `busy`: it answers 429 with Retry-After.
        answer: The body of a fine answer.
        requests: How many came.
    """

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.mood = "fine"
        self.requests = 0
        self.woken = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service._serve(self)

            do_POST = do_GET  # noqa: N815 (http.server's name)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests += 1
        if self.mood == "hanging":
            self.woken.wait(60)
            return
        status = {"fine": 200, "broken": 500, "busy": 429}.get(self.mood) or int(self.mood)
        body = self.answer.encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        if self.mood == "busy":
            handler.send_header("Retry-After", "5")
        handler.end_headers()
        handler.wfile.write(body)

    def __enter__(self) -> Http:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.woken.set()
        self._server.shutdown()
        self._server.server_close()


class Program:
    """A server program that can be stopped and started again on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """What to run."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        self._process = subprocess.Popen(self.command(), cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.command()[0]} did not start")
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether it takes connections."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def stop(self) -> None:
        """End it at once: who is connected loses the connection."""
        if self._process is not None:
            self.end(self._process)
            self._process.wait()
            self._process = None

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Tell it to end."""
        process.terminate()

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Redis(Program):
    """A Redis that keeps nothing on disk."""

    @property
    def url(self) -> str:
        """How clients reach it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """See `Program`."""
        return ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", tempfile.gettempdir()]


class Postgres(Program):
    """A PostgreSQL with a folder of its own, gone with it."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="alphavel-postgres-"))
        # It refuses to run as root.
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(self._folder, "postgres")
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", "test", "--no-sync", "--no-instructions")

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://test@127.0.0.1:{self.port}/postgres"

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def command(self) -> list[str]:
        """See `Program`."""
        settings = {"listen_addresses": "127.0.0.1", "fsync": "off", "shared_buffers": "16MB"}
        settings["unix_socket_directories"] = str(self._folder)
        options = [word for pair in settings.items() for word in ("-c", "=".join(pair))]
        return [*self._as, _postgres("postgres"), "-D", self._data, "-p", str(self.port), *options]

    def answers(self) -> bool:
        """See `Program`; while it starts up it takes connections only to refuse them."""
        asked = [_postgres("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False, timeout=10).returncode == 0

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """See `Program`."""
        self._run("pg_ctl", "-D", self._data, "stop", "-m", "immediate", "-s")

    def remove(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([*self._as, _postgres(program), *arguments], check=True, capture_output=True, cwd="/", timeout=60)


def _postgres(program: str) -> str:
    """Debian keeps PostgreSQL's programs out of the PATH."""
    found = shutil.which(program) or next(iter(sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))), None)
    if found is None:
        raise RuntimeError(f"{program} is missing: install PostgreSQL (apt-get install postgresql)")
    return str(found)


class Smtp:
    """
    A mail server (aiosmtpd) that can be stopped and started again.

    Attributes:
        subjects: Of the messages it took.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.subjects: list[str] = []
        self._controller: Any = None

    def start(self) -> None:
        """Start it."""
        from aiosmtpd.controller import Controller

        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, ready_timeout=20)
        self._controller.start()

    def stop(self) -> None:
        """Stop it."""
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 (aiosmtpd's name)
        """Take a message."""
        from email import message_from_bytes

        self.subjects.append(str(message_from_bytes(envelope.content)["Subject"]))
        return "250 OK"

    def __enter__(self) -> Smtp:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
