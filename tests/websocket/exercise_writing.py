"""
Exercises the C extension that writes, for a build with sanitizers: `python exercise_writing.py EXTENSION.so SECONDS`.

Full, closed and half read sockets, rows, wrong arguments, rings without end, a child of fork: what comes out is checked against
os.write, what is left behind against the counts of references, and what the memory looks like by the sanitizer.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.machinery
import importlib.util
import os
import random
import socket
import sys
import time
from array import array
from types import ModuleType
from typing import Any

WRONG: list[tuple[Any, ...]] = [
    *[(), ([1],), ([1], [b"x", b"y"]), ([1], ["x"]), (["x"], [b"x"]), ([1 << 70], [b"x"]), ((1,), (b"x",))],
    *[(b"", 0, 1, bytearray(), []), (b"\0" * 4, -1, 1, bytearray(), []), (b"", 0, 0, bytearray(), [b""] * 257)],
]


def load(name: str, path: str) -> ModuleType:
    """Load an extension from where it was built."""
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Sockets:
    """Pairs of sockets; what was written to one must come out of the other."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self.rng = rng
        self.pairs = [socket.socketpair() for _ in range(count)]
        self.expected = [bytearray() for _ in self.pairs]
        for pair in self.pairs:
            pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
            pair[0].setblocking(False)
            pair[1].setblocking(False)

    def read(self, index: int, size: int) -> None:
        with contextlib.suppress(BlockingIOError):
            received = self.pairs[index][1].recv(size)
            assert self.expected[index][: len(received)] == received
            del self.expected[index][: len(received)]

    def exercise(self, write: Any, write_row: Any) -> None:
        chosen = self.rng.sample(range(len(self.pairs)), self.rng.randint(0, len(self.pairs)))
        fds = [self.pairs[index][0].fileno() for index in chosen]
        if self.rng.random() < 0.5:
            frames = [self.rng.randbytes(self.rng.choice((0, 1, 60, 700, 9000))) for _ in chosen]
            written, rest = write(fds, frames)
            done = dict(rest)
            sizes = [done.get(position, len(frame)) for position, frame in enumerate(frames)]
        else:
            ready = bytearray(max(fds, default=0) + 1)
            kinds = [b"", self.rng.randbytes(50), self.rng.randbytes(5000)]
            frames = [self.rng.choice(kinds) for _ in chosen]
            for fd, frame in zip(fds, frames, strict=True):
                ready[fd] = kinds.index(frame)
            written, rest, behind = write_row(array("i", fds).tobytes(), 0, len(fds), ready, kinds)
            assert behind == [fd for fd, frame in zip(fds, frames, strict=True) if not frame]
            done = dict(rest)
            sizes = [done.get(fd, len(frame)) for fd, frame in zip(fds, frames, strict=True)]
        assert written == sum(sizes)
        for index, frame, size in zip(chosen, frames, sizes, strict=True):
            assert 0 <= size <= len(frame)
            self.expected[index] += frame[:size]
        for index in self.rng.sample(range(len(self.pairs)), len(self.pairs) // 2):
            self.read(index, self.rng.choice((1, 4000, 100_000)))

    def close(self) -> None:
        for pair in self.pairs:
            pair[0].close()
            pair[1].close()


def provoke(source: Any) -> None:
    """Arguments that are wrong, descriptors that are none."""
    for arguments in WRONG:
        for function in (source.write, source.write_row):
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                function(*arguments)
                raise AssertionError(f"{arguments} were taken")
    assert source.write([-1, 1 << 40, 999_999, -5], [b"x"] * 4)[0] == 0
    row = array("i", [-1, 2**31 - 1, -(2**31), 5]).tobytes()
    assert source.write_row(row, 0, 4, bytearray(3), [b"", b"x"]) == (0, [], [-1, 2**31 - 1, -(2**31), 5])


def main() -> None:
    native, deadline = load("_writing", sys.argv[1]), time.monotonic() + float(sys.argv[2])
    rng = random.Random(11)
    shared = b"a frame that all share" * 3
    before = sys.getrefcount(shared)
    rounds = 0
    while time.monotonic() < deadline:
        ring = native.Ring()
        sockets = Sockets(rng.choice((3, 40, 300)), rng)
        for _ in range(20):
            sockets.exercise(ring.write, ring.write_row)
            sockets.exercise(native.write, native.write_row)
        for source in (ring, native):
            provoke(source)
            source.write([pair[0].fileno() for pair in sockets.pairs], [shared] * len(sockets.pairs))
        if rounds % 5 == 0:
            pid = os.fork()
            if pid == 0:
                ring.write([pair[0].fileno() for pair in sockets.pairs], [shared] * len(sockets.pairs))
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        sockets.close()
        if rounds % 2:
            ring.close()
        rounds += 1
    del ring
    gc.collect()
    assert sys.getrefcount(shared) == before
    print(f"{rounds} rounds")


if __name__ == "__main__":
    main()
