"""The application's own user, for authorizers that mostly meet users of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from alphavel.websocket.auth.users import User
from alphavel.websocket.compact import compact


class ApplicationUser:
    """
    A user object of the application, such as a row of its users table: all of its attributes, but that `id` is a text here
    as everywhere, so that it can be compared with a part of a channel's name.

    Attributes:
        id: The user's id.
    """

    __slots__ = ("_user", "id")

    expires_at = None
    claims: Mapping[str, Any] = {}

    def __init__(self, user_id: str, user: Any) -> None:
        self.id = user_id
        self._user = user

    def __getattr__(self, name: str) -> Any:
        return getattr(self._user, name)

    def __repr__(self) -> str:
        return f"<ApplicationUser {self.id}>"


def as_user(thing: Any) -> User | ApplicationUser | None:
    """
    Make what an application calls its current user a user that authorizers understand.

    Args:
        thing: None for nobody; an id; a mapping with an `id`, whose members become `claims`; an object with `get_id()` (as
            flask-login wants it) or `id`.

    Raises:
        TypeError: It is something else, or has no id.
    """
    if thing is None or isinstance(thing, (User, ApplicationUser)):
        return thing
    if isinstance(thing, (str, int)) and not isinstance(thing, bool):
        return User(_text(thing, thing), b"{}")
    if isinstance(thing, Mapping):
        return User(_text(thing.get("id"), thing), compact(orjson.dumps(dict(thing), default=str)))
    get_id = getattr(thing, "get_id", None)
    return ApplicationUser(_text(get_id() if callable(get_id) else getattr(thing, "id", None), thing), thing)


def _text(user_id: Any, thing: Any) -> str:
    if user_id is None or isinstance(user_id, bool) or not str(user_id):
        raise TypeError(
            f"The current user is expected to be None, an id, a mapping with an id, or an object with get_id() or id; "
            f"got a {type(thing).__name__} without one."
        )
    return str(user_id)
