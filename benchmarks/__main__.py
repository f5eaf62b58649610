"""`python -m benchmarks [SECTION]`: measure, print, and write README.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from benchmarks import bench_circuit_breaker, capacity, sections
from benchmarks.report import Report

SECTIONS: dict[str, tuple[str, Callable[..., None]]] = {
    "bench": ("bench", sections.bench),
    "breaker": ("bench", bench_circuit_breaker.run),
    "peers": ("bench-peers", sections.peers),
    "echo": ("bench-echo", sections.echoes),
    "memory": ("bench-memory", sections.memory),
    "writers": ("bench-writers", sections.writers),
    "100k": ("bench-100k", sections.very_many),
    "soak": ("bench-soak", sections.endurance),
    "history": ("bench-history", sections.histories),
    "scale": ("bench-scale", sections.scale),
    "profile": ("bench-profile", sections.flame_graphs),
}
"""The `make` target of each, and what it runs."""

MINUTES = {"100k": 10.0, "soak": 30.0}
"""For how long, of those that are told."""


def main() -> None:
    """Run one section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("section", nargs="?", default="bench", choices=SECTIONS, help="what to measure; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a smoke test: few and short rounds; nothing goes into the README")
    parser.add_argument("--minutes", type=float, help="how long 100k (default: 10) and soak (default: 30) go on")
    given = parser.parse_args()
    target, run = SECTIONS[given.section]
    report = Report(given.section, f"make {target}")
    long = [int((given.minutes or MINUTES[given.section]) * 60)] if given.section in MINUTES else []
    run(report, given.quick, *long)
    print(f"Wrote {report.write(into_readme=not given.quick)}")
    if given.section in ("scale", "100k") and not given.quick:
        print(capacity.write_page())
    if report.problems and not given.quick:
        sys.exit("\n".join(report.problems))


if __name__ == "__main__":
    main()
