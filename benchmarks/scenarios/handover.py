"""What clients notice of a server that is replaced while it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.contestants import ALPHAVEL, NATIVE, Running
from benchmarks.processes import python
from benchmarks.report import Table, number
from benchmarks.rounds import progress

_ASKING = 200


def pause(connections: int) -> Table:
    """How long clients wait for an answer while `alpha websocket:reload` replaces their server, with so many connections."""
    what = f"{connections:,} connections are handed over to a new process"
    progress(what)
    with tempfile.TemporaryDirectory() as folder, Running(ALPHAVEL, {"ALPHAVEL_RUN_DIR": folder}) as running:
        running.load(connections - _ASKING, *NATIVE)
        command = python("benchmarks.scenarios.handover_clients", str(running.port), str(_ASKING))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
            assert clients.stdin is not None
            assert clients.stdout is not None
            clients.stdout.readline()  # all are connected, and ask
            time.sleep(2.0)
            print("mark", file=clients.stdin, flush=True)
            calm = json.loads(clients.stdout.readline())
            began = time.monotonic()
            alpha = Path(sys.executable).with_name("alpha")
            environment = {**os.environ, "ALPHAVEL_RUN_DIR": folder}
            done = subprocess.run([alpha, "websocket:reload"], env=environment, capture_output=True, text=True, check=True)
            whole = time.monotonic() - began
            time.sleep(1.0)
            print("mark", file=clients.stdin, flush=True)
            meanwhile = json.loads(clients.stdout.readline())
            clients.stdin.close()
    rows = [
        ("longest wait of a client for a pong before, p50 and p99", f"{number(calm['p50'])} ms, {number(calm['p99'])} ms"),
        ("the same while the server is replaced", f"{number(meanwhile['p50'])} ms, {number(meanwhile['p99'])} ms"),
        ("closed connections", str(meanwhile["closed"])),
        ("the command, start of the new process included", f"{number(whole)} s"),
    ]
    note = f"`alpha websocket:reload` said: {done.stdout.strip()} {_ASKING} of the clients ping every 10 ms."
    return Table(what, ("", ""), rows, [note], data={"calm": calm, "meanwhile": meanwhile, "seconds": whole})
