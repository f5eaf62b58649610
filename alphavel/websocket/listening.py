"""Sockets to accept from: one for each worker of a server, all at one port, or what systemd has opened. No gevent here."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

_FIRST_FD = 3  # SD_LISTEN_FDS_START


class ListenError(Exception):
    """The address cannot be listened on."""

    @classmethod
    def of(cls, error: OSError, host: str, port: int) -> ListenError:
        """Say what the system's error means."""
        if error.errno == errno.EADDRINUSE:
            return cls(f"Port {port} of {host} is in use. Stop what uses it, or choose another with --port.")
        return cls(f"Cannot listen on {host}, port {port}: {error.strerror or error}.")


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """
    Listen for the only worker there is.

    Args:
        host, port, backlog: See `listen_for_all`.

    Raises:
        ListenError: The address is in use, or not of this machine.
    """
    try:
        listener = _bound(_family(host), host, port, shared=False)
        listener.listen(backlog)
    except OSError as error:
        raise ListenError.of(error, host, port) from error
    return listener


def listen_for_all(host: str, port: int, backlog: int, workers: int) -> list[socket.socket]:
    """
    Listen once for each worker; the kernel spreads what connects over them (SO_REUSEPORT).

    The parent keeps the sockets and each worker accepts from one, so that what waits in a backlog is not lost when a worker
    ends: the next one in its place accepts it.

    Args:
        host: Address.
        port: Port; 0: any free one.
        backlog: Connections the kernel keeps for each worker until they are accepted.
        workers: How many.

    Raises:
        ListenError: The address is in use, or not of this machine.
    """
    family = _family(host)
    listeners: list[socket.socket] = []
    try:
        # Alone at first: with SO_REUSEPORT a second server of this user would quietly get half of the clients.
        with _bound(family, host, port, shared=False) as probe:
            probe.listen(1)
            port = probe.getsockname()[1]
        for _ in range(workers):
            listeners.append(_bound(family, host, port, shared=True))
            listeners[-1].listen(backlog)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise ListenError.of(error, host, port) from error
    return listeners


def renewed(listener: socket.socket) -> socket.socket:
    """
    Return a socket at the same address that does not listen, in place of one whose worker does not come up.

    Who waits in the backlog of the old one is reset and may connect to another worker, as all do until somebody listens on the
    new one. A listener that cannot be had a second time is returned as it is.
    """
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        return listener
    host, port = listener.getsockname()[:2]
    try:
        another = _bound(listener.family, host, port, shared=True)
    except OSError:
        return listener
    listener.close()
    return another


def begin(listener: socket.socket, backlog: int) -> None:
    """Listen, where a socket that was `renewed` does not yet."""
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.listen(backlog)


def url_of(scheme: str, address: Any, path: str) -> str:
    """Return the URL of an address such as `("127.0.0.1", 9501)`, or of the path of a Unix socket."""
    if isinstance(address, str):
        return f"{scheme}+unix:{address}:{path}"
    host, port = address[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"


def inherited() -> list[socket.socket]:
    """
    Return the sockets that systemd, or who acts like it, has opened for this process: sd_listen_fds(3).

    Whoever connects while the server is started again waits for it, rather than being refused; and the server needs no right
    to a port below 1024.

    Returns:
        Sockets that listen; none where the process was started otherwise. They are given once.

    Raises:
        ListenError: What was handed over is no such socket.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    return [_listener(descriptor) for descriptor in range(_FIRST_FD, _FIRST_FD + int(count))]


def share(listeners: list[socket.socket], workers: int) -> list[socket.socket]:
    """
    Give each worker one of the sockets that were handed over: each its own where there are as many, else all the only one.

    Raises:
        ListenError: There are several, and not as many.
    """
    if len(listeners) not in (0, 1, workers):
        raise ListenError(f"{len(listeners)} sockets were handed over for {workers} workers. Hand over one, or {workers}.")
    return listeners * workers if len(listeners) == 1 else listeners


def _listener(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
        listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ListenError(f"File descriptor {descriptor}, which was handed over, is no socket: {error.strerror}.") from error
    if not listens:
        sock.detach()
        raise ListenError(f"File descriptor {descriptor}, which was handed over, is not a stream socket that listens.")
    return sock


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bound(family: socket.AddressFamily, host: str, port: int, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
