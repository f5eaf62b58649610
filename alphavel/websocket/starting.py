"""
What `alpha websocket:serve` does: one worker serves in this process; several are forked by this one, which then only watches
them. Imports nothing that gevent patches: that comes after the fork.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from alphavel.foundation.config import Config
from alphavel.foundation.errors import ConfigurationError
from alphavel.foundation.running import ControlError
from alphavel.websocket import handover, logs, notify
from alphavel.websocket.daemon import Daemon, PidFile, PidFileError
from alphavel.websocket.factory import serving
from alphavel.websocket.listening import ListenError, begin, inherited, listen_for_all, share
from alphavel.websocket.settings import TlsSettings, WebSocketSettings
from alphavel.websocket.workers import Place, Supervisor, WorkerFailedError, WorkersFolder

if TYPE_CHECKING:
    from alphavel.websocket.server import WebSocketServer

__all__ = ["EXPECTED", "Start", "WorkerFailedError", "run", "told"]

EXPECTED = (ControlError, ListenError, PidFileError)
"""Errors of ours whose text is all there is to say."""


@dataclasses.dataclass(frozen=True)
class Start:
    """
    What the command was told.

    Attributes:
        target: The application, see `loading`; None: Alphavel alone.
        options: `host`, `port`, `workers`, `tls_cert`, `tls_key`; None: as configured.
        background: Where the process is in the background.
        pid_path: Of the pid file.
    """

    target: str | None
    options: dict[str, Any]
    background: Daemon | None = None
    pid_path: str | None = None

    def read_settings(self) -> WebSocketSettings:
        """Read the configuration; what the command was told goes before. Raises ConfigurationError."""
        return _with_options(Config().settings("websocket", WebSocketSettings), self.options)

    def say(self, text: str) -> None:
        """Show what the server says of itself when it has started."""
        if self.background is not None:
            self.background.started(text)
        else:
            click.echo(text)

    @contextlib.contextmanager
    def pid_file(self) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
        """Hold the pid file, where there is to be one; yields what takes it again, and what gives it back before the end."""
        if self.pid_path is None:
            yield (lambda: None), (lambda: None)
            return
        file = PidFile(self.pid_path)
        file.write()
        try:
            yield file.write, file.remove
        finally:
            file.remove()


def run(start: Start) -> bool:
    """
    Serve until a signal ends it; return whether all clients and handlers could be waited for.

    Raises:
        ConfigurationError, ControlError, ListenError, PidFileError: It cannot start.
        WorkerFailedError: One of several workers cannot start.
    """
    with _told_to_predecessor():
        settings = start.read_settings()
        if settings.options.workers > 1 and handover.VARIABLE in os.environ:
            raise ConfigurationError(
                "is more than 1 now: one process cannot be taken over by several; restart the server.", key="options.workers"
            )
    return _serve(start) if settings.options.workers == 1 else _supervise(start, settings)


def told(error: Exception) -> str:
    """Return what a person is shown of an error: a line, of what nobody expected the traceback."""
    if isinstance(error, WorkerFailedError):
        return str(error)
    if isinstance(error, (*EXPECTED, ConfigurationError, click.ClickException)):
        return f"Error: {error}"
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()


@contextlib.contextmanager
def _told_to_predecessor() -> Iterator[None]:
    """Where this process is to take over and cannot, tell the one that goes on why."""
    try:
        yield
    except Exception as error:
        descriptor = os.environ.pop(handover.VARIABLE, None)
        if descriptor is not None:
            from alphavel.websocket.handover.pipe import Pipe

            pipe = Pipe.of_descriptor(int(descriptor))
            pipe.expect("listener")  # an end that is closed with something unread takes what it said with it
            pipe.send("failed", told(error))
        raise


def _serve(start: Start) -> bool:
    with _told_to_predecessor():
        server, application, warning = _load(start)
    if handover.VARIABLE in os.environ:
        return _go_on(start, server, application, warning)
    from alphavel.websocket.banner import banner
    from alphavel.websocket.serve import Service

    with start.pid_file() as (hold, release):
        listeners = inherited()
        if len(listeners) > 1:
            raise ListenError(f"{len(listeners)} sockets were handed over, and there is one worker. Hand over one.")
        service = Service(server, application, read_settings=start.read_settings, listener=next(iter(listeners), None))
        logs.set_up(server.settings.logging)
        service.start()
        return service.run(lambda: start.say(banner(service.server) + warning), hold, release)


def _go_on(start: Start, server: WebSocketServer, application: Callable[..., Any], warning: str) -> bool:
    """Serve where another process has served until now."""
    from alphavel.websocket.banner import banner
    from alphavel.websocket.handover.taking import Taking
    from alphavel.websocket.serve import Service

    taking = Taking.from_environment()
    try:
        service = Service(server, application, read_settings=start.read_settings, listener=taking.listener)
        logs.set_up(server.settings.logging)
    except Exception as error:
        taking.failed(told(error))
        raise
    taking.take(server)
    with start.pid_file() as (hold, release):
        service.start()
        taking.serving()
        return service.run(lambda: start.say(banner(service.server) + warning), hold, release)


def _supervise(start: Start, settings: WebSocketSettings) -> bool:
    def started(text: str, pids: list[int]) -> None:
        workers = f"{len(pids)} (processes {', '.join(map(str, pids))})"
        start.say(re.sub(r"(?m)^(  workers +).*$", lambda found: found[1] + workers, text))
        notify.ready()

    options = settings.options
    with start.pid_file():
        listeners = share(inherited(), options.workers)
        listeners = listeners or listen_for_all(settings.host, settings.port, options.backlog, options.workers)
        logs.set_up(settings.logging)
        folder = WorkersFolder(os.getpid())
        try:
            timeouts = (options.drain_timeout, options.worker_timeout)
            return Supervisor(lambda place: _work(start, place), listeners, folder.path, *timeouts, started).run()
        finally:
            folder.remove()
            for listener in listeners:
                listener.close()


def _work(start: Start, place: Place) -> int:
    """Be one of several workers, in a process of its own; return its exit code."""
    notify.leave()
    if start.background is not None:
        start.background.leave()
    try:
        server, application, warning = _load(start)
        from alphavel.websocket.banner import banner
        from alphavel.websocket.serve import Service

        logs.set_up(server.settings.logging)
        server.is_worker = True
        server.join(place.folder)
        begin(place.listener, server.settings.options.backlog)
        service = Service(server, application, listener=place.listener)
        service.http.shares_listener = place.shares_listener
        service.start()
    except Exception as error:  # noqa: BLE001 (the parent shows it)
        place.failed(told(error))
        return 1

    def ready() -> None:
        place.started(banner(service.server) + warning)
        if start.background is not None:
            start.background.detach()

    return 0 if service.run_as_worker(place.lifeline, place.pulse.beat, ready) else 1


def _load(start: Start) -> tuple[WebSocketServer, Callable[..., Any], str]:
    """Patch the process, make the server, import the application; return them, and lines of what is to be warned of."""
    # Everything that is imported from here on, the application first of all, gets gevent's cooperative sockets.
    from gevent import monkey

    monkey.patch_all()

    from alphavel.foundation import container
    from alphavel.foundation.providers import register_all
    from alphavel.websocket.files import raise_file_limit
    from alphavel.websocket.loading import load_application

    register_all(container())
    server = serving(container())
    settings = start.read_settings()
    with Config().naming("websocket"):
        server.configure(settings)
    application = load_application(start.target)
    warnings = [raise_file_limit(settings.options.max_connections)]
    if start.background is not None and settings.logging.file is None:
        warnings.append("In the background there is no standard error, so what is logged is lost. Set logging.file.")
    return server, application, "".join(f"\n  warning    {warning}" for warning in warnings if warning)


def _with_options(settings: WebSocketSettings, options: dict[str, Any]) -> WebSocketSettings:
    workers = options["workers"] or settings.options.workers
    given = {name: options[name] for name in ("host", "port") if options[name] is not None}
    if options["tls_cert"] is not None:
        given["tls"] = TlsSettings(options["tls_cert"], options["tls_key"])
    return dataclasses.replace(settings, options=dataclasses.replace(settings.options, workers=workers), **given)
