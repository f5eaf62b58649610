"""The Flask application: the page, signing in, the past, and private notes. `examples.demo.web:app` for any server."""

from __future__ import annotations

import os
import time
from typing import Any

from flask import Flask, Response, abort, request
from werkzeug.exceptions import HTTPException

from alphavel.websocket import WebSocket, blueprint
from alphavel.websocket.auth import AuthenticationError
from examples.demo import echo, live
from examples.demo.identity import Person, ensure_key, person_called, person_with, token_for

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

ensure_key()
echo.ensure_secret()
app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 16 * 1024
app.config["SEND_FILE_MAX_AGE_DEFAULT"] = 0  # a demo is there to be changed: browsers ask whether a file is still the same
app.register_blueprint(blueprint)
app.register_blueprint(echo.blueprint)


@app.get("/")
def page() -> Response:
    return app.send_static_file("index.html")


@app.post("/sign-in")
def sign_in() -> dict[str, Any]:
    """`{"name": "Ada"}` gets a token; there are no passwords here, see `identity`."""
    try:
        person = person_called(_json().get("name"))
    except ValueError as error:
        abort(400, str(error))
    return {"token": token_for(person), "person": person._asdict()}


@app.get("/past")
def past() -> dict[str, Any]:
    """What was said, and the figures of the last minute: for a page that has just come."""
    _person()
    return {"messages": list(live.messages), "samples": list(live.samples)}


@app.post("/notes")
def send_note() -> dict[str, Any]:
    """`{"to": "ada", "text": "…"}` sends a private note: an ordinary view, which pushes to one user."""
    sender, data = _person(), _json()
    text, to = data.get("text"), data.get("to")
    problem = live.problem_with(text) or (None if isinstance(to, str) else "Say who it is for.")
    if problem:
        abort(400, problem)
    if not live.send_note(sender, to, text):
        abort(404, "This person has just left.")
    return {"sent": True}


@app.errorhandler(HTTPException)
def refusal(error: HTTPException) -> tuple[dict[str, Any], int]:
    return {"error": error.description}, error.code or 500


@app.after_request
def add_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


@WebSocket.on("worker_start")
def announce() -> None:
    """Where `python -m examples.demo` started the server, say how to look at it."""
    welcome = os.environ.get("ALPHAVEL_DEMO_WELCOME")
    if welcome:
        time.sleep(0.2)  # below what the server says of itself
        print(welcome, flush=True)


def _json() -> dict[str, Any]:
    data = request.get_json()  # 415 where it is not sent as JSON: no form of another page can do that
    return data if isinstance(data, dict) else {}


def _person() -> Person:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    try:
        return person_with(token if scheme == "Bearer" else "")
    except AuthenticationError as error:
        abort(401, str(error))
