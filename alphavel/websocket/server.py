"""
The WebSocket server of a process: what the `WebSocket` facade resolves to.

It knows who is connected and what the application registered; it does not accept sockets. Whatever serves HTTP in the
process (`serve`, the gunicorn worker, the blueprint) asks `admission` and hands it the sockets of those admitted.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
from gevent import monkey

from alphavel.websocket.auth import AuthenticationError, TokenVerifier, User
from alphavel.websocket.auth.origins import OriginRules
from alphavel.websocket.broadcasting import Broadcast, run_timer
from alphavel.websocket.channels import Authorizers, name_error
from alphavel.websocket.connections import Connection, ConnectionManager
from alphavel.websocket.dispatcher import Closed, Dispatcher, InTurn, Opened
from alphavel.websocket.frames import Opcode
from alphavel.websocket.hooks import Handler, HandlerT, Hooks
from alphavel.websocket.protocols import Message
from alphavel.websocket.protocols.alphavel import AlphavelProtocol
from alphavel.websocket.protocols.messages import PresenceChange
from alphavel.websocket.settings import WebSocketSettings
from alphavel.websocket.stats import Counters, Rates, snapshot
from alphavel.websocket.tasks import Tasks
from alphavel.websocket.transports import Reactor

if TYPE_CHECKING:
    from alphavel.websocket.channels import Channel, Member
    from alphavel.websocket.transports import Transport

logger = logging.getLogger("alphavel.websocket")

AuthorizerT = TypeVar("AuthorizerT", bound=Callable[..., Any])

RESTARTING = (4200, "server is restarting, reconnect")
_HANDED_OVER_PER_SECOND = 1000


class NotRunningError(RuntimeError):
    """Something needs the running server, and none runs in this process."""


class WebSocketServer:
    """
    Attributes:
        settings: What `config/websocket.yaml` says.
        connections: Who is connected, subscribed and present.
        hooks, authorizers: What the application registered.
        counters, rates: What happened so far.
        tasks: Greenlets that run the application's code.
        listening: Where it can be reached, for people: `["ws://127.0.0.1:9501/"]`.
        is_draining: Whether it is stopping and admits nobody.
    """

    def __init__(self, settings: WebSocketSettings | None = None) -> None:
        self.connections = ConnectionManager()
        self.hooks = Hooks()
        self.authorizers = Authorizers()
        self.counters = Counters()
        self.rates = Rates()
        self.tasks = Tasks()
        self.protocol = AlphavelProtocol()
        self.listening: list[str] = []
        self.is_draining = False
        self.started_at = 0.0
        self.current_socket_id: Callable[[], str | None] = lambda: None
        self._dispatcher = Dispatcher(self)
        self._reactor: Reactor | None = None
        self._timers: list[gevent.Greenlet] = []
        self._second: Any = None
        self.configure(settings or WebSocketSettings())

    def configure(self, settings: WebSocketSettings) -> None:
        """
        Take settings, at the start or anew. Host, port and whatever else is decided at the start stays as it is.

        Raises:
            ConfigurationError: Tokens are asked for and there is no key to check them with, or a key does not fit.
        """
        verifier = TokenVerifier(settings.auth)
        self.origins = OriginRules(settings.allowed_origins)
        self.settings = settings
        self.verifier = verifier
        if self._reactor is not None:
            self._reactor.configure(settings)

    # What the application registers

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

    def on(self, name: str) -> Callable[[HandlerT], HandlerT]:
        """Register a handler of `open`, `close`, `message` or `worker_start`: see `hooks.LIFE_CYCLE` for their arguments."""
        return self._registering(lambda handler: self.hooks.on(name, handler))

    def event(self, name: str) -> Callable[[HandlerT], HandlerT]:
        """Register a handler of a custom client event: `handler(connection, data)`."""
        return self._registering(lambda handler: self.hooks.event(name, handler))

    def route(self, path: str, auth: bool = True) -> Callable[[HandlerT], HandlerT]:
        """
        Register a path with no protocol: `handler(connection, message)` gets `str` for text and `bytes` for binary.

        Args:
            path: Such as `/echo`.
            auth: Whether a token is asked for where tokens are checked.
        """
        return self._registering(lambda handler: self.hooks.route(path, handler, auth))

    def every(self, seconds: float) -> Callable[[HandlerT], HandlerT]:
        """Call a function every so many seconds, on one worker, in a greenlet of its own, from the start of the server."""
        return self._registering(lambda handler: self.hooks.every(seconds, handler))

    @staticmethod
    def _registering(register: Callable[[Handler], None]) -> Callable[[HandlerT], HandlerT]:
        def decorate(handler: HandlerT) -> HandlerT:
            register(handler)
            return handler

        return decorate

    # Broadcasting

    def to_channel(self, name: str) -> Broadcast:
        """Address the subscribers of a channel."""
        return Broadcast(self, channels=(name,))

    def to_channels(self, names: Iterable[str]) -> Broadcast:
        """Address the subscribers of several channels; who is on two of them gets the event twice."""
        return Broadcast(self, channels=tuple(names))

    def to_user(self, user_id: str | int) -> Broadcast:
        """Address all connections of a user; `to_user(123)` and `to_user("123")` are one."""
        return Broadcast(self, users=(str(user_id),))

    def to_users(self, user_ids: Iterable[str | int]) -> Broadcast:
        """Address all connections of several users."""
        return Broadcast(self, users=tuple(map(str, user_ids)))

    def to_all(self) -> Broadcast:
        """Address every connection."""
        return Broadcast(self, everybody=True)

    def publish(
        self,
        message: Message,
        channels: Iterable[str],
        users: Iterable[str],
        everybody: bool,
        excluded: frozenset[str],
    ) -> int:
        """Queue a message; see `Broadcast.push`, which everybody calls."""
        return self.reactor.call(self._publish, message, channels, users, everybody, excluded)

    def _publish(
        self, message: Message, channels: Iterable[str], users: Iterable[str], everybody: bool, excluded: frozenset[str]
    ) -> int:
        queued = 0
        for name in channels:
            channel = self.connections.channels.get(name)
            if channel is None:
                self._check_channel_name(name)
            else:
                queued += self._fan_out(message, channel.subscribers, channel, excluded)
        for user_id in users:
            theirs = self.connections.users.get(user_id)
            if theirs is not None:
                queued += self._fan_out(message, theirs, None, excluded)
        if everybody:
            queued += self._fan_out(message, self.connections.connections, None, excluded)
        self.counters.messages_out += queued
        return queued

    def _fan_out(
        self, message: Any, subscribers: Mapping[str, Connection], channel: Channel | None, excluded: frozenset[str]
    ) -> int:
        self.reactor.publish(message, subscribers, channel, excluded)
        return len(subscribers) - sum(1 for socket_id in excluded if socket_id in subscribers)

    def _check_channel_name(self, name: str) -> None:
        problem = name_error(name, self.settings.options.max_channel_name_length)
        if problem is not None:
            raise ValueError(f"Cannot push to the channel {name!r}. {problem}")

    def drain(self, below: int = 65536, timeout: float | None = None) -> bool:
        """
        Wait until no client has more than `below` bytes waiting, so that a greenlet can publish as fast as clients read.

        Args:
            below: Bytes.
            timeout: Seconds; None: as long as it takes.

        Returns:
            False where the time was over first.
        """
        return self.reactor.drain(below, timeout)

    # Questions

    def get_presence(self, channel: str) -> list[dict[str, Any]]:
        """Members of a presence channel: `[{"id": "123", "connected_at": 1732291200.5, "info": {...}}]`."""
        return self.connections.roster(channel)

    def get_channels(self) -> list[str]:
        """Names of the channels somebody is subscribed to."""
        return list(self.connections.channels)

    def get_channel_stats(self, channel: str) -> dict[str, Any]:
        """`{"name": "chat.room.1", "subscribers": 2, "type": "public"}`."""
        return self.connections.stats_of(channel)

    def get_stats(self) -> dict[str, Any]:
        """The state of this worker: see `stats.snapshot` for its keys."""
        return snapshot(self)

    @property
    def reactor(self) -> Reactor:
        """The sockets of this process. Raises NotRunningError where there are none."""
        if self._reactor is None:
            raise NotRunningError(
                "The WebSocket server does not run in this process, so there is nobody to push to. Start it with "
                "`alpha websocket:serve`, `gunicorn -k egg:alphavel#geventwebsocket`, or register the blueprint on an app "
                "served by gevent."
            )
        return self._reactor

    @property
    def is_running(self) -> bool:
        """Whether sockets can be handed to it."""
        return self._reactor is not None

    # Life

    def start(self) -> None:
        """
        Start on the hub of the calling thread. Does nothing where it runs already.

        Raises:
            NotRunningError: The process is not monkey-patched, so that blocking code would stop everybody.
        """
        if self._reactor is not None:
            return
        if not monkey.is_module_patched("socket"):
            raise NotRunningError(
                "The WebSocket server needs gevent's monkey-patching. `alpha websocket:serve` and the gunicorn worker do it "
                "themselves; elsewhere begin the program with `from gevent import monkey; monkey.patch_all()`."
            )
        self.started_at = time.monotonic()
        self.is_draining = False
        self._reactor = Reactor(self.settings, self, self.counters)
        self._second = self._reactor.loop.timer(1.0, 1.0)
        self._second.start(self._second_passed)
        for handler in self.hooks.life_cycle["worker_start"]:
            self.tasks.spawn(self._run_logged, handler, "worker_start")
        for timer in self.hooks.timers:
            self._timers.append(gevent.spawn(self._run_timer, timer.seconds, timer.handler))

    def stop(self, timeout: float | None = None) -> bool:
        """
        Hand the clients over and stop: nobody is admitted any more, clients are told to reconnect, a few at a time so
        that they do not all come back at once, outboxes are written, handlers may finish.

        Args:
            timeout: Seconds it may take; None: `options.drain_timeout`.

        Returns:
            False where something had to be cut short.
        """
        if self._reactor is None:
            return True
        reactor, self.is_draining = self._reactor, True
        deadline = time.monotonic() + (self.settings.options.drain_timeout if timeout is None else timeout)
        gevent.killall(self._timers)
        self._timers.clear()
        self._hand_over(deadline)
        clean = self.tasks.finish(_left(deadline))
        while reactor.sockets and time.monotonic() < deadline:
            gevent.sleep(0.01)
        clean = not reactor.sockets and clean
        for transport in list(reactor.heartbeat.transports()):
            transport.abort(*RESTARTING)
        self._second.stop()
        reactor.stop()
        self._reactor = None
        return clean

    def _hand_over(self, deadline: float) -> None:
        everyone = list(self.connections.connections.values())
        random.shuffle(everyone)
        # At most half of the time goes into pacing: closing handshakes and handlers need the rest.
        pause = min(1 / _HANDED_OVER_PER_SECOND, _left(deadline) / 2 / max(1, len(everyone)))
        for number, connection in enumerate(everyone):
            connection.transport.close(*RESTARTING)
            if number % 10 == 9:
                gevent.sleep(pause * 10)

    def _second_passed(self) -> None:
        self.rates.sample(self.counters, time.monotonic())
        self._dispatcher.second_passed()

    def _run_timer(self, seconds: float, handler: Handler) -> None:
        run_timer(seconds, lambda: self._run_logged(handler, f"every({seconds})"), gevent.sleep, time.monotonic)

    def _run_logged(self, handler: Handler, what: str) -> None:
        try:
            handler()
        except Exception:
            self.counters.errors += 1
            logger.exception("A handler of %s failed", what)

    # Connections coming and going

    def verify(self, token: Any) -> User:
        """
        Check a token. May block the calling greenlet, where keys are fetched.

        Raises:
            AuthenticationError: It is not valid, or tokens are not checked here at all.
        """
        if not self.verifier.enabled:
            raise AuthenticationError("This server checks no tokens.", reason="disabled")
        return self.verifier.verify(token)

    def opened(self, transport: Transport) -> None:
        """Enter a connection whose handshake is done, greet it, and begin to read."""
        connection = transport.connection
        reactor = self.reactor
        reactor.settle(self.connections.connections)
        if connection.user is not None:
            theirs = self.connections.users.get(connection.user.id)
            if theirs is not None:
                reactor.settle(theirs)
        self.connections.add(connection)
        reactor.heartbeat.watch(transport)
        greeting = connection.protocol.connected(connection.socket_id, time.time())
        if greeting is not None:
            transport.send_frame(greeting)
        if self.hooks.life_cycle["open"]:
            self._dispatcher.enqueue(connection, Opened())
        transport.start()

    def leave(self, connection: Connection, name: str) -> None:
        """Take a connection off a channel and tell the others."""
        channel = self.connections.channels.get(name)
        if channel is None:
            return
        self.reactor.settle(channel.subscribers)
        _, member = self.connections.unsubscribe(connection, name)
        if member is not None:
            self.announce(channel, "member_removed", member)

    def announce(self, channel: Channel, change: str, member: Member, except_id: str | None = None) -> None:
        """Tell the subscribers of a presence channel who came (`member_added`) or went (`member_removed`)."""
        excluded = frozenset((except_id,)) if except_id else frozenset()
        self._fan_out(PresenceChange(change, member), channel.subscribers, channel, excluded)

    def received(self, connection: Connection, opcode: Opcode, payload: Any) -> None:
        """See `transports.Receiver`."""
        self._dispatcher.received(connection, opcode, payload)

    def in_turn(self, connection: Connection, action: Callable[[], None]) -> None:
        """See `transports.Receiver`."""
        if connection.waiting is None:
            action()
        else:
            connection.waiting.append((InTurn(action), ""))

    def closed(self, connection: Connection, code: int, reason: str) -> None:
        """See `transports.Receiver`. The one place where a connection leaves the books."""
        for channel, member in self.connections.remove(connection):
            if channel.subscribers:
                self.announce(channel, "member_removed", member)
        if self.hooks.life_cycle["close"]:
            self._dispatcher.enqueue(connection, Closed(code, reason))

    def too_slow(self, connection: Connection, waiting: int) -> None:
        """See `transports.Receiver`."""
        self.counters.slow_consumers += 1
        gevent.spawn(  # a log handler may block, and this may be the hub
            logger.warning,
            "Connection %s reads too slowly: %d bytes wait, %d are allowed; closing it",
            connection.socket_id,
            waiting,
            self.settings.options.max_outbox,
        )


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
