"""What a sender asks of the way its pushes travel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from alphavel.websocket.protocols import Message
    from alphavel.websocket.settings import AppSettings


class Carrier(Protocol):
    """Takes pushes to the servers; blocks the calling thread until they are handed over."""

    def publish(
        self,
        app: AppSettings,
        message: Message,
        channels: Iterable[str],
        users: Iterable[str],
        everybody: bool,
        excluded: frozenset[str],
    ) -> int:
        """
        Hand a message over; the arguments are those of `Broadcaster.publish`, and the app it is for.

        Returns:
            What can be known, see the classes.

        Raises:
            BroadcastError: It could not be handed over.
        """

    def ask(self, app: AppSettings, path: str, parameters: dict[str, str]) -> dict[str, Any]:
        """
        Ask a question of the HTTP API: `GET /apps/{id}{path}`.

        Raises:
            BroadcastError: There was no answer, or questions cannot be asked this way.
        """

    def tell(self, app: AppSettings, what: str, content: dict[str, Any]) -> None:
        """
        Tell the servers to do something: `reauthorize`, `revoke`, `terminate`.

        Raises:
            BroadcastError: They could not be told.
        """
