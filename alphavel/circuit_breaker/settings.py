"""
What `config/circuit_breaker.yaml` may say, with its defaults: the one place where a setting is declared.

0 switches a threshold off where its text says so; `None` for a service means: as in `thresholds`. Times are seconds
(`"30s"`, `"5 min"`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from alphavel.foundation import ConfigurationError
from alphavel.foundation.schema import load_settings, setting

_FALLBACKS = ("exception", "cache", "default_value")


@dataclass(frozen=True)
class ThresholdSettings:
    """When a circuit opens and how it closes again."""

    failure_threshold: int = setting(5, "Failures within `timeout` that open the circuit.", minimum=1)
    success_threshold: float = setting(80.0, "Trials that must succeed to close it, in percent.", minimum=0, maximum=100)
    timeout: float = setting(60.0, "Window in which failures count.", unit="seconds", minimum=0.001)
    recovery_timeout: float = setting(30.0, "Time it stays open before trials.", unit="seconds", minimum=0)
    half_open_requests: int = setting(3, "Trial calls that decide whether it closes.", minimum=1, maximum=10_000)
    trial_timeout: float = setting(
        60.0, "A trial that has not come back for so long gives its permit up.", unit="seconds", minimum=0.001
    )
    recovery_backoff: float = setting(
        1.0, "Each time it opens again without having closed, it stays open so many times longer.", minimum=1
    )
    recovery_timeout_max: float = setting(600.0, "Where that ends.", unit="seconds", minimum=0)
    recovery_jitter: float = setting(
        0.0, "A random part, up to this share of the time, is added: a fleet does not probe in step.", minimum=0, maximum=1
    )
    failure_rate: float = setting(
        0.0, "Failed calls within `timeout`, in percent, that open it too. 0: not looked at.", minimum=0, maximum=100
    )
    slow_call_duration: float = setting(0.0, "A call that takes longer is slow. 0: none is.", unit="seconds", minimum=0)
    slow_call_rate: float = setting(
        0.0, "Slow calls within `timeout`, in percent, that open it too. 0: not looked at.", minimum=0, maximum=100
    )
    minimum_calls: int = setting(20, "Calls within `timeout` before a rate means anything.", minimum=1)
    ramp: tuple[int, ...] = setting(
        (), "Percentages of calls let through, one after the other, before it closes: [10, 25, 50]. None: all at once."
    )
    ramp_step: float = setting(10.0, "How long each of them lasts.", unit="seconds", minimum=0.001)
    call_timeout: float = setting(
        0.0, "Time a call may take, under gevent or asyncio; elsewhere it is an error. 0: any.", unit="seconds", minimum=0
    )
    mode: str = setting(
        "active",
        "metrics_only refuses nobody and reports what it would have done; disabled lets all through.",
        choices=("active", "metrics_only", "disabled"),
    )
    fallback_on: str = setting(
        "open", "When a fallback runs: where the call is refused, or also where it fails.", choices=("open", "failure")
    )


if TYPE_CHECKING:

    class ServiceSettings(ThresholdSettings):
        """One service's own thresholds."""
else:
    ServiceSettings = dataclasses.make_dataclass(
        "ServiceSettings",
        [
            (known.name, f"{known.type} | None", field(default=None, metadata=known.metadata))
            for known in dataclasses.fields(ThresholdSettings)
        ],
        frozen=True,
        namespace={"__doc__": "One service's own thresholds; None: as in `thresholds`.", "__module__": __name__},
    )
    ServiceSettings.__module__ = __name__


@dataclass(frozen=True)
class SharedSettings:
    """A file that all processes of one machine map into their memory."""

    path: str | None = setting(None, "The file. None: circuits of this user in /dev/shm.", env="ALPHAVEL_CIRCUIT_BREAKER_FILE")
    max_services: int = setting(256, "Services it has room for.", minimum=1, maximum=100_000)
    max_workers: int = setting(64, "Processes it has room for.", minimum=1, maximum=4096)


@dataclass(frozen=True)
class RedisSettings:
    """A Redis server that a fleet shares."""

    url: str = setting("redis://127.0.0.1:6379/0", "The server.", env="ALPHAVEL_REDIS_URL", secret=True)
    prefix: str = setting("alphavel:circuit:", "What the names of all keys begin with.")
    timeout: float = setting(0.25, "Time one operation may take.", unit="seconds", minimum=0.001)
    retry: float = setting(1.0, "Time to go on alone before Redis is tried again.", unit="seconds", minimum=0)
    expire: float = setting(86_400.0, "Keys nobody has touched for so long go away.", unit="seconds", minimum=1)


@dataclass(frozen=True)
class StoresSettings:
    """Where circuits are kept."""

    shared: SharedSettings = setting(SharedSettings, "For `default: shared`.")
    redis: RedisSettings = setting(RedisSettings, "For `default: redis`.")


@dataclass(frozen=True)
class CacheSettings:
    """The last good results, for the fallback `cache`."""

    ttl: float = setting(300.0, "How old a result may be.", unit="seconds", minimum=0)
    max_entries: int = setting(1000, "Results kept for one service; the oldest make room.", minimum=1)


@dataclass(frozen=True)
class FallbackSettings:
    """What a caller gets where a call is refused and it named no fallback."""

    default: str = setting("exception", "What everybody gets.", choices=_FALLBACKS)
    default_value: Any = setting(None, "For `default: default_value`.")
    cache: CacheSettings = setting(CacheSettings, "For `default: cache`.")


@dataclass(frozen=True)
class HealthSettings:
    """`/health/circuits` of the Flask blueprint."""

    critical: tuple[str, ...] = setting(
        (), "Services, or patterns of their names, without which the application is not well: it answers 503 while one is open."
    )


@dataclass(frozen=True)
class ControlSettings:
    """How `alpha circuit-breaker:…` reaches circuits in memory."""

    enabled: bool = setting(
        True, "Answer these commands through a socket of this process that only its user can open. Of the memory store only."
    )


@dataclass(frozen=True)
class MetricsSettings:
    """Prometheus."""

    enabled: bool = setting(True, "Whether `instrument()` does anything.")
    buckets: tuple[float, ...] = setting(
        (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0), "Upper bounds of the latency histogram, in seconds."
    )


@dataclass(frozen=True)
class TracingSettings:
    """OpenTelemetry."""

    enabled: bool = setting(False, "A span for each guarded call; needs OpenTelemetry's API.")


@dataclass(frozen=True)
class CircuitBreakerSettings:
    """Settings of Alphavel's circuit breaker."""

    default: str = setting(
        "memory",
        "Where circuits are kept: memory (this process), shared (this machine), redis (a fleet).",
        choices=("memory", "shared", "redis"),
        env="ALPHAVEL_CIRCUIT_BREAKER_STORE",
    )
    thresholds: ThresholdSettings = setting(ThresholdSettings, "Of services that say nothing else.")
    services: dict[str, ServiceSettings] = setting(
        dict, "By name or pattern, such as `payments-*`: {failure_threshold: 3, …}. A name goes before patterns."
    )
    max_services: int = setting(
        100_000, "Services kept apart; further names share one circuit, so that names cannot fill memory.", minimum=1
    )
    stores: StoresSettings = setting(StoresSettings, "The stores.")
    fallbacks: FallbackSettings = setting(FallbackSettings, "Fallbacks.")
    health: HealthSettings = setting(HealthSettings, "Health.")
    metrics: MetricsSettings = setting(MetricsSettings, "Metrics for Prometheus.")
    tracing: TracingSettings = setting(TracingSettings, "Spans for OpenTelemetry.")
    control: ControlSettings = setting(ControlSettings, "Commands.")

    @property
    def largest_threshold(self) -> int:
        """The largest failure threshold of all services."""
        own = [service.failure_threshold or 0 for service in self.services.values()]
        return max(self.thresholds.failure_threshold, *own, 0)

    def pattern(self, service: str) -> str | None:
        """Return under which key of `services` a service falls: its name, else the first pattern that matches; None: none."""
        if service in self.services:
            return service
        return next((pattern for pattern in self.services if fnmatchcase(service, pattern)), None)

    def rules(self, pattern: str | None) -> ThresholdSettings:
        """Return the settings of the services that fall under a key of `services`; None: the defaults."""
        return self.thresholds if pattern is None else _merged(self.thresholds, self.services[pattern])


def _merged(base: ThresholdSettings, own: ServiceSettings) -> ThresholdSettings:
    given = {known.name: getattr(own, known.name) for known in dataclasses.fields(own)}
    return dataclasses.replace(base, **{name: value for name, value in given.items() if value is not None})


def load(config: CircuitBreakerSettings | Mapping[str, Any] | None = None, source: str = "") -> CircuitBreakerSettings:
    """
    Return checked settings.

    Args:
        config: Settings, or a mapping like the file's, or None for the defaults.
        source: Where they are from, for errors.

    Raises:
        ConfigurationError: An unknown key, a wrong type, a value out of bounds, or settings that contradict each other.
    """
    if not isinstance(config, CircuitBreakerSettings):
        config = load_settings(CircuitBreakerSettings, config or {}, source)
    _check(config.thresholds, source, "thresholds")
    for service, own in config.services.items():
        _check(_merged(config.thresholds, own), source, f"services.{service}")
    buckets = config.metrics.buckets
    if not buckets or list(buckets) != sorted(set(buckets)):
        text = f"expected growing numbers of seconds, such as [0.1, 0.5, 1]; got {list(buckets)}."
        raise ConfigurationError(text, source or None, "metrics.buckets")
    return config


def _check(rules: ThresholdSettings, source: str, where: str) -> None:
    file = source or None
    if rules.slow_call_rate and not rules.slow_call_duration:
        raise ConfigurationError(
            "a rate of slow calls needs to know which are slow. Set slow_call_duration too.", file, f"{where}.slow_call_rate"
        )
    if rules.recovery_backoff > 1 and rules.recovery_timeout_max < rules.recovery_timeout:
        raise ConfigurationError(
            f"expected at least recovery_timeout, {rules.recovery_timeout:g} seconds, which recovery_backoff makes longer; got "
            f"{rules.recovery_timeout_max:g}.",
            file,
            f"{where}.recovery_timeout_max",
        )
    steps = rules.ramp
    if list(steps) != sorted(set(steps)) or not all(0 < step < 100 for step in steps):
        raise ConfigurationError(
            f"expected growing percentages between 1 and 99, such as [10, 25, 50]; got {list(steps)}.", file, f"{where}.ramp"
        )
