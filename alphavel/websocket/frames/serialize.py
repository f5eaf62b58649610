"""From payloads to frames."""

from __future__ import annotations

from alphavel.websocket.frames.codes import Opcode, may_be_sent

_FIN = 0x80
_RSV1 = 0x40
_MASKED = 0x80
_TEXT = bytes((_FIN | Opcode.TEXT,))
_SHORT_TEXT = [bytes((_FIN | Opcode.TEXT, size)) for size in range(126)]
_MAX_CONTROL_PAYLOAD = 125


def frame(opcode: Opcode, payload: bytes, *, fin: bool = True, rsv1: bool = False, mask: bytes = b"") -> bytes:
    """
    Build one frame.

    Args:
        opcode: What it is.
        payload: Any size; at most 125 bytes in a control frame.
        fin: Whether it ends its message.
        rsv1: Whether it begins a compressed message, RFC 7692.
        mask: 4 bytes in a client's frame, none in a server's.

    RFC 6455, section 5.2.
    """
    first = opcode | (_FIN if fin else 0) | (_RSV1 if rsv1 else 0)
    masked = _MASKED if mask else 0
    size = len(payload)
    if size < 126:
        header = bytes((first, masked | size))
    elif size < 65536:
        header = bytes((first, masked | 126)) + size.to_bytes(2, "big")
    else:
        header = bytes((first, masked | 127)) + size.to_bytes(8, "big")
    return header + mask + apply_mask(payload, mask) if mask else header + payload


def text_frame(payload: bytes) -> bytes:
    """Build a server's text frame of UTF-8 bytes: `frame(Opcode.TEXT, payload)` on the path where speed counts."""
    size = len(payload)
    if size < 126:
        return _SHORT_TEXT[size] + payload
    if size < 65536:
        return _TEXT + b"\x7e" + size.to_bytes(2, "big") + payload
    return _TEXT + b"\x7f" + size.to_bytes(8, "big") + payload


def close_payload(code: int, reason: str = "") -> bytes:
    """
    Build the payload of a close frame.

    Args:
        code: Close code, 1000 to 4999.
        reason: Text for people, at most 123 bytes once encoded in UTF-8.

    Returns:
        2 to 125 bytes: the code in network order, then the reason.

    Raises:
        ValueError: The code may not be sent, or the reason is too long for a control frame.

    RFC 6455, sections 5.5.1 and 7.4.
    """
    if not may_be_sent(code):
        raise ValueError(f"Close code {code} may not be sent; use 1000, 1008, 1011 or one of 3000-4999.")
    payload = code.to_bytes(2, "big") + reason.encode()
    if len(payload) > _MAX_CONTROL_PAYLOAD:
        raise ValueError(f"A close reason has at most 123 bytes in UTF-8; this one has {len(payload) - 2}.")
    return payload


def close_frame(code: int | None = None, reason: str = "") -> bytes:
    """Build a server's close frame; without a code an empty one. Raises ValueError as `close_payload` does."""
    return frame(Opcode.CLOSE, b"" if code is None else close_payload(code, reason))


def apply_mask(data: bytes | bytearray | memoryview, mask: bytes) -> bytes:
    """
    Mask or unmask a payload. RFC 6455, section 5.3.

    One XOR of two long integers, because Python has no faster one for bytes.
    """
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")
