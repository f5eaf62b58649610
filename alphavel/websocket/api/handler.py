"""
From a request to a response: which app and endpoint it is for, whether it is signed, and what it is answered.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import orjson

from alphavel.websocket.api import events, questions
from alphavel.websocket.api.messages import ApiError, Request, Response
from alphavel.websocket.auth.revocations import DAY_S, check_revocation
from alphavel.websocket.auth.signatures import SignatureError, check_request, read_parameters
from alphavel.websocket.logs import get_logger

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.server import WebSocketServer

logger = get_logger("alphavel.websocket")

_PATH = re.compile(
    r"(?:/apps/(?P<app>[^/]+))?/(?:(?P<collection>events|batch_events|channels|reauthorize|revoke)"
    r"|channels/(?P<channel>[^/]+)(?P<of>/users|/history)?|users/(?P<user>.+)/terminate_connections)"
)
_MAX_PARAMETERS = 50
_MAX_PATTERN = 200


def takes(server: WebSocketServer, path: str, query: str) -> bool:
    """
    Whether a request is for this API, and not for a page of the application's own at such a path: it names one of our apps,
    or it is signed.

    Args:
        server: Whose apps they are.
        path: Path, its bytes decoded, as Latin-1 or as UTF-8.
        query: The query as it came.
    """
    if not path.startswith(("/apps/", "/users/")) or not server.apps.any_key:
        return False
    match = _PATH.fullmatch(path)
    return match is not None and ("auth_key=" in query or server.apps.get(match["app"] or "") is not None)


def body_limit(server: WebSocketServer) -> int:
    """Bytes that a request's body may have: a whole batch of the largest events, however they are escaped."""
    return (
        max(app.settings.limits.events_per_batch * (app.settings.limits.event_size * 6 + 1024) for app in server.apps) + 65536
    )


def handle(server: WebSocketServer, request: Request, now: float | None = None) -> Response:
    """
    Answer a request. Does not block.

    Args:
        server: The server it wants to.
        request: One that `takes` said yes to.
        now: Seconds since the epoch; None: what the clock says.
    """
    try:
        return Response.of(_answer(server, request, time.time() if now is None else now))
    except SignatureError as error:
        server.counters.auth_failures["api"] += 1
        logger.warning("A request to the HTTP API is refused: %s", error, extra={"path": request.path[:200]})
        return Response.refusal(ApiError(401, str(error)))
    except ApiError as error:
        return Response.refusal(error)


def _answer(server: WebSocketServer, request: Request, now: float) -> Mapping[str, Any]:
    match = _PATH.fullmatch(request.path)
    if match is None:
        raise ApiError(404, f"There is nothing at {request.path}.")
    try:
        pairs = parse_qsl(request.query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise ApiError(400, f"The query has more than {_MAX_PARAMETERS} parameters.") from None
    parameters = read_parameters(pairs)
    app = _app(server, match["app"], parameters)
    method, endpoint = _ENDPOINTS[_kind(match)]
    if request.method != method:
        raise ApiError(405, f"{request.path} is for {method}; got {request.method}.", {"Allow": method})
    if request.encoding not in ("", "identity"):
        raise ApiError(
            415,
            f"Send the body as it is: Content-Encoding {request.encoding} is not read here.",
            {"Accept-Encoding": "identity"},
        )
    _check_signature(app, request, parameters, now)
    if not app.settings.enabled:
        raise ApiError(403, f"The app {app.id} is disabled.")
    if not server.is_running or (server.is_draining and not server.has_others):
        raise ApiError(503, "The server is stopping.", {"Retry-After": "1"})
    return endpoint(app, match, parameters, request.body)


def _app(server: WebSocketServer, app_id: str | None, parameters: Mapping[str, str]) -> App:
    # Python's library leaves the app out of the path that ends a user's connections; the key tells it.
    app = server.apps.with_key(parameters.get("auth_key", "")) if app_id is None else server.apps.get(app_id)
    if app is None or not app.key:
        raise ApiError(404, f"There is no app {app_id!r}. Apps stand in config/websocket.yaml." if app_id else "No app.")
    return app


def _check_signature(app: App, request: Request, parameters: Mapping[str, str], now: float) -> None:
    signed = (app.key, app.secret, request.method)
    try:
        check_request(*signed, request.path, parameters, request.body, now)
    except SignatureError:
        if request.raw_path == request.path:
            raise
        # Libraries do not agree whether the path is signed before or after it is escaped.
        check_request(*signed, request.raw_path, parameters, request.body, now)


def _kind(match: re.Match[str]) -> str:
    if match["collection"]:
        return match["collection"]
    return "terminate_connections" if match["user"] else (match["of"] or "/channel")[1:]


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except ValueError as error:
        raise ApiError(400, f"Expected a JSON object as the body: {error}.") from None
    if not isinstance(content, dict):
        raise ApiError(400, f"Expected a JSON object as the body; got {type(content).__name__}.")
    return content


def _terminate(app: App, match: re.Match[str], parameters: Mapping[str, str], body: bytes) -> Mapping[str, Any]:
    app.terminate_user(match["user"])
    return {}


def _reauthorize(app: App, match: re.Match[str], parameters: Mapping[str, str], body: bytes) -> Mapping[str, Any]:
    pattern = _read_object(body).get("channels")
    if not isinstance(pattern, str) or not 0 < len(pattern) <= _MAX_PATTERN:
        raise ApiError(400, f'"channels": expected the pattern of channels\' names, at most {_MAX_PATTERN} characters.')
    app.server.tasks.spawn(app.reauthorize, pattern)  # authorizers may take their time
    return {}


def _revoke(app: App, match: re.Match[str], parameters: Mapping[str, str], body: bytes) -> Mapping[str, Any]:
    given = _read_object(body)
    jti, expires_in = given.get("jti"), given.get("expires_in", DAY_S)
    try:
        check_revocation(jti, expires_in)
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    if app is not app.server.apps.default:
        raise ApiError(400, "Tokens are for the first app of config/websocket.yaml; ask it.")
    app.server.tasks.spawn(app.server.revoke, jti, expires_in)
    return {}


_Endpoint = Callable[["App", "re.Match[str]", Mapping[str, str], bytes], Mapping[str, Any]]

_ENDPOINTS: dict[str, tuple[str, _Endpoint]] = {
    "events": ("POST", lambda app, match, parameters, body: events.publish(app, _read_object(body))),
    "batch_events": ("POST", lambda app, match, parameters, body: events.publish_batch(app, _read_object(body))),
    "channels": ("GET", lambda app, match, parameters, body: questions.channels(app, parameters)),
    "channel": ("GET", lambda app, match, parameters, body: questions.channel(app, match["channel"], parameters)),
    "users": ("GET", lambda app, match, parameters, body: questions.users(app, match["channel"], parameters)),
    "history": ("GET", lambda app, match, parameters, body: questions.history(app, match["channel"], parameters)),
    "terminate_connections": ("POST", _terminate),
    "reauthorize": ("POST", _reauthorize),
    "revoke": ("POST", _revoke),
}
