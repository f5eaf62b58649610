"""Configuration: what may stand in a file, and that each mistake is told with file, key and what was expected."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from alphavel.foundation import ConfigurationError
from alphavel.foundation.config import Config, parse
from alphavel.foundation.schema import describe, setting


@dataclass(frozen=True)
class Inner:
    """An inner group."""

    size: int = setting(1024, "A size.", unit="bytes", minimum=1, maximum=2**30)
    wait: float = setting(1.5, "A time.", unit="seconds", minimum=0)
    limit: int | None = setting(None, "A limit.", minimum=1)


@dataclass(frozen=True)
class Item:
    """One of several."""

    name: str = setting("", "A name.")
    key: str | None = setting(None, "A secret.", secret=True)


@dataclass(frozen=True)
class Shop:
    """Settings of a shop."""

    host: str = setting("localhost", "A host.", env="ALPHAVEL_TEST_HOST")
    port: int = setting(80, "A port.", env="ALPHAVEL_TEST_PORT", minimum=0, maximum=65535)
    open: bool = setting(True, "Whether it is open.")
    mode: str = setting("calm", "A mode.", choices=("calm", "busy"))
    tags: tuple[str, ...] = setting((), "Tags.")
    password: str | None = setting(None, "A password.", secret=True, env="ALPHAVEL_TEST_PASSWORD")
    pin: int | None = setting(None, "A number nobody must see.", secret=True)
    inner: Inner = setting(Inner, "A group.")
    services: dict[str, Inner] = setting(dict, "Groups by name.")
    weights: dict[str, float] = setting(dict, "Numbers by name.")
    items: tuple[Item, ...] = setting((), "Several.")


@pytest.fixture
def load(tmp_path):
    """`load(text)` reads `shop.yaml` with this text."""

    def load(text):
        (tmp_path / "config").mkdir(exist_ok=True)
        (tmp_path / "config/shop.yaml").write_text(text, encoding="utf-8")
        return Config().settings("shop", Shop)

    return load


def mistake(load, text):
    with pytest.raises(ConfigurationError) as caught:
        load(text)
    assert "\n" not in str(caught.value), "one line"
    return caught.value


# What is read


def test_without_a_file_everything_is_as_the_defaults_say(tmp_path):
    assert Config().settings("shop", Shop) == Shop()
    (tmp_path / "config").mkdir()
    assert Config().settings("shop", Shop) == Shop()


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "inner:\n", "inner: {}\n"])
def test_a_file_that_says_nothing_changes_nothing(load, text):
    assert load(text) == Shop()


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("port: 8080", "port", 8080),
        ("port: 0", "port", 0),
        ("host: example.com", "host", "example.com"),
        ("open: false", "open", False),
        ("mode: busy", "mode", "busy"),
        ("tags: [a, b]", "tags", ("a", "b")),
        ("tags: a", "tags", ("a",)),
        ("password: null", "password", None),
        ("password: ''", "password", ""),
        ("inner: {size: 2048}", "inner", Inner(size=2048)),
        ("inner: {size: 2 KiB}", "inner", Inner(size=2048)),
        ("inner: {size: 1.5 MiB}", "inner", Inner(size=1572864)),
        ("inner: {size: 2kb}", "inner", Inner(size=2000)),
        ("inner: {size: 3.0}", "inner", Inner(size=3)),
        ("inner: {wait: 3}", "inner", Inner(wait=3.0)),
        ("inner: {wait: 250ms}", "inner", Inner(wait=0.25)),
        ("inner: {wait: 5 min}", "inner", Inner(wait=300.0)),
        ("inner: {wait: 2 h}", "inner", Inner(wait=7200.0)),
        ("inner: {limit: null}", "inner", Inner()),
        ("services: {mail: {size: 5}, sms: {}}", "services", {"mail": Inner(size=5), "sms": Inner()}),
        ("weights: {a: 1, b: 2.5}", "weights", {"a": 1.0, "b": 2.5}),
        ("items: [{name: x}, {}]", "items", (Item("x"), Item())),
        ("inner: &i {size: 7}\nservices:\n  a:\n    <<: *i\n    wait: 9", "services", {"a": Inner(7, 9.0)}),
    ],
)
def test_values_of_all_kinds(load, text, name, value):
    loaded = getattr(load(text), name)
    assert loaded == value
    assert type(loaded) is type(value)


# What is refused


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("port: many", "port", "expected a whole number; got 'many'"),
        ("port: 1.5", "port", "expected a whole number; got 1.5"),
        ("port: true", "port", "expected a whole number; got True"),
        ("port: null", "port", "expected a whole number; got nothing"),
        ("port: '80'", "port", "expected a whole number; got '80'"),
        ("port: 70000", "port", "expected at least 0 and at most 65,535; got 70,000"),
        ("host: 5", "host", "expected a text; got 5"),
        ("open: 1", "open", "expected true or false; got 1"),
        ("open: maybe", "open", "expected true or false; got 'maybe'"),
        ("password: 12345678", "password", "expected a text or null; got a value that is not shown"),
        ("mode: wild", "mode", "expected one of calm, busy; got 'wild'"),
        ("tags: [1]", "tags", "expected a list of texts; got [1]"),
        ("inner: {size: 0}", "inner.size", "expected at least 1 and at most 1,073,741,824 bytes; got 0"),
        ("inner: {size: 5 s}", "inner.size", "expected a whole number of bytes (or `2 MiB`); got '5 s'"),
        ("inner: {wait: -1}", "inner.wait", "expected at least 0 seconds; got -1"),
        ("inner: {wait: 5 MiB}", "inner.wait", "expected a number of seconds (or `30s`); got '5 MiB'"),
        ("inner: {wait: .inf}", "inner.wait", "expected a number of seconds"),
        ("inner: {wait: .nan}", "inner.wait", "expected a number of seconds"),
        (f"port: {'9' * 400}", "port", "expected a whole number"),
        (f"inner: {{wait: {'9' * 400}}}", "inner.wait", "expected a number of seconds"),
        (f"inner: {{size: {'9' * 400} MiB}}", "inner.size", "expected a whole number of bytes"),
        ("inner: {limit: x}", "inner.limit", "expected a whole number or null; got 'x'"),
        ("inner: 5", "inner", "expected settings, one `name: value` a line; got 5"),
        ("inner: [1]", "inner", "expected settings, one `name: value` a line; got a list"),
        ("services: [1]", "services", "expected names and their settings; got a list"),
        ("services: {mail: {size: x}}", "services.mail.size", "expected a whole number of bytes"),
        ("services: {mail: 5}", "services.mail", "expected settings"),
        ("weights: {a: x}", "weights.a", "expected a number; got 'x'"),
        ("items: {name: x}", "items", "expected a list, each item beginning with `- `; got settings"),
        ("items: [{}, {nam: x}]", "items[1].nam", "Did you mean `name`?"),
        ("[]", None, "expected settings, one `name: value` a line; got a list"),
        ("just words", None, "expected settings, one `name: value` a line; got a text"),
        ("false", None, "expected settings, one `name: value` a line; got False"),
    ],
)
def test_a_wrong_value_is_told_with_file_key_and_what_was_expected(load, text, key, expected):
    error = mistake(load, text)
    assert error.file == "config/shop.yaml"
    assert error.key == key
    assert str(error).startswith(": ".join(filter(None, ["config/shop.yaml", key])) + ": ")
    assert expected in str(error)


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("prot: 5", "prot", "Did you mean `port`?"),
        ("inner: {sizes: 5}", "inner.sizes", "Did you mean `size`?"),
        ("services: {mail: {waiting: 5}}", "services.mail.waiting", "Did you mean `wait`?"),
        ("xyzzy: 5", "xyzzy", "There are: host, port"),
        ("5: 5", "5", "there is no such setting"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_known_one_named(load, text, key, hint):
    error = mistake(load, text)
    assert (error.file, error.key) == ("config/shop.yaml", key)
    assert hint in str(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("port: 1\nport: 2\n", ["line 2", "'port'", "twice"]),
        ("inner:\n  size: 1\n  wait: 2\n  size: 3\n", ["line 4", "'size'", "twice"]),
        ("port: [1", ["line 1", "not valid YAML"]),
        ("port: 1\n\tinner: 2", ["line 2", "not valid YAML"]),
        ("{[a]: b}", ["line 1", "a key must be a text"]),
        ("a: !!python/object/apply:os.system [x]", ["line 1", "not valid YAML"]),
        ("a: \x07", ["not valid YAML"]),
        ("a: *nothing", ["line 1", "nothing"]),
        ("port: 1\nhost: 2026-02-30\n", ["line 2", "'timestamp'", "put a text in quotes"]),
        (f"port: {'9' * 5000}", ["line 1", "'int'"]),
        ("open: !!bool perhaps", ["line 1", "'bool'"]),
        ("host: !!timestamp soon", ["line 1", "'timestamp'"]),
        ("tags: " + "[" * 3000 + "]" * 3000, ["not valid YAML", "too deep"]),
    ],
)
def test_what_is_no_good_yaml_is_told_with_its_line(load, text, words):
    error = mistake(load, text)
    assert error.file == "config/shop.yaml"
    for word in words:
        assert word in str(error)


def test_a_file_that_cannot_be_read_is_no_reason_to_start_with_the_defaults(tmp_path, load):
    load("")
    (tmp_path / "config/shop.yaml").write_bytes(b"host: \xff\xfe")
    with pytest.raises(ConfigurationError, match=r"config/shop\.yaml: cannot be read: .*utf-8"):
        Config().settings("shop", Shop)
    (tmp_path / "config/shop.yaml").unlink()
    (tmp_path / "config/shop.yaml").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Config().settings("shop", Shop)


def test_a_file_with_the_other_ending_is_not_passed_over_in_silence(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/shop.yml").write_text("port: 1")
    with pytest.raises(ConfigurationError, match=r"shop\.yml: is not read: call it shop\.yaml"):
        Config().settings("shop", Shop)


# The environment


@pytest.mark.parametrize(
    ("text", "environment", "name", "value"),
    [
        ("port: ${PORT:-81}", {}, "port", 81),
        ("port: ${PORT:-81}", {"PORT": "82"}, "port", 82),
        ("port: ${PORT:-81}", {"PORT": ""}, "port", 81),
        ("port: ${PORT}", {"PORT": "83"}, "port", 83),
        ("host: ${HOST:-}", {"HOST": "a: b # c"}, "host", "a: b # c"),
        ("host: http://${HOST:-x}:${PORT:-1}/", {"PORT": "2"}, "host", "http://x:2/"),
        ("open: ${OPEN:-no}", {}, "open", False),
        ("open: ${OPEN:-no}", {"OPEN": "TRUE"}, "open", True),
        ("tags: ${TAGS:-}", {"TAGS": "a, b,,c"}, "tags", ("a", "b", "c")),
        ("password: ${PASSWORD:-}", {}, "password", None),
        ("password: ${PASSWORD:-}", {"PASSWORD": "12345"}, "password", "12345"),
        ("inner: {size: '${SIZE:-1}'}", {"SIZE": "4 KiB"}, "inner", Inner(size=4096)),
        ("inner: {wait: '${WAIT:-1}'}", {"WAIT": "1.25"}, "inner", Inner(wait=1.25)),
        ("", {"ALPHAVEL_TEST_PORT": "84"}, "port", 84),
        ("port: 85", {"ALPHAVEL_TEST_PORT": "84"}, "port", 85),
        ("", {"ALPHAVEL_TEST_HOST": ""}, "host", "localhost"),
    ],
)
def test_values_from_the_environment(load, monkeypatch, text, environment, name, value):
    for variable, content in environment.items():
        monkeypatch.setenv(variable, content)
    assert getattr(load(text), name) == value


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("a: 1\nport: ${PORT}", {}, ["config/shop.yaml", "line 2", "${PORT}", "${PORT:-default}"]),
        ("port: ${PORT:-81}", {"PORT": "many"}, ["config/shop.yaml: port", "a whole number", "'many'"]),
        ("open: ${OPEN:-x}", {}, ["config/shop.yaml: open", "true or false"]),
        ("port: ${PORT-81}", {}, ["line 1", "${NAME:-default}"]),
        ("port: ${PORT", {}, ["line 1", "its brace"]),
        ("inner: {wait: '${WAIT}'}", {"WAIT": "inf"}, ["inner.wait", "a number of seconds"]),
        ("", {"ALPHAVEL_TEST_PORT": "x"}, ["environment variable ALPHAVEL_TEST_PORT", "port", "a whole number"]),
    ],
)
def test_mistakes_in_the_environment(load, monkeypatch, text, environment, words):
    for variable, content in environment.items():
        monkeypatch.setenv(variable, content)
    error = mistake(load, text)
    for word in words:
        assert word in str(error)


def test_a_reference_is_not_looked_for_in_what_the_environment_gave(monkeypatch):
    monkeypatch.setenv("PASSWORD", "${HOME}")
    assert parse("a: ${PASSWORD}", "x") == {"a": "${HOME}"}


# Secrets


@pytest.mark.parametrize(
    "text",
    [
        "password: {a: hunter2}",
        "password: [hunter2]",
        "password: !!float hunter2",
        "password: ${PW:-}",
        "pin: hunter2",
        "pin: ${PIN:-hunter2}",
        "items: [{key: [hunter2]}]",
        "items: hunter2",
        "inner: hunter2",
        "services: hunter2",
        "password: hunter2\n  and: more",
        "password: 'hunter2",
        "password: hunter2 ${",
        "hunter2",
    ],
)
def test_no_error_shows_a_secret(load, monkeypatch, text):
    monkeypatch.setenv("PW", "")
    try:
        settings = load(text)
    except ConfigurationError as error:
        shown = error
        while shown is not None:  # a traceback shows the causes too
            assert "hunter2" not in str(shown)
            shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)
    else:
        assert settings.password is None


def test_no_repr_shows_a_secret(load):
    settings = load("password: hunter2\nitems: [{key: hunter2}]")
    assert settings.password == "hunter2"
    assert "hunter2" not in repr(settings)
    assert "localhost" in repr(settings)


# Where files are looked for


def test_the_folder_is_the_one_asked_for_else_the_variables_else_config(tmp_path, monkeypatch):
    for name, port in (("asked", 1), ("named", 2), ("config", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shop.yaml").write_text(f"port: {port}")
    assert Config().settings("shop", Shop).port == 3
    monkeypatch.setenv("ALPHAVEL_CONFIG", "named")
    assert Config().settings("shop", Shop).port == 2
    assert Config("asked").settings("shop", Shop).port == 1


def test_a_folder_that_was_asked_for_must_be_there(monkeypatch):
    with pytest.raises(ConfigurationError, match="no configuration folder 'nowhere'"):
        Config("nowhere")
    monkeypatch.setenv("ALPHAVEL_CONFIG", "nowhere-either")
    with pytest.raises(ConfigurationError, match="no configuration folder 'nowhere-either'"):
        Config()


def test_describe_lists_all_settings_with_dotted_keys():
    described = {key: (declared.doc, default) for key, declared, default in describe(Shop)}
    assert described["port"] == ("A port.", 80)
    assert described["inner.wait"] == ("A time.", 1.5)
    assert described["services"] == ("Groups by name.", {})
