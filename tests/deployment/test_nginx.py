"""nginx/: two servers behind a real Nginx with a certificate of its own, and clients of other people before it."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import socket
import ssl
import tempfile
from pathlib import Path

import psutil
import pytest

from alphavel.websocket.settings import OptionsSettings
from tests.browser.conftest import Page
from tests.certificates import make_certificate
from tests.deployment.conftest import KEY, Clients, made_site
from tests.redis_server import running_redis
from tests.support import ROOT, Program, free_port, python, run, wait_until
from tests.websocket.clients import Client, Refused

PUSHER_JS = ROOT / "tests/node/node_modules/pusher-js/dist/web/pusher.min.js"
SECRET_TOKEN = "an-opaque-secret"


@pytest.fixture(scope="module")
def behind():
    """A site with two servers over Redis, somebody who pushes, and Nginx; everything that is needed is in its attributes."""
    with made_site() as site, running_redis() as redis, contextlib.ExitStack() as programs:
        site.cert, key = make_certificate(site.folder)
        site.http, site.https, ports = free_port(), free_port(), [free_port(), free_port()]
        site.set(
            ALPHAVEL_BROADCAST_DRIVER="redis",
            ALPHAVEL_REDIS_URL=redis.url,
            ALPHAVEL_NGINX_NAME="localhost",
            ALPHAVEL_NGINX_HTTP=site.http,
            ALPHAVEL_NGINX_HTTPS=site.https,
            ALPHAVEL_NGINX_CERT=site.cert,
            ALPHAVEL_NGINX_KEY=key,
            ALPHAVEL_NGINX_STATIC=site.folder / "static",
            ALPHAVEL_NGINX_ACCESS_LOG=site.folder / "logs/nginx.log",
            ALPHAVEL_NGINX_ERROR_LOG=site.folder / "logs/nginx-error.log",
            ALPHAVEL_NGINX_UPSTREAMS=" ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports),
            ALPHAVEL_NGINX_HANDSHAKES="1r/s",
            ALPHAVEL_NGINX_BURST="60",
            ALPHAVEL_NGINX_CONNECTIONS="30",
        )
        shutil.copy(PUSHER_JS, site.folder / "static")
        site.run("prepare")
        site.ports = ports
        site.serve_again = lambda port: programs.enter_context(site.serve(port))
        site.servers = [site.serve_again(port) for port in ports]
        programs.enter_context(site.start(python(), "worker.py"))
        for server in site.servers:
            server.wait_for("auth")
        site.run("nginx-start")
        site.tls = ssl.create_default_context(cafile=site.cert)
        wait_until(lambda: curl(site, "/health").startswith("HTTP/2 200"))
        yield site
        site.run("nginx-stop")


def curl(site, path, *options, host="https://localhost"):
    """The head and the body of an answer."""
    port = site.https if host.startswith("https") else site.http
    return run("curl", "-s", "-i", "--cacert", site.cert, *options, f"{host}:{port}{path}").stdout


class From:
    """A TLS client at an address of its own: in 127.0.0.0/8 there are many."""

    def __init__(self, site, address):
        self.site, self.address = site, address

    def connect(self, path="/", headers=None, **options):
        with pytest.MonkeyPatch.context() as patch:
            connect = socket.socket.connect
            patch.setattr(socket.socket, "connect", lambda sock, to: (sock.bind((self.address, 0)), connect(sock, to))[1])
            return Client(self.site.https, path, headers, tls=self.site.tls, **options)


def address_of(client):
    client.send("where am I", {})
    return client.receive()["data"]["address"]


def test_clients_of_both_kinds_are_spread_over_the_servers_and_a_reload_loses_no_connection(behind):
    with Clients(behind.https, count=5, tls=True, NODE_EXTRA_CA_CERTS=behind.cert) as clients:
        clients.wait_for_ticks()
        before = clients.ids()
        assert len(before) == 10
        assert len({socket_id.split(".")[0] for socket_id in before}) == 2, "both servers have some"
        master = psutil.Process(int((behind.folder / "nginx/nginx.pid").read_text()))
        old = set(master.children())
        behind.run("nginx-reload")
        wait_until(lambda: set(master.children()) - old, 20, "new worker processes")
        with From(behind, "127.0.0.1").connect() as newcomer:
            newcomer.send("ping")
            assert newcomer.receive()["event"] == "pong"
        clients.wait_for_ticks(more=50)
        assert clients.ids() == before


def test_the_servers_know_who_the_client_is_and_believe_nobody_else(behind):
    forged = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "http"}
    with From(behind, "127.0.0.5").connect("/", forged) as client:
        assert address_of(client) == "127.0.0.5"
    page = curl(behind, "/client", "-H", "X-Forwarded-For: 192.0.2.1", "--interface", "127.0.0.6")
    assert '"address":"127.0.0.6"' in page
    assert '"scheme":"https"' in page
    straight = run(
        "curl",
        "-s",
        "-H",
        "X-Forwarded-For: 192.0.2.1",
        "--interface",
        "127.0.0.7",
        f"http://127.0.0.1:{behind.ports[0]}/client",
    )
    assert '"address":"127.0.0.7"' in straight.stdout


def test_pages_come_over_http_2_and_static_files_from_nginx(behind):
    assert curl(behind, "/").startswith("HTTP/2 200")
    answer = curl(behind, "/static/pusher.min.js")
    assert answer.startswith("HTTP/2 200")
    assert "cache-control: max-age=3600" in answer
    assert curl(behind, "/static/../config/websocket.yaml", "--path-as-is").startswith("HTTP/2 404")


def test_in_the_clear_pages_are_sent_to_tls_and_websockets_are_refused(behind):
    assert "Location: https://localhost/client?x=1" in curl(behind, "/client?x=1", host="http://localhost")
    with pytest.raises(Refused) as caught:
        Client(behind.http)
    assert caught.value.status == 403


def test_what_is_no_websocket_is_not_passed_on(behind):
    answer = curl(behind, "/client", "--http1.1", "-H", "Upgrade: h2c", "-H", "Connection: Upgrade, HTTP2-Settings")
    assert answer.startswith("HTTP/1.1 200")
    assert '"address"' in answer


def test_one_address_may_not_have_all_connections(behind):
    greedy, modest = From(behind, "127.0.0.20"), From(behind, "127.0.0.21")
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(greedy.connect())
        with pytest.raises(Refused) as caught:
            greedy.connect()
        assert caught.value.status == 429
        stack.enter_context(modest.connect())


def test_event_streams_are_passed_on_like_websockets(behind):
    """They were taken for pages, for which Nginx waits as long as the server does between two pings, and had no limit."""
    with contextlib.ExitStack() as stack:

        def listen():
            address = ("127.0.0.25", 0)
            connection = http.client.HTTPSConnection(
                "localhost", behind.https, context=behind.tls, source_address=address, timeout=30
            )
            stack.callback(connection.close)
            connection.request("GET", "/sse?channels=ticks", headers={"Accept": "text/event-stream"})
            return connection.getresponse()

        first, *_ = [listen() for _ in range(30)]
        assert any(b'"event":"tick"' in line for line in first)
        assert listen().status == 429


def test_one_address_may_not_shake_hands_without_end(behind):
    flood = From(behind, "127.0.0.30")
    refused = 0
    for _ in range(2000):
        try:
            flood.connect("/nowhere").close()
        except Refused as error:
            refused += error.status == 429
            assert error.status in (404, 429)
        if refused:
            break
    assert refused
    From(behind, "127.0.0.31").connect().close()


def test_a_server_that_is_gone_is_passed_by_and_no_token_gets_into_a_log(behind):
    port = behind.ports[1]
    behind.servers[1].stop()
    for _ in range(4):
        with From(behind, "127.0.0.40").connect(f"/?token={SECRET_TOKEN}") as client:
            assert address_of(client) == "127.0.0.40"
    curl(behind, f"/?token={SECRET_TOKEN}", "-H", f"Referer: https://localhost/?token={SECRET_TOKEN}")
    curl(behind, f"/%?token={SECRET_TOKEN}")
    behind.servers[1] = behind.serve_again(port)
    behind.servers[1].wait_for("auth")

    def lines():
        return "".join(path.read_text() for folder in ("logs", "nginx/logs") for path in (behind.folder / folder).iterdir())

    # A line is written when a connection has ended.
    wait_until(lambda: len(re.findall(r'127\.0\.0\.40 \[.*\] "GET / HTTP/1.1" 101 ', lines())) == 4)
    assert f"to 127.0.0.1:{port}, 127.0.0.1:{behind.ports[0]}: 502, 101" in lines(), "the one that was gone was tried"
    assert SECRET_TOKEN not in lines()


def test_a_server_that_comes_back_gets_the_newcomers_until_it_has_as_many_as_the_others(behind):
    def server_of(client):
        return client.socket_id.split(".")[0]

    behind.servers[1].stop()
    here = From(behind, "127.0.0.50")
    with contextlib.ExitStack() as stack:
        old = {server_of(stack.enter_context(here.connect())) for _ in range(12)}
        assert len(old) == 1
        behind.servers[1] = behind.serve_again(behind.ports[1])
        behind.servers[1].wait_for("auth")
        assert not {server_of(stack.enter_context(here.connect())) for _ in range(8)} & old


CONNECT = """
const [key, port] = arguments;
return new Promise((resolve) => {
  const client = new Pusher(key, {wsHost: "localhost", wssPort: port, forceTLS: true, enabledTransports: ["ws"], cluster: ""});
  client.subscribe("ticks").bind("tick", ({ n }) => { resolve(typeof n); client.disconnect(); });
});
"""


def test_pusher_js_in_chromium_connects_through_it(behind):
    with tempfile.TemporaryDirectory(prefix="alphavel-chromium-", ignore_cleanup_errors=True) as profile:
        page = Page(profile, "--ignore-certificate-errors")
        try:
            page.open(f"https://localhost:{behind.https}/")
            assert page.js("return performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h2"
            assert page.js(CONNECT, KEY, behind.https) == "number"
            assert page.errors() == []
        finally:
            page.driver.quit()


def test_its_time_outs_are_longer_than_the_heartbeat():
    for name in ("alphavel.conf.template", "passthrough.conf.template"):
        text = (ROOT / "nginx" / name).read_text()
        seconds = [int(found) for found in re.findall(r"proxy_(?:read_timeout|send_timeout|timeout) (\d+)s;", text)]
        assert seconds
        assert min(seconds) > OptionsSettings().heartbeat_idle_time


# The PROXY protocol

HAPROXY = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind 127.0.0.1:{listen}
    default_backend servers
backend servers
    server alphavel 127.0.0.1:{port} {send}
"""


@pytest.fixture
def end_to_end(site):
    """A server that ends TLS, behind something that passes bytes on."""
    site.cert, key = make_certificate(site.folder)
    site.tls = ssl.create_default_context(cafile=site.cert)
    site.https = free_port()
    site.run("prepare")
    tls = {"ALPHAVEL_TLS_CERT": site.cert, "ALPHAVEL_TLS_KEY": key, "ALPHAVEL_PROXY_PROTOCOL": "true"}
    with site.serve(site.port, **tls) as server:
        server.wait_for("auth")
        yield site


def test_nginx_passes_tls_on_and_tells_the_clients_address(end_to_end):
    servers = f"server 127.0.0.1:{end_to_end.port};"
    end_to_end.set(ALPHAVEL_NGINX_HTTPS=end_to_end.https, ALPHAVEL_NGINX_UPSTREAMS=servers)
    end_to_end.run("passthrough-start")
    with From(end_to_end, "127.0.0.5").connect("/", {"X-Forwarded-For": "192.0.2.1"}) as client:
        assert address_of(client) == "127.0.0.5"


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2", "send-proxy-v2 check check-send-proxy inter 50ms"])
def test_haproxy_passes_tls_on_and_tells_the_clients_address(end_to_end, send):
    path = Path(end_to_end.folder / "haproxy.cfg")
    path.write_text(HAPROXY.format(listen=end_to_end.https, port=end_to_end.port, send=send))
    with Program("haproxy", "-db", "-f", str(path)) as haproxy:
        wait_until(lambda: haproxy.process.poll() is None and listens(end_to_end.https))
        with From(end_to_end, "127.0.0.5").connect() as client:
            assert address_of(client) == "127.0.0.5"


def listens(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
