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
from alphavel.websocket.channels.history import Histories, History, Kept, Position

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
