"""Frames, RFC 6455: both ways, whole and one byte at a time, valid and invalid."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphavel.websocket.frames import (
    Close,
    CloseCode,
    Opcode,
    Parser,
    ProtocolError,
    apply_mask,
    close_frame,
    close_payload,
    frame,
    text_frame,
)

MASK = b"\x01\x80\xff\x3c"
LIMIT = 1 << 20


def parse(data: bytes, *, limit: int = LIMIT, pieces: int | None = None) -> list:
    """Parse in one piece, or in pieces of so many bytes; a violation comes back as (code, reason)."""
    parser = Parser(limit)
    events = []
    for start in range(0, len(data), pieces or max(1, len(data))):
        events += parser.feed(data[start : start + (pieces or len(data))])
    return [(event.code, event.reason) if isinstance(event, ProtocolError) else event for event in events]


def client(opcode, payload=b"", **flags):
    return frame(opcode, payload, mask=MASK, **flags)


VALID = {
    "an empty text": (client(Opcode.TEXT), [(Opcode.TEXT, "")]),
    "a short text": (client(Opcode.TEXT, b"Hello"), [(Opcode.TEXT, "Hello")]),
    "a text with all lengths of UTF-8": (client(Opcode.TEXT, "aé€😀".encode()), [(Opcode.TEXT, "aé€😀")]),
    "125 bytes": (client(Opcode.BINARY, b"x" * 125), [(Opcode.BINARY, b"x" * 125)]),
    "126 bytes, length in two": (client(Opcode.BINARY, b"x" * 126), [(Opcode.BINARY, b"x" * 126)]),
    "65535 bytes": (client(Opcode.BINARY, b"x" * 65535), [(Opcode.BINARY, b"x" * 65535)]),
    "65536 bytes, length in eight": (client(Opcode.BINARY, b"x" * 65536), [(Opcode.BINARY, b"x" * 65536)]),
    "a ping and a pong": (client(Opcode.PING, b"a") + client(Opcode.PONG), [(Opcode.PING, b"a"), (Opcode.PONG, b"")]),
    "fragments, with a ping between them": (
        client(Opcode.TEXT, "é".encode()[:1], fin=False)
        + client(Opcode.PING, b"!")
        + client(Opcode.CONTINUATION, b"", fin=False)
        + client(Opcode.CONTINUATION, "é".encode()[1:]),
        [(Opcode.PING, b"!"), (Opcode.TEXT, "é")],
    ),
    "a close": (client(Opcode.CLOSE, close_payload(1000, "bye")), [(Opcode.CLOSE, Close(1000, "bye"))]),
    "an empty close": (client(Opcode.CLOSE), [(Opcode.CLOSE, Close(CloseCode.NO_STATUS_RECEIVED, ""))]),
    "an application's close code": (client(Opcode.CLOSE, close_payload(4999)), [(Opcode.CLOSE, Close(4999, ""))]),
    "what follows a close is ignored": (client(Opcode.CLOSE) + client(Opcode.TEXT, b"no"), [(Opcode.CLOSE, Close(1005, ""))]),
}

INVALID = {
    "not masked": (frame(Opcode.TEXT, b"hi"), 1002),
    "RSV1 without an extension": (client(Opcode.TEXT, b"hi", rsv1=True), 1002),
    "RSV2": (bytes((0xA1, 0x80)) + MASK, 1002),
    "RSV3": (bytes((0x91, 0x80)) + MASK, 1002),
    "opcode 3": (bytes((0x83, 0x80)) + MASK, 1002),
    "opcode 11": (bytes((0x8B, 0x80)) + MASK, 1002),
    "a fragmented ping": (client(Opcode.PING, b"", fin=False), 1002),
    "a ping of 126 bytes": (client(Opcode.PING, b"x" * 126), 1002),
    "a continuation of nothing": (client(Opcode.CONTINUATION, b"x"), 1002),
    "a second message inside the first": (client(Opcode.TEXT, b"a", fin=False) + client(Opcode.TEXT, b"b"), 1002),
    "a length of 5 in two bytes": (bytes((0x82, 0xFE, 0, 5)) + MASK, 1002),
    "a length of 5 in eight bytes": (bytes((0x82, 0xFF)) + (5).to_bytes(8, "big") + MASK, 1002),
    "a length with its highest bit set": (bytes((0x82, 0xFF)) + (1 << 63).to_bytes(8, "big") + MASK, 1002),
    "a close of one byte": (client(Opcode.CLOSE, b"\x03"), 1002),
    "a close with code 999": (client(Opcode.CLOSE, b"\x03\xe7"), 1002),
    "a close with code 1005": (client(Opcode.CLOSE, b"\x03\xed"), 1002),
    "a close with code 1006": (client(Opcode.CLOSE, b"\x03\xee"), 1002),
    "a close with code 2999": (client(Opcode.CLOSE, b"\x0b\xb7"), 1002),
    "a close with code 5000": (client(Opcode.CLOSE, b"\x13\x88"), 1002),
    "a close whose reason is not UTF-8": (client(Opcode.CLOSE, b"\x03\xe8\xff"), 1007),
    "a text that is not UTF-8": (client(Opcode.TEXT, b"\xc3\x28"), 1007),
    "a text that ends inside a character": (client(Opcode.TEXT, "€".encode()[:2]), 1007),
    "a surrogate": (client(Opcode.TEXT, b"\xed\xa0\x80"), 1007),
    "an overlong slash": (client(Opcode.TEXT, b"\xc0\xaf"), 1007),
    "beyond Unicode": (client(Opcode.TEXT, b"\xf4\x90\x80\x80"), 1007),
    "one byte more than allowed": (client(Opcode.BINARY, b"x" * (LIMIT + 1)), 1009),
    "fragments of more than allowed": (
        client(Opcode.BINARY, b"x" * LIMIT, fin=False) + client(Opcode.CONTINUATION, b"x"),
        1009,
    ),
}


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("pieces", [None, 1, 7])
def test_parser_gives_the_messages_whatever_the_pieces(name, pieces):
    data, expected = VALID[name]
    assert parse(data, pieces=pieces) == expected


@pytest.mark.parametrize("name", INVALID)
@pytest.mark.parametrize("pieces", [None, 3])
def test_parser_ends_with_the_close_code_of_the_violation(name, pieces):
    data, code = INVALID[name]
    events = parse(data, pieces=pieces)
    assert [event[0] for event in events] == [code]
    assert len(close_frame(*events[0])) <= 127


def test_parser_notices_a_bad_byte_before_the_message_is_complete():
    begun = client(Opcode.TEXT, b"fine so far, but \xff then" + b"x" * 1000)
    assert parse(begun[:40], pieces=1) == [(1007, "a text must be UTF-8")]


def test_parser_refuses_a_huge_message_from_its_header_alone():
    header = bytes((0x82, 0xFF)) + (1 << 40).to_bytes(8, "big") + MASK
    assert [event[0] for event in parse(header)] == [1009]


def test_parser_ignores_everything_after_a_violation():
    parser = Parser(LIMIT)
    assert len(parser.feed(frame(Opcode.TEXT, b"not masked") + client(Opcode.TEXT, b"x"))) == 1
    assert parser.feed(client(Opcode.TEXT, b"x")) == []
    assert not parser.idle


def test_parser_is_idle_only_while_it_holds_nothing():
    parser = Parser(LIMIT)
    data = client(Opcode.TEXT, b"a", fin=False) + client(Opcode.CONTINUATION, b"b")
    for position, byte in enumerate(data):
        parser.feed(bytes((byte,)))
        assert parser.idle == (position == len(data) - 1)


def test_parser_keeps_no_view_of_a_buffer_that_is_used_again():
    buffer = bytearray(client(Opcode.BINARY, b"keep me"))
    events = Parser(LIMIT).feed(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert events == [(Opcode.BINARY, b"keep me")]


def test_parser_takes_a_message_of_many_small_fragments():
    count = 20_000
    data = client(Opcode.BINARY, b"", fin=False) + client(Opcode.CONTINUATION, b"x", fin=False) * count
    assert parse(data + client(Opcode.CONTINUATION)) == [(Opcode.BINARY, b"x" * count)]


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_masking_twice_gives_the_payload_back(payload, mask):
    masked = apply_mask(payload, mask)
    assert masked == bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    assert apply_mask(masked, mask) == payload


@given(st.lists(st.one_of(st.text(max_size=200), st.binary(max_size=200)), max_size=8), st.randoms(use_true_random=False))
def test_what_is_serialised_is_parsed_back_in_any_fragments_and_splits(messages, random_):
    data = b"".join(fragmented(message, random_) for message in messages)
    parser, events = Parser(LIMIT), []
    while data:
        size = random_.randrange(1, len(data) + 1)
        events += parser.feed(data[:size])
        data = data[size:]
    assert events == [(Opcode.TEXT if isinstance(m, str) else Opcode.BINARY, m) for m in messages]


def fragmented(message: str | bytes, random_: random.Random) -> bytes:
    payload = message.encode() if isinstance(message, str) else message
    opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
    frames = []
    while random_.random() < 0.5:
        size = random_.randrange(len(payload) + 1)
        frames.append(client(opcode, payload[:size], fin=False))
        payload, opcode = payload[size:], Opcode.CONTINUATION
    return b"".join([*frames, client(opcode, payload)])


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_text_frame_is_the_same_as_frame(size):
    assert text_frame(b"x" * size) == frame(Opcode.TEXT, b"x" * size)


def test_frames_have_the_bytes_of_the_rfc():
    """RFC 6455, section 5.7."""
    assert text_frame(b"Hello") == bytes.fromhex("810548656c6c6f")
    assert frame(Opcode.TEXT, b"Hello", mask=bytes.fromhex("37fa213d")) == bytes.fromhex("818537fa213d7f9f4d5158")
    assert frame(Opcode.BINARY, bytes(256))[:4] == bytes.fromhex("827e0100")
    assert frame(Opcode.BINARY, bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_close_payload_refuses_a_code_that_may_not_be_sent(code):
    with pytest.raises(ValueError, match=str(code)):
        close_payload(code)


def test_close_payload_refuses_a_reason_of_124_bytes():
    assert len(close_payload(1000, "é" * 61)) == 124
    with pytest.raises(ValueError, match="124"):
        close_payload(1000, "é" * 62)
