"""The commands of `benchmarks.servers.commands` for servers on asyncio."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.servers.commands import say, stamp

HIGH_WATER = 64 * 1024


async def obey(publish: Callable[[str], Any], buffered: Callable[[], Iterable[int]]) -> None:
    """
    Execute commands until there are no more.

    Args:
        publish: Sends a stamp to all subscribers.
        buffered: For each subscriber the bytes that wait to be written.
    """
    loop = asyncio.get_running_loop()
    last = 0
    say({"ready": True})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        name, first, second = line.split()
        if name == "flood":
            deadline = time.monotonic() + int(second) / 1000
            while time.monotonic() < deadline:
                for _ in range(int(first)):
                    last += 1
                    publish(stamp(last))
                await asyncio.sleep(0)
                while any(waiting > HIGH_WATER for waiting in buffered()):
                    await asyncio.sleep(0.001)
        else:
            start = time.monotonic()
            for number in range(int(second)):
                await asyncio.sleep(max(0.0, start + number * int(first) / 1e6 - time.monotonic()))
                last += 1
                publish(stamp(last))
        while any(buffered()):
            await asyncio.sleep(0.001)
        say({"published": last})
