"""
One of several processes that share circuits in Redis; see test_redis_fleet.

Calls the service "api" a hundred times a second, and prints each state that it finds: a line of JSON, `[state, when, calls]`,
with seconds of the machine's clock and how many calls have reached the service so far. A line that it reads is a method of
the manager's to call for the service, or "break": from now on calls fail, or "mend".
"""

from __future__ import annotations

import json
import sys
import threading
import time

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError


def main() -> None:
    manager = CircuitBreakerManager(json.loads(sys.argv[1]))
    broken, reached, state = threading.Event(), 0, None

    def obey() -> None:
        for line in sys.stdin:
            word = line.strip()
            if word in ("break", "mend"):
                broken.set() if word == "break" else broken.clear()
            else:
                getattr(manager, word)("api")

    def service() -> None:
        nonlocal reached
        reached += 1
        if broken.is_set():
            raise ConnectionError("broken")

    obeying = threading.Thread(target=obey, daemon=True)
    obeying.start()
    while obeying.is_alive():
        try:
            manager.call("api", service)
        except (CircuitOpenError, ConnectionError):
            pass
        now = manager.get_state("api")
        if now != state:
            state = now
            print(json.dumps([state, time.monotonic(), reached]), flush=True)
        time.sleep(0.01)
    manager.shut_down()


if __name__ == "__main__":
    main()
