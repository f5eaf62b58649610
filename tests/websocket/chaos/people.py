"""Clients of both protocols who note what they are told, and complain."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import gevent

from tests.websocket.chaos.truth import Truth
from tests.websocket.clients import Client, Closed
from tests.websocket.pusher import PusherClient
from tests.websocket.tokens import bearer

PATIENCE_S = 120.0
_DAY_S = 86_400


class Person:
    """
    Somebody who is connected to a node for as long as it lives, or until it leaves.

    What it asks for is answered later: a server that stands still, or that waits for Redis, holds up nobody else.

    Attributes:
        name: Whose events these are.
        user: Id of the user it is.
        channels: What it is on, once all is answered.
        wrong: What should not have come, in words.
    """

    def __init__(self, name: str, user: str, port: int, truth: Truth) -> None:
        self.name, self.user = name, user
        self.channels: set[str] = set()
        self.wrong: list[str] = []
        self._truth = truth
        self._asked: dict[str, int] = defaultdict(int)
        self._answered: dict[str, int] = defaultdict(int)
        self._since: dict[str, dict[str, int]] = {}
        self._members: dict[str, set[str]] = {}
        self._last: dict[tuple[str, str], int] = defaultdict(lambda: -1)
        self._got: dict[tuple[str, str], set[int]] = defaultdict(set)
        self._client = self._connect(port)
        self._client.sock.settimeout(None)
        self._reader = gevent.spawn(self._read)

    def _connect(self, port: int) -> Client:
        return Client(port, "/", bearer(self.user, exp=time.time() + _DAY_S), timeout_s=PATIENCE_S)

    def leave_all(self) -> None:
        """Close the connection, without a word."""
        self._reader.kill()
        self._client.close()
        self.channels.clear()

    def join(self, channel: str) -> None:
        """Ask to be on a channel."""
        self.channels.add(channel)
        self._asked[channel] += 1
        self._join(channel)

    def leave(self, channel: str) -> None:
        """Ask to be off a channel."""
        self.channels.remove(channel)
        self._leave(channel)

    def say(self, channel: str) -> None:
        """Send an event to the others on a channel."""
        self._say(channel, {"by": self.name, "n": self._truth.next(channel, self.name)})

    def is_heard(self) -> None:
        """Say something, so that the server does not take it for gone."""
        self._client.send("ping")

    # Alphavel's protocol

    def _join(self, channel: str) -> None:
        self._client.send("subscribe", {"channel": channel})

    def _leave(self, channel: str) -> None:
        self._client.send("unsubscribe", {"channel": channel})

    def _say(self, channel: str, data: dict[str, Any]) -> None:
        self._client.send("broadcast", {"channel": channel, "message": {"event": "said", "data": data}})

    def _note(self, event: dict[str, Any]) -> None:
        name, channel, data = event["event"], event.get("channel", ""), event.get("data")
        if name == "subscribed":
            self._is_on(channel, [member["id"] for member in (data or {}).get("members", ())])
        elif name in ("member_added", "member_removed"):
            self._member(channel, data["user"]["id"], name == "member_added")
        elif name in ("said", "client-said"):
            self._heard(channel, data["by"], data["n"])
        elif name not in ("unsubscribed", "pong"):
            self.wrong.append(f"{event}")

    # What it is told

    def _read(self) -> None:
        try:
            while True:
                self._note(self._client.receive())
        except (Closed, OSError) as error:
            self.wrong.append(f"was disconnected: {error!r}")

    def _is_on(self, channel: str, members: list[str]) -> None:
        self._answered[channel] += 1
        self._since[channel] = self._truth.counts(channel)
        self._members[channel] = set(members)
        if len(members) != len(set(members)):
            self.wrong.append(f"{channel} has members twice: {members}")

    def _member(self, channel: str, user: str, comes: bool) -> None:
        members = self._members[channel]
        if comes is (user in members):
            self.wrong.append(f"{user} {'comes to' if comes else 'leaves'} {channel} a second time")
        (members.add if comes else members.discard)(user)

    def _heard(self, channel: str, publisher: str, number: int) -> None:
        key = (channel, publisher)
        if number <= self._last[key]:
            self.wrong.append(f"{channel}: {number} of {publisher} after {self._last[key]}")
        if publisher == self.name:
            self.wrong.append(f"{channel}: its own event {number}")
        self._last[key] = number
        self._got[key].add(number)

    # Whether that is all

    def lacks(self, rooms: dict[str, set[str]]) -> list[str]:
        """
        Return what it has yet to be told, in words.

        Args:
            rooms: Who is on the presence channels.
        """
        lacks = []
        for channel in sorted(self.channels):
            if self._answered[channel] < self._asked[channel]:
                lacks.append(f"the answer of {channel}")
                continue
            if channel in rooms and self._members[channel] != rooms[channel]:
                lacks.append(f"{channel}: members {sorted(self._members[channel])}, not {sorted(rooms[channel])}")
            for publisher, stream in self._truth.streams[channel].items():
                if stream.must_come and publisher != self.name:
                    since = max(self._since[channel].get(publisher, 0), stream.checked)
                    missing = sorted(set(range(since, stream.count)) - self._got[channel, publisher])
                    if missing:
                        lacks.append(f"{channel}: {missing} of {publisher}, of {since} to {stream.count - 1}")
        return [f"{self}: {what}" for what in lacks]

    def checked(self) -> None:
        """Forget what came: all is as it should be."""
        self._got.clear()

    def __str__(self) -> str:
        return f"{self.name} ({self.user})"


class PusherPerson(Person):
    """The same with one of Pusher's clients."""

    _client: PusherClient

    def _connect(self, port: int) -> Client:
        return PusherClient(port, timeout_s=PATIENCE_S)

    def is_heard(self) -> None:
        """See `Person`."""
        self._client.send("pusher:ping", {})

    def _join(self, channel: str) -> None:
        is_room = channel.startswith("presence-")
        self._client.join(channel, {"user_id": self.user} if is_room else None, answer=False)

    def _leave(self, channel: str) -> None:
        self._client.send("pusher:unsubscribe", {"channel": channel})

    def _say(self, channel: str, data: dict[str, Any]) -> None:
        self._client.whisper(channel, "client-said", data)

    def _note(self, event: dict[str, Any]) -> None:
        name, channel, data = event["event"], event.get("channel", ""), event.get("data")
        if name == "pusher_internal:subscription_succeeded":
            self._is_on(channel, data.get("presence", {}).get("ids", []))
        elif name == "pusher_internal:member_added":
            self._member(channel, data["user_id"], True)
        elif name == "pusher_internal:member_removed":
            self._member(channel, data["user_id"], False)
        elif name != "pusher:pong":
            super()._note(event)
