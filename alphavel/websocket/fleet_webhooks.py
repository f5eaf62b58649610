"""
Webhooks of what all workers see: that channels come and go, and members. They are told by the worker that leads; all others
keep it in their ledgers until they hear that it was told, so that whoever leads next goes on (see `ledger`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import gevent

from alphavel.websocket.bus.facts import Fact
from alphavel.websocket.ledger import Ledger, event_of, told_fact, untold_fact, what_is_untold, what_was_told
from alphavel.websocket.webhooks.queue import HOLD_S

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.server import WebSocketServer
    from alphavel.websocket.siblings import Siblings

_SETTLE_S = 0.5
_SAY_UNTOLD_S = 2.0  # more than it takes others to notice as well that a worker is gone
_APART_S = 0.5  # how much later than another worker this one may see a change
_MAX_TOLD = 4096


class FleetWebhooks:
    """
    This worker's part in it.

    Attributes:
        ledger: What is not known to be told.
    """

    def __init__(self, server: WebSocketServer, siblings: Siblings, facts: dict[Fact, Any]) -> None:
        """
        Args:
            server: This worker's.
            siblings: The workers.
            facts: What this worker has to say of itself; what was told, and what is not, is added.
        """
        self.ledger = Ledger(HOLD_S - _APART_S)
        self._server = server
        self._siblings = siblings
        self._facts = facts
        self._told: dict[Fact, None] = {}  # of the facts: what it has told lately, and nobody has after it
        self._untold: list[Fact] = []  # what the ledger said when all facts were last asked for
        self._telling: dict[Fact, bool] = {}  # what is being told by this worker
        self._tells = self._is_to_tell = False
        server.webhooks.report_to(self._about_to_tell, self._settled)

    # Leading

    def elected(self) -> None:
        """This worker leads."""
        if self._siblings.has_others:
            # What the one before has told may have come sooner than what it was told of: let that come, too.
            self._tell_soon()
        else:
            self._tell()

    def deposed(self) -> None:
        """This worker leads no more."""
        if self._siblings.has_others:
            self.leave_it_to_others()
        self._tells = False

    def leave_it_to_others(self) -> None:
        """Tell no more: the others have it in their ledgers, too."""
        self._tells = False
        self._telling.clear()
        self._server.webhooks.withdraw()

    def finish(self, timeout: float) -> bool:
        """
        See to it that somebody tells what has happened here until now; this worker ends. Where there are others, they are still
        told what receivers take within so many seconds; return whether another one is to lead then.
        """
        if len(self.ledger):
            self._siblings.leader.ask_now()
            self._tell()
        if self._telling and self._siblings.has_others:
            self._server.webhooks.flush(timeout)
            return True
        return False

    # Telling

    def happened(self, fact: Fact, is_so: bool, is_news: bool) -> None:
        """A channel or a member has come to all workers or left them: it is to be told, once."""
        if not self._server.listeners:
            return
        tells = self._tells and self._siblings.leader.leads
        is_untold = self.ledger.changed(fact, is_so, time.monotonic(), is_news or tells)
        if tells and (is_untold or fact in self._telling):
            self._announce(fact, is_so)
            if not is_news and fact in self._telling:
                self._siblings.bus.tell(untold_fact(fact), not is_so)  # the others take it for told

    def _tell_soon(self) -> None:
        if not self._is_to_tell:
            self._is_to_tell = True
            gevent.spawn_later(_SETTLE_S, self._tell)

    def _tell(self) -> None:
        self._is_to_tell, self._tells = False, self._siblings.leader.leads
        if self._tells:
            for fact, changes in self.ledger.untold():
                if fact not in self._telling:
                    for is_so in changes:
                        self._announce(fact, is_so)

    def _about_to_tell(self) -> None:
        siblings = self._siblings
        if self._telling and siblings.has_others and not siblings.leader.leads:  # it stood still; another one has told it since
            self.leave_it_to_others()

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
        self.ledger.told(fact, is_so, is_so if app is None else self._is_so(app, fact))
        # Kept, for those who miss that and ask for all: or they would tell it again, or not tell when it ends.
        told = told_fact(fact)
        self._forget_told(told)
        self._told[told], self._facts[told] = None, is_so
        if len(self._told) > _MAX_TOLD:
            self._forget_told(next(iter(self._told)))
        self._siblings.bus.tell(told, is_so)

    # Between workers

    def update_facts(self) -> None:
        """
        Bring the facts up to date. What was told, the one that leads knows; who does no more may not have heard of it all. What
        is yet to be told, everybody knows but a newcomer, and those whom this worker meets late.
        """
        if not self._siblings.leader.leads:
            for told in list(self._told):
                self._forget_told(told)
        for untold in self._untold:
            self._facts.pop(untold, None)
        of_ledger = dict(self.ledger.facts())
        self._facts.update(of_ledger)  # after what they are about
        self._untold = list(of_ledger)

    def worker_gone(self) -> None:
        """Say what there is to tell: whoever leads now may never have met a worker that is gone, and sees nothing of it."""
        if len(self.ledger):
            gevent.spawn_later(_SAY_UNTOLD_S, self._say_what_is_untold)

    def _say_what_is_untold(self) -> None:
        if not self._siblings.leader.leads:
            for untold, last in list(self.ledger.facts()):
                if isinstance(last, bool):  # of the others it is not known whether anything is to be told
                    self._siblings.bus.tell(untold, last)

    def enter(self, app: App, fact: Fact, value: Any) -> None:
        """Another worker says what was told, or is not."""
        told, untold = what_was_told(fact), what_is_untold(fact)  # neither: a newer version knows what it is
        if told is not None:
            self._forget_told(fact)
            self.ledger.told(told, value is True, self._is_so(app, told))
        elif untold is not None:
            known, is_so = told_fact(untold), self._is_so(app, untold)
            if self._tells and value is is_so:
                return  # this worker has yet to see that change, or that worker that it is undone
            if self._tells and known in self._told and self._facts[known] is is_so:
                self._siblings.bus.tell(known, self._facts[known])  # that worker has yet to hear of it
                return
            self.ledger.heard(untold, value, is_so, time.monotonic())
        if self._tells and len(self.ledger):  # the one before has told that much later
            self._tell_soon()

    def _forget_told(self, told: Fact) -> None:
        if told in self._told:
            del self._told[told], self._facts[told]

    def _is_so(self, app: App, fact: Fact) -> bool:
        everywhere = self._siblings.everywhere(app)
        if fact.kind == "channel":
            return fact.name in everywhere.counts
        return fact.user in everywhere.members.get(fact.name, {})
