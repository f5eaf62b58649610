"""
Server-Sent Events: Alphavel's own events for clients that cannot have a WebSocket. They are subscribed by the address they
asked for, and say nothing afterwards.

WHATWG HTML, section 9.2, "Server-sent events".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alphavel.websocket.protocols.alphavel import AlphavelProtocol

if TYPE_CHECKING:
    from alphavel.websocket.channels import Kept
    from alphavel.websocket.channels.positions import EventId

RETRY_MS = 1000


class EventStreamProtocol(AlphavelProtocol):
    """See `contract.Protocol`; its frames are events of a stream: `id: …` where a message is kept, and `data: …`."""

    name = "event_stream"
    number = 3
    is_duplex = False
    ping = b":\n\n"

    def farewell(self, code: int, reason: str) -> bytes:
        """`{"event":"closed","code":4200,"message":"…"}`: what a close frame would say."""
        return self._frame({"event": "closed", "code": code, "message": reason})

    def event_id(self, event_id: EventId) -> bytes:
        """Have a client remember a place without being told anything."""
        return b"id: %s\n\n" % str(event_id).encode()

    def _framed(self, json: bytes, kept: Kept | None) -> bytes:
        # JSON holds no line break: one line is all that it takes.
        if kept is None:
            return b"data: %s\n\n" % json
        return b"id: %s\ndata: %s\n\n" % (str(kept.event_id).encode(), json)
