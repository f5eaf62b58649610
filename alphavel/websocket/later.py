"""What the hub must leave to a greenlet."""

from __future__ import annotations

import logging
from typing import Any

import gevent

from alphavel.websocket.logs import limiter


def log_later(logger: logging.Logger, level: int, text: str, *arguments: Any, **more: Any) -> None:
    """Log from the hub, where nothing may block and a log handler might; where the line would be suppressed, do nothing."""
    if logger.isEnabledFor(level) and not limiter.is_full(logger.name, text):
        gevent.spawn(logger.log, level, text, *arguments, **more)
