"""
The application's own code: handlers of life-cycle events, of custom client events, of raw routes, and timers.

Registered before the server starts, usually while the application's modules are imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from alphavel.websocket.protocols.alphavel import RESERVED_EVENTS
from alphavel.websocket.protocols.raw import RawProtocol

Handler = Callable[..., Any]
HandlerT = TypeVar("HandlerT", bound=Handler)

LIFE_CYCLE: dict[str, tuple[str, ...]] = {
    "open": ("connection",),
    "close": ("connection", "code", "reason"),
    "message": ("connection", "event"),
    "worker_start": (),
}
"""Life-cycle events and what their handlers are offered."""


class Route(NamedTuple):
    """A path of the application's own."""

    protocol: RawProtocol
    auth: bool


class Timer(NamedTuple):
    """A function to call again and again."""

    seconds: float
    handler: Handler


class Hooks:
    """
    Attributes:
        life_cycle: Handlers by life-cycle event.
        events: Handlers by custom client event.
        routes: Raw routes by path.
        timers: Timers, started on one worker.
    """

    def __init__(self) -> None:
        self.life_cycle: dict[str, list[Handler]] = {name: [] for name in LIFE_CYCLE}
        self.events: dict[str, list[Handler]] = {}
        self.routes: dict[str, Route] = {}
        self.timers: list[Timer] = []

    def on(self, name: str, handler: Handler) -> None:
        """
        Register a handler of a life-cycle event; all handlers of one event run, in the order they were registered.

        Raises:
            ValueError: There is no such event.
            TypeError: The handler asks for more than it is offered.
        """
        if name not in LIFE_CYCLE:
            raise ValueError(f"There is no life-cycle event {name!r}; there are {', '.join(LIFE_CYCLE)}.")
        self.life_cycle[name].append(taking(handler, LIFE_CYCLE[name], f"on({name!r})"))

    def event(self, name: str, handler: Handler) -> None:
        """
        Register a handler of a custom client event: `handler(connection, data)`.

        Raises:
            ValueError: The protocol gives the event a meaning of its own.
            TypeError: The handler asks for more than it is offered.
        """
        if name in RESERVED_EVENTS or name.startswith("pusher:"):
            raise ValueError(f"{name!r} belongs to the protocol; give your event another name.")
        self.events.setdefault(name, []).append(taking(handler, ("connection", "data", "channel"), f"event({name!r})"))

    def route(self, path: str, handler: Handler, auth: bool) -> None:
        """
        Register a raw route: `handler(connection, message)`.

        Raises:
            ValueError: The path does not start with a slash, or is taken.
        """
        if not path.startswith("/"):
            raise ValueError(f"A route's path starts with a slash, as in '/echo'; got {path!r}.")
        if path in self.routes:
            raise ValueError(f"The route {path} is registered already.")
        self.routes[path] = Route(RawProtocol(path, taking(handler, ("connection", "message"), f"route({path!r})")), auth)

    def every(self, seconds: float, handler: Handler) -> None:
        """
        Register a timer: `handler()`.

        Raises:
            TypeError, ValueError: The time is no positive number.
        """
        if not isinstance(seconds, (int, float)):
            raise TypeError(f"every() takes a number of seconds; got {seconds!r}.")
        if not seconds > 0:
            raise ValueError(f"every() takes a positive number of seconds; got {seconds!r}.")
        self.timers.append(Timer(seconds, taking(handler, (), f"every({seconds})")))


def taking(handler: Handler, offered: tuple[str, ...], where: str) -> Handler:
    """
    Wrap a handler that names fewer parameters than it is offered.

    A parameter with the name of something offered gets that; the others get what is left, in order: `def closed(reason)`
    gets the reason, `def closed(c)` the connection, `def closed(c, reason)` both.

    Raises:
        TypeError: The handler has more required parameters than `offered`, or is an `async def`.
    """
    if inspect.iscoroutinefunction(handler):
        raise TypeError(f"The handler of {where} is an `async def`, which nobody would await; use `def`.")
    parameters = inspect.signature(handler).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return handler
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is p.empty]
    if len(required) > len(offered) or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        raise TypeError(f"The handler of {where} is called with ({', '.join(offered)}); it asks for ({', '.join(required)}).")
    names = [p.name for p in positional if p.name in offered or p.default is p.empty]
    left = iter([index for index, name in enumerate(offered) if name not in names])
    wanted = [offered.index(name) if name in offered else next(left) for name in names]
    if wanted == list(range(len(offered))):
        return handler

    def call(*arguments: Any) -> Any:
        return handler(*[arguments[index] for index in wanted])

    call.__wrapped__ = handler  # type: ignore[attr-defined]
    return call
