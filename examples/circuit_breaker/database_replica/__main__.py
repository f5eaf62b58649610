"""
Reads go to a replica, and to the primary while the replica is away; writes go to the primary.

Without a breaker each read would first wait for the replica. With one the primary takes over at once, and the replica gets
its reads back by steps: `ramp` lets a tenth of them through first, then a half, so that cold caches do not break it again.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError
from alphavel.circuit_breaker.integrations.sqlalchemy import protect
from examples.circuit_breaker.servers import Postgres

THRESHOLDS = {"failure_threshold": 2, "recovery_timeout": 0.5, "half_open_requests": 1, "ramp": [10, 50], "ramp_step": 0.5}
manager = CircuitBreakerManager({"thresholds": THRESHOLDS})


class Database:
    """Two engines, one breaker for each."""

    def __init__(self, primary_url: str, replica_url: str) -> None:
        options: dict[str, Any] = {"connect_args": {"connect_timeout": 2}}
        self._primary = protect(sqlalchemy.create_engine(primary_url, **options), "db-primary", manager=manager)
        self._replica = protect(sqlalchemy.create_engine(replica_url, **options), "db-replica", manager=manager)
        self.read_from = ""

    def read(self, statement: str) -> Any:
        """Read from the replica; where it is away, or its connection is lost just now, from the primary."""
        try:
            return self._read("replica", self._replica, statement)
        except (CircuitOpenError, OperationalError):
            return self._read("primary", self._primary, statement)

    def write(self, statement: str) -> None:
        """Write. Nothing takes over from the primary: its CircuitOpenError is the caller's."""
        with self._primary.begin() as connection:
            connection.execute(text(statement))

    def close(self) -> None:
        """Close all connections."""
        self._primary.dispose()
        self._replica.dispose()

    def _read(self, name: str, engine: sqlalchemy.Engine, statement: str) -> Any:
        with engine.connect() as connection:
            self.read_from = name
            return connection.execute(text(statement)).scalar()


def main() -> None:
    """Stop the replica, then start it again. (Two servers of their own: nothing is replicated between them.)"""
    import time

    with Postgres() as primary, Postgres() as replica:
        database = Database(primary.url, replica.url)
        database.read("SELECT 1")
        print("all is well, read from:", database.read_from)
        replica.stop()
        for _ in range(4):
            database.read("SELECT 1")
            print("the replica is away, read from:", database.read_from, f"({manager.get_state('db-replica')})")
        try:
            database.write("INSERT INTO nowhere VALUES (1)")
        except DBAPIError as error:
            print("a wrong statement is no failure:", type(error).__name__, f"({manager.get_state('db-primary')})")
        replica.start()
        time.sleep(0.5)
        seen = {}
        while manager.get_state("db-replica") != "closed":
            database.read("SELECT 1")
            seen[str(manager.get_state("db-replica"))] = True
            time.sleep(0.02)
        print("the replica is back:", " -> ".join(seen))
        database.close()


if __name__ == "__main__":
    main()
