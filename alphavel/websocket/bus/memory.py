"""The bus of a fleet of one process: there is nobody else to tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alphavel.websocket.bus.contract import Receive, Route
from alphavel.websocket.bus.facts import Fact

if TYPE_CHECKING:
    from alphavel.websocket.protocols import Message


class MemoryBus:
    """See `contract.Bus`."""

    has_peers = False
    is_up = True
    dropped = 0
    buffered_bytes = 0

    def start(self, receive: Receive) -> None:
        """Do nothing: nobody publishes to this process."""

    def routes(self, app_id: str, channels: Sequence[str], users: Sequence[str], everybody: bool) -> Sequence[Route]:
        """Return none."""
        return ()

    def push(self, app_id: str, message: Message, *audience: Any) -> int:
        """Do nothing: the process that pushes it has delivered it already."""
        return 0

    def publish(self, written: bytes, to: Sequence[Any] | None = None, lasting: bool = True) -> None:
        """Do nothing: the process that published it has delivered it already."""

    def want(self, fact: Fact, is_so: bool) -> None:
        """Do nothing: nobody publishes to this process."""

    def hears(self, app_id: str, channel: str) -> bool:
        """Return True: there is nothing to hear."""
        return True

    def wait(self, app_id: str, channel: str) -> None:
        """Return at once."""

    def figures(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def drain(self, below: int, timeout: float | None) -> bool:
        """Return at once: nothing waits."""
        return True

    def stop(self, timeout: float) -> None:
        """Do nothing."""
