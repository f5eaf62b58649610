"""
One of several processes that race for the trials of a half-open circuit; see test_races.

Reads lines of JSON, each a round: `{"service", "file", "at", "until"}`. From the moment `at` to the moment `until` its threads
call the service as fast as they can. The service counts by appending a byte to the file, in one step of the kernel's, and
returns when all processes are told to go on: those that ask after the trials have ended would find a closed circuit. Says
"quiet" when none of its threads asks any more, and "done" when all have ended.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError

THREADS = 4


def main() -> None:
    manager = CircuitBreakerManager(json.loads(sys.argv[1]))
    sys.setswitchinterval(1e-5)
    print("ready", flush=True)
    for line in sys.stdin:
        race = json.loads(line)
        inside, go_on = [], threading.Event()
        threads = [threading.Thread(target=run, args=(manager, race, inside, go_on)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        while sum(thread.is_alive() for thread in threads) > len(inside):
            time.sleep(0.01)
        print("quiet", flush=True)
        sys.stdin.readline()
        go_on.set()
        for thread in threads:
            thread.join()
        print("done", flush=True)


def run(manager: CircuitBreakerManager, race: dict, inside: list[int], go_on: threading.Event) -> None:
    counter = os.open(race["file"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def service() -> None:
        os.write(counter, b".")
        inside.append(1)
        go_on.wait()

    manager.get_state(race["service"])
    while time.monotonic() < race["at"]:
        pass
    while time.monotonic() < race["until"]:
        try:
            manager.call(race["service"], service)
        except CircuitOpenError:
            time.sleep(0)
    os.close(counter)


if __name__ == "__main__":
    main()
