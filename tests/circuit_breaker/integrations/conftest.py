"""Breakers on a clock that the tests move, and real servers that fail."""

from __future__ import annotations

import pytest

from alphavel.circuit_breaker import CircuitBreakerManager
from tests.circuit_breaker.integrations.servers import HttpServer, SmtpServer, running


@pytest.fixture
def manager(clock):
    """Opens after two failures, closes after one trial."""
    return CircuitBreakerManager(
        {"thresholds": {"failure_threshold": 2, "half_open_requests": 1, "recovery_timeout": 30}}, clock=clock
    )


@pytest.fixture
def http_server():
    with running(HttpServer()) as server:
        yield server


@pytest.fixture
def smtp_server():
    with running(SmtpServer()) as server:
        yield server


@pytest.fixture
def counts(manager):
    """Return (successes, failures, ignored, refused) of a service."""

    def counts(service="api"):
        stats = manager.get_stats(service)
        return tuple(stats[key] for key in ("total_successes", "total_failures", "ignored", "rejected"))

    return counts
