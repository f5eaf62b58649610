"""
Where commands find circuits: in the shared or the redis store, or, with the memory store, in the processes that run.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from alphavel.circuit_breaker import control
from alphavel.circuit_breaker.manager import CircuitBreakerManager
from alphavel.circuit_breaker.provider import manager_of_configuration
from alphavel.circuit_breaker.states import State
from alphavel.foundation.circuits import Circuits, UnreachableError
from alphavel.foundation.control import ControlError, ask_all, running

if TYPE_CHECKING:
    from alphavel.foundation.container import Container

__all__ = ["Circuits", "UnreachableError", "circuits", "circuits_around", "gravity", "merged"]


def circuits() -> Circuits:
    """
    Return the circuits that the configuration speaks of.

    Raises:
        ConfigurationError: The configuration is wrong.
        StoreError: The configured store cannot be used.
    """
    manager = manager_of_configuration()
    return _InProcesses() if manager.store.name == "memory" else _InStore(manager)


def circuits_around(container: Container) -> Circuits:
    """
    Return the circuits of the application that runs in this process, in its other processes too.

    Raises:
        ConfigurationError, StoreError: See `circuits`.
    """
    manager = container.made("circuit_breaker")
    if manager is None:
        return circuits()
    # A manager that the application made itself answers no commands: then there is only what this process knows.
    reachable = manager.store.name == "memory" and os.getpid() in running(control.NAME)
    return _InProcesses() if reachable else _InStore(manager)


class _InStore:
    def __init__(self, manager: CircuitBreakerManager) -> None:
        self._manager = manager
        self.store = manager.store.name

    def stats(self, service: str | None) -> dict[str, dict[str, Any]]:
        found = control.statistics(self._manager, service)
        self._check()
        return found

    def act(self, action: str, service: str | None) -> dict[str, list[str]]:
        self._check()
        done = control.changes(self._manager, action, service)
        self._check()
        return done

    def _check(self) -> None:
        # A store that cannot be reached lets calls go on with what this process knows. A command must not take that for the
        # truth.
        problem = self._manager.store.problem()
        if problem is not None:
            raise UnreachableError(problem)


class _InProcesses:
    store = "memory"

    def stats(self, service: str | None) -> dict[str, dict[str, Any]]:
        answers = self._ask("stats", service=service)
        names = sorted({name for answer in answers for name in answer["services"]})
        return {
            name: merged([(answer["pid"], answer["services"][name]) for answer in answers if name in answer["services"]])
            for name in names
        }

    def act(self, action: str, service: str | None) -> dict[str, list[str]]:
        answers = self._ask("act", action=action, service=service)
        names = sorted({name for answer in answers for name in answer["changes"]})
        return {name: self._change(name, [answer for answer in answers if name in answer["changes"]]) for name in names}

    @staticmethod
    def _change(name: str, answers: list[dict[str, Any]]) -> list[str]:
        # Where a service was never called it was in the state it begins in. That is no news, and `stats` does not show it:
        # the process that gunicorn forks its workers from would make every circuit "closed or …".
        called = [answer for answer in answers if name in answer["called"]] or answers
        before = {answer["changes"][name][0] for answer in called}
        after = {answer["changes"][name][1] for answer in answers}
        return [" or ".join(sorted(states)) for states in (before, after)]

    def _ask(self, command: str, **arguments: Any) -> list[dict[str, Any]]:
        silent: list[int] = []
        try:
            answers = ask_all(control.NAME, command, silent=silent, **arguments)
        except ControlError as error:
            raise UnreachableError(str(error)) from error
        if silent:
            ids = ", ".join(map(str, silent))
            raise UnreachableError(f"No answer from process {ids}" + (f"; {len(answers)} others did." if answers else "."))
        if not answers:
            raise UnreachableError(
                "Circuits are in the memory of processes (default: memory), and no running process of this user has any. "
                "Start the application, or use the shared or the redis store."
            )
        return answers


_BY_GRAVITY = [
    State.ISOLATED, State.OPEN, State.HALF_OPEN, State.RECOVERING, State.METRICS_ONLY, State.DISABLED, State.CLOSED,
]  # fmt: skip


def gravity(stats: dict[str, Any]) -> int:
    """Return a number by which to sort services: those that need somebody's attention first."""
    return _BY_GRAVITY.index(State(stats["state"]))


def merged(parts: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """
    Return one service's stats of several processes as one: counts added, the gravest state, the latest times.

    `processes` has what each of them says, by its id.
    """
    every = [stats for _, stats in parts]
    gravest = min(every, key=gravity)
    total = dict(gravest)
    for key in ("failures", "successes", "total_requests", "total_failures", "total_successes", "rejected", "slow", "ignored",
                "would_have_rejected"):  # fmt: skip
        total[key] = sum(stats[key] for stats in every)
    for key in ("last_failure_time", "last_success_time"):
        total[key] = max((stats[key] for stats in every if stats[key] is not None), default=None)
    latest = max(every, key=lambda stats: stats["last_failure_time"] or 0.0)
    total["last_failure"] = latest["last_failure"]
    ended = total["total_successes"] + total["total_failures"]
    total["success_rate"] = round(100 * total["total_successes"] / ended, 2) if ended else 100.0
    total["processes"] = {str(pid): stats for pid, stats in parts}
    return total
