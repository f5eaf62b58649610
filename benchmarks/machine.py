"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """Processor, memory, kernel, Python and the day."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
    }


def sentence(machine: dict[str, Any]) -> str:
    """The same in one line."""
    return (
        f"{machine['date']}, commit {machine['commit']}; {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}, Python {machine['python']}. Server and load client share the "
        f"cores; other work took {machine['others_share']:.0%} of them meanwhile."
    )


class Others:
    """How busy the machine was with what is not ours."""

    def __init__(self) -> None:
        self._busy, self._total = _jiffies()
        self._ours = _our_cpu_s()

    def share(self) -> float:
        """Share of all cores, from the start of the run on."""
        busy, total = _jiffies()
        ours = (_our_cpu_s() - self._ours) * os.sysconf("SC_CLK_TCK")
        return max(0.0, (busy - self._busy - ours) / max(1, total - self._total))


def _jiffies() -> tuple[int, int]:
    fields = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    return sum(fields) - fields[3] - fields[4], sum(fields)


def _our_cpu_s() -> float:
    # Children are counted when they have ended: ask after all of them have been stopped.
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _commit() -> str:
    shown = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return shown.stdout.strip() or "unknown"
