"""Spans for OpenTelemetry of guarded calls, seen by the real SDK."""

from __future__ import annotations

import asyncio

import pytest

trace = pytest.importorskip("opentelemetry.trace")

from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

from alphavel.circuit_breaker import CircuitOpenError  # noqa: E402
from alphavel.circuit_breaker.tracing import TracedManager  # noqa: E402
from tests.support import python, run  # noqa: E402


@pytest.fixture
def spans(monkeypatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter.get_finished_spans
    provider.shutdown()


@pytest.fixture
def manager(spans):
    return TracedManager({"thresholds": {"failure_threshold": 1}})


def fail():
    raise ZeroDivisionError("down")


def test_each_call_is_a_span_with_service_and_state(manager, spans):
    assert manager.call("mail", lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        manager.call("mail", fail)
    with pytest.raises(CircuitOpenError):
        manager.call("mail", lambda: 5)
    good, bad, refused = spans()
    assert (good.name, good.attributes["alphavel.circuit.service"]) == ("circuit mail", "mail")
    assert [span.attributes["alphavel.circuit.state"] for span in spans()] == ["closed", "closed", "open"]
    assert [span.status.is_ok for span in (good, bad, refused)] == [True, False, False]
    assert bad.events[0].attributes["exception.type"] == "ZeroDivisionError"
    assert refused.attributes["alphavel.circuit.refused"] is True


def test_decorated_functions_and_blocks_are_spans_too(manager, spans):
    @manager.protect("sql")
    def query(number):
        """Ask."""
        return number

    @manager.protect("sql")
    async def wait(number):
        await asyncio.sleep(0)
        return number

    assert (query(1), query.__name__, query.__doc__) == (1, "query", "Ask.")
    assert asyncio.run(wait(2)) == 2
    with manager.guard("sql"):
        pass
    with pytest.raises(ZeroDivisionError), manager.guard("sql"):
        fail()
    assert [span.name for span in spans()] == ["circuit sql"] * 4
    assert [span.status.is_ok for span in spans()] == [True, True, True, False]


def test_without_being_asked_for_nothing_of_it_is_imported():
    code = "import sys; from alphavel.circuit_breaker import CircuitBreaker; CircuitBreaker.call('a', lambda: 1); "
    done = run(
        python(), "-c", code + "print('opentelemetry' in sys.modules, 'alphavel.circuit_breaker.tracing' in sys.modules)"
    )
    assert done.stdout == "False False\n", done.stderr
