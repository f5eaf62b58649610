"""
Who is subscribed, present and online on all workers of a server, this one included, for one app. Plain dicts, no I/O; nothing
here switches. Where there is one worker there is none of this.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

from alphavel.websocket.channels.channel import Channel, Kind, Member

_NOBODY: frozenset[str] = frozenset()


@functools.lru_cache(maxsize=1024)
def _the_same(workers: frozenset[str]) -> frozenset[str]:
    """Return one object for all users who are on the same workers: a set of its own for each is a fifth of a kilobyte."""
    return workers


def enter_count(counts: dict[str, dict[str, int]], name: str, worker: str, count: int) -> None:
    """Enter how many of something a worker has into what is kept by name and worker, without those that have none."""
    if count:
        counts.setdefault(name, {})[worker] = count
    elif name in counts:
        counts[name].pop(worker, None)
        if not counts[name]:
            del counts[name]


class Everywhere:
    """
    Attributes:
        counts: Subscribers by worker, by channel.
        members: Members by worker, by user, by presence channel: who the user is for that worker.
        users: Workers that a user is connected to.
        further: Connections of a user beyond the first one of each worker, by worker, where workers tell.
        connections: Connections by worker, of the others only.
        elsewhere: Their sum.
    """

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, int]] = {}
        self.members: dict[str, dict[str, dict[str, Member]]] = {}
        self.users: dict[str, frozenset[str]] = {}
        self.further: dict[str, dict[str, int]] = {}
        self.connections: dict[str, int] = {}
        self.elsewhere = 0

    # Changes

    def set_count(self, channel: str, worker: str, count: int) -> tuple[int, int]:
        """Enter how many subscribers a channel has on a worker; return how many there were on all, and are."""
        before = self.count(channel)
        enter_count(self.counts, channel, worker, count)
        return before, self.count(channel)

    def set_member(self, channel: str, user_id: str, worker: str, member: Member | None) -> tuple[int, int]:
        """Enter that a user is on a presence channel on a worker, or is not; return on how many workers before, and now."""
        users = self.members.setdefault(channel, {})
        holders = users.setdefault(user_id, {})
        before = len(holders)
        if member is not None:
            holders[worker] = member
        else:
            holders.pop(worker, None)
        if not holders:
            del users[user_id]
            if not users:
                del self.members[channel]
        return before, len(holders)

    def set_user(self, user_id: str, worker: str, count: int) -> tuple[bool, bool]:
        """Enter how many connections a user has to a worker; return whether there were any to all before, and are."""
        before = self.users.get(user_id, _NOBODY)
        now = _the_same(before | {worker} if count else before - {worker})
        if now:
            self.users[user_id] = now
        else:
            self.users.pop(user_id, None)
        enter_count(self.further, user_id, worker, max(0, count - 1))
        return bool(before), bool(now)

    def set_connections(self, worker: str, count: int) -> None:
        """Enter how many connections another worker has. The sum is kept, so that asking for it costs a newcomer nothing."""
        self.elsewhere += count - self.connections.pop(worker, 0)
        if count:
            self.connections[worker] = count

    # A channel of this worker: another worker that has a user counts as one more connection of the user's.

    def seed(self, channel: Channel) -> None:
        """Enter into a channel that is new here the members of the other workers."""
        if channel.members is None:
            return
        for user_id in sorted(self.members.get(channel.name, {}), key=lambda user_id: self._order(channel.name, user_id)):
            first = self.member(channel.name, user_id)
            here = channel.members[user_id] = Member(user_id, first.info, first.connected_at)
            here.connections = len(self.members[channel.name][user_id])

    def settle(self, channel: Channel, user_id: str) -> None:
        """Have a channel here know a member as all workers know it: as on the one it joined first."""
        here = channel.members.get(user_id) if channel.members is not None else None
        if here is not None and user_id in self.members.get(channel.name, {}):
            first = self.member(channel.name, user_id)
            here.info, here.connected_at = first.info, first.connected_at

    # Questions

    def count(self, channel: str) -> int:
        """How many subscribers a channel has."""
        return sum(self.counts.get(channel, {}).values())

    def connections_of(self, user_id: str) -> int:
        """How many connections a user has, as far as workers tell; on each worker one at least."""
        return len(self.users.get(user_id, _NOBODY)) + sum(self.further.get(user_id, {}).values())

    def member(self, channel: str, user_id: str) -> Member:
        """A member, as on the worker that it joined first. Raises KeyError."""
        holders = self.members[channel][user_id]
        return min(holders.items(), key=lambda item: (item[1].connected_at, item[0]))[1]

    def roster(self, channel: str) -> list[Member]:
        """The members of a channel in the order they joined, the same on every worker."""
        users: Iterable[str] = self.members.get(channel, {})
        return [self.member(channel, user_id) for user_id in sorted(users, key=lambda user_id: self._order(channel, user_id))]

    def stats(self, channel: str) -> dict[str, object]:
        """See `Channel.stats`."""
        kind = Kind.of(channel)
        stats: dict[str, object] = {"name": channel, "subscribers": self.count(channel), "type": kind.value}
        if kind is Kind.PRESENCE and channel in self.counts:
            stats["members"] = len(self.members.get(channel, {}))
        return stats

    def _order(self, channel: str, user_id: str) -> tuple[float, str]:
        return self.member(channel, user_id).connected_at, user_id
