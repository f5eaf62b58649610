"""
Several workers of one server: the parent that keeps them running, and the folder where they meet. No gevent here: workers are
forked before their hubs exist.
"""

from __future__ import annotations

from alphavel.websocket.workers.folder import WorkersFolder
from alphavel.websocket.workers.supervisor import Place, Supervisor, WorkerFailedError

__all__ = ["Place", "Supervisor", "WorkerFailedError", "WorkersFolder"]
