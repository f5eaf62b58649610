"""`alpha websocket:serve` and `alpha websocket:stats`. Imports nothing that gevent patches."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from alphavel.foundation.errors import ConfigurationError

if TYPE_CHECKING:
    from alphavel.websocket.daemon import Daemon, PidFile
    from alphavel.websocket.server import WebSocketServer
    from alphavel.websocket.settings import WebSocketSettings


@click.command("websocket:serve")
@click.option("--app", "target", metavar="MODULE:APP", help="The Flask application to serve along; also MODULE:factory().")
@click.option("--host", help="Address to listen on. Default: host in config/websocket.yaml, else 0.0.0.0.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on. Default: port in the file, else 9501.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes. Default: options.workers in the file, else 1.")
@click.option("--daemon", is_flag=True, help="Go to the background once it listens.")
@click.option("--pid-file", type=click.Path(dir_okay=False), help="File for the process id; --daemon: alphavel-websocket.pid.")
@click.option("--certfile", type=click.Path(exists=True, dir_okay=False), help="TLS certificate, to end TLS in this process.")
@click.option("--keyfile", type=click.Path(exists=True, dir_okay=False), help="Its key.")
def serve(
    target: str | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    daemon: bool,
    pid_file: str | None,
    certfile: str | None,
    keyfile: str | None,
) -> None:
    """Serve WebSockets, and a Flask application in the same process."""
    if (certfile is None) != (keyfile is None):
        raise click.UsageError("--certfile and --keyfile go together.")
    background = _go_to_the_background() if daemon else None
    # Everything that is imported from here on, the application first of all, gets gevent's cooperative sockets.
    from gevent import monkey

    monkey.patch_all()
    try:
        clean = _serve(
            target,
            {"host": host, "port": port, "workers": workers},
            (certfile, keyfile) if certfile and keyfile else None,
            background,
            pid_file or ("alphavel-websocket.pid" if daemon else None),
        )
    except Exception as error:
        if background is not None:
            background.failed(f"alpha: {error}")
        from alphavel.websocket.daemon import AlreadyRunningError
        from alphavel.websocket.serve import ListenError

        if isinstance(error, (AlreadyRunningError, ListenError)):
            raise click.ClickException(str(error)) from error
        raise
    sys.exit(0 if clean else 1)


def _go_to_the_background() -> Daemon:
    from alphavel.websocket.daemon import Daemon

    background = Daemon()
    background.fork()
    return background


def _serve(
    target: str | None, options: dict[str, Any], tls: tuple[str, str] | None, background: Daemon | None, pid_path: str | None
) -> bool:
    from alphavel.foundation import container
    from alphavel.foundation.config import Config
    from alphavel.foundation.providers import register_all
    from alphavel.websocket import logs
    from alphavel.websocket.daemon import PidFile
    from alphavel.websocket.loading import load_application
    from alphavel.websocket.serve import Service, banner, raise_file_limit
    from alphavel.websocket.settings import WebSocketSettings

    def read_settings() -> WebSocketSettings:
        return _with_options(Config().settings("websocket", WebSocketSettings), options)

    register_all(container())
    server: WebSocketServer = container().make("websocket")
    settings = read_settings()
    server.configure(settings)
    application = load_application(target)
    warning = raise_file_limit(settings.options.max_connections)
    pid_file: PidFile | None = PidFile(pid_path) if pid_path else None
    if pid_file is not None:
        pid_file.write()
    try:
        service = Service(server, application, tls, read_settings=read_settings)
        logs.set_up(settings.logging)
        service.start()
        text = banner(service, settings.options.workers) + (f"\n  warning    {warning}" if warning else "")
        if background is not None:
            background.started(text)
        else:
            click.echo(text)
        return service.run()
    finally:
        if pid_file is not None:
            pid_file.remove()


def _with_options(settings: WebSocketSettings, options: dict[str, Any]) -> WebSocketSettings:
    workers = options["workers"] or settings.options.workers
    if workers > 1:
        raise ConfigurationError(
            f"{workers} workers cannot reach each other's clients with broadcasting.driver {settings.broadcasting.driver!r}: "
            "a push would reach those of one worker only. Run one worker."
        )
    given = {name: options[name] for name in ("host", "port") if options[name] is not None}
    return dataclasses.replace(settings, options=dataclasses.replace(settings.options, workers=workers), **given)


@click.command("websocket:stats")
@click.option("--watch", is_flag=True, help="Show again every second, until Ctrl+C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for programs to read.")
def stats(watch: bool, as_json: bool) -> None:
    """Show what a running server is doing."""
    from alphavel.foundation.control import ControlError, ask_all

    while True:
        try:
            workers = ask_all("websocket", "stats")
        except ControlError as error:
            raise click.ClickException(str(error)) from error
        if not workers:
            raise click.ClickException("No running WebSocket server of this user was found. Start one: alpha websocket:serve")
        if watch and not as_json:
            click.clear()
        click.echo(json.dumps(_total(workers)) if as_json else _table(_total(workers)))
        if not watch:
            return
        time.sleep(1.0)


def _total(workers: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum what can be summed over the workers, and keep each worker's own figures."""
    total: dict[str, Any] = {"uptime": max(worker["uptime"] for worker in workers), "workers": workers}
    for name, value in workers[0].items():
        if name not in ("pid", "uptime") and isinstance(value, (int, float)):
            total[name] = sum(worker[name] for worker in workers)
    channels: dict[str, dict[str, Any]] = {}
    for worker in workers:
        for channel in worker["channels"]:
            known = channels.setdefault(channel["name"], {**channel, "subscribers": 0})
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


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02}:{minutes:02}:{seconds:02}"
