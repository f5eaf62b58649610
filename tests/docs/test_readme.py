"""
README.md, word for word: its commands in a fresh clone with an empty virtual environment, its code in the files it names.

All but `make test`, which runs this. Two things are said in the environment: where the wheels of this tree are, which are on no
index yet, and which ports are free.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request

import pytest
from websockets.sync.client import connect

from scripts.figures import readme
from tests.foundation.environments import Environment
from tests.packaging.conftest import build_wheels
from tests.support import ROOT, Program, wait_until

pytestmark = pytest.mark.timeout(600)  # it installs, on whatever machine

README = (ROOT / "README.md").read_text()


def part(title):
    """The part of README.md under a heading."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def commands(text):
    """The indented lines outside of code, without what is said about them."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [line.partition("  # ")[0].strip() for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE)]


def code(text, language):
    """The blocks of code, `{file: content}`; the file is named in the first line, where it is."""
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return {re.sub(r"^# (\S+\.py)$.*", r"\1", block.partition("\n")[0]): block for block in blocks}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What a clone has: no environment, nothing built."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone itself: nothing says what belongs to one")
    folder = tmp_path_factory.mktemp("clone")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory, clone):
    """A folder with the wheels, for pip."""
    folder = tmp_path_factory.mktemp("index")
    build_wheels(folder, clone)
    return folder


@pytest.fixture
def installed(tmp_path, index):
    """`installed('pip install "alphavel[websocket]"')` runs the command for an empty environment."""

    def install(command):
        program, verb, *what = re.findall(r'"[^"]*"|\S+', command)
        assert (program, verb) == ("pip", "install")
        environment = Environment(tmp_path / "venv")
        environment.install("--find-links", str(index), *(word.strip('"') for word in what))
        return environment

    return install


def get(url, data=None):
    with urllib.request.urlopen(url, data, timeout=30) as response:
        return response.status, response.read()


def test_make_demo_starts_what_answers_at_the_printed_address(clone):
    assert commands(part("Try it")) == ["make demo", "make test"]
    # MAKEFLAGS: what `make test` was given is not for this one.
    with Program("make", "demo", cwd=clone, PYTHONWARNINGS="", MAKEFLAGS="") as demo:
        said = demo.wait_for("Ctrl+C stops it.", 300)
        address = re.search(r"Open (http://\S+) in two browsers", said)[1]
        assert b"<title>" in get(address)[1]
        assert b"export class Alphavel" in get(f"{address}alphavel.js")[1]
    wait_until(lambda: not answers(address), 30, "the demo has ended")


def answers(address):
    try:
        get(address)
    except OSError:
        return False
    return True


def test_the_minute_with_websockets(installed, serve, tmp_path):
    text = part("WebSockets in 60 seconds")
    install, start = commands(text)
    environment = installed(install)
    for file, content in code(text, "python").items():
        (tmp_path / file).write_text(content)
    assert start == "alpha websocket:serve --app shop:app"
    server = serve("shop:app", cwd=tmp_path, alpha=str(environment.folder / "bin/alpha"))
    module = re.search(r'import \{ Alphavel \} from "(\S+)";', code(text, "html")['<script type="module">'])[1]
    assert b"export class Alphavel" in get(f"http://{server.address}{module}")[1]
    with connect(f"ws://{server.address}/", open_timeout=30) as client:
        assert json.loads(client.recv(30))["event"] == "connected"
        client.send('{"event":"subscribe","data":{"channel":"orders"}}')
        assert json.loads(client.recv(30))["event"] == "subscribed"
        assert get(f"http://{server.address}/orders/7/ship", b"")[0] == 204
        assert json.loads(client.recv(30)) == {"event": "order-shipped", "channel": "orders", "data": {"number": 7}}
        client.send('{"event":"subscribe","data":{"channel":"private-user.7"}}')
        assert json.loads(client.recv(30))["code"] == 4009


def test_the_minute_with_a_circuit_breaker(installed, tmp_path):
    text = part("A circuit breaker in 60 seconds")
    (install,) = commands(text)
    environment = installed(install)
    ((file, content),) = code(text, "python").items()
    (tmp_path / file).write_text(content)
    program = f"""if True:
        import runpy
        charge = runpy.run_path({str(tmp_path / file)!r})["charge"]
        for _ in range(5):
            try:
                charge({{}})
            except OSError as error:  # as all exceptions of requests are
                assert "ProxyError" in repr(error), repr(error)
        print(charge({{}}))
    """
    # Nobody is to be asked: there is no proxy at this port.
    result = environment.python(program, cwd=tmp_path, HTTPS_PROXY="http://127.0.0.1:9", NO_PROXY="")
    assert (result.stdout, result.stderr) == ("{'status': 'queued'}\n", "")


def test_the_figures_are_those_of_the_benchmarks():
    assert readme() == README, "run make reference"


def test_what_it_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []
