"""
Exercises the C extension that reads, for a build with sanitizers: `python exercise_reading.py EXTENSION.so SECONDS`.

Frames in all states of order, changed bytes and random cuts: what the reader takes apart is what the parser makes of it,
what it leaves is left as it came. References are counted; the memory is looked at by the sanitizer.
"""

from __future__ import annotations

import gc
import random
import socket
import sys
import time
from typing import Any

from alphavel.websocket.frames import Opcode, Parser, frame
from tests.websocket.exercise_writing import load

LIMIT = 5000
SIZE = 8192
WRONG: list[tuple[Any, ...]] = [(), (1,), (1, True, 2), ("1", True), (1 << 70, True), (None, True)]


def a_stream(rng: random.Random) -> bytes:
    """Up to 8 KB of frames."""
    frames = b""
    while rng.random() < 0.8 and len(frames) < SIZE:
        text = "aé€😀"[rng.randrange(4)] * rng.choice((0, 1, 20, 31, 32, 42, 125, 126, 900, 2048))
        payload = text.encode() if rng.random() < 0.9 else rng.randbytes(rng.choice((1, 126, 4096, 4097)))
        opcode = rng.choice((Opcode.TEXT, Opcode.TEXT, Opcode.BINARY, Opcode.BINARY, Opcode.PING, Opcode.CONTINUATION))
        fin, mask = rng.random() < 0.95, b"" if rng.random() < 0.02 else rng.randbytes(4)
        frames += frame(opcode, payload, fin=fin, rsv1=rng.random() < 0.02, mask=mask)
    data = bytearray(frames[:SIZE])
    for _ in range(rng.choice((0, 0, 0, 1, 3)) if data else 0):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.choice((len(data), rng.randrange(len(data) + 1)))])


def main() -> None:
    native, deadline = load("_reading", sys.argv[1]), time.monotonic() + float(sys.argv[2])
    rng, rounds, taken_apart = random.Random(5), 0, 0
    buffer = bytearray(SIZE)
    before = sys.getrefcount(buffer)
    ours, theirs = socket.socketpair()
    while time.monotonic() < deadline:
        reader = native.Reader(buffer, rng.choice((0, 10, LIMIT)))
        for arguments in WRONG:
            try:
                reader.read(*arguments)
            except (TypeError, OverflowError):
                continue
            raise AssertionError(f"{arguments} were taken")
        assert reader.read(-1, True) == reader.read(1 << 40, True) == (0, None)
        assert reader.read(ours.fileno(), True) == (-1, None)
        for _ in range(50):
            data = a_stream(rng)
            if not data:
                continue
            theirs.sendall(data)
            size, messages = reader.read(ours.fileno(), rng.random() < 0.9)
            assert buffer[:size] == data
            if messages is not None:
                expected = Parser(LIMIT).feed(data)
                assert [(Opcode.TEXT if isinstance(one, str) else Opcode.BINARY, one) for one in messages] == expected
                taken_apart += 1
        rounds += 1
    del reader
    gc.collect()
    assert sys.getrefcount(buffer) == before
    assert taken_apart
    print(f"{rounds} rounds, {taken_apart} reads taken apart")


if __name__ == "__main__":
    main()
