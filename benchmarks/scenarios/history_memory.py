"""`python -m benchmarks.scenarios.history_memory COUNT [framed]`: keep twice so many messages, say what one takes."""

from __future__ import annotations

import os
import sys

from alphavel.websocket.channels import Channel, Histories
from alphavel.websocket.protocols import Message
from alphavel.websocket.protocols.alphavel import AlphavelProtocol
from alphavel.websocket.settings import ChannelSettings, HistorySettings
from benchmarks.processes import resident


def main() -> None:
    """Measure."""
    count, is_framed, channels = int(sys.argv[1]), "framed" in sys.argv, 100
    histories, protocol, data = Histories(), AlphavelProtocol(), "x" * 40
    histories.configure({"*": ChannelSettings(HistorySettings(size=count, max_bytes=2**40))}, 2**40)
    named = [Channel(f"room.{number}") for number in range(channels)]
    for number in range(2 * count):
        if number == count:  # what was made so far brought in code and pools
            before = resident(os.getpid())
        channel = named[number % channels]
        kept = histories.keep(channel.name, Message({"event": "m", "data": f"{data}{number:024}"}))
        if kept is not None and is_framed:
            kept.frame(protocol, channel)
    print((resident(os.getpid()) - before) / count)


if __name__ == "__main__":
    main()
