"""
What travels on the wire, and nothing else: a protocol turns text into commands, and messages into frames. No sockets here.
"""

from __future__ import annotations

from alphavel.websocket.protocols.commands import (
    Broadcast,
    ClientEvent,
    Command,
    Custom,
    OpenStream,
    Ping,
    Pong,
    ReadHistory,
    Refresh,
    Refused,
    SignIn,
    Subscribe,
    SubscribeSigned,
    Unsubscribe,
)
from alphavel.websocket.protocols.contract import ErrorCode, Protocol, Resumption
from alphavel.websocket.protocols.messages import Message

__all__ = [
    "Broadcast",
    "ClientEvent",
    "Command",
    "Custom",
    "ErrorCode",
    "Message",
    "OpenStream",
    "Ping",
    "Pong",
    "Protocol",
    "ReadHistory",
    "Refresh",
    "Refused",
    "Resumption",
    "SignIn",
    "Subscribe",
    "SubscribeSigned",
    "Unsubscribe",
]
