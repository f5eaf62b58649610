"""Spans for OpenTelemetry, where a package's configuration asks for them; else nothing of it is imported."""

from __future__ import annotations

from typing import Any

from alphavel.foundation.errors import ConfigurationError


def tracer(package: str, version: str) -> Any:
    """
    Return OpenTelemetry's tracer of a package. Spans go wherever the application's SDK sends them; without one, nowhere.

    Args:
        package: Its name: `alphavel.websocket`.
        version: Its version.

    Raises:
        ConfigurationError: The API is not installed.
    """
    try:
        from opentelemetry import trace
    except ImportError:
        raise ConfigurationError('needs OpenTelemetry\'s API: pip install "alphavel[tracing]"', key="tracing.enabled") from None
    return trace.get_tracer(package, version)
