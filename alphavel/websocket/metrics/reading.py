"""
The metrics of this process, read from what is counted anyway. Nothing here is per message: a scrape reads some hundred numbers
and walks the channels, a slice at a time.
"""

from __future__ import annotations

import fnmatch
import platform
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

import gevent
import psutil

from alphavel.foundation.metrics import Family
from alphavel.websocket.channels.channel import Kind
from alphavel.websocket.files import room_for_connections
from alphavel.websocket.handshake import REASONS as HANDSHAKE_REASONS
from alphavel.websocket.pusher_entrance import REASONS as PUSHER_REASONS
from alphavel.websocket.transports.measuring import MeasuringReactor

if TYPE_CHECKING:
    from alphavel.websocket.connections import ConnectionManager
    from alphavel.websocket.server import WebSocketServer

T = TypeVar("T")

PREFIX = "alphavel_websocket_"
MAX_NAMED_CHANNELS = 1000
"""Channels that are shown by name, however many match `metrics.channels`: each is a time series that somebody keeps."""

_AUTH_REASONS = (
    "missing", "malformed", "expired", "signature", "claims", "key", "revoked", "channel", "sign_in", "api",
)  # fmt: skip
_REFUSAL_REASONS = sorted({*HANDSHAKE_REASONS.values(), *PUSHER_REASONS.values(), "malformed", "stopping"})
_YIELD_EVERY = 4096


def families(server: WebSocketServer) -> list[Family]:
    """Return what this worker counts and measures. May switch, among many channels."""
    from alphavel.websocket import __version__

    settings, counters = server.settings, server.counters
    most = room_for_connections(settings.options.max_connections)
    started_at = time.time() - (time.monotonic() - server.started_at)
    info = {"version": __version__, "python": platform.python_version(), "driver": settings.broadcasting.driver}
    found = [
        _gauge("info", "What runs; always 1.").add(1, **info, writer=server.reactor.writer.name),
        _gauge("start_time_seconds", "When this worker started, Unix time.").add(round(started_at, 3)),
        _gauge("draining", "1 while the worker hands its clients over and admits nobody.").add(int(server.is_draining)),
        _gauge("max_connections", "Connections that this worker admits.").add(most),
        _by_app(server, "connections", "Open WebSocket connections.", lambda books: len(books.connections)),
        _counter("handshakes_total", "WebSocket handshakes that succeeded.").add(counters.handshakes),
        _reasons("handshake_failures_total", "Handshakes that were refused.", counters.refusals, _REFUSAL_REASONS),
        _reasons("auth_failures_total", "Tokens, signatures and subscriptions refused.", counters.auth_failures, _AUTH_REASONS),
        _tallied(server, "messages_received_total", "Messages from clients, pings and pongs not counted.", "messages_in"),
        _tallied(server, "messages_sent_total", "Pushed messages, counted for each connection they go to.", "messages_out"),
        _counter("received_bytes_total", "Bytes read from sockets after their handshakes.").add(counters.bytes_in),
        _counter("sent_bytes_total", "Bytes written to sockets after their handshakes.").add(counters.bytes_out),
        _counter("slow_consumers_total", "Connections closed because they did not read.").add(counters.slow_consumers),
        _counter("rate_limited_messages_total", "Messages dropped because too many came in a second.").add(
            counters.rate_limited
        ),
        _counter("handler_errors_total", "Exceptions that left a handler or an authorizer.").add(counters.errors),
        _gauge("handlers_running", "Handlers of the application at work, or waiting for their turn.").add(len(server.tasks)),
        *_outboxes(server),
        *_measured(server),
        *_bus(server),
        *_webhooks(server),
        *_process(),
    ]
    return found + _channels(server)


def _gauge(name: str, text: str, *, is_shared: bool = False) -> Family:
    return Family(PREFIX + name, "gauge", text, is_shared=is_shared)


def _counter(name: str, text: str) -> Family:
    return Family(PREFIX + name, "counter", text)


def _by_app(
    server: WebSocketServer, name: str, text: str, count: Callable[[ConnectionManager], int], *, is_shared: bool = False
) -> Family:
    family = _gauge(name, text, is_shared=is_shared)
    for app in server.apps:
        family.add(count(app.connections), app=app.id)
    return family


def _reasons(name: str, text: str, counts: Counter[str], reasons: Iterable[str]) -> Family:
    family = _counter(name, text)
    # Those that have not happened, too: a rate cannot see the first of something that was not there before.
    for reason in sorted({*reasons, *counts}):
        family.add(counts[reason], reason=reason)
    return family


def _tallied(server: WebSocketServer, name: str, text: str, attribute: str) -> Family:
    family = _counter(name, text)
    for protocol in ("alphavel", "pusher", "raw"):
        family.add(getattr(server.counters.tallies[protocol], attribute), protocol=protocol)
    return family


def _outboxes(server: WebSocketServer) -> list[Family]:
    waiting = [transport.outbox_bytes for transport in server.reactor.blocked]
    return [
        _gauge("blocked_connections", "Connections whose peers take no more at the moment.").add(len(waiting)),
        _gauge("outbox_bytes", "Bytes that wait for peers who do not take them.").add(sum(waiting)),
        _gauge("outbox_largest_bytes", "Bytes that wait for the slowest of them.").add(max(waiting, default=0)),
        _gauge("outbox_limit_bytes", "Bytes that may wait for one: options.max_outbox.").add(server.reactor.max_outbox),
    ]


def _measured(server: WebSocketServer) -> list[Family]:
    reactor = server.reactor
    if not isinstance(reactor, MeasuringReactor):  # metrics were switched on after the start
        return []
    latencies = Family(
        f"{PREFIX}publish_latency_seconds", "histogram", "From a push to its frames being written; sampled, see the docs."
    )
    lags = Family(f"{PREFIX}loop_lag_seconds", "histogram", "How late the event loop came to a timer, four times a second.")
    return [latencies.add_histogram(reactor.latencies), lags.add_histogram(reactor.lags)]


def _bus(server: WebSocketServer) -> list[Family]:
    counters, relay = server.counters, server.relay
    lag = _gauge("bus_lag_seconds", "Age of the latest probe of another node when it came, by the clocks of both.")
    if relay.lag is not None:
        lag.add(relay.lag)
    return [
        _counter("bus_published_total", "Messages to other workers and nodes, also those that no node needed.").add(
            counters.bus_published
        ),
        _counter("bus_received_total", "Messages from them, and from processes that only send.").add(counters.bus_received),
        _counter("bus_refused_total", "Messages that were malformed or not signed with our secret.").add(counters.bus_refused),
        _counter("bus_dropped_total", "Messages that were given up on their way out.").add(relay.bus.dropped),
        _gauge("bus_buffered_bytes", "Bytes that wait to go out.").add(relay.bus.buffered_bytes),
        _gauge("bus_up", "1 where messages to and from other nodes are carried.").add(int(relay.bus.is_up)),
        *_redis(relay.bus.figures()),
        lag,
    ]


def _redis(figures: Mapping[str, int]) -> list[Family]:
    if not figures:
        return []
    return [
        _counter("bus_duplicates_total", "Messages that came twice and were dropped.").add(figures["bus_duplicates"]),
        _counter("bus_missed_total", "Messages of other nodes that never came.").add(figures["bus_missed"]),
        _counter("bus_reconnects_total", "Times that this node was on the bus again.").add(figures["bus_reconnects"]),
        _counter("bus_unneeded_total", "Messages that stayed here, since no other node listened.").add(figures["bus_unneeded"]),
        _gauge("bus_keys", "Channels of Redis that this node listens to.").add(figures["bus_keys"]),
    ]


def _webhooks(server: WebSocketServer) -> list[Family]:
    counters, events = server.counters, _counter("webhook_events_total", "Events for webhooks, by what became of them.")
    return [
        events.add(counters.webhooks_delivered, outcome="delivered").add(counters.webhooks_dropped, outcome="dropped"),
        _counter("webhook_failed_requests_total", "Requests to receivers that failed; most are made again.").add(
            counters.webhooks_failed
        ),
        _gauge("webhook_events_waiting", "Events that wait to be told.").add(server.webhooks.waiting),
    ]


def _process() -> list[Family]:
    process = psutil.Process()
    with process.oneshot():
        memory, times = process.memory_info().rss, process.cpu_times()
        files = process.num_fds()
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        _gauge("process_resident_memory_bytes", "Memory of the worker.").add(memory),
        _counter("process_cpu_seconds_total", "Processor time of the worker.").add(times.user + times.system),
        _gauge("process_open_fds", "Open files; each connection is one.").add(files),
        _gauge("process_max_fds", "Open files that the system allows.").add(limit),
    ]


# Who is where, on all workers: each of them knows, so one is asked.


def _channels(server: WebSocketServer) -> list[Family]:
    users = _by_app(server, "users", "Users who are connected.", _users, is_shared=True)
    channels = _gauge("channels", "Channels with subscribers, by type.", is_shared=True)
    subscriptions = _gauge("subscriptions", "Subscriptions, by type of channel.", is_shared=True)
    members = _gauge("presence_members", "Members of all presence channels.", is_shared=True)
    largest = _gauge("presence_largest_members", "Members of the largest presence channel.", is_shared=True)
    named = _gauge("channel_subscribers", "Subscribers of channels that metrics.channels names.", is_shared=True)
    named_members = _gauge("channel_members", "Members of presence channels that metrics.channels names.", is_shared=True)
    patterns = server.settings.metrics.channels
    for app in server.apps:
        books, sizes = app.connections, [0]
        by_kind: Counter[str] = Counter()
        subscribed: Counter[str] = Counter()
        for name in _patiently(books.names()):
            count, kind = books.count(name), Kind.of(name)
            by_kind[kind.value] += 1
            subscribed[kind.value] += count
            if kind is Kind.PRESENCE:
                sizes.append(len(books.member_ids(name)))
            if len(named.samples) < MAX_NAMED_CHANNELS and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                named.add(count, app=app.id, channel=name)
                if kind is Kind.PRESENCE:
                    named_members.add(sizes[-1], app=app.id, channel=name)
        for kind in Kind:
            channels.add(by_kind[kind.value], app=app.id, type=kind.value)
            subscriptions.add(subscribed[kind.value], app=app.id, type=kind.value)
        members.add(sum(sizes), app=app.id)
        largest.add(max(sizes), app=app.id)
    return [users, channels, subscriptions, members, largest, named, named_members]


def _users(books: ConnectionManager) -> int:
    return len(books.users if books.everywhere is None else books.everywhere.users)


def _patiently(items: list[T]) -> Iterator[T]:
    for number, item in enumerate(items, 1):
        yield item
        if number % _YIELD_EVERY == 0:
            gevent.sleep(0)
