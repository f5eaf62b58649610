"""
Pusher's users: a client signs in with a signature that the application gave it, and from then on belongs to that user.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson

from alphavel.websocket import watchlist
from alphavel.websocket.auth import User
from alphavel.websocket.auth.signatures import SignatureError, check_user_auth
from alphavel.websocket.channels import POISON, Kind, name_error
from alphavel.websocket.checks import send_error
from alphavel.websocket.later import log_later
from alphavel.websocket.logs import about, get_logger
from alphavel.websocket.protocols import ErrorCode, SignIn

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.connections import Connection

logger = get_logger("alphavel.websocket")

_MAX_USER_DATA = 16 * 1024
_UNAUTHORIZED = (4009, "neither signed in nor joined a private or presence channel in time")
_ENOUGH = (4004, "this user has too many connections")


def sign_in(connection: Connection, command: SignIn) -> None:
    """Sign a user in on a connection, or say why not; the connection stays."""
    app, text = connection.app, command.user_data
    if not isinstance(text, str):
        send_error(connection, ErrorCode.BAD_MESSAGE, 'Signing in needs "user_data", a text that holds JSON.')
        return
    if len(text) > _MAX_USER_DATA:
        send_error(connection, ErrorCode.TOO_LONG, f'The "user_data" has at most {_MAX_USER_DATA} characters.')
        return
    try:
        check_user_auth(command.auth, app.key, app.secret, connection.socket_id, text)
    except SignatureError as error:
        app.server.counters.auth_failures["sign_in"] += 1
        log_later(logger, logging.INFO, "Signing in failed: %s", error, extra=about(connection))
        send_error(connection, ErrorCode.UNAUTHORIZED, f"Signing in failed. {error}")
        return
    data = _read(text)
    user_id = data.get("id")
    problem = name_error(user_id, app.settings.limits.user_id_length, "A user's id")  # it becomes a part of a channel's name
    if problem is not None:
        send_error(connection, ErrorCode.BAD_MESSAGE, f'The "user_data" needs an "id". {problem}')
    elif connection.user is not None and connection.user.id != user_id:
        send_error(connection, ErrorCode.UNAUTHORIZED, "Another user is signed in on this connection.")
    elif connection.user is None and has_enough(app, str(user_id)):
        connection.close(*_ENOUGH)
    else:
        _signed(connection, User(str(user_id), text.encode()), text, data.get("watchlist"))


def has_enough(app: App, user_id: str) -> bool:
    """Whether a user has as many connections as one user may have."""
    limit = app.server.settings.options.max_connections_per_user
    return limit is not None and app.connections.connections_of(user_id) >= limit


def _signed(connection: Connection, user: User, text: str, watched: Any) -> None:
    app = connection.app
    manager = app.connections
    was_online = user.id in manager.users
    app.server.reactor.settle(manager.users.get(user.id, {}))
    manager.sign_in(connection, user)
    connection.transport.send_frame(connection.protocol.signed_in(text))  # type: ignore[attr-defined]
    watchlist.changed(app, user.id, was_online)
    if not isinstance(watched, list):
        return
    limit = app.settings.limits.watchlist
    ids = [user_id for user_id in watched if isinstance(user_id, str) and user_id and user_id != POISON]
    watchlist.watch(app, connection, ids[:limit])
    if len(ids) > limit:
        send_error(
            connection, ErrorCode.WATCHLIST_TOO_LONG, f"A watchlist has at most {limit} users; the first {limit} are watched."
        )


def _read(text: str) -> dict[str, Any]:
    try:
        data = orjson.loads(text)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _is_nobody(connection: Connection) -> bool:
    return connection.user is None and all(channel.kind is Kind.PUBLIC for channel in connection.subscribed)


class Deadlines:
    """Those who have yet to sign in or to join a private or presence channel, where an app demands it in time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # By the time they have, each in order. Names, not connections: one that is gone should not stay until its time is over.
        self._waiting: dict[float, deque[tuple[float, App, str]]] = {}

    def entered(self, connection: Connection) -> None:
        """Begin to wait for a connection, where its app demands it."""
        within = connection.app.settings.authorize_within
        if within is not None and connection.protocol.name == "pusher":
            waiting = self._waiting.setdefault(within, deque())
            waiting.append((self._clock() + within, connection.app, connection.socket_id))

    def second_passed(self) -> None:
        """Close those whose time is over."""
        now = self._clock()
        for within, waiting in list(self._waiting.items()):
            while waiting and waiting[0][0] <= now:
                _, app, socket_id = waiting.popleft()
                connection = app.connections.connections.get(socket_id)
                if connection is not None and _is_nobody(connection):
                    connection.close(*_UNAUTHORIZED)
            if not waiting:
                del self._waiting[within]
