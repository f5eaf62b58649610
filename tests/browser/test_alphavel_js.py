"""alphavel.js in a browser: what only browsers do, such as losing the network, hiding a page and keeping one that was left."""

from __future__ import annotations

import pytest

from tests.support import wait_until

APP = """
from flask import Flask
from alphavel.websocket import WebSocket, blueprint

app = Flask(__name__)
app.register_blueprint(blueprint)

@app.get("/")
def page():
    return "<!doctype html><link rel=icon href=data:,><title>A page</title>"

@app.get("/people")
def people():
    return {"connections": WebSocket.get_stats()["connections"]}

@WebSocket.event("close me")
def close_me(connection, code):
    connection.close(code)

@WebSocket.event("echo")
def echo(connection, data):
    connection.send({"event": "echoed", "data": data})
"""

START = """
const [options] = arguments;
return import("/alphavel.js").then(async ({ Alphavel }) => {
  window.client = new Alphavel("/", options);
  window.seen = [];
  client.addEventListener("close", ({ detail }) => seen.push(`closed ${detail.code} ${detail.reason}`));
  client.on("pong", () => seen.push("pong"));
  client.on("echoed", (data) => seen.push(data));
  await client.subscribe("news");
});
"""
# A wait that no test would survive: what comes back does so for another reason.
PATIENT = {"backoffMs": 3_600_000, "maxBackoffMs": 3_600_000}


@pytest.fixture
def server(serve, tmp_path):
    (tmp_path / "shop.py").write_text(APP)
    return serve("shop:app", cwd=tmp_path)


def test_connects_where_the_page_comes_from(server, open_page):
    page = open_page(server.url)
    page.js(START, {})
    assert page.js("return [client.state, client.channel('news').subscribed]") == ["connected", True]
    page.js("return client.send('echo', 'héllo')")
    page.until("seen.includes('héllo')")
    page.js("client.on('echoed', () => { throw new Error('a bug of the page') }); return client.send('echo', 'still here')")
    page.until("seen.includes('still here')")
    assert ["a bug of the page" in error for error in page.errors()] == [True]


def test_comes_back_as_soon_as_the_network_does(server, open_page):
    page = open_page(server.url)
    page.js(START, PATIENT)
    page.js("client.send('close me', 4500)")
    page.until("client.state === 'waiting'")
    for offline in (True, False):
        page.cdp("Network.enable")
        page.cdp("Network.emulateNetworkConditions", offline=offline, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    page.until("client.state === 'connected' && client.channel('news').subscribed")


def test_asks_the_server_when_the_network_seems_to_have_gone(server, open_page):
    page = open_page(server.url)
    page.js(START, {**PATIENT, "pongTimeoutMs": 60_000})
    page.js("dispatchEvent(new Event('offline'))")
    page.until("seen.includes('pong')")
    assert page.js("return client.state") == "connected"


def test_looks_after_its_connection_when_the_page_is_looked_at_again(server, open_page):
    page = open_page(server.url)
    page.js(START, PATIENT)
    window = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")  # hides the first one
    page.driver.close()
    page.driver.switch_to.window(window)
    page.until("document.visibilityState === 'visible' && seen.includes('pong')")
    page.js("client.send('close me', 4500)")
    page.until("client.state === 'waiting'")
    page.js("document.dispatchEvent(new Event('visibilitychange'))")
    page.until("client.state === 'connected'")


def test_is_gone_when_its_page_is_left_and_back_when_one_goes_back(server, open_page):
    page, other = open_page(server.url), open_page(server.url)
    page.js(START, PATIENT)
    page.js("window.mark = 'the same page'")
    page.open(f"{server.url}health")
    count = "fetch('/people').then((answer) => answer.json()).then(({ connections }) => connections)"
    wait_until(lambda: other.js(f"return {count}") == 0, what="the page that was left is disconnected")
    page.driver.back()
    page.until("window.mark === 'the same page' && client.state === 'connected' && client.channel('news').subscribed")
    assert other.js(f"return {count}") == 1


def test_a_server_that_asks_to_stay_away_is_left_alone(server, open_page):
    page = open_page(server.url)
    page.js(START, {})
    page.js("client.send('close me', 4001)")
    page.until("client.state === 'closed'")
    page.js("dispatchEvent(new Event('online')); document.dispatchEvent(new Event('visibilitychange'))")
    assert page.js("return client.state") == "closed"
