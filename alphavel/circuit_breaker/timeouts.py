"""A call's time limit: under gevent, `gevent.Timeout`; under asyncio, `asyncio.wait_for`."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from alphavel.circuit_breaker.errors import CallTimeoutError


def positive(seconds: float) -> float:
    """
    Return a time limit that makes sense.

    Raises:
        ValueError: It is not above 0.
    """
    if not seconds > 0:
        raise ValueError(f"timeout takes a positive number of seconds; got {seconds!r}.")
    return seconds


def check_limit(function: Callable[[], Any], service: str, seconds: float) -> None:
    """
    Check that a call can be given a time limit, before it begins: a mistake of the caller's is no failure of the service.

    Raises:
        RuntimeError: gevent is not loaded in this process, and no event loop runs: nothing could interrupt the call.
    """
    if "gevent" in sys.modules or inspect.iscoroutinefunction(function):
        return
    try:
        asyncio.get_running_loop()  # what the function returns is awaited there, and that is limited
    except RuntimeError:
        raise RuntimeError(
            f"The call of {service!r} has a timeout of {seconds:g} s, and gevent, which would keep it, is not loaded here. "
            "Give the client its own time limit, such as requests.get(…, timeout=5), and take timeout= away."
        ) from None


def limited(function: Callable[[], Any], service: str, seconds: float) -> Any:
    """
    Call a function that `check_limit` has let pass; give it so many seconds.

    Raises:
        CallTimeoutError: It took longer. It can be interrupted only where it waits for gevent: on a patched socket, in
            `gevent.sleep`, …; a function that computes, or waits in C, goes on until it is done.
    """
    gevent = sys.modules.get("gevent")
    if gevent is None:
        return function()
    limit = gevent.Timeout(seconds)
    limit.start()
    try:
        return function()
    except gevent.Timeout as expired:
        if expired is not limit:
            raise  # somebody else's, around us
        raise CallTimeoutError(service, seconds) from None
    finally:
        limit.close()


async def limited_async(awaitable: Awaitable[Any], service: str, seconds: float) -> Any:
    """
    Await something; give it so many seconds.

    Raises:
        CallTimeoutError: It took longer and was cancelled.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        return await asyncio.wait_for(task, seconds)
    except asyncio.TimeoutError:
        if task.cancelled():
            raise CallTimeoutError(service, seconds) from None
        raise  # the service's own
