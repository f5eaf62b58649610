"""No protocol: the messages of a route of the application's own, as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alphavel.websocket.frames import Opcode, frame, text_frame
from alphavel.websocket.protocols.commands import Command, Custom

if TYPE_CHECKING:
    from collections.abc import Callable

    from alphavel.websocket.apps import App
    from alphavel.websocket.stats import Tally


class RawProtocol:
    """
    The protocol of one route; see `contract.Protocol`.

    Attributes:
        handler: `handler(connection, message)`, called with every message.
    """

    name = "raw"
    number = 0
    has_channels = False
    is_duplex = True
    takes_deltas = False
    ping = frame(Opcode.PING, b"")
    app: App  # the default one, set when the route is registered
    tally: Tally  # as above

    def __init__(self, path: str, handler: Callable[..., Any]) -> None:
        self.path = path
        self.handler = handler

    def decode(self, message: str | bytes) -> Command:
        """Every message is the application's."""
        return Custom(self.path, message)

    def frame_for(self, message: Any) -> bytes:
        """A text message of a `str`, a binary message of `bytes`."""
        if isinstance(message, str):
            return text_frame(message.encode())
        if isinstance(message, (bytes, bytearray, memoryview)):
            return frame(Opcode.BINARY, bytes(message))
        raise TypeError(f"On the raw route {self.path} send str or bytes; got {type(message).__name__}.")

    def connected(self, socket_id: str, now: float) -> None:
        """A raw route starts in silence."""

    def farewell(self, code: int, reason: str) -> None:
        """The close frame says it all."""

    def error(self, code: int, message: str, context: Mapping[str, Any]) -> None:
        """A raw route has no error events: what goes wrong is in the log."""
