"""
Telling systemd, or whoever set NOTIFY_SOCKET, how this process is: sd_notify(3). Does nothing where nobody asked. No gevent
here: a datagram to a Unix socket takes a system call.

Where the listener has not read what it was told before, and the kernel's short queue is full, beats are dropped; what is said
once waits for a moment, as a service whose main process is not known any more would be taken for ended.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

_PATIENCE_S = 2.0


def ready() -> None:
    """It accepts, for the first time or again after `reloading`."""
    _tell("READY=1")


def reloading() -> None:
    """It reads its configuration anew; `ready` follows."""
    _tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def main_pid(pid: int) -> None:
    """Another process is the service's main one from now on."""
    _tell(f"MAINPID={pid}")


def stopping() -> None:
    """It hands its clients over, then ends."""
    _tell("STOPPING=1")


def alive() -> None:
    """It still gets its turns; to be said every `watchdog_interval`."""
    _tell("WATCHDOG=1", patience_s=0.0)


def watchdog_interval() -> float | None:
    """Seconds between two `alive`: half of the time after which systemd takes this process for hung. None: nobody waits."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not os.environ.get("NOTIFY_SOCKET") or not text.isdecimal() or pid != str(os.getpid()) or int(text) == 0:
        return None
    os.environ.pop("WATCHDOG_PID", None)  # a process that takes this one's place is waited for as well
    return int(text) / 2_000_000


def leave() -> None:
    """In a process that was forked: how the service is, is its parent's to say."""
    os.environ.pop("NOTIFY_SOCKET", None)


def _tell(*lines: str, patience_s: float = _PATIENCE_S) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # Linux's abstract names begin with a zero byte
        address = f"\0{address[1:]}"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(patience_s)
        sock.sendto("\n".join(lines).encode(), address)
