"""
Delivering webhooks: one greenlet for each receiver, so that one that is slow or down holds up no other.

A delivery is tried again for five minutes, and nothing overtakes it: receivers get events in the order they happened.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import gevent
import orjson
from gevent.event import Event

from alphavel.foundation.errors import ConfigurationError
from alphavel.foundation.guarding import guarded
from alphavel.websocket.auth.signatures import sign
from alphavel.websocket.later import log_later
from alphavel.websocket.ledger import fact_of
from alphavel.websocket.logs import get_logger
from alphavel.websocket.webhooks.queue import WebhookQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from alphavel.websocket.apps import App
    from alphavel.websocket.bus.facts import Fact
    from alphavel.websocket.settings import AppSettings, WebhookSettings
    from alphavel.websocket.stats import Counters

logger = get_logger("alphavel.websocket.webhooks")

_BURST_S = 0.05  # what happens within so short a time is told in one request
_FIRST_PAUSE_S, _MAX_PAUSE_S = 1.0, 60.0
_RETRY_FOR_S = 300.0
_MAX_ANSWER_BYTES = 4096  # so much is read, for the connection to be used again; a longer answer costs it


EVENTS = (
    "channel_occupied",
    "channel_vacated",
    "member_added",
    "member_removed",
    "client_event",
    "cache_miss",
    "subscription_count",
)


def check(apps: Iterable[AppSettings]) -> None:
    """
    Check the webhooks of apps.

    Raises:
        ConfigurationError: One has no URL, or wants to be told of something that is not told.
    """
    for number, app in enumerate(apps):
        for index, webhook in enumerate(app.webhooks):
            key = f"apps[{number}].webhooks[{index}]"
            if not _is_complete(webhook.url):
                got = webhook.url.partition("?")[0].rpartition("@")[2]  # before and after may be secrets
                raise ConfigurationError(f"expected https://HOST/PATH; got {got!r}.", key=f"{key}.url")
            if webhook.url in (other.url for other in app.webhooks[:index]):
                raise ConfigurationError(f"another webhook of this app has it: {_place(webhook.url)}.", key=f"{key}.url")
            for event in webhook.events:
                if event not in EVENTS:
                    raise ConfigurationError(f"there are {', '.join(EVENTS)}; got {event!r}.", key=f"{key}.events")


def _is_complete(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, half an IPv6 address
        return False


def _place(url: str) -> str:
    """Return the host and port of a URL, for logs and statistics: the rest of it may hold what only the receiver is to know."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _credentials(url: str) -> dict[str, str]:
    """Return the header for the user and password in a URL, `https://user:password@…`, which urllib3 leaves to its callers."""
    parts = urlsplit(url)
    if parts.username is None:
        return {}
    user, password = unquote(parts.username), unquote(parts.password or "")
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


class DeliveryError(Exception):
    """A receiver did not take what it was told."""


def _nothing(*arguments: object) -> None:
    pass


class Webhooks:
    """The webhooks of a server: a listener of its apps, see `apps.Listener`."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._receivers: dict[tuple[str, str], Receiver] = {}
        self._by_app: dict[str, list[Receiver]] = {}
        self._waiting: dict[Fact, int] = {}  # events about each, of all receivers
        self.report_to()

    @property
    def any(self) -> bool:
        """Whether anybody is to be told anything."""
        return bool(self._receivers)

    @property
    def waiting(self) -> int:
        """Events that are not delivered yet."""
        return sum(len(receiver.queue) for receiver in self._receivers.values())

    def report_to(self, before: Callable[[], None] = _nothing, settled: Callable[[Fact, bool], None] = _nothing) -> None:
        """
        Say what becomes of what all workers see.

        Args:
            before: Called before anything is told.
            settled: Called with what was told of a channel or a member, when no receiver is to be told any more of it.
        """
        self.before, self._settled = before, settled

    def tells_of(self, fact: Fact) -> bool:
        """Whether anybody is yet to be told anything of a channel or a member."""
        return fact in self._waiting

    def configure(self, apps: Iterable[App]) -> None:
        """Take the receivers that the apps' settings name; what waits for one that stays is kept."""
        before, self._receivers, self._by_app = self._receivers, {}, {}
        for app in apps:
            for settings in app.settings.webhooks:
                key = (app.id, settings.url)
                receiver = before.pop(key, None) or Receiver(self, self._counters)
                receiver.configure(app, settings)
                self._receivers[key] = receiver
                self._by_app.setdefault(app.id, []).append(receiver)
        for receiver in before.values():
            receiver.stop()

    def __call__(self, app: App, event: str, payload: dict[str, Any]) -> None:
        """Take note of what happened. Does not block: this may be the hub."""
        said = fact_of(app.id, event, payload)
        for receiver in self._by_app.get(app.id, ()):
            more = receiver.tell(event, payload)
            if said is not None:
                self._waiting[said[0]] = self._waiting.get(said[0], 0) + more
        if said is not None and not self._waiting.get(said[0]):
            self._waiting.pop(said[0], None)

    def told(self, app_id: str, events: list[dict[str, Any]]) -> None:
        """A receiver has taken events, or they were given up."""
        for event in events:
            said = fact_of(app_id, event["name"], event)
            if said is None or said[0] not in self._waiting:
                continue
            fact, is_so = said
            self._waiting[fact] -= 1
            if not self._waiting[fact]:
                del self._waiting[fact]
                self._settled(fact, is_so)

    def withdrawn(self, app_id: str, events: list[dict[str, Any]]) -> None:
        """A receiver is not told events by this worker: it cannot say that all receivers know."""
        for event in events:
            said = fact_of(app_id, event["name"], event)
            if said is not None:
                self._waiting.pop(said[0], None)

    def withdraw(self) -> None:
        """Leave to another worker what waits to be told of channels and members."""
        for receiver in self._receivers.values():
            receiver.withdraw()

    def flush(self, timeout: float) -> None:
        """Tell what waits to those who take it, in so many seconds at most; what they do not take waits on."""
        deadline = time.monotonic() + timeout
        for receiver in self._receivers.values():
            receiver.finish()
        for receiver in self._receivers.values():
            receiver.join(deadline - time.monotonic())

    def stop(self, timeout: float) -> None:
        """Tell what waits to those who take it, in so many seconds at most, then no more."""
        self.flush(timeout)
        for receiver in self._receivers.values():
            receiver.stop()


class Receiver:
    """
    One URL that is told what happens in one app.

    Attributes:
        queue: What it is to be told.
    """

    def __init__(self, webhooks: Webhooks, counters: Counters) -> None:
        self._webhooks = webhooks
        self._counters = counters
        self._http: Any = None
        self._wake = Event()
        self._finishing = Event()
        self._on_the_way: list[dict[str, Any]] = []
        self._is_asking = False
        self._has_withdrawn = False  # what it is being asked to take, too, should it refuse
        self.queue = WebhookQueue(0)
        self._greenlet: gevent.Greenlet | None = None

    def configure(self, app: App, settings: WebhookSettings) -> None:
        """Take settings, at the start or anew."""
        self._app = app
        self._settings = settings
        self._place = _place(settings.url)
        if self._greenlet is None and not self.queue:
            self.queue = WebhookQueue(settings.max_queue)

    def tell(self, event: str, payload: dict[str, Any]) -> int:
        """Put an event into the queue, if the receiver wants to know of it; return how many more wait then."""
        settings = self._settings
        if settings.events and event not in settings.events:
            return 0
        if not payload["channel"].startswith(settings.channel_prefix):
            return 0
        before = len(self.queue)
        if not self.queue.put(event, payload, time.monotonic()):
            self._drop(1, "too many wait to be delivered")
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)
        self._wake.set()
        return len(self.queue) - before

    def withdraw(self) -> None:
        """See `Webhooks.withdraw`."""
        self._webhooks.withdrawn(self._app.id, self.queue.remove(self._is_of_all))
        self._has_withdrawn = True
        if not self._is_asking:
            self._withdraw_what_is_on_the_way()

    def finish(self) -> None:
        """Deliver what waits without holding anything back, until an attempt fails: one that is down is not waited for."""
        self._finishing.set()
        self._wake.set()

    def join(self, timeout: float) -> None:
        """Wait for that."""
        if self._greenlet is not None:
            self._greenlet.join(max(0.0, timeout))
            if self._greenlet.ready():
                self._greenlet = None

    def stop(self) -> None:
        """Give up."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None
        self._finishing.clear()
        self._withdraw_what_is_on_the_way()
        lost = self._on_the_way + self.queue.remove(lambda event: True)
        self._on_the_way = []
        if lost:
            self._drop(len(lost), "the server stopped")
            self._webhooks.told(self._app.id, lost)
        if self._http is not None:
            self._http.clear()

    def _run(self) -> None:
        while True:
            # Nothing switches between these two: what is put later wakes us.
            self._wake.clear()
            wait = self.queue.wait(time.monotonic())
            finishing = self._finishing.is_set()
            if finishing:
                if wait is None:
                    return
            elif wait != 0.0:
                self._wake.wait(wait)
                continue
            else:
                gevent.sleep(_BURST_S)
            self._webhooks.before()
            self._on_the_way = self.queue.take(self._settings.max_events, time.monotonic(), finishing)
            self._has_withdrawn = False
            try:
                if self._on_the_way and not self._deliver():
                    self.queue.put_back(self._on_the_way)
                    self._on_the_way = []
                    return
            except Exception as error:  # noqa: BLE001 (whatever it is, what comes next must be told)
                self._drop(len(self._on_the_way), f"they cannot be told: {error!r}")
            done, self._on_the_way = self._on_the_way, []
            self._webhooks.told(self._app.id, done)

    def _deliver(self) -> bool:
        """Tell what is on the way; return whether to go on with what comes next."""
        time_ms, started, failures = int(time.time() * 1000), time.monotonic(), 0
        while self._on_the_way:
            count, body = len(self._on_the_way), orjson.dumps({"time_ms": time_ms, "events": self._on_the_way})
            try:
                self._attempt(body)
            except Exception as error:  # noqa: BLE001 (a breaker may raise errors of its own)
                self._counters.webhooks_failed += 1
                self._withdraw_what_is_on_the_way()
                if self._finishing.is_set():
                    logger.warning("Webhook to %s failed, and is not tried again: %s", self._place, error)
                    return False  # `stop` counts what is left
                pause = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2**failures) * random.uniform(0.5, 1.0)  # noqa: S311
                failures += 1
                if time.monotonic() + pause - started > _RETRY_FOR_S:
                    self._drop(len(self._on_the_way), f"it did not take them: {error}")
                    return True
                logger.warning("Webhook to %s failed, trying again in %.1f s: %s", self._place, pause, error)
                self._finishing.wait(pause)
                self._webhooks.before()
            else:
                self._counters.webhooks_delivered += count
                return True
        return True

    def _withdraw_what_is_on_the_way(self) -> None:
        if self._has_withdrawn:
            self._webhooks.withdrawn(self._app.id, [event for event in self._on_the_way if self._is_of_all(event)])
            self._on_the_way = [event for event in self._on_the_way if not self._is_of_all(event)]

    def _is_of_all(self, event: dict[str, Any]) -> bool:
        return fact_of(self._app.id, event["name"], event) is not None

    def _attempt(self, body: bytes) -> None:
        delivered = False

        def post() -> None:
            nonlocal delivered
            self._post(body)
            delivered = True

        self._is_asking = True
        try:
            guarded(f"webhooks {self._place}", post)
        finally:
            self._is_asking = False
        if not delivered:  # a breaker with a fallback for all services raises nothing
            raise DeliveryError("its circuit is open")

    def _post(self, body: bytes) -> None:
        if self._http is None:
            import urllib3  # here, so that a server without webhooks need not load it

            self._http = urllib3.PoolManager(retries=False)
        headers = {
            **_credentials(self._settings.url),
            **self._settings.headers,
            "Content-Type": "application/json",
            "X-Pusher-Key": self._app.key,
            "X-Pusher-Signature": sign(self._app.secret, body),
        }
        url, timeout = self._settings.url, self._settings.timeout
        # The library's own timeout begins anew with each byte.
        with gevent.Timeout(timeout, DeliveryError(f"it took longer than {timeout:g} s")):
            response = self._http.request(
                "POST", url, body=body, headers=headers, timeout=timeout, redirect=False, preload_content=False
            )
            with contextlib.closing(response):  # one that was read to its end has left the connection to the next request
                response.read(_MAX_ANSWER_BYTES, decode_content=False)
        if not 200 <= response.status < 300:
            raise DeliveryError(f"it answered {response.status} {response.reason}")

    def _drop(self, count: int, why: str) -> None:
        self._counters.webhooks_dropped += count
        # A log handler may block, and this may be the hub.
        log_later(logger, logging.ERROR, "%d webhook events for %s are lost: %s", count, self._place, why)
