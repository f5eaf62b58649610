"""What the circuits of a process have counted, in the foundation's form: read when it is asked for; calls pay nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alphavel.circuit_breaker.states import State
from alphavel.foundation.metrics import Family

if TYPE_CHECKING:
    from alphavel.circuit_breaker.manager import CircuitBreakerManager

PREFIX = "alphavel_circuit_breaker_"
_OUTCOMES = {"success": "total_successes", "failure": "total_failures", "ignored": "ignored", "rejected": "rejected"}


def families(manager: CircuitBreakerManager | None) -> list[Family]:
    """
    Return state and counts of all circuits.

    Args:
        manager: Whose circuits; None: no samples, only the names.
    """
    # What is kept in a store is the same for all processes.
    is_shared = manager is not None and manager.store.name != "memory"
    state = Family(f"{PREFIX}state", "gauge", "Whether the circuit is in this state.", is_shared=is_shared)
    calls = Family(f"{PREFIX}calls_total", "counter", "Calls by how they ended.", is_shared=is_shared)
    slow = Family(f"{PREFIX}slow_calls_total", "counter", "Calls over slow_call_duration.", is_shared=is_shared)
    for service, stats in ({} if manager is None else manager.get_all_stats()).items():
        for one in State:
            state.add(float(stats["state"] == one), service=service, state=one.value)
        for outcome, key in _OUTCOMES.items():
            calls.add(stats[key], service=service, outcome=outcome)
        slow.add(stats["slow"], service=service)
    return [state, calls, slow]
