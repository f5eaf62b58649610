"""`alpha websocket:bench`. Imports nothing that gevent patches before the command runs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from alphavel.websocket.factory import check_installed

if TYPE_CHECKING:
    from alphavel.websocket.bench.load import Load, Progress, Result

_BUSY = 0.85  # of a processor core: past it, it is this program that is slow


@click.command("websocket:bench")
@click.argument("url")
@click.option("--connections", type=click.IntRange(min=1), default=100, show_default=True, help="How many clients.")
@click.option(
    "--ramp", type=click.FloatRange(min=1), default=500.0, show_default=True, help="New connections a second, at most."
)
@click.option(
    "--rate", type=click.FloatRange(min=0.1), default=100.0, show_default=True, help="Messages a second, of all clients."
)
@click.option("--seconds", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="How long.")
@click.option(
    "--publish", is_flag=True, help="Push events through the HTTP API, as the app of config/websocket.yaml, to all clients."
)
@click.option("--app", "app_id", help="Id of that app. Default: the first.")
@click.option("--channel", default="alphavel-bench", show_default=True, help="Where to; a public channel.")
@click.option("--size", type=click.IntRange(0, 1_000_000), default=64, show_default=True, help="Characters of an event's data.")
@click.option("--token", envvar="ALPHAVEL_BENCH_TOKEN", help="JSON Web Token of the clients; better in ALPHAVEL_BENCH_TOKEN.")
@click.option("--source", multiple=True, metavar="ADDRESS", help="Addresses of this machine to connect from, in turn.")
@click.option("--insecure", is_flag=True, help="Do not check the server's certificate.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for programs to read.")
def bench(
    url: str,
    connections: int,
    ramp: float,
    rate: float,
    seconds: float,
    publish: bool,
    app_id: str | None,
    channel: str,
    size: int,
    token: str | None,
    source: tuple[str, ...],
    insecure: bool,
    as_json: bool,
) -> None:
    """
    Load-test a running server at URL, such as ws://127.0.0.1:9501/ or wss://example.com/app/KEY.

    Without --publish clients send the protocol's ping and wait for the answer; with it they listen to a channel. Where
    the first connection cannot be made, no other is tried. Exit code 1 where not all connections held or not all messages came.
    """
    check_installed()
    from gevent import monkey

    monkey.patch_all()
    from alphavel.websocket.bench.client import BenchError, Target
    from alphavel.websocket.bench.load import Load
    from alphavel.websocket.files import raise_file_limit

    try:
        target = Target.of(url, token, not insecure)
        push = _pusher(url, app_id, channel, target.timeout) if publish else None
        warning = raise_file_limit(connections)
        if warning and not as_json:
            click.echo(f"warning: {warning}", err=True)
        load = Load(target, source)
        with _bar(connections, "connecting", as_json) as progress:
            load.connect(connections, ramp, progress)
        if load.result.connected:
            with contextlib.suppress(KeyboardInterrupt):  # what has been measured until now is shown
                _send(load, push, channel, (size, rate, seconds), as_json)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    result = load.finish()
    if not result.connected and not as_json:
        raise click.ClickException(f"No connection could be made: {next(iter(result.reasons))}")
    click.echo(json.dumps({"url": url, **result.as_dict()}) if as_json else _summary(url, result, publish))
    whole = result.connected == connections and not result.lost and result.received == result.expected
    sys.exit(0 if whole and result.expected else 1)


def _send(load: Load, push: Any, channel: str, how: tuple[int, float, float], as_json: bool) -> None:
    size, rate, seconds = how
    if push is not None:
        load.subscribe(channel, timeout=30.0)
    with _bar(int(seconds * 10), "publishing" if push else "sending", as_json) as progress:
        if push is not None:
            load.pushes(push, size, rate, seconds, progress)
        else:
            load.pings(rate, seconds, progress)


def _pusher(url: str, app_id: str | None, channel: str, timeout: float) -> Any:
    from urllib.parse import urlsplit

    from alphavel.foundation.config import Config
    from alphavel.websocket.bench.client import BenchError
    from alphavel.websocket.protocols import Message
    from alphavel.websocket.senders.http import HttpCarrier
    from alphavel.websocket.settings import HttpSettings, WebSocketSettings

    apps = Config().settings("websocket", WebSocketSettings).apps
    app = next((app for app in apps if app_id in (None, str(app.id))), None)
    if app is None:
        raise BenchError("--publish signs as an app of config/websocket.yaml, and there is no such app in it.")
    split = urlsplit(url)
    carrier = HttpCarrier(HttpSettings(url=f"{'https' if split.scheme == 'wss' else 'http'}://{split.netloc}", timeout=timeout))
    return lambda event, data: carrier.publish(app, Message({"event": event, "data": data}), (channel,), (), False, frozenset())


@contextlib.contextmanager
def _bar(length: int, label: str, quiet: bool) -> Iterator[Progress]:
    if quiet:
        yield lambda steps: None
        return
    with click.progressbar(length=max(1, length), label=f"{label:<11}", file=sys.stderr) as bar:
        yield bar.update


def _summary(url: str, result: Result, publish: bool) -> str:
    connections = f"{result.connected:,} in {result.connecting:.1f} s"
    connections += f", {result.failed:,} failed" if result.failed else ""
    connections += f", {result.lost:,} lost" if result.lost else ""
    rows = [("url", url), ("connections", connections)]
    if result.lasted:
        what = "pushes" if publish else "pings"
        rate = result.received / result.lasted
        rows += [
            (what, f"{result.sent:,} in {result.lasted:.1f} s" + (f", {result.skipped:,} left out" if result.skipped else "")),
            ("received", f"{result.received:,} of {result.expected:,}, {rate:,.0f} a second"),
        ]
    rows += [(f"latency {name}", f"{seconds * 1000:,.2f} ms") for name, seconds in result.percentiles().items()]
    rows += [("trouble", f"{count:,} times: {reason}") for reason, count in result.reasons.most_common(5)]
    if result.client_load > _BUSY:
        rows.append(("note", f"This program took {result.client_load:.0%} of a processor core: it may be what was slow."))
    return "\n".join(f"{name:<16}{value}" for name, value in rows)
