"""The code in the documentation: Python is run, JavaScript and TypeScript are parsed, commands and settings are known ones."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import time
import urllib.request

import click
import jwt
import pytest
from websockets.sync.client import connect

from alphavel.circuit_breaker.settings import load
from alphavel.foundation.config import parse
from alphavel.foundation.console import alpha
from tests.docs.stages import STAGES
from tests.support import ROOT, python, run

PAGES = {
    path.relative_to(ROOT).as_posix().removeprefix("docs/"): path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("README.md"))]
}
RUN_ELSEWHERE = {
    "README.md": "test_readme.py",
    "circuit-breaker.md": "tests/circuit_breaker/integrations/test_docs.py",
    "http-api.md": "below",
    "quick-start.md": "below",
}


def blocks(page, *languages):
    return [
        code
        for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)
        if language in languages
    ]


def having(*languages):
    return [page for page in PAGES if blocks(page, *languages)]


# Python


@pytest.mark.parametrize("page", STAGES)
def test_the_python_of_the_page_runs(page, tmp_path):
    before, after = STAGES[page]
    code = "\n".join(blocks(page, "python")).replace('"5f0c…"', "EPOCH")
    result = run(python(), "-W", "error", "-c", before + code + after, cwd=tmp_path, ALPHAVEL_RUN_DIR=str(tmp_path / "run"))
    assert result.returncode == 0, result.stderr


def test_the_python_of_pages_that_are_not_run_is_python():
    """A page that is new: give it a stage in stages.py."""
    for page in set(having("python")) - {*STAGES, *RUN_ELSEWHERE}:
        for code in blocks(page, "python"):
            ast.parse(code)


def told(client):
    return json.loads(client.recv(30))


def test_the_quick_start(serve, tmp_path):
    *websockets, breaker = blocks("quick-start.md", "python")
    (tmp_path / "shop.py").write_text("\n".join(websockets))
    secret = "a secret of more than thirty-two bytes"
    server = serve("shop:app", cwd=tmp_path, ALPHAVEL_JWT_SECRET=secret)
    token = jwt.encode({"sub": "7", "name": "Ann", "exp": int(time.time()) + 600}, secret, "HS256")
    with connect(f"ws://{server.address}/?token={token}", open_timeout=30) as client:
        assert told(client)["event"] == "connected"
        for channel in ("orders", "private-user.7", "presence-orders"):
            client.send(json.dumps({"event": "subscribe", "data": {"channel": channel}}))
            assert (channel, told(client)["event"]) == (channel, "subscribed")
        client.send('{"event":"subscribe","data":{"channel":"private-user.8"}}')
        assert told(client)["code"] == 4009
        with urllib.request.urlopen(f"http://{server.address}/orders/7/ship", b"", timeout=30) as response:
            assert json.loads(response.read()) == {"told": 1}
        assert told(client) == {"event": "order-shipped", "channel": "orders", "data": {"number": 7}}
        with urllib.request.urlopen(f"http://{server.address}/watching", timeout=30) as response:
            assert json.loads(response.read())[0]["info"] == {"name": "Ann"}
    after = """
for _ in range(5):
    try:
        track(7)
    except ConnectionError:
        pass
assert track(7) == {"status": "we will tell you"}
"""
    result = run(python(), "-c", breaker + after, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_libraries_of_the_page_about_the_http_api_publish(serve, tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/websocket.yaml").write_text("apps: [{id: 1, key: app-key, secret: app-secret}]\n")
    (tmp_path / "shop.py").write_text("from flask import Flask\n\napp = Flask(__name__)\n")
    server = serve("shop:app", cwd=tmp_path)
    port = server.address.partition(":")[2]
    with connect(f"ws://{server.address}/", open_timeout=30) as client:
        assert told(client)["event"] == "connected"
        client.send('{"event":"subscribe","data":{"channel":"orders"}}')
        assert told(client)["event"] == "subscribed"
        for language, command in (("python", [python(), "-c"]), ("js", ["node", "--input-type=module", "-e"])):
            (code,) = blocks("http-api.md", language)
            result = run(*command, code.replace("9501", port), cwd=ROOT / "tests/node")
            assert result.returncode == 0, result.stderr
            assert told(client) == {"event": "order.shipped", "channel": "orders", "data": {"id": 7}}


# JavaScript and TypeScript

PARSE = """
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
const typescript = createRequire(`${process.cwd()}/`)("typescript");
const target = typescript.ScriptTarget.ESNext;
for (const [name, code] of Object.entries(JSON.parse(readFileSync(0)))) {
  const options = { reportDiagnostics: true, compilerOptions: { target, module: target } };
  const { diagnostics } = typescript.transpileModule(code, options);
  for (const { messageText } of diagnostics) console.log(`${name}: ${messageText}`);
}
"""


def test_the_javascript_can_be_parsed():
    snippets = {
        f"{page} {number}": code.replace("…", "undefined")
        for page in PAGES
        for number, code in enumerate(blocks(page, "js", "ts", "javascript"), 1)
    }
    assert len(snippets) > 5
    snippets["nonsense"] = "const = 5"
    command = ["node", "--input-type=module", "-e", PARSE]
    text = json.dumps(snippets)
    found = subprocess.run(
        command, input=text, cwd=ROOT / "tests/node", capture_output=True, text=True, check=False, timeout=60
    )
    assert found.stderr == ""
    problems = found.stdout.splitlines()
    assert any(problem.startswith("nonsense: ") for problem in problems)
    assert [problem for problem in problems if not problem.startswith("nonsense: ")] == []


# Data


@pytest.mark.parametrize("page", having("json"))
def test_the_json_is_json(page):
    for block in blocks(page, "json"):
        try:
            json.loads(block)
        except json.JSONDecodeError:
            for line in block.splitlines():  # one message a line
                json.loads(line)


@pytest.mark.parametrize("page", having("yaml"))
def test_settings_of_the_circuit_breaker_are_known_ones(page):
    """Those of the WebSocket server: tests/websocket/test_docs.py."""
    for block in blocks(page, "yaml"):
        if block.startswith("# config/circuit_breaker.yaml"):
            load(parse(block, page), page)


# Commands


def command_lines(page):
    """What begins with `alpha` in a line of its own, or in a span of code."""
    text = PAGES[page]
    lines = re.findall(r"^(?: {4}|\$ )?(alpha .+)$", text, re.MULTILINE) + re.findall(r"`(alpha [^`]+)`", text)
    return [re.sub(r"\s(#|>|\|\s|&&).*", "", line).strip() for line in lines]


@pytest.mark.parametrize("page", [page for page in PAGES if command_lines(page)])
def test_commands_and_their_options_are_there(page):
    context = click.Context(alpha)
    for line in command_lines(page):
        words = [word for word in shlex.split(line)[1:] if word not in ("…", "…:", "[OPTIONS]")]
        while words and words[0].startswith("--"):  # alpha --config DIR COMMAND
            words = words[2:]
        if not words or "…" in words[0] or words[0] in ("COMMAND", "[OPTIONS]") or words[0].startswith("maintenance:"):
            continue
        command = alpha.get_command(context, words[0])
        assert command is not None, f"{page}: {line}"
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        given = {re.split(r"[=\]]", word.lstrip("["))[0] for word in words[1:] if word.lstrip("[").startswith("--")}
        assert given <= options, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_are_there(page):
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^ {4}|`)make ([a-z][a-z0-9-]*)", PAGES[page], re.MULTILINE)
    assert set(named) <= targets


def test_contributors_are_told_of_every_suite():
    suites = re.search(r"^SUITES = (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    told = re.findall(r"^\| `([a-z_]+)` \|", (ROOT / "docs/contributing.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted(suites)


# Names


def test_what_is_called_on_the_facades_is_there():
    from alphavel.circuit_breaker import CircuitBreakerManager
    from alphavel.websocket import WebSocketServer

    server = WebSocketServer()
    for page, text in PAGES.items():
        for facade, thing in (("WebSocket", server), ("CircuitBreaker", CircuitBreakerManager)):
            # A slash before it: a path. What goes on with a capital letter is another name.
            names = set(re.findall(rf"(?<![\w/.]){facade}\.([a-z]\w+)", text))
            assert [name for name in names if not hasattr(thing, name)] == [], page
