"""
Watching what is sent on a channel, without being on it: nobody is counted, told or charged. While nobody watches an app none of
this exists; the first who does puts a tap on the app, the last one takes it off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from alphavel.websocket.bus.facts import Fact
from alphavel.websocket.protocols.messages import FromClient, Message

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.channels import Kept

SHOWN = 16 * 1024
"""Characters of an event's data that are shown."""

Watcher = Callable[[dict[str, Any]], None]
"""
Called in the hub with `{"at", "from", "event", "data", "size", "excluded"}`, all JSON-able; must not block or raise. `from` is
`server` or `client`, `data` JSON text, cut after `SHOWN` characters, `size` its whole length, `excluded` how many are left out.
"""

_taps: WeakKeyDictionary[App, _Tap] = WeakKeyDictionary()


@contextmanager
def watching(app: App, channel: str, watcher: Watcher) -> Iterator[None]:
    """Have a watcher told of what is sent on a channel, from whichever worker, while the block runs."""
    tap = _taps.get(app)
    if tap is None:
        tap = _taps[app] = _Tap(app)
    tap.watchers.setdefault(channel, []).append(watcher)
    bus, fact = app.server.relay.bus, Fact("channel", app.id, channel, "")
    bus.want(fact, True)  # the other workers and nodes send what is for this channel here, too
    try:
        yield
    finally:
        bus.want(fact, False)
        tap.watchers[channel].remove(watcher)
        if not tap.watchers[channel]:
            del tap.watchers[channel]
        if not tap.watchers:
            tap.remove()
            del _taps[app]


class _Tap:
    """
    On the ways by which an app delivers.

    Attributes:
        watchers: By channel.
    """

    def __init__(self, app: App) -> None:
        self.watchers: dict[str, list[Watcher]] = {}
        self._app = app
        deliver, deliver_client_event = app.deliver, app.deliver_client_event
        deliver_kept = app.ordering.deliver_kept

        def delivered(message: Message, channels: Any, users: Any, everybody: bool, excluded: frozenset[str]) -> int:
            queued = deliver(message, channels, users, everybody, excluded)
            for name in channels:
                self._tell(name, message, "server", len(excluded))
            return queued

        def delivered_client_event(name: str, message: Message, user_id: str | None, socket_id: str) -> None:
            deliver_client_event(name, message, user_id, socket_id)
            self._tell(name, message, "client", 1)

        def delivered_kept(name: str, kept: Kept) -> int:
            queued = deliver_kept(name, kept)
            sent = kept.message
            if isinstance(sent, FromClient):
                self._tell(name, sent.message, "client", 1)
            else:
                self._tell(name, sent, "server", len(kept.excluded))
            return queued

        vars(app).update(deliver=delivered, deliver_client_event=delivered_client_event)
        vars(app.ordering).update(deliver_kept=delivered_kept)

    def remove(self) -> None:
        """Take the tap off."""
        del vars(self._app)["deliver"], vars(self._app)["deliver_client_event"], vars(self._app.ordering)["deliver_kept"]

    def _tell(self, channel: str, message: Message, sender: str, excluded: int) -> None:
        watchers = self.watchers.get(channel)
        if not watchers:
            return
        data = message.text if message.json_data is not None else ""
        event = {
            "at": time.time(), "from": sender, "event": message.event, "data": data[:SHOWN], "size": len(data),
            "excluded": excluded,
        }  # fmt: skip
        for watcher in list(watchers):
            watcher(event)
