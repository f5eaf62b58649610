"""The load client must notice what it is there to notice."""

from __future__ import annotations

import socket
import threading

import pytest

from alphavel.websocket.frames import Opcode, frame
from alphavel.websocket.handshake import accept_value
from benchmarks.contestants import Contestant, Running, limit
from benchmarks.load import Load
from benchmarks.report import replace_section
from benchmarks.rounds import WrongFigureError, check, fan_out
from benchmarks.scenarios.profile import innermost
from benchmarks.servers.commands import message

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Script:
    """A server that accepts one WebSocket and sends what it is told to."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._accept)
        self.thread.start()

    def _accept(self):
        self.sock, _ = self.listener.accept()
        self.request = b""
        while b"\r\n\r\n" not in self.request:
            self.request += self.sock.recv(65536)
        lines = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept_value(KEY)}"
        self.sock.sendall(f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n\r\n".encode())

    def send(self, *sequence_numbers):
        for number in sequence_numbers:
            self.sock.sendall(frame(Opcode.TEXT, message(f"#{number:09d}@{1:016d}").encode()))

    def close(self):
        self.sock.close()
        self.listener.close()


@pytest.fixture
def script():
    server = Script()
    yield server
    server.close()


@pytest.fixture
def load(script):
    with Load(script.port, 1) as client:
        script.thread.join()
        client.ask("mark", 0)
        yield client


@pytest.mark.parametrize(
    ("sent", "noticed"),
    [
        ((1, 2, 3, 4), {}),
        ((1, 2, 4), {"lost": 1}),
        ((1, 2, 2, 3, 4), {"duplicates": 1}),
        ((1, 3, 2, 4), {"lost": 1, "duplicates": 1}),
        ((1, 2), {"behind": 1}),
    ],
)
def test_client_counts_what_is_lost_doubled_disordered_or_missing(script, load, sent, noticed):
    script.send(*sent)

    seen = load.ask("until", 4, 20_000 if sent[-1] == 4 else 200)

    assert seen["messages"] == len(sent)
    assert {key: seen[key] for key in ("lost", "duplicates", "behind", "closed", "broken") if seen[key]} == noticed


def test_client_counts_a_frame_that_breaks_the_protocol(script, load):
    script.sock.sendall(frame(Opcode.TEXT, b"masked", mask=b"abcd"))

    seen = load.ask("run", 200)

    assert (seen["broken"], seen["closed"], seen["connections"]) == (1, 1, 0)


def test_client_counts_a_connection_that_the_server_closed(script, load):
    script.sock.close()

    seen = load.ask("until", 1, 20_000)

    assert (seen["closed"], seen["messages"]) == (1, 0)


def test_client_takes_frames_that_come_in_pieces(script, load):
    whole = b"".join(frame(Opcode.TEXT, message(f"#{number:09d}@{1:016d}").encode()) for number in (1, 2, 3))
    for byte in whole:
        script.sock.sendall(bytes((byte,)))

    seen = load.ask("until", 3, 20_000)

    assert (seen["messages"], seen["lost"], seen["behind"]) == (3, 0, 0)


def test_client_sends_a_token_and_says_when_it_is_refused(script, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("first\nsecond\n")

    with Load(script.port, 1, ["--tokens", str(tokens), "--header", "Authorization: Bearer %t", "--offset", "1"]):
        script.thread.join()

    assert b"\r\nAuthorization: Bearer second\r\n" in script.request


def test_figures_with_a_lost_message_are_refused():
    seen = {"lost": 1, "duplicates": 0, "behind": 0, "closed": 0, "refused": 0, "broken": 0, "messages": 10}

    with pytest.raises(WrongFigureError, match="lost"):
        check("a server", seen)


@pytest.mark.parametrize("uring", [False, True], ids=["send", "io_uring"])
def test_c_loop_delivers_everything_to_everybody(uring):
    contestant = limit(uring)
    assert isinstance(contestant, Contestant), contestant
    if uring and contestant.problem():
        pytest.skip("no io_uring here")
    with Running(contestant) as running:
        running.connect(50)
        sample = fan_out(running, "flood", 16, 20)
        echoes = running.load(10, "--path", "/echo").ask("echo", 50, 0)
        check("echo", echoes)

    assert sample.rate > 0
    assert sample.server_us > 0


def test_a_section_of_the_readme_is_replaced_and_nothing_else():
    text = "before\n<!-- peers: written by the run -->\nold\n<!-- end of peers -->\nafter\n"

    assert replace_section(text, "peers", "new\\1") == text.replace("old", "new\\1")
    with pytest.raises(ValueError, match="no markers"):
        replace_section(text, "bench", "new")


def test_a_profile_counts_the_innermost_functions_whatever_their_line():
    counts = innermost("run (a.py:1);read (b.py:2) 3\nrun (a.py:1);read (b.py:9) 4\nrun (a.py:1) 2\n")
    assert counts == {"`read` (b.py)": 7, "`run` (a.py)": 2}
