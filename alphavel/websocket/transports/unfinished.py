"""Messages that have begun and not ended: how much memory they take in all, and who has to go where that is too much."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from alphavel.websocket.frames import CloseCode, Parser, ProtocolError
from alphavel.websocket.later import log_later
from alphavel.websocket.logs import about, get_logger

if TYPE_CHECKING:
    from alphavel.websocket.transports.base import Transport

logger = get_logger("alphavel.websocket")

_EACH = 512  # bytes of a parser and its buffer, besides what is in it


class Unfinished:
    """
    The connections of one reactor that hold a part of a message; the one whose message began first is the first.

    A client may take its time to send a message, and many clients that never end theirs could fill the memory. Whoever began
    first has had the most time: it has to go. Messages that come whole never come here.
    """

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: Bytes they may take together.
        """
        self.limit = limit
        self._held: dict[Transport, int] = {}
        self._total = 0

    def note(self, transport: Transport, parser: Parser) -> None:
        """Look at what a connection holds after something has come from it, and make room where it is too much."""
        size = parser.held
        before = self._held.get(transport, 0)
        if not size:
            if before:
                self.forget(transport)
            return
        self._held[transport] = size + _EACH
        self._total += size + _EACH - before
        while self._total > self.limit:
            oldest = next(iter(self._held))
            self.forget(oldest)
            if oldest.parser is not None:
                oldest.parser.give_up()
            log_later(
                logger, logging.WARNING, "Too many messages have begun and not ended; closing the one that began first",
                extra=about(oldest.connection),
            )  # fmt: skip
            oldest.give_up(ProtocolError(CloseCode.TRY_AGAIN_LATER, "too many messages that have not ended"))

    def forget(self, transport: Transport) -> None:
        """A connection has ended, or its message is whole."""
        self._total -= self._held.pop(transport, 0)

    def __len__(self) -> int:
        return len(self._held)
