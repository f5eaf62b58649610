"""The ChatController, published and served as somebody would who begins with it. (PaymentService: tests/circuit_breaker.)"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request

import jwt
import pytest
from websockets.sync.client import connect

from tests.support import run, script

SECRET = "a secret of the tests, of more than 32 bytes"
APP = """
from flask import Flask

from alphavel.foundation import Alphavel
from controllers import chat_controller

app = Flask(__name__)
app.register_blueprint(chat_controller.blueprint)
chat_controller.may_enter = lambda user, room: (user.id, room) != ("bob", "secret")
Alphavel(app)
"""


def token(name):
    return jwt.encode({"sub": name.lower(), "name": name, "exp": int(time.time()) + 600}, SECRET, "HS256")


@pytest.fixture
def server(tmp_path, serve):
    published = run(script("alpha"), "vendor:publish", "--tag=websocket-controller", cwd=tmp_path)
    assert published.stdout == "written     controllers/chat_controller.py\n"
    (tmp_path / "shop.py").write_text(APP)
    return serve("shop:app", cwd=tmp_path, ALPHAVEL_JWT_SECRET=SECRET)


@pytest.fixture
def ask(server):
    """`ask("Ann", "1", {"text": "hi"})` posts to a room, without a body it gets; returns status and answer."""

    def send(name, room, body=None, **headers):
        headers |= {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token(name)}"} if name else {})
        request = urllib.request.Request(
            f"http://{server.address}/chat/rooms/{room}/messages", None if body is None else json.dumps(body).encode(), headers
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return send


@contextlib.contextmanager
def entered(server, name, room):
    """A client that has asked to join a room; its `socket_id`, and the answer."""
    headers = {"Authorization": f"Bearer {token(name)}"}
    with connect(f"ws://{server.address}/", additional_headers=headers, open_timeout=30) as client:
        socket_id = json.loads(client.recv(30))["socket_id"]
        client.send(json.dumps({"event": "subscribe", "data": {"channel": f"presence-chat.room.{room}"}}))
        yield client, socket_id, json.loads(client.recv(30))


def test_people_in_a_room_get_what_is_said_and_who_types(server, ask):
    with entered(server, "Ann", "1") as (ann, _, joined), entered(server, "Bob", "1") as (bob, bobs, _):
        assert joined["data"]["members"][0]["info"] == {"name": "Ann"}
        assert json.loads(ann.recv(30))["event"] == "member_added"
        status, said = ask("Bob", "1", {"text": " hi "}, **{"X-Socket-ID": bobs})
        assert (status, said["text"], said["user"]) == (201, "hi", {"id": "bob", "name": "Bob"})
        assert json.loads(ann.recv(30)) == {"event": "new-message", "channel": "presence-chat.room.1", "data": said}
        ann.send('{"event":"typing","data":{"room":"1"}}')
        heard = json.loads(bob.recv(30))  # and not what Bob has said himself
        assert (heard["event"], heard["data"]) == ("typing", {"name": "Ann"})
        ann.send('{"event":"typing","data":{"room":"2"}}')
        ann.send('{"event":"typing","data":[1]}')
        ann.send('{"event":"ping"}')
        assert json.loads(ann.recv(30))["event"] == "pong"  # nonsense hurts nobody
        assert ask("Ann", "1") == (200, {"messages": [said]})


def test_who_may_not_enter_is_refused_on_both_ways(server, ask):
    assert ask(None, "1")[0] == 401
    assert ask("Bob", "secret", {"text": "hi"})[0] == 403
    assert ask("Ann", "1", {"text": " "})[0] == 400
    assert ask("Ann", "1", ["hi"])[0] == 400
    with entered(server, "Bob", "secret") as (_, _, refused):
        assert (refused["event"], refused["code"]) == ("error", 4009)
