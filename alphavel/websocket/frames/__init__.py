"""
WebSocket frames, RFC 6455 and RFC 7692: bytes in, events out. No sockets, no clock, no gevent.
"""

from __future__ import annotations

from alphavel.websocket.frames.codes import Close, CloseCode, Opcode, ProtocolError
from alphavel.websocket.frames.deflate import Deflate
from alphavel.websocket.frames.parser import Event, Parser
from alphavel.websocket.frames.serialize import apply_mask, close_frame, close_payload, frame, text_frame

__all__ = [
    "Close",
    "CloseCode",
    "Deflate",
    "Event",
    "Opcode",
    "Parser",
    "ProtocolError",
    "apply_mask",
    "close_frame",
    "close_payload",
    "frame",
    "text_frame",
]
