"""
What every measured server understands on standard input, whatever it is written in.

    flood K MS        publish as fast as the clients take it for MS milliseconds, K messages in each turn of the loop
    pace US COUNT     publish one message every US microseconds, COUNT times; a third number makes each so many bytes longer

Each answers with one line, `{"published": LAST}`, when the last message has left; LAST counts all messages since the start.
A server says `{"ready": true}` when it listens. All messages are made by `message` and are 64 bytes on the wire.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable

EVENT = "m"
CHANNEL = "b"


class Publisher:
    """Numbers the messages and executes the commands, on three functions of a server that blocks or switches."""

    def __init__(
        self, publish: Callable[[str], object], end_turn: Callable[[], object], sleep: Callable[[float], object]
    ) -> None:
        """
        Args:
            publish: Sends a stamp to all subscribers.
            end_turn: Lets the loop turn, and waits where clients have too much to read already.
            sleep: Waits some seconds.
        """
        self._publish = publish
        self._end_turn = end_turn
        self._sleep = sleep
        self._last = 0

    def serve(self, lines: Iterable[str]) -> None:
        """Execute commands until there are no more."""
        say({"ready": True})
        for line in lines:
            say(self.obey(line))

    def obey(self, line: str) -> dict[str, int]:
        """Execute a command and return its answer."""
        name, *numbers = line.split()
        {"flood": self.flood, "pace": self.pace}[name](*map(int, numbers))
        return {"published": self._last}

    def flood(self, messages_a_turn: int, milliseconds: int) -> None:
        """Publish as fast as it goes."""
        deadline = time.monotonic() + milliseconds / 1000
        while time.monotonic() < deadline:
            for _ in range(messages_a_turn):
                self._next()
            self._end_turn()

    def pace(self, microseconds: int, count: int, longer: int = 0) -> None:
        """Publish by the clock."""
        start = time.monotonic()
        for number in range(count):
            self._sleep(max(0.0, start + number * microseconds / 1e6 - time.monotonic()))
            self._next(longer)
        self._sleep(0)

    def _next(self, longer: int = 0) -> None:
        self._last += 1
        self._publish(stamp(self._last) + " " * longer)


def stamp(sequence: int) -> str:
    """The part that the load client looks for: 27 characters."""
    return f"#{sequence:09d}@{time.monotonic_ns():016d}"


def message(data: str) -> str:
    """The message as Alphavel's protocol has it on the wire: 64 bytes."""
    return f'{{"event":"{EVENT}","channel":"{CHANNEL}","data":"{data}"}}'


def say(value: object) -> None:
    """Answer the one who measures."""
    print(json.dumps(value), flush=True)
