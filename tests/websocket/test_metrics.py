"""Metrics as Prometheus sees them: scraped over HTTP from servers that work."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request

import pytest
import yaml
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket import WebSocketServer
from alphavel.websocket.addresses import is_in, networks
from alphavel.websocket.metrics.exposing import may_read
from alphavel.websocket.settings import BroadcastingSettings, MetricsSettings, RedisSettings, WebSocketSettings
from alphavel.websocket.transports.reactor import Reactor
from tests.redis_server import running_redis
from tests.support import ROOT, Program, free_port, script, wait_until
from tests.websocket.clients import Client, Closed, Refused
from tests.websocket.conftest import SECRET
from tests.websocket.pusher import PusherClient, app

PREFIX = "alphavel_websocket_"
ON = MetricsSettings(enabled=True)
RULES = ROOT / "monitoring/alerts.yml"
TESTED_RULES = ROOT / "monitoring/alerts.test.yml"
DASHBOARD = ROOT / "monitoring/grafana-dashboard.json"


@pytest.fixture(name="port")
def _port():
    return free_port()


def get(port, path="/metrics", method="GET", **headers):
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, headers=given)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


class Scrape:
    """What a scraper read: `scrape("connections", app="1")` adds up the samples that have these labels."""

    def __init__(self, port, **headers):
        status, self.text, self.headers = get(port, **headers)
        assert status == 200, self.text
        self.families = list(text_string_to_metric_families(self.text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def __call__(self, name, **labels):
        found = [
            sample.value
            for sample in self.samples
            if sample.name in (name, PREFIX + name) and labels.items() <= sample.labels.items()
        ]
        assert found, f"no {name} {labels} in:\n{self.text}"
        return sum(found)

    def labels(self, name, label):
        return {sample.labels.get(label) for sample in self.samples if sample.name in (name, PREFIX + name)}


def test_what_happens_is_counted(serve):
    server = serve(metrics=ON, apps=(app(),))
    native, pusher, other = server.connect(), PusherClient(server.port), server.connect()
    native.subscribe("news")
    pusher.join("news")
    other.subscribe("news")
    native.send("ping")
    native.receive()
    server.to_channel("news").push({"event": "x", "data": "y" * 1000})
    server.to_channel("news").except_(other.socket_id).push({"event": "x", "data": "y" * 1000})
    for client, many in ((native, 2), (pusher, 2), (other, 1)):
        for _ in range(many):
            client.receive()
    with pytest.raises(Refused):
        server.connect(headers={"Sec-WebSocket-Key": "short"})
    scrape = Scrape(server.port)
    assert scrape("connections", app="1") == 3
    assert scrape("handshakes_total") == 3
    assert scrape("handshake_failures_total", reason="malformed") == scrape("handshake_failures_total") == 1
    assert scrape("messages_received_total", protocol="alphavel") == 3
    assert scrape("messages_received_total", protocol="pusher") == 1
    assert scrape("messages_sent_total", protocol="alphavel") == 3
    assert scrape("messages_sent_total", protocol="pusher") == 2
    assert scrape("sent_bytes_total") > 5000
    assert scrape("received_bytes_total") > 100
    assert scrape("subscriptions", type="public") == 3
    assert scrape("channels", type="public") == 1
    assert scrape("start_time_seconds") > 1.7e9
    assert scrape("process_resident_memory_bytes") > 1e6
    assert scrape("silent_workers") == 0
    pusher.close()


def test_pushes_are_followed_to_the_moment_they_are_written(serve):
    server = serve(metrics=ON)
    client = server.connect()
    client.subscribe("news")
    before = Scrape(server.port)("publish_latency_seconds_count")
    for _ in range(3):
        server.to_channel("news").push({"event": "x"})
        server.to_channel("news").push({"event": "x"})  # of the same turn: one is followed
        client.receive()
        client.receive()
    scrape = Scrape(server.port)
    assert scrape("publish_latency_seconds_count") - before == 3
    assert scrape("publish_latency_seconds_bucket", le="+Inf") == scrape("publish_latency_seconds_count")
    assert 0 < scrape("publish_latency_seconds_sum") < 60


def test_a_burst_that_is_written_at_once_is_measured_too(serve):
    server = serve(metrics=ON, max_batch=1024)
    client = server.connect()
    client.subscribe("news")
    server.to_channel("news").push({"event": "x", "data": "y" * 2000})
    client.receive()
    assert Scrape(server.port)("publish_latency_seconds_count") == 1


def test_a_handler_that_holds_the_loop_is_seen_as_lag(serve):
    from gevent.monkey import get_original

    hold = get_original("time", "sleep")

    def set_up(server):
        @server.event("hold")
        def handler(connection):
            hold(0.6)
            connection.send({"event": "held"})

    server = serve(set_up, metrics=ON)
    client = server.connect()
    client.send("hold")
    client.receive()

    def lagged():
        scrape = Scrape(server.port)
        return scrape("loop_lag_seconds_bucket", le="+Inf") - scrape("loop_lag_seconds_bucket", le="0.25") >= 1

    wait_until(lagged)


def test_slow_readers_are_seen_before_and_after_they_are_closed(serve):
    server = serve(metrics=ON, max_outbox=4 * 1024 * 1024)
    slow = server.connect(receive_buffer=4096)
    slow.subscribe("news")
    payload = {"event": "x", "data": "y" * 60_000}

    def waiting():
        server.to_channel("news").push(payload)
        return Scrape(server.port)("outbox_bytes") > 100_000

    wait_until(waiting, 30)
    scrape = Scrape(server.port)
    assert scrape("blocked_connections") == 1
    assert scrape("outbox_largest_bytes") == scrape("outbox_bytes") < scrape("outbox_limit_bytes")

    def closed():
        server.to_channel("news").push(payload)
        return Scrape(server.port)("slow_consumers_total") == 1

    wait_until(closed, 60)


def test_why_clients_are_refused(serve):
    server = serve(
        lambda server: server.channel("private-{name}")(lambda user, name: False), metrics=ON, secret=SECRET, anonymous=True
    )
    for headers in (
        {"Origin": "https://elsewhere.example"},
        {"Sec-WebSocket-Version": "12"},
        {"Connection": "close"},
        {"Authorization": "Bearer x.y.z"},
    ):
        with pytest.raises(Refused):
            server.connect(headers=headers)
    server.connect().subscribe("private-room")
    scrape = Scrape(server.port)
    for reason in ("origin", "version", "no_upgrade", "unauthorized"):
        assert scrape("handshake_failures_total", reason=reason) == 1
    assert scrape("auth_failures_total", reason="malformed") == 1
    assert scrape("auth_failures_total", reason="channel") == 1
    assert scrape("auth_failures_total", reason="expired") == 0  # named before the first, so that a rate sees it


def test_why_pusher_clients_are_refused(serve):
    server = serve(metrics=ON, apps=(app(),))
    client = PusherClient(server.port, "/app/another-key?protocol=7", greeted=False)
    with pytest.raises(Closed):
        client.receive()
    client.close()
    assert Scrape(server.port)("handshake_failures_total", reason="unknown_app") == 1


def test_members_of_presence_channels_and_channels_by_name(serve):
    server = serve(metrics=MetricsSettings(enabled=True, channels=("presence-*", "news")), apps=(app(),))
    clients = [PusherClient(server.port) for _ in range(3)]
    for number, client in enumerate(clients):
        client.join("presence-lobby", {"user_id": str(number % 2)})
    clients[0].join("presence-other", {"user_id": "7"})
    clients[0].join("private-secret-plans")
    scrape = Scrape(server.port)
    assert scrape("presence_members") == 3
    assert scrape("presence_largest_members") == 2
    assert scrape("channel_subscribers", channel="presence-lobby") == 3
    assert scrape("channel_members", channel="presence-lobby") == 2
    assert "secret-plans" not in scrape.text
    for client in clients:
        client.close()


# Who may see them


def test_without_the_setting_the_path_is_the_applications_and_nothing_is_measured(serve):
    server = serve()
    assert get(server.port)[0] == 404
    assert type(server.reactor) is Reactor


def test_metrics_are_for_this_machine_alone_until_told_otherwise(serve):
    server = serve(metrics=ON)
    assert get(server.port)[0] == 200
    status, text, _ = get(server.port, X_Forwarded_For="203.0.113.7")  # from a proxy on this machine
    assert (status, "alphavel_websocket" in text) == (403, False)


@pytest.mark.parametrize("name", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
def test_what_comes_through_a_proxy_does_not_count_as_from_here(serve, name):
    assert get(serve(metrics=ON).port, **{name: "127.0.0.1"})[0] == 403


def test_a_token_lets_in_from_anywhere_and_a_wrong_one_from_nowhere(serve):
    server = serve(metrics=MetricsSettings(enabled=True, token="a token for Prometheus", allowed_addresses=()))
    status, _, headers = get(server.port)
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert get(server.port, Authorization="Bearer wrong")[0] == 401
    assert get(server.port, Authorization="Bearer ")[0] == 401
    assert get(server.port, Authorization="Bearer a token for Prometheus")[0] == 200
    assert get(server.port, Authorization="Bearer a token for Prometheus", X_Forwarded_For="203.0.113.7")[0] == 200


@pytest.mark.parametrize(
    ("address", "allowed", "expected"),
    [
        ("10.1.2.3", ("10.0.0.0/8",), True),
        ("11.1.2.3", ("10.0.0.0/8",), False),
        ("::ffff:10.1.2.3", ("10.0.0.0/8",), True),
        ("::1", ("::1",), True),
        ("fe80::1%eth0", ("fe80::/10",), True),
        ("", ("0.0.0.0/0", "::/0"), False),
        ("unix:", ("0.0.0.0/0",), False),
        ("127.0.0.1", (), False),
    ],
)
def test_addresses_and_networks(address, allowed, expected):
    assert is_in(address, networks(allowed, "key")) is expected
    assert may_read(MetricsSettings(allowed_addresses=allowed), {"REMOTE_ADDR": address}) is expected


def test_a_network_that_is_none_stops_the_start():
    with pytest.raises(ConfigurationError, match=r"metrics.allowed_addresses: .*10.0.0.0/8"):
        WebSocketServer(WebSocketSettings(metrics=MetricsSettings(allowed_addresses=("all",))))


def test_only_reading_is_allowed(serve):
    server = serve(metrics=ON)
    assert get(server.port, method="POST")[0] == 405
    status, text, headers = get(server.port, method="HEAD")
    assert (status, text) == (200, "")
    assert int(headers["Content-Length"]) > 1000


# The format


def test_both_formats_of_prometheus(serve):
    server = serve(metrics=ON)
    assert get(server.port)[2]["Content-Type"].startswith("text/plain; version=0.0.4")
    status, text, headers = get(server.port, Accept="application/openmetrics-text; version=1.0.0")
    assert status == 200
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_promtool_finds_nothing_to_complain_about(serve):
    server = serve(metrics=MetricsSettings(enabled=True, channels=("*",)), apps=(app(),))
    client = PusherClient(server.port)
    client.join("presence-lobby", {"user_id": "1"})
    text = Scrape(server.port).text
    client.close()
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=60
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_the_path_can_be_another_and_flask_answers_there_too(serve):
    """As under HTTP servers that are not ours: the request reaches Flask, whose blueprint answers."""
    from alphavel.foundation import container
    from alphavel.websocket import blueprint

    flask = Flask("shop")
    flask.register_blueprint(blueprint)
    server = serve(metrics=MetricsSettings(enabled=True, path="/internal/metrics"))
    container().instance("websocket", server)
    try:
        client = flask.test_client()
        response = client.get("/internal/metrics")
        assert response.status_code == 200
        assert "alphavel_websocket_connections" in response.text
        assert client.get("/metrics").status_code == 404
        assert client.get("/internal/metrics", headers={"X-Forwarded-For": "203.0.113.7"}).status_code == 403
    finally:
        container().forget("websocket")


# Several workers


BREAKER_APP = """
from flask import Flask
from alphavel.circuit_breaker import CircuitBreaker
from alphavel.foundation import Alphavel

app = Flask(__name__)
Alphavel(app)

@app.get("/call/<outcome>")
def call(outcome):
    def service():
        if outcome == "fail":
            raise OSError("away")
    try:
        CircuitBreaker.call("payment-api", service)
    except Exception as error:
        return type(error).__name__
    return "ok"
"""


def start(folder, port, *options, code=BREAKER_APP, **environment):
    (folder / "metered.py").write_text(code)
    return Program(
        script("alpha"), "websocket:serve", "--app", "metered:app", "--host", "127.0.0.1", "--port", str(port), *options,
        cwd=folder, ALPHAVEL_METRICS="on", **environment,
    )  # fmt: skip


def test_one_scrape_tells_of_all_workers(tmp_path, port):
    with start(tmp_path, port, "--workers", "2") as program:
        program.wait_for("Alphavel WebSocket server")
        clients = [Client(port) for _ in range(20)]
        for client in clients:
            client.subscribe("news")
        wait_until(lambda: Scrape(port)("subscriptions", type="public") == 20)
        scrape = Scrape(port)
        workers = scrape.labels("connections", "worker")
        assert len(workers) == 2
        assert scrape("connections") == 20
        assert scrape("handshakes_total") == 20
        assert scrape("channels", type="public") == 1  # it is one, on whichever workers
        assert scrape.labels("channels", "worker") == {None}
        for _ in range(5):  # whichever worker answers
            assert Scrape(port)("connections") == 20
        wait_until(lambda: len(Scrape(port).labels("bus_lag_seconds", "worker")) == 2)
        for client in clients:
            client.close()
        program.stop()


def test_other_servers_of_the_same_user_are_not_told_of(tmp_path, port):
    with start(tmp_path, port) as program:
        program.wait_for("Alphavel WebSocket server")
        with start(tmp_path, 0) as other:
            other.wait_for("Alphavel WebSocket server")
            assert Scrape(port).labels("connections", "worker") == {str(program.process.pid)}


def test_circuits_are_told_of_where_any_is_used(tmp_path, port):
    with start(tmp_path, port) as program:
        program.wait_for("Alphavel WebSocket server")
        assert "circuit_breaker_state{" not in Scrape(port).text
        get(port, "/call/succeed")
        for _ in range(5):
            get(port, "/call/fail")
        assert get(port, "/call/fail")[1] == "CircuitOpenError"
        scrape = Scrape(port)
        assert scrape("alphavel_circuit_breaker_state", service="payment-api", state="open") == 1
        assert scrape("alphavel_circuit_breaker_state", service="payment-api") == 1
        assert scrape("alphavel_circuit_breaker_calls_total", outcome="failure") == 5
        assert scrape("alphavel_circuit_breaker_calls_total", outcome="rejected") == 1


def test_circuits_that_all_workers_share_are_told_of_once(tmp_path, port):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/circuit_breaker.yaml").write_text(
        f"default: shared\nstores: {{shared: {{path: {tmp_path}/circuits}}}}\n"
    )
    with start(tmp_path, port, "--workers", "2") as program:
        program.wait_for("Alphavel WebSocket server")
        for _ in range(30):  # each on a connection of its own, so that both workers get some
            get(port, "/call/succeed")
        scrape = Scrape(port)
        assert scrape("alphavel_circuit_breaker_calls_total", outcome="success") == 30
        assert scrape.labels("alphavel_circuit_breaker_calls_total", "worker") == {None}


# What comes along: rules, a dashboard, a page of the docs


def known_names(serve):
    with running_redis() as redis:
        broadcasting = BroadcastingSettings("redis", RedisSettings(redis.url))
        server = serve(metrics=MetricsSettings(enabled=True, channels=("*",)), apps=(app(),), broadcasting=broadcasting)
        server.relay.lag = 0.1
        client = PusherClient(server.port)
        client.join("presence-lobby", {"user_id": "1"})
        scrape = Scrape(server.port)
        client.close()
    from alphavel.circuit_breaker.metrics import families

    circuits = {family.name: family.kind for family in families(None)}
    return {family.name + ("_total" if family.type == "counter" else ""): family.type for family in scrape.families} | circuits


def names_in(text):
    found = set(re.findall(r"\balphavel_(?:websocket|circuit_breaker)_[a-z_]+", text))
    return {re.sub(r"(_seconds)_(bucket|sum|count)$", r"\1", name) for name in found}


def test_the_rules_are_right_and_fire():
    for arguments in (["check", "rules", str(RULES)], ["test", "rules", str(TESTED_RULES)]):
        checked = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    rules = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    asked = [asked for test in yaml.safe_load(TESTED_RULES.read_text())["tests"] for asked in test["alert_rule_test"]]
    assert {one["alertname"] for one in asked if one["exp_alerts"]} == rules, "each is seen to fire"


@pytest.mark.parametrize("file", [RULES, DASHBOARD], ids=["rules", "dashboard"])
def test_rules_and_dashboard_ask_for_metrics_that_exist(serve, file):
    asked = names_in(file.read_text())
    assert asked
    assert asked <= set(known_names(serve))


def test_the_dashboard_is_one_that_grafana_imports(tmp_path):
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    asked = [target["expr"].replace("$__rate_interval", "5m") for panel in panels for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(asked)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    arguments = ["promtool", "check", "rules", str(tmp_path / "rules.yml")]
    checked = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert (checked.returncode, len(rules) > 20) == (0, True), checked.stderr


def test_the_docs_list_every_metric(serve):
    text = (ROOT / "docs/monitoring.md").read_text()
    listed = dict(re.findall(r"^\| `(alphavel_[a-z_]+)` \| (counter|gauge|histogram) \|", text, re.MULTILINE))
    assert listed == known_names(serve)
