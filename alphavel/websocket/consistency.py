"""Whether settings make sense together: what the declaration of a single one cannot say."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket.addresses import networks

if TYPE_CHECKING:
    from alphavel.websocket.settings import DashboardSettings, MetricsSettings, OptionsSettings, WebSocketSettings

_MIN_PASSWORD = 12


def check(settings: WebSocketSettings) -> None:
    """
    Check what is nobody else's to check.

    Raises:
        ConfigurationError: A path that no request can have, a heartbeat that closes before it pings, metrics that cannot be
            shown, a password that is too short.
    """
    paths = {"path": settings.path, "event_stream.path": settings.event_stream.path, "metrics.path": settings.metrics.path}
    for key, path in paths.items():
        if path is not None and not path.startswith("/"):
            raise ConfigurationError(f"a path begins with a slash; got {path!r}.", key=key)
    _check_heartbeat(settings.options)
    _check_metrics(settings.metrics)
    _check_dashboard(settings.dashboard)


def _check_heartbeat(options: OptionsSettings) -> None:
    if options.heartbeat_idle_time <= options.heartbeat_check_interval:
        raise ConfigurationError(
            f"expected more than the {options.heartbeat_check_interval:g} seconds of options.heartbeat_check_interval: clients "
            f"that only listen would be closed before they are pinged; got {options.heartbeat_idle_time:g}.",
            key="options.heartbeat_idle_time",
        )


def _check_metrics(settings: MetricsSettings) -> None:
    networks(settings.allowed_addresses, "metrics.allowed_addresses")
    if settings.enabled and importlib.util.find_spec("prometheus_client") is None:
        raise ConfigurationError('needs prometheus-client: pip install "alphavel[metrics]".', key="metrics.enabled")


def _check_dashboard(settings: DashboardSettings) -> None:
    if settings.password is not None and len(settings.password) < _MIN_PASSWORD:
        raise ConfigurationError(
            f"expected at least {_MIN_PASSWORD} characters. Make one with: openssl rand -base64 18", key="dashboard.password"
        )
