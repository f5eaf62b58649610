"""Service providers: found by their entry points, whoever wrote them, installed as anybody would install them."""

from __future__ import annotations

import importlib.metadata

import pytest

from alphavel.foundation import Alphavel, Container, ServiceProvider, container
from alphavel.foundation.providers import ProviderWarning, discover, register_all, usable
from tests.foundation.environments import Environment, a_package, copy_of_this_tree

GREETING = '''
from pathlib import Path

import click

from alphavel.foundation import ServiceProvider, facade

__version__ = "2.5"
Greeter = facade("greeting", hint="Register it.")


class Provider(ServiceProvider):
    name = "greeting"
    package = "greeting"

    def register(self, container):
        container.bind("greeting", lambda _: ["hello"])

    def boot(self, app):
        app.config["GREETED"] = True

    def commands(self):
        @click.command("greeting:say")
        @click.option("--name", default="world")
        def say(name):
            """Greet somebody."""
            click.echo(f"{Greeter.copy()[0]}, {name}")

        return [say]

    def publishes(self):
        return {"greeting-config": [(Path(__file__), "config/greeting.py")]}


class Nameless(ServiceProvider):
    pass


class Hungry(ServiceProvider):
    name = "hungry"
    package = "greeting"
    requires = ("no_such_module", "no_such_package.part", "json.decoder")

    def commands(self):
        raise AssertionError("what is missing is asked for first")


def not_a_provider():
    return 5
'''
PROVIDERS = {
    "greeting": "greeting:Provider",
    "broken": "greeting.nothing:Provider",
    "nameless": "greeting:Nameless",
    "number": "greeting:not_a_provider",
    "hungry": "greeting:Hungry",
}


@pytest.fixture(scope="session")
def theirs(tmp_path_factory):
    """An environment with this tree and somebody else's package, installed with pip."""
    folder = tmp_path_factory.mktemp("theirs")
    environment = Environment(folder / "venv")
    environment.install(
        str(copy_of_this_tree(folder / "tree")), str(a_package(folder / "greeting", "greeting", PROVIDERS, GREETING))
    )
    return environment


# Installed


def test_a_third_partys_provider_is_found_and_its_facade_resolves(theirs):
    result = theirs.python("from greeting import Greeter; print(Greeter.copy())", "-W", "ignore")
    assert (result.stdout, result.stderr) == ("['hello']\n", "")


def test_its_commands_are_commands_of_alpha(theirs):
    result = theirs.alpha("greeting:say", "--name", "Ada")
    assert (result.returncode, result.stdout) == (0, "hello, Ada\n")
    listed = theirs.alpha("list").stdout
    assert "\ngreeting 2.5\n" in listed
    assert "greeting:say" in listed
    assert "Greet somebody." in listed
    assert "greeting:say" in theirs.alpha("--help").stdout
    assert "--name" in theirs.alpha("greeting:say", "--help").stdout


def test_its_files_can_be_published(theirs, tmp_path):
    assert "greeting-config" in theirs.alpha("vendor:publish").stdout
    assert theirs.alpha("vendor:publish", "--tag=greeting-config", cwd=tmp_path).returncode == 0
    assert (tmp_path / "config/greeting.py").read_text() == GREETING


def test_one_that_cannot_be_loaded_is_left_out_with_a_warning_and_the_others_work(theirs):
    result = theirs.alpha("list")
    assert result.returncode == 0
    reasons = {
        "'broken' (greeting.nothing:Provider)": "No module named 'greeting.nothing'",
        "'nameless' (greeting:Nameless)": "Nameless must say its name and its package",
        "'number' (greeting:not_a_provider)": "expected a subclass of ServiceProvider, got int",
    }
    expected = [f"alpha: The provider {provider} cannot be loaded: {reason}" for provider, reason in reasons.items()]
    assert sorted(result.stderr.splitlines()) == expected
    assert "greeting:say" in result.stdout


def test_one_whose_requirements_are_missing_says_which(theirs):
    assert "cannot be used: install no_such_module, no_such_package.part (" in theirs.alpha("list").stdout
    result = theirs.alpha("hungry:anything")
    assert result.returncode == 2
    assert "It needs no_such_module, no_such_package.part" in result.stderr


# In this process


class Counting(ServiceProvider):
    name = "counting"
    package = "tests"

    def __init__(self):
        self.calls = []

    def register(self, container):
        self.calls.append("register")
        container.bind("counting", lambda _: self)

    def boot(self, app):
        self.calls.append(("boot", app))


@pytest.fixture
def counting(monkeypatch):
    provider = Counting()
    monkeypatch.setattr("alphavel.foundation.providers.discover", lambda: [provider])
    yield provider
    container().forget("counting")


def test_the_packages_of_this_tree_are_discovered():
    assert "websocket" in [provider.name for provider in discover()]
    assert {provider.name for provider in usable()} <= {provider.name for provider in discover()}


def test_what_an_application_has_bound_itself_is_left_as_it_is(counting):
    bindings = Container()
    bindings.instance("counting", "the application's own")
    assert register_all(bindings) == [counting]
    assert bindings.make("counting") == "the application's own"
    assert counting.calls == []


def test_alphavel_registers_and_boots_what_is_installed(counting):
    class App:
        def __init__(self):
            self.extensions = {}

    app = App()
    extension = Alphavel(app)
    assert extension.providers == [counting]
    assert counting.calls == ["register", ("boot", app)]
    assert app.extensions["alphavel"] is extension
    assert container().make("counting") is counting
    later = Alphavel()
    assert later.providers == []
    later.init_app(app)
    assert later.providers == [counting]


def test_a_provider_that_fails_warns_and_does_not_stop_the_others(monkeypatch):
    class Entry:
        name, value = "bad", "bad:Provider"

        def load(self):
            raise RuntimeError("somebody else's problem")

    found = importlib.metadata.entry_points
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Entry(), *found(group=group)])
    with pytest.warns(ProviderWarning, match="'bad' .* cannot be loaded: somebody else's problem"):
        assert "websocket" in [provider.name for provider in discover()]


def test_a_provider_need_not_do_anything():
    provider = ServiceProvider()
    assert provider.register(Container()) is None
    assert provider.boot(None) is None
    assert list(provider.commands()) == []
    assert dict(provider.publishes()) == {}
    assert provider.missing() == []
