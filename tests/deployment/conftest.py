"""
The repository's files for Supervisor, Nginx, gunicorn and systemd, used as docs/deployment.md says: a test makes a folder as a
team would have it, and runs the commands of the document in it.

Nothing here is monkey-patched: what is tested are processes of their own.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import ROOT, Program, free_port, script, wait_until

DOCUMENT = ROOT / "docs/deployment.md"
KEY, SECRET = "app-key", "app-secret"

_SHOP = """
import time

from flask import Flask, request

from alphavel.foundation import Alphavel
from alphavel.websocket import WebSocket

app = Flask(__name__)
Alphavel(app)

@app.get("/")
def page():
    return "<!doctype html><link rel=icon href=data:,><script src=/static/pusher.min.js></script><title>Shop</title>"

@app.get("/client")
def client():
    return {"address": request.remote_addr, "scheme": request.scheme, "http": request.environ["SERVER_PROTOCOL"]}

@app.get("/push/<channel>")
def push(channel):
    return {"queued": WebSocket.to_channel(channel).push({"event": "pushed", "data": {"text": "hi"}})}

@WebSocket.event("where am I")
def where(connection):
    connection.send({"event": "you are", "data": {"address": connection.remote_addr}})
"""

_WORKER = """
import time
from alphavel.websocket import BroadcastError, WebSocket

n = 0
while True:
    try:
        WebSocket.to_channel("ticks").push({"event": "tick", "data": {"n": n}})
    except BroadcastError as error:
        print(error)
    n += 1
    time.sleep(0.02)
"""

_CONFIG = f"""
apps:
  - {{id: "1", key: {KEY}, secret: {SECRET}}}
"""

_BLOCK = re.compile(r"<!-- test: ([a-z0-9-]+) -->\n```sh\n(.*?)```", re.DOTALL)


def documented() -> dict[str, str]:
    """The commands of the document, by the names that stand before them."""
    return dict(_BLOCK.findall(DOCUMENT.read_text(encoding="utf-8")))


def get(url: str, **headers: str) -> tuple[int, str]:
    """Status and body of a page."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


class Site:
    """
    A folder with an application, the repository's files and the environment of a machine.

    Attributes:
        folder: Where it is; everybody can read it.
        port: Where the WebSocket server is to listen.
        user: Who the programs run as, `alpha` in the document: `www-data`, where a Python is found that everybody may run.
        file: Its config/alphavel.env.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        python = python_for("www-data") if os.getuid() == 0 else None
        self.user = "www-data" if python else getpass.getuser()
        self.file = folder / "config/alphavel.env"
        folder.chmod(0o755)
        for name in ("supervisor", "nginx", "systemd"):
            shutil.copytree(ROOT / name, folder / name)
        (folder / "config").mkdir()
        shutil.copy(ROOT / "config/gunicorn.conf.py", folder / "config")
        _make_environment(folder / ".venv", python or os.path.realpath(sys.executable))
        (folder / "static").mkdir()
        (folder / "logs").mkdir()
        for name, text in {"shop.py": _SHOP, "worker.py": _WORKER, "config/websocket.yaml": _CONFIG}.items():
            (folder / name).write_text(text)
        self.set(
            ALPHAVEL_HOME=folder,
            ALPHAVEL_USER=self.user,
            ALPHAVEL_WEBSOCKET_PORT=self.port,
            ALPHAVEL_WEBSOCKET_URL=f"http://127.0.0.1:{self.port}",
            ALPHAVEL_BIND=f"127.0.0.1:{free_port()}",
            ALPHAVEL_RUN_DIR=folder / "run",
            ALPHAVEL_LOGS=folder / "logs",
            ALPHAVEL_MINFDS=4096,
        )

    def set(self, **values: Any) -> None:
        """Say what is different on this machine; the rest is as in config/alphavel.env."""
        text = (self.file if self.file.exists() else ROOT / "config/alphavel.env").read_text(encoding="utf-8")
        for name, value in values.items():
            line = f"{name}={shlex.quote(str(value))}"
            text, found = re.subn(rf"(?m)^{name}=.*$", lambda _, line=line: line, text)
            assert found == 1, f"{name} is not in config/alphavel.env"
        self.file.write_text(text, encoding="utf-8")

    def run(self, name: str, **environment: str) -> str:
        """Run commands of the document, and return what they print."""
        commands = documented()[name]
        result = subprocess.run(
            ["sh", "-euc", commands],
            cwd=self.folder,
            env={**self._environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, f"{commands}\n{result.stdout}"
        return result.stdout

    def run_in_background(self, name: str, user: str = "root", **environment: str) -> Program:
        """Begin to run commands of the document, as `user` where the tests are run by root."""
        shell = ["sh", "-euc", documented()[name]]
        become = None if os.getuid() else user
        return Program(*shell, cwd=self.folder, user=become, **self._environment(), **environment)

    def serve(self, port: int, *options: str, **environment: str) -> Program:
        """Start a server in the foreground, as whoever runs the tests."""
        return self.start(script("alpha"), "websocket:serve", "--app", "shop:app", "--port", str(port), *options, **environment)

    def start(self, *command: str, **environment: str) -> Program:
        """Start a program in the foreground with the environment of the machine, as whoever runs the tests."""
        text = f"set -a; . config/alphavel.env; set +a; exec env {shlex.join(f'{k}={v}' for k, v in environment.items())}"
        return Program("bash", "-euc", f"{text} {shlex.join(command)}", cwd=self.folder, **self._environment())

    def _environment(self) -> dict[str, str]:
        # As after `activate`: the programs of the virtual environment are found. Nothing of the test's own may help.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ALPHAVEL_", "PYTHON"))}
        path = f"{self.folder}/.venv/bin:/usr/sbin:{os.environ['PATH']}"
        return {**kept, "PATH": path}

    def log(self, name: str) -> str:
        """What stands in a log file so far."""
        path = self.folder / "logs" / name
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def end_all(self) -> None:
        """End what still runs with a pid file in the folder, and what it started."""
        for path in self.folder.rglob("*.pid"):
            with contextlib.suppress(OSError, ValueError, psutil.Error):
                process = psutil.Process(int(path.read_text()))
                family = [process, *process.children(recursive=True)]
                for member in family:
                    member.kill()
                psutil.wait_procs(family, timeout=10)


def _make_environment(folder: Path, python: str) -> None:
    """Make a virtual environment with what is installed in that of the tests."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "tests.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name, entry in {"alpha": "alphavel.foundation.console:main", "gunicorn": "gunicorn.app.wsgiapp:run"}.items():
        module, function = entry.split(":")
        file = folder / "bin" / name
        file.write_text(f"#!{folder}/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
        file.chmod(0o755)


def python_for(user: str) -> str | None:
    """A Python of this version that a user may run: the tests' own can be in a folder that is closed to others."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    elsewhere = shutil.which(f"python{version}", path="/usr/local/bin:/usr/bin")
    who: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    for python in filter(None, [os.path.realpath(sys.executable), elsewhere]):
        with contextlib.suppress(PermissionError):
            if subprocess.run([python, "-c", "import ssl, ctypes"], check=False, timeout=60, **who).returncode == 0:
                return python
    return None


@contextlib.contextmanager
def made_site() -> Iterator[Site]:
    """A folder as a team would have it, for the length of a `with` block."""
    folder = Path(tempfile.mkdtemp(prefix="alphavel-site-"))  # pytest's own folders are closed to other users
    site = Site(folder)
    try:
        yield site
    finally:
        site.end_all()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def site() -> Iterator[Site]:
    """A folder as a team would have it."""
    with made_site() as site:
        yield site


class Clients:
    """Clients of other people and our own, in Node: see tests/node/deployed_clients.mjs."""

    def __init__(self, port: int, *, count: int, tls: bool = False, **environment: str) -> None:
        said = {"host": "localhost" if tls else "127.0.0.1", "port": port, "tls": tls}
        options = json.dumps({**said, "key": KEY, "count": count, "channel": "ticks"})
        self.count = count
        self.program = Program("node", "tests/node/deployed_clients.mjs", options, **environment)

    def now(self) -> dict[str, Any]:
        lines = self.program.output.splitlines()
        assert self.program.process.poll() is None, self.program.output
        # The last line may be half of one.
        return next((json.loads(line) for line in reversed(lines) if line.endswith("}}")), {})

    def connected(self) -> bool:
        """Whether all clients of all kinds are."""
        return [kind["connected"] for kind in self.now().values()] == [self.count] * 2

    def heard(self) -> int:
        """The last tick that all of them have heard."""
        return min((kind["heard"] for kind in self.now().values()), default=-1)

    def ids(self) -> set[str]:
        """Their socket ids, which change with each connection."""
        return {id for kind in self.now().values() for id in kind["ids"]}

    def wait_for_ticks(self, more: int = 10, timeout_s: float = 60.0) -> None:
        """Wait until all are connected and have heard so many more ticks."""
        wait_until(self.connected, timeout_s, "all clients are connected")
        heard = self.heard()
        wait_until(lambda: self.heard() >= heard + more, timeout_s, "all clients hear ticks")

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *exception: object) -> None:
        self.program.__exit__(*exception)


def limit_of_files(pid: int) -> int:
    """How many files a process may open."""
    return int(re.search(r"(?m)^Max open files +(\d+)", Path(f"/proc/{pid}/limits").read_text())[1])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
