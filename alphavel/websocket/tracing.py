"""A span for each publish (`tracing.enabled`); messaging attributes as OpenTelemetry's semantic conventions name them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from alphavel.foundation.tracing import tracer

if TYPE_CHECKING:
    from alphavel.websocket.protocols import Message

_MAX_NAMED = 10  # channels in a span


def check(enabled: bool) -> None:
    """Raise ConfigurationError where spans are asked for and cannot be made."""
    if enabled:
        _tracer()


def trace_publish(app: Any, enabled: bool) -> None:
    """
    Have an app make a span for each message that it publishes, or none.

    Args:
        app: An `App` or a `SenderApp`.
        enabled: Whether to. Where not, `publish` is the class's own, and costs what it does.
    """
    vars(app).pop("publish", None)
    if enabled:
        app.publish = _traced(app.publish, _tracer())


def _tracer() -> Any:
    from alphavel.websocket import __version__

    return tracer("alphavel.websocket", __version__)


def _traced(publish: Callable[..., int], tracing: Any) -> Callable[..., int]:
    from opentelemetry.trace import SpanKind

    @functools.wraps(publish)
    def traced(message: Message, channels: Any = (), users: Any = (), *audience: Any, **more: Any) -> int:
        channels, users = tuple(channels), tuple(users)
        attributes = {
            "messaging.system": "alphavel", "messaging.operation.type": "send", "alphavel.event": message.event,
            "messaging.destination.name": ",".join(channels[:_MAX_NAMED]), "alphavel.users": len(users),
        }  # fmt: skip
        with tracing.start_as_current_span(f"publish {message.event}", kind=SpanKind.PRODUCER, attributes=attributes) as span:
            queued = publish(message, channels, users, *audience, **more)
            span.set_attribute("alphavel.queued", queued)
            return queued

    return traced
