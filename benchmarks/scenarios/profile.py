"""Where the processor time of a server goes: py-spy looks at it a thousand times a second, and draws a flame graph."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.contestants import ALPHAVEL, Running, authenticated, with_tokens, write_tokens
from benchmarks.load import BUILD
from benchmarks.processes import ServerError
from benchmarks.report import Table
from benchmarks.rounds import progress
from benchmarks.scenarios.fan_out import SUBSCRIBERS
from benchmarks.scenarios.messages import ECHO

WORK: dict[str, tuple[str, Mapping[str, str], int, Sequence[str], str]] = {
    "fan-out-1": ("fan-out, one message a turn (K=1)", {}, SUBSCRIBERS, ALPHAVEL.join, "flood 1"),
    "fan-out-16": ("fan-out, bursts of 16 a turn (K=16)", {}, SUBSCRIBERS, ALPHAVEL.join, "flood 16"),
    "echo": ("echo", {}, SUBSCRIBERS, ECHO, "echo MS"),
    "handshakes": ("handshakes, HS256 token checked", authenticated(), 1, (), "handshakes MS 32"),
}
"""What it is called, environment of the server, connections, options of the load client, what is asked of server or client."""

_SHOWN = 12  # functions in a table
_AROUND_MS = 2000  # more work than is looked at, so that it goes on before and after


def flame_graph(name: str, seconds: int, folder: Path) -> Table:
    """
    Look at a server at work.

    Args:
        name: One of `WORK`.
        seconds: How long it is looked at for the table, and again for the picture.
        folder: Where the picture goes.
    """
    what, environment, connections, options, command = WORK[name]
    picture, raw = f"flame-{name}.svg", BUILD / "profile.txt"
    with Running(ALPHAVEL, environment) as running:
        progress(f"{what}: looking at it for {seconds} s, twice")
        tokens = with_tokens(write_tokens(connections)) if environment else ()
        running.load(connections, *options, *tokens)
        (pid,) = running.program.pids()
        before = _cpu_ticks(pid)
        _at_work(running, command, seconds, lambda: _record(pid, seconds, "raw", raw))
        user, kernel = (after - ticks for after, ticks in zip(_cpu_ticks(pid), before, strict=True))
        _at_work(running, command, seconds, lambda: _record(pid, seconds, "flamegraph", folder / picture))
    _entitle(folder / picture, what)
    own = innermost(raw.read_text())
    rows = [(function, f"{count / own.total():.1%}") for function, count in own.most_common(_SHOWN)]
    note = (
        f"Of the processor time {kernel / (user + kernel):.0%} was the kernel's, which the graph counts with the function that "
        "called it. Shares are of the moments in which the interpreter was at work, so without the waiting for events."
    )
    return Table(f"Where the time goes: {what}", ("Function", "its own"), rows, [note], picture=picture)


def _at_work(running: Running, command: str, seconds: int, look: Callable[[], None]) -> None:
    load, milliseconds = running.loads[0], seconds * 1000 + _AROUND_MS
    if command.startswith("flood"):
        load.ask("mark", running.published)
        running.program.tell(command, milliseconds)
        time.sleep(_AROUND_MS / 4000)
        look()
        running.published = running.program.hear()["published"]
        load.ask("until", running.published, 60_000)
    else:
        load.tell(*command.replace("MS", str(milliseconds)).split())
        time.sleep(_AROUND_MS / 4000)
        look()
        load.hear()


def innermost(raw: str) -> Counter[str]:
    """
    Count how often each function was the innermost.

    Args:
        raw: py-spy's raw format: in each line a stack with semicolons, the innermost function last, and how often it was seen.
    """
    counts: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if stack:  # it is empty where a thread was caught at its very begin
            counts[_without_line(stack.rpartition(";")[2])] += int(count)
    return counts


def _without_line(frame: str) -> str:
    function, _, place = frame.partition(" (")
    return f"`{function}` ({place.partition(':')[0].rstrip(')')})"


def _record(pid: int, seconds: int, form: str, into: Path) -> None:
    spy = Path(sys.executable).with_name("py-spy")
    command = [spy, "record", "--gil", "--rate", "1000", "--duration", str(seconds), "--format", form, "--pid", str(pid)]
    done = subprocess.run([*map(str, command), "--output", str(into)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"py-spy could not look (it needs to be root, or ptrace_scope 0): {done.stderr.strip()[-300:]}")


def _entitle(picture: Path, title: str) -> None:
    """Name what a flame graph shows where py-spy names its own command."""
    text = re.sub(r'(<text id="title"[^>]*>)[^<]*', lambda found: found[1] + title, picture.read_text())
    picture.write_text(text)


def _cpu_ticks(pid: int) -> tuple[int, int]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]), int(fields[12])
