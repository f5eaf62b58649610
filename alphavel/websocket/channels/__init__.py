"""Channels: their kinds, who is on them, and who may be."""

from __future__ import annotations

from alphavel.websocket.channels.authorizers import Authorizers
from alphavel.websocket.channels.channel import Channel, Kind, Member, name_error

__all__ = ["Authorizers", "Channel", "Kind", "Member", "name_error"]
