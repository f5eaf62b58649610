"""
Keys that an issuer publishes at a URL. RFC 7517.

PyJWT's client fetches and parses; what is added here is for a server: one fetch at a time however many wait for it, a
bound on how often strangers can cause one by naming keys that do not exist, and old keys while the issuer is away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import jwt

from alphavel.websocket.logs import get_logger

logger = get_logger("alphavel.websocket.auth")

_MIN_REFRESH_S = 10.0


class UnknownKeyError(Exception):
    """The key is not among those published, or none could be fetched."""


class KeySet:
    """
    The keys of one URL.

    Under gevent's monkey-patching a fetch blocks the greenlets that wait for a key and nobody else.
    """

    def __init__(self, url: str, cache_s: float, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            url: Where the key set is.
            cache_s: Seconds after which keys are fetched anew.
            timeout_s: Seconds a fetch may take.
            clock: Seconds on a clock that never goes back.
        """
        self._client = jwt.PyJWKClient(url, cache_keys=False, cache_jwk_set=False, timeout=timeout_s)  # type: ignore[arg-type]
        self._cache_s = cache_s
        self._clock = clock
        self._keys: dict[str | None, Any] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._one_at_a_time = threading.Lock()

    def key_for(self, kid: str | None) -> Any:
        """
        Return the key called `kid`; without a name the only key there is.

        Raises:
            UnknownKeyError: There is none.
        """
        now = self._clock()
        if kid not in self._keys or now - self._fetched_at > self._cache_s:
            self._refresh()
        try:
            return self._keys[kid]
        except KeyError:
            raise UnknownKeyError(kid) from None

    def _refresh(self) -> None:
        asked_at = self._clock()
        with self._one_at_a_time:
            if self._tried_at >= asked_at:  # somebody fetched while this one waited
                return
            if asked_at - self._tried_at < _MIN_REFRESH_S:
                return
            self._tried_at = self._clock()
            try:
                keys = self._client.get_signing_keys()
            except Exception as error:  # noqa: BLE001 (what an issuer answers is not in our hands: no JSON, half of it, a list)
                logger.warning("Cannot fetch the keys that check tokens, going on with the old ones: %s", error)
                return
            self._fetched_at = self._clock()
            self._keys = {key.key_id: key for key in keys}
            if len(keys) == 1:
                self._keys[None] = keys[0]
