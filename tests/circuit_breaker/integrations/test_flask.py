"""The Flask blueprint: what a load balancer and a customer see."""

from __future__ import annotations

import pytest
from flask import Flask

from alphavel.circuit_breaker import CircuitBreaker, CircuitBreakerManager, blueprint
from alphavel.foundation import Alphavel, container


def broken():
    raise OSError("http://user:secret@10.0.0.7 is away")


@pytest.fixture
def app(clock):
    manager = CircuitBreakerManager(
        {
            "thresholds": {"failure_threshold": 1},
            "health": {"critical": ["payment-api", "db-*"]},
            "services": {"db-main": {"half_open_requests": 1}},
        },
        clock=clock,
    )
    container().instance("circuit_breaker", manager)
    app = Flask(__name__)
    app.register_blueprint(blueprint)

    @app.get("/pay")
    def pay():
        return CircuitBreaker.call("payment-api", lambda: "paid")

    yield app
    container().forget("circuit_breaker")


@pytest.fixture
def client(app):
    return app.test_client()


def trip(service):
    with pytest.raises(OSError):
        CircuitBreaker.call(service, broken)


def test_all_is_well_before_anybody_called(client):
    answer = client.get("/health/circuits")
    assert answer.status_code == 200
    assert answer.json["status"] == "ok"
    assert answer.json["circuits"]["payment-api"] == {
        "state": "closed", "refusing": False, "critical": True, "retry_after": None, "failures": 0,
    }  # fmt: skip


def test_a_service_that_is_not_critical_degrades(client):
    trip("email")
    CircuitBreaker.call("search", lambda: 1)
    answer = client.get("/health/circuits")
    assert (answer.status_code, answer.json["status"], answer.json["services"]) == (200, "degraded", 3)
    assert answer.json["circuits"]["email"]["state"] == "open"
    assert "search" not in answer.json["circuits"]  # closed, and not critical


@pytest.mark.parametrize("service", ["payment-api", "db-main", "db-replica"])
def test_a_critical_service_that_is_open_makes_it_503(client, service):
    trip(service)
    answer = client.get("/health/circuits")
    assert (answer.status_code, answer.json["status"]) == (503, "unavailable")
    assert answer.json["circuits"][service]["retry_after"] == 30
    assert "secret" not in answer.text


def test_an_isolated_critical_service_makes_it_503(client):
    CircuitBreaker.isolate("payment-api")
    assert client.get("/health/circuits").status_code == 503


def test_it_is_well_again_once_the_recovery_time_is_over_although_nobody_has_called(client, clock):
    """A load balancer sends no calls to a process that is ill: without calls the circuit would stay open for ever."""
    trip("payment-api")
    clock.advance(30)
    answer = client.get("/health/circuits")
    assert (answer.status_code, answer.json["circuits"]["payment-api"]["state"]) == (200, "open")


def test_a_refused_call_nobody_caught_is_503_with_retry_after(client, clock):
    trip("payment-api")
    clock.advance(0.5)
    answer = client.get("/pay")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    assert "payment-api" not in answer.text
    assert "secret" not in answer.text


def test_an_isolated_service_says_no_time(client):
    CircuitBreaker.isolate("payment-api")
    answer = client.get("/pay")
    assert answer.status_code == 503
    assert "Retry-After" not in answer.headers


def test_the_applications_own_503_page_is_used(app, client):
    @app.errorhandler(503)
    def away(error):
        return {"message": "Back in a moment."}, 503, {"Retry-After": error.retry_after}

    trip("payment-api")
    answer = client.get("/pay")
    assert (answer.status_code, answer.json, answer.headers["Retry-After"]) == (503, {"message": "Back in a moment."}, "30")


def test_alphavel_registers_the_blueprint_once():
    app = Flask(__name__)
    app.register_blueprint(blueprint)
    names = [provider.name for provider in Alphavel(app).providers]
    assert "circuit-breaker" in names
    assert [str(rule) for rule in app.url_map.iter_rules()].count("/health/circuits") == 1
