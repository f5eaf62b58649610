"""A Pusher client that can do everything wrong, and signs as an application's endpoint would."""

from __future__ import annotations

import json
from typing import Any

from alphavel.websocket.auth.signatures import channel_auth, user_auth
from alphavel.websocket.settings import AppLimits, AppSettings
from tests.websocket.clients import Client

KEY, SECRET = "app-key", "app-secret"


def app(**given: Any) -> AppSettings:
    """Settings of an app; limits are given by their own names."""
    limits = {name: given.pop(name) for name in list(given) if name in AppLimits.__dataclass_fields__}
    return AppSettings(**{"id": "1", "key": KEY, "secret": SECRET, "limits": AppLimits(**limits), **given})


class PusherClient(Client):
    """A client on `/app/app-key`; `data` that is JSON in a text is shown as what it holds."""

    def __init__(self, port: int, path: str = f"/app/{KEY}?protocol=7", headers=None, *, greeted: bool = True, **options: Any):
        super().__init__(port, path, headers, greeted=False, **options)
        if greeted:
            event = self.receive()
            assert event["event"] == "pusher:connection_established", event
            self.socket_id = event["data"]["socket_id"]

    def receive(self) -> Any:
        return plain(super().receive())

    def join(self, channel: str, member: Any = None, *, answer: bool = True, **changed: Any) -> Any:
        """Subscribe, with the right signature unless `changed` says otherwise, and return the answer."""
        data: dict[str, Any] = {"channel": channel, "auth": ""}
        if member is not None:
            data["channel_data"] = member if isinstance(member, str) else json.dumps(member)
        if channel.startswith(("private-", "presence-")):
            data["auth"] = channel_auth(KEY, SECRET, self.socket_id, channel, data.get("channel_data"))
        self.send("pusher:subscribe", {**data, **changed})
        return self.receive() if answer else None

    def sign_in(self, user_id: str = "7", *, answer: bool = True, user_data: Any = None, auth: Any = None, **more: Any) -> Any:
        """Sign in, and return the answer."""
        text = json.dumps({"id": user_id, **more}) if user_data is None else user_data
        self.send("pusher:signin", {"auth": auth or user_auth(KEY, SECRET, self.socket_id, str(text)), "user_data": text})
        return self.receive() if answer else None

    def whisper(self, channel: Any, event: str = "client-typing", data: Any = None, **more: Any) -> None:
        self.text(json.dumps({"event": event, "channel": channel, "data": data, **more}))


def plain(event: Any) -> Any:
    """Return an event with its data as what the text holds, where it is one that holds JSON."""
    data = event.get("data")
    if isinstance(data, str):
        try:
            return {**event, "data": json.loads(data)}
        except ValueError:
            return event
    return event


def succeeded(channel: str, **data: Any) -> dict[str, Any]:
    return {"event": "pusher_internal:subscription_succeeded", "channel": channel, "data": data}
