"""What both ways to read have in common, and what the one in C takes apart and what it leaves."""

from __future__ import annotations

import os
import random
import socket
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alphavel.websocket.connections import Connection
from alphavel.websocket.frames import Opcode, frame
from alphavel.websocket.protocols.raw import RawProtocol
from alphavel.websocket.stats import Counters
from alphavel.websocket.transports import ParkedTransport, Reactor, reading
from tests.support import run
from tests.websocket.conftest import exercise_under_sanitizers
from tests.websocket.conftest import settings as server_settings
from tests.websocket.test_frames import INVALID, MASK, VALID, client
from tests.websocket.test_fuzz import EXAMPLES, LIMIT, a_stream, sizes

SIZE = 65536


@pytest.fixture
def buffer():
    return bytearray(SIZE)


@pytest.fixture
def pair():
    """Two ends of a connection, the first one not blocking."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture(params=["C", "Python"])
def read(request, buffer, monkeypatch):
    """Both ways, with a limit of 3,000 bytes a message."""
    assert reading._native is not None, "`make test` has seen to a compiler"
    if request.param == "Python":
        monkeypatch.setattr(reading, "_native", None)
    return reading.new_read(buffer, LIMIT)


@pytest.fixture
def read_in_c(buffer):
    return reading.new_read(buffer, LIMIT)


def test_bytes_come_as_they_are_where_nothing_is_to_be_taken_apart(read, pair, buffer):
    ours, theirs = pair
    data = client(Opcode.TEXT, b"Hello")
    theirs.sendall(data)
    assert read(ours.fileno(), False) == (len(data), None)
    assert buffer[: len(data)] == data


def test_nothing_the_end_and_a_reset_are_told_apart_and_never_raised(read, pair):
    ours, theirs = pair
    assert read(ours.fileno(), True) == (reading.NOTHING, None)
    theirs.close()
    assert read(ours.fileno(), True) == (0, None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        reset, _ = server.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        reset.setblocking(False)
        assert read(reset.fileno(), True) == (0, None)
        reset.close()
    for fd in (-1, 1_000_000):
        assert read(fd, True) == (0, None)


def test_more_than_the_buffer_comes_in_several_reads(read, pair):
    ours, theirs = pair
    theirs.setblocking(False)
    sent = theirs.send(os.urandom(SIZE + 1000))
    received = 0
    while (size := read(ours.fileno(), False)[0]) > 0:
        received += size
    assert received == sent


SIMPLE = {
    "a text": (client(Opcode.TEXT, "é€😀".encode()), ["é€😀"]),
    "an empty text": (client(Opcode.TEXT), [""]),
    "a binary": (client(Opcode.BINARY, b"\xff\x00"), [b"\xff\x00"]),
    "an empty binary": (client(Opcode.BINARY), [b""]),
    "125, 126 and as many bytes as a message may have": (
        b"".join(client(Opcode.BINARY, b"x" * size) for size in (125, 126, LIMIT)),
        [b"x" * 125, b"x" * 126, b"x" * LIMIT],
    ),
    "every length up to a hundred": (
        b"".join(client(Opcode.TEXT, bytes(range(size))) for size in range(100)),
        [bytes(range(size)).decode() for size in range(100)],
    ),
}
LEFT = {
    "a ping": client(Opcode.PING, b"x"),
    "a pong": client(Opcode.PONG),
    "a close": client(Opcode.CLOSE),
    "a first fragment": client(Opcode.TEXT, b"x", fin=False),
    "a last fragment": client(Opcode.CONTINUATION, b"x"),
    "a reserved bit": client(Opcode.TEXT, b"x", rsv1=True),
    "no mask": frame(Opcode.TEXT, b"x" * 20),
    "no UTF-8": client(Opcode.TEXT, b"\xc3\x28"),
    "a surrogate": client(Opcode.TEXT, b"\xed\xa0\x80"),
    "more than a message may have": client(Opcode.BINARY, b"x" * (LIMIT + 1)),
    "a length of 5 in two bytes": bytes((0x82, 0xFE, 0, 5)) + MASK + b"hello",
    "a length in eight bytes": bytes((0x82, 0xFF)) + (5).to_bytes(8, "big") + MASK + b"hello",
}


@pytest.mark.parametrize("name", SIMPLE)
def test_c_takes_simple_messages_apart(read_in_c, pair, name):
    data, messages = SIMPLE[name]
    pair[1].sendall(data)
    assert read_in_c(pair[0].fileno(), True) == (len(data), messages)


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("before", [b"", client(Opcode.TEXT, b"a simple one before it")])
def test_c_leaves_a_read_with_anything_else_as_it_came(read_in_c, pair, buffer, name, before):
    data = before + LEFT[name]
    pair[1].sendall(data)
    assert read_in_c(pair[0].fileno(), True) == (len(data), None)
    assert buffer[: len(data)] == data


def test_c_leaves_a_message_of_which_any_bytes_are_missing(read_in_c, pair, buffer):
    for whole in (client(Opcode.TEXT, b"Hello"), client(Opcode.BINARY, b"x" * 200)):
        for size in range(1, len(whole)):
            pair[1].sendall(whole[:size])
            assert read_in_c(pair[0].fileno(), True) == (size, None)
            assert buffer[:size] == whole[:size]


def test_a_message_of_c_is_no_view_of_the_buffer(read_in_c, pair, buffer):
    pair[1].sendall(client(Opcode.BINARY, b"keep me"))
    _, messages = read_in_c(pair[0].fileno(), True)
    buffer[:] = bytes(SIZE)
    assert messages == [b"keep me"]


@pytest.mark.parametrize("arguments", [(), (1,), (1, True, True), ("1", True), (1 << 80, True)])
def test_wrong_arguments_are_errors(read_in_c, arguments):
    with pytest.raises((TypeError, OverflowError)):
        read_in_c(*arguments)


@pytest.mark.parametrize("arguments", [(), (b"bytes", 1), (bytearray(1), -1), (bytearray(), 1), (bytearray(1), "1")])
def test_wrong_buffers_are_errors(arguments):
    with pytest.raises((TypeError, ValueError)):
        reading._native.Reader(*arguments)


# Both ways, as a connection sees them


class Recorder:
    """Writes down what a connection tells its server."""

    def __init__(self):
        self.events = []

    def received(self, connection, message):
        self.events.append(message)

    def pinged(self, connection, opcode, payload):
        self.events.append((opcode, payload))

    def in_turn(self, connection, action):
        action()

    def closed(self, connection, code, reason):
        self.events.append((code, reason))


@pytest.fixture(scope="module")
def reactors():
    """One that reads in C, one that reads in Python."""
    made = []
    for native in (reading._native, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reading, "_native", native)
            made.append(Reactor(server_settings(max_message_size=LIMIT, writer="python"), Recorder(), Counters()))
    yield made
    for reactor in made:
        reactor.stop()


def events_over(reactor, data, cuts):
    """Send data to a connection in pieces; return what its server is told, and what the client is."""
    reactor.receiver.events = []
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    protocol = RawProtocol("/", None)
    transport = ParkedTransport(reactor, ours.detach(), Connection(protocol))
    position, turn, answer = 0, 0, b""
    while position < len(data):
        size = cuts[turn % len(cuts)]
        theirs.sendall(data[position : position + size])
        transport()
        position += size
        turn += 1
    reactor.flush(None)
    transport.abort(1006, "over")
    while piece := theirs.recv(65536):
        answer += piece
    theirs.close()
    return reactor.receiver.events, answer


@pytest.mark.parametrize("cuts", [[SIZE], [1], [7, 40]])
@pytest.mark.parametrize("name", [*VALID, *INVALID])
def test_a_connection_is_told_the_same_whichever_way_it_is_read(reactors, name, cuts):
    data, _ = VALID[name] if name in VALID else INVALID[name]
    if len(data) < 10_000:
        in_c, in_python = (events_over(reactor, data, cuts) for reactor in reactors)
        assert in_c == in_python


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32), sizes | st.just([SIZE]))
def test_mutated_streams(reactors, seed, cuts):
    data = a_stream(random.Random(seed))
    in_c, in_python = (events_over(reactor, data, cuts) for reactor in reactors)
    assert in_c == in_python


@settings(max_examples=EXAMPLES)
@given(st.lists(st.text(max_size=60) | st.binary(max_size=60), max_size=6), st.binary(max_size=40), sizes | st.just([SIZE]))
def test_messages_and_random_bytes_after_them(reactors, messages, rest, cuts):
    opcodes = [Opcode.TEXT if isinstance(one, str) else Opcode.BINARY for one in messages]
    payloads = [one.encode() if isinstance(one, str) else one for one in messages]
    data = b"".join(map(client, opcodes, payloads)) + rest
    in_c, in_python = (events_over(reactor, data, cuts) for reactor in reactors)
    assert in_c == in_python
    assert in_c[0][: len(messages)] == messages


def test_where_the_extension_is_missing_python_reads():
    code = "import sys; sys.modules['alphavel.websocket.transports._reading'] = None\n"
    code += "from alphavel.websocket.transports.reading import new_read\nprint(new_read(bytearray(1), 1).__qualname__)"
    done = run(sys.executable, "-c", code)
    assert done.stdout == "PythonReader.read\n", done.stderr


def test_the_extension_under_sanitizers(tmp_path):
    exercise_under_sanitizers("reading", tmp_path)
