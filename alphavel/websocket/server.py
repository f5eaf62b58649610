"""
The WebSocket server of a process: what the `WebSocket` facade resolves to.

It knows who is connected and what the application registered; it does not accept sockets. Whatever serves HTTP in the
process (`serve`, the gunicorn worker, the blueprint) asks `admission` and hands it the sockets of those admitted.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from gevent import monkey

from alphavel.websocket import consistency, subscriptions, tracing, watchlist, webhooks
from alphavel.websocket.apps import App, Apps, Listener
from alphavel.websocket.auth import AuthenticationError, User
from alphavel.websocket.auth.jwt import TokenVerifier
from alphavel.websocket.auth.origins import OriginRules
from alphavel.websocket.auth.revocations import DAY_S
from alphavel.websocket.authorization import check_master_keys
from alphavel.websocket.broadcasting import NOBODY, Broadcaster
from alphavel.websocket.dispatcher import Closed, Dispatcher, InTurn, Opened
from alphavel.websocket.errors import NOT_PATCHED, NotRunningError
from alphavel.websocket.flooding import Addresses
from alphavel.websocket.hooks import Handler, HandlerT, Route
from alphavel.websocket.later import log_later
from alphavel.websocket.logs import about, get_logger
from alphavel.websocket.protocols import Command, Message
from alphavel.websocket.proxies import Proxies
from alphavel.websocket.reauthorization import Reauthorization
from alphavel.websocket.registration import Registration
from alphavel.websocket.relay import Relay
from alphavel.websocket.settings import WebSocketSettings
from alphavel.websocket.siblings import Siblings, on_this_machine
from alphavel.websocket.signing_in import Deadlines
from alphavel.websocket.stats import Counters, Rates, snapshot
from alphavel.websocket.tasks import Tasks
from alphavel.websocket.timers import Timers
from alphavel.websocket.transports import Reactor
from alphavel.websocket.workers.folder import WorkersFolder

if TYPE_CHECKING:
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.transports import Transport

logger = get_logger("alphavel.websocket")

RESTARTING = (4200, "server is restarting, reconnect")
_HANDED_OVER_PER_SECOND = 1000
_GOODBYE_S = 1.0


class WebSocketServer(Registration, Broadcaster):
    """
    Attributes:
        settings: What `config/websocket.yaml` says.
        apps: The apps, each with its connections and channels.
        connections: Who is connected, subscribed and present in the default app.
        listeners: Who is told what happens on channels, see `apps.Listener`; none where there are no webhooks.
        webhooks: Tells the application's own HTTP servers.
        relay: Reaches the other workers of the fleet.
        reauthorization: Takes back what was granted.
        siblings: The other workers of this server or of the fleet; None where there can be none.
        addresses: How much each client's address has.
        hooks, authorizers: What the application registered.
        counters, rates: What happened so far.
        tasks: Greenlets that run the application's code.
        timers: The application's timers.
        listening: Where it can be reached, for people: `["ws://127.0.0.1:9501/"]`.
        is_retiring: Whether others accept in its place, or nobody will: no HTTP connection is kept for a further request.
        is_draining: Whether it is stopping and admits nobody.
        is_worker: Whether the process is one of several that a parent has started to be this server.
    """

    def __init__(self, settings: WebSocketSettings | None = None) -> None:
        super().__init__()
        self.counters = Counters()
        self.rates = Rates()
        self.tasks = Tasks()
        self.timers = Timers(self)
        self.listeners: list[Listener] = []
        self.apps = Apps(self)
        self.addresses = Addresses()
        self.webhooks = webhooks.Webhooks(self.counters)
        self.relay = Relay(self)
        self.reauthorization = Reauthorization(self)
        self.siblings: Siblings | None = None
        self.connections = self.apps.default.connections
        self.listening: list[str] = []
        self.is_retiring = self.is_draining = False
        self.is_worker = False
        self.started_at = 0.0
        self.current_socket_id: Callable[[], str | None] = lambda: None
        self._dispatcher = Dispatcher(self)
        self.received = self._dispatcher.received  # see `transports.Receiver`
        self.pinged = self._dispatcher.pinged
        self._deadlines = Deadlines()
        self._reactor: Reactor | None = None
        self._serves = False
        self._second: Any = None
        self.configure(settings or WebSocketSettings())

    def configure(self, settings: WebSocketSettings) -> None:
        """
        Take settings, at the start or anew. Host, port and whatever else is decided at the start stays as it is.

        Raises:
            ConfigurationError: Tokens are asked for and there is no key to check them with, a key does not fit, an app is
                incomplete, or a proxy has no address.
        """
        verifier = TokenVerifier(settings.auth)
        self.apps.check(settings)
        self.relay.check(settings.broadcasting)
        tracing.check(settings.tracing.enabled)
        webhooks.check(settings.apps)
        check_master_keys(settings.apps)
        consistency.check(settings)
        proxies = Proxies(settings.proxies)
        self.origins = OriginRules(settings.allowed_origins)
        self.proxies = proxies
        self.settings = settings
        self.verifier = verifier
        self.apps.configure(settings)
        self.addresses.configure(settings.options, (one.remote_addr for one in self._everyone()))
        self.webhooks.configure(self.apps)
        self.listeners = [listener for listener in self.listeners if listener is not self.webhooks]
        if self.webhooks.any:
            self.listeners.append(self.webhooks)
        if self._reactor is not None:
            self._reactor.configure(settings)

    def exposes_metrics_at(self, path: str) -> bool:
        """Whether a path is that of the metrics; without any it may be one of the application's own pages."""
        return self.settings.metrics.enabled and path == self.settings.metrics.path

    def app(self, app_id: str | int) -> App:
        """
        Return an app by its id: `WebSocket.app("shop").to_channel("orders").push(…)`.

        Raises:
            LookupError: There is none.
        """
        app = self.apps.get(app_id)
        if app is None:
            known = ", ".join(repr(app.id) for app in self.apps if app.id) or "none"
            raise LookupError(f"There is no app {str(app_id)!r}; apps of config/websocket.yaml: {known}.")
        return app

    def route(self, path: str, auth: bool = True) -> Callable[[HandlerT], HandlerT]:
        """See `Registration.route`; its connections belong to the default app."""
        register = super().route(path, auth)

        def decorate(handler: HandlerT) -> HandlerT:
            handler = register(handler)
            self._adopt(self.hooks.routes[path])
            return handler

        return decorate

    def take_over(self, other: Registration) -> None:
        """See `Registration.take_over`."""
        super().take_over(other)
        for route in self.hooks.routes.values():
            self._adopt(route)

    def _adopt(self, route: Route) -> None:
        route.protocol.app = self.apps.default
        route.protocol.tally = self.counters.tallies[route.protocol.name]

    # Broadcasting in the default app

    def publish(
        self,
        message: Message,
        channels: Iterable[str] = (),
        users: Iterable[str] = (),
        everybody: bool = False,
        excluded: frozenset[str] = NOBODY,
    ) -> int:
        """See `Broadcaster.publish`."""
        return self.apps.default.publish(message, channels, users, everybody, excluded)

    def requesting_socket_id(self) -> str | None:
        """See `Broadcaster`."""
        return self.current_socket_id()

    def drain(self, below: int = 65536, timeout: float | None = None) -> bool:
        """
        Wait until no client, and no other worker of this server, has more than `below` bytes waiting, so that a greenlet can
        publish as fast as clients read.

        Args:
            below: Bytes.
            timeout: Seconds; None: as long as it takes. One client that reads nothing keeps its bytes waiting until they are
                more than `options.max_outbox`, so give one.

        Returns:
            False where the time was over first.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self.reactor.drain(below, timeout):
            return False
        return self.relay.bus.drain(below, None if deadline is None else _left(deadline))

    # Questions

    def get_presence(self, channel: str) -> list[dict[str, Any]]:
        """Members of a presence channel: `[{"id": "123", "connected_at": 1732291200.5, "info": {...}}]`."""
        return self.apps.default.get_presence(channel)

    def get_channels(self) -> list[str]:
        """Names of the channels somebody is subscribed to."""
        return self.apps.default.get_channels()

    def get_channel_stats(self, channel: str) -> dict[str, Any]:
        """`{"name": "chat.room.1", "subscribers": 2, "type": "public"}`."""
        return self.apps.default.get_channel_stats(channel)

    def history(self, channel: str, limit: int = 100, since: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """
        What was published on a channel that keeps a history, the oldest first:
        `{"epoch": …, "serial": 57, "messages": [{"serial": 57, "event": "new-message", "data": {…}}]}`.

        Args:
            channel: Its name.
            limit: At most so many messages.
            since: A position `{"epoch": …, "serial": 41}`: what came after it, and `"recovered"` says whether that is all.
                None: the last ones.

        Raises:
            ValueError: The channel keeps no history, or the position is none of this channel's.
        """
        return self.apps.default.history(channel, limit, since)

    # Taking back what was granted

    def reauthorize(self, pattern: str) -> int:
        """See `Reauthorization.reauthorize`; in the default app: `WebSocket.reauthorize("private-orders.*")`."""
        return self.apps.default.reauthorize(pattern)

    def disconnect_user(self, user_id: str | int) -> int:
        """Close all connections of a user, on all workers; return how many they were on this one."""
        return self.apps.default.terminate_user(str(user_id))

    def revoke(self, jti: str, expires_in: float = DAY_S) -> int:
        """See `Reauthorization.revoke`: `WebSocket.revoke(claims["jti"])`."""
        return self.reauthorization.revoke(jti, expires_in)

    def get_stats(self) -> dict[str, Any]:
        """The state of this worker: see `stats.snapshot` for its keys."""
        return snapshot(self)

    @property
    def reactor(self) -> Reactor:
        """The sockets of this process. Raises NotRunningError where there are none."""
        if self._reactor is None:
            raise NotRunningError(
                "The WebSocket server does not run in this process, so there is nobody to push to. Start it with "
                "`alpha websocket:serve`, `gunicorn -k egg:alphavel#geventwebsocket`, or register the blueprint on an app that "
                "gevent serves in a process that begins with `from gevent import monkey; monkey.patch_all()`."
            )
        return self._reactor

    @property
    def is_running(self) -> bool:
        """Whether sockets can be handed to it."""
        return self._reactor is not None

    @property
    def has_others(self) -> bool:
        """Whether other workers of the server or of the fleet are there, and what is pushed here reaches them."""
        return self.relay.bus.has_peers and self.siblings is not None and self.siblings.has_others

    @property
    def has_more_than_its_share(self) -> bool:
        """Whether this worker has more connections than the others on average; never where it is the only one."""
        if self.siblings is None or self._reactor is None:
            return False
        workers = len(self.siblings.bus.workers) + 1
        return workers > 1 and self._reactor.sockets * workers >= sum(app.connections.total for app in self.apps) + workers

    # Life

    def join(self, folder: Path) -> None:
        """
        Be one of several workers of a server, who meet in a folder. To be called before `start`. With the driver redis there is
        no need: every worker is a node of the fleet by itself.

        Raises:
            ConfigurationError: The settings ask for what one worker alone can do.
        """
        if self.settings.broadcasting.driver == "memory":
            self.apps.check(self.settings, several=True)  # of gunicorn's workers that was not known before
            self.siblings, bus = on_this_machine(self, folder)
            self.relay.carry(bus)

    def join_workers_of(self, parent: int) -> None:
        """
        Be one of the workers that a process has forked which knows nothing of Alphavel, gunicorn's arbiter. To be called before
        `start`, by each of them.

        Raises:
            ControlError: The folder for sockets cannot be used.
            ConfigurationError: See `join`.
        """
        self._folder = WorkersFolder(parent)  # kept, and so its lock, for as long as this worker lives
        self.join(self._folder.path)

    def start(self) -> None:
        """
        Start on the hub of the calling thread. Does nothing where it runs already.

        Raises:
            NotRunningError: The process is not monkey-patched, so that blocking code would stop everybody.
        """
        self.prepare()
        if self._serves:
            return
        self._serves = True
        self.relay.start()
        for handler in self.hooks.life_cycle["worker_start"]:
            self.tasks.spawn(self.run_logged, handler, "worker_start")
        if self.siblings is None:
            self.timers.start()
        else:
            self.siblings.lead()

    def prepare(self) -> None:
        """Be able to hold sockets, and do nothing else yet; the first half of `start`."""
        if self._reactor is not None:
            return
        if not monkey.is_module_patched("socket"):
            raise NotRunningError(NOT_PATCHED)
        self.started_at = time.monotonic()
        self.is_retiring = self.is_draining = False
        self._reactor = self._make_reactor()
        self._second = self._reactor.loop.timer(1.0, 1.0)
        self._second.start(self._second_passed)

    def _make_reactor(self) -> Reactor:
        if not self.measures:
            return Reactor(self.settings, self, self.counters)
        from alphavel.websocket.transports.measuring import MeasuringReactor

        return MeasuringReactor(self.settings, self, self.counters)

    @property
    def measures(self) -> bool:
        """Whether anybody wants to know more than what is counted anyway."""
        return self.settings.metrics.enabled or self.has_dashboard

    @property
    def has_dashboard(self) -> bool:
        """Whether somebody may see the dashboard."""
        return self.guards_dashboard or self.settings.dashboard.password is not None

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
        reactor, self.is_retiring, self.is_draining = self._reactor, True, True
        deadline = time.monotonic() + (self.settings.options.drain_timeout if timeout is None else timeout)
        self.timers.stop()
        if self.siblings is not None:
            gevent.spawn(self._let_another_lead)
        self._hand_over(deadline)
        clean = self.tasks.finish(_left(deadline))
        while reactor.sockets and time.monotonic() < deadline:
            gevent.sleep(0.01)
        clean = not reactor.sockets and clean
        for transport in list(reactor.heartbeat.transports()):
            transport.abort(*RESTARTING)
        if self.siblings is not None:
            self.siblings.finish(max(_GOODBYE_S, _left(deadline)))
        self.relay.stop(max(_GOODBYE_S, _left(deadline)))
        self.webhooks.stop(max(_GOODBYE_S, _left(deadline)))  # what has happened just now is to be told, too
        self._second.stop()
        reactor.stop()
        self._reactor = None
        self._serves = False
        return clean

    def _everyone(self) -> Iterator[Connection]:
        return (connection for app in self.apps for connection in app.connections.connections.values())

    def _hand_over(self, deadline: float) -> None:
        everyone = list(self._everyone())
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
        self._deadlines.second_passed()
        for app in self.apps:
            app.counts.second_passed()
            app.histories.second_passed(app.connections.channels.__contains__)
        if self.measures:
            self.relay.probe()

    def _let_another_lead(self) -> None:
        self.timers.join()  # a handler that runs here still must not run there, too
        if self.siblings is not None:
            self.siblings.let_another_lead()

    def run_logged(self, handler: Handler, what: str) -> None:
        """Call a handler of the application that nobody waits for."""
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
        try:
            return self._verified(token)
        except AuthenticationError as error:
            self.counters.auth_failures[error.reason] += 1
            raise

    def _verified(self, token: Any) -> User:
        user = self.verifier.verify(token)
        if self.reauthorization.is_revoked(user):
            raise AuthenticationError("The token was revoked.", reason="revoked")
        return user

    def opened(self, transport: Transport, first: Command | None = None) -> None:
        """Enter a connection whose handshake is done, greet it, and begin to read; `first`: what it asks for by coming."""
        connection = transport.connection
        reactor, manager = self.reactor, connection.app.connections
        reactor.settle(manager.connections)
        was_online = False
        if connection.user is not None:
            theirs = manager.users.get(connection.user.id)
            if theirs is not None:
                was_online = True
                reactor.settle(theirs)
        manager.add(connection)
        self._tell_address(self.addresses.opened(connection.remote_addr))
        if connection.app.siblings is not None:
            connection.app.siblings.connections_changed(connection.app)
        self._deadlines.entered(connection)
        if connection.user is not None:
            watchlist.changed(connection.app, connection.user.id, was_online)
        reactor.heartbeat.watch(transport)
        greeting = connection.protocol.connected(connection.socket_id, time.time())
        if greeting is not None:
            transport.send_frame(greeting)
        if self.hooks.life_cycle["open"]:
            self._dispatcher.enqueue(connection, Opened())
        if first is not None:
            self._dispatcher.enqueue(connection, first)
        transport.start()

    def moved_in(self, connection: Connection) -> None:
        """Go on with a connection of the process before this one, see `handover`; its client is not to notice."""
        self._tell_address(self.addresses.opened(connection.remote_addr))
        self._deadlines.entered(connection)
        connection.transport.start()

    def refused(self, transport: Transport, code: int, reason: str) -> None:
        """Close a connection that is not let in, in none of the books, with the code that tells its client why."""
        transport.start()
        transport.close(code, reason)

    def in_turn(self, connection: Connection, action: Callable[[], None]) -> None:
        """See `transports.Receiver`."""
        if connection.waiting is None:
            action()
        else:
            connection.waiting.append((InTurn(action), ""))

    def closed(self, connection: Connection, code: int, reason: str) -> None:
        """See `transports.Receiver`. The one place where a connection leaves the books."""
        was_open = subscriptions.disconnect(connection.app, connection)
        if was_open:
            self._tell_address(self.addresses.closed(connection.remote_addr))
        if was_open and self.hooks.life_cycle["close"]:
            self._dispatcher.enqueue(connection, Closed(code, reason))

    def _tell_address(self, changed: tuple[str, int] | None) -> None:
        if changed is not None and self.siblings is not None:
            self.siblings.address_changed(*changed)

    def too_slow(self, connection: Connection, waiting: int) -> None:
        """See `transports.Receiver`."""
        self.counters.slow_consumers += 1
        text = "A client reads too slowly: %d bytes wait, %d are allowed; closing it"
        log_later(logger, logging.WARNING, text, waiting, self.settings.options.max_outbox, extra=about(connection))


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
