"""`GET /apps/{id}/channels`, `…/channels/{name}` and `…/channels/{name}/users`, and what they and events check alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from alphavel.websocket.api.messages import ApiError
from alphavel.websocket.channels import Kind, is_cached, name_error, user_of

if TYPE_CHECKING:
    from alphavel.websocket.apps import App

_MAX_DIGITS = 20


def channels(app: App, parameters: Mapping[str, str]) -> Mapping[str, Any]:
    """
    Return the occupied channels: `{"channels": {"a": {}, "presence-b": {"user_count": 2}}}`.

    Args:
        app: Whose channels they are.
        parameters: `filter_by_prefix`, `info`.

    Raises:
        ApiError: Attributes are asked for that not all of these channels have.
    """
    prefix = parameters.get("filter_by_prefix", "")
    info = read_info(parameters.get("info", ""), ("user_count", "subscription_count"))
    if "user_count" in info and not prefix.startswith("presence-"):
        raise ApiError(400, "info: only presence channels have a user_count; add filter_by_prefix=presence-.")
    names = [name for name in app.get_channels() if name.startswith(prefix)]
    return {"channels": {name: app.info(name, info) for name in names}}  # an object, also when empty


def channel(app: App, name: str, parameters: Mapping[str, str]) -> Mapping[str, Any]:
    """
    Return the state of a channel: `{"occupied": true, "subscription_count": 5}`.

    Args:
        app: Whose channel it is.
        name: Its name; nobody need be on it.
        parameters: `info`.

    Raises:
        ApiError: It cannot be a channel's name, or an attribute is asked for that this channel cannot have.
    """
    check_channel(app, name)
    info = read_info(parameters.get("info", ""), ("user_count", "subscription_count", "cache"))
    if "user_count" in info and Kind.of(name) is not Kind.PRESENCE:
        raise ApiError(400, f"info: only presence channels have a user_count; {name} is none.")
    if "cache" in info and not is_cached(name):
        raise ApiError(400, f"info: only cache channels keep an event; {name} is none.")
    return {"occupied": app.connections.count(name) > 0, **app.info(name, info)}


def users(app: App, name: str, parameters: Mapping[str, str]) -> Mapping[str, Any]:
    """
    Return who is on a presence channel: `{"users": [{"id": "1"}, {"id": "2"}]}`.

    Args:
        app: Whose channel it is.
        name: Its name.
        parameters: `info`, beyond Pusher's API: `user_info`, `connected_at`.

    Raises:
        ApiError: It is no presence channel.
    """
    check_channel(app, name)
    info = read_info(parameters.get("info", ""), ("user_info", "connected_at"))
    if Kind.of(name) is not Kind.PRESENCE:
        raise ApiError(400, f"Only presence channels know their users; {name} is none.")
    members = ({**member, "user_info": member["info"]} for member in app.get_presence(name))
    return {"users": [{key: member[key] for key in ("id", *info)} for member in members]}


def history(app: App, name: str, parameters: Mapping[str, str]) -> Mapping[str, Any]:
    """
    Return what was published on a channel, see `resuming.read`; beyond Pusher's API.

    Args:
        app: Whose channel it is.
        name: Its name.
        parameters: `limit`, and `epoch` with `serial`: what came after that position.

    Raises:
        ApiError: The channel keeps no history, or there can be no such limit or position.
    """
    check_channel(app, name)
    since = {"epoch": parameters.get("epoch"), "serial": _number(parameters.get("serial"))}
    try:
        return app.history(name, _number(parameters.get("limit", "100")), since if any(map(parameters.get, since)) else None)
    except ValueError as error:
        raise ApiError(400, str(error)) from None


def _number(text: str | None) -> Any:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < _MAX_DIGITS else text


def read_info(text: str, known: Collection[str]) -> tuple[str, ...]:
    """
    Read `info`, names with commas.

    Raises:
        ApiError: It names something that is not known here.
    """
    names = tuple(filter(None, (name.strip() for name in text.split(","))))
    for name in names:
        if name not in known:
            raise ApiError(400, f"info: there are {', '.join(known)}; got {name[:50]!r}.")
    return names


def check_channel(app: App, name: object) -> None:
    """
    Check the name of a channel, or of a user's own: `#server-to-user-7`.

    Raises:
        ApiError: It cannot be one.
    """
    limits = app.settings.limits
    user_id = user_of(name) if isinstance(name, str) else None
    if user_id is not None:
        if not 1 <= len(user_id) <= limits.user_id_length:
            raise ApiError(400, f"A user's id has 1 to {limits.user_id_length} characters.")
        return
    problem = name_error(name, limits.channel_name_length)
    if problem is not None:
        raise ApiError(400, problem if not isinstance(name, str) or not name else f"{ascii(name)[:60]}: {problem}")
