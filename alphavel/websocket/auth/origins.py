"""
Which web pages may connect. Browsers let any page open a WebSocket anywhere and send the cookies along, so the server
has to look at the Origin header itself. RFC 6455, section 10.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from alphavel.foundation.errors import ConfigurationError

_LONGEST = 300  # characters: a name has at most 253
_MOST_WILDCARDS = 2  # each one more multiplies the ways to match, and the time that takes, by the number of labels
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)?[^\s/]+/?")
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class OriginRules:
    """An allow-list of origins."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """
        Args:
            allowed: `https://app.example.com`, `https://*.example.com`, `app.example.com` (any scheme), or `*`. Empty: pages
                of the same host only.

        Raises:
            ConfigurationError: One is no origin, or has too many `*`.
        """
        self._rules = [_compile(rule) for rule in allowed]

    def allows(self, origin: str | None, host: str | None, scheme: str) -> bool:
        """
        Whether a request may connect.

        Args:
            origin: Its `Origin` header. None: it does not come from a web page, and no page can leave the header out.
            host: Its `Host` header.
            scheme: `http` or `https`, as the request came in.
        """
        if origin is None:
            return True
        if len(origin) > _LONGEST:
            return False
        origin = origin.strip().lower()
        if self._rules:
            return any(rule.fullmatch(origin) for rule in self._rules)
        # The scheme is not compared: behind a proxy that ends TLS, ours is http where the page's is https.
        page = _authority(origin)
        return page is not None and host is not None and page == _authority(f"{scheme}://{host.strip().lower()}", origin)


def _compile(rule: str) -> re.Pattern[str]:
    if rule == "*":
        return re.compile(".*", re.DOTALL)
    if not _ORIGIN.fullmatch(rule):
        raise ConfigurationError(
            f"expected https://app.example.com, https://*.example.com, app.example.com or *; got {rule!r}. A browser's origin "
            "has no path.",
            key="allowed_origins",
        )
    if rule.count("*") > _MOST_WILDCARDS:
        raise ConfigurationError(f"expected at most {_MOST_WILDCARDS} * in an origin; got {rule!r}.", key="allowed_origins")
    pattern = re.escape(rule.lower().rstrip("/")).replace(r"\*", "[^./:@]+(?:\\.[^./:@]+)*")
    return re.compile(pattern if "://" in rule else rf"[a-z][a-z0-9+.-]*://{pattern}")


def _authority(url: str, port_like: str | None = None) -> tuple[str, int | None] | None:
    """Host and port of a URL; the default port is that of `port_like`'s scheme, where given."""
    try:
        parts = urlsplit(url)
        scheme = urlsplit(port_like).scheme if port_like else parts.scheme
        return (parts.hostname or "", parts.port or _DEFAULT_PORTS.get(scheme)) if parts.hostname else None
    except ValueError:
        return None
