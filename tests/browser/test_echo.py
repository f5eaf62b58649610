"""
Laravel Echo and pusher-js as they are, in Node.js and in Chromium: what they see, and the state they end in.

The scenarios are in tests/echo/scenarios.mjs, the application they talk to beside them.
"""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Server
from tests.support import ROOT, Program, free_port, script, wait_until

ECHO = ROOT / "tests/echo"
ANN, BOB = {"name": "Ann"}, {"name": "Bob"}

# What each scenario says, what states its clients end in, and which error codes they were told.
EXPECTED = {
    "public": ([[["App\\Events\\OrderShipped", {"id": 1}], ["order.shipped", {"id": 2}]]], ["connected"], []),
    "private": ([[{"to": "all"}], "left"], ["connected"], []),
    "presence": ([[ANN], [ANN, BOB], [["ann", "joining", BOB], ["ann", "leaving", BOB]]], ["connected"] * 2, []),
    "whisper": ([[["bob", {"name": "Ann"}, {"user_id": "ann"}]]], ["connected"] * 2, []),
    "flood": (["told"], ["connected"], [4301]),
    "encrypted": ([[{"id": 7}]], ["connected"], []),
    "cache": (["miss", {"euro": 5}], ["connected"] * 2, []),
    "count": ([{"subscription_count": 1}, {"subscription_count": 2}, 2], ["connected"] * 2, []),
    "signin": (
        [
            [
                {"id": "ann", "user_info": ANN, "watchlist": ["bob"]},
                [["offline", ["bob"]], ["online", ["bob"]], ["offline", ["bob"]]],
                {"from": "server"},
            ],
            [1, {"id": "ann", "info": ANN}],
        ],
        ["disconnected"] * 2,
        [4009],
    ),
    "unauthorized": ([["AuthError", 403]] * 3, ["connected"] * 2, []),
    "forged": ([["AuthError", 401], None], ["connected"] * 2, [4009]),
    "wrong_key": ([["disconnected"]], ["disconnected"], [4001]),
    "over_the_limit": (["refused"], ["connected", "disconnected"], [4004]),
    "full_room": (
        [{"type": "LimitReached", "error": "The channel takes at most 2 members.", "status": 429}, "room for another"],
        ["connected"] * 3,
        [],
    ),
    "recover": ([[1, 2, 3, 4], "lost", 25, {}], ["connected"] * 2, []),
    "reconnect": (["ready", [[{"after": "the restart"}], [[ANN], [ANN]], True, "connected", False], True], ["connected"], []),
}  # fmt: skip
KEYS = {"wrong_key": "nobody", "over_the_limit": "crowded"}


def command(port):
    return [script("alpha"), "websocket:serve", "--app", "echo_app:app", "--host", "127.0.0.1", "--port", str(port)]


@pytest.fixture(scope="module")
def server():
    """One server for all scenarios; nobody is connected when one begins."""
    server = Server(command, free_port(), ECHO, {})
    yield server
    server.stop()


def nobody_is_connected(server):
    with urllib.request.urlopen(f"{server.url}connections", timeout=30) as answer:
        return json.load(answer) == {"connections": 0}


@pytest.fixture(params=["node", "chromium"])
def start(request, server):
    """`start(name)` starts a scenario and returns a function that returns what it has said so far."""
    programs = []

    def in_node(name):
        node = shutil.which("node") or "node"
        programs.append(Program(node, str(ECHO / "run.mjs"), name, KEYS.get(name, "app-key"), server.url.rstrip("/")))

        def said():
            whole = programs[-1].output.rpartition("\n")[0]
            return [json.loads(line) for line in whole.splitlines()]

        return said

    page = request.getfixturevalue("open_page")() if request.param == "chromium" else None

    def in_chromium(name):
        page.open(server.url)
        page.until("window.run !== undefined")
        page.js("run(arguments[0], arguments[1]); return null", name, KEYS.get(name, "app-key"))
        return lambda: page.js("return log")

    yield in_node if request.param == "node" else in_chromium
    for program in programs:
        program.stop()
    if request.param == "chromium":
        page.open("about:blank")
    wait_until(lambda: nobody_is_connected(server), what="nobody is connected")


@pytest.mark.parametrize("name", EXPECTED)
def test_scenario(start, server, name):
    said = start(name)
    if name == "reconnect":
        wait_until(lambda: "ready" in said(), 30)
        server.stop()
        server.start()
    wait_until(lambda: "end" in said(), 60, f"{name} ended; so far: {said()}")
    happened, states, errors = EXPECTED[name]
    assert said() == [*happened, {"states": states, "errors": errors}, "end"]


def test_page_of_another_origin_is_closed_and_stays_away(serve, server, open_page):
    other = serve("echo_app:app", cwd=ECHO)
    page = open_page(other.url)
    page.until("window.run !== undefined")
    result = page.js(
        """const client = new Pusher("app-key", {cluster: "", wsHost: "127.0.0.1", wsPort: arguments[0], forceTLS: false,
                                                 enabledTransports: ["ws"]});
        return new Promise((resolve) => client.connection.bind("error", (error) => setTimeout(
            () => resolve([(error.data ?? error.error.data).code, client.connection.state]), 1200)));""",
        server.port,
    )
    assert result == [4009, "disconnected"]


def the_demo(port):
    return [sys.executable, "-m", "examples.demo", "--port", str(port)]


def test_people_of_both_pages_of_the_demo_meet(serve, open_page):
    demo = serve(command=the_demo)
    ada, bob = open_page(demo.url), open_page(f"{demo.url}echo")
    ada.find("#name").send_keys("Ada")
    ada.find("#sign-in button").click()
    ada.find("#connection-text", "Live")
    bob.find("#name").send_keys("Bob")
    bob.find("#sign-in button").click()
    bob.find("#people", "Ada, Bob")
    bob.find("#state", "connected")
    ada.find(".news", "Bob came in")
    bob.find("#text").send_keys("Hello from Echo", Keys.ENTER)
    ada.find("#log", "Hello from Echo")
    ada.find("#composer-text").send_keys("Hello to Echo")
    bob.find("#typing", "Ada is typing")
    ada.find("#composer-text").send_keys(Keys.ENTER)
    bob.find("#log", "Ada: Hello to Echo")
    assert bob.accessibility_violations() == []
    bob.open("about:blank")
    ada.find(".news", "Bob left")
    assert ada.errors() == bob.errors() == []


def test_the_demos_page_for_echo_says_what_it_lacks_where_neither_machine_nor_cdn_has_it(serve, open_page, tmp_path):
    wrong = tmp_path / "pusher-js/dist/web/pusher.min.js"
    wrong.parent.mkdir(parents=True)
    wrong.write_text("window.Pusher = Object")  # not what its hash says: it is not handed out
    demo = serve(command=the_demo, ALPHAVEL_DEMO_LIBRARIES=str(tmp_path))
    page = open_page()
    page.cdp("Network.enable")
    page.cdp("Network.setBlockedURLs", urls=["*cdn.jsdelivr.net*"])
    try:
        page.open(f"{demo.url}echo")
        page.find("#error", "npm install laravel-echo@2.5.0 pusher-js@8.6.0")
        assert not page.shows("#sign-in")
        assert all("cdn.jsdelivr.net" in error for error in page.errors())
    finally:
        page.cdp("Network.setBlockedURLs", urls=[])
