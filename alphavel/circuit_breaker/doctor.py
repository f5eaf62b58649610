"""What `alpha doctor` checks of the circuit breaker."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from alphavel.circuit_breaker.errors import StoreError
from alphavel.circuit_breaker.provider import manager_of_configuration
from alphavel.foundation.checks import Check, Finding, good, wrong
from alphavel.foundation.errors import ConfigurationError

_STORE_ADVICE = {
    "shared": "stores.shared.path must be a file that the user who runs the application may write, on a local disk.",
    "redis": "Start Redis, or correct stores.redis.url. Without it each process goes on with circuits of its own.",
}


def checks() -> list[Check]:
    """Return them."""
    return [_store]


def _store() -> Iterator[Finding]:
    # What happens is told by the findings.
    logging.getLogger("alphavel.circuit_breaker").addHandler(logging.NullHandler())
    try:
        manager = manager_of_configuration()
    except ConfigurationError as error:
        yield wrong(
            "configuration", str(error), "Correct it; alpha vendor:publish --tag=circuit-breaker-config shows all settings."
        )
        return
    except StoreError as error:
        yield wrong("store", str(error), "Correct default and stores in config/circuit_breaker.yaml.")
        return
    store = manager.store
    yield good("configuration", f"It is valid; services configured: {', '.join(sorted(manager.settings.services)) or 'none'}.")
    try:
        problem = store.problem()
    finally:
        store.close()
    if problem is not None:
        yield wrong("store", problem, _STORE_ADVICE[store.name])
    else:
        yield good("store", f"Circuits are kept: {store.name}.")
