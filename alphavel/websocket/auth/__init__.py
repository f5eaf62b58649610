"""
Who is connected: tokens, users, and the web pages that may connect.

`auth.jwt` is imported where tokens are checked: a process that only sends need not load PyJWT.
"""

from __future__ import annotations

from alphavel.websocket.auth.users import AuthenticationError, User

__all__ = ["AuthenticationError", "User"]
