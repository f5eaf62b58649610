"""Apps: what is one app's is no other's, and what happens on channels is told to who wants to know."""

from __future__ import annotations

import pytest

from alphavel.foundation.errors import ConfigurationError
from alphavel.foundation.schema import load_settings
from alphavel.websocket import WebSocketServer
from alphavel.websocket.channels import EventCache, Kind, is_cached, user_of
from alphavel.websocket.protocols import Message
from alphavel.websocket.settings import AppLimits, AppSettings, WebSocketSettings
from tests.support import wait_until
from tests.websocket.conftest import SECRET
from tests.websocket.tokens import bearer

SHOP = AppSettings("1", "shop-key", "shop-secret")
BLOG = AppSettings("2", "blog-key", "blog-secret")


def load(*apps):
    return load_settings(WebSocketSettings, {"apps": list(apps)}, "websocket.yaml")


def test_apps_are_a_list_in_the_file_and_each_setting_of_one_is_checked():
    first = {"id": 7, "key": "k", "secret": "s", "limits": {"event_size": "2 KiB"}}
    loaded = load(first, {"id": "8", "key": "l", "secret": "t"})
    assert [app.id for app in loaded.apps] == [7, "8"]
    assert loaded.apps[0].limits.event_size == 2048
    server = WebSocketServer(loaded)
    assert server.app(7).key == server.app("7").key == "k"
    assert server.apps.with_key("l") is server.app(8)
    assert server.apps.default is server.app("7")


@pytest.mark.parametrize(
    ("apps", "text"),
    [
        ({"id": "1"}, r"websocket.yaml: apps: expected a list, each item beginning with `- `"),
        ([{"id": "1", "keys": "k"}], r"websocket.yaml: apps\[0\].keys: .*Did you mean `key`"),
        ([{"id": "1", "secret": 5}], r"apps\[0\].secret: expected a text; got a value that is not shown"),
        ([{}, {"limits": {"watchlist": 0}}], r"apps\[1\].limits.watchlist: expected at least 1"),
        (["shop"], r"apps\[0\]: expected settings"),
    ],
)
def test_a_wrong_app_is_named_with_its_place(apps, text):
    with pytest.raises(ConfigurationError, match=text):
        load_settings(WebSocketSettings, {"apps": apps}, "websocket.yaml")


@pytest.mark.parametrize(
    ("apps", "text"),
    [
        ([AppSettings("1", "k")], r"apps\[0\].secret: is missing"),
        ([AppSettings("", "k", "s")], r"apps\[0\].id: is missing"),
        ([AppSettings("1", "a/b", "s")], r"apps\[0\].key: expected letters"),
        ([SHOP, AppSettings(1, "other", "s")], r"apps\[1\].id: another app has the same"),
        ([SHOP, AppSettings("2", "shop-key", "s")], r"apps\[1\].key: another app has the same"),
    ],
)
def test_an_incomplete_app_stops_the_start_and_leaves_a_running_server_as_it_is(apps, text):
    server = WebSocketServer(WebSocketSettings(apps=(SHOP,)))
    with pytest.raises(ConfigurationError, match=text):
        server.configure(WebSocketSettings(apps=tuple(apps)))
    assert server.app("1").secret == "shop-secret"


def test_an_unknown_app_is_named_with_those_there_are():
    with pytest.raises(LookupError, match=r"There is no app '9'; apps of config/websocket.yaml: '1', '2'\."):
        WebSocketServer(WebSocketSettings(apps=(SHOP, BLOG))).app(9)


def test_alphavels_own_protocol_is_at_home_in_the_first_app(serve):
    server = serve(apps=(SHOP, BLOG))
    with server.connect() as client:
        client.subscribe("news")
        assert server.app("1").get_channels() == ["news"]
        assert server.app("2").to_channel("news").push({"event": "x"}) == 0
        assert server.to_channel("news").push({"event": "y"}) == 1
        assert client.receive()["event"] == "y"
        assert [channel["app"] for channel in server.get_stats()["channels"]] == ["1"]


def test_a_running_server_keeps_its_first_app(serve):
    server = serve(apps=(SHOP, BLOG))
    with pytest.raises(ConfigurationError, match="the first app cannot become another one"):
        server.configure(WebSocketSettings(apps=(BLOG, SHOP)))
    server.configure(WebSocketSettings(apps=(SHOP,)))
    assert server.apps.get("2") is None


def test_listeners_are_told_what_happens_on_channels(serve):
    def set_up(server):
        server.channel("presence-room")(lambda user: {"name": "Ada"})

    server = serve(set_up, apps=(SHOP,), secret=SECRET)
    told = []
    server.listeners.append(lambda app, what, payload: told.append((app.id, what, payload)))
    with server.connect(headers=bearer()) as client:
        client.subscribe("presence-room")
        client.subscribe("news")
        client.send("unsubscribe", {"channel": "news"})
        client.receive()
    wait_until(lambda: len(told) == 6)
    room, news = {"channel": "presence-room"}, {"channel": "news"}
    assert told == [
        ("1", "channel_occupied", room),
        ("1", "member_added", {**room, "user_id": "7"}),
        ("1", "channel_occupied", news),
        ("1", "channel_vacated", news),
        ("1", "member_removed", {**room, "user_id": "7"}),
        ("1", "channel_vacated", room),
    ]


def test_a_text_arrives_as_what_it_says_where_it_is_json(serve):
    server = serve(apps=(SHOP,))
    shop = server.app("1")
    with server.connect() as client:
        client.subscribe("news")
        assert shop.publish(Message.of_text("new", '{"a": 1}'), ["news", "cache-x"]) == 1
        assert client.receive() == {"event": "new", "channel": "news", "data": {"a": 1}}
        shop.publish(Message.of_text("text", "no JSON"), ["news"])
        assert client.receive() == {"event": "text", "channel": "news", "data": "no JSON"}
        wanted = ("subscription_count", "user_count", "cache")
        assert shop.info("news", wanted) == {"subscription_count": 1}
        assert shop.info("cache-x", wanted) == {"subscription_count": 0, "cache": {"data": '{"a": 1}', "ttl": 1799}}
        assert shop.info("presence-y", wanted) == {"subscription_count": 0, "user_count": 0}
        with pytest.raises(ValueError, match="Cannot push to the channel 'a b'"):
            shop.publish(Message.of_text("x", "{}"), ["a b"])


@pytest.mark.parametrize(
    ("name", "kind", "cached"),
    [
        ("private-encrypted-x", Kind.ENCRYPTED, False),
        ("private-encrypted-cache-x", Kind.ENCRYPTED, True),
        ("private-cache-x", Kind.PRIVATE, True),
        ("presence-cache-x", Kind.PRESENCE, True),
        ("cache-x", Kind.PUBLIC, True),
        ("cache-private-x", Kind.PUBLIC, True),
        ("cachex", Kind.PUBLIC, False),
        ("my-cache-x", Kind.PUBLIC, False),
        ("private-cachex", Kind.PRIVATE, False),
    ],
)
def test_kinds_of_channels_and_whether_they_keep_their_last_event(name, kind, cached):
    assert Kind.of(name) is kind
    assert is_cached(name) is cached


def test_the_name_of_a_users_own_channel():
    assert user_of("#server-to-user-7") == "7"
    assert user_of("server-to-user-7") is None


def test_the_cache_keeps_the_last_event_for_its_time():
    now = [100.0]
    cache = EventCache(ttl_s=10, clock=lambda: now[0])
    cache.put("cache-a", Message({"event": "old"}))
    cache.put("cache-a", Message({"event": "new"}))
    assert cache.get("cache-a").event == "new"
    now[0] = 109.0
    assert cache.time_left("cache-a") == 1.0
    now[0] = 110.0
    assert cache.get("cache-a") is None
    assert cache.time_left("cache-a") == 0.0
    assert len(cache) == 0


def test_each_app_keeps_events_for_as_long_as_its_settings_say():
    def given(*times):
        apps = [AppSettings(str(n), f"key-{n}", "s", limits=AppLimits(cache_ttl=ttl)) for n, ttl in enumerate(times)]
        return WebSocketSettings(apps=tuple(apps))

    # The first app is there before its settings are.
    server = WebSocketServer(given(5.0, 7.0))
    assert [app.cache.ttl_s for app in server.apps] == [5.0, 7.0]
    server.configure(given(6.0, 8.0, 9.0))
    assert [app.cache.ttl_s for app in server.apps] == [6.0, 8.0, 9.0]


def test_the_cache_is_bounded_and_forgets_the_oldest_first():
    cache = EventCache(ttl_s=10, max_bytes=1000)
    for number in range(100):
        cache.put(f"cache-{number}", Message({"event": "x", "data": "y" * 100}))
    kept = [number for number in range(100) if cache.get(f"cache-{number}")]
    assert kept == list(range(100 - len(kept), 100))
    assert 3 <= len(kept) <= 6
    cache.put("cache-99", Message({"event": "x", "data": "y" * 2000}))
    assert cache.get("cache-99") is None  # it had no room, and the old one is not the last any more
