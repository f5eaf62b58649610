"""`alpha websocket:serve` and `alpha websocket:stats`. Imports nothing that gevent patches."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from alphavel.websocket.factory import check_installed
from alphavel.websocket.handover import VARIABLE

if TYPE_CHECKING:
    from alphavel.websocket.daemon import Daemon

_RELOAD_S = 180.0


@click.command("websocket:serve")
@click.option("--app", "target", metavar="MODULE:APP", help="The Flask application to serve along; also MODULE:factory().")
@click.option("--host", help="Address to listen on. Default: host in config/websocket.yaml, else 0.0.0.0.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on. Default: port in the file, else 9501.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes. Default: options.workers in the file, else 1.")
@click.option("--daemon", is_flag=True, help="Go to the background once it listens.")
@click.option("--pid-file", type=click.Path(dir_okay=False), help="File for the process id; --daemon: alphavel-websocket.pid.")
@click.option("--tls-cert", type=click.Path(dir_okay=False), help="PEM file of a certificate, to end TLS here.")
@click.option("--tls-key", type=click.Path(dir_okay=False), help="PEM file of its key. SIGHUP reads both again.")
def serve(
    target: str | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    daemon: bool,
    pid_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
) -> None:
    """Serve WebSockets, and a Flask application in the same process."""
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together.")
    check_installed()
    from alphavel.websocket import starting

    # Who takes over from a process in the background is there already.
    background = _go_to_the_background() if daemon and VARIABLE not in os.environ else None
    start = starting.Start(
        target,
        {"host": host, "port": port, "workers": workers, "tls_cert": tls_cert, "tls_key": tls_key},
        background,
        pid_file or ("alphavel-websocket.pid" if daemon else None),
    )
    try:
        clean = starting.run(start)
    except Exception as error:
        if background is not None and background.is_starting:
            background.failed(starting.told(error))
            sys.exit(1)
        if isinstance(error, starting.WorkerFailedError):  # the worker has put it as it is to be shown
            click.echo(str(error), err=True)
            sys.exit(1)
        if isinstance(error, starting.EXPECTED):
            raise click.ClickException(str(error)) from error
        raise
    sys.exit(0 if clean else 1)


def _go_to_the_background() -> Daemon:
    from alphavel.websocket.daemon import Daemon

    background = Daemon()
    background.fork()
    return background


_port = click.option("--port", type=click.IntRange(1, 65535), help="Of the server that is meant, where several run.")


@click.command("websocket:reload")
@_port
def reload(port: int | None) -> None:
    """
    Start the code of now in place of the running server, which keeps every connection.

    A new process takes the sockets over and goes on; where it cannot start, the old one does. With several workers, their
    parent starts a new set, and clients are asked to connect again.
    """
    from alphavel.foundation.control import ControlError, ask_all

    workers = _running(port)
    places = {", ".join(worker["listening"]) or f"process {worker['pid']}" for worker in workers}
    if len(places) > 1:
        raise click.UsageError(f"Several servers run; say with --port which one is meant: {'; '.join(sorted(places))}")
    try:
        answers = ask_all("websocket", "reload", timeout_s=_RELOAD_S, only=[worker["pid"] for worker in workers])
    except ControlError as error:
        raise click.ClickException(f"The server was not replaced and goes on. {error}") from error
    for parent in {answer["parent"] for answer in answers if "parent" in answer}:
        os.kill(parent, signal.SIGHUP)
        click.echo(f"The parent {parent} brings up a new set of workers; clients are asked to connect again.")
    for answer in answers:
        if "pid" in answer:
            left = f", {answer['left']} were asked to connect again" if answer["left"] else ""
            click.echo(f"Process {answer['pid']} goes on with {answer['connections']} connections{left}.")


@click.command("websocket:stats")
@click.option("--watch", is_flag=True, help="Show again every second, until Ctrl+C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for programs to read.")
@_port
def stats(watch: bool, as_json: bool, port: int | None) -> None:
    """
    Show what a running server is doing; several servers of this user are added up.

    Users, and over Redis the row called fleet, are those of servers on other machines, too.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl+C is how watching ends, and no error
    while True:
        workers = _running(port)
        if watch and not as_json:
            click.clear()
        click.echo(json.dumps(_total(workers)) if as_json else _table(_total(workers)))
        if not watch:
            return
        time.sleep(1.0)


def _running(port: int | None) -> list[dict[str, Any]]:
    """Return the stats of the workers of all servers of this user, or of the one at a port; at least one."""
    from alphavel.foundation.control import ControlError, ask_all

    try:
        workers: list[dict[str, Any]] = ask_all("websocket", "stats")
    except ControlError as error:
        raise click.ClickException(str(error)) from error
    if not workers:
        raise click.ClickException("No running WebSocket server of this user was found. Start one: alpha websocket:serve")
    if port is None:
        return workers
    at_port = [worker for worker in workers if any(urlsplit(url).port == port for url in worker["listening"])]
    if not at_port:
        others = sorted({url for worker in workers for url in worker["listening"]})
        raise click.ClickException(f"No WebSocket server of this user listens at port {port}; there are: {', '.join(others)}")
    return at_port


def _total(workers: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum what can be summed over the workers, count once what each knows of all of its server, and keep each one's figures."""
    total: dict[str, Any] = {"uptime": max(worker["uptime"] for worker in workers), "workers": workers}
    for name, value in workers[0].items():
        if name not in ("pid", "uptime") and isinstance(value, (int, float)):
            total[name] = sum(worker[name] for worker in workers)
    for name, everywhere in (("users", "users_everywhere"), ("connections_everywhere", "connections_everywhere")):
        total[name] = sum({worker["server"]: worker[everywhere] for worker in workers}.values())
    channels: dict[tuple[str, str], dict[str, Any]] = {}
    for worker in workers:
        for channel in worker["channels"]:
            known = channels.setdefault((channel.get("app", ""), channel["name"]), {**channel, "subscribers": 0})
            known["subscribers"] += channel["subscribers"]
    total["channels"] = list(channels.values())
    return total


def _table(total: dict[str, Any]) -> str:
    rows = [
        ("state", ", ".join(sorted({worker["state"] for worker in total["workers"]}))),
        ("listening", ", ".join(sorted({address for worker in total["workers"] for address in worker["listening"]}))),
        ("uptime", _duration(total["uptime"])),
        ("workers", ", ".join(f"{worker['pid']} ({worker['connections']} connections)" for worker in total["workers"])),
        ("connections", f"{total['connections']:,} of {total['max_connections']:,}"),
        *_fleet(total),
        ("users", f"{total['users']:,}"),
        ("messages in", f"{total['messages_in']:,}, {total['messages_in_per_second']:,.0f} a second"),
        ("messages out", f"{total['messages_out']:,}, {total['messages_out_per_second']:,.0f} a second"),
        ("memory", f"{total['memory'] / 2**20:,.1f} MiB"),
        ("slow consumers", f"{total['slow_consumers']:,}"),
        ("refused", f"{total['handshakes_refused']:,} handshakes, {total['rate_limited']:,} messages over the rate"),
        ("errors", f"{total['errors']:,}"),
    ]
    lines = [f"{name:<16}{value}" for name, value in rows]
    channels = sorted(total["channels"], key=lambda channel: -channel["subscribers"])
    lines += ["", f"{'channel':<48}{'type':<10}{'subscribers':>11}"]
    lines += [f"{channel['name']:<48}{channel['type']:<10}{channel['subscribers']:>11,}" for channel in channels[:20]]
    if len(channels) > 20:
        lines.append(f"… and {len(channels) - 20:,} more (--json shows all)")
    return "\n".join(lines)


def _fleet(total: dict[str, Any]) -> list[tuple[str, str]]:
    """What servers elsewhere have besides, whose users are counted in the row that follows."""
    if all(worker["driver"] == "memory" for worker in total["workers"]):
        return []
    return [("fleet", f"{total['connections_everywhere']:,} connections")]


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02}:{minutes:02}:{seconds:02}"
