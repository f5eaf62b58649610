"""What the three writers have in common, and what only the ring can get wrong."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import resource
import socket
import sys
from array import array

import pytest
from gevent.monkey import get_original

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket.transports.writing import open_writer
from tests.support import run
from tests.websocket.conftest import exercise_under_sanitizers, skip_without_io_uring

start_thread = get_original("_thread", "start_new_thread")


@pytest.fixture
def opened(writer):
    """A writer of each kind."""
    made = open_writer(writer)
    assert made.name == writer
    yield made
    made.close()


@pytest.fixture
def ring():
    skip_without_io_uring()
    made = open_writer("io_uring")
    yield made
    made.close()


@pytest.fixture
def pairs():
    """`pairs(count)` connects as many pairs of sockets, the writing one not blocking."""
    with contextlib.ExitStack() as stack:

        def connect(count: int) -> list[tuple[socket.socket, socket.socket]]:
            made = [socket.socketpair() for _ in range(count)]
            for pair in made:
                stack.enter_context(pair[0])
                stack.enter_context(pair[1])
                pair[0].setblocking(False)
            return made

        yield connect


def fill(sock):
    """Write until the kernel takes no more; return how much it took."""
    taken = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            taken += os.write(sock.fileno(), b"x" * 1000)
    return taken


def row(socks):
    return array("i", [sock.fileno() for sock in socks]).tobytes()


def ready_for(socks, number=1):
    ready = bytearray(max(sock.fileno() for sock in socks) + 1)
    for sock in socks:
        ready[sock.fileno()] = number
    return ready


@pytest.mark.parametrize("count", [0, 1, 3, 4, 128, 129, 300])
def test_each_descriptor_gets_its_own_frame(opened, pairs, count):
    made = pairs(count)
    frames = [b"%d" % number * (1 + number % 7) for number in range(count)]
    assert opened.write([pair[0].fileno() for pair in made], frames) == (sum(map(len, frames)), [])
    assert [pair[1].recv(1000) for pair in made] == frames


@pytest.mark.parametrize("count", [1, 3, 4, 128, 129, 300])
def test_a_row_gets_the_frames_of_its_protocols_and_names_those_without_one(opened, pairs, count):
    socks = [pair[0] for pair in pairs(count)]
    ready = bytearray(max(sock.fileno() for sock in socks) + 1)
    for number, sock in enumerate(socks):
        ready[sock.fileno()] = number % 4
    frames = [b"", b"one", b"second", b""]
    written, rest, behind = opened.write_row(row(socks), 0, count, ready, frames)
    assert (written, rest) == (sum(len(frames[number % 4]) for number in range(count)), [])
    assert behind == [sock.fileno() for number, sock in enumerate(socks) if number % 4 in (0, 3)]


def test_a_part_of_a_row(opened, pairs):
    made = pairs(40)
    socks = [pair[0] for pair in made]
    assert opened.write_row(row(socks), 10, 30, ready_for(socks), [b"", b"x"]) == (20, [], [])
    for number, (_, reader) in enumerate(made):
        reader.setblocking(False)
        if 10 <= number < 30:
            assert reader.recv(10) == b"x"
        else:
            with pytest.raises(BlockingIOError):
                reader.recv(10)


def test_one_that_is_full_or_gone_does_not_keep_the_others(opened, pairs):
    made = pairs(200)
    socks = [pair[0] for pair in made]
    fds = [sock.fileno() for sock in socks]
    fill(socks[7])
    for number in (50, 190):
        made[number][1].close()
    frame = b"y" * 100
    written, rest = opened.write(fds, [frame] * 200)
    assert rest == [(7, 0), (50, -errno.EPIPE), (190, -errno.EPIPE)]
    assert written == 197 * 100
    written, rest, behind = opened.write_row(row(socks), 0, 200, ready_for(socks), [b"", frame])
    assert rest == [(fds[7], 0), (fds[50], -errno.EPIPE), (fds[190], -errno.EPIPE)]
    assert (written, behind) == (197 * 100, [])
    assert made[8][1].recv(1000) == frame * 2


def test_a_frame_that_fits_in_part_says_how_much_went_out(opened, pairs):
    made = pairs(8)
    big = os.urandom(4 << 20)
    written, rest = opened.write([made[number][0].fileno() for number in range(8)], [b"small"] * 4 + [big] * 4)
    assert [position for position, _ in rest] == [4, 5, 6, 7]
    assert all(0 < size < len(big) for _, size in rest)
    assert written == 20 + sum(size for _, size in rest)
    _, reader = made[4]
    size, received = rest[0][1], b""
    while len(received) < size:
        received += reader.recv(1 << 20)
    assert received == big[:size]


def test_a_reset_by_the_peer_is_an_error_of_that_one(opened):
    with socket.create_server(("127.0.0.1", 0)) as server:
        peers = [socket.create_connection(server.getsockname()) for _ in range(6)]
        ours = [server.accept()[0] for _ in range(6)]
        peers[2].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peers[2].close()
        _, rest = opened.write([sock.fileno() for sock in ours], [b"x"] * 6)
        assert rest in ([(2, -errno.ECONNRESET)], [(2, -errno.EPIPE)])
        for sock in peers + ours:
            sock.close()


def test_a_descriptor_that_is_none_is_an_error_of_that_one(opened, pairs):
    made = pairs(5)
    fds = [pair[0].fileno() for pair in made]
    assert opened.write([*fds, 1_000_000, -1], [b"x"] * 7) == (5, [(5, -errno.EBADF), (6, -errno.EBADF)])


def test_the_same_bytes_in_the_same_order_whatever_happens(opened, pairs):
    """Sockets that are full, half read, and written to again: nothing is lost, doubled or swapped."""
    rng = random.Random(7)
    made = pairs(60)
    for writing, reading in made:
        writing.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        reading.setblocking(False)
    sent, received = [b""] * 60, [b""] * 60
    for _ in range(150):
        chosen = rng.sample(range(60), rng.randint(1, 60))
        frames = [rng.randbytes(rng.choice((1, 60, 700, 9000))) for _ in chosen]
        _, rest = opened.write([made[index][0].fileno() for index in chosen], frames)
        short = dict(rest)
        for position, index in enumerate(chosen):
            size = short.get(position, len(frames[position]))
            assert size >= 0
            sent[index] += frames[position][:size]
        for index in rng.sample(range(60), 20):
            with contextlib.suppress(BlockingIOError):
                received[index] += made[index][1].recv(rng.choice((10, 5000, 50000)))
    for index, (_, reader) in enumerate(made):
        with contextlib.suppress(BlockingIOError):
            while piece := reader.recv(1 << 20):
                received[index] += piece
    assert received == sent


@pytest.mark.parametrize("writer", ["io_uring", "send"], indirect=True)
@pytest.mark.parametrize(
    "arguments",
    [([1], []), ((1,), [b"x"]), ([1], ["text"]), (["1"], [b"x"]), ([1 << 80], [b"x"]), ([1], None), ()],
)
def test_wrong_arguments_are_errors(opened, arguments):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        opened.write(*arguments)


@pytest.mark.parametrize("writer", ["io_uring", "send"], indirect=True)
@pytest.mark.parametrize(
    "arguments",
    [
        *[(b"", 0, 1, bytearray(), []), (b"\0" * 8, 1, 3, bytearray(), []), (b"\0" * 8, 2, 1, bytearray(), [])],
        *[(b"\0" * 8, -1, 1, bytearray(), []), (b"", 0, 0, bytearray(), [b""] * 257), (b"", 0, 0, bytearray(), [None])],
    ],
)
def test_wrong_rows_are_errors(opened, arguments):
    with pytest.raises((TypeError, ValueError)):
        opened.write_row(*arguments)


def rings() -> list[int]:
    """Descriptors of this process's rings."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[io_uring]":
                found.append(int(name))
    return found


def test_a_ring_is_closed_with_its_writer_and_writing_goes_on(pairs):
    skip_without_io_uring()
    before = rings()
    ring = open_writer("io_uring")
    (fd,) = set(rings()) - set(before)
    assert not os.get_inheritable(fd), "programs that are started must not get it"
    ring.close()
    ring.close()
    assert rings() == before
    assert ring.write([pair[0].fileno() for pair in pairs(9)], [b"x"] * 9) == (9, [])
    open_writer("io_uring")  # given back with the object, too
    assert rings() == before


def test_a_server_gives_its_ring_back(serve):
    skip_without_io_uring()
    before = rings()
    server = serve(writer="io_uring")
    assert len(rings()) == len(before) + 1
    assert server.get_stats()["writer"] == "io_uring"
    server.stop(timeout=0.1)
    assert rings() == before


def test_a_child_of_fork_writes_without_the_ring_of_its_parent(ring, pairs):
    made = pairs(10)
    pid = os.fork()
    if pid == 0:
        result = ring.write([pair[0].fileno() for pair in made], [b"child"] * 10)
        os._exit(0 if result == (50, []) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ring.write([pair[0].fileno() for pair in made], [b"parent"] * 10) == (60, [])
    assert {pair[1].recv(100) for pair in made} == {b"childparent"}


def test_a_child_of_fork_that_closes_the_ring_of_its_parent_loses_no_memory_of_its_own(ring):
    pid = os.fork()
    if pid == 0:
        own = [mmap.mmap(-1, 8192) for _ in range(64)]  # some of them where the ring's pages are not, in a child
        ring.close()
        for pages in own:
            pages[:] = b"x" * 8192
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_another_thread_writes_without_the_ring_too(ring, pairs):
    made, results = pairs(10), []
    done = get_original("threading", "Event")()

    def work():
        results.append(ring.write([pair[0].fileno() for pair in made], [b"x"] * 10))
        done.set()

    start_thread(work, ())
    assert done.wait(10)
    assert results == [(10, [])]


def test_auto_takes_what_there_is_and_says_why_it_is_not_more():
    """No descriptor is left for a ring: this fails as a kernel without io_uring does."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    get_original("os", "close")(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        writer = open_writer("auto")
        with pytest.raises(ConfigurationError, match=r"broadcasting\.writer is io_uring, but .*Too many open files"):
            open_writer("io_uring")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert writer.name == "send"
    assert str(writer) == "send (no io_uring: [Errno 24] Too many open files)"


def test_where_io_uring_is_forbidden_c_sends():
    """As in most containers: a seccomp filter answers EPERM."""
    skip_without_io_uring()
    done = run(sys.executable, "-c", FORBID + "print(open_writer('auto'))\nopen_writer('io_uring')")
    assert done.stdout.startswith("send (no io_uring: the system forbids it"), done.stdout + done.stderr
    assert "ConfigurationError: broadcasting.writer is io_uring, but the system forbids it" in done.stderr


def test_where_the_extension_is_missing_python_writes():
    code = "import sys; sys.modules['alphavel.websocket.transports._writing'] = None\n" + IMPORT
    done = run(sys.executable, "-c", code + "print(open_writer('auto'), open_writer('python'))\nopen_writer('send')")
    assert done.stdout == "python (no C extension) python\n", done.stderr
    assert "its C extension was not built" in done.stderr


def test_the_extension_under_sanitizers(tmp_path):
    exercise_under_sanitizers("writing", tmp_path)


IMPORT = "from gevent import monkey; monkey.patch_all()\nfrom alphavel.websocket.transports.writing import open_writer\n"
FORBID = (
    IMPORT
    + """
import ctypes, struct
code = struct.pack("HBBI" * 4,
    0x20, 0, 0, 0,             # load the number of the system call
    0x15, 0, 1, 425,           # io_uring_setup?
    0x06, 0, 0, 0x00050001,    # EPERM
    0x06, 0, 0, 0x7FFF0000)    # else allowed
buffer = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxQ", 4, ctypes.addressof(buffer))
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0
assert prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0
"""
)
