"""Commands of `alpha`. What is heavy is imported when a command runs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from alphavel.circuit_breaker.reaching import Circuits


@click.command("circuit-breaker:stats")
@click.argument("service", required=False)
@click.option("--watch", is_flag=True, help="Show again every second, until Ctrl+C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for programs to read.")
def stats(service: str | None, watch: bool, as_json: bool) -> None:
    """Show the circuits: their states, counts, last failures; of one SERVICE also why."""
    circuits = _circuits()
    if as_json:
        _repeat(lambda: click.echo(json.dumps({"store": circuits.store, "services": _stats(circuits, service)})), watch)
        return
    try:
        from alphavel.circuit_breaker.table import show
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f'The table needs {error.name}, which is not installed: pip install "alphavel[circuit-breaker]". Or use --json.'
        ) from error
    show(lambda: _stats(circuits, service), circuits.store, service, watch)


@click.command("circuit-breaker:reset")
@click.argument("service", required=False)
@click.option("--all", "every", is_flag=True, help="Every service there is.")
def reset(service: str | None, every: bool) -> None:
    """Begin anew: the configured state, no failures, no totals."""
    if (service is None) != every:
        raise click.UsageError("Name one SERVICE, or say --all.")
    _act("reset", service)


def _control(action: str, text: str) -> click.Command:
    @click.command(f"circuit-breaker:{action}", help=text)
    @click.argument("service")
    @click.option("--new", is_flag=True, help="Also a service that nobody has called yet.")
    def command(service: str, new: bool) -> None:
        _act(action, service, new)

    return command


COMMANDS = (
    stats,
    reset,
    _control("open", "Refuse calls of SERVICE from now on; it recovers as usual."),
    _control("close", "Let calls of SERVICE through now, and count from nothing."),
    _control("isolate", "Refuse calls of SERVICE until it is closed or reset."),
    _control("disable", "Let all calls of SERVICE through and only count, until it is closed or reset."),
)


def _circuits() -> Circuits:
    from alphavel.circuit_breaker.errors import StoreError
    from alphavel.circuit_breaker.reaching import circuits

    # What happens is told by the command itself, once.
    logging.getLogger("alphavel.circuit_breaker").addHandler(logging.NullHandler())
    try:
        return circuits()
    except StoreError as error:
        raise click.ClickException(str(error)) from error


def _stats(circuits: Circuits, service: str | None) -> dict[str, dict[str, Any]]:
    from alphavel.circuit_breaker.reaching import UnreachableError

    try:
        found = circuits.stats(service)
        if service is not None and not found:
            raise click.ClickException(_unknown(service, list(circuits.stats(None))))
    except UnreachableError as error:
        raise click.ClickException(str(error)) from error
    return found


def _act(action: str, service: str | None, new: bool = False) -> None:
    from alphavel.circuit_breaker.reaching import UnreachableError
    from alphavel.circuit_breaker.stats import printable

    circuits = _circuits()
    if service is not None and not new:
        _stats(circuits, service)
    try:
        done = circuits.act(action, service)
    except UnreachableError as error:
        raise click.ClickException(str(error)) from error
    for name, (before, after) in done.items():
        click.echo(f"{printable(name)}: {after}" + (f", was {before}" if before != after else ""))
    if not done:
        click.echo("There is no service yet.")


def _unknown(service: str, known: list[str]) -> str:
    from alphavel.circuit_breaker.stats import printable

    some = ", ".join(map(printable, known[:10])) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
    return f"There is no service {service!r}. There are: {some or 'none yet'}."


def _repeat(act: Callable[[], None], watch: bool) -> None:
    act()
    while watch:
        time.sleep(1.0)
        act()
