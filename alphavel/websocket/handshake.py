"""
The opening handshake, RFC 6455, section 4, on a WSGI environ. No sockets here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from alphavel.websocket.frames.deflate import Offer

VERSION = "13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(rf'\s*;\s*({_WORD})(?:\s*=\s*(?:({_WORD})|"((?:[^"\\]|\\.)*)"))?')
REASONS = {
    401: "unauthorized", 403: "origin", 404: "not_found", 408: "timeout", 426: "no_upgrade", 431: "headers_too_large",
    501: "no_socket", 503: "full",
}  # fmt: skip
"""One word for counters, by the status of a refusal; `malformed` for all others."""

_EXTENSION = re.compile(rf"\s*({_WORD})((?:{_PARAMETER.pattern})*)\s*(?:,|$)")


class HandshakeError(Exception):
    """
    An upgrade request is refused, before anything is upgraded.

    Attributes:
        status: HTTP status.
        text: Why, for people.
        headers: Further headers of the response.
        reason: One word for counters.
    """

    def __init__(self, status: int, text: str, headers: Sequence[tuple[str, str]] = (), reason: str = "") -> None:
        super().__init__(status, text)
        self.reason = reason or REASONS.get(status, "malformed")
        self.status = status
        self.text = text
        self.headers = list(headers)

    def response(self) -> bytes:
        """The whole HTTP response; the connection is to be closed after it."""
        body = (self.text + "\n").encode()
        fields = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
            *self.headers,
        ]
        return _head(self.status, fields) + body


class Handshake:
    """
    A client's handshake that keeps to the RFC.

    Attributes:
        key: `Sec-WebSocket-Key` as it came.
        extensions: Offered extensions, in the client's order.
    """

    def __init__(self, key: str, extensions: list[Offer]) -> None:
        self.key = key
        self.extensions = extensions

    @classmethod
    def from_environ(cls, environ: Mapping[str, Any]) -> Handshake:
        """
        Read a request.

        Raises:
            HandshakeError: It is no WebSocket handshake (400, 405), or one of another version (426).

        RFC 6455, section 4.2.1.
        """
        if environ.get("REQUEST_METHOD") != "GET":
            raise HandshakeError(405, "A WebSocket handshake is a GET request.", [("Allow", "GET")])
        if "websocket" not in _words(environ, "HTTP_UPGRADE") or "upgrade" not in _words(environ, "HTTP_CONNECTION"):
            raise HandshakeError(
                426,
                "This address speaks WebSocket: connect with a WebSocket client. Behind a proxy, have it pass on the headers "
                "Upgrade and Connection.",
                [("Upgrade", "websocket"), ("Connection", "Upgrade")],
            )
        if environ.get("SERVER_PROTOCOL") in ("HTTP/1.0", "HTTP/0.9"):
            raise HandshakeError(400, "A WebSocket handshake needs HTTP/1.1.")
        if not environ.get("HTTP_HOST"):
            raise HandshakeError(400, "A WebSocket handshake names its host in a Host header.")
        if environ.get("CONTENT_LENGTH", "0") not in ("", "0") or environ.get("HTTP_TRANSFER_ENCODING"):
            raise HandshakeError(400, "A WebSocket handshake has no body.")
        if environ.get("HTTP_SEC_WEBSOCKET_VERSION", "").strip() != VERSION:
            text = f"Only WebSocket version {VERSION} is spoken here."
            raise HandshakeError(426, text, [("Sec-WebSocket-Version", VERSION)], reason="version")
        key = environ.get("HTTP_SEC_WEBSOCKET_KEY", "").strip()
        if not _is_key(key):
            raise HandshakeError(400, "Sec-WebSocket-Key must be 16 bytes in base64.")
        return cls(key, parse_extensions(environ.get("HTTP_SEC_WEBSOCKET_EXTENSIONS", "")))

    def response(self, subprotocol: str | None = None, extensions: str | None = None) -> bytes:
        """
        Build the 101 response.

        Args:
            subprotocol: The one chosen, among those the client named.
            extensions: What was agreed on, as in the header.
        """
        fields = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_value(self.key))]
        if subprotocol is not None:
            fields.append(("Sec-WebSocket-Protocol", subprotocol))
        if extensions is not None:
            fields.append(("Sec-WebSocket-Extensions", extensions))
        return _head(101, fields)


def accept_value(key: str) -> str:
    """Return `Sec-WebSocket-Accept` for a key. RFC 6455, section 4.2.2."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def parse_extensions(header: str) -> list[Offer]:
    """
    Parse `Sec-WebSocket-Extensions`. What does not follow the grammar offers nothing.

    Returns:
        `[("permessage-deflate", [("client_max_window_bits", None)])]`

    RFC 6455, section 9.1.
    """
    offers: list[Offer] = []
    position = 0
    while position < len(header):
        match = _EXTENSION.match(header, position)
        if match is None:
            return []
        parameters = [
            (name, token or (quoted if "=" in whole else None))
            for whole, name, token, quoted in (
                (found.group(), found.group(1), found.group(2), found.group(3)) for found in _PARAMETER.finditer(match.group(2))
            )
        ]
        offers.append((match.group(1), parameters))
        position = match.end()
    return offers


def _words(environ: Mapping[str, Any], name: str) -> list[str]:
    return [word.strip().lower() for word in environ.get(name, "").split(",")]


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _head(status: int, fields: Sequence[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    for name, value in fields:
        # A line break in a value would let a client write headers of its own.
        lines.append(f"{name}: {' '.join(value.splitlines())}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
