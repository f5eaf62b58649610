"""Where log lines go, and what never stands in one."""

from __future__ import annotations

import logging
import logging.handlers
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alphavel.websocket.settings import LoggingSettings

_SECRETS = re.compile(
    r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"  # a JSON Web Token begins with the base64 of {"
    r"|(?<=bearer[ .])[A-Za-z0-9._~+/=-]+"
    r"|(?<=[?&;]token=)[^&;\s\"']+"
    r"|(?<=^token=)[^&;\s\"']+",
    re.IGNORECASE | re.MULTILINE,
)


def mask(text: str) -> str:
    """Return `text` with everything that looks like a token replaced by `***`."""
    return _SECRETS.sub("***", text)


class MaskingFormatter(logging.Formatter):
    """A formatter whose lines, tracebacks included, hold no token."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return mask(super().format(record))


def set_up(settings: LoggingSettings) -> None:
    """
    Send what `alphavel` loggers say where the settings want it, in place of where it went before.

    Raises:
        OSError: The file cannot be opened.
    """
    handler: logging.Handler = logging.StreamHandler()
    if settings.file is not None:
        handler = logging.handlers.WatchedFileHandler(settings.file)  # notices when logrotate has moved it
    handler.setFormatter(MaskingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("alphavel")
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(settings.level.upper())
    logger.propagate = False
