"""
The workers of one server, or of a fleet of servers, as one: what happens on this one is told to the others, what they say is
entered here, and those who are connected here are told of it. Who carries it is a bus: `bus.local` on one machine, `nodes`
over Redis.

Each worker tells its own clients what changes in its own view, so that each client sees a user come once and go once, however
many workers the user is on. What is for nobody's clients, the webhooks, is told by the one that leads; all others keep it until
they hear that it was told, see `ledger`.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import gevent

from alphavel.websocket import watchlist
from alphavel.websocket.bus.facts import LASTING, Fact
from alphavel.websocket.bus.local import LocalBus
from alphavel.websocket.channels import Channel, Member
from alphavel.websocket.channels.everywhere import Everywhere
from alphavel.websocket.leader import FileLeader, Leader
from alphavel.websocket.ledger import Ledger, event_of, told_fact, untold_fact, what_is_untold, what_was_told
from alphavel.websocket.logs import get_logger
from alphavel.websocket.protocols import Message
from alphavel.websocket.protocols.messages import PresenceChange
from alphavel.websocket.webhooks.queue import HOLD_S

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.server import WebSocketServer

logger = get_logger("alphavel.websocket.workers")

YIELD_EVERY = 64
_SETTLE_S = 0.5
_SAY_UNTOLD_S = 2.0  # more than it takes others to notice as well that a worker is gone
_APART_S = 0.5  # how much later than another worker this one may see a change
_MAX_TOLD = 4096


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
        self._told: dict[Fact, None] = {}  # of those: what it has told webhooks lately, and nobody has after it
        self._theirs: dict[str, dict[Fact, Any]] = {}
        self._ledger = Ledger(HOLD_S - _APART_S)
        self._untold: list[Fact] = []  # what the ledger said when all facts were last asked for
        self._telling: dict[Fact, bool] = {}  # what webhooks are being told by this worker
        self._tells_webhooks = self._is_to_tell = False
        server.webhooks.report_to(self._about_to_tell, self._settled)
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
            self._leave_it_to_others()
            self.leader.stand_back()
            self.bus.tell(Fact("leader", "", "", ""), None)

    def finish(self, timeout: float) -> None:
        """
        See to it that somebody tells what has happened here until now; this worker ends. Where there are others, they are still
        told what receivers take within so many seconds.
        """
        if len(self._ledger):
            self.leader.ask_now()
            self._tell_webhooks()
        if self._telling and self.has_others:
            self._server.webhooks.flush(timeout)
            self.let_another_lead()

    def _elected(self) -> None:
        self._server.timers.start()
        if self.has_others:
            # What the one before has told may have come sooner than what it was told of: let that come, too.
            self._tell_webhooks_soon()
        else:
            self._tell_webhooks()

    def _deposed(self) -> None:
        self._server.timers.stop()
        if self.has_others:
            self._leave_it_to_others()
        self._tells_webhooks = False

    def _leave_it_to_others(self) -> None:
        """Tell no more of what all workers see: the others have it in their ledgers, too."""
        self._tells_webhooks = False
        self._telling.clear()
        self._server.webhooks.withdraw()

    def _about_to_tell(self) -> None:
        if self._telling and self.has_others and not self.leader.leads:  # it stood still, and another one has told it since
            self._leave_it_to_others()

    def _tell_webhooks_soon(self) -> None:
        if not self._is_to_tell:
            self._is_to_tell = True
            gevent.spawn_later(_SETTLE_S, self._tell_webhooks)

    def _tell_webhooks(self) -> None:
        self._is_to_tell, self._tells_webhooks = False, self.leader.leads
        if self._tells_webhooks:
            for fact, changes in self._ledger.untold():
                if fact not in self._telling:
                    for is_so in changes:
                        self._announce(fact, is_so)

    def _happened(self, fact: Fact, is_so: bool, is_news: bool) -> None:
        """A channel or a member has come to all workers or left them: webhooks are to be told, once."""
        if not self._server.listeners:
            return
        tells = self._tells_webhooks and self.leader.leads
        is_untold = self._ledger.changed(fact, is_so, time.monotonic(), is_news or tells)
        if tells and (is_untold or fact in self._telling):
            self._announce(fact, is_so)
            if not is_news and fact in self._telling:
                self.bus.tell(untold_fact(fact), not is_so)  # the others take it for told

    def _announce(self, fact: Fact, is_so: bool) -> None:
        app = self._server.apps.get(fact.app)
        self._telling[fact] = is_so
        if app is not None:
            name, payload = event_of(fact, is_so)
            app.emit(name, **payload)
        if not self._server.webhooks.tells_of(fact):  # nobody wants to know, or it undoes what waited
            self._settled(fact, is_so)

    def _settled(self, fact: Fact, is_so: bool) -> None:
        """Webhooks have been told, or will not be."""
        is_so = self._telling.pop(fact, is_so)
        app = self._server.apps.get(fact.app)
        self._ledger.told(fact, is_so, is_so if app is None else self._is_so(app, fact))
        # Kept, for those who miss that and ask for all: or they would tell it again, or not tell when it ends.
        told = told_fact(fact)
        self._forget_told(told)
        self._told[told], self._facts[told] = None, is_so
        if len(self._told) > _MAX_TOLD:
            self._forget_told(next(iter(self._told)))
        self.bus.tell(told, is_so)

    def _forget_told(self, told: Fact) -> None:
        if told in self._told:
            del self._told[told], self._facts[told]

    def _is_so(self, app: App, fact: Fact) -> bool:
        everywhere = self.everywhere(app)
        if fact.kind == "channel":
            return fact.name in everywhere.counts
        return fact.user in everywhere.members.get(fact.name, {})

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
        """
        See `Listener`. What webhooks were told, the one that leads knows; who does no more may not have heard of it all. What
        they are yet to be told, everybody knows but a newcomer, and those whom this worker meets late.
        """
        if not self.leader.leads:
            for told in list(self._told):
                self._forget_told(told)
        for untold in self._untold:
            self._facts.pop(untold, None)
        of_ledger = dict(self._ledger.facts())
        self._facts.update(of_ledger)  # after what they are about
        self._untold = list(of_ledger)
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
        if len(self._ledger):  # whoever leads now may never have met that worker, and sees nothing of its going
            gevent.spawn_later(_SAY_UNTOLD_S, self._say_what_is_untold)

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
            self._enter_ledger(app, fact, value)

    def _say_what_is_untold(self) -> None:
        if not self.leader.leads:
            for untold, last in list(self._ledger.facts()):
                if isinstance(last, bool):  # of the others it is not known whether anything is to be told
                    self.bus.tell(untold, last)

    def _enter_ledger(self, app: App, fact: Fact, value: Any) -> None:
        told, untold = what_was_told(fact), what_is_untold(fact)  # neither: a newer version knows what it is
        if told is not None:
            self._forget_told(fact)
            self._ledger.told(told, value is True, self._is_so(app, told))
        elif untold is not None:
            known, is_so = told_fact(untold), self._is_so(app, untold)
            if self._tells_webhooks and value is is_so:
                return  # this worker has yet to see that change, or that worker that it is undone
            if self._tells_webhooks and known in self._told and self._facts[known] is is_so:
                self.bus.tell(known, self._facts[known])  # that worker has yet to hear of it
                return
            self._ledger.heard(untold, value, is_so, time.monotonic())
        if self._tells_webhooks and len(self._ledger):  # the one before has told that much later
            self._tell_webhooks_soon()

    def _enter_count(self, app: App, worker: str, fact: Fact, count: int, is_news: bool) -> None:
        before, now = self.everywhere(app).set_count(fact.name, worker, count)
        if bool(before) != bool(now):
            self._happened(fact, bool(now), is_news)
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
            self._happened(fact, bool(now), is_news)

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
