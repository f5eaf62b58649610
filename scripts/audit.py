"""
Looks up whether versions that are installed have known vulnerabilities: `make audit`. pip-audit asks the index's database.

Where the database cannot be reached, pip-audit leaves packages out and finds nothing, which looks like good news: here that is
said, and with `--strict` an error.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from typing import Any


def installed() -> list[str]:
    """Return `name==version` of all packages of this environment but our own."""
    pinned = {f"{found.metadata['Name']}=={found.version}" for found in distributions()}
    return sorted(name for name in pinned if not name.lower().startswith("alphavel"))


def ask(pip_audit: str, pinned: list[str]) -> dict[str, Any]:
    """Return what pip-audit says of packages; of none where it says nothing."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pinned) + "\n")
        file.flush()
        command = [pip_audit, "-r", file.name, "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        print(done.stderr.strip(), file=sys.stderr)
        answer = {"dependencies": []}
    return answer


def report(answer: dict[str, Any], strict: bool) -> tuple[list[str], int]:
    """Return lines for people and the exit code: 1 where something is known, 2 where not all was looked up and that matters."""
    found = answer["dependencies"]
    looked_up = [package for package in found if "vulns" in package]
    left_out = sorted(package["name"] for package in found if "vulns" not in package)
    lines = [
        f"{package['name']} {package['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for package in looked_up
        for flaw in package["vulns"]
    ]
    is_bad = bool(lines)
    if not looked_up:
        lines.append("NOTHING WAS CHECKED: the database of vulnerabilities cannot be reached from here.")
    else:
        lines.append(f"{len(looked_up)} packages looked up" + ("." if is_bad else ", no known vulnerability."))
        if left_out:
            lines.append(f"Not in the database, or not reached: {', '.join(left_out)}.")
    is_partial = bool(left_out) or not looked_up
    return lines, 1 if is_bad else 2 if strict and is_partial else 0


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--strict"]
    said, code = report(ask(arguments[0], installed()), "--strict" in sys.argv)
    print("\n".join(said))
    sys.exit(code)
