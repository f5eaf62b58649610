"""The container, and the facades that stand for what is in it."""

from __future__ import annotations

import inspect
import threading

import pytest

from alphavel.foundation import Container, NotBoundError
from alphavel.foundation.facades import Facade

HINT = 'Install it with `pip install "thing"`.'


@pytest.fixture
def container():
    return Container()


@pytest.fixture
def nothing_is_installed(monkeypatch):
    """The facade finds no providers that could bind anything."""
    monkeypatch.setattr("alphavel.foundation.providers.discover", list)


class Thing:
    def __init__(self):
        self.number = 5
        self.calls = []

    def call(self, *arguments):
        self.calls.append(arguments)
        return len(arguments)


# Container


def test_a_thing_is_made_once_when_it_is_first_asked_for(container):
    made = []
    container.bind("thing", lambda given: made.append(given) or Thing())
    assert container.bound("thing")
    assert made == []
    assert container.make("thing") is container.make("thing")
    assert made == [container], "the factory gets the container"


def test_asking_for_what_nobody_bound_says_so(container):
    assert not container.bound("thing")
    with pytest.raises(NotBoundError, match="Nothing is bound to 'thing'"):
        container.make("thing")


def test_binding_anew_replaces_and_forgetting_unbinds(container):
    container.instance("thing", 1)
    assert container.make("thing") == 1
    container.bind("thing", lambda _: 2)
    assert container.make("thing") == 2
    container.instance("thing", 3)
    assert container.make("thing") == 3
    container.forget("thing")
    container.forget("thing")
    assert not container.bound("thing")


def test_a_factory_that_fails_is_asked_again(container):
    attempts = []

    def factory(_):
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("not yet")
        return "made"

    container.bind("thing", factory)
    with pytest.raises(OSError, match="not yet"):
        container.make("thing")
    assert container.make("thing") == "made"


def test_threads_that_ask_at_the_same_first_moment_get_the_same_thing(container):
    meeting = threading.Barrier(8)

    def factory(_):
        meeting.wait(timeout=10)  # all of them are in here at once
        return object()

    container.bind("thing", factory)
    got = []
    threads = [threading.Thread(target=lambda: got.append(container.make("thing"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert len(set(map(id, got))) == 1


# Facades


def test_a_facade_makes_nothing_until_it_is_used(container):
    made = []
    container.bind("thing", lambda _: made.append(1) or Thing())
    facade = Facade("thing", HINT, container)
    assert repr(facade) == "<Facade of 'thing'>"
    assert made == []
    assert facade.call(1, 2) == 2
    assert made == [1]


def test_a_facade_can_be_made_before_anything_is_bound(container):
    facade = Facade("thing", HINT, container)
    container.instance("thing", Thing())
    assert facade.number == 5


def test_attributes_are_those_of_the_thing_for_reading_and_for_writing(container):
    thing = Thing()
    container.instance("thing", thing)
    facade = Facade("thing", HINT, container)
    facade.number = 6
    assert thing.number == 6
    thing.number = 7
    assert facade.number == 7, "a value is read anew each time"
    assert facade.call.__self__ is thing
    assert "call" in dir(facade)
    with pytest.raises(AttributeError, match="nonsense"):
        facade.nonsense  # noqa: B018


def test_a_method_once_found_is_forgotten_when_something_else_is_bound(container):
    first, second = Thing(), Thing()
    facade = Facade("thing", HINT, container)
    container.instance("thing", first)
    facade.call(1)
    container.instance("other", "does not matter")
    container.instance("thing", second)
    facade.call(2)
    assert (first.calls, second.calls) == ([(1,)], [(2,)])


@pytest.mark.usefixtures("nothing_is_installed")
def test_an_unbound_facade_says_what_to_install_or_register(container):
    facade = Facade("thing", HINT, container)
    for use in (lambda: facade.call, lambda: setattr(facade, "number", 1), lambda: dir(facade)):
        with pytest.raises(NotBoundError) as caught:
            use()
        assert str(caught.value) == f"Nothing is bound to 'thing'. {HINT}"


def test_tools_that_look_at_everything_do_not_make_the_thing(container):
    """doctest, inspect and mock ask every object they meet for names such as __wrapped__."""
    container.bind("thing", lambda _: pytest.fail("it was made"))
    facade = Facade("thing", HINT, container)
    assert inspect.unwrap(facade) is facade
    assert not hasattr(facade, "__wrapped__")
    assert not callable(facade)
