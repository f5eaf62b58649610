"""
Reverse proxies: whose word is taken on where a client is and whether it came over TLS. Nobody's, unless the settings say so:
any client can send `X-Forwarded-For`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import MutableMapping
from typing import Any

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket.addresses import Network, read_address
from alphavel.websocket.settings import ProxiesSettings

_UNIX = "unix"
_SCHEMES = {"http": "http", "ws": "http", "https": "https", "wss": "https"}


class Proxies:
    """
    The proxies before this server.

    Attributes:
        any: Whether there are any.
        speak_first: Whether they begin each connection with the PROXY protocol.
    """

    def __init__(self, settings: ProxiesSettings) -> None:
        """Raises ConfigurationError: What is trusted is no address, or nobody is and the PROXY protocol is awaited."""
        self._unix = _UNIX in settings.trusted
        self._networks = tuple(_network(text) for text in settings.trusted if text != _UNIX)
        self.any = bool(settings.trusted)
        self.speak_first = settings.proxy_protocol
        if self.speak_first and not self.any:
            raise ConfigurationError(
                "proxies.proxy_protocol is on and nobody is trusted to speak it. Name the proxies' addresses in "
                "proxies.trusted, or ALPHAVEL_TRUSTED_PROXIES."
            )

    def trusts(self, address: str) -> bool:
        """Whether a peer is one of the proxies; `""` is a peer on a Unix socket."""
        if not address:
            return self._unix
        try:
            parsed = read_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)

    def restate(self, environ: MutableMapping[str, Any]) -> None:
        """
        Where a proxy sent the request, put the client in its place: `REMOTE_ADDR` becomes the last address of
        `X-Forwarded-For` that is no proxy's, `wsgi.url_scheme` what `X-Forwarded-Proto` says.

        Args:
            environ: WSGI environ.
        """
        peer = environ.get("REMOTE_ADDR", "")
        if not self.trusts(peer):
            return
        client = self._client(environ.get("HTTP_X_FORWARDED_FOR", ""), peer)
        if client != peer:
            environ["REMOTE_ADDR"] = client
            environ.pop("REMOTE_PORT", None)
        # The last word: that of the proxy next to us. What stands before it came from outside.
        scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
        environ["wsgi.url_scheme"] = _SCHEMES.get(scheme, environ.get("wsgi.url_scheme", "http"))

    def _client(self, forwarded: str, peer: str) -> str:
        client = peer
        for hop in reversed(forwarded.split(",")):
            try:
                client = str(read_address(_without_port(hop.strip())))
            except ValueError:
                break  # nobody knows who came before: the last one who is known to be there stands for them
            if not self.trusts(client):
                break
        return client


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigurationError(
            f"proxies.trusted: {text!r} is not an address, a network or {_UNIX}: {error}. Write 127.0.0.1 or 10.0.0.0/8."
        ) from error


def _without_port(hop: str) -> str:
    """`192.0.2.1:4711` and `[2001:db8::1]:4711`, as some load balancers write them."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
