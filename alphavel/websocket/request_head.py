"""
How the head of an HTTP request may look: RFC 9112, and nothing that can be read in two ways.

A proxy before this server may read such a request the other way, and take for the end of one client's request what is its
middle here: the rest would be answered as another client's (request smuggling). So there is one reading, or a refusal. pywsgi
alone takes two lengths for one, unknown transfer codings for none, and a line without a colon for the end of the headers.
"""

from __future__ import annotations

import re
from typing import Any

_REQUEST_LINE = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+ [!-~\x80-\xff]+ HTTP/1\.[01]\r\n")
_FIELD = re.compile(rb"([A-Za-z0-9!#$%&'*+\-.^_`|~]+):([\t -~\x80-\xff]*)\r\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_ONCE = (b"host", b"content-length", b"transfer-encoding")


class BadHeadError(ValueError):
    """This is no HTTP request, or one that can be read in two ways."""


class HeadTooLargeError(ValueError):
    """A request's headers are larger than allowed."""


def check_request_line(line: str) -> None:
    """Check `GET /path HTTP/1.1` CR LF, decoded as Latin-1. Raises BadHeadError."""
    if _REQUEST_LINE.fullmatch(line) is None:
        raise BadHeadError("the first line is none of HTTP/1.0 or HTTP/1.1")


class HeadReader:
    """Reads header lines for a parser, and gives up where there are too many of them, or one is not as it should be."""

    def __init__(self, rfile: Any, limit: int, version: str) -> None:
        """
        Args:
            rfile: Reader, after the request line.
            limit: Bytes that all lines may have together.
            version: `HTTP/1.1` or `HTTP/1.0`.
        """
        self._rfile = rfile
        self._left = limit
        self._version = version
        self._once: dict[bytes, bytes] = {}

    def readline(self, size: int = -1) -> bytes:
        """
        Return the next line.

        Raises:
            HeadTooLargeError, BadHeadError: See there.
        """
        line: bytes = self._rfile.readline(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise HeadTooLargeError("headers too large")
        if line == b"\r\n":
            self._check_framing()
        else:
            self._check_field(line)
        return line

    def _check_field(self, line: bytes) -> None:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise BadHeadError("a header is not `name: value` on one line that ends with CR LF")
        name = match[1].lower()
        if name in _ONCE:
            if name in self._once:
                raise BadHeadError(f"the header {name.decode()} is there twice")
            self._once[name] = match[2].strip()

    def _check_framing(self) -> None:
        """RFC 9112, section 6: how long the body is must not be open to question."""
        length, coding = self._once.get(b"content-length"), self._once.get(b"transfer-encoding")
        if length is not None and _LENGTH.fullmatch(length) is None:
            raise BadHeadError("Content-Length is no number")
        if coding is not None and (coding.lower() != b"chunked" or length is not None or self._version != "HTTP/1.1"):
            raise BadHeadError("Transfer-Encoding is something other than chunked, or not alone")
