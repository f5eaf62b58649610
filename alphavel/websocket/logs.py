"""
Log lines: where they go, in which form, and what never stands in one.

Whatever strangers send, a line is one line, holds no token, and comes at most so often: an attack must neither fill a disk nor
write lines that look like ours. Imports nothing that gevent patches.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import re
import sys
import time
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

from alphavel.foundation.errors import ConfigurationError

if TYPE_CHECKING:
    from types import FrameType

    from alphavel.websocket.connections import Connection
    from alphavel.websocket.settings import LoggingSettings

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

ACCESS = "alphavel.http.access"
"""The logger of the access log: as many lines as there are requests, which somebody asked for."""

BURST = 10
WINDOW_S = 10.0

_SECRETS = re.compile(
    r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"  # a JSON Web Token begins with the base64 of {"
    r"|(?<=bearer[ .])[A-Za-z0-9._~+/=-]+"
    # Query parameters by their names, whatever stands in them: token=, access_token=, auth_signature= (good for ten minutes).
    r"|(?:(?<=token=)|(?<=jwt=)|(?<=secret=)|(?<=signature=))[^&;\s\"']+",
    re.IGNORECASE | re.MULTILINE,
)
# Line ends, whatever moves a terminal's cursor, and what turns the direction of text round.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SAID = re.compile("suppressed$|circuit_")  # fields of lines whose message says them already
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def mask(text: str) -> str:
    """Return `text` with everything that looks like a token replaced by `***`."""
    return _SECRETS.sub("***", text)


def one_line(text: str) -> str:
    """Return `text` without tokens, and with escapes in place of whatever would end the line or hide it."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), mask(text))


class TextFormatter(logging.Formatter):
    """
    Lines for people: `2026-11-25T04:00:00.123Z WARNING alphavel.websocket: … connection=123.456`.

    A traceback follows on lines of its own that begin with ` |`, so that nothing in it can pass for a line of ours.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        shown = {name: value for name, value in fields(record).items() if not _SAID.match(name)}
        pairs = "".join(f" {name}={one_line(_shown(value))}" for name, value in shown.items())
        line = f"{_time(record)}Z {record.levelname} {record.name}: {one_line(record.getMessage())}{pairs}"
        if record.exc_info:
            traceback = self.formatException(record.exc_info).splitlines()
            line = "\n".join([line, *(f" | {one_line(text)}" for text in traceback)])
        return line


class JsonFormatter(logging.Formatter):
    """Lines for programs: one JSON object each, with `time`, `level`, `logger`, `message`, `pid` and what else is known."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        entry: dict[str, Any] = {
            "time": f"{_time(record)}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": mask(record.getMessage()),
            "pid": record.process,
        }
        for name, value in fields(record).items():
            entry[name] = value if isinstance(value, (bool, int, float, type(None))) else mask(str(value))
        if record.exc_info:
            entry["exception"] = mask(self.formatException(record.exc_info))
        return json.dumps(entry)  # ASCII: whatever is in it, nothing in it ends the line


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was given as `extra`, and the connection whose handler wrote the line."""
    found = {name: value for name, value in vars(record).items() if name not in _STANDARD and value is not None}
    if "connection" not in found:
        socket_id = handled_connection()
        if socket_id is not None:
            found["connection"] = socket_id
    return found


# Whose handler is running: found where a line is written, so that messages need not carry anything along.

_serving: set[Any] = set()  # their code


def serves_connection(function: FunctionT) -> FunctionT:
    """Mark a function that runs handlers of the connection in its variable `connection`."""
    assert isinstance(function, FunctionType)
    _serving.add(function.__code__)
    return function


def about(connection: Connection) -> dict[str, Any]:
    """Return what a line about a connection says of it, as `extra`."""
    user = None if connection.user is None else connection.user.id
    return {"connection": connection.socket_id, "user": user, "address": connection.remote_addr or None}


def handled_connection() -> str | None:
    """Return the socket id of the connection whose handler is running in this greenlet, None where none is."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in _serving:
            return str(frame.f_locals["connection"].socket_id)
        frame = frame.f_back
    return None


class ConnectionFilter(logging.Filter):
    """Gives the records of the application's own logging `%(connection)s`: `handler.addFilter(ConnectionFilter())`."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attribute; every record passes."""
        if not hasattr(record, "connection"):
            record.connection = handled_connection() or "-"
        return True


# How often


class Limiter(logging.Filter):
    """
    Lets `BURST` lines of a kind pass in `WINDOW_S` seconds; the first one after that says how many were left out.

    A kind is a logger and a text, before what strangers sent is put into it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[tuple[str, str], list[float]] = {}  # when it began, how many came

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may be written."""
        return self._passes(record)

    def is_full(self, name: str, text: str) -> bool:
        """Whether a line of this kind would be left out now; it counts as left out then."""
        window = self._windows.get((name, text))
        if window is None or window[1] < BURST or self._clock() - window[0] >= WINDOW_S:
            return False
        window[1] += 1
        return True

    def forget(self) -> None:
        """Begin anew."""
        self._windows.clear()

    def _passes(self, record: logging.LogRecord) -> bool:
        now, kind = self._clock(), (record.name, str(record.msg))
        window = self._windows.setdefault(kind, [now, 0])
        left_out = 0
        if now - window[0] >= WINDOW_S:
            left_out, window[:] = max(0, int(window[1]) - BURST), [now, 0]
        window[1] += 1
        if window[1] > BURST:
            return False
        if left_out:
            record.suppressed = left_out
            record.msg = f"{record.getMessage()} ({left_out:,} more like this one were suppressed)"
            record.args = ()
        return True


limiter = Limiter()
"""That of this process."""


def get_logger(name: str) -> logging.Logger:
    """Return a logger of ours: whatever handlers an application has, its lines are limited."""
    logger = logging.getLogger(name)
    if limiter not in logger.filters:
        logger.addFilter(limiter)
    return logger


def check(settings: LoggingSettings) -> None:
    """
    Check that `set_up` can do what the settings want.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    if settings.file is not None:
        try:
            open(settings.file, "a").close()
        except OSError as error:
            raise ConfigurationError(f"{settings.file} cannot be written: {error.strerror}.", key="logging.file") from error


def set_up(settings: LoggingSettings) -> None:
    """
    Send what `alphavel` loggers say where the settings want it, in place of where it went before.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    check(settings)
    handler: logging.Handler = logging.StreamHandler()
    if settings.file is not None:
        handler = logging.handlers.WatchedFileHandler(settings.file)  # notices when logrotate has moved it
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    logger = logging.getLogger("alphavel")
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(settings.level.upper())
    logger.propagate = False


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}"


def _shown(value: Any) -> str:
    if isinstance(value, str) and value and not re.search(r'[\s"=]', value):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
