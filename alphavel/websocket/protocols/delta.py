"""
Alphavel's own protocol for clients that asked for deltas when they connected, `?delta=true`: what a channel's message has
changed since the one before, see `channels.deltas`. docs/deltas.md describes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from alphavel.websocket.protocols.alphavel import AlphavelProtocol

if TYPE_CHECKING:
    from alphavel.websocket.channels import Channel, Kept, Member
    from alphavel.websocket.protocols.messages import Message

_NO_BASE = b',"delta":false'


class DeltaProtocol(AlphavelProtocol):
    """See `contract.Protocol`; on channels without deltas its frames are those of `AlphavelProtocol`."""

    number = 4
    takes_deltas = True

    def frame_for(self, message: Any) -> bytes:
        """Frame a message for one connection. It may name a channel, whose base is another message."""
        if isinstance(message, Mapping) and message.get("channel") is not None:
            message = {**message, "delta": False}
        return super().frame_for(message)

    def event(self, message: Message, channel: Channel | None, kept: Kept | None = None) -> bytes:
        """An event that not all who follow the channel get: `{"event":…,"channel":…,"data":{…},"delta":false}`"""
        if channel is None or channel.chain is None:
            return super().event(message, channel, kept)
        return self._event(message, channel.json_name, kept, _NO_BASE)

    def linked(self, message: Message, channel: Channel, kept: Kept | None, patch: bytes | None) -> bytes:
        """`{"event":…,"channel":…,"delta":{"bid":1.0832}}`; the data as a whole where there is no patch"""
        if patch is None:
            return super().event(message, channel, kept)
        return self._event(message, channel.json_name, kept, data=(b',"delta":', patch))

    def client_event(
        self, message: Message, user_id: str | None, channel: Channel, kept: Kept | None = None, more: bytes = b""
    ) -> bytes:
        """See `AlphavelProtocol.client_event`. Who sent it does not get it."""
        return super().client_event(message, user_id, channel, kept, more if channel.chain is None else more + _NO_BASE)

    def connected(self, socket_id: str, now: float, **more: Any) -> bytes:
        """`{"event":"connected","socket_id":"123.456","timestamp":1732291200.12,"delta":true}`"""
        return super().connected(socket_id, now, delta=True, **more)

    def _member(self, event: str, channel: Channel, member: Member, **more: Any) -> bytes:
        return super()._member(event, channel, member, **more, **({} if channel.chain is None else {"delta": False}))

    def _about(self, channel: Channel) -> dict[str, Any]:
        """`{"delta":true,"base":{…}}` on a channel that has deltas, the base once there is one."""
        about, chain = super()._about(channel), channel.chain
        if chain is not None:
            about["delta"] = True
            if chain.base is not None:
                about["base"] = orjson.Fragment(chain.base)
        return about
