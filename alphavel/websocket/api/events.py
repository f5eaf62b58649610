"""`POST /apps/{id}/events` and `/batch_events`: everything is checked before anything is published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from alphavel.websocket.api.messages import ApiError
from alphavel.websocket.api.questions import check_channel, read_info
from alphavel.websocket.auth.signatures import is_socket_id
from alphavel.websocket.broadcasting import NOBODY
from alphavel.websocket.channels import Kind
from alphavel.websocket.protocols import Message
from alphavel.websocket.protocols.messages import Delivery

if TYPE_CHECKING:
    from alphavel.websocket.apps import App

_MAX_EXCLUDED = 1000
_RESERVED = ("pusher:", "pusher_internal:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class _Event(NamedTuple):
    message: Message
    channels: tuple[str, ...]
    excluded: frozenset[str]
    info: tuple[str, ...]
    everybody: bool = False


def publish(app: App, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Publish one event to 1 to 100 channels.

    Returns:
        `{}`, or `{"channels": {"presence-a": {"user_count": 2}}}` where `info` asks for attributes.

    Raises:
        ApiError: Says what is wrong with it.
    """
    event = _read_event(app, body)
    extension = body.get("alphavel")
    if extension is not None:
        event = _read_extension(app, event, extension)
    if not event.channels and not event.everybody:
        raise ApiError(400, '"channels": expected a list of at least one channel.')
    queued = _publish(app, event)
    answer: dict[str, Any] = {"channels": _attributes(app, event)} if event.info else {}
    return answer if extension is None else {**answer, "alphavel": {"queued": queued}}


def publish_batch(app: App, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Publish 1 to 10 events, each to one channel, in order.

    Returns:
        `{}`, or `{"batch": [{"subscription_count": 3}, {}]}`, one for each event, where any `info` asks for attributes.

    Raises:
        ApiError: Says what is wrong with which; then none was published.
    """
    batch, limit = body.get("batch"), app.settings.limits.events_per_batch
    if not isinstance(batch, list) or not batch:
        raise ApiError(400, '"batch": expected a list of events.')
    if len(batch) > limit:
        raise ApiError(400, f'"batch": at most {limit} events are taken at once; got {len(batch)}.')
    events = []
    for number, entry in enumerate(batch):
        try:
            events.append(_read_entry(app, entry))
        except ApiError as error:
            raise ApiError(error.status, f"batch[{number}]: {error}") from None
    for event in events:
        _publish(app, event)
    if not any(event.info for event in events):
        return {}
    return {"batch": [_attributes(app, event)[event.channels[0]] for event in events]}


def _publish(app: App, event: _Event) -> int:
    return app.publish(event.message, event.channels, (), event.everybody, event.excluded)


def _attributes(app: App, event: _Event) -> dict[str, dict[str, Any]]:
    return {name: app.info(name, event.info) for name in event.channels}


def _read_entry(app: App, entry: Any) -> _Event:
    if not isinstance(entry, dict) or "channels" in entry:
        raise ApiError(400, 'expected {"name":…,"data":…,"channel":…}.')
    event = _read_event(app, entry)
    if not event.channels:
        raise ApiError(400, '"channel": expected the name of a channel.')
    return event


def _read_event(app: App, body: Mapping[str, Any]) -> _Event:
    limits = app.settings.limits
    name = _read_name(body.get("name"), limits.event_name_length)
    data, socket_id, info = body.get("data"), body.get("socket_id"), body.get("info")
    if not isinstance(data, str):
        raise ApiError(400, '"data": expected a text; encode what it is to hold as JSON first.')
    size = len(data.encode(errors="replace"))
    if size > limits.event_size:
        raise ApiError(413, f'"data": at most {limits.event_size} bytes are taken; got {size}.')
    if socket_id is not None and not is_socket_id(socket_id):
        raise ApiError(400, f'"socket_id": expected two numbers and a dot, such as "1234.5678"; got {_shown(socket_id)}.')
    if info is not None and not isinstance(info, str):
        raise ApiError(400, '"info": expected names with commas, such as "user_count,subscription_count".')
    excluded = frozenset((socket_id,)) if socket_id is not None else NOBODY
    attributes = read_info(info or "", ("user_count", "subscription_count"))
    return _Event(Message.of_text(name, data), _read_channels(app, body), excluded, attributes)


def _read_extension(app: App, event: _Event, extension: Any) -> _Event:
    """
    What our own senders can say beyond Pusher's API:
    `{"except": […], "everybody": true, "members": {…}, "ttl": 60, "idempotency_key": "…"}`.
    """
    if not isinstance(extension, dict):
        raise ApiError(400, '"alphavel": expected an object.')
    excluded, members = extension.get("except", []), extension.get("members", {})
    if not isinstance(excluded, list) or len(excluded) > _MAX_EXCLUDED or not all(map(is_socket_id, excluded)):
        raise ApiError(400, f'"alphavel": expected at most {_MAX_EXCLUDED} socket ids in "except".')
    try:
        if not isinstance(members, dict) or len(orjson.dumps(members)) > app.settings.limits.event_size:
            raise ApiError(400, '"alphavel": expected an object no larger than data in "members".')
        message = Message.of_text(event.message.event, event.message.text, members)
    except TypeError as error:  # JSON is read 1,024 levels deep and written 254
        raise ApiError(400, f'"alphavel": "members" cannot be passed on: {error}.') from None
    try:
        message.delivery = Delivery.read(extension.get("ttl"), extension.get("idempotency_key"))
    except ValueError as error:
        raise ApiError(400, f'"alphavel": {error}') from None
    return event._replace(
        message=message, excluded=event.excluded.union(excluded), everybody=extension.get("everybody") is True
    )


def _read_name(name: Any, limit: int) -> str:
    if not isinstance(name, str) or not name:
        raise ApiError(400, '"name": expected the name of the event.')
    if len(name) > limit:
        raise ApiError(400, f'"name": an event\'s name has at most {limit} characters; this one has {len(name)}.')
    if name.startswith(_RESERVED):
        raise ApiError(400, f'"name": events that begin with {_RESERVED[0]} or {_RESERVED[1]} are the server\'s own.')
    if _CONTROL.search(name):
        raise ApiError(400, f'"name": control characters cannot stand in an event\'s name; got {_shown(name)}.')
    return name


def _read_channels(app: App, body: Mapping[str, Any]) -> tuple[str, ...]:
    channels, limit = body.get("channels"), app.settings.limits.channels_per_event
    if channels is None:
        channels = [body["channel"]] if "channel" in body else []
    if not isinstance(channels, list):
        raise ApiError(400, '"channels": expected a list of channels.')
    if len(channels) > limit:
        raise ApiError(400, f'"channels": an event goes to at most {limit} channels; got {len(channels)}.')
    for channel in channels:
        check_channel(app, channel)
    names = tuple(dict.fromkeys(channels))
    if len(names) > 1 and any(Kind.of(name) is Kind.ENCRYPTED for name in names):
        raise ApiError(400, '"channels": each encrypted channel has a key of its own; publish to it alone.')
    return names


def _shown(value: object) -> str:
    return ascii(value)[:60]
