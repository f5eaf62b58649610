"""
Places in what was published on channels that keep a history. Pure.

Every message of such a channel has a serial, one more than the last. Serials count within an epoch, a name drawn at random: a
server that has forgotten what it said begins a new one, so that an old position is never taken for a new one. Together they are
a position.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

EPOCH_HEX = 12
_TAG_BYTES = 4
_EPOCH_LENGTH = EPOCH_HEX + 2 * _TAG_BYTES
_MAX_SERIAL = 2**53 - 1  # JavaScript's numbers are exact so far


class Position(NamedTuple):
    """
    A place in a channel's history: everything up to and with `serial` has been seen.

    Attributes:
        epoch: Which counting it belongs to.
        serial: Number of the last message; 0 before the first.
    """

    epoch: str
    serial: int

    @classmethod
    def read(cls, value: Any, channel: str) -> Position:
        """
        Read what a client or an application gives: `{"epoch": …, "serial": 41}`.

        Raises:
            ValueError: It is none, or one of another channel.
        """
        epoch, serial = (value.get("epoch"), value.get("serial")) if isinstance(value, Mapping) else (None, None)
        if not isinstance(epoch, str) or not isinstance(serial, int) or isinstance(serial, bool):
            raise ValueError(  # noqa: TRY004 (what a client sent: a text is as wrong as a number below 0)
                'A position is an object such as {"epoch":"…","serial":41}, as it came with "subscribed".'
            )
        if not 0 <= serial <= _MAX_SERIAL:
            raise ValueError(f"A serial is a number from 0 to 2^53 - 1; got {ascii(serial)[:40]}.")
        if len(epoch) != _EPOCH_LENGTH or not epoch.isascii() or epoch != _epoch(epoch[:EPOCH_HEX], channel):
            raise ValueError(f"There never was such an epoch on {channel}.")
        return cls(epoch, serial)


class EventId(NamedTuple):
    """
    A place among the messages of all channels of an app that keep a history: `Last-Event-ID` of an event stream.

    Attributes:
        epoch: Which counting it belongs to.
        number: Number of the last message.
    """

    epoch: str
    number: int

    @classmethod
    def read(cls, text: str) -> EventId:
        """
        Read `str` of one.

        Raises:
            ValueError: It is none.
        """
        epoch, _, number = text.partition("-")
        if len(epoch) != EPOCH_HEX or not epoch.isalnum() or not number.isascii() or not number.isdigit() or len(number) > 16:
            raise ValueError(f"Expected an event's id as it came; got {ascii(text)[:40]}.")
        return cls(epoch, int(number))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"


def new_epoch(channel: str) -> str:
    """Draw an epoch for a channel."""
    return _epoch(secrets.token_hex(EPOCH_HEX // 2), channel)


def derived_epoch(channel: str, secret: str) -> str:
    """Return the epoch of a channel that follows from a secret: all who know that agree on it."""
    key = hashlib.blake2s(secret.encode()).digest()
    return _epoch(hashlib.blake2s(channel.encode(), key=key, digest_size=EPOCH_HEX // 2).hexdigest(), channel)


def _epoch(random: str, channel: str) -> str:
    # With a checksum of the channel's name: a position of another channel is told from one of a counting that is over.
    return random + hashlib.blake2s(f"{random}{channel}".encode(), digest_size=_TAG_BYTES).hexdigest()
