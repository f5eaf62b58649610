"""Webhooks, received by a real web server and checked with Pusher's own libraries."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time

import pusher
import pytest

from alphavel.circuit_breaker import CircuitBreakerManager
from alphavel.foundation import ConfigurationError, container
from alphavel.websocket import WebSocketServer
from alphavel.websocket.bus.facts import Fact
from alphavel.websocket.settings import AppSettings, WebhookSettings, WebSocketSettings
from alphavel.websocket.webhooks import delivery
from alphavel.websocket.webhooks import queue as queueing
from alphavel.websocket.webhooks.queue import HOLD_S, WebhookQueue
from tests.support import ROOT, nothing_switches, wait_until
from tests.websocket.conftest import SECRET
from tests.websocket.pusher import PusherClient
from tests.websocket.receiver import Receiver
from tests.websocket.tokens import bearer

KEY, APP_SECRET = "app-key", "app-secret"
ROOM = "presence-room"


def app(*webhooks, **settings):
    return AppSettings("1", KEY, APP_SECRET, webhooks=webhooks, **settings)


def allow(server):
    @server.channel("presence-{name}")
    def presence(user):
        return True


@pytest.fixture
def quick(monkeypatch):
    """Times short enough for tests."""
    monkeypatch.setattr(queueing, "HOLD_S", 0.3)
    monkeypatch.setattr(delivery, "_FIRST_PAUSE_S", 0.05)


@pytest.fixture
def told(serve, receiver, quick):
    """A server that tells the receiver what happens, with `emit` for its app."""
    server = serve(allow, apps=(app(WebhookSettings(receiver.url)),), secret=SECRET, anonymous=True)
    server.emit = server.apps.default.emit
    return server


def names(events):
    return [(event["name"], event["channel"], event.get("user_id")) for event in events]


# What is told and when


def put(queue, *events, now=0.0):
    for name, channel, *user in events:
        queue.put(name, {"channel": channel, **({"user_id": user[0]} if user else {})}, now)


def test_events_leave_in_the_order_they_came():
    queue = WebhookQueue(10)
    put(queue, ("channel_occupied", "a"), ("member_added", "a", "1"), ("channel_occupied", "b"))
    assert names(queue.take(2, 0.0)) == [("channel_occupied", "a", None), ("member_added", "a", "1")]
    assert names(queue.take(2, 0.0)) == [("channel_occupied", "b", None)]
    assert queue.wait(0.0) is None


def test_a_client_that_is_back_in_time_has_never_been_away():
    queue = WebhookQueue(10)
    put(queue, ("member_removed", "a", "1"), ("member_removed", "a", "2"), ("channel_vacated", "a"))
    assert queue.wait(0.0) == HOLD_S
    put(queue, ("channel_occupied", "a"), ("member_added", "a", "1"), now=HOLD_S - 0.1)
    assert queue.take(10, HOLD_S - 0.1) == []
    assert names(queue.take(10, HOLD_S)) == [("member_removed", "a", "2")]
    assert len(queue) == 0


def test_a_client_that_is_back_too_late_has_been_away():
    queue = WebhookQueue(10)
    put(queue, ("channel_vacated", "a"))
    assert names(queue.take(10, HOLD_S)) == [("channel_vacated", "a", None)]
    put(queue, ("channel_occupied", "a"), now=HOLD_S)
    assert names(queue.take(10, HOLD_S)) == [("channel_occupied", "a", None)]


def test_what_is_held_back_leaves_at_once_when_the_server_stops():
    queue = WebhookQueue(10)
    put(queue, ("member_removed", "a", "1"), ("channel_vacated", "a"))
    assert names(queue.take(10, 0.0, True)) == [("member_removed", "a", "1"), ("channel_vacated", "a", None)]


def test_subscribers_of_an_empty_cache_channel_miss_one_event():
    queue = WebhookQueue(10)
    put(queue, ("cache_miss", "cache-a"), ("cache_miss", "cache-a"), ("cache_miss", "cache-b"))
    put(queue, ("cache_miss", "cache-a"), now=HOLD_S - 0.1)
    assert names(queue.take(10, 0.0)) == [("cache_miss", "cache-a", None), ("cache_miss", "cache-b", None)]
    put(queue, ("cache_miss", "cache-a"), now=HOLD_S)
    assert len(queue) == 1


def test_what_finds_no_room_is_dropped_and_counted():
    queue = WebhookQueue(2)
    put(queue, ("channel_occupied", "a"), ("channel_vacated", "b"), ("channel_occupied", "c"))
    assert queue.dropped == 1
    put(queue, ("channel_occupied", "b"))
    assert names(queue.take(10, HOLD_S)) == [("channel_occupied", "a", None)]


# Told to a web server


def test_comings_and_goings_are_told_in_order_and_both_libraries_accept_them(told, receiver):
    with told.connect("/", bearer("7")) as one, told.connect("/", bearer("8")) as two:
        one.subscribe("a")
        one.subscribe(ROOM)
        two.subscribe(ROOM)
        two.send("unsubscribe", {"channel": ROOM})
        wait_until(lambda: len(receiver.events) == 5)
    wait_until(lambda: len(receiver.events) == 8)
    assert names(receiver.events) == [
        ("channel_occupied", "a", None),
        ("channel_occupied", ROOM, None),
        ("member_added", ROOM, "7"),
        ("member_added", ROOM, "8"),
        ("member_removed", ROOM, "8"),
        ("channel_vacated", "a", None),
        ("member_removed", ROOM, "7"),
        ("channel_vacated", ROOM, None),
    ]
    wait_until(lambda: told.counters.webhooks_delivered == 8)  # counted once the answer has come
    assert told.get_stats()["webhooks_waiting"] == 0
    client = pusher.Pusher(app_id="1", key=KEY, secret=APP_SECRET)
    for request in receiver.deliveries:
        assert request.headers["Content-Type"] == "application/json"
        checked = client.validate_webhook(
            request.headers["X-Pusher-Key"], request.headers["X-Pusher-Signature"], request.body.decode()
        )
        assert checked["events"] == request.events
        assert abs(checked["time_ms"] / 1000 - time.time()) < 60
    assert [answer["valid"] for answer in npm(receiver.deliveries)] == [True] * len(receiver.deliveries)
    assert [event for answer in npm(receiver.deliveries) for event in answer["events"]] == receiver.events
    assert npm(receiver.deliveries, secret="wrong")[0] == {"valid": False}


def npm(deliveries, **changes):
    options = {"appId": "1", "key": KEY, "secret": APP_SECRET, **changes}
    given = [
        {"headers": {name.lower(): value for name, value in each.headers.items()}, "body": each.body.decode()}
        for each in deliveries
    ]
    script = [shutil.which("node"), "check_webhooks.mjs", json.dumps(options), json.dumps(given)]
    done = subprocess.run(script, cwd=ROOT / "tests/node", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_reconnecting_client_is_not_told_of(told, receiver, monkeypatch):
    monkeypatch.setattr(queueing, "HOLD_S", 60.0)  # however long the way back takes
    with told.connect("/", bearer("7")) as client:
        client.subscribe(ROOM)
    wait_until(lambda: not told.connections.connections)
    with told.connect("/", bearer("7")) as client:
        client.subscribe(ROOM)
        told.emit("subscription_count", channel="end", subscription_count=1)
        wait_until(lambda: receiver.events and receiver.events[-1]["channel"] == "end")
        assert told.webhooks.waiting == 0, "nothing is held back"
        assert names(receiver.events[:-1]) == [("channel_occupied", ROOM, None), ("member_added", ROOM, "7")]


def test_a_burst_is_told_in_few_requests_in_order(told, receiver):
    for number in range(250):
        told.emit("channel_occupied", channel=f"c{number}")
    wait_until(lambda: len(receiver.events) == 250)
    assert [event["channel"] for event in receiver.events] == [f"c{number}" for number in range(250)]
    assert [len(each.events) for each in receiver.deliveries] == [100, 100, 50]


def test_a_refused_delivery_is_made_again_and_nothing_overtakes_it(told, receiver):
    receiver.answers = [500, 302, 404]
    told.emit("channel_occupied", channel="a")
    wait_until(lambda: receiver.deliveries)
    told.emit("channel_occupied", channel="b")
    wait_until(lambda: told.counters.webhooks_delivered == 2)
    assert [each.events[0]["channel"] for each in receiver.deliveries] == ["a", "a", "a", "a", "b"]
    assert {each.path for each in receiver.deliveries} == {"/webhooks"}, "a redirect was followed"
    assert len({each.body for each in receiver.deliveries[:4]}) == 1
    assert (told.counters.webhooks_failed, told.counters.webhooks_dropped) == (3, 0)


def test_what_is_refused_for_too_long_is_dropped_and_counted(told, receiver, monkeypatch):
    receiver.answers = [500] * 50
    told.emit("channel_occupied", channel="a")
    wait_until(lambda: len(receiver.deliveries) >= 2)
    assert told.counters.webhooks_dropped == 0
    monkeypatch.setattr(delivery, "_RETRY_FOR_S", 0.0)
    wait_until(lambda: told.counters.webhooks_dropped == 1)
    receiver.answers.clear()
    told.emit("channel_occupied", channel="b")
    wait_until(lambda: told.counters.webhooks_delivered == 1)


def test_short_answers_leave_the_connection_to_the_next_request(told, receiver):
    for body in ([], [b"thank you"], [b"x" * 1000, b"y" * 1000]):
        receiver.body = body
        delivered = told.counters.webhooks_delivered
        told.emit("channel_occupied", channel="a")
        wait_until(lambda before=delivered: told.counters.webhooks_delivered == before + 1)
    assert receiver.connections == 1


def test_of_an_answer_without_an_end_no_more_is_read(told, receiver):
    receiver.body = itertools.repeat(b"x" * 65536)
    for count in (1, 2):
        told.emit("channel_occupied", channel="a")
        wait_until(lambda count=count: told.counters.webhooks_delivered == count)
    assert receiver.connections == 2
    assert told.counters.webhooks_failed == 0


def test_an_answer_that_comes_byte_by_byte_has_no_more_time_than_another(serve, receiver, quick, monkeypatch):
    monkeypatch.setattr(delivery, "_RETRY_FOR_S", 0.0)
    receiver.body, receiver.pause_s = itertools.repeat(b"x"), 0.1
    server = serve(apps=(app(WebhookSettings(receiver.url, timeout=0.5)),))
    server.apps.default.emit("channel_occupied", channel="a")
    wait_until(lambda: server.counters.webhooks_dropped == 1)
    assert server.counters.webhooks_delivered == 0


def test_the_log_names_the_place_and_none_of_what_only_the_receiver_is_to_know(serve, quick, monkeypatch, caplog):
    monkeypatch.setattr(delivery, "_RETRY_FOR_S", 0.3)
    away = Receiver()
    away.stop()
    place = away.url.removeprefix("http://").partition("/")[0]
    url = f"http://user:pass@{place}/path-secret?token=query-secret"
    server = serve(apps=(app(WebhookSettings(url)),))
    server.apps.default.emit("channel_occupied", channel="a")
    wait_until(lambda: "are lost" in caplog.text)
    assert f"Webhook to {place} failed" in caplog.text
    assert f"for {place} are lost" in caplog.text
    assert "secret" not in caplog.text
    assert "user:pass" not in caplog.text


def test_an_event_that_cannot_be_written_as_json_is_dropped_and_the_next_one_told(told, receiver):
    told.emit("client_event", channel="a", event="client-x", data="\ud800", socket_id="1.2")
    wait_until(lambda: told.counters.webhooks_dropped == 1)
    told.emit("channel_occupied", channel="b")
    wait_until(lambda: told.counters.webhooks_delivered == 1)


def test_a_receiver_that_is_away_costs_others_nothing(serve, receiver, quick):
    away = Receiver()
    away.stop()
    server = serve(apps=(app(WebhookSettings(away.url), WebhookSettings(receiver.url)),))
    server.apps.default.emit("channel_occupied", channel="a")
    wait_until(lambda: len(receiver.events) == 1)
    wait_until(lambda: server.counters.webhooks_failed >= 2)
    assert server.counters.webhooks_delivered == 1


def test_the_queue_is_bounded_while_a_receiver_is_slow(serve, receiver, quick):
    server = serve(apps=(app(WebhookSettings(receiver.url, max_queue=3)),))
    receiver.gate.clear()
    server.apps.default.emit("channel_occupied", channel="first")
    wait_until(lambda: receiver.deliveries)
    with nothing_switches():
        for number in range(5):
            server.apps.default.emit("channel_occupied", channel=f"c{number}")
    assert server.counters.webhooks_dropped == 2
    assert server.get_stats()["webhooks_waiting"] == 3
    receiver.gate.set()
    wait_until(lambda: len(receiver.events) == 4)
    assert [event["channel"] for event in receiver.events] == ["first", "c0", "c1", "c2"]


def test_a_receiver_is_told_what_it_wants_to_know(serve, receiver, quick):
    wanted = WebhookSettings(
        receiver.url, events=("channel_occupied", "client_event"), channel_prefix="presence-", headers={"X-Shop": "1"}
    )
    server = serve(apps=(app(wanted),))
    emit = server.apps.default.emit
    emit("channel_occupied", channel="a")
    emit("member_added", channel=ROOM, user_id="1")
    emit("channel_occupied", channel=ROOM)
    emit("client_event", channel=ROOM, event="client-x", data="{}", socket_id="1.2", user_id="1")
    wait_until(lambda: len(receiver.events) == 2)
    assert receiver.events == [
        {"name": "channel_occupied", "channel": ROOM},
        {"name": "client_event", "channel": ROOM, "event": "client-x", "data": "{}", "socket_id": "1.2", "user_id": "1"},
    ]
    assert receiver.deliveries[0].headers["X-Shop"] == "1"


def test_the_user_and_password_of_a_url_are_sent(serve, receiver, quick):
    url = receiver.url.replace("http://", "http://shop:p%40ss@")
    server = serve(allow, apps=(app(WebhookSettings(url)),), secret=SECRET, anonymous=True)
    server.apps.default.emit("cache_miss", channel="cache-a")
    wait_until(lambda: receiver.deliveries)
    assert receiver.deliveries[0].headers["Authorization"] == "Basic c2hvcDpwQHNz"


def test_what_waits_is_told_before_the_server_stops(told, receiver):
    told.emit("channel_vacated", channel="a")
    told.emit("channel_occupied", channel="b")
    told.stop(timeout=5)
    assert sorted(names(receiver.events)) == [("channel_occupied", "b", None), ("channel_vacated", "a", None)]
    assert told.counters.webhooks_dropped == 0


def test_what_cannot_be_told_before_the_server_stops_is_counted(told, receiver):
    receiver.gate.clear()
    told.emit("channel_occupied", channel="a")
    wait_until(lambda: receiver.deliveries)
    told.emit("channel_occupied", channel="b")
    told.stop(timeout=0.1)
    assert told.counters.webhooks_dropped == 2


def test_a_receiver_that_is_down_does_not_hold_up_a_server_that_stops(told, receiver, monkeypatch):
    monkeypatch.setattr(delivery, "_FIRST_PAUSE_S", 1000.0)
    monkeypatch.setattr(delivery, "_MAX_PAUSE_S", 100.0)
    receiver.answers = [503] * 3
    told.emit("channel_occupied", channel="a")
    wait_until(lambda: told.counters.webhooks_failed)
    told.emit("channel_occupied", channel="b")
    told.stop(timeout=30)
    assert (receiver.answers, told.counters.webhooks_dropped) == ([503], 2)


def test_what_could_not_be_told_is_tried_once_more_before_the_server_stops(told, receiver, monkeypatch):
    monkeypatch.setattr(delivery, "_FIRST_PAUSE_S", 1000.0)
    monkeypatch.setattr(delivery, "_MAX_PAUSE_S", 100.0)
    receiver.answers = [503]
    told.emit("channel_occupied", channel="a")
    wait_until(lambda: told.counters.webhooks_failed)
    told.emit("channel_occupied", channel="b")
    told.stop(timeout=30)
    assert (names(receiver.events)[1:], told.counters.webhooks_dropped) == (
        [("channel_occupied", "a", None), ("channel_occupied", "b", None)], 0,
    )  # fmt: skip


def test_settings_taken_anew_keep_what_waits(told, receiver):
    receiver.gate.clear()
    told.emit("channel_occupied", channel="a")
    wait_until(lambda: receiver.deliveries)
    told.emit("channel_occupied", channel="b")
    told.configure(WebSocketSettings(apps=(app(WebhookSettings(receiver.url, max_events=1)),)))
    told.emit("channel_occupied", channel="c")
    receiver.gate.set()
    wait_until(lambda: len(receiver.events) == 3)
    told.configure(WebSocketSettings(apps=(app(),)))
    told.emit("channel_occupied", channel="d")
    assert told.listeners == []


# What becomes of what all workers see


MEMBER = Fact("member", "1", ROOM, "7")


def joined_and_left(server, *names):
    for name in names:
        server.emit(name, channel=ROOM, user_id="7")


@pytest.fixture
def settled(told):
    """What is said to be settled."""
    said = []
    told.webhooks.report_to(settled=lambda fact, is_so: said.append((fact, is_so)))
    return said


def test_what_is_told_is_settled_when_the_receiver_has_taken_all_of_it(told, receiver, settled):
    receiver.answers = [503]
    joined_and_left(told, "member_added")
    wait_until(lambda: told.counters.webhooks_failed)
    joined_and_left(told, "member_removed")
    assert told.webhooks.tells_of(MEMBER)
    assert settled == []
    wait_until(lambda: settled)
    assert names(receiver.taken) == [("member_added", ROOM, "7"), ("member_removed", ROOM, "7")]
    assert settled == [(MEMBER, False)]
    assert not told.webhooks.tells_of(MEMBER)


def test_what_undoes_what_is_held_back_leaves_nothing_to_tell(told, monkeypatch):
    monkeypatch.setattr(queueing, "HOLD_S", 60.0)
    joined_and_left(told, "member_removed")
    assert told.webhooks.tells_of(MEMBER)
    joined_and_left(told, "member_added")
    assert not told.webhooks.tells_of(MEMBER)


def test_what_two_receivers_are_told_is_settled_when_both_have_taken_it(serve, receiver, quick):
    other, said = Receiver(), []
    server = serve(
        apps=(app(WebhookSettings(receiver.url), WebhookSettings(other.url), WebhookSettings("http://x", ("cache_miss",))),)
    )
    server.webhooks.report_to(settled=lambda fact, is_so: said.append(is_so))
    other.gate.clear()
    server.apps.default.emit("member_added", channel=ROOM, user_id="7")
    wait_until(lambda: receiver.taken and other.deliveries and server.counters.webhooks_delivered)
    assert said == []
    other.gate.set()
    wait_until(lambda: said == [True])
    other.stop()


def test_what_is_left_to_another_worker_is_told_no_more_and_all_else_is(told, receiver, settled):
    receiver.refuses = True
    joined_and_left(told, "member_added")
    wait_until(lambda: told.counters.webhooks_failed)
    joined_and_left(told, "member_removed")
    told.emit("cache_miss", channel="cache-a")
    told.webhooks.withdraw()
    receiver.refuses = False
    wait_until(lambda: receiver.taken)
    assert names(receiver.taken) == [("cache_miss", "cache-a", None)]
    assert (settled, told.webhooks.tells_of(MEMBER), told.counters.webhooks_dropped) == ([], False, 0)


def test_what_is_on_its_way_when_the_rest_is_left_to_another_worker_is_settled(told, receiver, settled):
    receiver.gate.clear()
    joined_and_left(told, "member_added")
    wait_until(lambda: receiver.deliveries)
    told.webhooks.withdraw()
    receiver.gate.set()
    wait_until(lambda: settled == [(MEMBER, True)])


def test_what_is_given_up_is_settled_and_counted(told, receiver, settled):
    receiver.refuses = True
    joined_and_left(told, "member_added")
    wait_until(lambda: told.counters.webhooks_failed)
    told.configure(WebSocketSettings(apps=(app(),)))
    assert (settled, told.counters.webhooks_dropped) == ([(MEMBER, True)], 1)


def test_what_receivers_do_not_take_when_a_worker_ends_waits_on(told, receiver):
    receiver.refuses = True
    told.emit("client_event", channel="a", event="client-x", data="1", socket_id="1.2")
    joined_and_left(told, "member_added")
    wait_until(lambda: told.counters.webhooks_failed)
    told.webhooks.flush(timeout=30)
    assert told.webhooks.waiting == 2
    told.webhooks.withdraw()
    receiver.refuses = False
    joined_and_left(told, "member_removed")
    told.webhooks.stop(timeout=30)
    assert [event["name"] for event in receiver.taken] == ["client_event", "member_removed"]


# Through a circuit breaker


@pytest.mark.parametrize("fallback", ["exception", "default_value", "cache"])
def test_deliveries_go_through_the_circuit_breaker_of_the_process(told, receiver, fallback):
    """Whatever the breaker answers in place of a receiver whose circuit is open, nothing counts as delivered."""
    breaker = CircuitBreakerManager({"thresholds": {"failure_threshold": 2}, "fallbacks": {"default": fallback}})
    service = f"webhooks {receiver.url.split('/')[2]}"
    container().instance("circuit_breaker", breaker)
    try:
        told.emit("channel_occupied", channel="before")
        wait_until(lambda: told.counters.webhooks_delivered == 1)
        receiver.answers = [503, 503]
        told.emit("channel_occupied", channel="a")
        wait_until(lambda: breaker.get_stats(service)["rejected"] >= 1)
        assert len(receiver.deliveries) == 3, "the breaker was asked, and refused"
        assert breaker.get_state(service) == "open"
        breaker.close(service)
        wait_until(lambda: told.counters.webhooks_delivered == 2)
        assert [event["channel"] for event in receiver.events] == ["before", "a", "a", "a"]
    finally:
        container().forget("circuit_breaker")


def test_what_pusher_clients_do_is_told(serve, receiver, quick):
    settings = app(WebhookSettings(receiver.url), client_events=True, subscription_count=True)
    server = serve(apps=(settings,))
    with PusherClient(server.port) as one, PusherClient(server.port) as two:
        one.join(ROOM, {"user_id": 1})
        two.join(ROOM, {"user_id": 2})
        one.whisper(ROOM, "client-typing", {"on": True})
        assert two.events("client-typing")
        one.join("cache-a", answer=False)
        wait_until(lambda: len(receiver.events) == 7)
        joined = {"channel": "cache-a"}
        assert receiver.events == [
            {"name": "channel_occupied", "channel": ROOM},
            {"name": "member_added", "channel": ROOM, "user_id": "1"},
            {"name": "member_added", "channel": ROOM, "user_id": "2"},
            {"name": "client_event", "channel": ROOM, "event": "client-typing", "data": '{"on":true}',
             "socket_id": one.socket_id, "user_id": "1"},
            {"name": "channel_occupied", **joined},
            *receiver.events[5:],
        ]  # fmt: skip
        assert sorted(event["name"] for event in receiver.events[5:]) == ["cache_miss", "subscription_count"]


@pytest.mark.parametrize(
    ("webhook", "text"),
    [
        (WebhookSettings(), r"apps\[0\].webhooks\[0\].url: expected https://HOST/PATH; got ''"),
        (WebhookSettings("ftp://x/y"), r"got 'ftp://x/y'"),
        (WebhookSettings("https://x", events=("channel_full",)), r"webhooks\[0\].events: there are .*; got 'channel_full'"),
    ],
)
def test_a_wrong_webhook_stops_the_start(webhook, text):
    with pytest.raises(ConfigurationError, match=text):
        WebSocketServer(WebSocketSettings(apps=(app(webhook),)))


def test_two_webhooks_of_an_app_with_one_url_stop_the_start():
    twice = (WebhookSettings("https://x/y", events=("cache_miss",)), WebhookSettings("https://x/y"))
    with pytest.raises(ConfigurationError, match=r"webhooks\[1\].url: another webhook of this app has it: x"):
        WebSocketServer(WebSocketSettings(apps=(app(*twice),)))


@pytest.mark.parametrize("rest", ["h:99999/", "h:x/", "[::1/"])
def test_a_url_that_cannot_be_is_refused_without_its_secrets(rest):
    with pytest.raises(ConfigurationError, match=r"webhooks\[0\].url: expected https://HOST/PATH") as caught:
        delivery.check([app(WebhookSettings(f"http://shop:pass@{rest}?token=hidden"))])
    assert "pass" not in str(caught.value)
    assert "hidden" not in str(caught.value)
