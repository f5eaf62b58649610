"""Who may see the metrics, and the answer to who may. Deny is the default: names of apps and channels stand in them."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alphavel.foundation.exposition import exposed
from alphavel.websocket.addresses import is_in, networks
from alphavel.websocket.api.messages import ApiError, Response
from alphavel.websocket.metrics.fleet import of_server

if TYPE_CHECKING:
    from alphavel.websocket.server import WebSocketServer
    from alphavel.websocket.settings import MetricsSettings

# Where one of these is there, the peer is a proxy, and its address says nothing of who asks.
_OF_PROXIES = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP", "HTTP_VIA")


def answer(server: WebSocketServer, environ: Mapping[str, Any]) -> Response:
    """
    Answer a scrape with the metrics of all workers. Blocks the calling greenlet.

    Args:
        server: Its settings say who may.
        environ: WSGI environ of a request for `metrics.path`.
    """
    settings = server.settings.metrics
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return Response.refusal(ApiError(405, "Metrics are read with GET.", {"Allow": "GET, HEAD"}))
    if not may_read(settings, environ):
        return Response.refusal(_refusal(settings))
    if not server.is_running:
        return Response.refusal(ApiError(503, "The server does not run.", {"Retry-After": "1"}))
    body, content_type = exposed(of_server(server), environ.get("HTTP_ACCEPT", ""))
    return Response(200, {"Content-Type": content_type, "Cache-Control": "no-store"}, body)


def may_read(settings: MetricsSettings, environ: Mapping[str, Any]) -> bool:
    """Whether a request has the token, or comes straight from an allowed address."""
    scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if settings.token and scheme.lower() == "bearer":
        return hmac.compare_digest(given.strip().encode("latin-1", "replace"), settings.token.encode())
    if any(name in environ for name in _OF_PROXIES):
        return False
    allowed = networks(settings.allowed_addresses, "metrics.allowed_addresses")
    return is_in(environ.get("REMOTE_ADDR", ""), allowed)


def _refusal(settings: MetricsSettings) -> ApiError:
    if settings.token:
        return ApiError(401, "Metrics are for those with the token: Authorization: Bearer.", {"WWW-Authenticate": "Bearer"})
    return ApiError(403, "Metrics are for the addresses of metrics.allowed_addresses, and for those with metrics.token.")
