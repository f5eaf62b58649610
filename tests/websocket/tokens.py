"""Tokens for tests."""

from __future__ import annotations

import time

import jwt

from tests.websocket.conftest import SECRET


def token(user_id="7", *, key=SECRET, algorithm="HS256", headers=None, **claims):
    """A token of a user that expires in a minute; `exp=None` leaves a claim out."""
    payload = {"sub": user_id, "exp": time.time() + 60, **claims}
    return jwt.encode({k: v for k, v in payload.items() if v is not None}, key, algorithm, headers=headers)


def bearer(user_id="7", **claims):
    return {"Authorization": f"Bearer {token(user_id, **claims)}"}
