"""
permessage-deflate, RFC 7692: agreeing on it, deflating what we send, inflating what clients send within bounds.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from alphavel.websocket.frames.codes import CloseCode, Opcode, ProtocolError
from alphavel.websocket.frames.serialize import frame as build_frame

NAME = "permessage-deflate"
_TAIL = b"\x00\x00\xff\xff"
_DEFAULT_BITS = 15

Offer = tuple[str, Sequence[tuple[str, "str | None"]]]
"""Name of an extension and its parameters, each with its value or None."""


class Agreement(NamedTuple):
    """What both sides keep to. RFC 7692, section 7.1."""

    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int
    client_max_window_bits: int
    names_client_bits: bool  # a client that did not offer the parameter must not be answered with it

    @property
    def header(self) -> str:
        """The value of `Sec-WebSocket-Extensions` in the response."""
        words = [NAME]
        if self.server_no_context_takeover:
            words.append("server_no_context_takeover")
        if self.client_no_context_takeover:
            words.append("client_no_context_takeover")
        if self.server_max_window_bits < _DEFAULT_BITS:
            words.append(f"server_max_window_bits={self.server_max_window_bits}")
        if self.names_client_bits:
            words.append(f"client_max_window_bits={self.client_max_window_bits}")
        return "; ".join(words)


def negotiate(
    offers: Iterable[Offer], *, context_takeover: bool, server_max_window_bits: int, client_max_window_bits: int
) -> Agreement | None:
    """
    Accept the first offer that can be accepted.

    Args:
        offers: The client's extensions, in its order of preference.
        context_takeover: Whether we want to keep dictionaries between messages.
        server_max_window_bits: Largest window we use, 9 to 15.
        client_max_window_bits: Largest window we ask the client for, 9 to 15.

    Returns:
        The agreement; None where no offer is acceptable.

    RFC 7692, sections 5 and 7.1.
    """
    for name, parameters in offers:
        offered = dict(parameters)
        if name != NAME or len(offered) != len(parameters) or not _is_valid(offered):
            continue
        server_bits = min(int(offered.get("server_max_window_bits") or _DEFAULT_BITS), server_max_window_bits)
        if server_bits < 9:  # zlib cannot deflate with a window of 256 bytes
            continue
        names_client_bits = "client_max_window_bits" in offered
        client_bits = min(int(offered.get("client_max_window_bits") or _DEFAULT_BITS), client_max_window_bits)
        return Agreement(
            not context_takeover or "server_no_context_takeover" in offered,
            not context_takeover or "client_no_context_takeover" in offered,
            server_bits,
            client_bits if names_client_bits else _DEFAULT_BITS,
            names_client_bits,
        )
    return None


def _is_valid(parameters: dict[str, str | None]) -> bool:
    for name, value in parameters.items():
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return False
        elif name in ("server_max_window_bits", "client_max_window_bits"):
            if value is None and name == "client_max_window_bits":
                continue
            if value not in ("8", "9", "10", "11", "12", "13", "14", "15"):
                return False
        else:
            return False
    return True


class Deflate:
    """
    The compression of one connection.

    Attributes:
        shared_key: Equal for connections whose compressed frames are equal; None where each has a dictionary of its own.
    """

    __slots__ = ("_agreement", "_compressor", "_inflater", "_level", "_restarted", "_threshold", "shared_key")

    def __init__(self, agreement: Agreement, level: int = 1, threshold: int = 0) -> None:
        """
        Args:
            agreement: What the handshake agreed on.
            level: zlib's effort, 1 to 9.
            threshold: Payloads of fewer bytes are sent as they are.
        """
        self._agreement = agreement
        self._level = level
        self._threshold = threshold
        self._compressor = None if agreement.server_no_context_takeover else self._new_compressor()
        self._inflater = self._new_inflater()
        self._restarted = False
        self.shared_key = (level, agreement.server_max_window_bits) if self._compressor is None else None

    def compress_frame(self, frame: bytes) -> bytes:
        """Return the compressed form of one of our frames; control frames and short ones as they are."""
        code = frame[1]
        payload = frame[2:] if code < 126 else frame[4:] if code == 126 else frame[10:]
        opcode = Opcode(frame[0] & 0x0F)
        if opcode >= Opcode.CLOSE or len(payload) < self._threshold:
            return frame
        compressor = self._compressor or self._new_compressor()
        deflated = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return build_frame(opcode, deflated[: -len(_TAIL)], rsv1=True)

    def inflate(self, data: bytes, limit: int) -> bytes:
        """
        Inflate a piece of a message.

        Args:
            data: What came, unmasked.
            limit: How many bytes may come of it.

        Raises:
            ProtocolError: 1009 past the limit, however much more there would be; 1007 for what is no deflated data.
        """
        try:
            inflated = self._inflater.decompress(data, limit + 1)
            if self._inflater.eof:
                inflated += self._go_on(limit + 1 - len(inflated))
        except zlib.error:
            raise ProtocolError(CloseCode.INVALID_DATA, "not deflated data") from None
        if len(inflated) > limit or self._inflater.unconsumed_tail:
            raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, "a message is too large once inflated")
        return inflated

    def end_of_message(self, limit: int) -> bytes:
        """Inflate what the end of a message gives. Raises ProtocolError as `inflate` does. RFC 7692, section 7.2.2."""
        inflated = self.inflate(_TAIL, limit)
        if self._agreement.client_no_context_takeover or self._inflater.eof:
            self._inflater = self._new_inflater()
        self._restarted = False
        return inflated

    def _go_on(self, limit: int) -> bytes:
        # A block may say it is the last, section 7.2.3.4; the message may go on after it. Once: a message of nothing
        # but last blocks would have us set up an inflater for every two bytes.
        rest = self._inflater.unused_data
        if not rest:
            return b""
        if self._restarted:
            raise ProtocolError(CloseCode.INVALID_DATA, "deflated data after its end")
        self._restarted = True
        self._inflater = self._new_inflater()
        return self._inflater.decompress(rest, max(1, limit))

    def _new_compressor(self) -> zlib._Compress:
        bits = self._agreement.server_max_window_bits
        return zlib.compressobj(self._level, zlib.DEFLATED, -bits, memLevel=min(8, bits - 7))

    def _new_inflater(self) -> zlib._Decompress:
        return zlib.decompressobj(-self._agreement.client_max_window_bits)
