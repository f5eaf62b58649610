"""
Pusher's HTTP API, for every Pusher server library: a request in, a response out. No socket, no Flask.

docs/http-api.md describes it for those who call it.
"""

from __future__ import annotations

from alphavel.websocket.api.handler import body_limit, handle, takes
from alphavel.websocket.api.messages import ApiError, Request, Response

__all__ = ["ApiError", "Request", "Response", "body_limit", "handle", "takes"]
