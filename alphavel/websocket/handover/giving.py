"""The old process: starts the new one, gives it everything, and ends; or takes everything back."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from alphavel.websocket import notify
from alphavel.websocket.bus.pushes import push_content
from alphavel.websocket.handover import VARIABLE
from alphavel.websocket.handover.pipe import MAX_FDS, HandoverError, Pipe
from alphavel.websocket.handover.snapshot import Moving, move_all, state_of, transcripts_of

if TYPE_CHECKING:
    from alphavel.websocket.protocols import Message
    from alphavel.websocket.serve import Service
    from alphavel.websocket.settings import AppSettings
    from alphavel.websocket.transports import Reactor

logger = logging.getLogger("alphavel.websocket")

_START_S = 120.0
_TAKE_S = 10.0
_BATCH = 200  # connections in a packet


class Successor:
    """
    The new process, to those in this one who still push. What they push until it has taken over waits.

    See `senders.contract.Carrier`.
    """

    def __init__(self, pipe: Pipe, reactor: Reactor) -> None:
        self.pushes: deque[tuple[AppSettings, Message, tuple[Any, ...]]] = deque()
        self._pipe = pipe
        self._reactor = reactor
        self._wake = Event()
        self._is_over = False
        self._sending: gevent.Greenlet | None = None

    def publish(self, app: AppSettings, message: Message, *audience: Any) -> int:
        """Have a message handed over, from whatever thread this is. Returns 0: for how many it is, the other process knows."""
        self.pushes.append((app, message, audience))
        if self._sending is not None:
            self._reactor.call(self._wake.set)
        return 0

    def has_taken(self) -> None:
        """Hand over what waits, and from now on what comes."""
        self._sending = gevent.spawn(self._send_all)

    def finish(self, timeout: float) -> None:
        """Hand over the last, for so many seconds at most."""
        self._is_over = True
        self._wake.set()
        if self._sending is not None:
            self._sending.join(timeout)

    def _send_all(self) -> None:
        while True:
            self._wake.clear()
            while self.pushes:
                self._send(*self.pushes.popleft())
            if self._is_over:
                return
            self._wake.wait()

    def _send(self, app: AppSettings, message: Message, audience: tuple[Any, ...]) -> None:
        try:
            self._pipe.send("push", push_content(str(app.id), message, *audience))
        except HandoverError as error:
            logger.error("A message is lost, because the new process cannot be reached: %s", error)


def hand_over(service: Service, release: Callable[[], None], hold: Callable[[], None]) -> dict[str, Any]:
    """
    Start a new process and hand everything over to it. Blocks the calling greenlet; clients are served until the new process
    is ready.

    Args:
        service: What runs in this process; to be stopped afterwards.
        release: Gives back what only one process can have, such as the pid file.
        hold: Takes that back.

    Returns:
        `{"pid": …, "connections": …, "left": …}`: the new process, how many connections it has, and how many it could not be
        given, which are asked to connect again.

    Raises:
        HandoverError: The new process did not come up, or did not take over; this one goes on as if nothing had been.
    """
    _check(service)
    pipe, theirs = Pipe.pair()
    try:
        process = _start(theirs)
    except HandoverError as error:
        pipe.close()
        logger.error("No new process takes over, and this one goes on: %s", error)
        raise
    logger.info("Process %d is started to take over", process.pid)
    notify.reloading()
    try:
        pipe.settimeout(_START_S)
        pipe.send("listener", None, [service.http.socket.fileno()])
        pipe.expect("ready")
        moved = _give(service, pipe)
    except BaseException as error:
        process.kill()
        process.wait()
        pipe.close()
        notify.ready()
        if isinstance(error, HandoverError):
            logger.error("The new process did not take over, and this one goes on: %s", error)
        raise
    has_word = False
    try:
        release()
        notify.main_pid(process.pid)
        pipe.send("go")
        has_word = True
        for moving in moved:
            moving.connection.transport.let_go()
            moving.connection.app.connections.remove(moving.connection)
        successor = service.server.relay.successor
        assert successor is not None
        pipe.expect("serving")
        successor.has_taken()
    except BaseException as error:
        process.kill()
        process.wait()
        pipe.close()
        if has_word:  # who had moved is gone with it, and comes back to this one
            _serve_again(service)
        else:
            _take_back(service, moved)
        hold()
        notify.main_pid(os.getpid())
        logger.error("The new process ended when it had taken over, and this one serves again: %s", error)
        raise
    left = sum(len(app.connections.connections) for app in service.server.apps)
    logger.info("Process %d has taken over %d connections; %d are asked to connect again", process.pid, len(moved), left)
    return {"pid": process.pid, "connections": len(moved), "left": left}


def _check(service: Service) -> None:
    server = service.server
    if server.relay.bus.has_peers:
        raise HandoverError(
            "This server shares its channels with others over Redis, which a process cannot take over in one piece. Restart "
            "it: its clients are asked to connect again."
        )


def _start(theirs: Any) -> subprocess.Popen[bytes]:
    with theirs:
        environment = {**os.environ, VARIABLE: str(theirs.fileno())}
        # Its standard streams are ours: what it has to say stands in the same log.
        try:
            return subprocess.Popen(sys.orig_argv, executable=sys.executable, env=environment, pass_fds=[theirs.fileno()])  # noqa: S603
        except OSError as error:  # no memory, or the Python that this process runs on has been removed meanwhile
            raise HandoverError(f"A new process cannot be started: {error}.") from error


def _give(service: Service, pipe: Pipe) -> list[Moving]:
    """Give state and sockets; where that fails, everything is as it was."""
    server = service.server
    pipe.settimeout(_TAKE_S)
    service.http.stop_accepting()
    server.timers.stop()
    server.relay.successor = Successor(pipe, server.reactor)
    # From here nothing is read, and nothing is written by this process, so that what is sent below stays true.
    moved = move_all(server)
    try:
        for packet in _packets(service, moved):
            pipe.send(*packet)
        pipe.send("all")
        pipe.expect("taken")
    except BaseException:
        _take_back(service, moved)
        raise
    return moved


def _packets(service: Service, moved: list[Moving]) -> Iterator[tuple[str, Any, list[int]]]:
    server = service.server
    for app in server.apps:
        yield "app", state_of(app), []
        for content in transcripts_of(app):
            yield "history", [app.id, content], []
    yield "revocations", list(server.reauthorization.revocations.left()), []
    for batch in _batches(moved):
        yield "connections", [moving.content for moving in batch], [moving.connection.transport.fd for moving in batch]


def _batches(moved: list[Moving]) -> Iterator[list[Moving]]:
    assert _BATCH <= MAX_FDS
    rest = iter(moved)
    while batch := list(itertools.islice(rest, _BATCH)):
        yield batch


def _take_back(service: Service, moved: list[Moving]) -> None:
    for moving in moved:
        moving.connection.transport.stay(moving.waiting)
    for moving in moved:
        moving.connection.transport.start()
    _serve_again(service)


def _serve_again(service: Service) -> None:
    server = service.server
    successor, server.relay.successor = server.relay.successor, None
    if successor is not None:
        for app, message, audience in successor.pushes:
            known = server.apps.get(app.id)
            if known is not None:
                known.publish(message, *audience)
    server.timers.start()
    service.http.start_accepting()
    gevent.sleep(0)
