"""
The blueprint: `app.register_blueprint(blueprint)` puts the WebSocket server into a Flask application.

Under Alphavel's own server and gunicorn worker, upgrade requests and the HTTP API never reach Flask; under others they do. In
a process that only sends, there are /broadcasting/auth, /health and the client.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, has_request_context, request, send_from_directory
from flask.sansio.blueprints import BlueprintSetupState

from alphavel.foundation.facades import Facade
from alphavel.websocket import api
from alphavel.websocket.auth.tokens import SUBPROTOCOL
from alphavel.websocket.facade import WebSocket
from alphavel.websocket.http.broadcasting import channel_auth, user_auth

blueprint = Blueprint("alphavel_websocket", __name__, static_folder=None)

DASHBOARD = "/alphavel/dashboard"
_STATIC = Path(__file__).parent / "static"


@blueprint.record
def _name_subprotocol(state: BlueprintSetupState) -> None:
    # gevent-websocket's handler answers the handshake before we see it, and asks the application for the subprotocol to name.
    vars(state.app).setdefault("app_protocol", _subprotocol_at)


def _subprotocol_at(path: str) -> str | None:
    from alphavel.websocket import pusher_entrance

    if pusher_entrance.leads_here(WebSocket, path):
        return pusher_entrance.SUBPROTOCOL
    return SUBPROTOCOL if path == WebSocket.settings.path else None


@blueprint.before_app_request
def _start() -> None:
    server = WebSocket
    if isinstance(server, Facade):
        server.current_socket_id = _socket_id_of_request
    if server.sends_only:
        return
    from gevent import monkey

    if monkey.is_module_patched("socket") and not server.is_draining and not server.is_running:
        if _is_one_of_several_workers(request.environ) and server.settings.broadcasting.driver == "memory":
            from alphavel.websocket.connections import renew_process_part

            # Before the first connection: those that were forked after the application was imported share all they have drawn.
            renew_process_part()
            server.join_workers_of(os.getppid())
        server.start()


def _is_one_of_several_workers(environ: Any) -> bool:
    """Whether gunicorn serves, with workers that know nothing of Alphavel: gevent-websocket's."""
    return bool(environ.get("wsgi.multiprocess")) and "gunicorn/" in environ.get("SERVER_SOFTWARE", "")


@blueprint.before_app_request
def _take_upgrades() -> Response | None:
    # Not a rule with websocket=True: with one for all paths, Werkzeug answers 400 where the application has no page, not 404.
    if WebSocket.sends_only:
        return None
    # Here, because it imports gevent, which a process that only sends need not have.
    from alphavel.websocket.http.upgrades import asks_for_websocket, connect, stream

    lost = "wsgi.websocket" in request.environ and request.routing_exception is not None
    return connect() if lost or asks_for_websocket(WebSocket, request.environ) else stream()


@blueprint.before_app_request
def _answer_api() -> Response | None:
    # Not rules either: they would hide pages of the application's own at such paths, and be asked for CSRF tokens.
    environ = request.environ
    if WebSocket.sends_only or not api.takes(WebSocket, environ["PATH_INFO"], environ.get("QUERY_STRING", "")):
        return None
    limit = api.body_limit(WebSocket)
    body = request.stream.read(limit + 1)
    if len(body) > limit:
        answer = api.Response.refusal(api.ApiError(413, f"The body is larger than {limit} bytes."))
    else:
        uri = environ.get("REQUEST_URI") or environ.get("RAW_URI") or request.path
        answer = api.handle(WebSocket, api.Request.from_environ(environ, uri, body))
    return Response(answer.body, answer.status, answer.headers)


@blueprint.before_app_request
def _answer_operators() -> Response | None:
    path = request.environ["PATH_INFO"]
    if WebSocket.sends_only:
        return None
    if path.startswith(DASHBOARD) and WebSocket.has_dashboard:
        return _dashboard(path[len(DASHBOARD) :])
    if not WebSocket.exposes_metrics_at(path):
        return None
    from alphavel.websocket.metrics.exposing import answer

    found = answer(WebSocket, request.environ)
    return Response(found.body, found.status, found.headers)


def _dashboard(what: str) -> Response | None:
    if not what:
        return Response(status=308, headers={"Location": f"{request.script_root}{DASHBOARD}/"})
    if what[0] != "/":
        return None
    from alphavel.websocket.http.dashboard import answer

    return answer(what[1:])


def _socket_id_of_request() -> str | None:
    return request.headers.get("X-Socket-ID") if has_request_context() else None


for path, view in (("/broadcasting/auth", channel_auth), ("/broadcasting/user-auth", user_auth)):
    blueprint.add_url_rule(path, view.__name__, view, methods=["GET", "POST"])


@blueprint.get("/health")
def health() -> tuple[dict[str, Any], int, dict[str, str]]:
    """
    `{"status": "ready"}`; 200 and `{"status": "degraded"}` while other servers are not reached, because Redis is away: clients
    get what this one pushes. 503 and `{"status": "draining"}` (`"stopped"`) when a load balancer should send nobody.
    """
    if WebSocket.is_draining:
        status = "draining"
    elif WebSocket.sends_only:
        status = "ready"
    elif not WebSocket.is_running:
        status = "stopped"
    else:
        status = "ready" if WebSocket.relay.bus.is_up else "degraded"
    return {"status": status}, 200 if status in ("ready", "degraded") else 503, {"Cache-Control": "no-store"}


@blueprint.get("/<any('alphavel.js', 'alphavel-pusher.js'):name>")
def client(name: str) -> Response:
    """The JavaScript client, or what pusher-js lacks: modules without dependencies that pages of other hosts may import too."""
    response = send_from_directory(_STATIC, name, mimetype="text/javascript", max_age=300)
    response.access_control_allow_origin = "*"
    return response
