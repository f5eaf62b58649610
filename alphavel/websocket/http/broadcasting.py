"""
`/broadcasting/auth` and `/broadcasting/user-auth`, as Laravel Echo and pusher-js ask them. They call the same
`@WebSocket.channel` authorizers as Alphavel's own protocol, with the user of the request.

A session's cookie comes along whichever page asks, so pages are told apart as for a WebSocket: those that may not connect are
refused here too. No CSRF token is asked for; an application that asks for one everywhere gets it from Echo (`X-CSRF-TOKEN`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import current_app, request

from alphavel.websocket.auth.current import as_user
from alphavel.websocket.auth.origins import OriginRules
from alphavel.websocket.auth.tokens import find_token
from alphavel.websocket.auth.users import AuthenticationError
from alphavel.websocket.authorization import NotAuthorizedError, authenticate_user, authorize_channel, find_app
from alphavel.websocket.facade import WebSocket
from alphavel.websocket.settings import AppSettings

Answer = tuple[dict[str, Any], int, dict[str, str]]


def channel_auth() -> Answer:
    """Answer `socket_id` and `channel_name`, as a form, as JSON or in the query."""
    return _answer(
        lambda app, asked: authorize_channel(WebSocket, app, current_user(), asked.get("socket_id"), asked.get("channel_name"))
    )


def user_auth() -> Answer:
    """Answer `socket_id`, as a form, as JSON or in the query."""

    def answer(app: AppSettings, asked: Mapping[str, Any]) -> dict[str, str]:
        user = current_user()
        return authenticate_user(app, user, WebSocket.data_of(user), asked.get("socket_id"))

    return _answer(answer)


def current_user() -> Any:
    """
    Return the user of the request, None for nobody: who `@WebSocket.user_loader` says it is; without one, flask-login's
    `current_user` where the application uses it, else the user of the token in `Authorization: Bearer …`.

    Raises:
        AuthenticationError: There is a token and it is not valid.
    """
    if WebSocket.has_user_loader:
        return as_user(WebSocket.load_user())
    if hasattr(current_app, "login_manager"):
        from flask_login import current_user as logged_in

        if logged_in.is_authenticated:
            return as_user(logged_in._get_current_object())
    token = find_token(request.environ, None).token
    return WebSocket.verify(token) if token is not None and WebSocket.verifier.enabled else None


def _check_origin(app: AppSettings) -> None:
    if request.headers.get("Sec-Fetch-Site") == "same-origin":
        return  # the browser says so, whatever a proxy has made of the host; no page can say it itself
    rules = OriginRules(app.allowed_origins or WebSocket.settings.allowed_origins)
    if not rules.allows(request.headers.get("Origin"), request.host, request.scheme):
        raise NotAuthorizedError(403, "This page's origin may not connect; see allowed_origins in config/websocket.yaml.")


def _answer(answer: Callable[[AppSettings, Mapping[str, Any]], dict[str, str]]) -> Answer:
    content: dict[str, Any]
    try:
        app = find_app(WebSocket.settings.apps, request.args.get("app"))
        _check_origin(app)
        content, status = answer(app, _asked()), 200
    except NotAuthorizedError as error:
        content, status = {"message": str(error)}, error.status
    except AuthenticationError as error:
        content, status = {"message": str(error)}, 401
    return content, status, {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def _asked() -> Mapping[str, Any]:
    if request.is_json:
        asked = request.get_json(silent=True)
        return asked if isinstance(asked, dict) else {}
    return request.values
