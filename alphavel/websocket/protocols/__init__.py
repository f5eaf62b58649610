"""
What travels on the wire, and nothing else: a protocol turns text into commands, and messages into frames. No sockets here.
"""

from __future__ import annotations

from alphavel.websocket.protocols.commands import (
    Broadcast,
    Command,
    Custom,
    Ping,
    Refresh,
    Refused,
    Subscribe,
    Unsubscribe,
)
from alphavel.websocket.protocols.contract import ErrorCode, Protocol
from alphavel.websocket.protocols.messages import Message

__all__ = [
    "Broadcast",
    "Command",
    "Custom",
    "ErrorCode",
    "Message",
    "Ping",
    "Protocol",
    "Refresh",
    "Refused",
    "Subscribe",
    "Unsubscribe",
]
