"""Who is let in at `/app/{key}`, and the close code of each who is not."""

from __future__ import annotations

import dataclasses
import gc
import socket
import zlib

import pytest
from flask import Flask
from gevent.pywsgi import WSGIServer

from alphavel.foundation import container
from alphavel.websocket import WebSocketServer, blueprint
from alphavel.websocket.connections import Connection
from alphavel.websocket.frames import Opcode
from alphavel.websocket.settings import CompressionSettings, ProxiesSettings
from alphavel.websocket.signing_in import Deadlines
from tests.support import wait_until
from tests.websocket.clients import Client, Closed, Refused
from tests.websocket.conftest import settings
from tests.websocket.pusher import KEY, PusherClient, app


def told(server, path=f"/app/{KEY}?protocol=7", **headers):
    """The close code and reason that a connection gets instead of a greeting; after it nothing may come."""
    with PusherClient(server.port, path, headers, greeted=False) as client:
        with pytest.raises(Closed) as closed:
            client.receive()
        ended(client)
    return closed.value.code, closed.value.reason


def ended(client):
    """Answer a close frame; then the server ends the connection, and sends nothing more."""
    client.frame(Opcode.CLOSE)
    assert client.closed().code is None


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize(
    ("settings", "path", "code", "reason"),
    [
        ({}, "/app/nobody?protocol=7", 4001, "no app with this key"),
        ({}, "/app/?protocol=7", 4001, "no app with this key"),
        ({"enabled": False}, f"/app/{KEY}?protocol=7", 4003, "disabled"),
        ({}, f"/app/{KEY}/more?protocol=7", 4005, "path not found"),
        ({}, f"/app/{KEY}?protocol=seven", 4006, "not a number"),
        ({}, f"/app/{KEY}?protocol=7.0", 4006, "not a number"),
        ({}, f"/app/{KEY}?protocol=99999999999", 4006, "not a number"),
        ({}, f"/app/{KEY}?protocol=8", 4007, "5 to 7"),
        ({}, f"/app/{KEY}", 4008, "missing"),
        ({}, f"/app/{KEY}?protocol=", 4008, "missing"),
        ({"tls_only": True}, f"/app/{KEY}?protocol=7", 4000, "TLS"),
        ({"connections": 1}, f"/app/{KEY}?protocol=7", 4004, "number of connections"),
    ],
)
def test_who_is_not_let_in_is_told_by_a_close_code(serve, settings, path, code, reason):
    server = serve(apps=(app(**settings),))
    first = PusherClient(server.port) if "connections" in settings else None
    refused = told(server, path)
    assert refused[0] == code
    assert reason in refused[1]
    assert len(server.connections.connections) == (1 if first else 0)
    assert server.get_stats()["handshakes_refused"] == 1
    if first:
        first.close()
    wait_until(lambda: not server.reactor.sockets)


def test_an_origin_that_is_not_allowed_is_closed_with_4009(serve):
    server = serve(apps=(app(allowed_origins=("https://shop.example",)),), allowed_origins=("https://other.example",))
    code, reason = told(server, Origin="https://evil.example")
    assert (code, "origin" in reason) == (4009, True)
    assert told(server, Origin="https://other.example")[0] == 4009
    PusherClient(server.port, headers={"Origin": "https://shop.example"}).close()
    PusherClient(server.port).close()  # not a browser


def test_an_app_without_origins_of_its_own_has_the_servers(serve):
    server = serve(apps=(app(),), allowed_origins=("https://other.example",))
    PusherClient(server.port, headers={"Origin": "https://other.example"}).close()
    assert told(server, Origin="https://shop.example")[0] == 4009


def test_with_no_origins_named_pages_of_the_same_host_may_connect(serve):
    server = serve(apps=(app(),))
    PusherClient(server.port, headers={"Origin": f"http://127.0.0.1:{server.port}"}).close()
    assert told(server, Origin="http://shop.example")[0] == 4009


def test_tls_that_a_proxy_has_ended_is_tls(serve):
    server = serve(apps=(app(tls_only=True),), proxies=ProxiesSettings(trusted=("127.0.0.1",)))
    PusherClient(server.port, headers={"X-Forwarded-Proto": "https"}).close()


def test_a_full_server_says_so_with_4100_and_a_stopping_one_too(serve):
    server = serve(apps=(app(),), max_connections=1)
    with PusherClient(server.port):
        assert told(server)[0] == 4100
        # One that does not end its closing handshake cannot keep the others from being told.
        clients = [PusherClient(server.port, greeted=False) for _ in range(31)]
        assert {client.closed().code for client in clients} == {4100}
        for client in clients:
            client.close()
        server.is_draining = True
        assert told(server)[0] == 4100
        server.is_draining = False


def test_beyond_what_can_be_told_there_is_503(serve, monkeypatch):
    server = serve(apps=(app(),), max_connections=1)
    monkeypatch.setattr("alphavel.websocket.pusher_entrance._SPARE", 0)
    with PusherClient(server.port), pytest.raises(Refused, match="full"):
        PusherClient(server.port)


def test_versions_up_to_5_get_an_error_event_before_the_close_frame(serve):
    server = serve(apps=(app(),))
    for path, code in (("/app/nobody?protocol=5", 4001), (f"/app/{KEY}?protocol=4", 4007)):
        with PusherClient(server.port, path, greeted=False) as client:
            event = client.receive()
            assert (event["event"], event["data"]["code"]) == ("pusher:error", code)
            assert client.closed().code == code
            ended(client)
    with PusherClient(server.port, f"/app/{KEY}?protocol=5") as client:
        server.connections.connections[client.socket_id].close(4200, "go")
        assert client.receive() == {"event": "pusher:error", "data": {"code": 4200, "message": "go"}}
        assert client.closed().code == 4200
    with PusherClient(server.port, f"/app/{KEY}?protocol=6") as client:
        server.connections.connections[client.socket_id].close(4200, "go")
        with pytest.raises(Closed):
            client.receive()


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("pusher-channels-protocol-7", "pusher-channels-protocol-7"),
        ("chat, pusher-channels-protocol-6", "pusher-channels-protocol-6"),
        ("pusher-channels-protocol-9, pusher-channels-protocol-5", "pusher-channels-protocol-5"),
        # The version stands in the query; a browser would break off a handshake that names none of what it offered.
        ("pusher-channels-protocol-9", "pusher-channels-protocol-9"),
        ("chat", None),
    ],
)
def test_an_offered_subprotocol_is_echoed(serve, offered, chosen):
    server = serve(apps=(app(),))
    with PusherClient(server.port, headers={"Sec-WebSocket-Protocol": offered}) as client:
        assert client.headers.get("sec-websocket-protocol") == chosen


def test_the_subprotocol_tells_the_version_where_the_query_does_not(serve):
    server = serve(apps=(app(),))
    PusherClient(server.port, f"/app/{KEY}", {"Sec-WebSocket-Protocol": "pusher-channels-protocol-7"}).close()


def test_a_subprotocol_of_an_unknown_version_is_named_so_that_the_client_can_be_told(serve):
    server = serve(apps=(app(),))
    headers = {"Sec-WebSocket-Protocol": "pusher-channels-protocol-4"}
    with PusherClient(server.port, f"/app/{KEY}", headers, greeted=False) as client:
        assert client.headers["sec-websocket-protocol"] == "pusher-channels-protocol-4"
        assert client.receive()["data"]["code"] == 4007
        assert client.closed().code == 4007


def test_without_apps_the_path_is_the_applications(serve):
    server = serve()
    with pytest.raises(Refused) as refused:
        Client(server.port, f"/app/{KEY}?protocol=7")
    assert refused.value.status == 404


def test_a_bad_handshake_is_answered_in_http(serve):
    server = serve(apps=(app(),))
    with pytest.raises(Refused) as refused:
        Client(server.port, f"/app/{KEY}?protocol=7", {"Sec-WebSocket-Version": "12"})
    assert refused.value.status == 426


@pytest.fixture
def under_pywsgi():
    """A server whose blueprint meets what gevent's plain HTTP server accepts."""
    server = WebSocketServer(settings(apps=(app(),)))
    flask_app = Flask("shop")
    flask_app.register_blueprint(blueprint)
    container().instance("websocket", server)
    http = WSGIServer(("127.0.0.1", 0), flask_app, log=None)
    http.start()
    server.port = http.server_port
    yield server
    server.stop(timeout=0.5)
    http.stop(timeout=0.5)
    container().forget("websocket")


@pytest.fixture(params=["own server", "blueprint"])
def any_door(request):
    """The port of a server with an app, on each way by which a request comes in."""
    if request.param == "blueprint":
        return request.getfixturevalue("under_pywsgi").port
    return request.getfixturevalue("serve")(apps=(app(),)).port


def asked(port, path, method="GET", version="HTTP/1.1", **headers):
    """The status and body that a plain HTTP request gets."""
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(f"{method} {path} {version}\r\nHost: shop\r\nConnection: close\r\n{fields}\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def test_who_asks_for_no_websocket_is_told_what_this_address_speaks(any_door):
    port = any_door
    # What nginx sends that was not told to pass on `Upgrade`: of HTTP 1.0, and with all else of the handshake.
    dropped = {"Sec_WebSocket_Key": "AAECAwQFBgcICQoLDA0ODw==", "Sec_WebSocket_Version": "13"}
    for version in ("HTTP/1.1", "HTTP/1.0"):
        for path, headers in (
            (f"/app/{KEY}", {}),
            (f"/app/{KEY}?protocol=7", dropped),
            ("/app/nobody", dropped),
            ("/", dropped),
        ):
            status, text = asked(port, path, version=version, **headers)
            assert (status, "have it pass on the headers Upgrade" in text) == (426, True), path
    assert asked(port, f"/app/{KEY}", "POST")[0] == 405
    for path in ("/app/nobody", f"/app/{KEY}/more", "/app/", "/"):  # pages of the application's own
        assert asked(port, path)[0] == 404


def test_who_is_refused_never_opens_and_never_closes_for_the_application(serve):
    happened = []

    def set_up(server):
        server.on("open")(lambda connection: happened.append("open"))
        server.on("close")(lambda connection: happened.append("close"))

    server = serve(set_up, apps=(app(),))
    with PusherClient(server.port, "/app/nobody?protocol=7", greeted=False) as client:
        client.send("pusher:subscribe", {"channel": "news"})
        client.send("my-event", {})
        client.closed()
        ended(client)
    wait_until(lambda: not server.reactor.sockets)
    assert happened == []
    assert server.get_channels() == []


def test_clients_of_a_stopping_server_are_sent_elsewhere_at_once(serve):
    server = serve(apps=(app(), app(id="2", key="other")))
    clients = [PusherClient(server.port), PusherClient(server.port, "/app/other?protocol=7")]
    server.stop(timeout=0.5)
    assert [client.closed().code for client in clients] == [4200, 4200]
    for client in clients:
        client.close()


def exists(client):
    """Whether the server's object for a client is still in memory."""
    gc.collect()
    return any(type(thing) is Connection and thing.socket_id == client.socket_id for thing in gc.get_objects())


def test_who_neither_signs_in_nor_joins_in_time_is_closed_with_4009(serve):
    server = serve(apps=(app(authorize_within=60.0), app(id="2", key="other")))
    now = [0.0]
    server._deadlines = Deadlines(clock=lambda: now[0])
    idle, joined, signed, elsewhere = (
        PusherClient(server.port, path) for path in [f"/app/{KEY}?protocol=7"] * 3 + ["/app/other?protocol=7"]
    )
    with PusherClient(server.port) as gone:
        assert exists(gone)
    wait_until(lambda: not exists(gone), what="a connection that has ended is forgotten before its time is over")
    idle.join("news")
    joined.join("private-a")
    signed.sign_in()
    now[0] = 59.9
    server._deadlines.second_passed()
    assert idle.silent()
    now[0] = 60.0
    server._deadlines.second_passed()
    assert idle.closed().code == 4009
    idle.close()
    for client in (joined, signed, elsewhere):
        client.send("pusher:ping", {})
        assert client.receive()["event"] == "pusher:pong"
        client.close()


def test_the_clients_of_an_app_that_is_taken_away_are_closed_with_4003(serve):
    server = serve(apps=(app(), app(id="2", key="other")))
    with PusherClient(server.port) as stays, PusherClient(server.port, "/app/other?protocol=7") as goes:
        server.configure(dataclasses.replace(server.settings, apps=(app(client_events=True),)))
        assert goes.closed().code == 4003
        stays.send("pusher:ping", {})
        assert stays.receive()["event"] == "pusher:pong"
        assert told(server, "/app/other?protocol=7")[0] == 4001


def test_pushers_clients_of_an_app_that_is_disabled_are_closed_with_4003(serve):
    server = serve(apps=(app(), app(id="2", key="other")))

    def enable(enabled):
        apps = (app(enabled=enabled), app(id="2", key="other", enabled=enabled))
        server.configure(dataclasses.replace(server.settings, apps=apps))

    first, second = PusherClient(server.port), PusherClient(server.port, "/app/other?protocol=7")
    with first, second, server.connect() as native:
        enable(False)
        assert first.closed().code == second.closed().code == 4003
        native.send("ping")  # an app says nothing of who may speak Alphavel's own protocol
        assert native.receive()["event"] == "pong"
        enable(True)
        PusherClient(server.port).close()


def test_under_plain_pywsgi_the_blueprint_tells_clients_by_close_codes_too(under_pywsgi):
    assert told(under_pywsgi, "/app/nobody?protocol=7")[0] == 4001
    with PusherClient(under_pywsgi.port) as client:
        assert client.join("news")["event"] == "pusher_internal:subscription_succeeded"


def test_compression_is_agreed_on_and_refusals_go_without(serve):
    server = serve(apps=(app(),), compression=CompressionSettings(enabled=True, threshold=0))
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    with PusherClient(server.port, headers=offer, greeted=False) as client:
        assert "permessage-deflate" in client.headers["sec-websocket-extensions"]
        opcode, payload = client.receive_frame()
        assert opcode == Opcode.TEXT | 0x40
        assert b"pusher:connection_established" in zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
    assert told(server, "/app/nobody?protocol=7", **offer)[0] == 4001


def test_the_state_of_the_server_sums_over_its_apps(serve):
    server = serve(apps=(app(), app(id="2", key="other")))
    with PusherClient(server.port) as one, PusherClient(server.port, "/app/other?protocol=7") as two, server.connect():
        one.join("news")
        two.join("news")
        one.sign_in("u1")
        stats = server.get_stats()
        assert (stats["connections"], stats["users"]) == (3, 1)
        assert [(channel["name"], channel["app"], channel["subscribers"]) for channel in stats["channels"]] == [
            ("news", "1", 1), ("news", "2", 1)
        ]  # fmt: skip
