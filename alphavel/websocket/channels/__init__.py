"""Channels: their kinds, who is on them, and who may be."""

from __future__ import annotations

from alphavel.websocket.channels.authorizers import Authorizers
from alphavel.websocket.channels.cache import EventCache
from alphavel.websocket.channels.channel import (
    POISON,
    Channel,
    Kind,
    Member,
    info_to_json,
    is_cached,
    name_error,
    user_channel,
    user_of,
)
from alphavel.websocket.channels.histories import Histories
from alphavel.websocket.channels.history import History, Kept
from alphavel.websocket.channels.positions import Position

__all__ = [
    "POISON",
    "Authorizers",
    "Channel",
    "EventCache",
    "Histories",
    "History",
    "Kept",
    "Kind",
    "Member",
    "Position",
    "info_to_json",
    "is_cached",
    "name_error",
    "user_channel",
    "user_of",
]
