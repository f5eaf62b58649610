"""
What the application registers with the server: who may join which channel, who is logged in, handlers, raw routes, timers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from alphavel.websocket.channels import Authorizers
from alphavel.websocket.hooks import Handler, HandlerT, Hooks

AuthorizerT = TypeVar("AuthorizerT", bound=Callable[..., Any])


class Registration:
    """
    The decorators of `WebSocketServer`.

    Attributes:
        hooks, authorizers: What was registered, for all apps.
        sends_only: Whether no connection can ever be of this process.
    """

    sends_only = False

    def __init__(self) -> None:
        self.hooks = Hooks()
        self.authorizers = Authorizers()
        self._load_user: Callable[[], Any] | None = None
        self._user_data: Callable[[Any], Mapping[str, Any]] | None = None
        self._dashboard_guard: Callable[[], Any] | None = None

    def channel(self, pattern: str) -> Callable[[AuthorizerT], AuthorizerT]:
        """
        Register who may join channels whose names match a pattern.

            @WebSocket.channel("private-user.{user_id}")
            def own_channel(user, user_id):
                return user.id == user_id

        The function returns True or False; on presence channels it may return a dict, what the other members are told
        of the user. A private or presence channel that no pattern matches is refused.
        """

        def register(authorizer: AuthorizerT) -> AuthorizerT:
            self.authorizers.add(pattern, authorizer)
            return authorizer

        return register

    def take_over(self, other: Registration) -> None:
        """Take what was registered elsewhere, in place of what was registered here."""
        self.hooks, self.authorizers = other.hooks, other.authorizers
        self._load_user, self._user_data = other._load_user, other._user_data
        self._dashboard_guard = other._dashboard_guard

    def user_loader(self, loader: HandlerT) -> HandlerT:
        """
        Register who tells `/broadcasting/auth` who is logged in.

            @WebSocket.user_loader
            def current_user():
                return session.get("user_id")

        It is called in the request and returns None for nobody, an id, a mapping with an `id`, or an object with `get_id()`
        or `id`. Without a loader it is flask-login's `current_user`, else the user of `Authorization: Bearer JWT`.
        """
        self._load_user = loader
        return loader

    def user_data(self, function: HandlerT) -> HandlerT:
        """
        Register what is said of a user who signs in, besides the id.

            @WebSocket.user_data
            def about(user):
                return {"user_info": {"name": user.name}, "watchlist": friends_of(user)}
        """
        self._user_data = function
        return function

    @property
    def has_user_loader(self) -> bool:
        """Whether the application tells who is logged in."""
        return self._load_user is not None

    def load_user(self) -> Any:
        """Return what the user loader says, None without one."""
        return self._load_user() if self._load_user is not None else None

    def data_of(self, user: Any) -> Mapping[str, Any]:
        """Return what is said of a user who signs in; of nobody, nothing."""
        return self._user_data(user) if self._user_data is not None and user is not None else {}

    def dashboard_guard(self, function: HandlerT) -> HandlerT:
        """
        Register who may see the dashboard, in place of `dashboard.password`.

            @WebSocket.dashboard_guard
            def is_operator():
                return current_user.is_authenticated and current_user.is_operator

        It is called in every request for the dashboard, and returns whether it may be answered.
        """
        self._dashboard_guard = function
        return function

    @property
    def guards_dashboard(self) -> bool:
        """Whether the application says who may see the dashboard."""
        return self._dashboard_guard is not None

    def may_see_dashboard(self) -> bool:
        """Ask the application whether the request may see the dashboard."""
        return self._dashboard_guard is not None and bool(self._dashboard_guard())

    def on(self, name: str) -> Callable[[HandlerT], HandlerT]:
        """Register a handler of `open`, `close`, `message` or `worker_start`: see `hooks.LIFE_CYCLE` for their arguments."""
        return _registering(lambda handler: self.hooks.on(name, handler))

    def event(self, name: str) -> Callable[[HandlerT], HandlerT]:
        """Register a handler of a custom client event: `handler(connection, data)`."""
        return _registering(lambda handler: self.hooks.event(name, handler))

    def route(self, path: str, auth: bool = True) -> Callable[[HandlerT], HandlerT]:
        """
        Register a path with no protocol: `handler(connection, message)` gets `str` for text and `bytes` for binary.

        Args:
            path: Such as `/echo`.
            auth: Whether a token is asked for where tokens are checked.
        """
        return _registering(lambda handler: self.hooks.route(path, handler, auth))

    def every(self, seconds: float) -> Callable[[HandlerT], HandlerT]:
        """Call a function every so many seconds, on one worker, in a greenlet of its own, from the start of the server."""
        return _registering(lambda handler: self.hooks.every(seconds, handler))


def _registering(register: Callable[[Handler], None]) -> Callable[[HandlerT], HandlerT]:
    def decorate(handler: HandlerT) -> HandlerT:
        register(handler)
        return handler

    return decorate
