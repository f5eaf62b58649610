"""
Who is on a channel, and who is told when that changes: the others on it, and the listeners of the app.

Everything here runs in the hub or in a greenlet and does not switch. The state has settled when anybody is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alphavel.websocket import watchlist
from alphavel.websocket.bus.facts import Fact
from alphavel.websocket.protocols.messages import PresenceChange

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.channels import Channel, Member
    from alphavel.websocket.connections import Connection


def join(app: App, connection: Connection, name: str, member: Member | None) -> Channel:
    """
    Put a connection on a channel; the caller has asked whether it may. Does nothing where it is on it.

    Args:
        app: The connection's app.
        connection: One that is in the books.
        name: Name of the channel.
        member: On a presence channel, who it is there.
    """
    manager = app.connections
    existing = manager.channels.get(name)
    if existing is not None:
        app.server.reactor.settle(existing.subscribers)
    channel, gained = manager.subscribe(connection, name, member)
    if existing is None:
        app.server.relay.bus.want(Fact("channel", app.id, name, ""), True)
    if app.siblings is not None:
        app.siblings.subscribed(app, channel, connection.socket_id, member)
    elif existing is None:
        app.emit("channel_occupied", channel=name)
    if gained is not None:
        _announce(app, channel, "member_added", gained, frozenset((connection.socket_id,)))
    return channel


def leave(app: App, connection: Connection, name: str) -> Channel | None:
    """Take a connection off a channel and tell the others. Returns the channel, None where it was not on it."""
    channel = app.connections.channels.get(name)
    if channel is None or connection.socket_id not in channel.subscribers:
        return None
    app.server.reactor.settle(channel.subscribers)
    here = channel.member_of.get(connection.socket_id) if channel.member_of is not None else None
    _, member = app.connections.unsubscribe(connection, name)
    _left(app, channel, here, member)
    return channel


def disconnect(app: App, connection: Connection) -> bool:
    """Strike a connection from all books and tell those who were with it. Returns False where it was in none."""
    if connection.socket_id not in app.connections.connections:
        return False
    socket_id, user = connection.socket_id, connection.user
    were = [(channel, channel.member_of and channel.member_of.get(socket_id)) for channel in connection.subscribed]
    members = dict(app.connections.remove(connection))
    if app.siblings is not None:
        app.siblings.connections_changed(app)
    for channel, here in were:
        _left(app, channel, here or None, members.get(channel))
    if user is not None:
        watchlist.changed(app, user.id, was_online=True)
    return True


def _left(app: App, channel: Channel, here: Member | None, member: Member | None) -> None:
    """`here`: who the connection was on a presence channel; `member`: the same where nobody of that user is on it now."""
    if not channel.subscribers:
        app.server.relay.bus.want(Fact("channel", app.id, channel.name, ""), False)
    if app.siblings is not None:
        app.siblings.unsubscribed(app, channel, here)
    if member is not None:
        _announce(app, channel, "member_removed", member, frozenset())
    app.counts.changed(channel.name)
    if not channel.subscribers and app.siblings is None:
        app.emit("channel_vacated", channel=channel.name)


def _announce(app: App, channel: Channel, change: str, member: Member, excluded: frozenset[str]) -> None:
    if channel.subscribers:
        app.fan_out(PresenceChange(change, member), channel.subscribers, channel, excluded)
    if app.siblings is None:  # else the worker that leads tells it
        app.emit(change, channel=channel.name, user_id=member.id)
