"""Who is connected: tokens, users, and the web pages that may connect."""

from __future__ import annotations

from alphavel.websocket.auth.jwt import TokenVerifier
from alphavel.websocket.auth.users import AuthenticationError, User

__all__ = ["AuthenticationError", "TokenVerifier", "User"]
