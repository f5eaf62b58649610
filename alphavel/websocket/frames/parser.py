"""
From bytes to messages.

A frame that came whole, which is nearly every frame, takes a short path. Of a larger one the payload is unmasked,
inflated and checked as it comes, so that a bad byte is noticed before the rest has arrived, and no byte is looked at
twice however small the pieces are.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, Union

from alphavel.websocket.frames.codes import Close, CloseCode, Opcode, ProtocolError, may_be_sent
from alphavel.websocket.frames.serialize import apply_mask

if TYPE_CHECKING:
    from alphavel.websocket.frames.deflate import Deflate

Event = Union[tuple[Opcode, Any], ProtocolError]
"""`(TEXT, str)`, `(BINARY, bytes)`, `(PING, bytes)`, `(PONG, bytes)`, `(CLOSE, Close)`, or the violation that ends it."""

_FIN = 0x80
_RSV1 = 0x40
_RSV2_3 = 0x30
_MASKED = 0x80
_MAX_CONTROL_PAYLOAD = 125
_CONTROL = 0x8
_MIN_FRAGMENTS = 1024
_BYTES_PER_FRAGMENT = 16
_OPCODES = {int(opcode): opcode for opcode in Opcode}
_WHOLE_MESSAGES = {_FIN | opcode: opcode for opcode in (Opcode.TEXT, Opcode.BINARY)}

_new_utf8_check = codecs.getincrementaldecoder("utf-8")


class Parser:
    """
    Parses what one client sends. Sans-I/O.

    Its own bounds: it holds at most one message of `max_message_bytes` and one unfinished header or control frame.
    """

    __slots__ = (
        "_deflate", "_fragments", "_held", "_inflating", "_last", "_left", "_mask", "_max", "_message", "_opcode", "_over",
        "_utf8",
    )  # fmt: skip

    def __init__(self, max_message_bytes: int, deflate: Deflate | None = None) -> None:
        """
        Args:
            max_message_bytes: Largest message, inflated; a larger one is a violation, 1009. Of fragments it may have
                1,024 and one for every 16 of these bytes.
            deflate: permessage-deflate as agreed in the handshake; without it RSV1 is a violation.
        """
        self._max = max_message_bytes
        self._deflate = deflate
        self._held = b""  # an unfinished header or control frame
        self._opcode: Opcode | None = None  # of the message that has begun
        self._message = bytearray()  # what it has so far, unmasked and inflated
        self._fragments = 0  # frames of it so far
        self._utf8: codecs.IncrementalDecoder | None = None
        self._inflating = False
        self._left = 0  # payload bytes of the current frame that have not come yet
        self._mask = b""  # its mask, turned to where the payload goes on
        self._last = False  # whether the current frame ends the message
        self._over = False

    @property
    def idle(self) -> bool:
        """Whether it holds nothing of its connection, so that it could serve another one."""
        return self._opcode is None and not self._held and self._deflate is None and not self._over

    @property
    def held(self) -> int:
        """Bytes of a message, frame or header that has begun."""
        return len(self._message) + len(self._held)

    def give_up(self) -> None:
        """Let go of what it holds, and ignore what comes."""
        self._over = True
        self._message, self._held, self._left = bytearray(), b"", 0

    def suspended(self) -> dict[str, Any]:
        """
        Return what it holds of a message that has begun, for a parser of another process to go on with: see `resume`. Not for
        one that inflates: zlib's state cannot be taken along.
        """
        assert self._deflate is None
        return {
            "held": self._held.decode("latin-1"), "opcode": None if self._opcode is None else int(self._opcode),
            "message": self._message.decode("latin-1"), "fragments": self._fragments, "left": self._left,
            "mask": self._mask.decode("latin-1"), "last": self._last,
        }  # fmt: skip

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where another one was suspended. For one that has parsed nothing yet."""
        self._held, self._mask = state["held"].encode("latin-1"), state["mask"].encode("latin-1")
        self._fragments, self._left, self._last = state["fragments"], state["left"], state["last"]
        if state["opcode"] is not None:
            self._opcode = _OPCODES[state["opcode"]]
            self._utf8 = _new_utf8_check() if self._opcode is Opcode.TEXT else None
            self._append(state["message"].encode("latin-1"))

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """
        Take bytes, in pieces of any size. `data` is not kept: it may be a view of a buffer that is used again.

        Returns:
            What was completed, in order. After a `ProtocolError` or a `CLOSE` all further bytes are ignored.
        """
        size = len(data)
        # Nearly all that comes is one small message in one frame: looked at once, nothing kept.
        if size > 5 and self._opcode is None and not self._held and not self._over and size == (data[1] ^ _MASKED) + 6:
            opcode = _WHOLE_MESSAGES.get(data[0])
            if opcode is not None and size < 132 and size - 6 <= self._max:
                payload = apply_mask(data[6:], bytes(data[2:6]))
                try:
                    return [(opcode, payload if opcode is Opcode.BINARY else payload.decode())]
                except UnicodeDecodeError:
                    self._over = True
                    return [_not_utf8()]
        events: list[Event] = []
        if self._over:
            return events
        if self._held:
            data = self._held + bytes(data)
            self._held = b""
        try:
            self._parse(data, events)
        except ProtocolError as error:
            self._over = True
            events.append(error)
        return events

    def _parse(self, data: bytes | bytearray | memoryview, events: list[Event]) -> None:
        position, size = 0, len(data)
        while True:
            if self._left:
                taken = min(self._left, size - position)
                self._take(data[position : position + taken], events)
                position += taken
                if self._left:
                    return
            if size - position < 2:
                break
            first, second = data[position], data[position + 1]
            length = second & 0x7F
            opcode = self._check_header(first, second, length)
            begin = position + 6
            if length > 125:
                begin += 2 if length == 126 else 8
                if size < begin:
                    break
                length = int.from_bytes(data[position + 2 : begin - 4], "big")
                self._check_length(length, begin - 4 - position - 2)
            elif size < begin:
                break
            end = begin + length
            mask = bytes(data[begin - 4 : begin])
            if opcode & _CONTROL:
                if size < end:
                    break
                position = end
                event = _control_event(opcode, apply_mask(data[begin:end], mask))
                events.append(event)
                if opcode is Opcode.CLOSE:
                    self._over = True
                    return
            elif first & _FIN and opcode and not first & _RSV1 and size >= end:
                if length > self._max:
                    raise self._too_big()
                position = end
                events.append((opcode, _whole(opcode, apply_mask(data[begin:end], mask))))
            else:
                position = begin
                self._begin_frame(opcode, first, length, mask, events)
        if position < size:
            self._held = bytes(data[position:])

    def _check_header(self, first: int, second: int, length: int) -> Opcode:
        opcode = _OPCODES.get(first & 0x0F)
        if opcode is None:
            raise _violation(f"unknown opcode {first & 0x0F}")
        if not second & _MASKED:
            raise _violation("a client's frame must be masked")
        if first & _RSV2_3 or (first & _RSV1 and (self._deflate is None or opcode not in (Opcode.TEXT, Opcode.BINARY))):
            raise _violation("a reserved bit is set")
        if opcode & _CONTROL:
            if not first & _FIN:
                raise _violation("a control frame must not be fragmented")
            if length > _MAX_CONTROL_PAYLOAD:
                raise _violation("a control frame has at most 125 bytes")
        elif opcode is Opcode.CONTINUATION and self._opcode is None:
            raise _violation("nothing to continue")
        elif opcode is not Opcode.CONTINUATION and self._opcode is not None:
            raise _violation("a new message before the last one ended")
        return opcode

    def _check_length(self, length: int, size: int) -> None:
        if size == 8 and length >> 63:
            raise _violation("the most significant bit of a length must be 0")
        if length < (126 if size == 2 else 65536):
            raise _violation("a length must be written in the fewest bytes")

    def _begin_frame(self, opcode: Opcode, first: int, length: int, mask: bytes, events: list[Event]) -> None:
        if opcode is not Opcode.CONTINUATION:
            self._opcode = opcode
            self._inflating = bool(first & _RSV1)
            self._utf8 = _new_utf8_check() if opcode is Opcode.TEXT else None
            self._fragments = 0
        self._fragments += 1
        if self._fragments > _MIN_FRAGMENTS + self._max // _BYTES_PER_FRAGMENT:
            # Fragments may be empty: counted in bytes alone, a message of them would never end and never be too big.
            raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, "a message in too many fragments")
        # Deflated bytes may be a few more than what they stand for, never much more.
        if len(self._message) + length > self._max + (1024 + self._max // 1024 if self._inflating else 0):
            raise self._too_big()
        self._left, self._mask, self._last = length, mask, bool(first & _FIN)
        if not length:
            self._end_frame(events)

    def _take(self, data: bytes | bytearray | memoryview, events: list[Event]) -> None:
        size = len(data)
        if not size:
            return
        payload = apply_mask(data, self._mask)
        turn = size % 4
        self._mask = self._mask[turn:] + self._mask[:turn]
        self._left -= size
        if self._inflating:
            assert self._deflate is not None
            payload = self._deflate.inflate(payload, self._max - len(self._message))
        self._append(payload)
        if not self._left:
            self._end_frame(events)

    def _append(self, payload: bytes) -> None:
        if self._utf8 is not None:
            _check_utf8(self._utf8, payload, final=False)
        self._message += payload

    def _end_frame(self, events: list[Event]) -> None:
        if not self._last:
            return
        if self._inflating:
            assert self._deflate is not None
            self._append(self._deflate.end_of_message(self._max - len(self._message)))
        if self._utf8 is not None:
            _check_utf8(self._utf8, b"", final=True)
        assert self._opcode is not None
        events.append((self._opcode, _whole(self._opcode, self._message)))
        self._opcode = self._utf8 = None
        self._message = bytearray()

    def _too_big(self) -> ProtocolError:
        return ProtocolError(CloseCode.MESSAGE_TOO_BIG, f"a message has at most {self._max} bytes")


def _whole(opcode: Opcode, payload: bytes | bytearray) -> str | bytes:
    if opcode is not Opcode.TEXT:
        return bytes(payload)
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise _not_utf8() from None


def _control_event(opcode: Opcode, payload: bytes) -> Event:
    if opcode is not Opcode.CLOSE:
        return opcode, payload
    if not payload:
        return opcode, Close(CloseCode.NO_STATUS_RECEIVED, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not may_be_sent(code):
        raise _violation("a close frame with a code that may not be sent")
    return opcode, Close(code, str(_whole(Opcode.TEXT, payload[2:])))


def _check_utf8(decoder: codecs.IncrementalDecoder, payload: bytes, final: bool) -> None:
    try:
        decoder.decode(payload, final)
    except UnicodeDecodeError:
        raise _not_utf8() from None


def _violation(reason: str) -> ProtocolError:
    return ProtocolError(CloseCode.PROTOCOL_ERROR, reason)


def _not_utf8() -> ProtocolError:
    return ProtocolError(CloseCode.INVALID_DATA, "a text must be UTF-8")
