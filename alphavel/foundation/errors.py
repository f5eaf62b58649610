"""Errors of those who set up an application."""

from __future__ import annotations


class ConfigurationError(Exception):
    """
    The configuration is wrong. The text says where, what was expected, what came, and what to do.

    Attributes:
        file: The file it is in, None where it is in none.
        key: The dotted key, such as `options.max_connections`, None where it is about no single one.
    """

    def __init__(self, message: str, file: str | None = None, key: str | None = None) -> None:
        where = ": ".join(part for part in (file, key) if part)
        super().__init__(f"{where}: {message}" if where else message)
        self.file = file
        self.key = key

    def in_file(self, file: str) -> ConfigurationError:
        """Return this error with the file it is in, where it does not name one itself."""
        if self.file is not None:
            return self
        named = ConfigurationError(str(self), file)
        named.key = self.key
        return named
