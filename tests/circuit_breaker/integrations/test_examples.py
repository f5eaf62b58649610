"""The examples and the PaymentService, as somebody would run them."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from alphavel.circuit_breaker import CircuitBreakerManager, State
from alphavel.foundation import container
from examples.circuit_breaker.servers import Http
from tests.support import ROOT, python, run, script

SAID = {
    "microservices": [
        "all is well: {'also': 'Middlemarch', 'stock': '7 left', 'title': 'Emma'}",
        "recommendations hang: {'also': None, 'stock': '7 left', 'title': 'Emma'}",
        "they were asked 4 times, for 6 pages",
        "health: degraded",
        "stock is broken: 502 Retry-After: None",
        "stock is broken: 503 Retry-After: 20",
        "health: 503 unavailable",
    ],
    "external_api": [
        "fresh: 1.17",
        "limited: 1.17",
        "asked 3 times, for 5 rates; the circuit is open",
        "never asked before: The circuit of 'exchange-rates' is open",
    ],
    "database_replica": [
        "all is well, read from: replica",
        "the replica is away, read from: primary (closed)",
        "the replica is away, read from: primary (open)",
        "a wrong statement is no failure: ProgrammingError (closed)",
        "the replica is back: recovering -> closed",
    ],
    "email_delivery": [
        "delivered: ['Your order 1']",
        "the server is away: 1 waiting; ConnectionRefusedError",
        "the server is away: 3 waiting; next try in",
        "the server is back: all delivered",
        "delivered: ['Your order 1', 'Your order 2', 'Your order 3', 'Your order 4']",
    ],
    "cache": [
        "first: <h1>Emma</h1> computed (closed)",
        "again: <h1>Emma</h1> from the cache (closed)",
        "Redis is away: <h1>Emma</h1> computed, without the cache (open)",
        "Redis was asked 2 times in vain, 2 questions were saved",
        "Redis is back, and empty: <h1>Emma</h1> computed (closed)",
    ],
    "several_processes": [
        "worker 1: 500",
        "worker 3: 500",
        "worker 4: refused",
        "worker 5: refused",
        "asked 3 times, by 5 workers; the circuit is open",
        "worker 1: 200",
        "worker 5: 200",
        "the circuit is closed, for all of them",
    ],
}


@pytest.mark.parametrize("example", SAID)
def test_the_example_runs_and_says_what_the_readme_says(example):
    result = run(python(), "-m", f"examples.circuit_breaker.{example}")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    lines = iter(result.stdout.splitlines())
    for sentence in SAID[example]:
        assert any(line.startswith(sentence) for line in lines), f"{sentence!r}, in this order, in:\n{result.stdout}"


def test_the_examples_are_described():
    folder = ROOT / "examples/circuit_breaker"
    assert {path.parent.name for path in folder.glob("*/__main__.py")} == set(SAID)
    for example in SAID:
        assert f"\n    python -m examples.circuit_breaker.{example}\n" in (folder / example / "README.md").read_text()
        assert f"]({example}/README.md)" in (folder / "README.md").read_text()


# The PaymentService


@pytest.fixture
def service(tmp_path, clock, monkeypatch):
    """The published file, imported as an application would."""
    result = run(script("alpha"), "vendor:publish", "--tag=circuit-breaker-service", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    manager = CircuitBreakerManager({"thresholds": {"failure_threshold": 2, "half_open_requests": 1}}, clock=clock)
    container().instance("circuit_breaker", manager)
    spec = importlib.util.spec_from_file_location("payment_service", tmp_path / "services/payment_service.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "payment_service", module)
    spec.loader.exec_module(module)
    yield module.PaymentService
    container().forget("circuit_breaker")


def test_payments_are_paid_declined_or_pending_and_never_lost(service, clock):
    manager = container().make("circuit_breaker")
    with Http("fine") as provider:
        payments = service(provider.url, "key", timeout_s=20)
        assert payments.charge(1000, "EUR", "card").status == "paid"
        provider.mood = "402"
        assert payments.charge(1000, "EUR", "card").status == "declined"
        assert manager.get_state("payment-api") == State.CLOSED
        provider.mood = "broken"
        first = payments.charge(1000, "EUR", "card")
        assert (first.status, first.detail) == ("pending", "the provider answered 500")
        assert payments.charge(1000, "EUR", "card").status == "pending"
        before = provider.requests
        refused = payments.charge(1000, "EUR", "card")
        assert (refused.status, provider.requests) == ("pending", before)
        assert "it was not asked" in refused.detail
        provider.mood = "fine"
        clock.advance(30)
        again = payments.charge(1000, "EUR", "card", payment_id=first.id)
        assert (again.status, again.id) == ("paid", first.id)
