"""The new process: takes over where another one was, and goes on."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Any

import gevent

from alphavel.websocket.bus.envelope import EnvelopeError
from alphavel.websocket.bus.pushes import read_push
from alphavel.websocket.handover import VARIABLE
from alphavel.websocket.handover.pipe import HandoverError, Pipe
from alphavel.websocket.handover.snapshot import Entering

if TYPE_CHECKING:
    from alphavel.websocket.server import WebSocketServer

logger = logging.getLogger("alphavel.websocket")


class Taking:
    """
    What another process is about to hand over.

    Attributes:
        listener: Where to accept.
    """

    def __init__(self, pipe: Pipe) -> None:
        """
        Raises:
            HandoverError: The other process does not hand over.
        """
        self._pipe = pipe
        _, fds = pipe.expect("listener")
        self.listener = socket.socket(fileno=fds[0])

    @classmethod
    def from_environment(cls) -> Taking:
        """Return what is to be taken over by this process, which was started for that."""
        return cls(Pipe.of_descriptor(int(os.environ.pop(VARIABLE))))

    def failed(self, text: str) -> None:
        """Say that this process cannot take over, and why."""
        self._pipe.send("failed", text)

    def take(self, server: WebSocketServer) -> None:
        """
        Take over, and start the server. Blocks the calling greenlet until the other process has let go.

        Raises:
            HandoverError: The other process goes on by itself.
        """
        server.prepare()
        self._pipe.send("ready")
        entering = Entering(server)
        while True:
            kind, content, fds = self._pipe.receive()
            if kind == "all":
                break
            _enter(server, entering, kind, content, fds)
        self._pipe.send("taken")
        self._pipe.expect("go")
        entering.go()
        server.start()
        gevent.spawn(self._take_pushes, server)

    def serving(self) -> None:
        """Say that this process accepts, and answers commands."""
        self._pipe.send("serving")

    def _take_pushes(self, server: WebSocketServer) -> None:
        """Publish what the other process's last handlers push, until it has ended."""
        while True:
            try:
                content, _ = self._pipe.expect("push")
                push = read_push(content)
                app = server.apps.get(push.app)
                if app is not None:
                    app.publish(push.message, push.channels, push.users, push.everybody, push.excluded)
            except HandoverError:
                self._pipe.close()
                return
            except (EnvelopeError, ValueError):
                logger.exception("A message of the process before this one cannot be published")


def _enter(server: WebSocketServer, entering: Entering, kind: str, content: Any, fds: list[int]) -> None:
    if kind == "app":
        entering.state(content)
    elif kind == "history":
        entering.history(*content)
    elif kind == "revocations":
        for jti, left in content:
            server.reauthorization.revocations.add(jti, left)
    elif kind == "connections":
        for each, fd in zip(content, fds, strict=True):
            entering.connection(each, fd)
    else:
        raise HandoverError(f"The other process said {kind!r}, which this one does not know.")
