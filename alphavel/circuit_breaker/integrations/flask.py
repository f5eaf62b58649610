"""
Flask: `app.register_blueprint(blueprint)`, or `Alphavel(app)`, which does it.

`GET /health/circuits` tells how the circuits are, and a `CircuitOpenError` that nobody caught becomes a 503 with Retry-After.
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import Any

from flask import Blueprint, Response, current_app, jsonify
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import ServiceUnavailable

from alphavel.circuit_breaker.errors import CircuitOpenError
from alphavel.circuit_breaker.facade import CircuitBreaker
from alphavel.circuit_breaker.states import State

blueprint = Blueprint("alphavel_circuit_breaker", __name__)


@blueprint.record_once
def _make(state: BlueprintSetupState) -> None:
    """Make the manager now: a wrong configuration stops the start, not the first call."""
    state.app.extensions["alphavel_circuit_breaker"] = CircuitBreaker.settings


@blueprint.get("/health/circuits")
def health() -> tuple[Response, int]:
    """
    Answer 200, or 503 while a service named in `health.critical` refuses calls.

    `status` is `ok`, `degraded` (some service refuses calls) or `unavailable` (a critical one does). `circuits` has the
    critical services and those that are not closed; what they failed with is not told here.
    """
    stats = CircuitBreaker.get_all_stats()
    critical = CircuitBreaker.settings.health.critical
    for name in critical:
        if not any(sign in name for sign in "*?["):
            stats.setdefault(name, CircuitBreaker.get_stats(name))
    circuits = {name: _shown(one, critical) for name, one in sorted(stats.items())}
    status = "ok"
    if any(one["refusing"] for one in circuits.values()):
        status = "degraded"
    if any(one["refusing"] and one["critical"] for one in circuits.values()):
        status = "unavailable"
    told = {name: one for name, one in circuits.items() if one["critical"] or one["state"] != State.CLOSED}
    return jsonify(status=status, services=len(circuits), circuits=told), 503 if status == "unavailable" else 200


def _shown(stats: dict[str, Any], critical: tuple[str, ...]) -> dict[str, Any]:
    # An open circuit whose recovery time is over waits for a call. Were it called ill then, a load balancer that sends no
    # calls to ill processes would keep it open for ever.
    refusing = stats["state"] == State.ISOLATED or (stats["state"] == State.OPEN and bool(stats["retry_after"]))
    return {
        "state": stats["state"],
        "refusing": refusing,
        "critical": any(fnmatchcase(stats["service"], pattern) for pattern in critical),
        "retry_after": stats["retry_after"],
        "failures": stats["failures"],
    }


@blueprint.app_errorhandler(CircuitOpenError)
def unavailable(error: CircuitOpenError) -> Any:
    """Answer a refused call nobody caught as the application answers any 503, and say when to come back."""
    seconds = None if error.retry_after is None else max(1, math.ceil(error.retry_after))
    return current_app.handle_http_exception(ServiceUnavailable(retry_after=seconds))
