"""
What was granted once may be over: asking again who may be on a channel, and tokens that are taken back. Deny is the default
here, too.
"""

from __future__ import annotations

from fnmatch import translate
from re import compile as compile_regex
from typing import TYPE_CHECKING, Any

import gevent
from gevent.pool import Pool

from alphavel.websocket import subscriptions
from alphavel.websocket.auth import User
from alphavel.websocket.auth.revocations import Revocations, check_revocation
from alphavel.websocket.bus import MalformedError
from alphavel.websocket.channels import Channel, Kind
from alphavel.websocket.logs import get_logger

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.server import WebSocketServer

logger = get_logger("alphavel.websocket")

REVOKED = (4009, "the token was revoked")
_AT_ONCE = 64  # authorizers that wait for a database do not wait for each other
_YIELD_EVERY = 256


class Reauthorization:
    """
    Attributes:
        revocations: Tokens that were taken back.
        times: How often authorizers were asked again; who is being asked just now has to be asked once more.
    """

    def __init__(self, server: WebSocketServer) -> None:
        self.revocations = Revocations()
        self.times = 0
        self._server = server
        server.relay.handle("reauthorize", self._told_to_reauthorize)
        server.relay.handle("revoke", self._told_to_revoke)

    # Asking again

    def reauthorize(self, app: App, pattern: str) -> int:
        """
        Ask the authorizers again for all who are on channels whose names match, on all workers; those who may not stay are
        taken off and told. Blocks the calling greenlet until all of this worker have been asked.

        Args:
            app: Whose channels they are.
            pattern: A channel's name, in which `*` stands for any characters and `?` for one.

        Returns:
            How many subscriptions of this worker were ended.
        """
        self._server.reactor.call(self._server.relay.tell, "reauthorize", {"app": app.id, "channels": pattern})
        return self._reauthorize(app, pattern)

    def _told_to_reauthorize(self, content: dict[str, Any]) -> None:
        app, pattern = self._server.apps.get(str(content.get("app"))), content.get("channels")
        if not isinstance(pattern, str):
            raise MalformedError("Expected channels, a pattern.")
        if app is not None:
            self._server.tasks.spawn(self._reauthorize, app, pattern)

    def _reauthorize(self, app: App, pattern: str) -> int:
        self.times += 1
        matches = compile_regex(translate(pattern)).match
        channels = [channel for channel in list(app.connections.channels.values()) if matches(channel.name)]
        pool = Pool(_AT_ONCE)
        return sum(
            taken_off
            for channel in channels
            if channel.kind is not Kind.PUBLIC or self._server.authorizers.covers(channel.name)
            for taken_off in pool.imap_unordered(
                lambda connection, on=channel: self._check(app, connection, on), list(channel.subscribers.values())
            )
        )

    def _check(self, app: App, connection: Connection, channel: Channel) -> bool:
        """Take a connection off a channel unless it may stay; return whether it was taken off."""
        if self._may_stay(connection, channel) or subscriptions.leave(app, connection, channel.name) is None:
            return False
        connection.transport.send_frame(connection.protocol.expelled(channel.name))
        return True

    def _may_stay(self, connection: Connection, channel: Channel) -> bool:
        user = connection.user
        if user is None and channel.member_of is not None:
            member = channel.member_of.get(connection.socket_id)  # whom a signature named, of one that has not signed in
            user = None if member is None else User(member.id, b"{}")
        if user is None and channel.kind is not Kind.PUBLIC:
            return False
        try:
            return self._server.authorizers.ask(user, channel.name).allowed
        except Exception:
            self._server.counters.errors += 1
            told = {"connection": connection.socket_id, "channel": channel.name}
            logger.exception("An authorizer failed; the subscription ends", extra=told)
            return False

    # Taking tokens back

    def revoke(self, jti: str, expires_in: float) -> int:
        """
        Take a token back, on all workers: it is refused from now on, and the connections that came with it are closed.

        Args:
            jti: The token's `jti` claim.
            expires_in: Seconds after which it would have expired by itself.

        Returns:
            How many connections of this worker were closed.

        Raises:
            ValueError: There can be no such jti or time.
        """
        check_revocation(jti, expires_in)
        self._server.reactor.call(self._server.relay.tell, "revoke", {"jti": jti, "expires_in": expires_in})
        self.revocations.add(jti, expires_in)  # first: nobody must come in with it meanwhile
        return self._close_all_of(jti)

    def _told_to_revoke(self, content: dict[str, Any]) -> None:
        jti, expires_in = content.get("jti"), content.get("expires_in")
        try:
            check_revocation(jti, expires_in)
        except ValueError as error:
            raise MalformedError(str(error)) from None
        assert isinstance(jti, str)
        assert isinstance(expires_in, (int, float))
        self.heard(jti, expires_in)

    def heard(self, jti: str, expires_in: float) -> None:
        """Another worker has taken a token back, just now or before this one came."""
        if jti not in self.revocations:
            self.revocations.add(jti, expires_in)
            self._server.tasks.spawn(self._close_all_of, jti)

    def _close_all_of(self, jti: str) -> int:
        """Close the connections that came with a token; return how many there were."""
        wanted, closed = jti.encode(), 0
        everyone = [connection for app in self._server.apps for connection in app.connections.connections.values()]
        for number, connection in enumerate(everyone):
            user = connection.user
            if user is not None and user.mentions(wanted) and user.claims.get("jti") == jti:
                connection.close(*REVOKED)
                closed += 1
            if number % _YIELD_EVERY == _YIELD_EVERY - 1:
                gevent.sleep(0)
        return closed

    def is_revoked(self, user: User) -> bool:
        """Whether the token that a user comes with was taken back."""
        return bool(self.revocations) and user.claims.get("jti") in self.revocations
