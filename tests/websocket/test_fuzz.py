"""
Random and mutated bytes in random splits: the parser gives protocol errors and nothing else, and the same events
whatever the splits. `make fuzz` does the same for as long as one likes.
"""

from __future__ import annotations

import os
import random
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from alphavel.websocket.frames import CloseCode, Deflate, Opcode, Parser, ProtocolError, close_payload, frame
from alphavel.websocket.frames.deflate import Agreement

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


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), sizes)
def test_mutated_streams(seed, deflated, split):
    check(a_stream(random.Random(seed)), deflated, split)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(min_size=1, max_size=400), st.booleans(), sizes)
def test_random_bytes(data, deflated, split):
    check(data, deflated, split)
