"""`alpha doctor`: is everything here that a start needs? The foundation's own checks and those of every installed package."""

from __future__ import annotations

import ctypes
import difflib
import importlib
import json
import platform
import stat
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from alphavel.foundation.checks import Check, Finding, Level, good, warning, wrong
from alphavel.foundation.config import Config
from alphavel.foundation.errors import ConfigurationError
from alphavel.foundation.providers import ProviderWarning, ServiceProvider, discover
from alphavel.foundation.running import ControlError, run_dir

_OLDEST_CLOCK = 1_750_000_000  # it was later than this when this was written
_TIME_ERROR = 5  # of ntp_adjtime(3): the clock is not synchronized
_TIMEX_BYTES = 512
_MARKS = {Level.OK: ("ok", "green"), Level.WARNING: ("warn", "yellow"), Level.ERROR: ("FAIL", "red")}


def run(as_json: bool) -> bool:
    """Show what all checks find; return whether nothing is wrong. Warnings are no wrongs."""
    findings: list[tuple[str, Finding]] = []
    for package, finding in examine():
        if not as_json:
            if not findings or findings[-1][0] != package:
                click.secho(f"{chr(10) if findings else ''}{package}", bold=True)
            _show(finding)
        findings.append((package, finding))
    counts = {level: sum(finding.level is level for _, finding in findings) for level in Level}
    if as_json:
        listed = [{"package": package, **finding._asdict(), "level": finding.level.value} for package, finding in findings]
        click.echo(json.dumps({"healthy": not counts[Level.ERROR], "findings": listed}))
    else:
        summary = [_many(counts[Level.WARNING], "warning"), _many(counts[Level.ERROR], "error")]
        click.echo(f"\n{counts[Level.OK]} good, {', '.join(summary)}.")
    return not counts[Level.ERROR]


def _show(finding: Finding) -> None:
    mark, colour = _MARKS[finding.level]
    click.echo(f"  {click.style(f'{mark:<5}', fg=colour)} {finding.what:<16} {finding.text}")
    if finding.advice:
        click.echo(f"{'':<22} {click.style('->', fg=colour)} {finding.advice}")


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def examine() -> Iterator[tuple[str, Finding]]:
    """Yield what all checks find, with the package each is of, as they find it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ProviderWarning)
        providers = discover()
    for one in caught:
        yield "alphavel.foundation", wrong("providers", str(one.message), "Install that package again, or remove it.")
    yield from _findings("alphavel.foundation", (_python, lambda: _configuration(providers), _running, _clock))
    for provider in providers:
        missing = provider.missing()
        if missing:
            what = f"{provider.package} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed."
            yield provider.package, warning("installed", what, f'pip install "alphavel[{provider.name}]"')
            continue
        version = getattr(importlib.import_module(provider.package), "__version__", "an unknown version")
        yield provider.package, good("installed", f"{provider.package} {version}")
        yield from _findings(provider.package, provider.checks())


def _findings(package: str, checks: Iterable[Check]) -> Iterator[tuple[str, Finding]]:
    for check in checks:
        try:
            for finding in check():
                yield package, finding
        except Exception as error:  # noqa: BLE001 (whatever a check meets, the others are made)
            name = getattr(check, "__name__", "a check").strip("_")
            yield package, wrong(name, f"This could not be checked: {type(error).__name__}: {error}", "Report it, it is a bug.")


def _python() -> Iterator[Finding]:
    yield good("python", f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}")
    if sys.platform != "linux":
        yield warning("system", f"{platform.system()}: only Linux is tested.", "Deploy on Linux.")


def _configuration(providers: list[ServiceProvider]) -> Iterator[Finding]:
    try:
        folder = Config().folder
    except ConfigurationError as error:
        yield wrong("configuration", str(error), "Name the folder with --config or ALPHAVEL_CONFIG.")
        return
    if not folder.is_dir():
        yield good("configuration", f"There is no folder {folder}: the defaults hold.")
        return
    yield good("configuration", f"The folder is {folder.resolve()}.")
    known = {Path(target).name for provider in providers for files in provider.publishes().values() for _, target in files}
    for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        if path.name not in known:
            near = difflib.get_close_matches(path.name, sorted(known), n=1)
            meant = f"Call it {near[0]}." if near else f"Read are: {', '.join(sorted(known)) or 'none'}."
            yield warning("configuration", f"{path} is read by no package.", meant)
        elif path.stat().st_mode & stat.S_IWOTH:
            yield wrong("configuration", f"Everybody on this machine may write {path}.", f"chmod o-w {path}")


def _running() -> Iterator[Finding]:
    try:
        yield good("run folder", f"Processes find each other in {run_dir()}.")
    except ControlError as error:
        yield wrong("run folder", str(error), "Set ALPHAVEL_RUN_DIR to a folder of the user that runs Alphavel.")


def _clock() -> Iterator[Finding]:
    advice = "Start chrony or systemd-timesyncd: tokens and signatures are valid for a time only."
    if time.time() < _OLDEST_CLOCK:
        yield wrong("clock", f"The clock is wrong: it says {time.strftime('%Y-%m-%d', time.gmtime())}.", advice)
    elif _is_unsynchronized():
        yield warning("clock", "The kernel says that nothing keeps its clock right.", advice)
    else:
        yield good("clock", f"It is {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}, and something keeps it right.")


def _is_unsynchronized() -> bool:
    try:
        return bool(
            ctypes.CDLL(None).ntp_adjtime(ctypes.create_string_buffer(_TIMEX_BYTES)) == _TIME_ERROR
        )  # zeroes: only asks
    except (OSError, AttributeError):  # no such function here
        return False
