"""
A service of yours behind a circuit breaker, to begin with: `alpha vendor:publish --tag=circuit-breaker-service` wrote it.

Change the names, the address and what to do while it is away. Its settings are in config/circuit_breaker.yaml:

    services:
      payment-api: {failure_threshold: 3, recovery_timeout: 20}
    health:
      critical: [payment-api]
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import requests

from alphavel.circuit_breaker import CircuitOpenError
from alphavel.circuit_breaker.integrations.requests import CircuitBreakerAdapter


@dataclass(frozen=True)
class Payment:
    """
    What became of a payment.

    Attributes:
        id: The payment's id, which is also the idempotency key that the provider sees.
        status: `paid`; `declined`, by the provider; `pending`, to be tried again later.
        detail: For people.
    """

    id: str
    status: str
    detail: str = ""


class PaymentService:
    """
    Payments at a provider that is sometimes slow, and sometimes away.

    A request may have been carried out although its answer never came, so each payment has a key under which the provider
    carries it out once, however often it is sent. That is what makes it safe to answer `pending` and to try again.
    """

    def __init__(self, base_url: str, api_key: str, timeout_s: float = 5.0) -> None:
        """
        Args:
            base_url: Of the provider, such as `https://api.example.com`.
            api_key: Yours.
            timeout_s: Time for a connection, and between two pieces of an answer. Without one no breaker can help: a call
                that never ends never fails.
        """
        self._base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {api_key}"
        self._session.mount(self._base_url, CircuitBreakerAdapter("payment-api"))

    def charge(self, amount_cents: int, currency: str, source: str, payment_id: str | None = None) -> Payment:
        """
        Charge a customer.

        Args:
            amount_cents: How much.
            currency: Of what.
            source: Whose: the provider's token for a card.
            payment_id: That of a `pending` payment that is tried again.
        """
        payment_id = payment_id or str(uuid.uuid4())
        order: dict[str, Any] = {"amount": amount_cents, "currency": currency, "source": source}
        try:
            response = self._session.post(
                f"{self._base_url}/charges",
                json=order,
                headers={"Idempotency-Key": payment_id},
                timeout=self._timeout_s,
            )
        except CircuitOpenError as error:
            return self._later(payment_id, order, f"the provider is away ({error.last_failure}); it was not asked")
        except requests.RequestException as error:
            return self._later(payment_id, order, f"no answer: {error}")
        if response.status_code == 402:
            return Payment(payment_id, "declined", response.text)
        if not response.ok:
            return self._later(payment_id, order, f"the provider answered {response.status_code}")
        return Payment(payment_id, "paid")

    def _later(self, payment_id: str, order: dict[str, Any], why: str) -> Payment:
        """Put the order where a job of yours finds it and calls `charge` again with the same id."""
        return Payment(payment_id, "pending", why)
