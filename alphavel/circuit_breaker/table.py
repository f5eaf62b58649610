"""What `alpha circuit-breaker:stats` shows people. Colours only on a terminal, and not where NO_COLOR is set."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from alphavel.circuit_breaker.reaching import gravity
from alphavel.circuit_breaker.stats import printable

_COLOURS = {
    "closed": "green", "open": "bold red", "half_open": "yellow", "recovering": "yellow", "isolated": "bold magenta",
    "disabled": "cyan", "metrics_only": "cyan",
}  # fmt: skip
_SHOWN = 50
_WIDEST_NAME = 60
"""Columns of a name among others, so that there is room for the rest."""
_WIDTH_ELSEWHERE = 160
"""Columns of a pipe or a file, which have no width of their own."""

Stats = dict[str, dict[str, Any]]


def show(read: Callable[[], Stats], store: str, service: str | None, watch: bool) -> None:
    """Show what `read` returns, with `watch` again and again."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_ELSEWHERE

    def drawn() -> RenderableType:
        return _drawn(read(), store, service)

    if not watch:
        console.print(drawn())
    elif console.is_terminal:
        with Live(drawn(), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(1.0)
                live.update(drawn(), refresh=True)
    else:
        while True:
            console.print(drawn())
            time.sleep(1.0)


def _drawn(stats: Stats, store: str, service: str | None) -> RenderableType:
    if service is not None:
        return _details(stats[service])
    if not stats:
        return Text(f"No service has been called yet ({store} store).")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("service", no_wrap=True, overflow="ellipsis", max_width=_WIDEST_NAME)
    table.add_column("state", no_wrap=True)
    for name in ("calls", "failed", "success", "refused", "slow", "in window", "retry in"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last failure", overflow="ellipsis", no_wrap=True)
    ordered = sorted(stats.values(), key=lambda one: (gravity(one), one["service"]))
    for one in ordered[:_SHOWN]:
        table.add_row(*_row(one))
    more = f"… and {len(ordered) - _SHOWN:,} more (--json shows all)\n" if len(ordered) > _SHOWN else ""
    return Group(table, Text(f"{more}{store} store{_processes(ordered)}", style="dim"))


def _row(stats: dict[str, Any]) -> list[str | Text]:
    return [
        Text(printable(stats["service"])),
        _state(stats),
        f"{stats['total_requests']:,}",
        f"{stats['total_failures']:,}",
        f"{stats['success_rate']:.1f} %",
        f"{stats['rejected']:,}",
        f"{stats['slow']:,}",
        f"{stats['failures']:,}",
        "" if stats["retry_after"] is None else f"{stats['retry_after']:.0f} s",
        Text(_last_failure(stats)),
    ]


def _state(stats: dict[str, Any]) -> Text:
    state = stats["state"]
    text = Text(state.replace("_", "-"), style=_COLOURS[state])
    processes = stats.get("processes", {})
    same = sum(one["state"] == state for one in processes.values())
    if same != len(processes):
        text.append(f" in {same} of {len(processes)}", style="default")
    return text


def _processes(every: list[dict[str, Any]]) -> str:
    ids = sorted({pid for one in every for pid in one.get("processes", {})}, key=int)
    if not ids:
        return ""
    return f", process{'es' if len(ids) > 1 else ''} {', '.join(ids)}"


def _details(stats: dict[str, Any]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    rows: list[tuple[str, str | Text]] = [
        ("service", Text(printable(stats["service"]))),
        ("state", _state(stats)),
        ("calls", f"{stats['total_requests']:,}: {stats['total_successes']:,} succeeded, {stats['total_failures']:,} failed, "
                  f"{stats['ignored']:,} ignored; {stats['slow']:,} slow"),
        ("success rate", f"{stats['success_rate']:.2f} %"),
        ("refused", f"{stats['rejected']:,}"),
        ("in window", f"{stats['failures']:,} failures"),
        ("last success", _ago(stats["last_success_time"]) or "none"),
        ("last failure", Text(_last_failure(stats) or "none")),
    ]  # fmt: skip
    for name, value in rows:
        table.add_row(name, value)
    said = {one["explanation"]: pid for pid, one in stats.get("processes", {}).items()} or {stats["explanation"]: ""}
    why = [f"{f'Process {pid}: ' if len(said) > 1 else ''}{printable(text)}" for text, pid in said.items()]
    return Group(table, Text("\n" + "\n".join(why)))


def _last_failure(stats: dict[str, Any]) -> str:
    return printable(f"{_ago(stats['last_failure_time'])} {stats['last_failure'] or ''}".strip())


def _ago(unix: float | None) -> str:
    if unix is None:
        return ""
    seconds = max(0.0, time.time() - unix)
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
