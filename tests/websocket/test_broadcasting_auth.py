"""`/broadcasting/auth` and `/broadcasting/user-auth`: the authorizers of the native protocol, for users of the web page."""

from __future__ import annotations

import base64
import dataclasses
import json
import types

import flask
import flask_login
import flask_wtf
import pusher
import pytest

from alphavel.foundation import ConfigurationError, container
from alphavel.websocket import WebSocketServer, blueprint
from alphavel.websocket.auth.current import as_user
from alphavel.websocket.auth.signatures import check_channel_auth, check_user_auth
from alphavel.websocket.auth.users import User
from alphavel.websocket.settings import AppSettings, AuthSettings, WebSocketSettings
from tests.websocket.conftest import SECRET
from tests.websocket.pusher import PusherClient
from tests.websocket.tokens import bearer, token

KEY, APP_SECRET, SOCKET = "app-key", "app-secret", "1234.5678"
MASTER_KEY = base64.b64encode(bytes(range(32))).decode()
APP = AppSettings("1", KEY, APP_SECRET, encryption_master_key=MASTER_KEY)
OTHER = AppSettings("2", "other-key", "other-secret")


@pytest.fixture
def server():
    """A server that need not run: nothing here sends."""
    settings = WebSocketSettings(apps=(APP, OTHER), auth=AuthSettings(secret=SECRET))
    server = WebSocketServer(settings)
    container().instance("websocket", server)

    @server.channel("private-user.{user_id}")
    def own(user, user_id):
        return user.id == user_id

    @server.channel("private-encrypted-user.{user_id}")
    def own_encrypted(user, user_id):
        return user.id == user_id

    @server.channel("presence-room.{number}")
    def room(user, number):
        return {"name": f"user {user.id}"} if number != "9" else False

    @server.channel("presence-plain")
    def plain(user):
        return True

    yield server
    container().forget("websocket")


@pytest.fixture
def web(server):
    app = flask.Flask(__name__)
    app.secret_key = "x"
    app.register_blueprint(blueprint)
    return app


@pytest.fixture
def client(web, server):
    """A browser whose user is in the session: `client.log_in(7)`."""
    server.user_loader(lambda: flask.session.get("user"))
    client = web.test_client()

    def log_in(user):
        with client.session_transaction() as session:
            session["user"] = user

    client.log_in = log_in
    return client


def ask(client, channel, socket_id=SOCKET, **options):
    return client.post("/broadcasting/auth", data={"socket_id": socket_id, "channel_name": channel}, **options)


def test_a_private_channel_is_answered_in_exactly_pushers_shape(client):
    client.log_in(7)
    answer = ask(client, "private-user.7")
    assert (answer.status_code, answer.mimetype, answer.headers["Cache-Control"]) == (200, "application/json", "no-store")
    expected = pusher.Pusher(app_id="1", key=KEY, secret=APP_SECRET).authenticate("private-user.7", SOCKET)
    assert answer.json == expected
    assert set(answer.json) == {"auth"}


def test_a_presence_channel_adds_the_member_and_signs_the_very_text(client):
    client.log_in(7)
    answer = ask(client, "presence-room.1").json
    assert set(answer) == {"auth", "channel_data"}
    assert json.loads(answer["channel_data"]) == {"user_id": "7", "user_info": {"name": "user 7"}}
    check_channel_auth(answer["auth"], KEY, APP_SECRET, SOCKET, "presence-room.1", answer["channel_data"])
    assert json.loads(ask(client, "presence-plain").json["channel_data"]) == {"user_id": "7", "user_info": {}}


def test_an_encrypted_channel_adds_its_key(client):
    client.log_in(7)
    answer = ask(client, "private-encrypted-user.7").json
    library = pusher.Pusher(app_id="1", key=KEY, secret=APP_SECRET, encryption_master_key_base64=MASTER_KEY)
    expected = library.authenticate("private-encrypted-user.7", SOCKET)
    assert answer == {**expected, "shared_secret": expected["shared_secret"].decode()}


def test_an_app_without_a_master_key_has_no_encrypted_channels(client):
    client.log_in(7)
    answer = client.post("/broadcasting/auth?app=2", data={"socket_id": SOCKET, "channel_name": "private-encrypted-user.7"})
    assert (answer.status_code, "encryption_master_key" in answer.json["message"]) == (403, True)


@pytest.mark.parametrize(
    "send",
    [
        lambda client, asked: client.post("/broadcasting/auth", data=asked),
        lambda client, asked: client.post("/broadcasting/auth", json=asked),
        lambda client, asked: client.get("/broadcasting/auth", query_string=asked),
    ],
    ids=["form", "JSON", "GET"],
)
def test_the_question_may_come_as_a_form_as_json_or_in_the_query(client, send):
    client.log_in(7)
    asked = {"socket_id": SOCKET, "channel_name": "private-user.7"}
    answer = send(client, asked)
    assert answer.status_code == 200
    check_channel_auth(answer.json["auth"], KEY, APP_SECRET, SOCKET, "private-user.7")


@pytest.mark.parametrize(
    ("user", "channel", "socket_id", "status", "text"),
    [
        (8, "private-user.7", SOCKET, 403, "may not join"),
        (None, "private-user.7", SOCKET, 403, "Nobody is logged in"),
        (7, "presence-room.9", SOCKET, 403, "may not join"),
        (7, "private-nobody-said", SOCKET, 403, "may not join"),
        (7, "private-user", SOCKET, 403, "may not join"),
        (7, "orders", SOCKET, 403, "without asking"),
        (7, "#server-to-user-7", SOCKET, 400, "letters, digits"),
        (7, "private-user.7:x", SOCKET, 400, "letters, digits"),
        (7, "private-" + "x" * 200, SOCKET, 400, "at most 164"),
        (7, "", SOCKET, 400, "at least one"),
        (7, "private-user.7", "", 400, "socket_id"),
        (7, "private-user.7", "1234.5678:private-user.8", 400, "socket_id"),
    ],
)
def test_what_may_not_be_joined_is_refused_with_a_reason(client, user, channel, socket_id, status, text):
    client.log_in(user)
    answer = ask(client, channel, socket_id)
    assert (answer.status_code, text in answer.json["message"]) == (status, True), answer.json
    assert "auth" not in answer.json


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"5", b'{"socket_id": 5, "channel_name": {}}'])
def test_a_body_that_makes_no_sense_is_refused(client, body):
    client.log_in(7)
    assert client.post("/broadcasting/auth", data=body, content_type="application/json").status_code == 400
    assert client.post("/broadcasting/user-auth", data=body, content_type="application/json").status_code == 400


def test_apps_are_told_apart_by_the_query(client):
    client.log_in(7)
    asked = {"socket_id": SOCKET, "channel_name": "private-user.7"}
    assert client.post("/broadcasting/auth?app=2", data=asked).json["auth"].startswith("other-key:")
    assert client.post("/broadcasting/auth?app=3", data=asked).status_code == 404


def test_without_an_app_there_is_nothing_to_sign_with(client, server):
    client.log_in(7)
    server.configure(WebSocketSettings())
    answer = ask(client, "private-user.7")
    assert (answer.status_code, "config/websocket.yaml" in answer.json["message"]) == (404, True)


# Signing in


def test_a_user_is_signed_in_with_what_the_application_says_of_the_user(client, server):
    client.log_in(7)
    answer = client.post("/broadcasting/user-auth", data={"socket_id": SOCKET}).json
    assert answer["user_data"] == '{"id":"7"}'
    check_user_auth(answer["auth"], KEY, APP_SECRET, SOCKET, answer["user_data"])
    server.user_data(lambda user: {"id": "somebody else", "user_info": {"name": f"user {user.id}"}, "watchlist": ["8"]})
    answer = client.post("/broadcasting/user-auth", json={"socket_id": SOCKET}).json
    assert json.loads(answer["user_data"]) == {"id": "7", "user_info": {"name": "user 7"}, "watchlist": ["8"]}
    check_user_auth(answer["auth"], KEY, APP_SECRET, SOCKET, answer["user_data"])


def test_nobody_is_not_signed_in(client):
    answer = client.post("/broadcasting/user-auth", data={"socket_id": SOCKET})
    assert (answer.status_code, "auth" in answer.json) == (403, False)


# Who the user is


def test_flask_login(web):
    class Account(flask_login.UserMixin):
        def __init__(self, number):
            self.id = number

    login = flask_login.LoginManager(web)
    login.user_loader(lambda number: Account(int(number)))

    @web.post("/login/<int:number>")
    def log_in(number):
        flask_login.login_user(Account(number))
        return ""

    client = web.test_client()
    assert ask(client, "private-user.7").status_code == 403
    client.post("/login/7")
    assert ask(client, "private-user.7").status_code == 200
    assert ask(client, "private-user.8").status_code == 403


def test_a_token(web):
    client = web.test_client()
    assert ask(client, "private-user.7", headers=bearer("7")).status_code == 200
    assert ask(client, "private-user.7", headers=bearer("8")).status_code == 403
    assert ask(client, "private-user.7").status_code == 403
    for header in (f"Bearer {token('7', exp=1)}", "Bearer nonsense", f"Bearer {token('7', key='another key' * 9)}"):
        assert ask(client, "private-user.7", headers={"Authorization": header}).status_code == 401
    assert ask(client, "private-user.7", headers={"Authorization": "Basic eDp5"}).status_code == 403


def test_where_tokens_are_not_checked_one_is_worth_nothing(web, server):
    server.configure(WebSocketSettings(apps=(APP,)))
    assert ask(web.test_client(), "private-user.7", headers=bearer("7")).status_code == 403


def test_a_user_loader_comes_first(client):
    client.log_in(8)
    assert ask(client, "private-user.7", headers=bearer("7")).status_code == 403
    assert ask(client, "private-user.8", headers=bearer("7")).status_code == 200


@pytest.mark.parametrize(
    ("thing", "user_id"),
    [
        (7, "7"),
        ("7", "7"),
        ({"id": 7, "name": "Ann"}, "7"),
        (types.SimpleNamespace(id=7), "7"),
        (types.SimpleNamespace(get_id=lambda: "7", id=8), "7"),
        (User("7", b"{}"), "7"),
    ],
)
def test_a_user_may_be_an_id_a_mapping_or_an_object(thing, user_id):
    assert as_user(thing).id == user_id


def test_of_a_user_object_everything_but_the_id_is_as_it_was():
    account = types.SimpleNamespace(id=7, name="Ann")
    assert as_user(account).name == "Ann"
    assert as_user(account).claims == {}
    assert as_user({"id": 7, "name": "Ann"}).claims == {"id": 7, "name": "Ann"}
    with pytest.raises(AttributeError):
        as_user(account).email  # noqa: B018


@pytest.mark.parametrize("thing", [{}, {"id": None}, {"id": ""}, True, object(), [7], ""])
def test_a_user_without_an_id_is_the_applications_mistake(thing):
    with pytest.raises(TypeError, match="expected to be None, an id"):
        as_user(thing)


# CSRF is the application's business


def test_an_application_that_asks_for_a_csrf_token_gets_it_from_echo_or_exempts_the_view(web, client):
    csrf = flask_wtf.CSRFProtect(web)
    web.add_url_rule("/token", "token", flask_wtf.csrf.generate_csrf)
    client.log_in(7)
    assert ask(client, "private-user.7").status_code == 400
    assert client.post("/broadcasting/user-auth", data={"socket_id": SOCKET}).status_code == 400
    csrf_token = client.get("/token").text
    assert ask(client, "private-user.7", headers={"X-CSRF-TOKEN": csrf_token}).status_code == 200
    csrf.exempt("alphavel.websocket.http.broadcasting.channel_auth")
    csrf.exempt("alphavel.websocket.http.broadcasting.user_auth")
    assert ask(client, "private-user.7").status_code == 200
    assert client.post("/broadcasting/user-auth", data={"socket_id": SOCKET}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.test", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "https://shop.test", "Sec-Fetch-Site": "same-origin"}, 200),  # the proxy changes the host
        ({}, 200),  # no page
    ],
)
def test_a_page_from_elsewhere_gets_nothing_for_the_cookie_of_who_looks_at_it(client, headers, status):
    client.log_in(7)
    for answer in (
        ask(client, "private-user.7", headers=headers),
        client.post("/broadcasting/user-auth", data={"socket_id": SOCKET}, headers=headers),
        client.get(f"/broadcasting/auth?socket_id={SOCKET}&channel_name=private-user.7", headers=headers),
    ):
        assert answer.status_code == status
        assert ("auth" in answer.json) is (status == 200)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_page_that_may_connect_may_ask(client, server):
    client.log_in(7)
    page = {"Origin": "https://shop.test"}
    server.configure(dataclasses.replace(server.settings, allowed_origins=("https://shop.test",)))
    assert ask(client, "private-user.7", headers=page).status_code == 200
    assert ask(client, "private-user.7", headers={"Origin": "http://localhost"}).status_code == 403
    own = dataclasses.replace(APP, allowed_origins=("https://other.test",))
    server.configure(dataclasses.replace(server.settings, apps=(own,)))
    assert ask(client, "private-user.7", headers=page).status_code == 403


# From the answer to the subscription


def test_what_is_answered_lets_a_pusher_client_in_and_signs_it_in(serve, web, client, server):
    running = serve(apps=(APP,))
    client.log_in(7)
    with PusherClient(running.port) as pusher_client:
        for channel in ("private-user.7", "private-encrypted-user.7", "presence-room.1"):
            answer = ask(client, channel, pusher_client.socket_id).json
            answer.pop("shared_secret", None)
            joined = pusher_client.join(channel, answer=False, **answer) or pusher_client.receive()
            assert joined["event"] == "pusher_internal:subscription_succeeded", joined
        assert joined["data"]["presence"]["hash"] == {"7": {"name": "user 7"}}
        answer = client.post("/broadcasting/user-auth", data={"socket_id": pusher_client.socket_id}).json
        pusher_client.send("pusher:signin", answer)
        assert pusher_client.receive()["event"] == "pusher:signin_success"
        assert running.to_user(7).push({"event": "hello"}) == 1
        assert pusher_client.receive()["event"] == "hello"


def test_to_others_leaves_out_the_page_that_made_the_request(serve):
    server = serve(apps=(APP,))
    container().instance("websocket", server)
    app = flask.Flask(__name__)
    app.register_blueprint(blueprint)
    from alphavel.websocket import WebSocket

    @app.post("/orders")
    def create():
        return {"queued": WebSocket.to_channel("orders").to_others().push({"event": "App\\Events\\OrderShipped", "data": {}})}

    try:
        with server.connect() as one, server.connect() as two:
            one.subscribe("orders")
            two.subscribe("orders")
            client = app.test_client()
            assert client.post("/orders", headers={"X-Socket-ID": one.socket_id}).json == {"queued": 1}
            assert two.receive()["event"] == "App\\Events\\OrderShipped"
            assert client.post("/orders", headers={"X-Socket-Id": "1.1"}).json == {"queued": 2}
    finally:
        container().forget("websocket")


@pytest.mark.parametrize("key", ["x", MASTER_KEY[:-4], "é" * 44], ids=["short", "31 bytes", "no base64"])
def test_a_wrong_master_key_stops_the_start(key):
    with pytest.raises(ConfigurationError, match=r"apps\[0\].encryption_master_key: expected base64 of 32 bytes"):
        WebSocketServer(WebSocketSettings(apps=(AppSettings("1", KEY, APP_SECRET, encryption_master_key=key),)))
