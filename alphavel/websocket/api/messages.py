"""What comes in and goes out of the HTTP API."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson


class ApiError(Exception):
    """
    A request is refused. Its text is the body of the response: what was wrong, and what to do.

    Attributes:
        status: HTTP status.
        headers: Headers of the response besides the usual ones.
    """

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or {}


class Request(NamedTuple):
    """
    A request.

    Attributes:
        method: `GET`, `POST`.
        path: Path, decoded.
        raw_path: Path as it stands in the request line.
        query: Query as it stands in the request line.
        encoding: `Content-Encoding` of the body; empty for none.
        body: The body as it came.
    """

    method: str
    path: str
    raw_path: str
    query: str
    encoding: str
    body: bytes

    @classmethod
    def from_environ(cls, environ: Mapping[str, Any], uri: str, body: bytes) -> Request:
        """
        Take what is needed from a WSGI environ.

        Args:
            environ: The environ.
            uri: Path and query as they stand in the request line.
            body: The body, read already.
        """
        encoding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
        raw_path = uri.partition("?")[0]
        return cls(environ["REQUEST_METHOD"], decoded_path(environ), raw_path, environ.get("QUERY_STRING", ""), encoding, body)


class Response(NamedTuple):
    """
    A response.

    Attributes:
        status: HTTP status.
        headers: Content-Type and whatever else is to be sent; Content-Length is the server's business.
        body: The body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Response:
        """200 and JSON: one of the libraries takes nothing else for a success."""
        return cls(200, _JSON, orjson.dumps(answer))

    @classmethod
    def refusal(cls, error: ApiError) -> Response:
        """The status, and the text for people."""
        return cls(error.status, {**_TEXT, **error.headers}, f"{error}\n".encode(errors="replace"))

    def serialize(self, keep: bool, method: str) -> bytes:
        """
        Return the whole response as bytes, for a server that writes it at once.

        Args:
            keep: Whether the connection stays open.
            method: The request's; after HEAD no body is sent, or it would be read as the beginning of the next response.
        """
        head = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        head += [f"{name}: {value}" for name, value in self.headers.items()]
        head += [f"Content-Length: {len(self.body)}", f"Connection: {'keep-alive' if keep else 'close'}", "", ""]
        return "\r\n".join(head).encode() + (b"" if method == "HEAD" else self.body)


_JSON = {"Content-Type": "application/json"}
_TEXT = {"Content-Type": "text/plain; charset=utf-8"}


def decoded_path(environ: Mapping[str, Any]) -> str:
    """Return the path of a WSGI request; WSGI hands its bytes over as Latin-1 (PEP 3333)."""
    path: str = environ.get("PATH_INFO", "")
    return path if path.isascii() else path.encode("latin-1").decode(errors="replace")
