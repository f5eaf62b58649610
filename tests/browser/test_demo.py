"""The demo, as people meet it: two browsers that talk, a phone, a keyboard, a server that is restarted."""

from __future__ import annotations

import base64
import json
import sys
import urllib.error
import urllib.request

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.support import ROOT, Program, free_port, run, script, wait_until

MODULE = [sys.executable, "-m", "examples.demo"]

# Whether an element is where a finger or a pointer can reach it: inside the view, and nothing above it.
REACHABLE = """
const box = arguments[0].getBoundingClientRect();
const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
const top = document.elementFromPoint(x, y);
return box.left >= 0 && box.right <= innerWidth && box.top >= 0 && box.bottom <= innerHeight && arguments[0].contains(top);
"""


COUNT_COLOURS = """
const image = new Image();
image.src = `data:image/png;base64,${arguments[0]}`;
return image.decode().then(() => {
  const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
  canvas.drawImage(image, 0, 0);
  const counts = {};
  const { data } = canvas.getImageData(0, 0, image.width, image.height);
  for (let at = 0; at < data.length; at += 4) {
    const colour = "#" + [0, 1, 2].map((channel) => data[at + channel].toString(16).padStart(2, "0")).join("");
    counts[colour] = (counts[colour] ?? 0) + 1;
  }
  return counts;
});
"""


@pytest.fixture
def demo(serve):
    return serve(command=lambda port: [*MODULE, "--port", str(port)])


@pytest.fixture
def enter(open_page, demo):
    """`enter("Ada")` opens the demo in a window of its own and signs in."""

    def go_in(name, page=None):
        page = page or open_page(demo.url)
        page.find("#name").send_keys(name)
        page.find("#sign-in button").click()
        page.find("#connection-text", "Live")
        page.until("document.querySelector('#people-list .tag')")  # others are told by now, too
        return page

    return go_in


def say(page, text):
    page.find("#composer-text").send_keys(text, Keys.ENTER)


def people(page):
    return page.js("return [...document.querySelectorAll('#people-list .name')].map((name) => name.textContent)")


def test_two_people_talk(enter):
    ada, bob = enter("Ada"), enter("Bob")
    wait_until(lambda: people(ada) == ["Ada", "Bob"])
    assert people(bob) == ["Bob", "Ada"]
    ada.find(".news", "Bob came in")
    bob.find("#composer-text").send_keys("H")
    ada.find("#typing", "Bob is typing")
    bob.find("#composer-text").send_keys("ello, Ada")
    bob.find("#composer .send").click()
    assert ada.find(".message", "Hello, Ada").text.startswith("B\nBob")
    ada.until("document.getElementById('typing').textContent === ''")
    bob.until("!document.querySelector('.message.waiting')")  # the server has confirmed it
    assert bob.js("return document.querySelectorAll('.message').length") == 1
    late = enter("Cleo")
    late.find(".message", "Hello, Ada")  # what was said before
    for page in (ada, bob, late):
        assert page.errors() == []


def test_what_people_write_stays_text(enter):
    ada, bob = enter("Ada"), enter("<b>Bob</b>")
    wait_until(lambda: people(ada) == ["Ada", "<b>Bob</b>"])
    attack = "<img src=x onerror=\"document.title='broken into'\"><script>document.title='broken into'</script>"
    say(bob, attack)
    ada.find(".message", attack)
    assert ada.js("return document.querySelectorAll('#log img, #log script, #log b').length") == 0
    assert "broken" not in ada.driver.title
    assert ada.errors() == []  # nothing for the Content-Security-Policy to stop


def test_one_person_on_two_pages_is_there_once_until_both_are_gone(enter):
    ada, bob, again = enter("Ada"), enter("Bob"), enter("BOB ")
    wait_until(lambda: len(people(ada)) == 2)
    bob.open("about:blank")
    say(again, "still here")
    ada.find(".message", "still here")
    assert len(people(ada)) == 2
    again.open("about:blank")
    ada.find(".news", "Bob left")
    wait_until(lambda: people(ada) == ["Ada"])


def test_a_private_note_reaches_one_person_alone(enter):
    ada, bob, cleo = enter("Ada"), enter("Bob"), enter("Cleo")
    bob.find("button[aria-label='Send Ada a private note']").click()
    bob.find("#note-text").send_keys("Between us")
    bob.find("#note-form .primary").click()
    note = ada.find("#notes .note", "Between us")
    assert "Bob sent you a note" in note.get_property("textContent")
    bob.until("!document.getElementById('note-dialog').open")
    ada.find("#notes button", "Answer").click()
    ada.find("#note-dialog h2", "Private note to Bob")
    ada.find("#note-text").send_keys("Yes")
    ada.find("#note-form .primary").click()
    bob.find("#notes .note", "Yes")
    say(cleo, "I heard nothing")
    ada.find(".message", "I heard nothing")
    assert not cleo.shows("#notes .note")
    assert ada.errors() == bob.errors() == []


def test_a_note_to_somebody_who_has_left_says_so(enter):
    ada, bob = enter("Ada"), enter("Bob")
    ada.find("button[aria-label='Send Bob a private note']").click()
    ada.find("#note-text").send_keys("Too late")
    bob.open("about:blank")
    ada.until("!document.querySelector('[data-person=bob]')")
    ada.find("#note-form .primary").click()
    ada.find("#note-error", "has just left")


def test_the_dashboard_moves(enter):
    ada = enter("Ada")
    path = "document.querySelector('.tile.red .line').getAttribute('d')"
    before = ada.until(path)
    ada.until(f"{path} !== arguments[0]", before)
    assert ada.find(".tile.blue .now").text == "1"
    enter("Bob")
    ada.find(".tile.blue .now", "2")
    ada.find(".tile.blue .more", "2 people")
    ada.until("Number(document.querySelector('.tile.violet .now').textContent) >= 2")  # the figures themselves, to two pages
    assert "in the last minute" in ada.find(".tile.green .chart").get_attribute("aria-label")
    assert "GiB of" in ada.find(".tile.green .more").text
    ada.until("document.getAnimations().length > 0")  # the charts glide


def test_a_restart_of_the_server_loses_nobody_and_nothing(enter, demo):
    ada, bob = enter("Ada"), enter("Bob")
    say(ada, "before")
    bob.find(".message", "before")
    demo.stop()
    ada.find("#connection-text", "Connection lost")
    bob.find("#connection-text", "Connection lost")
    say(ada, "while it was away")
    ada.find(".message.waiting", "while it was away")
    demo.start()  # with another key: the pages need fresh tokens
    ada.find("#reconnect").click()
    for page in (ada, bob):
        page.find("#connection-text", "Live", timeout_s=60)
    bob.find(".message", "while it was away")
    ada.until("!document.querySelector('.message.waiting')")
    wait_until(lambda: sorted(people(ada)) == sorted(people(bob)) == ["Ada", "Bob"])
    ada.find(".message", "before")
    say(bob, "after")
    ada.find(".message", "after")


def test_a_reload_stays_signed_in_and_signing_out_does_not(enter):
    ada = enter("Ada")
    ada.driver.refresh()
    ada.find("#connection-text", "Live")
    ada.find("#sign-out").click()
    ada.find("#sign-in")
    ada.driver.refresh()
    ada.find("#sign-in")


def test_a_name_that_cannot_be_used_is_explained(open_page, demo):
    page = open_page(demo.url)
    for name in ("", "   ", "!!!"):
        page.find("#name").clear()
        page.find("#name").send_keys(name)
        page.find("#sign-in button").click()
        page.find("#name-error", "A name has")
        assert page.js("return document.activeElement.id") == "name"
        assert page.find("#name").get_attribute("aria-invalid") == "true"


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_one_view_at_a_time_and_never_scrolls_sideways(enter, open_page, demo, width):
    ada = open_page()
    ada.size(width, 640, phone=True)
    ada.open(demo.url)

    def fits():
        return ada.js("return document.documentElement.scrollWidth") <= width

    assert fits()
    enter("A name of 24 characters.", ada)
    say(ada, "unbreakable" * 30)
    bob = enter("Bob")
    bob.find("button[aria-label^='Send A name']").click()
    bob.find("#note-text").send_keys("unbreakable" * 20)
    bob.find("#note-form .primary").click()
    ada.find(".note")
    assert fits()
    ada.find(".note button", "Answer").click()
    assert fits()
    ada.find("#note-cancel").click()
    views = ("people", "chat", "dashboard")
    for view in views:
        ada.find(f".tabs button[data-view={view}]").click()
        assert [other for other in views if ada.shows(f"#{other}")] == [view]
        assert fits(), view
        ada.screenshot(f"phone-{width}-{view}")
    say(bob, "Are you there?")
    ada.find("#chat-badge", "1")
    ada.find(".tabs button[data-view=chat]").click()
    ada.until("document.getElementById('chat-badge').textContent === ''")
    for selector in ("#composer-text", "#composer .send", "#sign-out", ".tabs button"):
        element = ada.find(selector)
        assert ada.js(REACHABLE, element), selector
        assert min(element.size["width"], element.size["height"]) >= 40, selector


def near(counts, colour, within=60):
    """Count the pixels of about a colour: a level line that lies between two rows of pixels is in both, half as strong."""
    wanted = bytes.fromhex(colour[1:])
    return sum(
        count
        for other, count in counts.items()
        if all(abs(one - another) <= within for one, another in zip(wanted, bytes.fromhex(other[1:]), strict=True))
    )


def test_near_takes_a_colour_and_its_shades_alone():
    counts = {"#14806f": 20, "#3c9a8b": 200, "#d0e6e2": 5000, "#d2521a": 300}
    assert near(counts, "#14806f") == 220


def test_a_picture_of_it_shows_what_is_meant_to_be_seen(enter, open_page):
    ada, bob = enter("Ada"), enter("Bob")
    ada.prefer(color_scheme="light", reduced_motion="reduce")
    say(ada, "Hello!")
    bob.find(".message", "Hello!")
    say(bob, "Hello, Ada.")
    ada.find(".message", "Hello, Ada.")
    ada.until("(document.querySelector('.tile.violet .line').getAttribute('d') ?? '').split('Q').length > 4")
    counts = open_page().js(COUNT_COLOURS, base64.b64encode(ada.screenshot("desktop").read_bytes()).decode())
    total = sum(counts.values())
    assert counts["#fffefb"] > total / 3, "the cards"
    assert counts["#fbe8dc"] > 1000, "what Ada said"
    assert counts["#b3400e"] > 1000, "the button to send"
    for name, colour in {"red": "#d2521a", "green": "#14806f", "blue": "#2c64c6", "violet": "#7446c0"}.items():
        assert near(counts, colour) > 100, f"the {name} line of its chart"
    for selector in ("#composer .send", "#sign-out", "#people-list button", "#log", "#tiles"):
        assert ada.js(REACHABLE, ada.find(selector)), selector


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible(enter, open_page, demo, scheme):
    page = open_page()
    page.prefer(color_scheme=scheme, reduced_motion="reduce")
    page.open(demo.url)
    page.find("#sign-in button").click()
    page.find("#name-error", "A name")
    assert page.accessibility_violations() == []
    page.screenshot(f"welcome-{scheme}")
    enter("Ada", page)
    bob = enter("Bob")
    for text in ("Hello!", "This is a second line."):
        say(bob, text)
    say(page, "Hello yourself.")
    bob.find("button[aria-label='Send Ada a private note']").click()
    bob.find("#note-text").send_keys("Only for you.")
    bob.find("#note-form .primary").click()
    page.find(".note", "Only for you.")
    bob.find("#composer-text").send_keys("typing")
    page.find("#typing", "Bob is typing")
    assert page.accessibility_violations() == []
    assert page.js("return document.getAnimations().length") == 0, "motion is not wanted"
    page.screenshot(f"app-{scheme}")
    page.find(".note button", "Answer").click()
    assert page.accessibility_violations() == []
    page.find("#note-cancel").click()
    page.size(390, 844, phone=True)
    for view in ("people", "chat", "dashboard"):
        page.find(f".tabs button[data-view={view}]").click()
        assert page.accessibility_violations() == []


def test_everything_can_be_done_with_the_keyboard(open_page, demo, enter):
    page = open_page(demo.url)

    def press(*keys, shift=False):
        actions = ActionChains(page.driver)
        for key in keys:
            actions = actions.key_down(Keys.SHIFT).send_keys(key).key_up(Keys.SHIFT) if shift else actions.send_keys(key)
        actions.perform()

    def focused():
        return page.js("const it = document.activeElement; return it.id || it.getAttribute('aria-label') || it.textContent")

    press("Ada", Keys.ENTER)  # the name is focused from the start
    page.find("#connection-text", "Live")
    page.find("#people-list .tag", "you")
    assert focused() == "composer-text"
    press("First line")
    press(Keys.ENTER, shift=True)
    press("second line", Keys.ENTER)
    assert page.find(".message .text").text == "First line\nsecond line"
    bob = enter("Bob")
    page.find("#people-list .name", "Bob")
    for _ in range(12):
        if focused() == "Send Bob a private note":
            break
        press(Keys.TAB, shift=True)
    assert focused() == "Send Bob a private note"
    press(Keys.ENTER)
    page.find("#note-dialog")
    assert focused() == "note-text"
    press("By keyboard", Keys.TAB, Keys.TAB, Keys.ENTER)
    bob.find(".note", "By keyboard")
    page.until("!document.getElementById('note-dialog').open")
    assert focused() == "Send Bob a private note"  # back where it was
    bob.find(".note button", "Answer").send_keys(Keys.ESCAPE)
    bob.until("!document.querySelector('.note')")


def test_gunicorn_serves_it_too(serve, open_page, enter):
    command = [script("gunicorn"), "-k", "egg:alphavel#geventwebsocket", "examples.demo.web:app"]
    server = serve(command=lambda port: [*command, "-b", f"127.0.0.1:{port}"])
    ada = enter("Ada", open_page(server.url))
    say(ada, "Hello, gunicorn")
    ada.until("document.querySelector('.message:not(.waiting)')")
    ada.find(".tile.blue .now", "1")
    assert ada.errors() == []


def request(url, token=None, body=None, kind="application/json"):
    headers = {"Content-Type": kind} if body is not None else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as response:
            return response.status, response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def test_requests_of_the_demo(demo):
    status, text, headers = request(demo.url)
    assert (status, "default-src 'none'" in headers["Content-Security-Policy"]) == (200, True)
    assert "<title>Alphavel demo</title>" in text
    status, text, headers = request(f"{demo.url}alphavel.js")
    assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert text == (ROOT / "alphavel/websocket/http/static/alphavel.js").read_text()
    token = json.loads(request(f"{demo.url}sign-in", body={"name": "Ada"})[1])["token"]
    assert request(f"{demo.url}past", token)[0] == 200
    for path, given, body, kind, expected in (
        ("past", None, None, "", 401),
        ("past", "forged", None, "", 401),
        ("notes", None, {"to": "ada", "text": "x"}, "application/json", 401),
        ("notes", token, {"to": "nobody", "text": "x"}, "application/json", 404),
        ("notes", token, {"to": "ada", "text": " "}, "application/json", 400),
        ("notes", token, {"text": "x"}, "application/json", 400),
        ("notes", token, {"to": "ada", "text": "x" * 1001}, "application/json", 400),
        ("sign-in", None, {"name": "x" * 25}, "application/json", 400),
        ("sign-in", None, ["Ada"], "application/json", 400),
        ("sign-in", None, {"name": "Ada"}, "text/plain", 415),
        ("sign-in", None, {"name": "x" * 20_000}, "application/json", 413),
        ("nowhere", None, None, "", 404),
    ):
        status, text, _ = request(demo.url + path, given, body, kind)
        assert status == expected, (path, text)
        assert json.loads(text)["error"]


def test_the_start_says_where_to_look_and_what_is_wrong():
    with Program(*MODULE) as first:
        first.wait_for("Ctrl+C stops it.")
        address = next(line for line in first.output.splitlines() if line.startswith("Open http://127.0.0.1:"))
        port = int(address.split(":")[2].split("/")[0])
        assert request(f"http://127.0.0.1:{port}/")[0] == 200
        with Program(*MODULE) as second:
            second.wait_for("Ctrl+C stops it.")
            assert "is in use by something else; taking " in second.output
            assert second.stop() == 0
        busy = run(*MODULE, "--port", str(port))
        assert (busy.returncode, f"Port {port} of 127.0.0.1 is in use" in busy.stderr) == (1, True)
        assert first.stop() == 0
    with Program(*MODULE, "--host", "0.0.0.0", "--port", str(free_port())) as anywhere:
        anywhere.wait_for("Ctrl+C stops it.")
        assert "Open http://127.0.0.1:" in anywhere.output
