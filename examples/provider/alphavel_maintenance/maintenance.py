"""Whether an application is closed: a file says so, for all its processes at once."""

from __future__ import annotations

from pathlib import Path

from flask import Response

from alphavel_maintenance.settings import MaintenanceSettings


class Maintenance:
    """Opens and closes."""

    def __init__(self, settings: MaintenanceSettings) -> None:
        self._settings = settings
        self._file = Path(settings.file)

    @property
    def is_down(self) -> bool:
        """Whether the application is closed."""
        return self._file.exists()

    def down(self) -> None:
        """Close it."""
        self._file.touch()

    def up(self) -> None:
        """Open it again."""
        self._file.unlink(missing_ok=True)

    def answer(self) -> Response | None:
        """Return what every request gets while it is closed, None while it is open; a `before_request` of Flask."""
        if not self.is_down:
            return None
        headers = {"Retry-After": str(self._settings.retry_after)}
        return Response(self._settings.message, 503, headers, mimetype="text/plain")
