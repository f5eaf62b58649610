"""Calls through whatever breaker is bound, and without any."""

from __future__ import annotations

import pytest

from alphavel.foundation.container import Container
from alphavel.foundation.guarding import guarded


class Breaker:
    """One that somebody else may have written."""

    def __init__(self):
        self.called = []

    def call(self, service, function):
        self.called.append(service)
        return function()


class Advised(Breaker):
    """One that takes advice."""

    def __init__(self):
        super().__init__()
        self.advice = {}

    def suggest(self, service, thresholds):
        assert service not in self.called, "first the advice"
        self.advice[service] = dict(thresholds)


def test_without_a_breaker_the_function_is_called():
    assert guarded("shop", lambda: 7, Container(), suggested={"failure_threshold": 1}) == 7


@pytest.mark.parametrize("kind", [Breaker, Advised])
def test_a_breaker_is_asked_and_told_what_suits_the_service_where_it_wants_to_know(kind):
    bindings, breaker = Container(), kind()
    bindings.instance("circuit_breaker", breaker)
    assert guarded("shop", lambda: 7, bindings, suggested={"failure_threshold": 1}) == 7
    assert guarded("other", lambda: 8, bindings) == 8
    assert breaker.called == ["shop", "other"]
    assert getattr(breaker, "advice", None) in (None, {"shop": {"failure_threshold": 1}})
