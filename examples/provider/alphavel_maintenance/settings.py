"""What `config/maintenance.yaml` may say."""

from __future__ import annotations

from dataclasses import dataclass

from alphavel.foundation.schema import setting


@dataclass(frozen=True)
class MaintenanceSettings:
    """Settings of alphavel-maintenance."""

    file: str = setting("maintenance.flag", "The application is closed while this file is there.", env="MAINTENANCE_FILE")
    retry_after: int = setting(60, "When clients are told to come again.", unit="seconds", minimum=1)
    message: str = setting("Closed for maintenance. Please come back soon.", "What people read meanwhile.")
