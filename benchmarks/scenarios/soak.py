"""Clients that come and go, read slowly, read nothing and vanish, for a long time: what the server holds must come back."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from benchmarks import plots
from benchmarks.contestants import ALPHAVEL, Running
from benchmarks.load import Load
from benchmarks.report import Table, number
from benchmarks.rounds import check, progress
from benchmarks.scenarios.messages import ECHO

_WARM_UP_S = 120  # pools and caches fill; compared is with what is held after that
_LOOK_EVERY_S = 60.0
_MOST_GROWTH = 1.05
_MOST = 8000  # connections at a time


class Held(NamedTuple):
    """
    What the server holds.

    Attributes:
        minute: When, the warm-up not counted.
        memory: Resident, in bytes.
        files: That are open.
        objects, blocks, malloc_used, malloc_free: See `heap`.
    """

    minute: float
    memory: int
    files: int
    objects: int
    blocks: int
    malloc_used: int
    malloc_free: int


def soak(seconds: int, seed: int) -> Table:
    """
    Do at random what clients do. Each minute all of them go, and what the server holds then is noted.

    Args:
        seconds: How long, the warm-up not counted.
        seed: Of what happens; the table names it.

    Returns:
        A table with a `problem` where files stayed open, or at the end more memory is held than allowed.

    Raises:
        RuntimeError: Messages were lost.
    """
    what = f"{seconds / 60:g} minutes of clients that come, go, read nothing and vanish"
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    with Running(ALPHAVEL) as running:
        # The choir stays to the end: its sequence numbers show that nobody's doings cost the others a message.
        running.connect(100)
        _crowd(running)
        _storm(running, min(seconds, _WARM_UP_S), chance, Counter(), f"{what}: warming up")
        held = [_held(running, 0.0)]
        while (left := seconds - _LOOK_EVERY_S * (len(held) - 1)) > 0:
            _storm(running, min(left, _LOOK_EVERY_S), chance, done, what)
            held.append(_held(running, held[-1].minute + min(left, _LOOK_EVERY_S) / 60))
            progress(f"{what}: {held[-1]}")
        choir = running.loads[0].ask("until", running.published, 10_000)
    if choir["lost"] or choir["duplicates"] or choir["closed"] or choir["behind"]:
        raise RuntimeError(f"Those who stayed lost messages: {choir}")
    before, after = held[0], held[-1]
    rows = [(name, f"{count:,}") for name, count in sorted(done.items())]
    rows += [
        ("memory before, after", f"{_mib(before.memory)}, {_mib(after.memory)} MiB"),
        ("memory after against before", f"{after.memory / before.memory:.3f}"),
        ("of it given out by malloc, before, after", f"{_mib(before.malloc_used)}, {_mib(after.malloc_used)} MiB"),
        ("blocks of Python's allocator, before, after", f"{before.blocks:,}, {after.blocks:,}"),
        ("objects, before, after", f"{before.objects:,}, {after.objects:,}"),
        ("open files before, after", f"{before.files}, {after.files}"),
        ("messages to those who stayed, lost", f"{choir['messages']:,}, 0"),
    ]
    curves = [
        ("resident", [(each.minute, each.memory / 2**20) for each in held]),
        ("given out by malloc", [(each.minute, each.malloc_used / 2**20) for each in held]),
    ]
    plots.lines("soak.png", curves, "minutes", "MiB", what, is_logarithmic=False)
    notes = [
        f"Seed {seed}. Noted each minute, when all but a hundred clients have gone. More than {_MOST_GROWTH} times the memory "
        "of before, or a file that stays open, is an error."
    ]
    data = {"held": [each._asdict() for each in held], "done": dict(done)}
    table = Table(what, ("", ""), rows, notes, picture="soak.png", data=data)
    _check(before, after, table)
    return table


def _check(before: Held, after: Held, table: Table) -> None:
    problems = []
    if after.memory > _MOST_GROWTH * before.memory:
        problems.append(f"memory grew from {_mib(before.memory)} to {_mib(after.memory)} MiB")
    if after.files > before.files:
        problems.append(f"{after.files - before.files} files stayed open")
    if problems:
        table.problem = f"After the soak {' and '.join(problems)}."


def _mib(size: float) -> str:
    return number(size / 2**20)


def _crowd(running: Running) -> None:
    """Have as many as there will ever be, some of whom read nothing until they are closed: more is never held at a time."""
    progress("everybody comes at once")
    visitors = [running.load(1000, *running.contestant.join, "--deaf", "20") for _ in range(_MOST // 1000)]
    running.publish("pace", 5000, 60, 30_000)
    for load in visitors:
        running.loads.remove(load)
        _end(load, "vanish", Counter())


def _storm(running: Running, seconds: float, chance: random.Random, done: Counter[str], what: str) -> None:
    deadline = time.monotonic() + seconds
    running.loads[0].ask("mark", running.published)
    said = 0.0
    while (left := deadline - time.monotonic()) > 0:
        if time.monotonic() - said > 10:
            said = time.monotonic()
            progress(f"{what}: {left:.0f} s left, {len(running.loads) - 1} clients")
        visitors = running.loads[1:]
        room = _MOST - sum(load.opened for load in visitors)
        act = chance.choice(["join", "join", "leave", "vanish", "handshakes", "talk", "flood", "large"])
        if act == "join" and room > 0:
            count = min(room, chance.randrange(1, 1000))
            deaf = chance.choice([0, 0, min(count, 20)])
            running.load(count, *running.contestant.join, "--deaf", str(deaf))
            done["connections opened"] += count
            done["of them reading nothing"] += deaf
        elif act in ("leave", "vanish") and visitors:
            load = chance.choice(visitors)
            running.loads.remove(load)
            _end(load, act, done)
        elif act == "handshakes":
            with Load(running.port, 1) as load:
                done["handshakes ended by a reset"] += load.ask("handshakes", 200, 16)["handshakes"]
        elif act == "talk":
            with Load(running.port, chance.randrange(1, 200), ECHO) as load:
                done["messages echoed"] += _echoed(load)
        elif act == "flood":
            running.publish("flood", chance.choice([1, 16]), 100)
        elif act == "large":
            running.publish("pace", 2000, 20, chance.randrange(1, 30_000))
    for load in running.loads[1:]:
        running.loads.remove(load)
        _end(load, chance.choice(["leave", "vanish"]), done)


def _echoed(load: Load) -> int:
    seen = load.ask("echo", 200, load.opened * 100)  # a second: within what a client may send
    check("echo", seen)
    return int(seen["messages"])


def _end(load: Load, how: str, done: Counter[str]) -> None:
    if how == "vanish":
        os.kill(load.pid, 9)  # the kernel resets those with something unread
    done[f"connections ended: {'killed' if how == 'vanish' else 'closed'}"] += load.opened
    load.stop()


def _held(running: Running, minute: float) -> Held:
    """Note what the server holds, once it has done with those who left."""
    pid = running.program.pids()[0]
    for _ in range(100):
        time.sleep(0.2)
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        if files < running.loads[0].opened + 50:
            break
    time.sleep(2.0)
    heap = running.program.ask("heap")
    return Held(minute, running.program.memory(), len(list(Path(f"/proc/{pid}/fd").iterdir())), **heap)
