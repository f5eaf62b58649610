"""
`Sender`: what the `WebSocket` facade resolves to in a process that only sends.

It has the server's methods for pushing and asking, and takes the same registrations: authorizers answer /broadcasting/auth
here, handlers and timers are kept for the server's process, which registers them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket.auth.revocations import DAY_S, check_revocation
from alphavel.websocket.broadcasting import NOBODY, Broadcaster
from alphavel.websocket.channels import Kind, name_error
from alphavel.websocket.registration import Registration
from alphavel.websocket.senders.contract import Carrier
from alphavel.websocket.settings import AppSettings
from alphavel.websocket.tracing import trace_publish

if TYPE_CHECKING:
    from alphavel.websocket.auth.jwt import TokenVerifier
    from alphavel.websocket.auth.users import User
    from alphavel.websocket.protocols import Message
    from alphavel.websocket.settings import WebSocketSettings


TERMINATED = {"code": 4009, "reason": "terminated by the application"}


class SenderApp(Broadcaster):
    """
    One app, as `apps.App` for those who only send.

    Attributes:
        id: Its id.
        settings: What the configuration says of it.
    """

    def __init__(self, sender: Sender, settings: AppSettings) -> None:
        self.id = str(settings.id)
        self.settings = settings
        self._sender = sender

    def publish(
        self,
        message: Message,
        channels: Iterable[str] = (),
        users: Iterable[str] = (),
        everybody: bool = False,
        excluded: frozenset[str] = NOBODY,
    ) -> int:
        """
        Hand a message over to the servers; see `Broadcaster.publish` for the arguments.

        Returns:
            With the driver http, how many connections the server that took it queued it for; with redis, how many servers
            took it.

        Raises:
            BroadcastError: It could not be handed over.
            ValueError: There cannot be a channel of such a name.
        """
        names = tuple(channels)
        for name in names:
            problem = None if name.startswith("#") else name_error(name, self.settings.limits.channel_name_length)
            if problem is not None:
                raise ValueError(f"Cannot push to the channel {name!r}. {problem}")
        return self._sender.carrier.publish(self.settings, message, names, users, everybody, excluded)

    def requesting_socket_id(self) -> str | None:
        """See `Broadcaster`."""
        return self._sender.current_socket_id()

    def get_presence(self, channel: str) -> list[dict[str, Any]]:
        """Members of a presence channel: `[{"id": "123", "connected_at": 1732291200.5, "info": {...}}]`."""
        answer = self._ask(f"/channels/{channel}/users", info="user_info,connected_at")
        return [
            {"id": user["id"], "connected_at": user.get("connected_at"), "info": user.get("user_info", {})}
            for user in answer["users"]
        ]

    def get_channels(self) -> list[str]:
        """Names of the channels somebody is subscribed to."""
        return list(self._ask("/channels")["channels"])

    def get_channel_stats(self, channel: str) -> dict[str, Any]:
        """`{"name": "chat.room.1", "subscribers": 2, "type": "public"}`."""
        kind = Kind.of(channel)
        presence = kind is Kind.PRESENCE
        answer = self._ask(f"/channels/{channel}", info="subscription_count" + ",user_count" * presence)
        stats = {"name": channel, "subscribers": answer["subscription_count"], "type": kind.value}
        return {**stats, "members": answer["user_count"]} if presence else stats

    def history(self, channel: str, limit: int = 100, since: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """See `WebSocketServer.history`."""
        position = {name: str(value) for name, value in (since or {}).items() if name in ("epoch", "serial")}
        return self._ask(f"/channels/{channel}/history", limit=str(limit), **position)

    def reauthorize(self, pattern: str) -> int:
        """See `WebSocketServer.reauthorize`. Returns 0: the servers do it."""
        return self._tell("reauthorize", {"channels": pattern})

    def disconnect_user(self, user_id: str | int) -> int:
        """See `WebSocketServer.disconnect_user`. Returns 0: the servers do it."""
        return self._tell("terminate", {"user": str(user_id), **TERMINATED})

    def revoke(self, jti: str, expires_in: float = DAY_S) -> int:
        """See `WebSocketServer.revoke`. Returns 0: the servers do it."""
        check_revocation(jti, expires_in)
        return self._tell("revoke", {"jti": jti, "expires_in": expires_in})

    def _tell(self, what: str, content: dict[str, Any]) -> int:
        self._sender.carrier.tell(self.settings, what, content)
        return 0

    def _ask(self, path: str, **parameters: str) -> dict[str, Any]:
        return self._sender.carrier.ask(self.settings, path, parameters)


class Sender(Registration, Broadcaster):
    """
    Attributes:
        settings: What `config/websocket.yaml` says.
        apps: The apps by id, the default one first.
        carrier: How pushes travel.
    """

    sends_only = True
    is_running = False
    is_draining = False

    def __init__(self, settings: WebSocketSettings) -> None:
        """
        Raises:
            ConfigurationError: The driver lacks something that is to be set or installed.
        """
        super().__init__()
        self.settings = settings
        self.carrier: Carrier = _carrier(settings)
        self.apps = {str(app.id): SenderApp(self, app) for app in settings.apps or (AppSettings(),)}
        for app in self.apps.values():
            trace_publish(app, settings.tracing.enabled)
        self.current_socket_id: Callable[[], str | None] = lambda: None

    def app(self, app_id: str | int) -> SenderApp:
        """
        Return an app by its id.

        Raises:
            LookupError: There is none.
        """
        try:
            return self.apps[str(app_id)]
        except KeyError:
            known = ", ".join(map(repr, filter(None, self.apps))) or "none"
            raise LookupError(f"There is no app {str(app_id)!r}; apps of config/websocket.yaml: {known}.") from None

    # In the default app

    @property
    def _default(self) -> SenderApp:
        return next(iter(self.apps.values()))

    def publish(
        self,
        message: Message,
        channels: Iterable[str] = (),
        users: Iterable[str] = (),
        everybody: bool = False,
        excluded: frozenset[str] = NOBODY,
    ) -> int:
        """See `SenderApp.publish`."""
        return self._default.publish(message, channels, users, everybody, excluded)

    def requesting_socket_id(self) -> str | None:
        """See `Broadcaster`."""
        return self.current_socket_id()

    def get_presence(self, channel: str) -> list[dict[str, Any]]:
        """See `SenderApp.get_presence`."""
        return self._default.get_presence(channel)

    def get_channels(self) -> list[str]:
        """See `SenderApp.get_channels`."""
        return self._default.get_channels()

    def get_channel_stats(self, channel: str) -> dict[str, Any]:
        """See `SenderApp.get_channel_stats`."""
        return self._default.get_channel_stats(channel)

    def history(self, channel: str, limit: int = 100, since: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """See `WebSocketServer.history`."""
        return self._default.history(channel, limit, since)

    def reauthorize(self, pattern: str) -> int:
        """See `SenderApp.reauthorize`."""
        return self._default.reauthorize(pattern)

    def disconnect_user(self, user_id: str | int) -> int:
        """See `SenderApp.disconnect_user`."""
        return self._default.disconnect_user(user_id)

    def revoke(self, jti: str, expires_in: float = DAY_S) -> int:
        """See `SenderApp.revoke`."""
        return self._default.revoke(jti, expires_in)

    def drain(self, below: int = 65536, timeout: float | None = None) -> bool:
        """Return True: what was pushed has been handed over, there is nothing to wait for here."""
        return True

    # Tokens, for /broadcasting/auth

    @cached_property
    def verifier(self) -> TokenVerifier:
        """What checks tokens."""
        from alphavel.websocket.auth.jwt import TokenVerifier

        return TokenVerifier(self.settings.auth)

    def verify(self, token: Any) -> User:
        """
        Check a token.

        Raises:
            AuthenticationError: It is not valid.
        """
        return self.verifier.verify(token)


def _carrier(settings: WebSocketSettings) -> Carrier:
    if settings.broadcasting.driver == "redis":
        from alphavel.websocket.senders.redis import RedisCarrier

        return RedisCarrier(settings)
    from alphavel.websocket.senders.http import HttpCarrier

    app = settings.apps[0] if settings.apps else AppSettings()
    for name in ("id", "key", "secret"):
        if not str(getattr(app, name)):
            raise ConfigurationError(
                f"broadcasting.driver is http, and apps[0].{name} is missing: pushes are signed with an app of the server's."
            )
    return HttpCarrier(settings.broadcasting.http)
