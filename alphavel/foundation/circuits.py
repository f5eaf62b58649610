"""
The circuits of an application, for whoever shows and operates them: a breaker package binds something with these methods to
`circuits`, and who uses it need not know the package.
"""

from __future__ import annotations

from typing import Any, Protocol

BINDING = "circuits"
ACTIONS = ("open", "close", "isolate", "disable", "reset")


class UnreachableError(Exception):
    """Nothing, or not everything, could be reached; the text says what."""


class Circuits(Protocol):
    """
    Attributes:
        store: Name of the store.
    """

    store: str

    def stats(self, service: str | None) -> dict[str, dict[str, Any]]:
        """Return stats by service; of one service with its `explanation`. Raises UnreachableError."""

    def act(self, action: str, service: str | None) -> dict[str, list[str]]:
        """Do one of `ACTIONS`; return the states before and after by service. Raises UnreachableError."""
