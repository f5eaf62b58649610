"""Taking back what was granted: authorizers asked again, users sent away, tokens revoked."""

from __future__ import annotations

import gevent
import pytest

from alphavel.websocket.auth.revocations import Revocations
from tests.support import wait_until
from tests.websocket.clients import Refused
from tests.websocket.conftest import SECRET
from tests.websocket.pusher import PusherClient, app
from tests.websocket.tokens import bearer


class Rights:
    """What users may, as an application's database would say."""

    def __init__(self):
        self.allowed = {"7", "8"}
        self.fails = False
        self.asked = 0

    def register(self, server):
        @server.channel("private-orders.{shop}")
        def orders(user, shop):
            return self.ask(user)

        @server.channel("presence-{room}")
        def room(user, room):
            return {"name": user.id} if self.ask(user) else False

        @server.channel("guarded")
        def guarded(user):
            return user is not None and self.ask(user)

    def ask(self, user):
        self.asked += 1
        gevent.sleep(0.001)
        if self.fails:
            raise RuntimeError("the database is away")
        return user.id in self.allowed


@pytest.fixture
def rights():
    return Rights()


@pytest.fixture
def server(serve, rights):
    return serve(rights.register, secret=SECRET, anonymous=True, apps=(app(),))


@pytest.mark.usefixtures("transport")
def test_who_may_no_longer_is_taken_off_and_told_and_others_stay(server, rights):
    seven, eight = server.connect("/", bearer("7")), server.connect("/", bearer("8"))
    for client in (seven, eight):
        client.subscribe("private-orders.1")
        client.subscribe("presence-a")
    assert seven.receive()["event"] == "member_added"
    rights.allowed.discard("7")
    assert server.reauthorize("private-orders.*") == 1
    expelled = {"event": "unsubscribed", "channel": "private-orders.1", "code": 4009, "message": "Unauthorized"}
    assert seven.receive() == expelled
    assert server.to_channel("private-orders.1").push({"event": "m"}) == 1
    assert eight.receive() == {"event": "m", "channel": "private-orders.1"}
    assert seven.silent()  # not even from channels that no pattern named
    assert server.reauthorize("presence-*") == 1
    assert seven.receive()["event"] == "unsubscribed"
    assert eight.receive()["event"] == "member_removed"
    assert [member["id"] for member in server.get_presence("presence-a")] == ["8"]


def test_guarded_public_channels_are_asked_about_and_open_ones_are_not(server, rights):
    client = server.connect("/", bearer("7"))
    client.subscribe("guarded")
    client.subscribe("open")
    rights.allowed.clear()
    assert server.reauthorize("*") == 1
    assert client.receive()["channel"] == "guarded"
    assert server.to_channel("open").push({"event": "m"}) == 1


def test_authorizer_that_fails_ends_the_subscription(server, rights, caplog):
    client = server.connect("/", bearer("7"))
    client.subscribe("private-orders.1")
    rights.fails = True
    assert server.reauthorize("private-orders.1") == 1
    assert "the database is away" in caplog.text
    assert client.receive()["event"] == "unsubscribed"


def test_pushers_clients_are_asked_about_as_who_they_signed_in_or_signed_to_be(server, rights):
    with PusherClient(server.port) as signed_in, PusherClient(server.port) as member, PusherClient(server.port) as nobody:
        signed_in.sign_in("7")
        signed_in.join("private-orders.1")
        member.join("presence-a", {"user_id": "8"})
        nobody.join("private-orders.1")
        assert server.reauthorize("*") == 1  # whom nobody knows may not stay
        refused = nobody.receive()
        assert (refused["event"], refused["channel"]) == ("pusher:subscription_error", "private-orders.1")
        assert refused["data"]["status"] == 401
        rights.allowed.clear()
        assert server.reauthorize("*") == 2
        assert {signed_in.receive()["channel"], member.receive()["channel"]} == {"private-orders.1", "presence-a"}


def test_subscription_that_is_being_asked_about_is_asked_about_once_more(server, rights):
    client = server.connect("/", bearer("7"))
    going_on = gevent.event.Event()

    def slow(user):
        allowed = user.id in rights.allowed
        rights.asked += 1
        going_on.wait(10)
        return allowed

    rights.ask = slow
    client.send("subscribe", {"channel": "private-orders.1"})
    wait_until(lambda: rights.asked == 1)
    rights.allowed.clear()
    server.reauthorize("private-orders.*")
    going_on.set()
    assert client.receive()["event"] == "error"
    assert rights.asked == 2


def test_user_is_disconnected_everywhere(server):
    ones = [server.connect("/", bearer("7")) for _ in range(3)]
    other = server.connect("/", bearer("8"))
    assert server.disconnect_user(7) == 3
    assert {client.closed().code for client in ones} == {4009}
    other.send("ping")
    assert other.receive()["event"] == "pong"


def test_revoked_token_ends_its_connections_and_opens_none(server):
    one, two = server.connect("/", bearer("7", jti="a")), server.connect("/", bearer("7", jti="b"))
    esc = server.connect("/", bearer("7", jti='quote"é'))
    assert server.revoke("a") == 1
    assert (closed := one.closed()).code == 4009
    assert closed.reason == "the token was revoked"
    assert server.revoke('quote"é') == 1
    assert esc.closed().code == 4009
    with pytest.raises(Refused) as refused:
        server.connect("/", bearer("7", jti="a"))
    assert (refused.value.status, refused.value.body) == (401, "The token was revoked.\n")
    two.send("ping")
    assert two.receive()["event"] == "pong"
    two.send("refresh", {"token": bearer("7", jti="a")["Authorization"].split()[1]})
    assert two.receive()["message"] == "The token was revoked."


@pytest.mark.parametrize(
    ("jti", "expires_in"), [("", 5), (None, 5), (5, 5), ("x" * 257, 5), ("a", 0), ("a", "x"), ("a", float("inf"))]
)
def test_what_cannot_be_revoked_is_refused(server, jti, expires_in):
    with pytest.raises(ValueError, match=r"jti|seconds"):
        server.revoke(jti, expires_in)


def test_revocations_are_kept_until_the_token_has_expired_by_itself():
    now = [0.0]
    revoked = Revocations(lambda: now[0], max_revoked=3, wall_clock=lambda: now[0] + 1e9)
    revoked.add("a", 10)
    revoked.add("a", 5)  # said again, of the same token: the longer time holds
    now[0] = 9.0
    assert "a" in revoked
    assert list(revoked.left()) == [("a", 1.0)]
    now[0] = 10.0
    assert "a" not in revoked
    assert len(revoked) == 0
    for jti in "bcde":
        revoked.add(jti, 10)
    assert [jti in revoked for jti in "bcde"] == [False, True, True, True]
