"""The peers: how each is started, and how a client joins."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contestants import PUSHER, Contestant
from benchmarks.load import BUILD
from benchmarks.processes import python

HERE = Path(__file__).parent
PYTHON = BUILD / "peers/bin/python"
SWOOLE = BUILD / "swoole-src/modules/swoole.so"

SOCKETIO = ("--path", "/socket.io/?EIO=4&transport=websocket", "--greeting", "0{", "--subscribe", "40", "--ready", "40{")


def peers() -> list[Contestant]:
    """All of them, whether they are installed here or not."""
    return [
        _python("picows", "picows", "picows_server"),
        _python("picows, uvloop", "picows", "picows_server", "uvloop"),
        _python("websockets", "websockets", "websockets_server"),
        _python("websockets, uvloop", "websockets", "websockets_server", "uvloop"),
        _python("socketify", "socketify", "socketify_server"),
        _python("Flask-SocketIO, gevent", "Flask-SocketIO", "flask_socketio_server", join=(*SOCKETIO, "--socketio")),
        _python("flask-sock, gevent", "flask-sock", "flask_sock_server"),
        _node("ws", "ws", "ws.js"),
        _node("ws, prepared frame", "ws", "ws.js", "prepared"),
        _node("uWebSockets", "uwebsockets", "uwebsockets.js"),
        _posted("nchan", _debian("libnginx-mod-nchan"), ()),
        _posted("soketi", f"@soketi/soketi {_npm('@soketi/soketi')}", PUSHER),
        _swoole("Swoole, base", "base"),
        _swoole("Swoole, process", "process"),
        _swoole("Swoole, base, packed by hand", "base", "packed"),
    ]


def _python(name: str, package: str, module: str, *arguments: str, join: Sequence[str] = ()) -> Contestant:
    def command(port: int) -> list[str]:
        return python(f"benchmarks.peers.{module}", str(port), *arguments, interpreter=str(PYTHON))

    return Contestant(name, command, f"{package} {_pypi().get(package.lower(), 'not installed')}", join, echoes=not join)


def _node(name: str, package: str, script: str, *arguments: str) -> Contestant:
    return Contestant(
        name, lambda port: ["node", str(HERE / "node" / script), str(port), *arguments], f"{package} {_npm(package)}"
    )


def _posted(name: str, version: str, join: Sequence[str]) -> Contestant:
    return Contestant(
        name,
        lambda port: python("benchmarks.peers.http_publisher", name, str(port)),
        version,
        join,
        publishes_from_outside=True,
        echoes=False,
    )


def _swoole(name: str, mode: str, *arguments: str) -> Contestant:
    return Contestant(
        name,
        lambda port: ["php", "-d", f"extension={SWOOLE}", str(HERE / "swoole.php"), str(port), mode, *arguments],
        f"Swoole {_swoole_version()}",
    )


@functools.cache
def _pypi() -> dict[str, str]:
    listed = _output(str(PYTHON), "-m", "pip", "list", "--format=json", "--disable-pip-version-check")
    return {package["name"].lower(): package["version"] for package in json.loads(listed or "[]")}


def _npm(package: str) -> str:
    path = HERE / "node/node_modules" / package / "package.json"
    return str(json.loads(path.read_text())["version"]) if path.exists() else "not installed"


def _debian(package: str) -> str:
    return f"{package} {_output('dpkg-query', '-W', '-f', '${Version}', package) or 'not installed'}"


@functools.cache
def _swoole_version() -> str:
    return _output("php", "-d", f"extension={SWOOLE}", "-r", "echo swoole_version();") if SWOOLE.exists() else "not installed"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
