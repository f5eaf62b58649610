"""The metrics of a whole server: this worker asks the others, over the sockets that `alpha websocket:stats` uses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psutil

from alphavel.foundation import container
from alphavel.foundation.control import ControlError, ask_all, running
from alphavel.foundation.metrics import Family, contributions, merged
from alphavel.foundation.providers import ServiceProvider, usable
from alphavel.websocket.metrics.reading import PREFIX, families

if TYPE_CHECKING:
    from alphavel.websocket.server import WebSocketServer

_WITHIN_S = 1.0

_providers: list[ServiceProvider] = []


def of_worker(server: WebSocketServer) -> list[Family]:
    """Return the metrics of this process, other packages' included."""
    if not _providers:
        _providers.extend(usable())  # which looks through what is installed: once is enough
    return families(server) + contributions(_providers, container())


def of_server(server: WebSocketServer) -> list[Family]:
    """Return the metrics of all workers, told apart by the label `worker`, a process id. Blocks the calling greenlet."""
    workers: list[tuple[str, list[Family]]] = [(str(os.getpid()), of_worker(server))]
    silent: list[int] = []
    others = siblings(server)
    if others:
        try:
            answers: list[Any] = ask_all("websocket", "metrics", _WITHIN_S, silent=silent, only=others)
        except ControlError:
            answers, silent = [], list(others)
        workers += [(str(pid), list(map(Family.of_json, content))) for pid, content in answers]
    unheard = Family(f"{PREFIX}silent_workers", "gauge", "Workers that did not answer: their figures are missing.")
    return [*merged(workers, "worker"), unheard.add(len(silent))]


def siblings(server: WebSocketServer) -> list[int]:
    """Return the process ids of the other workers of this server."""
    if not server.is_worker:
        return []
    found = []
    for pid in running("websocket"):
        try:
            if pid != os.getpid() and psutil.Process(pid).ppid() == os.getppid():
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found
