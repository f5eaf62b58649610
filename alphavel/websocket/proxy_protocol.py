"""
The PROXY protocol, versions 1 and 2: what a proxy that passes bytes on says first about whom they are from.
haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from typing import Any

Address = tuple[str, int]

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_FIRST = len(SIGNATURE)  # shorter than any header of version 1
_LONGEST_V1 = 107
_LOCAL, _PROXY = 0x20, 0x21
# Of version 2: family and transport; how source, destination and their ports are laid out.
_TCP = {0x11: ("!4s4sHH", socket.AF_INET), 0x21: ("!16s16sHH", socket.AF_INET6)}


class ProxyProtocolError(ValueError):
    """What came is no such header."""


def read_header(sock: Any) -> Address | None:
    """
    Read a header, and nothing beyond it. Blocks; the time it may take is the caller's to bound.

    Args:
        sock: Socket just accepted.

    Returns:
        Address and port of the client; None: the proxy speaks for itself, or of something other than TCP.

    Raises:
        ProxyProtocolError: There is no header, or it makes no sense.
        OSError: The connection is lost.
    """
    start = _exactly(sock, _FIRST)
    if start == SIGNATURE:
        kind = _exactly(sock, 4)
        return parse_v2(kind, _exactly(sock, int.from_bytes(kind[2:], "big")))
    if not start.startswith(b"PROXY "):
        raise ProxyProtocolError("the PROXY protocol's header is missing")
    while b"\r\n" not in start:
        if len(start) >= _LONGEST_V1:
            raise ProxyProtocolError("a header of version 1 has no end")
        more = sock.recv(_LONGEST_V1 - len(start), socket.MSG_PEEK)
        start += _exactly(sock, more.find(b"\n") + 1 or len(more) or 1)
    return parse_v1(start)


def parse_v1(line: bytes) -> Address | None:
    """Take `PROXY TCP4 192.0.2.1 192.0.2.2 4711 443` CR LF; see `read_header`."""
    words = line.removesuffix(b"\r\n").split(b" ")
    if words[:2] == [b"PROXY", b"UNKNOWN"]:
        return None
    with contextlib.suppress(ValueError):
        _, family, source, _, port, _ = (word.decode("ascii") for word in words)
        address = ipaddress.ip_address(source)
        if family == f"TCP{address.version}" and port.isdecimal() and 0 < int(port) < 65536:
            return str(address), int(port)
    raise ProxyProtocolError(f"a header of version 1 makes no sense: {line[:_LONGEST_V1]!r}")


def parse_v2(kind: bytes, rest: bytes) -> Address | None:
    """
    Take a binary header; see `read_header`.

    Args:
        kind: The 4 bytes after the signature.
        rest: Addresses, and what else the proxy tells, which is not looked at.
    """
    if kind[0] == _LOCAL:
        return None
    if kind[0] != _PROXY:
        raise ProxyProtocolError(f"a header of version 2 has the unknown version and command {kind[0]:#04x}")
    if kind[1] not in _TCP:
        return None
    layout, family = _TCP[kind[1]]
    if len(rest) < struct.calcsize(layout):
        raise ProxyProtocolError("a header of version 2 is too short for its addresses")
    source, _, port, _ = struct.unpack_from(layout, rest)
    return socket.inet_ntop(family, source), port


def _exactly(sock: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise ProxyProtocolError("the connection ended before the PROXY protocol's header had come")
        data += piece
    return data
