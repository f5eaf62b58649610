"""The example files say what the settings say: nothing else, and nothing less."""

from __future__ import annotations

import importlib.util
import itertools
from importlib import import_module

import pytest
import yaml

from alphavel.foundation.config import Config, parse
from alphavel.foundation.example import example_file
from alphavel.foundation.schema import describe, load_settings
from tests.support import ROOT, python, run

SETTINGS = {"websocket": "WebSocketSettings", "circuit_breaker": "CircuitBreakerSettings"}
PACKAGES = {name: cls for name, cls in SETTINGS.items() if importlib.util.find_spec(f"alphavel.{name}") is not None}


def settings_of(package):
    return getattr(import_module(f"alphavel.{package}.settings"), PACKAGES[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_the_file_is_what_the_settings_make_of_it_and_the_packaged_copy_is_the_same(package):
    made = example_file(settings_of(package))
    assert (ROOT / f"config/{package}.yaml").read_text(encoding="utf-8") == made, "run make reference"
    assert (ROOT / f"alphavel/{package}/config/{package}.yaml").read_text(encoding="utf-8") == made, "run make reference"


def test_the_reference_in_the_documentation_is_what_the_code_makes_of_it():
    from scripts.reference import pages

    for path, made in pages().items():
        assert path.read_text(encoding="utf-8") == made, f"run make reference: {path.name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_reading_the_file_gives_the_defaults(package):
    cls = settings_of(package)
    assert Config(ROOT / "config").settings(package, cls) == cls()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_key_stands_in_the_file_with_a_comment_before_it(package):
    text = (ROOT / f"config/{package}.yaml").read_text(encoding="utf-8")
    parsed = parse(text, "x")
    for key, declared, _ in describe(settings_of(package)):
        found = parsed
        for part in key.split("."):
            assert part in found, key
            found = found[part]
        assert declared.doc.endswith("."), key
    lines = [line.strip() for line in text.splitlines()]
    for before, line in itertools.pairwise(lines):
        if line and not line.startswith("#") and ":" in line:
            assert before.startswith("#"), line


def test_the_packaged_gunicorn_settings_are_the_same_too():
    assert (ROOT / "config/gunicorn.conf.py").read_bytes() == (ROOT / "alphavel/websocket/config/gunicorn.conf.py").read_bytes()


def test_the_file_can_be_made_from_the_command_line():
    result = run(python(), "-m", "alphavel.foundation.example", "alphavel.websocket.settings:WebSocketSettings")
    assert result.stdout == (ROOT / "config/websocket.yaml").read_text(encoding="utf-8")


def test_the_items_shown_in_comments_can_be_taken_out_of_them():
    """A list of settings is empty by default: what an item looks like is shown in comments."""
    text = (ROOT / "config/websocket.yaml").read_text(encoding="utf-8")
    start = text.index("# - ")
    item = []
    for line in text[start:].splitlines():
        if not line.startswith("#"):
            break
        item.append(line[2:])
    cls = settings_of("websocket")
    loaded = load_settings(cls, {"apps": yaml.safe_load("\n".join(item))}, "x")
    assert len(loaded.apps) == 1
