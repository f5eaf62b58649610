"""
Webhooks: telling the application's own HTTP servers what happens on channels. `queue` decides what is told and when,
`delivery` tells it.

docs/webhooks.md describes them for those who receive them.
"""

from __future__ import annotations

from alphavel.websocket.webhooks.delivery import Webhooks, check

__all__ = ["Webhooks", "check"]
