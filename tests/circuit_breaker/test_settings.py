"""Configuration: checked when a manager is made, and how services get theirs."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback

import pytest

from alphavel.circuit_breaker import CircuitBreaker, CircuitBreakerManager, CircuitBreakerSettings, State
from alphavel.foundation import ConfigurationError, container
from alphavel.foundation.example import example_file
from alphavel.foundation.providers import discover
from tests.support import ROOT


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"treshold": {}}, "treshold: there is no such setting"),
        (
            {"thresholds": {"failure_treshold": 3}},
            "thresholds.failure_treshold: there is no such setting. Did you mean `fail",
        ),
        ({"thresholds": {"failure_threshold": 0}}, "thresholds.failure_threshold: expected at least 1; got 0"),
        ({"thresholds": {"success_threshold": 101}}, "expected at least 0 and at most 100; got 101"),
        ({"services": {"api": {"timeout": "soon"}}}, "services.api.timeout: expected a number of seconds"),
        ({"services": {"api": {"half_open_requests": 2.5}}}, "services.api.half_open_requests: expected a whole number"),
        ({"services": {"api": {"slow_call_rate": 50}}}, "services.api.slow_call_rate: a rate of slow calls needs to know"),
        ({"thresholds": {"ramp": [50, 10]}}, "thresholds.ramp: expected growing percentages between 1 and 99"),
        ({"thresholds": {"ramp": ["half"]}}, "thresholds.ramp: expected a list of whole numbers"),
        ({"default": "file"}, "default: expected one of memory, shared, redis; got 'file'"),
        ({"metrics": {"buckets": [1, 0.5]}}, "metrics.buckets: expected growing numbers of seconds"),
        ({"metrics": {"buckets": []}}, "metrics.buckets: expected growing numbers of seconds"),
        (
            {"thresholds": {"recovery_timeout": 900, "recovery_backoff": 2}},
            "thresholds.recovery_timeout_max: expected at least recovery_timeout, 900 seconds",
        ),
        (
            {"default": "redis", "stores": {"redis": {"url": "http://127.0.0.1"}}},
            "stores.redis.url: expected redis://HOST:PORT/DATABASE",
        ),
        ({"fallbacks": {"default": "panic"}}, "fallbacks.default: expected one of exception, cache, default_value"),
    ],
)
def test_wrong_configuration_stops_at_start_with_the_key_and_what_was_expected(config, says):
    with pytest.raises(ConfigurationError) as caught:
        CircuitBreakerManager(config)
    assert says in str(caught.value)


def test_service_gets_its_own_settings_before_those_of_a_pattern_before_the_defaults():
    manager = CircuitBreakerManager(
        {
            "thresholds": {"failure_threshold": 7, "recovery_timeout": "2 min"},
            "services": {"payments-*": {"failure_threshold": 2}, "payments-eu": {"timeout": 5}},
        }
    )
    rules = {name: manager.service(name).rules for name in ("payments-eu", "payments-us", "payments-uk", "mail")}
    assert [(r.failure_threshold, r.timeout, r.recovery_timeout) for r in rules.values()] == [
        (7, 5.0, 120.0), (2, 60.0, 120.0), (2, 60.0, 120.0), (7, 60.0, 120.0)
    ]  # fmt: skip
    assert rules["payments-us"] is rules["payments-uk"]


def test_what_a_package_suggests_for_its_service_goes_before_the_defaults_and_after_the_configuration():
    config = {"thresholds": {"failure_threshold": 9, "timeout": 7}, "services": {"mine": {"failure_threshold": 4}, "our-*": {}}}
    manager = CircuitBreakerManager(config)
    for service in ("theirs", "mine", "our-own", "used"):
        if service == "used":
            manager.call(service, int)
        manager.suggest(service, {"failure_threshold": 2, "recovery_timeout": 1.0})
        manager.suggest(service, {"failure_threshold": 1})
    rules = {service: manager.service(service).rules for service in ("theirs", "mine", "our-own", "used", "another")}
    found = {service: (rule.failure_threshold, rule.timeout, rule.recovery_timeout) for service, rule in rules.items()}
    assert found == {
        "theirs": (2, 7, 1.0), "mine": (4, 7, 30.0), "our-own": (9, 7, 30.0), "used": (9, 7, 30.0), "another": (9, 7, 30.0)
    }  # fmt: skip
    with pytest.raises(TypeError):
        manager.suggest("wrong", {"treshold": 1})


def test_names_past_the_bound_share_one_circuit(caplog):
    manager = CircuitBreakerManager({"max_services": 2, "services": {"known": {}}, "thresholds": {"failure_threshold": 1}})
    for name in ("a", "b", "c", "d", "known"):
        manager.call(name, lambda: 1)
    assert sorted(manager.get_all_stats()) == ["(others)", "a", "b", "known"]
    assert manager.get_stats("(others)")["total_successes"] == 2
    assert caplog.text.count("raise max_services") == 1
    manager.isolate("c")
    assert (manager.get_state("a"), manager.get_state("(others)")) == (State.CLOSED, State.ISOLATED)


@pytest.mark.parametrize("name", ["", None, 5])
def test_name_that_is_no_text_is_refused(name):
    with pytest.raises(TypeError, match="a text that is not empty"):
        CircuitBreakerManager().call(name, lambda: 1)


@pytest.mark.parametrize(("name", "says"), [("a" * 301, "has 301"), ("\ud800", "UTF-8")])
def test_name_that_could_fill_memory_or_cannot_be_written_down_is_refused(name, says):
    manager = CircuitBreakerManager()
    for use in (lambda: manager.call(name, lambda: 1), lambda: manager.protect(name), lambda: manager.guard(name)):
        with pytest.raises(ValueError, match=says):
            use()
    assert manager.names() == []
    assert manager.call("a" * 300, lambda: "fine") == "fine"


def test_asking_for_a_service_nobody_called_makes_none():
    manager = CircuitBreakerManager()
    assert manager.get_state("api") is State.CLOSED
    assert manager.get_stats("api")["total_requests"] == 0
    assert "is closed" in manager.explain("api")
    assert manager.get_all_stats() == {}


def test_published_file_says_what_the_code_says():
    for file in ("config/circuit_breaker.yaml", "alphavel/circuit_breaker/config/circuit_breaker.yaml"):
        assert (ROOT / file).read_text() == example_file(CircuitBreakerSettings), (
            f"python -m alphavel.foundation.example … > {file}"
        )


def test_facade_is_the_manager_of_the_configuration(tmp_path, monkeypatch):
    (tmp_path / "circuit_breaker.yaml").write_text("services: {api: {failure_threshold: 1}}\n")
    monkeypatch.setenv("ALPHAVEL_CONFIG", str(tmp_path))
    container().forget("circuit_breaker")
    with pytest.raises(ZeroDivisionError):
        CircuitBreaker.call("api", lambda: 1 / 0)
    assert CircuitBreaker.get_state("api") is State.OPEN
    container().forget("circuit_breaker")
    (tmp_path / "circuit_breaker.yaml").write_text("services: {api: {ramp: [0], failure_threshold: 1}}\n")
    with pytest.raises(ConfigurationError, match=r"circuit_breaker.yaml: services.api.ramp"):
        CircuitBreaker.get_state("api")
    # What a parser says of a URL may quote a part of the password.
    (tmp_path / "circuit_breaker.yaml").write_text("default: redis\nstores: {redis: {url: 'redis://:hunter2/x@127.0.0.1/0'}}\n")
    with pytest.raises(ConfigurationError, match=r"circuit_breaker.yaml: stores.redis.url: expected") as caught:
        CircuitBreaker.get_state("api")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    container().forget("circuit_breaker")


def test_provider_publishes_the_configuration():
    (provider,) = [found for found in discover() if found.name == "circuit-breaker"]
    ((source, target),) = provider.publishes()["circuit-breaker-config"]
    assert source.exists()
    assert target == "config/circuit_breaker.yaml"


def test_package_loads_neither_gevent_nor_flask_nor_redis():
    program = (
        "import sys; from alphavel.circuit_breaker import CircuitBreakerManager as M; M().call('a', lambda: 1)\n"
        "print([name for name in ('gevent', 'flask', 'redis', 'alphavel.websocket') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_importing_leaves_logging_to_the_application():
    assert logging.getLogger("alphavel.circuit_breaker").handlers == []
