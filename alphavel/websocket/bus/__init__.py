"""
How the workers of a server, and processes that only send, reach each other. What travels is `envelope`'s; who carries it
is a bus: `memory` for one process, `redis` for many.
"""

from __future__ import annotations

from alphavel.websocket.bus.contract import Bus
from alphavel.websocket.bus.envelope import EnvelopeError, Envelopes, ForgedError, MalformedError

__all__ = ["Bus", "EnvelopeError", "Envelopes", "ForgedError", "MalformedError"]
