"""What fan-out asks of every socket, in rows indexed by descriptor, so that it needs to touch no object of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alphavel.websocket.transports.base import Transport


class Descriptors:
    """
    Attributes:
        ready: Number of the protocol whose frames may be written to the descriptor as they are: it is open, nothing waits
            before them, nothing is to be done to them. 0 for all others.
        transports: Whose descriptor it is.
    """

    def __init__(self) -> None:
        self.ready = bytearray()
        self.transports: list[Transport | None] = []

    def enter(self, transport: Transport) -> None:
        """Note whose a descriptor is from now on."""
        missing = transport.fd + 1 - len(self.ready)
        if missing > 0:
            self.ready.extend(bytes(missing))
            self.transports.extend([None] * missing)
        self.transports[transport.fd] = transport

    def leave(self, transport: Transport) -> None:
        """Note that the descriptor is about to be given back."""
        if self.transports[transport.fd] is transport:
            self.ready[transport.fd] = 0
            self.transports[transport.fd] = None
