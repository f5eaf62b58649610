"""
The workers of one server, or of a fleet of servers, as one: what happens on this one is told to the others, what they say is
entered here, and those who are connected here are told of it. Who carries it is a bus: `bus.local` on one machine, `nodes`
over Redis.

Each worker tells its own clients what changes in its own view, so that each client sees a user come once and go once, however
many workers the user is on. What is for nobody's clients, the webhooks, is told by the one that leads, see `fleet_webhooks`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import gevent

from alphavel.websocket import watchlist
from alphavel.websocket.bus.facts import LASTING, Fact
from alphavel.websocket.bus.local import LocalBus
from alphavel.websocket.channels import Channel, Member
from alphavel.websocket.channels.everywhere import Everywhere
from alphavel.websocket.fleet_webhooks import FleetWebhooks
from alphavel.websocket.leader import FileLeader, Leader
from alphavel.websocket.logs import get_logger
from alphavel.websocket.protocols import Message
from alphavel.websocket.protocols.messages import PresenceChange

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.server import WebSocketServer

logger = get_logger("alphavel.websocket.workers")

YIELD_EVERY = 64


class FactBus(Protocol):
    """What carries facts to the others."""

    @property
    def workers(self) -> list[str]:
        """Names of the others that are known to accept at the same port."""

    def tell(self, fact: Fact, value: Any) -> None:
        """Tell all others a fact about this worker; None: it is not so any more. May be called in the hub."""


class Siblings:
    """
    This worker among its siblings.

    Attributes:
        name: Of this worker.
        server: Of the server or the fleet, the same for all of its workers.
        bus: The way to the others.
        leader: Whether this one leads.
        webhooks: What webhooks are told of all workers.
    """

    bus: FactBus
    leader: Leader

    def __init__(self, server: WebSocketServer, name: str, server_name: str) -> None:
        """
        Args:
            server: This worker's.
            name: See above.
            server_name: See above.
        """
        self.name = name
        self.server = server_name
        self._server = server
        self._facts: dict[Fact, Any] = {}  # of this worker
        self._theirs: dict[str, dict[Fact, Any]] = {}
        self.webhooks = FleetWebhooks(server, self, self._facts)
        self._counting: set[App] = set()  # whose connections are to be told when the loop's turn ends
        for app in server.apps:
            self.adopt(app)

    def adopt(self, app: App) -> None:
        """Have the workers be one in an app."""
        app.siblings = self
        app.connections.everywhere = Everywhere()
        for worker, facts in self._theirs.items():
            for fact, value in facts.items():
                if fact.app == app.id:
                    self._enter(worker, fact, value, is_news=False)

    @property
    def has_others(self) -> bool:
        """Whether another worker is known."""
        return bool(self._theirs)

    def leave(self) -> None:
        """Be one worker alone, from now on, whatever the bus still brings."""
        self.leader.stop()
        self._server.addresses.forget_others()
        self._server.webhooks.report_to()
        for app in self._server.apps:
            app.siblings = app.connections.everywhere = None

    # What happens here, once the books have settled. Nothing of it switches.

    def subscribed(self, app: App, channel: Channel, socket_id: str, member: Member | None) -> None:
        """A connection has joined a channel; `member`: who it says it is on a presence channel."""
        self._tell(Fact("channel", app.id, channel.name, ""), len(channel.subscribers))
        here = channel.member_of.get(socket_id) if channel.member_of is not None else None
        if member is not None and here is not None and here.connections - self._elsewhere(app, channel.name, here.id) == 1:
            self._tell(Fact("member", app.id, channel.name, here.id), [member.info, member.connected_at])

    def unsubscribed(self, app: App, channel: Channel, here: Member | None) -> None:
        """A connection has left a channel; `here`: who it was on a presence channel."""
        if here is not None and here.connections == self._elsewhere(app, channel.name, here.id):
            self._tell(Fact("member", app.id, channel.name, here.id), None)
        self._tell(Fact("channel", app.id, channel.name, ""), len(channel.subscribers) or None)

    def user_changed(self, app: App, user_id: str) -> bool:
        """A connection of a user has come or gone here; return whether the user was on any worker before."""
        fact, here = Fact("user", app.id, "", user_id), len(app.connections.users.get(user_id, ()))
        was_online = user_id in self.everywhere(app).users
        if self._server.settings.options.max_connections_per_user is None:  # else how many need not be known
            here = min(here, 1)
        if here != self._facts.get(fact, 0):
            self._tell(fact, here or None)
        return was_online

    def address_changed(self, site: str, count: int) -> None:
        """An address whose connections are limited has more of them here, or less; see `flooding`."""
        self._tell(Fact("address", "", site, ""), count or None)

    def connections_changed(self, app: App) -> None:
        """A connection has come or gone; the others are told how many there are, once for all of the loop's turn."""
        if not self._counting:
            self._server.reactor.loop.run_callback(self._tell_connections)
        self._counting.add(app)

    # Leading

    def lead(self) -> None:
        """Stand for leading the others."""
        self.leader.start(self._elected, self._deposed)

    def let_another_lead(self) -> None:
        """Lead no more, where there is another one, and have the others know at once."""
        if self.leader.leads and self.has_others:
            self.webhooks.leave_it_to_others()
            self.leader.stand_back()
            self.bus.tell(Fact("leader", "", "", ""), None)

    def finish(self, timeout: float) -> None:
        """See to it that somebody tells what has happened here until now, see `FleetWebhooks.finish`; this worker ends."""
        if self.webhooks.finish(timeout):
            self.let_another_lead()

    def _elected(self) -> None:
        self._server.timers.start()
        self.webhooks.elected()

    def _deposed(self) -> None:
        self._server.timers.stop()
        self.webhooks.deposed()

    # What is known

    @staticmethod
    def everywhere(app: App) -> Everywhere:
        """Return who is where, in an app."""
        assert app.connections.everywhere is not None
        return app.connections.everywhere

    def _elsewhere(self, app: App, channel: str, user_id: str) -> int:
        holders = self.everywhere(app).members.get(channel, {}).get(user_id, {})
        return len(holders) - (self.name in holders)

    def _tell(self, fact: Fact, value: Any) -> None:
        if value is None:
            self._facts.pop(fact, None)
        else:
            self._facts[fact] = value
        self._enter(self.name, fact, value)
        self.bus.tell(fact, value)

    def _tell_connections(self) -> None:
        counting, self._counting = self._counting, set()
        for app in counting:
            self._tell(Fact("connections", app.id, "", ""), len(app.connections.connections) or None)

    # What the others say, see `bus.contract.Listener`

    def all_facts(self) -> dict[Fact, Any]:
        """See `Listener`."""
        self.webhooks.update_facts()
        return self._facts

    def said(self, worker: str, facts: list[tuple[Fact, Any]], are_all: bool) -> None:
        """See `Listener`."""
        # What a worker has to say when it is met was told to webhooks before, unless it says so. To the leader it is news.
        is_news = worker in self._theirs or not are_all
        known = self._theirs.get(worker, {})
        if are_all:
            said = {fact for fact, _ in facts}
            facts = [(fact, None) for fact in known if fact not in said] + facts
            known = dict(known)
        self._theirs[worker] = known
        for number, (fact, value) in enumerate(facts):
            if self._theirs.get(worker) is not known:  # it switched, and all facts were told meanwhile
                if are_all:
                    return
                known = self._theirs.setdefault(worker, {})
            if value is None:
                known.pop(fact, None)
            elif fact.kind in LASTING:
                known[fact] = value
            self._enter(worker, fact, value, is_news)
            if number % YIELD_EVERY == YIELD_EVERY - 1:
                gevent.sleep(0)

    def silent(self, worker: str) -> None:
        """See `Listener`. Its members leave, and come back when it goes on: then it tells all facts again."""
        self.said(worker, [], are_all=True)

    def gone(self, worker: str) -> None:
        """See `Listener`. Its members leave."""
        self.leader.ask()
        self.said(worker, [], are_all=True)
        if not self._theirs.get(worker):  # else it is back, and has said so meanwhile
            self._theirs.pop(worker, None)
        if not self._server.is_draining:
            logger.info("Worker %s is gone", worker)
        self.webhooks.worker_gone()

    def kept_events(self, within_s: float) -> Iterator[dict[str, Any]]:
        """See `Listener`. With them go the tokens that were taken back."""
        for jti, left in self._server.reauthorization.revocations.left():
            yield {"revoked": jti, "left": left}
        for app in self._server.apps:
            for name, message, left in app.cache.events():
                if app.cache.ttl_s - left <= within_s:
                    yield {"app": app.id, "channel": name, "left": left, "message": message.as_content()}

    def kept(self, event: dict[str, Any]) -> None:
        """See `Listener`. Of two events the one that is kept for longer is the newer one."""
        if "revoked" in event:
            self._server.reauthorization.heard(str(event["revoked"]), float(event["left"]))
            return
        app, channel, left = self._server.apps.get(event["app"]), event["channel"], float(event["left"])
        if app is not None and app.cache.time_left(channel) < left:
            app.cache.put(channel, Message.of_content(event["message"]), left)

    # Entering

    def _enter(self, worker: str, fact: Fact, value: Any, is_news: bool = True) -> None:
        app = self._server.apps.get(fact.app)
        if fact.kind == "leader":
            self.leader.ask()
        elif fact.kind == "address":
            if worker != self.name:
                self._server.addresses.set_elsewhere(fact.name, worker, int(value or 0))
        elif app is None or app.siblings is None:
            return  # another worker has been told of one that is not known here yet; or this one has left
        elif fact.kind == "channel":
            self._enter_count(app, worker, fact, int(value or 0), is_news)
        elif fact.kind == "member":
            self._enter_member(app, worker, fact, value, is_news)
        elif fact.kind == "connections":
            if worker != self.name:
                self.everywhere(app).set_connections(worker, int(value or 0))
        elif fact.kind == "user":
            was_online, is_online = self.everywhere(app).set_user(fact.user, worker, int(value or 0))
            if worker != self.name:
                watchlist.tell(app, fact.user, was_online, is_online)
        else:
            self.webhooks.enter(app, fact, value)

    def _enter_count(self, app: App, worker: str, fact: Fact, count: int, is_news: bool) -> None:
        before, now = self.everywhere(app).set_count(fact.name, worker, count)
        if bool(before) != bool(now):
            self.webhooks.happened(fact, bool(now), is_news)
        if worker != self.name and before != now:
            app.counts.changed(fact.name)

    def _enter_member(self, app: App, worker: str, fact: Fact, value: Any, is_news: bool) -> None:
        everywhere, name, user_id = self.everywhere(app), fact.name, fact.user
        member = None if value is None else Member(user_id, value[0], value[1])
        before, now = everywhere.set_member(name, user_id, worker, member)
        channel = app.connections.channels.get(name)
        if channel is not None and channel.members is not None:
            if worker != self.name and before != now:
                self._merge(app, channel, user_id, member)
            everywhere.settle(channel, user_id)
        if bool(before) != bool(now):
            self.webhooks.happened(fact, bool(now), is_news)

    def _merge(self, app: App, channel: Channel, user_id: str, joined: Member | None) -> None:
        """Enter into a channel here that a user is on it on one more worker, or on one less, and tell those on it."""
        members = channel.members
        assert members is not None
        change, here = "", members.get(user_id)
        if joined is not None:
            if here is None:
                change = "member_added"
                here = members[user_id] = Member(user_id, joined.info, joined.connected_at)
            here.connections += 1
        elif here is not None:
            here.connections -= 1
            if not here.connections:
                change = "member_removed"
                del members[user_id]
        if change and here is not None:
            app.fan_out(PresenceChange(change, here), channel.subscribers, channel)


def on_this_machine(server: WebSocketServer, folder: Path) -> tuple[Siblings, LocalBus]:
    """
    Return the workers of one server, who meet in a folder, and their bus.

    Args:
        server: This worker's.
        folder: Where they meet.
    """
    siblings = Siblings(server, f"{os.getpid()}-{secrets.token_hex(4)}", folder.name)
    bus = siblings.bus = LocalBus(folder, siblings.name, siblings, server.settings.options.worker_silence)
    siblings.leader = FileLeader(folder / "leader")
    return siblings, bus
