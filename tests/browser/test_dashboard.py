"""The dashboard as an operator meets it: charts that move, a console, switches, in light and dark, on a phone."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.request

import jwt
import pytest

from tests.support import wait_until
from tests.websocket.clients import Client

KEY = "a key that is only known here, and long enough"
PASSWORD = "only for operators"
ATTACK = "<img src=x onerror=\"document.title='broken into'\"><script>document.title='broken into'</script>"
SHOP = """
from flask import Flask
from alphavel.circuit_breaker import CircuitBreaker
from alphavel.foundation import Alphavel
from alphavel.websocket import WebSocket

app = Flask(__name__)
Alphavel(app)

@WebSocket.channel("presence-{room}")
def anybody(user, room):
    return {"name": user.claims["name"]}

@app.get("/call/<service>/<outcome>")
def call(service, outcome):
    def work():
        if outcome == "fail":
            raise OSError("the line is dead")
    try:
        CircuitBreaker.call(service, work)
    except Exception as error:
        return type(error).__name__
    return "ok"
"""


@pytest.fixture
def shop(serve, tmp_path):
    (tmp_path / "shop.py").write_text(SHOP)
    return serve("shop:app", cwd=tmp_path, ALPHAVEL_JWT_SECRET=KEY, ALPHAVEL_DASHBOARD_PASSWORD=PASSWORD)


@pytest.fixture
def enter(shop, open_page):
    """`enter()` opens the dashboard as somebody does who has typed the password."""

    def enter():
        page = open_page(shop.url.replace("http://", f"http://ada:{PASSWORD.replace(' ', '%20')}@") + "alphavel/dashboard/")
        page.open(f"{shop.url}alphavel/dashboard/")  # the browser knows the password now, as it would from its own question
        page.find("#status", "Live")
        return page

    return enter


@pytest.fixture
def join(shop):
    """`join("Ada", "presence-lobby", …)` connects somebody and returns the connection."""
    with contextlib.ExitStack() as stack:

        def join(name, *channels):
            token = jwt.encode({"sub": name, "name": name, "exp": time.time() + 600}, KEY, "HS256")
            client = stack.enter_context(Client(shop.port, f"/?token={token}"))
            for channel in channels:
                client.send("subscribe", {"channel": channel})
                client.events("subscribed")
            return client

        yield join


def call(shop, service, outcome="succeed"):
    with urllib.request.urlopen(f"{shop.url}call/{service}/{outcome}", timeout=15) as answer:
        return answer.read().decode()


def test_channels_and_members_come_and_go(enter, join):
    page = enter()
    page.find("#channels-found", "0")
    ada = join("Ada", "presence-lobby", "news")
    join("Bob", "presence-lobby")
    page.until("document.querySelector('#channels tbody')?.innerText.includes('presence-lobby')")
    row = page.find("#channels tbody tr", "presence-lobby")
    page.until("[...document.querySelectorAll('#channels tr')].some((row) => /lobby\\s+presence\\s+2/.test(row.innerText))")
    row.find_element("css selector", "button").click()
    page.find("#members li", "Ada (Ada)")
    page.find("#members li", "Bob (Bob)")
    ada.close()
    page.until("!document.querySelector('#members').innerText.includes('Ada')")
    page.find("#filter").send_keys("nothing like it")
    page.until("document.querySelectorAll('#channels tbody tr').length === 0")
    assert page.errors() == []


def test_the_console_shows_what_is_sent_and_sends(enter, join):
    page, ada = enter(), join("Ada", "news")
    page.find("#channel").send_keys("news")
    page.find("#watch button").click()
    page.find("#watched", "Watching news")
    page.until("document.getElementById('watched').textContent === 'Watching news'")
    page.find("#event").send_keys("headline")
    data = page.find("#data")
    data.clear()
    data.send_keys('{"text": "hello"')
    page.find("#send button").click()
    page.find("#sent", "The data is not JSON")
    data.send_keys("}")
    page.find("#send button").click()
    page.find("#sent", "Sent; 1 connections")
    assert ada.events("headline")[-1]["data"] == {"text": "hello"}
    page.find("#events li", "headline")
    page.find("#events pre", '{"text":"hello"}')
    assert page.errors() == []


def test_what_strangers_call_things_stays_text(enter, join, shop):
    page = enter()
    join(ATTACK, "presence-lobby")
    call(shop, "payment%20%3Cb%3Eapi", "fail")
    page.find("#circuits tbody tr", "payment <b>api")
    page.find("#channels button", "presence-lobby").click()
    page.find("#members li", ATTACK)
    page.find("#event").send_keys(ATTACK)
    page.find("#send button").click()
    page.find("#events strong", ATTACK)
    assert page.js("return document.querySelectorAll('main img, main script, main b').length") == 0
    assert page.driver.title == "Alphavel dashboard"
    assert page.errors() == []  # nothing for the Content-Security-Policy to stop


def test_circuits_are_switched_and_what_refuses_calls_is_asked_twice(enter, shop):
    page = enter()
    assert not page.shows("#circuits-section tbody tr")
    for _ in range(5):
        call(shop, "payment-api", "fail")
    page.find("#circuits .state", "open")
    page.find("#circuits td", "OSError: the line is dead")
    page.find("button[aria-label='close payment-api']").click()
    page.find("#circuits .state", "closed")
    assert call(shop, "payment-api") == "ok"
    isolate = page.find("button[aria-label='isolate payment-api']")
    isolate.click()
    page.find("button.sure", "sure?")
    assert page.shows("#circuits .state", "closed")
    # On a busy machine the four seconds to be sure may be over before the second click: then it asks once more.
    click = "const sure = arguments[0].classList.contains('sure'); arguments[0].click(); return sure"
    wait_until(lambda: page.js(click, isolate), 45)
    page.find("#circuits .state", "isolated")
    assert call(shop, "payment-api") == "CircuitOpenError"
    page.find("button[aria-label='reset payment-api']").click()
    page.find("#circuits .state", "closed")
    assert call(shop, "payment-api") == "ok"
    assert page.errors() == []


def test_a_server_that_goes_is_said_to_be_gone_and_found_again(enter, shop):
    page = enter()
    shop.stop()
    page.find("#status", "No answer")
    shop.start()
    page.find("#status", "Live", timeout_s=40)


def test_charts_move_in_light_and_dark_and_on_a_phone(enter, join, shop):
    page = enter()
    for number in range(8):
        join(f"Person {number}", "presence-lobby", *(["news"] if number % 2 else []), f"orders.{number}")
    for service, outcomes in (("payment-api", ["succeed"] * 7), ("mail", ["fail"] * 6), ("search", ["succeed", "fail"])):
        for outcome in outcomes:
            call(shop, service, outcome)
    page.find("#channels button", "presence-lobby").click()
    page.find("#members li", "Person 7")
    ended = threading.Event()

    def push():
        headers = {"X-Alphavel-Dashboard": "1", "Content-Type": "application/json"}
        manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
        manager.add_password(None, shop.url, "ada", PASSWORD, is_authenticated=True)
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
        for number in range(10_000):
            if ended.wait(0.05 + 0.1 * (number % 7 == 0)):
                return
            content = {"channel": "presence-lobby", "event": "message", "data": {"id": number, "text": "Hello, everybody"}}
            request = urllib.request.Request(f"{shop.url}alphavel/dashboard/push", json.dumps(content).encode(), headers)
            opener.open(request, timeout=15).close()

    pusher = threading.Thread(target=push)
    pusher.start()
    try:
        page.until("document.querySelectorAll('#events li').length > 3", timeout_s=30)
        page.until("document.querySelector('.series-1').getAttribute('d').split('L').length > 4", timeout_s=40)
        page.find("#circuits .state", "open")
        for scheme in ("light", "dark"):
            page.prefer(color_scheme=scheme)
            page.size(1280, 1150)
            page.js("window.scrollTo(0, 0)")
            assert page.screenshot(f"dashboard-{scheme}").stat().st_size > 50_000
            assert page.accessibility_violations() == []
        page.size(360, 800, phone=True)
        assert page.js("return document.documentElement.scrollWidth") <= 360
        page.screenshot("dashboard-phone")
    finally:
        ended.set()
        pusher.join()
    assert page.errors() == []
