"""
The dashboard at `/alphavel/dashboard`: figures of all workers, channels and who is on them, circuits with their switches, and a
console that shows what is sent on a channel and sends.

It is not there unless a guard says who may: `dashboard.password`, or a function given to `@WebSocket.dashboard_guard`. Every
request is guarded, the files too. What changes something takes JSON with a header of its own, which no page of another site can
send. Imported when the first request comes that may see it.
"""

from __future__ import annotations

import heapq
import hmac
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import gevent
import orjson
from flask import Response, request, send_from_directory
from gevent.queue import Empty, Full, Queue

from alphavel.foundation import container
from alphavel.foundation.circuits import ACTIONS, BINDING, Circuits, UnreachableError
from alphavel.websocket.facade import WebSocket
from alphavel.websocket.logs import get_logger
from alphavel.websocket.metrics.fleet import of_server
from alphavel.websocket.watching import watching

if TYPE_CHECKING:
    from alphavel.websocket.apps import App

logger = get_logger("alphavel.websocket.dashboard")

HEADER = "X-Alphavel-Dashboard"
_FOLDER = Path(__file__).parent / "static" / "dashboard"
_FILES = {"": "index.html", **{name: name for name in ("dashboard.js", "chart.js", "dashboard.css", "icon.svg")}}
_SHOWN_CHANNELS = 200
_SHOWN_MEMBERS = 500
_MAX_WATCHERS = 32  # consoles that are open at the same time, in this process
_MAX_WAITING = 500  # events for one console that has yet to take them
_MAX_BODY = 256 * 1024
_LOOK_S = 0.5  # between two looks at whether the server is stopping
_HEARTBEAT_S = 10.0
_AFTER_A_WRONG_PASSWORD_S = 0.5
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_watchers = 0


def answer(what: str) -> Response:
    """
    Answer a request.

    Args:
        what: The path after `/alphavel/dashboard/`.
    """
    response = _refusal() or _answer(what)
    response.headers.update(_SECURITY)
    return response


def _answer(what: str) -> Response:
    if request.method == "GET":
        if what in _FILES:
            return send_from_directory(_FOLDER, _FILES[what])
        view = _VIEWS.get(what)
    else:
        view = _ACTIONS.get(what) if request.method == "POST" else None
        if view is not None and not _is_from_here():
            return _error(403, "This has to come from the dashboard's own page.")
    if view is None:
        return _error(404, "There is nothing here.")
    try:
        return view()
    except _BadRequestError as error:
        return _error(error.status, str(error))


# Who may


def _refusal() -> Response | None:
    """Return the answer for who may not see it, None for who may."""
    password = WebSocket.settings.dashboard.password
    if WebSocket.guards_dashboard:
        return None if WebSocket.may_see_dashboard() else _error(403, "The dashboard is not for you.")
    given = request.authorization
    if given is not None and given.type == "basic" and password:
        if hmac.compare_digest((given.password or "").encode(), password.encode()):
            return None
        logger.warning("A wrong password for the dashboard", extra={"address": request.remote_addr})
        gevent.sleep(_AFTER_A_WRONG_PASSWORD_S)
    response = _error(401, "The dashboard's password is needed; any name will do.")
    response.headers["WWW-Authenticate"] = 'Basic realm="Alphavel dashboard", charset="UTF-8"'
    return response


def _is_from_here() -> bool:
    # A browser asks before it sends such a header, or JSON, to another site, and nobody here says yes. The others tell tales.
    if request.headers.get(HEADER) != "1" or not request.is_json:
        return False
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        return False
    return request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"


# Looking


def _state() -> Response:
    circuits, problem = _circuits()
    return _json(
        {
            "at": time.time(),
            "metrics": [[family.name, family.kind, family.samples] for family in of_server(WebSocket)],
            "apps": [app.id for app in WebSocket.apps],
            **_channels(request.args.get("filter", "")),
            "circuits": circuits,
            "circuits_problem": problem,
        }
    )


def _channels(wanted: str) -> dict[str, Any]:
    """The channels with most subscribers whose names hold a text, and how many there are."""
    found = [
        (app.connections.count(name), name, app) for app in WebSocket.apps for name in app.get_channels() if wanted in name
    ]
    largest = heapq.nlargest(_SHOWN_CHANNELS, found, key=lambda entry: entry[0])
    listed = [{**app.get_channel_stats(name), "app": app.id} for _, name, app in largest]
    return {"channels": listed, "channels_found": len(found)}


def _circuits() -> tuple[dict[str, Any] | None, str | None]:
    """Return what is known of circuits and why it is not more; None where there are none."""
    if not container().bound(BINDING):
        return None, None
    try:
        circuits: Circuits = container().make(BINDING)
        return circuits.stats(None), None
    except UnreachableError as error:
        return {}, str(error)
    except Exception as error:  # noqa: BLE001 (a store that cannot be used must not take the rest of the page away)
        return {}, f"{type(error).__name__}: {error}"


def _channel() -> Response:
    app, name = _app(request.args), _text(request.args, "channel")
    roster = app.get_presence(name) if name.startswith("presence-") else []
    return _json({**app.get_channel_stats(name), "members": roster[:_SHOWN_MEMBERS], "members_found": len(roster)})


def _events() -> Response:
    global _watchers  # noqa: PLW0603 (one process, one hub: nothing switches between the look and the change)
    app, name = _app(request.args), _text(request.args, "channel")
    if _watchers >= _MAX_WATCHERS:
        raise _BadRequestError(f"{_MAX_WATCHERS} consoles are open already.", 429)
    _watchers += 1
    response = Response(_stream(app, name), mimetype="text/event-stream", headers={"X-Accel-Buffering": "no"})
    response.call_on_close(_leave)
    return response


def _leave() -> None:
    global _watchers  # noqa: PLW0603
    _watchers -= 1


def _stream(app: App, channel: str) -> Iterator[bytes]:
    queue: Queue[dict[str, Any]] = Queue(_MAX_WAITING)
    lost = [0]

    def take(event: dict[str, Any]) -> None:
        try:
            queue.put_nowait(event)
        except Full:
            lost[0] += 1

    with watching(app, channel, take):
        yield b": watching\n\n"
        silent_s = 0.0
        while not WebSocket.is_draining:
            try:
                event = queue.get(timeout=_LOOK_S)
            except Empty:
                silent_s += _LOOK_S
                if silent_s >= _HEARTBEAT_S:
                    silent_s = 0.0
                    yield b": still there\n\n"  # which finds out whether it is
                continue
            if lost[0]:
                event["lost"], lost[0] = lost[0], 0
            yield b"data: " + orjson.dumps(event) + b"\n\n"


# Acting


def _push() -> Response:
    content = _content()
    app, channel, event = _app(content), _text(content, "channel"), _text(content, "event")
    try:
        queued = app.to_channel(channel).push({"event": event, "data": content.get("data")})
    except (ValueError, TypeError) as error:
        raise _BadRequestError(str(error)) from None
    logger.info("An event was sent from the dashboard", extra={**_who(), "channel": channel, "event": event})
    return _json({"queued": queued})


def _act() -> Response:
    content = _content()
    service, action = _text(content, "service"), _text(content, "action")
    if action not in ACTIONS or not container().bound(BINDING):
        raise _BadRequestError(f"There is no such action. There are: {', '.join(ACTIONS)}.")
    circuits: Circuits = container().make(BINDING)
    try:
        if service not in circuits.stats(None):
            raise _BadRequestError(f"There is no service {service!r}.", 404)
        changes = circuits.act(action, service)
    except UnreachableError as error:
        raise _BadRequestError(str(error), 503) from error
    logger.warning("A circuit was changed from the dashboard", extra={**_who(), "service": service, "action": action})
    return _json({"changes": changes})


def _who() -> dict[str, Any]:
    return {"address": request.remote_addr, "operator": request.authorization and request.authorization.username}


# What was asked


class _BadRequestError(Exception):
    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


def _content() -> dict[str, Any]:
    if request.content_length is None:  # in chunks it could be of any size, and reading it would be the way to find out
        raise _BadRequestError("Say how long it is: Content-Length.", 411)
    if request.content_length > _MAX_BODY:
        raise _BadRequestError("That is too much.", 413)
    content = request.get_json(silent=True)
    if not isinstance(content, dict):
        raise _BadRequestError("Expected a JSON object.")
    return content


def _text(values: Any, name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise _BadRequestError(f"Say {name}.")
    return value


def _app(values: Any) -> App:
    app = WebSocket.apps.get(values.get("app") or WebSocket.apps.default.id)
    if app is None:
        raise _BadRequestError("There is no such app.", 404)
    return app


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content, default=str), mimetype="application/json")


def _error(status: int, text: str) -> Response:
    return Response(text + "\n", status, mimetype="text/plain")


_VIEWS: dict[str, Callable[[], Response]] = {"state": _state, "channel": _channel, "events": _events}
_ACTIONS: dict[str, Callable[[], Response]] = {"push": _push, "circuit": _act}
