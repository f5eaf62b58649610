"""What is kept takes the memory it is counted for: orjson's results hold on to four kilobytes each."""

from __future__ import annotations

import pytest

from tests.support import python, run

MEASURE = """
import os
from alphavel.websocket.auth.current import as_user
from alphavel.websocket.bus.envelope import write
from alphavel.websocket.bus.pushes import write_push
from alphavel.websocket.channels import Histories
from alphavel.websocket.protocols import Message
from alphavel.websocket.protocols.pusher import PusherProtocol
from alphavel.websocket.settings import ChannelSettings, HistorySettings

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

kept = []
histories = Histories()
histories.configure({"*": ChannelSettings(HistorySettings(size=10**6, max_bytes=10**9))}, 10**9)

def make(number):
    return MAKE

kept += [make(number) for number in range(1000)]  # pools and caches are filled
before = resident()
kept += [make(number) for number in range(20_000)]
print((resident() - before) / 20_000)
"""


@pytest.mark.parametrize(
    "make",
    [
        'write("push", {"app": "1", "message": {"event": "e", "data": number}})',
        'write_push("1", Message({"event": "e", "data": number}), "a")',
        'as_user({"id": number, "name": "Ada"})',
        'histories.keep("a", Message({"event": "e", "data": number})).message.json_text',
    ],
)
def test_what_is_kept_takes_no_buffer_of_kilobytes(make):
    done = run(python(), "-c", MEASURE.replace("MAKE", make))
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1500
