"""The limit of open files: each connection is one, and a process needs some more."""

from __future__ import annotations

import contextlib
import resource

SPARE_FILES = 64
"""What a process needs besides its connections: requests, logs, the sockets it listens on."""

_KEPT_FILES = 48  # of these, for all else than unfinished handshakes


def raise_file_limit(max_connections: int) -> str | None:
    """
    Raise the limit of open files as far as the system lets this process, towards what `max_connections` need.

    Returns:
        A sentence for the user where it does not suffice, else None.
    """
    needed = max_connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        reachable = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(ValueError, OSError):  # the kernel has a bound of its own, fs.nr_open
            resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
            soft = reachable
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    return (
        f"This process may open {soft} files, so it can hold about {soft - SPARE_FILES} connections, not the "
        f"{max_connections} of options.max_connections. Raise the limit to {needed} (`ulimit -n {needed}`, LimitNOFILE= in "
        f"systemd, minfds= in Supervisor) or lower max_connections."
    )


def room_for_connections(wanted: int) -> int:
    """Return how many of the connections that are wanted the limit leaves room for, at least 1."""
    return _at_most(wanted, SPARE_FILES)


def room_for_handshakes(wanted: int, connections: int) -> int:
    """Return how many unfinished handshakes the limit leaves room for beside so many connections, at least 1."""
    return _at_most(wanted, connections + _KEPT_FILES)


def _at_most(wanted: int, taken: int) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - taken))
