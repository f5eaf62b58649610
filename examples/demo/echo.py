"""
The lobby once more, for Laravel Echo: `/echo` is the same room with the same people, over the Pusher protocol.

Echo and pusher-js come from this machine where they are installed, else from a CDN; each has to be what its hash says.
`ALPHAVEL_DEMO_LIBRARIES` names the folder to look in, without it `node_modules`, here or where the tests install it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from flask import Blueprint, Response, make_response, render_template, send_file

from alphavel.websocket import WebSocket
from alphavel.websocket.settings import AppSettings

CDN = "https://cdn.jsdelivr.net"
PLACEHOLDER = "made anew at every start"

_NODE_MODULES = ("node_modules", Path(__file__).parents[2] / "tests/node/node_modules")

blueprint = Blueprint("echo", __name__)


class Library(NamedTuple):
    """
    A script of somebody else's.

    Attributes:
        package, version, path: What it is called on npm, and the file in it.
        integrity: Its hash, which the browser checks.
    """

    package: str
    version: str
    path: str
    integrity: str

    @property
    def name(self) -> str:
        """What it is called below `node_modules`."""
        return f"{self.package}/{self.path}"

    @property
    def copy(self) -> Path | None:
        """This machine's copy, None where there is none that the browser would take."""
        given = os.environ.get("ALPHAVEL_DEMO_LIBRARIES")
        for folder in (given,) if given else _NODE_MODULES:
            file = Path(folder, self.name)
            if file.is_file() and _integrity_of(file) == self.integrity:
                return file.resolve()
        return None

    @property
    def url(self) -> str:
        """Where a page gets it."""
        return f"/libraries/{self.name}" if self.copy else f"{CDN}/npm/{self.package}@{self.version}/{self.path}"


LIBRARIES = (
    Library(
        "pusher-js",
        "8.6.0",
        "dist/web/pusher.min.js",
        "sha384-yz6oLe92Sren05O3WPhu8DK05E9PEkh7kTQJ819acmwKwcCMwJXGu9Kta5wYhfaJ",
    ),
    Library(
        "laravel-echo",
        "2.5.0",
        "dist/echo.iife.js",
        "sha384-Kq9euGu5WTcvbilq3ziOV6gkliaI5dp7hOs78B8gl6HYlBeerOZlIaE9KfALmAs0",
    ),
)


def _integrity_of(file: Path) -> str:
    return f"sha384-{base64.b64encode(hashlib.sha384(file.read_bytes()).digest()).decode()}"


def ensure_secret() -> None:
    """Give this start an app with a secret of its own, unless one is configured; it is written nowhere."""
    app, *others = WebSocket.settings.apps or (AppSettings("1", "demo", PLACEHOLDER),)
    if app.secret == PLACEHOLDER:
        secret = os.environ["ALPHAVEL_DEMO_APP_SECRET"] = secrets.token_urlsafe(48)
        WebSocket.configure(replace(WebSocket.settings, apps=(replace(app, secret=secret), *others)))


@WebSocket.user_data
def about(user: Any) -> dict[str, str]:
    """What is said of a user who signs in on Echo's connection: what the token says on the other."""
    return {"name": user.claims["name"]}


@blueprint.get("/echo")
def page() -> Response:
    """The page, whose scripts may come from the CDN too."""
    key = WebSocket.settings.apps[0].key
    response = make_response(render_template("echo.html", libraries=LIBRARIES, key=key))
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' {CDN}; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    return response


@blueprint.get("/libraries/<path:name>")
def library(name: str) -> Response:
    """This machine's copy of a script; no other file of the folder."""
    file = next((library.copy for library in LIBRARIES if library.name == name), None)
    return Response(status=404) if file is None else send_file(file, mimetype="text/javascript")
