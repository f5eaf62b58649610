"""
`broadcasting.driver: http`: pushes go to the HTTP API of a server, signed with an app's secret.

With urllib3 alone: it keeps connections, is safe for threads and is what other HTTP libraries stand on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import orjson

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket.auth.signatures import sign_request
from alphavel.websocket.channels import user_channel
from alphavel.websocket.errors import BroadcastError
from alphavel.websocket.protocols.messages import Delivery

if TYPE_CHECKING:
    from alphavel.websocket.protocols import Message
    from alphavel.websocket.settings import AppSettings, HttpSettings

_MAX_ERROR_CHARACTERS = 500


class HttpCarrier:
    """See `contract.Carrier`. `publish` returns how many connections of the server that answered it was queued for."""

    def __init__(self, settings: HttpSettings) -> None:
        """
        Raises:
            ConfigurationError: urllib3 is not installed.
        """
        try:
            import urllib3
        except ImportError:
            raise ConfigurationError(
                'broadcasting.driver is http, and urllib3 is not installed: pip install "alphavel[sender]"'
            ) from None
        self._urllib3 = urllib3
        self._url = settings.url.rstrip("/")
        self._timeout = settings.timeout
        self._pool: Any = None
        self._pool_of = 0

    def publish(
        self,
        app: AppSettings,
        message: Message,
        channels: Iterable[str],
        users: Iterable[str],
        everybody: bool,
        excluded: frozenset[str],
    ) -> int:
        """See `contract.Carrier`."""
        names = [*channels, *map(user_channel, users)]
        more: dict[str, Any] = {"except": sorted(excluded)}
        if message.json_rest:
            more["members"] = orjson.Fragment(b"{" + message.json_rest[1:] + b"}")
        delivery = message.delivery or Delivery()
        if delivery.ttl is not None:
            more["ttl"] = delivery.ttl
        queued = 0
        for number, (some, all_of_them) in enumerate(_portions(names, everybody, app.limits.channels_per_event)):
            if delivery.idempotency_key is not None:  # a portion is not the second try of another one
                more["idempotency_key"] = f"{delivery.idempotency_key}/{number}" if number else delivery.idempotency_key
            event = {"name": message.event, "data": message.text, "channels": some}
            if len(excluded) == 1:
                event["socket_id"] = next(iter(excluded))  # what servers of others understand
            body = orjson.dumps({**event, "alphavel": {**more, "everybody": all_of_them}})
            answer = self._request(app, "POST", "/events", {}, body)
            queued += int((answer.get("alphavel") or {}).get("queued", 0))
        return queued

    def ask(self, app: AppSettings, path: str, parameters: dict[str, str]) -> dict[str, Any]:
        """See `contract.Carrier`."""
        return self._request(app, "GET", path, parameters, b"")

    def tell(self, app: AppSettings, what: str, content: dict[str, Any]) -> None:
        """See `contract.Carrier`."""
        path = f"/users/{content['user']}/terminate_connections" if what == "terminate" else f"/{what}"
        self._request(app, "POST", path, {}, orjson.dumps(content))

    def _request(self, app: AppSettings, method: str, path: str, parameters: Mapping[str, str], body: bytes) -> dict[str, Any]:
        path = f"/apps/{app.id}{path}"
        query = urlencode(sign_request(app.key, app.secret, method, path, parameters, body, time.time()))
        url = f"{self._url}{quote(path)}"
        try:
            response = self._connections().request(
                method, f"{url}?{query}", body=body or None, headers={"Content-Type": "application/json"}, redirect=False
            )
        except self._urllib3.exceptions.HTTPError as error:
            raise BroadcastError(f"The WebSocket server at {self._url} cannot be reached: {error}") from error
        if response.status != 200:
            text = response.data.decode(errors="replace").strip()[:_MAX_ERROR_CHARACTERS]
            raise BroadcastError(f"{method} {url} was answered {response.status}: {text}", response.status)
        try:
            answer = orjson.loads(response.data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise BroadcastError(f"{method} {url} was not answered by a WebSocket server: expected JSON.", response.status)
        return answer

    def _connections(self) -> Any:
        if self._pool is None or self._pool_of != os.getpid():  # a forked worker must not share its parent's sockets
            self._pool = self._urllib3.PoolManager(timeout=self._timeout, retries=False, maxsize=10)
            self._pool_of = os.getpid()
        return self._pool


def _portions(names: list[str], everybody: bool, size: int) -> Iterator[tuple[list[str], bool]]:
    if everybody:
        yield [], True
    for start in range(0, len(names), size):
        yield names[start : start + size], False
