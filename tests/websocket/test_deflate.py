"""permessage-deflate, RFC 7692."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alphavel.websocket.frames import Deflate, Opcode, Parser, ProtocolError, apply_mask, frame, text_frame
from alphavel.websocket.frames.deflate import Agreement, negotiate
from alphavel.websocket.handshake import parse_extensions

MASK = b"\x01\x02\x03\x04"
FULL = Agreement(False, False, 15, 15, True)
FRUGAL = Agreement(True, True, 9, 9, True)


def offer(header, **wanted):
    agreement = negotiate(
        parse_extensions(header),
        **{"context_takeover": True, "server_max_window_bits": 15, "client_max_window_bits": 15, **wanted},
    )
    return agreement and agreement.header


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        ("permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate; client_max_window_bits=15"),
        ("permessage-deflate; client_max_window_bits=10", "permessage-deflate; client_max_window_bits=10"),
        ('permessage-deflate; server_max_window_bits="9"', "permessage-deflate; server_max_window_bits=9"),
        ("permessage-deflate; server_no_context_takeover", "permessage-deflate; server_no_context_takeover"),
        ("permessage-deflate; client_no_context_takeover", "permessage-deflate; client_no_context_takeover"),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", "permessage-deflate"),
        ("x-webkit-deflate-frame, permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; what_is_this, permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; client_max_window_bits=010", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=10; server_max_window_bits=10", None),
        ("permessage-deflate;", None),
        ("", None),
    ],
)
def test_negotiation_accepts_the_first_offer_that_is_sound(header, answer):
    assert offer(header) == answer


def test_server_asks_for_what_it_wants_only_where_it_may():
    wanted = {"context_takeover": False, "server_max_window_bits": 11, "client_max_window_bits": 12}
    assert offer("permessage-deflate", **wanted) == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=11"
    )
    assert offer("permessage-deflate; client_max_window_bits", **wanted).endswith("client_max_window_bits=12")


def deflate(payload, compressor=None):
    compressor = compressor or zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def client(payload, opcode=Opcode.TEXT, **flags):
    return frame(opcode, payload, mask=MASK, **{"rsv1": True, **flags})


def feed(parser, data, pieces=None):
    events = []
    for start in range(0, len(data), pieces or len(data)):
        events += parser.feed(data[start : start + (pieces or len(data))])
    return [event.code if isinstance(event, ProtocolError) else event for event in events]


@pytest.mark.parametrize("pieces", [None, 1])
def test_parser_inflates_the_examples_of_the_rfc(pieces):
    """RFC 7692, section 7.2.3: one frame, two fragments, a shared window, no compression, a last block."""
    parser = Parser(1000, Deflate(FULL))
    hello = bytes.fromhex("f248cdc9c90700")
    for data in (
        client(hello),
        client(hello[:3], fin=False) + client(hello[3:], Opcode.CONTINUATION, rsv1=False),
        client(bytes.fromhex("f200110000")),
        client(bytes.fromhex("000500faff48656c6c6f00")),
    ):
        assert feed(parser, data, pieces) == [(Opcode.TEXT, "Hello")]
    assert feed(Parser(1000, Deflate(FULL)), client(bytes.fromhex("f348cdc9c9070000")), pieces) == [(Opcode.TEXT, "Hello")]


def test_parser_takes_plain_messages_between_deflated_ones():
    parser = Parser(1000, Deflate(FULL))
    assert feed(parser, client(b"plain", rsv1=False) + client(deflate(b"deflated"))) == [
        (Opcode.TEXT, "plain"),
        (Opcode.TEXT, "deflated"),
    ]


def test_parser_refuses_rsv1_on_a_continuation_and_on_a_ping():
    begun = client(deflate(b"x"), fin=False)
    assert feed(Parser(1000, Deflate(FULL)), begun + client(b"", Opcode.CONTINUATION)) == [1002]
    assert feed(Parser(1000, Deflate(FULL)), client(b"", Opcode.PING)) == [1002]


@pytest.mark.parametrize("pieces", [None, 1, 100])
def test_a_bomb_is_refused_without_being_inflated(pieces):
    bomb = deflate(bytes(1 << (22 if pieces == 1 else 27)))
    parser = Parser(100_000, Deflate(FULL))
    assert feed(parser, client(bomb[:90_000], Opcode.BINARY), pieces) == [1009]


def test_a_message_of_exactly_the_limit_is_taken_and_one_more_byte_is_not():
    limit = 100_000
    assert feed(Parser(limit, Deflate(FULL)), client(deflate(bytes(limit)), Opcode.BINARY)) == [(Opcode.BINARY, bytes(limit))]
    assert feed(Parser(limit, Deflate(FULL)), client(deflate(bytes(limit + 1)), Opcode.BINARY)) == [1009]


def test_data_that_is_not_deflated_is_1007():
    assert feed(Parser(1000, Deflate(FULL)), client(b"\xff\xff\xff\xff")) == [1007]


def test_a_message_of_many_last_blocks_is_1007():
    """Each last block makes the parser set up an inflater: two bytes of work for a client, thousands for us."""
    assert feed(Parser(1 << 20, Deflate(FULL)), client(b"\x03\x00" * 1000)) == [1007]


def test_bad_utf8_in_a_deflated_text_is_noticed_early():
    begun = client(deflate(b"abc\xff") + b"x" * 500)
    assert feed(Parser(1 << 20, Deflate(FULL)), begun[:30], 1) == [1007]


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=5), st.sampled_from([FULL, FRUGAL]))
def test_what_the_server_deflates_a_client_inflates(payloads, agreement):
    ours = Deflate(agreement)
    inflater = zlib.decompressobj(-agreement.server_max_window_bits)
    for payload in payloads:
        if agreement.server_no_context_takeover:
            inflater = zlib.decompressobj(-agreement.server_max_window_bits)
        compressed = ours.compress_frame(frame(Opcode.BINARY, payload))
        assert compressed[0] == 0xC2
        size, start = compressed[1], 2
        if size == 126:
            size, start = int.from_bytes(compressed[2:4], "big"), 4
        assert len(compressed) == start + size
        assert inflater.decompress(compressed[start:] + b"\x00\x00\xff\xff") == payload


def test_short_and_control_frames_are_sent_as_they_are():
    ours = Deflate(FULL, threshold=100)
    for plain in (text_frame(b"short"), frame(Opcode.PING, b"x" * 120), frame(Opcode.CLOSE, b"\x03\xe8" + b"x" * 100)):
        assert ours.compress_frame(plain) is plain


def test_only_connections_without_context_share_compressed_frames():
    assert Deflate(FULL).shared_key is None
    assert (
        Deflate(FRUGAL).shared_key
        == Deflate(FRUGAL).shared_key
        != Deflate(FRUGAL._replace(server_max_window_bits=10)).shared_key
    )


def test_mask_helper_is_what_these_tests_think():
    assert apply_mask(b"abcd", bytes(4)) == b"abcd"
