"""The numbers of RFC 6455, and what a peer can do wrong."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Opcode(enum.IntEnum):
    """What a frame is. RFC 6455, section 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(enum.IntEnum):
    """Why a connection is closed. RFC 6455, section 7.4.1, and the IANA registry."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005  # never on the wire: the close frame was empty
    ABNORMAL_CLOSURE = 1006  # never on the wire: there was no close frame
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014


_ON_THE_WIRE = frozenset(CloseCode) - {CloseCode.NO_STATUS_RECEIVED, CloseCode.ABNORMAL_CLOSURE}


def may_be_sent(code: int) -> bool:
    """Whether a close frame may carry this code. RFC 6455, section 7.4.2."""
    return 3000 <= code <= 4999 or code in _ON_THE_WIRE


class Close(NamedTuple):
    """What a peer's close frame says; an empty one: code 1005."""

    code: int
    reason: str


class ProtocolError(Exception):
    """
    The peer broke the protocol. The connection is to be closed with this code; nothing after it can be understood.

    Attributes:
        code: The close code to answer with.
        reason: What was wrong, short enough for a close frame.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
