"""What deltas save of real quotes on the wire, and what they cost who pushes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.load import BUILD
from benchmarks.processes import python
from benchmarks.report import Table, number
from benchmarks.rounds import progress

_PACKAGE = "backtesting==0.6.6"  # its tests' data: EURUSD by the hour, from April 2017 to February 2018
_QUOTES = "backtesting/test/EURUSD.csv"


def _quotes() -> Path:
    folder = BUILD / "quotes"
    if not (folder / _QUOTES).exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), _PACKAGE]
        subprocess.run(command, check=True)
    return folder / _QUOTES


def savings(messages: int) -> Table:
    """Bytes that each kind of subscriber gets of the same messages, from one server."""
    what = "A ticker of EURUSD to subscribers of each kind"
    progress(what)
    command = [*python("benchmarks.scenarios.deltas_run"), str(_quotes()), str(messages)]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "ALPHAVEL_RUN_DIR": folder}  # nobody else's commands are for this server
        root = Path(__file__).parents[2]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, env=environment)
    data = json.loads(done.stdout)
    rows = []
    for name, shape in data.items():
        whole = shape["bytes"]["whole"]
        for kind, size in shape["bytes"].items():
            rows.append((name, kind, number(size / messages), f"{size / whole:.2f}"))
        rows.append((name, "a push, nobody follows by deltas", f"{number(shape['push_us'])} µs", ""))
        rows.append((name, "a push, somebody does", f"{number(shape['push_delta_us'])} µs", ""))
    note = (
        f"{messages:,} messages of hourly quotes, frames included. A quote is the hour's open, high, low, close and volume, "
        "which all change; a ticker is what exchanges send: the last price, the day's figures, names and limits. "
        "permessage-deflate is at level 1 with windows of 12 bits; with context it keeps 100 KB for each connection. A push is "
        "`to_channel().push()` until it returns, the median of 15 rounds."
    )
    return Table(what, ("message", "subscriber", "bytes a message", "× whole"), rows, [note], data=data)
