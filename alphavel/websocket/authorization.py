"""
What Pusher clients ask the application's web server before they join a channel or sign in. The answer is signed with the
app's secret; the server of the WebSockets believes the signature and asks nobody again.

No Flask here: `http.broadcasting` reads the request and finds the user.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket.auth.signatures import channel_auth, is_socket_id, shared_secret, user_auth
from alphavel.websocket.channels import Kind, name_error

if TYPE_CHECKING:
    from alphavel.websocket.registration import Registration
    from alphavel.websocket.settings import AppSettings


class NotAuthorizedError(Exception):
    """
    The client does not get what it asks for.

    Attributes:
        status: HTTP status of the answer.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def authorize_channel(registration: Registration, app: AppSettings, user: Any, socket_id: Any, channel: Any) -> dict[str, str]:
    """
    Let a user join a private, encrypted or presence channel.

    Args:
        registration: Whose authorizers are asked.
        app: Whose channel it is.
        user: Who asks; None for nobody.
        socket_id: The connection that is to join.
        channel: The channel's name.

    Returns:
        `{"auth": "key:signature"}`, on presence channels with `channel_data`, on encrypted ones with `shared_secret`.

    Raises:
        NotAuthorizedError: The request makes no sense, or the user may not join.
    """
    _check_socket_id(socket_id)
    problem = name_error(channel, app.limits.channel_name_length)
    if problem is not None:
        raise NotAuthorizedError(400, f"channel_name: {problem}")
    kind = Kind.of(channel)
    if kind is Kind.PUBLIC:
        raise NotAuthorizedError(403, "Public channels are joined without asking.")
    if user is None:
        raise NotAuthorizedError(403, "Nobody is logged in.")
    grant = registration.authorizers.ask(user, channel)
    if not grant.allowed:
        raise NotAuthorizedError(403, "This user may not join this channel.")
    if kind is Kind.PRESENCE:
        member = _json({"user_id": user.id, "user_info": grant.info})
        return {"auth": channel_auth(app.key, app.secret, socket_id, channel, member), "channel_data": member}
    answer = {"auth": channel_auth(app.key, app.secret, socket_id, channel)}
    if kind is Kind.ENCRYPTED:
        if app.encryption_master_key is None:
            raise NotAuthorizedError(403, "Encrypted channels need the app's encryption_master_key in config/websocket.yaml.")
        answer["shared_secret"] = shared_secret(channel, _master_key(app.encryption_master_key, "encryption_master_key"))
    return answer


def authenticate_user(app: AppSettings, user: Any, data: Mapping[str, Any], socket_id: Any) -> dict[str, str]:
    """
    Sign a user in on a connection.

    Args:
        app: Where.
        user: Who; None for nobody.
        data: What else is said of the user, such as `user_info` and `watchlist`.
        socket_id: The connection.

    Returns:
        `{"auth": "key:signature", "user_data": "{\\"id\\":\\"1\\"}"}`

    Raises:
        NotAuthorizedError: The request makes no sense, or nobody is logged in.
    """
    _check_socket_id(socket_id)
    if user is None:
        raise NotAuthorizedError(403, "Nobody is logged in.")
    user_data = _json({**data, "id": user.id})
    return {"auth": user_auth(app.key, app.secret, socket_id, user_data), "user_data": user_data}


def find_app(apps: Iterable[AppSettings], app_id: str | None) -> AppSettings:
    """
    Return the app with an id; without one, the first.

    Raises:
        NotAuthorizedError: There is none.
    """
    for app in apps:
        if app_id is None or str(app.id) == app_id:
            return app
    raise NotAuthorizedError(404, "There is no such app." if app_id else "No app stands in config/websocket.yaml.")


def check_master_keys(apps: Iterable[AppSettings]) -> None:
    """
    Check the keys for encrypted channels of apps.

    Raises:
        ConfigurationError: One is none.
    """
    for number, app in enumerate(apps):
        if app.encryption_master_key is not None:
            _master_key(app.encryption_master_key, f"apps[{number}].encryption_master_key")


def _master_key(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigurationError("expected base64 of 32 bytes. Make one with: openssl rand -base64 32", key=where)
    return key


def _check_socket_id(socket_id: Any) -> None:
    # More than politeness: a socket id with a colon in it would make us sign another channel than the one asked about.
    if not is_socket_id(socket_id):
        raise NotAuthorizedError(400, "socket_id: expected two numbers and a dot, such as 1234.5678.")


def _json(value: Mapping[str, Any]) -> str:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
