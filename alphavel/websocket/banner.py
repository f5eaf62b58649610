"""What a server says of itself when it starts: everything that was decided, and who decided it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alphavel.foundation.config import Config
from alphavel.foundation.errors import ConfigurationError
from alphavel.foundation.origins import origins
from alphavel.websocket.files import room_for_connections

if TYPE_CHECKING:
    from alphavel.websocket.server import WebSocketServer
    from alphavel.websocket.settings import WebSocketSettings

_OPEN = "off: no key is set, so anybody may connect, to public channels only"


def banner(server: WebSocketServer) -> str:
    """Return the text, of a server of one worker; who starts several puts their number in."""
    from alphavel.websocket import __version__

    rows = [*_rows(server), ("settings", _settings(server.settings))]
    lines = "\n".join(f"  {name:<11} {value}" for name, value in rows if value)
    return f"Alphavel WebSocket server {__version__}\n{lines}"


def _rows(server: WebSocketServer) -> list[tuple[str, str]]:
    settings = server.settings
    auth = "on, anonymous clients on public channels" if settings.auth.anonymous else "on"
    held = room_for_connections(settings.options.max_connections)
    return [
        ("listening", ", ".join(server.listening)),
        ("pusher", ", ".join(f"/app/{app.key}" for app in server.apps if app.key)),
        ("workers", "1"),
        ("driver", _driver(settings)),
        ("writer", str(server.reactor.writer)),
        ("auth", auth if server.verifier.enabled else _OPEN),
        ("origins", ", ".join(settings.allowed_origins) or "pages of the same host"),
        ("connections", f"{held:,} for each worker"),
        ("proxies", ", ".join(settings.proxies.trusted)),
        ("metrics", f"at {settings.metrics.path}" if settings.metrics.enabled else ""),
        ("dashboard", _dashboard(server)),
        ("log", f"{settings.logging.file or 'standard error'}, from {settings.logging.level} on, {settings.logging.format}"),
    ]


def _driver(settings: WebSocketSettings) -> str:
    driver = settings.broadcasting.driver
    return f"{driver} at {settings.broadcasting.redis.place}" if driver == "redis" else driver


def _dashboard(server: WebSocketServer) -> str:
    if not server.has_dashboard:
        return ""
    return f"at /alphavel/dashboard, guarded by {'the application' if server.guards_dashboard else 'a password'}"


def _settings(settings: WebSocketSettings) -> str:
    """All that differ from the defaults; secrets are not shown."""
    config = Config()
    try:
        values, source = config.read("websocket")
    except ConfigurationError as error:  # it was readable a moment ago
        return str(error)
    where = f"no {config.folder / 'websocket.yaml'}: defaults" if source == "defaults" else source
    said = [f"{one.key} = {one.shown} ({one.origin})" for one in origins(settings, values, source)]
    return "\n".join([where, *(f"{'':<13} {line}" for line in said)])
