"""What histories cost: a push, a kept message, and everybody coming back at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.contestants import ALPHAVEL, NATIVE, Contestant, Running, alphavel_command
from benchmarks.load import BUILD
from benchmarks.processes import python
from benchmarks.report import Table, number
from benchmarks.rounds import progress

BEHIND = 100


def with_history(size: int = BEHIND) -> Contestant:
    """Alphavel whose measured channel keeps a history."""
    folder = BUILD / "history"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "websocket.yaml").write_text(f'channels: {{"b": {{history: {{size: {size}}}}}}}\n')
    return Contestant("Alphavel, with history", alphavel_command, ALPHAVEL.version, NATIVE, {"ALPHAVEL_CONFIG": str(folder)})


def coming_back(clients: int) -> Table:
    """So many clients connect at once, each a hundred messages behind, until the last has read the last message."""
    what = f"{clients:,} clients come back at once, each {BEHIND} messages behind"
    progress(what)
    with Running(with_history()) as running:
        first = running.connect(1)  # whose history begins the epoch
        epoch = json.loads(_ask_position(running.port))["epoch"]
        running.publish("pace", 100, BEHIND)
        first.ask("until", running.published, 30_000)
        recover = json.dumps({"event": "subscribe", "data": {"channel": "b", "recover": {"epoch": epoch, "serial": 0}}})
        ready = f'"serial":{BEHIND}}}'
        plain = running.load(clients, *NATIVE, "--concurrency", str(clients))
        plain.stop()
        running.loads.remove(plain)
        back = running.load(clients, "--subscribe", recover, "--ready", ready, "--concurrency", str(clients))
    rows = [
        ("connect and subscribe, nothing missed", f"{number(plain.seconds)} s"),
        ("connect, subscribe and read all that was missed", f"{number(back.seconds)} s"),
        ("of that for what was missed", f"{number(max(0.0, back.seconds - plain.seconds))} s"),
        ("messages a second", number(clients * BEHIND / back.seconds)),
    ]
    data = {"plain": plain.seconds, "back": back.seconds}
    return Table(what, ("", "until the last of them"), rows, data=data)


def _ask_position(port: int) -> str:
    """Subscribe with a client of ours and return the data of the answer."""
    code = f"""
import json
from websockets.sync.client import connect
with connect("ws://127.0.0.1:{port}/") as client:
    client.recv()
    client.send('{{"event":"subscribe","data":{{"channel":"b"}}}}')
    print(json.dumps(json.loads(client.recv())["data"]))
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def memory(messages: int) -> Table:
    """Resident memory of a kept message of 64 bytes, framed for one protocol as where somebody is on the channel."""
    what = "Resident memory of a kept message of 64 bytes"
    progress(what)
    data = {}
    for name, words in (("nobody on the channel", []), ("framed for those who are", ["framed"])):
        command = [*python("benchmarks.scenarios.history_memory"), str(messages), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        data[name] = json.loads(done.stdout)
    rows = [(name, f"{number(each)} bytes") for name, each in data.items()]
    return Table(what, ("", "a message"), rows, [f"{messages:,} messages over 100 channels."], data=data)
