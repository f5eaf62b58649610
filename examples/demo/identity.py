"""
Who is who. This is a demo: there are no passwords, and whoever types a name is that person.

What is real is the rest: the server signs a token that expires, and the WebSocket server checks it.
"""

from __future__ import annotations

import os
import secrets
import time
import unicodedata
from dataclasses import replace
from typing import Any, NamedTuple

import jwt

from alphavel.foundation import ConfigurationError
from alphavel.websocket import WebSocket

TOKEN_LIFE_S = 600
MAX_NAME_LENGTH = 24


class Person(NamedTuple):
    """
    Attributes:
        id: What tells people apart: the name in one spelling, so that "Ada" and "ada" are one.
        name: As it was typed.
    """

    id: str
    name: str


def ensure_key() -> None:
    """
    Give this start a signing key of its own, unless one is configured; no key is written anywhere.

    Raises:
        ConfigurationError: Tokens are to be checked with a public key, so that this application can sign none.
    """
    if not WebSocket.verifier.enabled:
        key = os.environ["ALPHAVEL_JWT_SECRET"] = secrets.token_urlsafe(48)  # where a reload of the configuration finds it
        WebSocket.configure(replace(WebSocket.settings, auth=replace(WebSocket.settings.auth, secret=key)))
    if WebSocket.settings.auth.secret is None:
        raise ConfigurationError("The demo signs its own tokens: set auth.secret, not a public key.")


def person_called(name: Any) -> Person:
    """
    Return the person with a name.

    Raises:
        ValueError: It is no usable name; the text can be shown.
    """
    name = " ".join(unicodedata.normalize("NFKC", name).split()) if isinstance(name, str) else ""
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise ValueError(f"A name has 1 to {MAX_NAME_LENGTH} characters.")
    if not any(character.isalnum() for character in name) or not name.isprintable():
        raise ValueError("A name has at least one letter or digit, and none that cannot be seen.")
    return Person(name.casefold(), name)


def token_for(person: Person) -> str:
    """Sign a token that expires in ten minutes; the page renews it before."""
    now = int(time.time())
    claims = {"sub": person.id, "name": person.name, "iat": now, "exp": now + TOKEN_LIFE_S}
    return jwt.encode(claims, WebSocket.settings.auth.secret or "", "HS256")


def person_with(token: str) -> Person:
    """
    Return whose token it is.

    Raises:
        AuthenticationError: It is not valid; the text can be shown.
    """
    user = WebSocket.verify(token)
    return Person(user.id, user.claims["name"])
