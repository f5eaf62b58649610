"""
Random and mutated bytes in random splits: the parser gives protocol errors and nothing else, and the same events
whatever the splits. Random handshakes and messages: the server refuses or answers, and is there for the next.
`make fuzz` does the same for as long as one likes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import zlib

import gevent
from hypothesis import given, settings
from hypothesis import strategies as st

from alphavel.websocket import WebSocketServer
from alphavel.websocket.admission import admit
from alphavel.websocket.frames import CloseCode, Deflate, Opcode, Parser, ProtocolError, close_payload, frame
from alphavel.websocket.frames.deflate import Agreement
from alphavel.websocket.handshake import HandshakeError
from tests.websocket.conftest import SECRET
from tests.websocket.conftest import settings as server_settings
from tests.websocket.pusher import app as pusher_app
from tests.websocket.test_switching import connect

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))
LIMIT = 3000
MASK = b"\x9a\x00\x41\xff"
VIOLATIONS = {CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG}
PAYLOADS = [b"", b"a", "é€😀".encode(), b"\xff\xfe", b"x" * 125, b"y" * 126, b"z" * LIMIT, b"w" * (LIMIT + 1)]


def a_stream(random_: random.Random) -> bytes:
    """Return a stream of frames, many of them sound, some of their bytes changed."""
    data = bytearray()
    for _ in range(random_.randrange(1, 8)):
        payload = random_.choice(PAYLOADS)
        opcode = random_.choice(list(Opcode))
        rsv1 = random_.random() < 0.4
        if rsv1 and random_.random() < 0.8:
            compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
            payload = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        if opcode is Opcode.CLOSE and random_.random() < 0.8:
            payload = close_payload(random_.choice([1000, 1001, 4000]), "bye")
        if opcode >= Opcode.CLOSE and random_.random() < 0.9:
            payload, rsv1 = payload[:125], False
        data += frame(opcode, payload, fin=random_.random() < 0.6, rsv1=rsv1, mask=MASK)
    for _ in range(random_.choice([0, 0, 1, 5])):
        data[random_.randrange(len(data))] = random_.randrange(256)
    return bytes(data)


def events_of(data: bytes, deflated: bool, sizes: list[int]) -> list:
    deflate = Deflate(Agreement(False, False, 15, 15, True)) if deflated else None
    parser = Parser(LIMIT, deflate)
    events, position, turn = [], 0, 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        for event in parser.feed(memoryview(data)[position : position + size]):
            if isinstance(event, ProtocolError):
                assert event.code in VIOLATIONS
                close_payload(event.code, event.reason)
                events.append(("violation", event.code))
            else:
                events.append(event)
        position += size
        turn += 1
    return events


def check(data: bytes, deflated: bool, sizes: list[int]) -> None:
    whole = events_of(data, deflated, [len(data)])
    split = events_of(data, deflated, sizes)
    if whole and whole[-1][0] == "violation":
        # In pieces a message can turn out too large or no UTF-8 before a later frame of it is seen to be wrong.
        assert split[:-1] == whole[:-1]
        assert split[-1][0] == "violation"
    else:
        assert split == whole
    for event in whole:
        if event[0] in (Opcode.TEXT, Opcode.BINARY):
            assert len(event[1].encode() if isinstance(event[1], str) else event[1]) <= LIMIT


sizes = st.lists(st.integers(1, 50), min_size=1, max_size=6)


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32), st.booleans(), sizes)
def test_mutated_streams(seed, deflated, split):
    check(a_stream(random.Random(seed)), deflated, split)


@settings(max_examples=EXAMPLES)
@given(st.binary(min_size=1, max_size=400), st.booleans(), sizes)
def test_random_bytes(data, deflated, split):
    check(data, deflated, split)


# Handshakes


header = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=80)
plausible = st.sampled_from(
    [
        *[
            "websocket",
            "Upgrade",
            "keep-alive, Upgrade",
            "13",
            "dGhlIHNhbXBsZSBub25jZQ==",
            "alphavel.v1, bearer.x",
            "Bearer x.y.z",
        ],
        *[
            'permessage-deflate; server_max_window_bits="9',
            "permessage-deflate; client_max_window_bits; x=1, permessage-deflate",
        ],
        *["http://[::1", "https://app.test:99999", "token=%ff%00&token=é", "GET", "HTTP/1.1", "/", "[" * 2000],
    ]
)
HEADERS = ["UPGRADE", "CONNECTION", "ORIGIN", "HOST", "AUTHORIZATION"]
HEADERS += [f"SEC_WEBSOCKET_{name}" for name in ("VERSION", "KEY", "EXTENSIONS", "PROTOCOL")]


@settings(max_examples=EXAMPLES)
@given(st.dictionaries(st.sampled_from([f"HTTP_{name}" for name in HEADERS]), header | plausible), header | plausible)
def test_handshakes(environ, query):
    server = WebSocketServer(a_servers_settings())
    request = {
        "REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "x", "PATH_INFO": "/", "QUERY_STRING": query,
        "HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "Upgrade", "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==", **environ,
    }  # fmt: skip
    server.start()
    try:
        response = admit(server, request).response
    except HandshakeError as error:
        response = error.response()
    finally:
        server.stop(timeout=0)
    head, _, _ = response.partition(b"\r\n\r\n")
    assert all(re.fullmatch(rb"HTTP/1\.1 \d{3} .*|[A-Za-z-]+: [^\r\n]*", line) for line in head.split(b"\r\n"))


# Messages of both protocols, to a whole server


words = st.sampled_from(
    [
        *["news", "private-a", "presence-room", "private-encrypted-x", "cache-x", "#server-to-user-7", "__proto__", "", "a b"],
        *["ping", "subscribe", "unsubscribe", "broadcast", "refresh", "known", "client-x", "pusher:ping", "pusher:subscribe"],
        *[
            "pusher:unsubscribe",
            "pusher:signin",
            "pusher_internal:x",
            '{"user_id":"7","user_info":{}}',
            '{"id":"7"}',
            "{}",
            "[",
        ],
    ]
)
value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | words,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5) | words, inside, max_size=3),
    max_leaves=8,
)
KEYS = ["channel", "auth", "channel_data", "user_data", "message", "token", "event", "data", "watchlist"]
data = st.dictionaries(st.sampled_from(KEYS), words | value, max_size=4)
message = st.one_of(
    st.fixed_dictionaries({"event": words}, optional={"data": data | data.map(json.dumps) | value, "channel": words | value}),
    value,
).map(lambda thing: json.dumps(thing).encode())
raw = st.binary(max_size=50) | st.sampled_from(
    [b"[" * 5000, b'{"a":' * 900 + b"1" + b"}" * 900, b"\xff", b"1e999", b'"\\ud800"']
)


def a_servers_settings():
    return server_settings(secret=SECRET, anonymous=True, max_messages_per_second=None, apps=(pusher_app(client_events=True),))


@settings(max_examples=EXAMPLES // 3)
@given(st.sampled_from(["/", "/app/app-key?protocol=7"]), st.lists(message | raw, min_size=1, max_size=8))
def test_messages(path, messages):
    """Whatever a client says, the server answers the ping that follows, or has closed the connection by the book."""
    server = WebSocketServer(a_servers_settings())
    server.channel("{a}-{b}")(lambda user: True)
    server.event("known")(lambda connection, data: None)
    server.start()
    try:
        sock = connect(server, "1" if path == "/" else None, path)
        with contextlib.suppress(OSError):
            for text in messages:
                sock.sendall(frame(Opcode.TEXT, text, mask=MASK))
            sock.sendall(frame(Opcode.PING, b"still there?", mask=MASK))
        received = b""
        sock.settimeout(30)
        while b"still there?" not in received and b"\x88" not in received:
            piece = sock.recv(65536)
            assert piece, received
            received += piece
        sock.close()
        while server.reactor.sockets or len(server.tasks):
            gevent.sleep(0)
        assert server.counters.errors == 0
        assert not server.connections.connections
    finally:
        server.stop(timeout=1.0)
