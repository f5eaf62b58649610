"""Three wheels from one tree: each alone, all together, and what is not installed is not there."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import urllib.request
import zipfile

import pytest
from websockets.sync.client import connect

import alphavel.circuit_breaker
import alphavel.foundation
import alphavel.websocket
from scripts import wheels as building
from tests.foundation.environments import Environment, copy_of_this_tree
from tests.support import ROOT, Program, free_port

pytestmark = pytest.mark.timeout(600)  # wheels are built and environments made, on whatever machine

PACKAGES = {
    "alphavel": alphavel.foundation,
    "alphavel-websocket": alphavel.websocket,
    "alphavel-circuit-breaker": alphavel.circuit_breaker,
}
SERVERS = {"flask", "gevent", "gevent-websocket", "greenlet", "orjson", "psutil", "pyjwt", "urllib3", "werkzeug"}
LOADED = "import json, sys; print(json.dumps(sorted(sys.modules)))"


def installed_in(environment):
    """Names of the distributions in it."""
    result = environment.python("import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))")
    return set(result.stdout.split())


def loaded_by(environment, statement):
    """Top-level names of what is imported by `statement`, and every module of ours."""
    result = environment.python(f"{statement}\n{LOADED}")
    assert result.returncode == 0, result.stderr
    names = json.loads(result.stdout)
    return {name.partition(".")[0] for name in names} | {name for name in names if name.startswith("alphavel")}


def listed(environment):
    """The packages that `alpha list` shows."""
    result = environment.alpha("list")
    assert (result.returncode, result.stderr) == (0, "")
    return [line.partition(" ")[0] for line in result.stdout.splitlines() if line and not line.startswith(" ")]


# The wheels


def test_each_has_the_version_and_the_changelog_of_its_package(wheels):
    assert set(wheels) == set(PACKAGES)
    for name, wheel in wheels.items():
        with zipfile.ZipFile(wheel) as archive:
            folder = next(entry for entry in archive.namelist() if entry.endswith("/METADATA"))
            metadata = archive.read(folder).decode()
            package = PACKAGES[name].__name__.replace(".", "/")
            changelog = archive.read(f"{package}/CHANGELOG.md").decode()
        assert f"\nName: {name}\nVersion: {PACKAGES[name].__version__}\n" in metadata
        assert f"## {PACKAGES[name].__version__}" in changelog
        assert changelog.strip() in metadata


def test_every_file_of_the_tree_is_in_one_of_them_and_in_one_alone(wheels):
    packed = [
        entry for wheel in wheels.values() for entry in zipfile.ZipFile(wheel).namelist() if entry.startswith("alphavel/")
    ]
    assert len(packed) == len(set(packed))
    files = [path for path in (ROOT / "alphavel").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    there = {path.relative_to(ROOT).as_posix() for path in files if path.suffix not in (".so", ".c", ".h")}
    assert there == {entry for entry in packed if not entry.endswith(".so")}


def test_a_new_version_of_one_package_is_that_of_its_wheel_alone(tmp_path, monkeypatch):
    tree = copy_of_this_tree(tmp_path)
    source = tree / "alphavel/websocket/__init__.py"
    source.write_text(source.read_text().replace(f'"{alphavel.websocket.__version__}"', '"7.8.9"'))
    monkeypatch.setattr(building, "ROOT", tree)
    made = {distribution.name: building.setup_cfg(distribution) for distribution in building.DISTRIBUTIONS}
    assert "version = 7.8.9\n" in made["alphavel-websocket"]
    assert f"version = {alphavel.circuit_breaker.__version__}\n" in made["alphavel-circuit-breaker"]
    assert f"version = {alphavel.foundation.__version__}\n" in made["alphavel"]
    assert "alphavel-websocket>=7.8.9,<8\n" in made["alphavel"]


def test_what_development_installs_is_what_all_of_them_need_together(everything):
    """This tree's own installation, by setup.cfg, and the three wheels are two ways to the same."""
    extras = [f'extra == "{extra}"' for extra in ("websocket", "circuit-breaker", "redis")]
    development = importlib.metadata.requires("alphavel") or []
    wanted = [need for need in development if "extra ==" not in need or any(extra in need for extra in extras)]
    assert len(wanted) > 10
    code = "import importlib.metadata as m; print(*(r for d in m.distributions() if 'alphavel' in d.name for r in d.requires))"
    given = everything.python(code).stdout
    assert [need for need in wanted if need.partition(";")[0].strip() not in given] == []


# Each alone


def test_the_foundation_alone(foundation):
    assert installed_in(foundation) == {"alphavel", "click", "pyyaml"}
    assert listed(foundation) == ["alphavel.foundation"]
    for package in ("websocket", "circuit_breaker"):
        result = foundation.python(f"import alphavel.{package}")
        assert f"No module named 'alphavel.{package}'" in result.stderr
    for package, command in (("websocket", "websocket:serve"), ("circuit-breaker", "circuit-breaker:stats")):
        stderr = foundation.alpha(command).stderr
        assert f"No such command '{command}'. Is its package installed? pip install \"alphavel[{package}]\"" in stderr
    assert foundation.alpha("vendor:publish").stdout == ""


def test_the_circuit_breaker_alone(breaker, tmp_path):
    assert {"alphavel", "alphavel-circuit-breaker", "rich"} <= installed_in(breaker)
    assert not installed_in(breaker) & (SERVERS | {"alphavel-websocket"})
    assert listed(breaker) == ["alphavel.foundation", "alphavel.circuit_breaker"]
    assert "No module named 'alphavel.websocket'" in breaker.python("import alphavel.websocket").stderr
    code = """if True:
        from alphavel.circuit_breaker import CircuitBreaker
        for _ in range(5):
            try: CircuitBreaker.call("api", lambda: 1 / 0)
            except ZeroDivisionError: pass
        print(CircuitBreaker.call("api", lambda: 1 / 0, fallback=lambda: "later"), CircuitBreaker.get_state("api"))
    """
    assert breaker.python(code, cwd=tmp_path).stdout == "later open\n"
    for tag in ("circuit-breaker-config", "circuit-breaker-service"):
        assert breaker.alpha("vendor:publish", f"--tag={tag}", cwd=tmp_path).returncode == 0
    assert (tmp_path / "config/circuit_breaker.yaml").read_bytes() == (ROOT / "config/circuit_breaker.yaml").read_bytes()
    assert (tmp_path / "services/payment_service.py").is_file()


def test_the_websocket_server_alone(websocket, tmp_path):
    assert installed_in(websocket) >= SERVERS | {"alphavel", "alphavel-websocket"}
    assert not installed_in(websocket) & {"alphavel-circuit-breaker", "rich", "redis", "gunicorn"}
    assert listed(websocket) == ["alphavel.foundation", "alphavel.websocket"]
    assert "No module named 'alphavel.circuit_breaker'" in websocket.python("import alphavel.circuit_breaker").stderr
    assert websocket.alpha("vendor:publish", "--tag=websocket-config", cwd=tmp_path).returncode == 0
    assert (tmp_path / "config/websocket.yaml").read_bytes() == (ROOT / "config/websocket.yaml").read_bytes()


def test_its_server_serves_with_what_it_brings_itself(websocket, tmp_path):
    """The C extension, the JavaScript client, and a message from a Flask view to a subscriber."""
    assert websocket.python("from alphavel.websocket.transports import _reading, _writing").returncode == 0
    (tmp_path / "shop.py").write_text(
        "from flask import Flask\n"
        "from alphavel.websocket import WebSocket, blueprint\n\n"
        "app = Flask(__name__)\n"
        "app.register_blueprint(blueprint)\n\n\n"
        '@app.post("/ship")\n'
        "def ship():\n"
        '    return str(WebSocket.to_channel("orders").push({"event": "shipped", "data": {"number": 7}}))\n'
    )
    alpha = str(websocket.folder / "bin/alpha")
    port = free_port()
    with Program(alpha, "websocket:serve", "--app", "shop:app", "--host", "127.0.0.1", "--port", str(port), cwd=tmp_path) as it:
        it.wait_for("listening", 60)
        url = f"127.0.0.1:{port}"
        with urllib.request.urlopen(f"http://{url}/alphavel.js", timeout=30) as response:
            assert b"export class Alphavel" in response.read()
        with connect(f"ws://{url}/", open_timeout=30) as client:
            assert json.loads(client.recv(30))["event"] == "connected"
            client.send('{"event":"subscribe","data":{"channel":"orders"}}')
            assert json.loads(client.recv(30))["event"] == "subscribed"
            with urllib.request.urlopen(f"http://{url}/ship", b"", timeout=30) as response:
                assert response.read() == b"1"
            assert json.loads(client.recv(30))["data"] == {"number": 7}
        assert it.stop() == 0, it.output


# All together


def test_all_together(everything):
    assert listed(everything) == ["alphavel.foundation", "alphavel.circuit_breaker", "alphavel.websocket"]
    code = "import alphavel.foundation, alphavel.websocket, alphavel.circuit_breaker; print(len(alphavel.__path__))"
    result = everything.python(code)
    assert (result.stdout, result.stderr) == ("1\n", "")


def test_gunicorn_finds_the_worker_by_its_short_name(everything):
    code = "from gunicorn.util import load_class; print(load_class({0!r}, section='gunicorn.workers'))"
    for name in ("egg:alphavel#geventwebsocket", "egg:alphavel-websocket#geventwebsocket"):
        result = everything.python(code.format(name))
        assert "alphavel.websocket.gunicorn.GeventWebSocketWorker" in result.stdout, result.stderr


def test_one_can_be_taken_out_and_the_others_stay(tmp_path, wheels):
    environment = Environment(tmp_path / "venv")
    environment.install("--no-deps", *map(str, wheels.values()))
    environment.pip("uninstall", "-y", "alphavel-websocket")
    code = "import alphavel.foundation, alphavel.circuit_breaker; import alphavel.websocket"
    assert "No module named 'alphavel.websocket'" in environment.python(code).stderr


def test_a_process_that_only_sends_needs_no_server(tmp_path, wheels):
    """`alphavel[sender]` brings the whole package; here is the least that a process needs to push."""
    environment = Environment(tmp_path / "venv")
    environment.install("--no-deps", str(wheels["alphavel-websocket"]))
    environment.install(str(wheels["alphavel"]), "orjson", "urllib3")
    assert installed_in(environment) == {"alphavel", "alphavel-websocket", "click", "orjson", "pyyaml", "urllib3"}
    (tmp_path / "config").mkdir()
    (tmp_path / "config/websocket.yaml").write_text(
        "broadcasting: {driver: http, http: {url: 'http://127.0.0.1:9'}}\napps: [{id: 1, key: key, secret: secret}]\n"
    )
    code = 'from alphavel.websocket import WebSocket\nWebSocket.to_channel("orders").push({"event": "shipped"})'
    result = environment.python(code, cwd=tmp_path)
    assert "alphavel.websocket.errors.BroadcastError" in result.stderr  # it tried: nobody listens on port 9


# What is not used costs nothing


def test_what_is_installed_beside_it_costs_no_import(foundation, websocket, breaker, everything):
    """The same statements load the same modules, whatever else is installed: there is no start-up time to pay."""
    for statement, alone in {
        "import alphavel.foundation": foundation,
        "import alphavel.foundation.console": foundation,
        "from alphavel.websocket import WebSocket, WebSocketSettings": websocket,
        "from alphavel.circuit_breaker import CircuitBreaker, CircuitBreakerManager": breaker,
    }.items():
        assert loaded_by(everything, statement) == loaded_by(alone, statement), statement


def test_listing_the_commands_of_one_package_loads_nothing_of_the_servers(breaker, everything):
    statement = "import sys\nsys.argv = ['alpha', 'list']\nfrom alphavel.foundation.console import alpha\n"
    statement += "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()): alpha(standalone_mode=False)"
    heavy = {"flask", "gevent", "jwt", "orjson", "psutil", "redis", "rich", "urllib3", "cryptography"}
    assert not loaded_by(breaker, statement) & heavy
    assert not loaded_by(everything, statement) & heavy


# Somebody else's


def test_somebody_elses_provider_is_discovered_once_it_is_installed(tmp_path, wheels):
    environment = Environment(tmp_path / "venv")
    environment.install(str(wheels["alphavel"]), str(copied_provider(tmp_path)))
    assert listed(environment) == ["alphavel.foundation", "alphavel_maintenance"]
    assert environment.alpha("vendor:publish", "--tag=maintenance-config", cwd=tmp_path).returncode == 0
    code = """if True:
        import sys
        from flask import Flask
        from alphavel.foundation import Alphavel
        from alphavel_maintenance import Maintenance
        app = Flask(__name__)
        Alphavel(app)
        answer = app.test_client().get("/")
        print(answer.status_code, answer.headers.get("Retry-After"))
    """
    assert environment.python(code, cwd=tmp_path).stdout == "404 None\n"
    assert environment.alpha("maintenance:down", cwd=tmp_path).returncode == 0
    result = environment.python(code, cwd=tmp_path)
    assert (result.stdout, result.stderr) == ("503 60\n", "")
    assert environment.alpha("maintenance:up", cwd=tmp_path).returncode == 0
    assert environment.python(code, cwd=tmp_path).stdout == "404 None\n"
    (tmp_path / "config/maintenance.yaml").write_text("retry_after: soon\n")
    wrong = environment.alpha("maintenance:down", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "config/maintenance.yaml: retry_after: expected a whole number of seconds" in wrong.stderr


def copied_provider(folder):
    return shutil.copytree(
        ROOT / "examples/provider", folder / "provider", ignore=shutil.ignore_patterns("build", "*.egg-info")
    )
