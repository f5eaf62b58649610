"""The WebSocket examples, each started as its README says and used in two real browser windows."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.support import ROOT, python, run, wait_until

EXAMPLES = ("chat", "dashboard", "game", "notifications", "poll", "presence")


@pytest.fixture
def example(serve):
    """`example("chat")` starts it: the command of its README, but for the port."""

    def start(name):
        folder = ROOT / "examples" / name
        assert f"    cd examples/{name}\n    alpha websocket:serve --app app:app\n" in (folder / "README.md").read_text()
        return serve("app:app", cwd=folder)

    return start


def texts(page, selector="li"):
    return page.js("return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)", selector)


def ask(url, body=None):
    """Send a request; return its status and body."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_chat_shows_what_is_said_and_what_was_said_before(example, open_page):
    server = example("chat")
    ann = open_page(server.url)
    ann.find("#name").send_keys("Ann")
    for text in ("first", "<b>second</b>"):
        ann.find("#text").send_keys(text, Keys.ENTER)
        ann.find("li", f"Ann: {text}")
    bob = open_page(server.url)
    bob.find("li", "Ann: <b>second</b>")
    assert ask(f"{server.url}rooms/1/messages", {"name": "cURL", "text": "hello"}) == (204, b"")
    for page in (ann, bob):
        page.find("li", "cURL: hello")
        assert texts(page) == ["Ann: first", "Ann: <b>second</b>", "cURL: hello"]
    for nonsense in ({"name": "", "text": "hello"}, ["hello"], "hello"):
        assert ask(f"{server.url}rooms/1/messages", nonsense)[0] == 400
    assert ann.errors() == bob.errors() == []


def test_dashboard_shows_an_order_to_all_who_look(example, open_page):
    server = example("dashboard")
    ann, bob = open_page(server.url), open_page(server.url)
    for page in (ann, bob):
        page.find("#viewers", "2")
    ann.find("button").click()
    for page in (ann, bob):
        page.find("#orders", "1")
    assert ann.errors() == bob.errors() == []


def test_presence_shows_who_comes_and_who_goes(example, open_page):
    server = example("presence")
    ann, bob = open_page(server.url), open_page(server.url)
    for page, name in ((ann, "Ann"), (bob, "Bob")):
        page.find("input").send_keys(name, Keys.ENTER)
        page.find("li", name)
    ann.find("li", "Bob")
    assert texts(bob) == ["Ann", "Bob"]
    assert [member["id"] for member in json.loads(ask(f"{server.url}readers")[1])] == ["ann", "bob"]
    bob.open("about:blank")
    ann.until("document.querySelectorAll('li').length === 1")
    assert texts(ann) == ["Ann"]
    assert ann.errors() == []


def test_notifications_reach_one_user_from_a_process_of_its_own(example, open_page):
    server = example("notifications")
    ann, bob = open_page(server.url), open_page(server.url)
    for page, name in ((ann, "Ann"), (bob, "Bob")):
        page.find("input").send_keys(name, Keys.ENTER)
        page.find("p", f"Waiting for news for {name.lower()}.")
        page.until("document.body.dataset.refused === '4009'")  # somebody else's channel
    folder = ROOT / "examples/notifications"
    sent = run(python(), "notify.py", "ann", "Your parcel is here", cwd=folder, ALPHAVEL_WEBSOCKET_URL=server.url.rstrip("/"))
    assert (sent.stdout, sent.stderr) == ("ann has it on 1 pages\n", "")
    ann.find("li", "Your parcel is here")
    sent = run(python(), "notify.py", "bob", "Yours, too", cwd=folder, ALPHAVEL_WEBSOCKET_URL=server.url.rstrip("/"))
    assert sent.returncode == 0
    bob.find("li", "Yours, too")
    assert (texts(ann), texts(bob)) == (["Your parcel is here"], ["Yours, too"])
    assert ann.errors() == bob.errors() == []


def test_poll_counts_one_vote_for_each_and_refuses_nonsense(example, open_page):
    server = example("poll")
    ann, bob = open_page(server.url), open_page(server.url)
    ann.find("button", "Tea").click()
    for page in (ann, bob):
        page.until("document.querySelectorAll('output')[0].textContent === '1'")
    bob.find("button", "Coffee").click()
    ann.until("document.querySelectorAll('output')[1].textContent === '1'")
    ann.find("button", "Coffee").click()  # another opinion, not another vote
    bob.until("document.querySelectorAll('output')[1].textContent === '2'")
    assert texts(bob, "output") == ["0", "2", "0"]
    refused = ann.js(
        """
        return import("/alphavel.js").then(async ({ Alphavel }) => {
          const client = new Alphavel("/");
          const answers = [];
          const all = new Promise((resolve) => client.on("refused", (why) => answers.push(why) === 4 && resolve(answers)));
          for (const data of [null, "Tea", { choice: "Wine" }, { choice: ["Tea"] }]) client.send("vote", data);
          return all;
        });
        """
    )
    assert refused == ["Choose one of Tea, Coffee, Water."] * 4
    assert json.loads(ask(f"{server.url}result")[1]) == {"Tea": 0, "Coffee": 2, "Water": 0}
    assert ann.errors() == bob.errors() == []


def test_game_moves_players_on_every_page_and_counts_coins(example, open_page):
    server = example("game")
    ann, bob = open_page(server.url), open_page(server.url)
    for page in (ann, bob):
        page.until("document.querySelectorAll('.player').length === 2 && document.querySelectorAll('.me').length === 1")
    place = "document.querySelector('.me').getAttribute('x')"
    assert ann.js(f"return {place}") == "0.1"
    for number in range(8):  # the first coin lies in the middle
        for key, axis in ((Keys.ARROW_RIGHT, "x"), (Keys.ARROW_DOWN, "y")):
            ActionChains(ann.driver).send_keys(key).perform()
            ann.until(f"document.querySelector('.me').getAttribute('{axis}') === '{number + 1}.1'")
    ann.find("output", "1")
    bob.until("[...document.querySelectorAll('.player:not(.me)')].some((player) => player.getAttribute('x') === '8.1')")
    bob.find("output", "0")
    ann.open("about:blank")
    bob.until("document.querySelectorAll('.player').length === 1")
    assert bob.errors() == []


def blocks(document, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def test_the_page_of_the_readme_hears_of_an_order(serve, open_page, tmp_path):
    """`In a page of the same host`: here the application serves it."""
    (python_code, *_), (html,) = blocks("README.md", "python"), blocks("README.md", "html")
    page = f"\n\n@app.get('/')\ndef page():\n    return {'<link rel=icon href=data:,>' + html!r}\n"
    (tmp_path / "shop.py").write_text(python_code + page)
    server = serve("shop:app", cwd=tmp_path)
    ann = open_page(server.url)
    # Whether it has subscribed, only the server knows: nothing is to be seen until something is shipped.
    wait_until(lambda: ask(f"{server.url}orders/7/ship", {}) == (204, b"") and "shipped" in str(ann.driver.get_log("browser")))


def test_the_page_of_the_quick_start_shows_an_order(serve, open_page, tmp_path):
    first, *_ = blocks("docs/quick-start.md", "python")
    (tmp_path / "shop.py").write_text(first)
    server = serve("shop:app", cwd=tmp_path)
    ann, bob = open_page(server.url), open_page(server.url)
    wait_until(lambda: json.loads(ask(f"{server.url}orders/7/ship", {})[1]) == {"told": 2})
    for page in (ann, bob):
        page.find("li", "Order 7 is on its way")


def test_the_tests_are_about_all_examples():
    folders = {path.parent.name for path in (ROOT / "examples").glob("*/app.py")}
    assert folders == set(EXAMPLES)
    listed = re.findall(r"\(\.\./examples/(\w+)/README\.md\)", (ROOT / "docs/examples.md").read_text())
    assert folders <= set(listed)
