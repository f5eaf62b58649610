"""Errors of those who push, or serve."""

from __future__ import annotations

NOT_PATCHED = (
    "The WebSocket server needs gevent's monkey-patching. `alpha websocket:serve` and the gunicorn worker do it themselves; "
    "elsewhere begin the program with `from gevent import monkey; monkey.patch_all()`."
)


class NotRunningError(RuntimeError):
    """Something needs the running server, and none runs in this process."""


class BroadcastError(RuntimeError):
    """
    A process that only sends could not hand a push over. Its text says to whom, and what went wrong.

    Attributes:
        status: The HTTP status it was answered with; None where there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
