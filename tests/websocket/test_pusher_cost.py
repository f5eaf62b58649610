"""What a Pusher client costs beside one of Alphavel's own: the same memory, and one encoding for all of them."""

from __future__ import annotations

import gc
import tracemalloc

from alphavel.websocket.protocols.alphavel import AlphavelProtocol
from alphavel.websocket.protocols.pusher import PusherProtocol
from tests.websocket.pusher import KEY, PusherClient, app

CLIENTS = 200


def bytes_each(connect, subscribe):
    """Bytes that the server's code allocates for one client that is subscribed to a channel and otherwise idle."""
    for _ in range(5):  # what is made once, is made now
        with connect() as client:
            subscribe(client)
    gc.collect()
    tracemalloc.start()
    try:
        clients = []
        for _ in range(CLIENTS):
            clients.append(connect())
            subscribe(clients[-1])
        gc.collect()
        taken = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/alphavel/websocket/*")])
        return sum(trace.size for trace in taken.traces) / CLIENTS
    finally:
        tracemalloc.stop()
        for client in clients:
            client.close()


def test_a_pusher_client_takes_no_more_memory_than_a_native_one(serve):
    server = serve(apps=(app(),))
    native = bytes_each(server.connect, lambda client: client.subscribe("news"))
    server = serve(apps=(app(),))
    pusher = bytes_each(lambda: PusherClient(server.port), lambda client: client.join("news"))
    print(f"native {native:.0f} bytes, pusher {pusher:.0f} bytes")
    assert native > 500  # it has measured something
    assert pusher <= native + 300


def test_a_broadcast_is_encoded_once_for_each_protocol(serve, monkeypatch):
    server = serve(apps=(app(),))
    encoded = []
    for protocol in (AlphavelProtocol, PusherProtocol):
        plain = protocol.event

        def counting(self, message, channel, kept=None, plain=plain):
            encoded.append(type(self).__name__)
            return plain(self, message, channel, kept)

        monkeypatch.setattr(protocol, "event", counting)
    paths = [f"/app/{KEY}?protocol={version}" for version in (6, 7) for _ in range(10)]
    clients = [PusherClient(server.port, path) for path in paths]
    natives = [server.connect() for _ in range(10)]
    for client in clients:
        client.join("news")
    for client in natives:
        client.subscribe("news")
    assert server.to_channel("news").push({"event": "x", "data": {"a": 1}}) == 30
    for client in (*clients, *natives):
        assert client.receive()["data"] == {"a": 1}
        client.close()
    assert sorted(encoded) == ["AlphavelProtocol", "PusherProtocol"]
