"""The table of figures in README.md, out of what the benchmarks wrote into benchmarks/README.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
_FAN_OUT = "Fan-out to 1,000 subscribers, 64 bytes, "
_ONE, _BURSTS = f"{_FAN_OUT}one message a turn (K=1)", f"{_FAN_OUT}bursts of 16 a turn (K=16)"
_C, _RATE = "C loop, send()", "messages/s"
_VIEW = "A plain Flask view while the fan-out runs flat out, one message a turn (K=1)"
_CALL = "A call through a closed circuit"
_OVER = "ns over the bare call"

Tables = dict[str, dict[str, dict[str, str]]]


def readme() -> str:
    """Return README.md with the figures of now."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(
        r"(<!-- figures[^>]*-->\n).*?(?=<!-- end of figures -->)", lambda found: found[1] + table(), text, flags=re.DOTALL
    )


def table() -> str:
    """Return the table."""
    bench, peers, breaker, idle, echo = (_tables(part) for part in ("bench", "peers", "breaker", "memory", "echo"))
    memory = idle["Resident memory of an idle connection, 10,000 open"]
    rates = [peers[title]["Alphavel"]["× uWebSockets"] for title in (_ONE, _BURSTS)]
    others = ", ".join(f"{breaker[_CALL][name][_OVER]} {name}" for name in ("circuitbreaker", "purgatory", "pybreaker"))
    naive = "gevent-websocket"

    def fan_out(title: str) -> tuple[str, str]:
        rows = bench[title]
        return rows["Alphavel"][_RATE], f"{rows[naive][_RATE]} {naive}; {rows[_C][_RATE]} the C loop"

    rows = [
        ("one message a turn, messages/s", *fan_out(_ONE), "bench"),
        ("bursts of sixteen, messages/s", *fan_out(_BURSTS), "bench"),
        ("the same two, times uWebSockets", ", ".join(rates), "1.00", "bench-peers"),
        (
            "echoes of 1,000 clients, times uWebSockets",
            echo["Echo, 64 bytes, 1,000 connections"]["Alphavel"]["× uWebSockets"],
            f"1.00; {echo['Echo, 64 bytes, 1,000 connections'][naive]['× uWebSockets']} {naive}",
            "bench-echo",
        ),
        (
            "memory of an idle connection, with a token, on a channel",
            f"{memory['Alphavel, with token, on one channel']['KB a connection']} KB",
            f"{memory[naive]['KB a connection']} KB {naive}, without",
            "bench-memory",
        ),
        (
            "a Flask view meanwhile, 99th percentile",
            f"{bench[_VIEW]['Alphavel']['p99 ms']} ms",
            f"{bench[_VIEW][naive]['p99 ms']} ms {naive}",
            "bench",
        ),
        (
            "a call through a closed circuit, over the bare call",
            f"{breaker[_CALL]['alphavel, decorator'][_OVER]} ns",
            others,
            "bench",
        ),
    ]
    head = "| | Alphavel | compared with | command |\n|---|--:|---|---|\n"
    return head + "".join(f"| {what} | {ours} | {theirs} | `make {command}` |\n" for what, ours, theirs, command in rows)


def _tables(part: str) -> Tables:
    """The tables of one part of benchmarks/README.md: `{title: {row: {column: value}}}`."""
    text = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    text = text.partition(f"<!-- {part}: written by the run -->")[2].partition(f"<!-- end of {part} -->")[0]
    tables: Tables = {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in body.splitlines() if line.startswith("|")]
        if lines:
            # A column's name that stands there twice: the first is the one that is named for.
            tables[title] = {cells[0]: dict(reversed(list(zip(lines[0], cells, strict=False)))) for cells in lines[2:]}
    return tables
