"""
Processes that only send: a Celery worker, a cron job, a Flask application under any WSGI server. No gevent here, and nothing
of the server.

docs/broadcasting.md describes how to set them up.
"""

from __future__ import annotations

from alphavel.websocket.senders.sender import Sender, SenderApp

__all__ = ["Sender", "SenderApp"]
