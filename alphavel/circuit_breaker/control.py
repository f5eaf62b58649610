"""
How `alpha circuit-breaker:…` reaches circuits that are in a process' memory: the process answers at a socket of its own.

Only with the memory store, and only where the manager was made from the configuration; the other stores are there for the
commands to read themselves. Forked workers answer too, each at a socket of its own.
"""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING, Any

from alphavel.circuit_breaker.listeners import logger
from alphavel.foundation.circuits import ACTIONS
from alphavel.foundation.control import ControlError, ControlServer

if TYPE_CHECKING:
    from alphavel.circuit_breaker.manager import CircuitBreakerManager

NAME = "circuit-breaker"


class Control:
    """Answers commands about a manager's circuits."""

    def __init__(self, manager: CircuitBreakerManager) -> None:
        self._manager = manager
        self._server: ControlServer | None = None

    def start(self) -> None:
        """Begin to answer, in this process and in those forked from it. Where that cannot be, a warning says why."""
        self._start()
        os.register_at_fork(after_in_child=self._restart)
        atexit.register(self.stop)

    def stop(self) -> None:
        """Answer no more."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def _start(self, forked: bool = False) -> None:
        server = ControlServer(NAME, {"stats": self.stats, "act": self.act})
        try:
            server.start(forked)
        except (ControlError, OSError) as error:
            logger.warning("alpha circuit-breaker:… cannot reach the circuits of this process: %s", error)
            return
        self._server = server

    def _restart(self) -> None:
        if self._server is not None:
            self._server.abandon()
            self._server = None
            self._start(forked=True)

    def stats(self, service: str | None = None) -> dict[str, Any]:
        """Return what this process knows: of all services, or of one with its explanation."""
        return {"pid": os.getpid(), "services": statistics(self._manager, service)}

    def act(self, action: str, service: str | None) -> dict[str, Any]:
        """Do something to a service, or with `reset` and None to all; return the states before and after by service, and which
        services had been called here before."""
        called = self._manager.names()
        return {"pid": os.getpid(), "called": called, "changes": changes(self._manager, action, service)}


def statistics(manager: CircuitBreakerManager, service: str | None) -> dict[str, dict[str, Any]]:
    """Return the stats of all known services, or of one, with its explanation, where it is known."""
    if service is None:
        return manager.get_all_stats()
    if service not in known(manager):
        return {}
    return {service: {**manager.get_stats(service), "explanation": manager.explain(service)}}


def known(manager: CircuitBreakerManager) -> set[str]:
    """Return the services that have been called, or that the configuration names."""
    named = {name for name in manager.settings.services if not any(sign in name for sign in "*?[")}
    return named | set(manager.names())


def changes(manager: CircuitBreakerManager, action: str, service: str | None) -> dict[str, list[str]]:
    """
    Do one of `ACTIONS` to a service, or with `reset` and None to all.

    Raises:
        ValueError: There is no such action.
    """
    if action not in ACTIONS:
        raise ValueError(f"There is no action {action!r}; there are {', '.join(ACTIONS)}.")
    services = manager.names() if service is None else [service]
    before = {name: manager.get_state(name).value for name in services}
    for name in services:
        getattr(manager, action)(name)
    return {name: [before[name], manager.get_state(name).value] for name in services}
