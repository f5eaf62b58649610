"""The books: their invariants hold whatever happens in whatever order, and nothing switches while they change."""

from __future__ import annotations

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from alphavel.websocket.auth import User
from alphavel.websocket.channels import Kind, Member
from alphavel.websocket.connections import Connection, ConnectionManager, new_socket_id, renew_process_part
from alphavel.websocket.protocols.alphavel import AlphavelProtocol
from tests.support import nothing_switches

PROTOCOL = AlphavelProtocol()
CHANNELS = ["news", "private-a", "presence-room", "presence-hall"]
USERS = ["1", "2", None]


def connection(user_id=None):
    return Connection(PROTOCOL, User(user_id, b"{}") if user_id else None)


def member_of(connection, name):
    if Kind.of(name) is not Kind.PRESENCE:
        return None
    return Member(connection.user.id if connection.user else "guest", {}, 1.0)


class Books(RuleBasedStateMachine):
    """Random connects, subscribes, sign-ins, watchlists and disconnects, beside a model that cannot be wrong."""

    def __init__(self):
        super().__init__()
        self.manager = ConnectionManager()
        # Who is on which channels, and as whom on those with presence: who signs in later stays there as before.
        self.model: dict[Connection, dict[str, str | None]] = {}
        self.watching: dict[Connection, set[str]] = {}

    connections = Bundle("connections")

    @rule(target=connections, user=st.sampled_from(USERS))
    def connect(self, user):
        new = connection(user)
        with nothing_switches():
            self.manager.add(new)
        self.model[new] = {}
        return new

    @rule(it=connections, name=st.sampled_from(CHANNELS))
    def subscribe(self, it, name):
        if it not in self.model:
            return
        member = member_of(it, name)
        was_there, present = name in self.model[it], self.members(name)
        with nothing_switches():
            channel, gained = self.manager.subscribe(it, name, member)
        if not was_there:
            self.model[it][name] = member and member.id
        assert channel.name == name
        assert (gained is not None) == (member is not None and not was_there and member.id not in present)

    @rule(it=connections, name=st.sampled_from(CHANNELS))
    def unsubscribe(self, it, name):
        was_there = name in self.model.get(it, ())
        with nothing_switches():
            channel, lost = self.manager.unsubscribe(it, name)
        assert (channel is not None) == was_there
        if was_there:
            self.check_lost(name, self.model[it].pop(name), lost)
        else:
            assert lost is None

    @rule(it=connections, user_id=st.sampled_from(["1", "2", "3"]))
    def sign_in(self, it, user_id):
        if it not in self.model:
            return
        user = it.user
        with nothing_switches():
            if user is not None and user.id != user_id:
                with pytest.raises(ValueError, match="cannot become"):
                    self.manager.sign_in(it, User(user_id, b"{}"))
                assert it.user is user
            else:
                self.manager.sign_in(it, User(user_id, b"{}"))
                assert it.user.id == user_id

    @rule(it=connections, user_ids=st.lists(st.sampled_from(["1", "2", "3"]), unique=True))
    def watch(self, it, user_ids):
        if it not in self.model:
            return
        with nothing_switches():
            self.manager.watch(it, tuple(user_ids))
        self.watching[it] = set(user_ids)

    @rule(it=consumes(connections))
    def disconnect(self, it):
        names = self.model.pop(it, None)
        self.watching.pop(it, None)
        with nothing_switches():
            left = {channel.name: member for channel, member in self.manager.remove(it)}
        assert set(left) <= set(names or ())
        for name, member_id in (names or {}).items():
            self.check_lost(name, member_id, left.get(name))

    def present(self, name):
        return [it for it, names in self.model.items() if name in names]

    def members(self, name):
        """Ids of those on a channel with presence, one for each connection."""
        return [names[name] for names in self.model.values() if names.get(name) is not None]

    def check_lost(self, name, member_id, lost):
        gone = member_id is not None and member_id not in self.members(name)
        assert (lost and lost.id) == (member_id if gone else None)

    @invariant()
    def books_agree_with_the_model_and_with_each_other(self):
        manager = self.manager
        assert set(manager.connections.values()) == set(self.model)
        assert set(manager.channels) == {name for names in self.model.values() for name in names}
        for name, channel in manager.channels.items():
            assert set(channel.subscribers.values()) == set(self.present(name))
            if channel.members is not None:
                ids = self.members(name)
                assert {m.id: m.connections for m in channel.members.values()} == {i: ids.count(i) for i in ids}
                assert set(channel.member_of) == set(channel.subscribers)
        for it, names in self.model.items():
            assert set(it.channels) == set(names)
            assert len(it.channels) == len(names)
            assert set(manager.watching(it)) == self.watching.get(it, set())
        watchers = {}
        for it, user_ids in self.watching.items():
            for user_id in user_ids:
                watchers.setdefault(user_id, set()).add(it)
        assert {user_id: set(theirs.values()) for user_id, theirs in manager.watchers.items()} == watchers
        by_user = {}
        for it in self.model:
            if it.user:
                by_user.setdefault(it.user.id, set()).add(it)
        assert {user: set(theirs.values()) for user, theirs in manager.users.items()} == by_user


Books.TestCase.settings = hypothesis_settings(max_examples=100, stateful_step_count=40)
TestBooks = Books.TestCase


def test_nothing_switches_would_notice_a_switch():
    import gevent

    with pytest.raises(AssertionError, match="switched"), nothing_switches():
        gevent.sleep(0)


def test_socket_ids_are_two_numbers_and_never_the_same_again():
    ids = {new_socket_id() for _ in range(1000)}
    assert len(ids) == 1000
    process = {socket_id.split(".")[0] for socket_id in ids}
    assert len(process) == 1
    assert all(part.isdecimal() for socket_id in ids for part in socket_id.split("."))
    renew_process_part()
    assert new_socket_id().split(".")[0] not in process


def test_presence_lists_a_user_of_two_connections_once():
    manager = ConnectionManager()
    first, second = connection("7"), connection("7")
    for it in (first, second):
        manager.add(it)
        manager.subscribe(it, "presence-room", Member("7", {"name": "Ada"}, 5.0))
    assert manager.roster("presence-room") == [{"id": "7", "connected_at": 5.0, "info": {"name": "Ada"}}]
    assert manager.stats_of("presence-room") == {
        "name": "presence-room", "subscribers": 2, "type": "presence", "members": 1
    }  # fmt: skip
    assert manager.stats_of("nobody-here") == {"name": "nobody-here", "subscribers": 0, "type": "public"}
    assert manager.roster("nobody-here") == []
