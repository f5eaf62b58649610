"""The browser's own WebSocket against the server: the handshake, a token as a subprotocol, the origin of a page."""

from __future__ import annotations

import time

import jwt
import pytest

APP = """
from flask import Flask
from alphavel.websocket import blueprint

app = Flask(__name__)
app.register_blueprint(blueprint)

@app.get("/")
def page():
    return "<!doctype html><link rel=icon href=data:,><title>A page</title>"
"""

SECRET = "a secret that is long enough for HS256, and then some more"

CONNECT = """
const [url, protocols] = arguments;
return new Promise((resolve) => {
  const socket = new WebSocket(url, protocols);
  socket.onmessage = (message) => resolve({ protocol: socket.protocol, event: JSON.parse(message.data).event });
  socket.onclose = (close) => resolve({ closed: close.code });
});
"""


@pytest.fixture
def shop(tmp_path):
    """A folder with an application."""
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


def test_page_connects_with_its_token_as_a_subprotocol(serve, open_page, shop):
    server = serve("shop:app", cwd=shop, ALPHAVEL_JWT_SECRET=SECRET)
    page = open_page(server.url)
    token = jwt.encode({"sub": "7", "exp": time.time() + 60}, SECRET)
    url = server.url.replace("http", "ws")
    assert page.js(CONNECT, url, ["alphavel.v1", f"bearer.{token}"]) == {"protocol": "alphavel.v1", "event": "connected"}
    assert page.errors() == []
    assert page.js(CONNECT, url, ["alphavel.v1", "bearer.forged"]) == {"closed": 1006}


def test_page_of_another_origin_is_refused(serve, open_page, shop):
    server, other = serve("shop:app", cwd=shop), serve("shop:app", cwd=shop)
    page = open_page(other.url)
    assert page.js(CONNECT, server.url.replace("http", "ws"), []) == {"closed": 1006}
    assert page.js(CONNECT, other.url.replace("http", "ws"), []) == {"protocol": "", "event": "connected"}
