"""
Sockets: the thin part that reads, writes and waits. Two transports behind one interface.

`ParkedTransport` keeps an idle connection in a libev watcher, without a greenlet. `GreenletTransport` reads in a greenlet
of its own, for TLS sockets and for servers that do not let go of theirs.
"""

from __future__ import annotations

from alphavel.websocket.transports.base import Transport
from alphavel.websocket.transports.greenlet import GreenletTransport, TlsTransport
from alphavel.websocket.transports.parked import ParkedTransport
from alphavel.websocket.transports.reactor import Reactor, Receiver

__all__ = ["GreenletTransport", "ParkedTransport", "Reactor", "Receiver", "TlsTransport", "Transport"]
