"""What the dashboard shows: figures of this machine and this server, as they are now."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import psutil


class Figures:
    """Takes samples; keeps the totals of the last one, to say what happened in between."""

    def __init__(self) -> None:
        self._before: tuple[float, int, int] | None = None
        psutil.cpu_percent(None)  # begins to count: the next call tells of the time since this one

    def sample(self, stats: Mapping[str, Any]) -> dict[str, Any]:
        """
        Return the figures of this moment, JSON-able.

        Args:
            stats: `WebSocket.get_stats()`.
        """
        memory = psutil.virtual_memory()
        per_second_in, per_second_out = self._rates(stats["messages_in"], stats["messages_out"])
        return {
            "at": time.time(),
            "cpu": psutil.cpu_percent(None),
            "load": os.getloadavg()[0],
            "cores": os.cpu_count() or 1,
            "memory_used": memory.total - memory.available,
            "memory_total": memory.total,
            "server_memory": stats["memory"],
            "connections": stats["connections"],
            "people": stats["users"],
            "messages_in": per_second_in,
            "messages_out": per_second_out,
            "uptime": stats["uptime"],
        }

    def _rates(self, total_in: int, total_out: int) -> tuple[float, float]:
        now = time.monotonic()
        then, before_in, before_out = self._before or (now - 1.0, total_in, total_out)
        self._before = (now, total_in, total_out)
        elapsed = max(now - then, 1e-3)
        return (total_in - before_in) / elapsed, (total_out - before_out) / elapsed
