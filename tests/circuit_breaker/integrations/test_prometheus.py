"""Metrics as a scraper sees them."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError
from alphavel.circuit_breaker.integrations.prometheus import instrument

NAME = "alphavel_circuit_breaker"


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def scrape(registry):
    def scrape():
        families = text_string_to_metric_families(generate_latest(registry).decode())
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples
        }

    return scrape


def broken():
    raise OSError("away")


def test_state_calls_and_latency(manager, registry, scrape, clock):
    instrument(manager, registry)

    def slowly():
        clock.advance(0.2)

    manager.call("api", slowly)
    for _ in range(2):
        with pytest.raises(OSError):
            manager.call("api", broken)
    with pytest.raises(CircuitOpenError):
        manager.call("api", broken)
    seen = scrape()
    assert seen[f"{NAME}_state", "api", "open"] == 1
    assert seen[f"{NAME}_state", "api", "closed"] == 0
    assert sum(value for key, value in seen.items() if key[0] == f"{NAME}_state") == 1
    for outcome, many in {"success": 1, "failure": 2, "ignored": 0, "rejected": 1}.items():
        assert seen[f"{NAME}_calls_total", "api", outcome] == many
    assert seen[f"{NAME}_slow_calls_total", "api"] == 0
    duration = f"{NAME}_call_duration_seconds"
    assert seen[f"{duration}_count", "api", "success"] == 1
    assert seen[f"{duration}_sum", "api", "success"] == pytest.approx(0.2)
    assert seen[f"{duration}_bucket", "0.1", "api", "success"] == 0
    assert seen[f"{duration}_bucket", "0.25", "api", "success"] == 1
    assert seen[f"{duration}_count", "api", "failure"] == 2  # the refused call did not reach the service


def test_names_are_those_that_prometheus_wants(manager, registry):
    instrument(manager, registry)
    manager.call("api", lambda: 1)
    text = generate_latest(registry).decode()
    types = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    assert {name: kind for name, kind in types.items() if not name.endswith("_created")} == {
        f"{NAME}_state": "gauge",
        f"{NAME}_calls_total": "counter",
        f"{NAME}_slow_calls_total": "counter",
        f"{NAME}_call_duration_seconds": "histogram",
    }


def test_without_latency_no_call_is_timed(manager, registry, scrape):
    """Timing is what costs: the counts are there anyway."""
    instrument(manager, registry, latency=False)
    manager.call("api", lambda: 1)
    assert manager.service("api").flowing is not None
    assert not any("duration" in name for name, *_ in scrape())


def test_nothing_is_registered_where_metrics_are_off(registry):
    manager = CircuitBreakerManager({"metrics": {"enabled": False}})
    instrument(manager, registry)
    assert generate_latest(registry) == b""


def test_a_second_time_is_an_error(manager, registry):
    instrument(manager, registry)
    for latency in (True, False):
        with pytest.raises(ValueError, match="Duplicated"):
            instrument(manager, registry, latency=latency)
