"""
Who is told when a user comes online or goes offline: those who named the user in their watchlist when they signed in.

A user is online while signed in on at least one connection, or connected with a token.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from alphavel.websocket.bus.facts import Fact
from alphavel.websocket.protocols.messages import WatchlistChange

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.connections import Connection


def watch(app: App, connection: Connection, user_ids: Iterable[str]) -> None:
    """Have a connection watch these users, and no others any more, and tell it who is online and who is not."""
    wanted = tuple(dict.fromkeys(user_ids))
    manager = app.connections
    for user_id in {*manager.watching(connection), *wanted}:
        app.server.reactor.settle(manager.watchers.get(user_id, {}))
    manager.watch(connection, wanted)
    if wanted:
        online = [user_id for user_id in wanted if manager.is_online(user_id)]
        offline = [user_id for user_id in wanted if not manager.is_online(user_id)]
        connection.transport.send_frame(
            connection.protocol.watchlist({"online": online, "offline": offline})  # type: ignore[attr-defined]
        )


def changed(app: App, user_id: str, was_online: bool) -> None:
    """A user has come to this worker or left it: tell the watchers where `was_online` is not so any more."""
    is_here = user_id in app.connections.users
    if is_here != was_online:
        app.server.relay.bus.want(Fact("user", app.id, "", user_id), is_here)
    if app.siblings is not None:
        was_online = app.siblings.user_changed(app, user_id)
    tell(app, user_id, was_online, app.connections.is_online(user_id))


def tell(app: App, user_id: str, was_online: bool, is_online: bool) -> None:
    """Tell the watchers of a user, who are connected here, what has changed."""
    watchers = app.connections.watchers.get(user_id)
    if watchers and is_online != was_online:
        app.fan_out(WatchlistChange("online" if is_online else "offline", user_id), watchers, None)
