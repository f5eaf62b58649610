"""Tables: printed, kept as JSON in `results/`, and written into README.md between the markers of their section."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine

HERE = Path(__file__).parent
README = HERE / "README.md"
RESULTS = HERE / "results"


@dataclass
class Table:
    """
    One measurement.

    Attributes:
        title: What was measured.
        columns: Their names.
        rows: Texts, one row for each contestant or point.
        notes: Sentences below it.
        picture: File name of its plot in `benchmarks/`, where it has one.
        data: The figures behind it, for the JSON file.
        problem: What must not be so; the run ends with it.
    """

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]]
    notes: list[str] = field(default_factory=list)
    picture: str | None = None
    data: Any = None
    problem: str | None = None

    def markdown(self) -> str:
        """As the README has it."""
        lines = [f"### {self.title}", ""]
        if self.rows:
            lines += [_row(self.columns), _row(["---"] + ["--:"] * (len(self.columns) - 1)), *map(_row, self.rows), ""]
        if self.picture:
            lines += [f"![{self.title}]({self.picture})", ""]
        for note in self.notes:
            lines += [note, ""]
        return "\n".join(lines)


class Report:
    """All tables of one run of one section (`bench`, `peers`, `hold`)."""

    def __init__(self, section: str, command: str) -> None:
        self._section = section
        self._command = command
        self._tables: list[Table] = []
        self._others = machine.Others()

    def add(self, table: Table) -> None:
        """Show a table and keep it."""
        self._tables.append(table)
        sys.stderr.write("\n" if sys.stderr.isatty() else "")
        print(table.markdown(), flush=True)

    @property
    def problems(self) -> list[str]:
        """What must not be so."""
        return [table.problem for table in self._tables if table.problem is not None]

    def write(self, into_readme: bool) -> Path:
        """Write the JSON file, and the section of the README where asked to."""
        about = {**machine.describe(), "others_share": self._others.share()}
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self._section}-{about['date'][:16].replace(' ', '-').replace(':', '')}.json"
        path.write_text(json.dumps({"machine": about, "tables": list(map(asdict, self._tables))}, indent=1) + "\n")
        if into_readme:
            parts = [f"Made by `{self._command}`. {machine.sentence(about)}", "", *(table.markdown() for table in self._tables)]
            README.write_text(replace_section(README.read_text(), self._section, "\n".join(parts).rstrip()))
        return path


def replace_section(text: str, section: str, content: str) -> str:
    """Put content between the markers of a section. Raises ValueError where the text has no such section."""
    begin, end = f"<!-- {section}: written by the run -->", f"<!-- end of {section} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"There are no markers for the section {section!r}: expected {begin} and {end}.")
    return pattern.sub(lambda found: f"{begin}\n{content}\n{end}", text)


def number(value: float) -> str:
    """`1,234`, `12.3`, `0.123`: three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
