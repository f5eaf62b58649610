"""redis-py against a real Redis that is stopped and started."""

from __future__ import annotations

import asyncio

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from alphavel.circuit_breaker import CircuitOpenError, State
from alphavel.circuit_breaker.integrations.redis import protect
from tests.circuit_breaker.integrations.servers import BlackHole
from tests.redis_server import running_redis


@pytest.fixture
def server():
    with running_redis() as server:
        yield server


@pytest.fixture
def client(server, manager):
    with redis.Redis.from_url(server.url, socket_timeout=20, retry=Retry(NoBackoff(), 0)) as client:
        yield protect(client, "api", manager=manager)


def test_commands_pipelines_and_scripts_go_through(client, counts):
    client.set("a", 1)
    assert client.pipeline().get("a").incr("b").execute() == [b"1", 1]
    assert client.register_script("return 7")() == 7
    assert client.transaction(lambda pipe: pipe.get("a"), "a") == []
    successes, failures, ignored, refused = counts()
    assert (failures, refused) == (0, 0)
    assert ignored == 1  # the script was not there yet: an answer like any other
    assert successes >= 5


def test_what_redis_answers_to_a_wrong_command_is_no_failure(client, counts):
    client.set("text", "a")
    for _ in range(3):
        with pytest.raises(redis.ResponseError):
            client.lpush("text", 1)
        with pytest.raises(redis.ResponseError):
            client.pipeline().lpush("text", 1).execute()
    assert counts() == (1, 0, 6, 0)


def test_a_redis_that_goes_away_and_comes_back(client, server, counts, clock, manager):
    client.set("a", 1)
    server.stop()
    with pytest.raises(redis.ConnectionError):
        client.get("a")
    with pytest.raises(redis.ConnectionError):
        client.pipeline().get("a").execute()
    for use in (lambda: client.get("a"), lambda: client.pipeline().get("a").execute()):
        with pytest.raises(CircuitOpenError):
            use()
    server.start()
    clock.advance(30)
    assert client.get("a") is None
    assert manager.get_state("api") == State.CLOSED
    assert counts() == (2, 2, 0, 2)


def test_a_redis_that_hangs_counts(manager, counts):
    with BlackHole() as hole:
        client = redis.Redis(port=hole.port, socket_timeout=0.2, retry=Retry(NoBackoff(), 0))
        protect(client, "api", manager=manager)
        with client, pytest.raises(redis.TimeoutError):
            client.ping()
    assert counts() == (0, 1, 0, 0)


def test_the_async_client_too(server, manager, counts, clock):
    async def scenario():
        client = redis.asyncio.Redis.from_url(server.url, socket_timeout=20, retry=redis.asyncio.retry.Retry(NoBackoff(), 0))
        async with protect(client, "api", manager=manager) as client:
            await client.set("a", 1)
            assert await client.pipeline().get("a").execute() == [b"1"]
            server.stop()
            for _ in range(2):
                with pytest.raises(redis.ConnectionError):
                    await client.get("a")
            with pytest.raises(CircuitOpenError):
                await client.get("a")
            server.start()
            clock.advance(30)
            assert await client.get("a") is None

    asyncio.run(scenario())
    assert counts() == (3, 2, 0, 1)
