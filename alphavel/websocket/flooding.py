"""
How much one client's address may take: open connections, and handshakes in a minute. Behind a proxy that is trusted the
address is the one that the proxy tells, see `proxies`.

Only what is limited is counted: without a limit there is no book of addresses. Connections are those of all workers, as far as
the others have told; handshakes each worker counts by itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from alphavel.websocket.addresses import read_address
from alphavel.websocket.channels.everywhere import enter_count
from alphavel.websocket.handshake import HandshakeError

if TYPE_CHECKING:
    from alphavel.websocket.settings import OptionsSettings

_MINUTE_S = 60.0
_IPV6_SITE = 64  # bits: what one customer is given at least, and may use all addresses of


class Addresses:
    """What each address has."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._elsewhere: dict[str, dict[str, int]] = {}  # by worker
        self._handshakes: Counter[str] = Counter()
        self._since = clock()
        self._max_open: int | None = None
        self._max_handshakes: int | None = None

    def configure(self, options: OptionsSettings, connected: Iterable[str]) -> None:
        """Take the settings, at the start or anew; `connected`: the addresses of those who are connected already."""
        self._max_handshakes = options.max_handshakes_per_address
        if self._max_open is None and options.max_connections_per_address is not None:
            self._open = Counter(map(site_of, filter(None, connected)))
        self._max_open = options.max_connections_per_address

    def check_handshake(self, address: str) -> None:
        """Count a handshake, good or bad. Raises HandshakeError where there were too many."""
        if self._max_handshakes is None or not address:
            return
        left = _MINUTE_S - (self._clock() - self._since)
        if left <= 0:
            self._handshakes.clear()
            self._since, left = self._clock(), _MINUTE_S
        site = site_of(address)
        self._handshakes[site] += 1
        if self._handshakes[site] > self._max_handshakes:
            headers = [("Retry-After", str(int(left) + 1))]
            raise HandshakeError(429, "Too many handshakes come from this address.", headers, reason="address_rate")

    def check_open(self, address: str) -> None:
        """Raise HandshakeError where an address may have no more connections."""
        if self._max_open is not None and address and self._total(site_of(address)) >= self._max_open:
            raise HandshakeError(429, "This address has too many connections.", [("Retry-After", "30")], reason="address_full")

    def opened(self, address: str) -> tuple[str, int] | None:
        """Enter a connection; return what stands for the address and how many it has here, None where that is not counted."""
        return self._changed(address, 1)

    def closed(self, address: str) -> tuple[str, int] | None:
        """Strike a connection; see `opened`."""
        return self._changed(address, -1)

    def set_elsewhere(self, site: str, worker: str, count: int) -> None:
        """Enter how many connections an address has to another worker."""
        enter_count(self._elsewhere, site, worker, count)

    def forget_others(self) -> None:
        """There are no other workers any more."""
        self._elsewhere.clear()

    def _changed(self, address: str, by: int) -> tuple[str, int] | None:
        if self._max_open is None or not address:
            return None
        site = site_of(address)
        self._open[site] = count = max(0, self._open[site] + by)
        if not count:
            del self._open[site]
        return site, count

    def _total(self, site: str) -> int:
        return self._open[site] + sum(self._elsewhere.get(site, {}).values())


def site_of(address: str) -> str:
    """Return what stands for an address: the /64 of an IPv6 one, any other text itself."""
    if ":" not in address:
        return address
    try:
        found = read_address(address)
    except ValueError:
        return address
    return str(found) if found.version == 4 else str(int(found) >> (128 - _IPV6_SITE))
