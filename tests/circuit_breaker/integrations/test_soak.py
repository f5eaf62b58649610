"""A service that breaks, hangs, resets and recovers under sixteen callers, with threads and with greenlets."""

from __future__ import annotations

import json

import pytest

from tests.support import python, run


@pytest.mark.parametrize("kind", ["threads", "gevent"])
def test_nothing_is_lost_or_counted_twice_and_the_circuit_closes_again(kind):
    result = run(python(), "-m", "tests.circuit_breaker.integrations.soak", kind)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    seen, stats = told["seen"], told["stats"]
    assert (stats["total_successes"], stats["total_failures"], stats["rejected"]) == (
        seen["succeeded"], seen["failed"], seen["refused"],
    )  # fmt: skip
    assert stats["ignored"] == 0
    assert stats["state"] == "closed"
    # A request may have been given up before the server read it; none reached it that the breaker does not know of.
    assert told["reached"] <= stats["total_requests"]
    assert told["changes"]["open"] >= 8
