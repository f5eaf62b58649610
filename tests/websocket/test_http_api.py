"""Pusher's HTTP API, called by Pusher's own server libraries and by requests that break its rules."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import time
import types
from urllib.parse import quote, urlencode

import gevent.server
import pusher
import pytest
from flask import Flask

from alphavel.foundation import container
from alphavel.websocket import blueprint
from alphavel.websocket.auth.signatures import sign, string_to_sign
from alphavel.websocket.settings import AppLimits, AppSettings
from tests.support import ROOT, wait_until
from tests.websocket.conftest import SECRET
from tests.websocket.pusher import PusherClient
from tests.websocket.test_clients import certificate as certificate  # noqa: PLC0414 (a fixture)
from tests.websocket.test_clients import context as context  # noqa: PLC0414 (a fixture)
from tests.websocket.test_starting import STARTS, answers
from tests.websocket.test_starting import port as port  # noqa: PLC0414 (a fixture)
from tests.websocket.test_starting import shop as shop  # noqa: PLC0414 (a fixture)
from tests.websocket.tokens import bearer

KEY, APP_SECRET = "app-key", "app-secret"
APP = AppSettings("1", KEY, APP_SECRET)


def allow(server):
    """Authorizers of the channels of these tests."""

    @server.channel("private-{name}")
    def private(user):
        return True

    @server.channel("presence-{name}")
    def presence(user):
        return {"name": user.id}


@pytest.fixture
def server(serve):
    return serve(allow, apps=(APP, AppSettings("2", "other-key", "other-secret", enabled=False)), secret=SECRET, anonymous=True)


def library(server, **changes):
    options = {"app_id": "1", "key": KEY, "secret": APP_SECRET, "ssl": False, "host": "127.0.0.1", "port": server.port}
    return pusher.Pusher(**{**options, **changes})


def request(
    server,
    method,
    path,
    body=None,
    *,
    secret=APP_SECRET,
    key=KEY,
    now=None,
    signed_body=None,
    headers=None,
    tls=None,
    **parameters,
):
    """Make a signed request; return status, headers and body."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    query = {"auth_key": key, "auth_timestamp": str(int(now or time.time())), "auth_version": "1.0", **parameters}
    if data:
        query["body_md5"] = hashlib.md5(data if signed_body is None else signed_body).hexdigest()
    query["auth_signature"] = sign(secret, string_to_sign(method, path, query))
    return raw(server, method, f"{quote(path)}?{urlencode(query)}", data, headers, tls)


def raw(server, method, target, body=b"", headers=None, tls=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    if tls is not None:
        connection = http.client.HTTPSConnection("localhost", server.port, timeout=20, context=tls)
    try:
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def event(**changes):
    return {"name": "my-event", "data": '{"a":1}', "channels": ["a"], **changes}


# Every call of both libraries


def test_pusher_of_pypi_makes_every_call(server):
    client = library(server)
    with server.connect() as one, server.connect("/", bearer("7")) as two:
        one.subscribe("a")
        two.subscribe("a")
        two.subscribe("presence-room")
        assert client.trigger("a", "my-event", {"text": "hé"}) == {}
        assert one.receive() == two.receive() == {"event": "my-event", "channel": "a", "data": {"text": "hé"}}
        assert client.trigger(["a", "presence-room"], "my-event", "plain text", socket_id=one.socket_id) == {}
        assert [two.receive()["channel"], two.receive()["channel"]] == ["a", "presence-room"]
        batch = [{"channel": "a", "name": f"n{number}", "data": number} for number in range(10)]
        assert client.trigger_batch(batch) == {}
        assert [one.receive()["event"] for _ in range(10)] == [f"n{number}" for number in range(10)]
        assert client.channels_info() == {"channels": {"a": {}, "presence-room": {}}}
        assert client.channels_info("presence-", ["user_count"]) == {"channels": {"presence-room": {"user_count": 1}}}
        assert client.channel_info("presence-room", ["user_count", "subscription_count"]) == {
            "occupied": True, "user_count": 1, "subscription_count": 1,
        }  # fmt: skip
        assert client.channel_info("nobody-here") == {"occupied": False}
        assert client.users_info("presence-room") == {"users": [{"id": "7"}]}
        assert client.terminate_user_connections("7") == {}
        assert two.closed().code == 4009
        wait_until(lambda: client.channels_info() == {"channels": {"a": {}}})


def test_pusher_of_pypi_is_told_what_is_wrong(server):
    with pytest.raises(pusher.errors.PusherBadAuth, match="not the key"):
        library(server, key="unknown").trigger("a", "my-event", {})
    with pytest.raises(pusher.errors.PusherBadStatus, match="There is no app '3'"):
        library(server, app_id="3").trigger("a", "my-event", {})
    with pytest.raises(pusher.errors.PusherForbidden, match="disabled"):
        library(server, app_id="2", key="other-key", secret="other-secret").trigger("a", "my-event", {})
    with pytest.raises(pusher.errors.PusherBadStatus, match=r"413: .*at most 10240 bytes"):
        library(server).trigger("a", "my-event", "x" * 10241)
    with pytest.raises(pusher.errors.PusherBadRequest, match="presence"):
        library(server).users_info("a")


def test_pusher_of_npm_makes_every_call(server):
    with server.connect() as one, server.connect("/", bearer("7")) as two:
        one.subscribe("a")
        two.subscribe("presence-room")
        count, unasked = "subscription_count", {"name": "n", "data": 2}
        answers = node(
            server,
            ["trigger", ["a", "my-event", {"text": "hé"}]],
            ["trigger", [["a", "presence-room"], "e", "x", {"info": f"user_count,{count}", "socket_id": one.socket_id}]],
            ["triggerBatch", [[{"channel": "a", "name": "n", "data": 1, "info": count}, {**unasked, "channel": "b"}]]],
            ["get", [{"path": "/channels", "params": {"filter_by_prefix": "presence-", "info": "user_count"}}]],
            ["get", [{"path": "/channels/presence-room/users"}]],
            ["get", [{"path": "/channels/a", "params": {"info": "subscription_count"}}]],
            ["sendToUser", ["7", "hello", {"n": 1}]],
            ["terminateUserConnections", ["7"]],
        )  # fmt: skip
        assert answers == [
            {"status": 200, "body": body}
            for body in (
                {},
                {"channels": {"a": {"subscription_count": 1}, "presence-room": {"subscription_count": 1, "user_count": 1}}},
                {"batch": [{"subscription_count": 1}, {}]},
                {"channels": {"presence-room": {"user_count": 1}}},
                {"users": [{"id": "7"}]},
                {"occupied": True, "subscription_count": 1},
                {},
                {},
            )
        ]
        assert [one.receive()["event"] for _ in range(2)] == ["my-event", "n"]
        assert [two.receive()["event"] for _ in range(2)] == ["e", "hello"]
        assert two.closed().code == 4009


def test_pusher_of_npm_is_told_what_is_wrong(server):
    too_large, not_presence = node(
        server, ["trigger", ["a", "e", "x" * 10241]], ["get", [{"path": "/channels/a/users"}]]
    )  # fmt: skip
    assert (too_large["status"], not_presence["status"]) == (413, 400)


def node(server, *calls, late=0, **changes):
    options = {"appId": "1", "key": KEY, "secret": APP_SECRET, "host": "127.0.0.1", "port": str(server.port), **changes}
    script = [shutil.which("node"), "pusher_calls.mjs", json.dumps(options), json.dumps(calls), str(late)]
    done = subprocess.run(script, cwd=ROOT / "tests/node", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# Every call of both libraries, forged

PYPI_CALLS = {
    "trigger": lambda client: client.trigger("a", "my-event", {"text": "to be changed"}),
    "trigger_batch": lambda client: client.trigger_batch([{"channel": "a", "name": "n", "data": "to be changed"}]),
    "channels_info": lambda client: client.channels_info("presence-", ["user_count"]),
    "channel_info": lambda client: client.channel_info("a"),
    "users_info": lambda client: client.users_info("presence-room"),
    "terminate_user_connections": lambda client: client.terminate_user_connections("7"),
}
NPM_CALLS = [
    ["trigger", ["a", "my-event", {"text": "to be changed"}]],
    ["triggerBatch", [[{"channel": "a", "name": "n", "data": "to be changed"}]]],
    ["sendToUser", ["7", "hello", {"text": "to be changed"}]],
    ["get", [{"path": "/channels", "params": {"filter_by_prefix": "presence-"}}]],
    ["get", [{"path": "/channels/a"}]],
    ["get", [{"path": "/channels/presence-room/users"}]],
    ["terminateUserConnections", ["7"]],
]


@pytest.fixture
def tampering(server):
    """A proxy in front of the server that changes what is published on its way."""

    def carry(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data.replace(b"to be changed", b"what it became"[:13]))
            target.shutdown(socket.SHUT_WR)

    def serve_one(sock, address):
        with socket.create_connection(("127.0.0.1", server.port)) as upstream:
            back = gevent.spawn(carry, upstream, sock)
            carry(sock, upstream)
            back.join()

    proxy = gevent.server.StreamServer(("127.0.0.1", 0), serve_one)
    proxy.start()
    yield types.SimpleNamespace(port=proxy.server_port)
    proxy.stop(timeout=1)


@pytest.mark.parametrize("call", PYPI_CALLS)
def test_forged_calls_of_pypis_library_do_nothing(server, tampering, monkeypatch, call):
    with server.connect("/", bearer("7")) as client:
        client.subscribe("a")
        with pytest.raises(pusher.errors.PusherBadAuth, match="Invalid signature"):
            PYPI_CALLS[call](library(server, secret="wrong"))
        if "trigger" in call:
            with pytest.raises(pusher.errors.PusherBadAuth, match="body_md5"):
                PYPI_CALLS[call](library(tampering))
        monkeypatch.setattr("pusher.http.time", types.SimpleNamespace(time=lambda: time.time() - 700))
        with pytest.raises(pusher.errors.PusherBadAuth, match="Timestamp expired"):
            PYPI_CALLS[call](library(server))
        assert client.silent()


def test_forged_calls_of_npms_library_do_nothing(server, tampering):
    with server.connect("/", bearer("7")) as client:
        client.subscribe("a")
        for answer in node(server, *NPM_CALLS, secret="wrong"):
            assert (answer["status"], answer["body"][:17]) == (401, "Invalid signature")
        for answer in node(server, *NPM_CALLS, late=700):
            assert (answer["status"], answer["body"][:17]) == (401, "Timestamp expired")
        for answer in node(tampering, *NPM_CALLS[:3]):
            assert (answer["status"], answer["body"][:8]) == (401, "body_md5")
        assert client.silent()
        assert [answer["status"] for answer in node(server, *NPM_CALLS)] == [200] * len(NPM_CALLS)


# What PHP's and Ruby's libraries send


def test_php_names_one_channel_and_reads_an_object_of_channels_also_when_there_is_none(server):
    with server.connect() as client:
        client.subscribe("a")
        body = {"name": "my-event", "data": '{"a":1}', "channel": "a", "an_option_of_tomorrow": True}
        assert request(server, "POST", "/apps/1/events", body)[::2] == (200, b"{}")
        assert client.receive()["data"] == {"a": 1}
    status, headers, content = request(server, "GET", "/apps/1/channels", filter_by_prefix="z")
    assert (status, headers["Content-Type"], content) == (200, "application/json", b'{"channels":{}}')


def test_php_writes_lists_with_brackets_and_signs_them_with_commas(server):
    now = str(int(time.time()))
    query = {"auth_key": KEY, "auth_timestamp": now, "auth_version": "1.0", "info": "user_count,subscription_count"}
    query["filter_by_prefix"] = "presence-"
    signature = sign(APP_SECRET, string_to_sign("GET", "/apps/1/channels", query))
    del query["info"]
    query.update({"info[0]": "user_count", "info[1]": "subscription_count", "auth_signature": signature})
    assert raw(server, "GET", f"/apps/1/channels?{urlencode(query)}")[::2] == (200, b'{"channels":{}}')


@pytest.mark.parametrize("escaped", [False, True])
def test_the_path_may_be_signed_before_or_after_it_is_escaped(server, escaped):
    path = "/apps/1/channels/a@b,c;d"
    query = {"auth_key": KEY, "auth_timestamp": str(int(time.time())), "auth_version": "1.0"}
    query["auth_signature"] = sign(APP_SECRET, string_to_sign("GET", quote(path) if escaped else path, query))
    assert raw(server, "GET", f"{quote(path)}?{urlencode(query)}")[0] == 200


def test_a_user_id_may_be_any_text(server):
    with server.connect("/", bearer("shop/häns müller@example.com")) as client:
        assert request(server, "POST", "/apps/1/users/shop/häns müller@example.com/terminate_connections", {})[0] == 200
        assert client.closed().code == 4009


# Events


def test_data_arrives_verbatim_whether_it_is_json_or_not(server):
    with server.connect() as client:
        client.subscribe("a")
        for data, expected in [('{"a": 1}', {"a": 1}), ("plain", "plain"), ('"1"', "1"), ("", ""), ("é\u2028", "é\u2028")]:
            assert request(server, "POST", "/apps/1/events", event(data=data))[0] == 200
            assert client.receive()["data"] == expected


def test_the_connection_named_by_socket_id_is_skipped_and_an_unknown_one_ignored(server):
    with server.connect() as one, server.connect() as two:
        one.subscribe("a")
        two.subscribe("a")
        assert request(server, "POST", "/apps/1/events", event(name="x", socket_id=one.socket_id))[0] == 200
        assert request(server, "POST", "/apps/1/events", event(name="y", socket_id="1.1"))[0] == 200
        assert [two.receive()["event"], two.receive()["event"], one.receive()["event"]] == ["x", "y", "y"]


def test_a_user_is_reached_by_the_name_of_the_users_own_channel(server):
    with server.connect("/", bearer("7")) as client, server.connect("/", bearer("8")) as other:
        assert request(server, "POST", "/apps/1/events", event(channels=["#server-to-user-7"]))[0] == 200
        assert client.receive() == {"event": "my-event", "data": {"a": 1}}
        assert other.silent()


def test_who_publishes_to_a_cache_channel_can_ask_for_what_is_kept(server):
    path = "/apps/1/channels/cache-a"
    assert json.loads(request(server, "GET", path, info="cache")[2]) == {"occupied": False, "cache": None}
    assert request(server, "POST", "/apps/1/events", event(channels=["cache-a"], data="[1]"))[0] == 200
    kept = json.loads(request(server, "GET", path, info="cache")[2])["cache"]
    assert kept["data"] == "[1]"
    assert 1700 < kept["ttl"] <= 1800


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"name": None}, 400, '"name": expected'),
        ({"name": ""}, 400, '"name": expected'),
        ({"name": 5}, 400, '"name": expected'),
        ({"name": "x" * 201}, 400, "at most 200 characters; this one has 201"),
        ({"name": "pusher:error"}, 400, "server's own"),
        ({"name": "pusher_internal:member_added"}, 400, "server's own"),
        ({"name": "a\nb"}, 400, r"control characters.*'a\\nb'"),
        ({"data": None}, 400, '"data": expected a text'),
        ({"data": {"a": 1}}, 400, '"data": expected a text'),
        ({"data": "x" * 10241}, 413, "at most 10240 bytes are taken; got 10241"),
        ({"data": "é" * 5121}, 413, "got 10242"),
        ({"channels": None}, 400, "at least one channel"),
        ({"channels": None, "channel": None}, 400, "channel's name is a text"),
        ({"channels": []}, 400, "at least one"),
        ({"channels": "a"}, 400, "expected a list"),
        ({"alphavel": 5}, 400, "expected an object"),
        ({"alphavel": {"except": ["x"]}}, 400, "socket ids"),
        ({"alphavel": {"members": "x" * 10241}}, 400, "no larger than data"),
        ({"alphavel": {"members": {"x": json.loads("[" * 300 + "]" * 300)}}}, 400, "cannot be passed on"),
        ({"alphavel": {"ttl": 0}}, 400, "number of seconds"),
        ({"alphavel": {"idempotency_key": 5}}, 400, "a text of 1 to 200"),
        ({"channels": [f"c{number}" for number in range(101)]}, 400, "at most 100 channels; got 101"),
        ({"channels": ["a b"]}, 400, "letters, digits"),
        ({"channels": ["a", "x" * 165]}, 400, "at most 164"),
        ({"channels": ["__proto__"]}, 400, "cannot be __proto__"),
        ({"channels": [{}]}, 400, "is a text"),
        ({"channels": ["#private"]}, 400, "letters, digits"),
        ({"channels": ["#server-to-user-"]}, 400, "1 to 128 characters"),
        ({"channels": ["a", "private-encrypted-b"]}, 400, "alone"),
        ({"socket_id": "abc"}, 400, "two numbers and a dot"),
        ({"socket_id": "1.2:private-x"}, 400, "two numbers and a dot"),
        ({"info": ["user_count"]}, 400, "names with commas"),
        ({"info": "user_counts"}, 400, "got 'user_counts'"),
    ],
)
def test_a_bad_event_reaches_nobody_and_the_text_says_why(server, changes, status, text):
    with server.connect() as client:
        client.subscribe("a")
        got, headers, content = request(server, "POST", "/apps/1/events", event(**changes))
        assert (got, headers["Content-Type"]) == (status, "text/plain; charset=utf-8")
        assert re.search(text, content.decode()), content
        assert request(server, "POST", "/apps/1/events", event(name="end"))[0] == 200
        assert client.receive()["event"] == "end"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "expected a list"),
        ({"batch": []}, "expected a list"),
        ({"batch": [{"name": "n", "data": "", "channel": "a"}] * 11}, "at most 10 events are taken at once; got 11"),
        ({"batch": [{"name": "n", "data": "", "channel": "a"}, {"name": "", "data": "", "channel": "a"}]}, 'batch[1]: "name"'),
        ({"batch": [{"name": "n", "data": "", "channel": "a"}, 5]}, "batch[1]: expected"),
        ({"batch": [{"name": "n", "data": "", "channels": ["a"]}]}, "batch[0]: expected"),
        ({"batch": [{"name": "n", "data": ""}]}, 'batch[0]: "channel": expected'),
    ],
)
def test_of_a_bad_batch_nothing_is_published(server, body, text):
    with server.connect() as client:
        client.subscribe("a")
        status, _, content = request(server, "POST", "/apps/1/batch_events", body)
        assert (status, text in content.decode()) == (400, True), content
        assert request(server, "POST", "/apps/1/events", event(name="end"))[0] == 200
        assert client.receive()["event"] == "end"


@pytest.mark.parametrize(
    ("path", "parameters", "text"),
    [
        ("/channels", {"info": "user_count"}, "filter_by_prefix=presence-"),
        ("/channels", {"info": "cache"}, "there are user_count, subscription_count; got 'cache'"),
        ("/channels/a", {"info": "user_count"}, "only presence channels"),
        ("/channels/a", {"info": "cache"}, "only cache channels"),
        ("/channels/a b", {}, "letters, digits"),
        ("/channels/private-a/users", {}, "Only presence channels"),
        ("/channels/a/history", {}, "keeps no history"),
        ("/channels/a b/history", {}, "letters, digits"),
        ("/channels/a/history", {"limit": "x"}, '"limit" is a number'),
        ("/channels/a/history", {"limit": "9" * 30}, '"limit" is a number'),
        ("/channels/a/history", {"epoch": "x"}, "A position is"),
    ],
)
def test_a_question_that_has_no_answer_is_refused(server, path, parameters, text):
    status, _, content = request(server, "GET", f"/apps/1{path}", **parameters)
    assert (status, text in content.decode()) == (400, True), content


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/reauthorize", {}, "expected the pattern"),
        ("/reauthorize", {"channels": "x" * 201}, "at most 200"),
        ("/revoke", {}, "A jti is"),
        ("/revoke", {"jti": "a", "expires_in": -1}, "number of seconds"),
    ],
)
def test_what_cannot_be_taken_back_is_refused(server, path, body, text):
    status, _, content = request(server, "POST", f"/apps/1{path}", body)
    assert (status, text in content.decode()) == (400, True), content


def test_limits_are_those_of_the_app(serve):
    limits = AppLimits(event_size=20, channels_per_event=2, events_per_batch=1, channel_name_length=5, event_name_length=3)
    server = serve(apps=(AppSettings("1", KEY, APP_SECRET, limits=limits),))
    for changes, status in [
        ({"name": "abc", "data": "x" * 20, "channels": ["a", "b"]}, 200),
        ({"name": "abcd"}, 400),
        ({"name": "abc", "data": "x" * 21}, 413),
        ({"name": "abc", "channels": ["a", "b", "c"]}, 400),
        ({"name": "abc", "channels": ["abcdef"]}, 400),
    ]:
        assert request(server, "POST", "/apps/1/events", event(**changes))[0] == status, changes


# Requests


def test_a_forged_old_or_changed_request_is_refused_and_does_nothing(server):
    body = event()
    with server.connect() as client:
        client.subscribe("a")
        for options, text in [
            ({"secret": "wrong"}, b"Invalid signature"),
            ({"key": "other-key"}, b"not the key of this app"),
            ({"now": time.time() - 601}, b"before this server's time"),
            ({"now": time.time() + 660}, b"after this server's time"),
            ({"signed_body": b"another"}, b"body_md5"),
            ({"auth_version": "2.0"}, b"auth_version 1.0"),
        ]:
            status, _, content = request(server, "POST", "/apps/1/events", body, **options)
            assert (status, text in content) == (401, True), content
            assert APP_SECRET.encode() not in content
        assert raw(server, "POST", "/apps/1/events", json.dumps(body).encode())[0] == 401
        assert raw(server, "POST", f"/apps/1/events?auth_key={KEY}&auth_key=x", b"{}")[0] == 401
        assert client.silent()


def test_everything_that_can_be_asked_wants_the_secret(server):
    asked = re.findall(r"^\| `(GET|POST) (/apps/\S+)` \|", (ROOT / "docs/http-api.md").read_text(), re.MULTILINE)
    assert len(asked) > 8
    for method, pattern in asked:
        path = pattern.format(id=1, name="a", user="7")
        body = {} if method == "POST" else None
        assert request(server, method, path, body, secret="wrong")[0] == 401
        assert request(server, method, path, body)[0] in (200, 400), "and there is such a thing"


def test_one_app_cannot_publish_to_another(serve):
    server = serve(apps=(APP, AppSettings("2", "other-key", "other-secret")))
    with server.connect() as client:
        client.subscribe("a")
        assert request(server, "POST", "/apps/2/events", event(), key="other-key", secret="other-secret")[0] == 200
        assert request(server, "POST", "/apps/1/events", event(), key="other-key", secret="other-secret")[0] == 401
        assert request(server, "GET", "/apps/2/channels", key="other-key", secret="other-secret")[2] == b'{"channels":{}}'
        assert client.silent()


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/apps/1/events", None, {}, 405),
        ("POST", "/apps/1/channels", {}, {}, 405),
        ("DELETE", "/apps/1/channels/a", None, {}, 405),
        ("POST", "/apps/9/events", {}, {}, 404),
        ("POST", "/apps/1/events", b"{", {}, 400),
        ("POST", "/apps/1/events", b"[]", {}, 400),
        ("POST", "/apps/1/events", b'"text"', {}, 400),
        ("POST", "/apps/1/events", b"\xff\xfe", {}, 400),
        ("POST", "/apps/1/events", b"[" * 100_000, {}, 400),
        ("POST", "/apps/1/events", gzip.compress(b"{}"), {"Content-Encoding": "gzip"}, 415),
        ("POST", "/apps/1/events", b" " * 1_000_000, {}, 413),
    ],
)
def test_requests_that_make_no_sense_are_told_so_and_the_connection_can_be_used_again(
    server, method, path, body, headers, status
):
    got, answer, content = request(server, method, path, body, headers=headers)
    assert got == status
    assert content
    assert got != 405 or answer["Allow"] in ("POST", "GET")
    assert got != 415 or answer["Accept-Encoding"] == "identity"
    assert request(server, "POST", "/apps/1/events", event())[0] == 200
    wait_until(lambda: server.reactor.sockets == 0)


def test_a_server_that_ends_tls_itself_answers_over_tls(serve, certificate, context):
    server = serve(apps=(APP,), tls=certificate)
    largest = [{"name": "x", "channel": "news", "data": "x" * 10240}] * 10
    with PusherClient(server.port, tls=context) as client:
        client.join("news")
        assert request(server, "GET", "/apps/1/channels", tls=context)[2] == b'{"channels":{"news":{}}}'
        assert request(server, "POST", "/apps/1/batch_events", {"batch": largest}, tls=context)[0] == 200
        assert [client.receive()["event"] for _ in largest] == ["x"] * 10
        assert request(server, "POST", "/apps/1/events", event(data="x" * 10241), tls=context)[0] == 413
        assert request(server, "POST", "/apps/1/events", event(), secret="wrong", tls=context)[0] == 401
        client.send("pusher:ping", {})
        assert client.receive()["event"] == "pusher:pong"  # and nothing of what was refused before it


def test_connections_are_kept(server):
    query = {"auth_key": KEY, "auth_timestamp": str(int(time.time())), "auth_version": "1.0"}
    query["auth_signature"] = sign(APP_SECRET, string_to_sign("GET", "/apps/1/channels", query))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for target, status in [(f"/apps/1/channels?{urlencode(query)}", 200), ("/apps/1/channels", 401), ("/nowhere", 404)] * 3:
        connection.request("GET", target)
        response = connection.getresponse()
        assert (response.status, response.read() is not None) == (status, True)
        assert connection.sock is not None, "the server closed the connection"
    connection.close()


def test_what_is_answered_to_head_has_no_body_that_the_next_answer_could_be_taken_for(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:  # http.client would swallow the body
        sock.sendall(b"HEAD /apps/1/channels HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.sendall(b"HEAD /apps/1/channels HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers = b"".join(iter(lambda: sock.recv(65536), b"")).split(b"\r\n\r\n")
    assert [answer.partition(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 405 Method Not Allowed"] * 2 + [b""]


def test_a_chunked_body_is_read(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    body = json.dumps(event()).encode()
    query = {"auth_key": KEY, "auth_timestamp": str(int(time.time())), "auth_version": "1.0"}
    query["body_md5"] = hashlib.md5(body).hexdigest()
    query["auth_signature"] = sign(APP_SECRET, string_to_sign("POST", "/apps/1/events", query))
    connection.request("POST", f"/apps/1/events?{urlencode(query)}", iter([body[:10], body[10:]]), encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()


def test_a_body_that_does_not_come_is_not_waited_for(serve):
    server = serve(apps=(APP,), handshake_timeout=0.3)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("POST", f"/apps/1/events?auth_key={KEY}")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    assert connection.getresponse().status == 408
    connection.close()


def test_random_bodies_are_answered_and_never_break_anything(server):
    rng = random.Random(7)
    pieces = [None, True, 0, -1, 1e300, "", "a", "__proto__", "\0", "é" * 300, [], {}, [[]], {"a": {}}, "presence-x", "1.2"]
    for _ in range(200):
        body = {
            key: rng.choice(pieces) for key in ("name", "data", "channels", "channel", "socket_id", "info", "batch", "alphavel")
        }
        body["channels"] = rng.choice([body["channels"], [rng.choice(pieces) for _ in range(3)]])
        for path in ("/apps/1/events", "/apps/1/batch_events"):
            assert request(server, "POST", path, body)[0] in (200, 400)
    assert server.counters.errors == 0


# Where it is served


@pytest.mark.parametrize("way", [way for way in STARTS if "our settings" not in way])
def test_each_way_to_start_answers(way, shop, port):
    start, started = STARTS[way]
    (shop / "config").mkdir()
    (shop / "config/websocket.yaml").write_text(f"apps: [{{id: 1, key: {KEY}, secret: {APP_SECRET}}}]")
    with start(shop, port) as program:
        program.wait_for(started)
        wait_until(lambda: answers(port))
        client = library(types.SimpleNamespace(port=port))
        with PusherClient(port, headers={"Sec-WebSocket-Protocol": "pusher-channels-protocol-7"}) as subscriber:
            # A phone or browser that asked for it goes away without.
            assert subscriber.headers["sec-websocket-protocol"] == "pusher-channels-protocol-7"
            subscriber.join("a")
            assert client.trigger("a", "my-event", {"n": 1}) == {}
            assert subscriber.receive() == {"event": "my-event", "channel": "a", "data": {"n": 1}}
            assert client.channels_info() == {"channels": {"a": {}}}
            with pytest.raises(pusher.errors.PusherBadAuth):
                library(types.SimpleNamespace(port=port), secret="wrong").trigger("a", "my-event", {})
        if "stock" not in way:  # which waits for the connection that the library keeps
            assert program.stop() in (0, -signal.SIGTERM)
        assert "Traceback" not in program.output


def test_a_page_of_the_applications_own_at_such_a_path_is_left_alone(serve):
    app = Flask(__name__)
    app.add_url_rule("/apps/<name>/events", "page", lambda name: f"page of {name}")
    server = serve(application=app)
    assert raw(server, "GET", "/apps/1/events")[2] == b"page of 1", "without apps there is no API"
    server = serve(application=app, apps=(APP,))
    assert raw(server, "GET", "/apps/shop/events")[2] == b"page of shop"
    assert raw(server, "GET", "/apps/1/events")[0] == 405


def test_the_blueprint_answers_where_another_server_serves_flask(serve):
    server = serve(apps=(APP,))
    app = Flask(__name__)
    app.register_blueprint(blueprint)
    container().instance("websocket", server)
    try:
        client = app.test_client()
        with server.connect() as subscriber:
            subscriber.subscribe("a")
            body = json.dumps(event()).encode()
            query = {"auth_key": KEY, "auth_timestamp": str(int(time.time())), "auth_version": "1.0"}
            query["body_md5"] = hashlib.md5(body).hexdigest()
            query["auth_signature"] = sign(APP_SECRET, string_to_sign("POST", "/apps/1/events", query))
            answer = client.post("/apps/1/events", query_string=query, data=body)
            assert (answer.status_code, answer.json) == (200, {})
            assert subscriber.receive()["data"] == {"a": 1}
            assert client.post("/apps/1/events", data=body).status_code == 401
            assert client.post("/apps/1/events", data=b" " * 1_000_000).status_code == 413
            assert client.get("/apps/9/events").status_code == 404
    finally:
        container().forget("websocket")
