"""
A restart that keeps every socket: a new process of the same server is started with the code and the configuration of now, takes
the listening socket and the parked connections over, and goes on where the old one was; then the old one ends.

    old                                          new, a child of the old one
    starts it, gives it the listening socket  ▶  loads the configuration and the application
                                              ◀  ready, or why not: then the old one goes on
    reads no more, gives state and sockets    ▶  enters all of them, reads nothing yet
                                              ◀  taken
    lets go of them                           ▶  go: reads, accepts
    passes on what its last handlers push     ▶  publishes it

Until the word `go` the old process can take everything back; descriptors travel over a Unix socket (SCM_RIGHTS, unix(7)), and
clients notice a pause.
"""

from __future__ import annotations

VARIABLE = "ALPHAVEL_HANDOVER"
"""Environment variable with which the new process is told of its end of the pipe."""
