"""
A cache in Redis that makes pages fast, and must not make them slow when it is away.

Without a breaker each page would wait for the cache's time-out before it does the work itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError
from alphavel.circuit_breaker.integrations.redis import protect
from examples.circuit_breaker.servers import Redis

manager = CircuitBreakerManager(
    {"services": {"cache": {"failure_threshold": 2, "recovery_timeout": 0.5, "half_open_requests": 1}}}
)


class Cache:
    """Remembers what was computed, while it can."""

    def __init__(self, url: str) -> None:
        # A cache that does not answer within 50 ms is of no use; redis-py's own repeats would only add to that.
        client = redis.Redis.from_url(url, socket_timeout=0.05, socket_connect_timeout=0.05, retry=Retry(NoBackoff(), 0))
        self._redis = protect(client, "cache", manager=manager)

    def remember(self, key: str, seconds: int, compute: Callable[[], str]) -> tuple[str, str]:
        """Return a value, from the cache where it is there, and where it came from."""
        try:
            kept = self._redis.get(key)
        except (redis.RedisError, CircuitOpenError):
            return compute(), "computed, without the cache"
        if kept is not None:
            return str(kept, "utf-8"), "from the cache"  # type: ignore[arg-type]
        value = compute()
        try:
            self._redis.set(key, value, ex=seconds)
        except (redis.RedisError, CircuitOpenError):
            pass
        return value, "computed"

    def close(self) -> None:
        """Close all connections."""
        self._redis.close()


def main() -> None:
    """Stop Redis, then start it again."""
    with Redis() as server:
        cache = Cache(server.url)

        def page(what: str) -> None:
            value, source = cache.remember("page", 60, lambda: "<h1>Emma</h1>")
            print(f"{what}: {value} {source} ({manager.get_state('cache')})")

        page("first")
        page("again")
        server.stop()
        for _ in range(4):
            page("Redis is away")
        stats = manager.get_stats("cache")
        print(f"Redis was asked {stats['total_failures']} times in vain, {stats['rejected']} questions were saved")
        server.start()
        time.sleep(0.5)
        page("Redis is back, and empty")
        page("again")
        cache.close()


if __name__ == "__main__":
    main()
