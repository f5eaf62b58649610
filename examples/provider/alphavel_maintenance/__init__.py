"""Closes a Flask application for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alphavel.foundation import facade

if TYPE_CHECKING:
    from alphavel_maintenance.maintenance import Maintenance as _Maintenance

__version__ = "0.1.0"

Maintenance: _Maintenance = facade("maintenance", hint="Install it with `pip install alphavel-maintenance`.")
