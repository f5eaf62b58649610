"""Spans for OpenTelemetry of what is published, seen by the real SDK."""

from __future__ import annotations

import pytest

from alphavel.websocket.settings import TracingSettings

trace = pytest.importorskip("opentelemetry.trace")

from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402


@pytest.fixture
def spans(monkeypatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter.get_finished_spans
    provider.shutdown()


def test_each_publish_is_a_span(serve, spans):
    server = serve(tracing=TracingSettings(True))
    with server.connect() as client:
        client.subscribe("a")
        assert server.to_channels(["a", "b"]).push({"event": "m", "data": 1}) == 1
        assert client.receive()["data"] == 1
    with pytest.raises(ValueError, match="Cannot push"):
        server.to_channel("no such name").push({"event": "m"})
    good, bad = spans()
    assert (good.name, good.kind.name) == ("publish m", "PRODUCER")
    assert good.attributes["messaging.destination.name"] == "a,b"
    assert good.attributes["alphavel.queued"] == 1
    assert not bad.status.is_ok


def test_spans_end_when_they_are_not_asked_for_any_more(serve, spans):
    server = serve(tracing=TracingSettings(True))
    server.to_channel("a").push({"event": "m"})
    server.configure(server.settings.__class__(**{**vars(server.settings), "tracing": TracingSettings()}))
    server.to_channel("a").push({"event": "m"})
    assert len(spans()) == 1
    assert "publish" not in vars(server.apps.default)
