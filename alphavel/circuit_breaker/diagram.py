"""`python -m alphavel.circuit_breaker.diagram` draws the state machine, in Mermaid, from the table that the code follows."""

from __future__ import annotations

from alphavel.circuit_breaker.states import CLOSED, TRANSITIONS, State

_OPERATORS = (State.ISOLATED, State.DISABLED, State.METRICS_ONLY)


def diagram() -> str:
    """Return a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {CLOSED}"]
    lines += [f"    {old} --> {new}: {why}" for (old, why), new in TRANSITIONS.items()]
    lines += [f"    {CLOSED} --> {state}: an operator" for state in _OPERATORS]
    lines += [f"    {state} --> {CLOSED}: close, reset" for state in _OPERATORS]
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())
