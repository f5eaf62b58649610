"""
Telling the subscribers of a channel how many they are, where an app asks for it: each time it changes, on crowded channels
every few seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from alphavel.websocket.channels import Kind
from alphavel.websocket.protocols.messages import SubscriptionCount

if TYPE_CHECKING:
    from alphavel.websocket.apps import App

_CROWD = 100
_EVERY_S = 5.0


class SubscriptionCounts:
    """The counts of one app."""

    def __init__(self, app: App, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._clock = clock
        self._told_at: dict[str, float] = {}  # of crowded channels
        self._due: set[str] = set()

    def changed(self, name: str) -> None:
        """Somebody has joined or left the channel called `name`, here or on another worker."""
        if not self._app.settings.subscription_count or Kind.of(name) is Kind.PRESENCE:
            return
        count = self._app.connections.count(name)
        if count > _CROWD:
            now = self._clock()
            if now - self._told_at.get(name, -_EVERY_S) < _EVERY_S:
                self._due.add(name)
                return
            self._told_at[name] = now
        if count:
            self._tell(name, count)

    def second_passed(self) -> None:
        """Tell what could not be told before."""
        now = self._clock()
        for name in [name for name, told_at in self._told_at.items() if now - told_at >= _EVERY_S]:
            del self._told_at[name]
            if name in self._due:
                self.changed(name)
            self._due.discard(name)

    def _tell(self, name: str, count: int) -> None:
        app = self._app
        channel = app.connections.channels.get(name)
        if channel is not None:
            app.fan_out(SubscriptionCount(count), channel.subscribers, channel)
        if app.siblings is None or app.siblings.leader.leads:
            app.emit("subscription_count", channel=name, subscription_count=count)
