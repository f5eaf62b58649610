"""A user, as a token names it."""

from __future__ import annotations

import json
from typing import Any


class AuthenticationError(Exception):
    """
    A token is not valid. Its text can be shown to the client: it never holds the token or a key.

    Attributes:
        reason: One word for counters: `expired`, `signature`, `malformed`, `claims`, `key`, `disabled`, `missing`,
            `revoked`.
    """

    def __init__(self, message: str, reason: str = "malformed") -> None:
        super().__init__(message)
        self.reason = reason


class User:
    """
    Who a connection belongs to.

    Attributes:
        id: Always a text, however the token writes it.
        expires_at: When the token expires, seconds since the epoch; None where it never does.
        payload: The token's claims as they came, JSON.
    """

    __slots__ = ("expires_at", "id", "payload")

    def __init__(self, user_id: str, payload: bytes, expires_at: float | None = None) -> None:
        """
        Args:
            user_id: The id.
            payload: The token's claims as JSON; kept as it is, because 100,000 parsed dicts would fill the memory.
            expires_at: Seconds since the epoch, or None.
        """
        self.id = user_id
        self.expires_at = expires_at
        self.payload = payload

    @property
    def claims(self) -> dict[str, Any]:
        """The token's claims, parsed anew each time: keep them in a variable."""
        claims: dict[str, Any] = json.loads(self.payload)
        return claims

    def mentions(self, text: bytes) -> bool:
        """Whether `text` may stand in the claims: False only where it does not. Cheaper than to parse them."""
        return text in self.payload or b"\\" in self.payload

    def __repr__(self) -> str:
        return f"<User {self.id}>"
