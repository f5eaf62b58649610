"""
What messages are published to in Redis. Pure: no I/O.

    PREFIXbus                  for all nodes: what everybody is to get, events of cache channels, what nodes tell each other
    PREFIXnode:NODE            for one node
    PREFIXchannel:APP:CHANNEL  for the nodes with subscribers of a channel
    PREFIXuser:APP:USER        for the nodes that a user is connected to
    PREFIXwatch:…              of one of the last two, for the nodes that do not publish to it, see `interest`
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from alphavel.websocket.bus.contract import Route
from alphavel.websocket.channels import is_cached, user_channel, user_of

_REMEMBERED = 4096


class Keys:
    """
    Names of what messages are published to.

    Attributes:
        of: `of(app_id, channel)`: for those with somebody on a channel; `#server-to-user-7` stands for the user 7.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.all = self._key("bus")
        self._some = (self._key("channel:"), self._key("user:"))
        self._watch = self._key("watch:")
        self._start = len(self._key(""))
        self.of: Callable[[str, str], bytes] = functools.lru_cache(_REMEMBERED)(self._of)  # each push asks

    def _key(self, name: str) -> bytes:
        return f"{self._prefix}{name}".encode("utf-8", "surrogatepass")

    def node(self, name: str) -> bytes:
        """For one node."""
        return self._key(f"node:{name}")

    def is_for_some(self, key: bytes) -> bool:
        """Whether a key is for those with somebody on a channel, or with some user."""
        return key.startswith(self._some)

    def watch(self, key: bytes) -> bytes:
        """For those who are told who listens to a key."""
        return self._watch + key[self._start :]

    def watched(self, watch: bytes) -> bytes | None:
        """Return what a key made by `watch` is for, None for another."""
        key = watch[: self._start] + watch[len(self._watch) :]
        return key if watch.startswith(self._watch) and self.is_for_some(key) else None

    def _of(self, app_id: str, channel: str) -> bytes:
        if is_cached(channel):
            return self.all  # each node keeps its events, for those who come later
        user_id = user_of(channel)
        return self._key(f"channel:{app_id}:{channel}" if user_id is None else f"user:{app_id}:{user_id}")


def routes(keys: Keys, app_id: str, channels: Sequence[str], users: Sequence[str], everybody: bool) -> Sequence[Route]:
    """Return by which keys a push goes, and for whom it is there: nobody gets a part of it twice."""
    if len(channels) == 1 and not users and not everybody:  # nearly every push, and a part of what each costs
        return (Route((keys.of(app_id, channels[0]),), channels, users, everybody),)
    parts: dict[bytes, tuple[list[str], list[str]]] = {keys.all: ([], [])} if everybody else {}
    for name in channels:
        parts.setdefault(keys.of(app_id, name), ([], []))[0].append(name)
    for user_id in users:
        parts.setdefault(keys.of(app_id, user_channel(user_id)), ([], []))[1].append(user_id)
    return [Route((key,), names, ids, everybody and key == keys.all) for key, (names, ids) in parts.items()]
