"""
Exchange rates from somebody else's API, which limits how often it may be asked and is sometimes away.

The last good answer is served while the circuit is open: a rate that is minutes old is better than none. It is kept for each
currency, and not for longer than `ttl`.
"""

from __future__ import annotations

import requests

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError
from alphavel.circuit_breaker.integrations.requests import is_failure
from examples.circuit_breaker.servers import Http

manager = CircuitBreakerManager(
    {
        "thresholds": {"failure_threshold": 2, "recovery_timeout": 60, "recovery_jitter": 0.2, "fallback_on": "failure"},
        "fallbacks": {"cache": {"ttl": 600}},
    }
)


class Rates:
    """The client of the API."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = requests.Session()

    # One breaker for the service, one cached answer for each currency. `failure_if` judges answers as the adapter would.
    @manager.protect("exchange-rates", fallback="cache", key=lambda self, currency: currency, failure_if=is_failure)
    def _ask(self, currency: str) -> requests.Response:
        return self._http.get(self._url, params={"currency": currency}, timeout=1)

    def rate(self, currency: str) -> float:
        """Return a rate. Raises CircuitOpenError or RequestException where there is none, not even an old one."""
        answer = self._ask(currency)
        answer.raise_for_status()
        return float(answer.text)


def main() -> None:
    """Be limited, and see what an unknown currency gets."""
    with Http("1.17") as api:
        rates = Rates(api.url)
        print("fresh:", rates.rate("EUR"))
        api.mood = "busy"
        for _ in range(4):
            print("limited:", rates.rate("EUR"))
        print(f"asked {api.requests} times, for 5 rates; the circuit is {manager.get_state('exchange-rates')}")
        try:
            rates.rate("CHF")
        except CircuitOpenError as error:
            print("never asked before:", error)


if __name__ == "__main__":
    main()
