"""Packets with descriptors over a Unix socket, between the two processes."""

from __future__ import annotations

import array
import os
import socket
from typing import Any

import orjson

MAX_FDS = 250
"""Descriptors in one packet: the kernel takes 253 (SCM_MAX_FD)."""
_MAX_PIECE = 64 * 1024
_MORE, _LAST = b"+", b"."


class HandoverError(Exception):
    """The other process did not do its part; the text is for people."""


class Pipe:
    """One end of a pair; of gevent's sockets, so that waiting keeps nobody else waiting."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @staticmethod
    def pair() -> tuple[Pipe, socket.socket]:
        """Return one end, and the other as a socket for the child to inherit."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Pipe(ours), theirs

    @staticmethod
    def of_descriptor(fd: int) -> Pipe:
        """Take the end that this process has inherited."""
        os.set_inheritable(fd, False)
        return Pipe(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=fd))

    def settimeout(self, seconds: float | None) -> None:
        """Let nothing here wait longer than so many seconds for the other process."""
        self._sock.settimeout(seconds)

    def send(self, kind: str, content: Any = None, fds: list[int] | None = None) -> None:
        """
        Send a packet.

        Args:
            kind: What it is.
            content: Anything JSON can hold.
            fds: At most `MAX_FDS` descriptors; the other process gets copies.

        Raises:
            HandoverError: The other process is gone, or does not read in time.
        """
        data = orjson.dumps([kind, content])
        try:
            for start in range(0, len(data), _MAX_PIECE):
                piece, is_last = data[start : start + _MAX_PIECE], start + _MAX_PIECE >= len(data)
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds and is_last else []
                self._sock.sendmsg([_LAST if is_last else _MORE, piece], rights)
        except OSError as error:
            raise HandoverError(f"The other process cannot be reached: {error}.") from error

    def receive(self) -> tuple[str, Any, list[int]]:
        """
        Receive a packet.

        Returns:
            Its kind, its content, and descriptors, which are the caller's.

        Raises:
            HandoverError: The other process has ended, or says nothing in time.
        """
        pieces, fds = [], array.array("i")
        room = socket.CMSG_SPACE(MAX_FDS * fds.itemsize)
        try:
            while True:
                piece, ancillary, _, _ = self._sock.recvmsg(_MAX_PIECE + 1, room, socket.MSG_CMSG_CLOEXEC)
                if not piece:
                    raise HandoverError("The other process has ended.")
                for level, kind, data in ancillary:
                    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                pieces.append(piece[1:])
                if piece[:1] == _LAST:
                    break
        except TimeoutError as error:
            raise HandoverError("The other process did not answer in time.") from error
        except OSError as error:
            raise HandoverError(f"The other process cannot be reached: {error}.") from error
        name, content = orjson.loads(b"".join(pieces))
        return name, content, list(fds)

    def expect(self, kind: str) -> tuple[Any, list[int]]:
        """Receive a packet of a kind. Raises HandoverError, also with what a packet `failed` says."""
        name, content, fds = self.receive()
        if name == "failed":
            raise HandoverError(str(content))
        if name != kind:
            raise HandoverError(f"The other process said {name!r}; expected {kind!r}.")
        return content, fds

    def close(self) -> None:
        """Let go of it; what was sent arrives."""
        self._sock.close()
