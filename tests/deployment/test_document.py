"""docs/deployment.md and the files it speaks of: no command that nobody runs, no variable that is nowhere explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alphavel.foundation.schema import describe
from alphavel.websocket.settings import WebSocketSettings
from tests.deployment.conftest import DOCUMENT, documented
from tests.support import ROOT

VARIABLES = set(re.findall(r"(?m)^([A-Z_]+)=", (ROOT / "config/alphavel.env").read_text()))


def test_each_command_of_the_document_is_run_by_a_test():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert len(documented()) > 10
    assert [name for name in documented() if f'"{name}"' not in tests] == []


def test_each_block_of_commands_says_which_test_runs_it():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert len(re.findall(r"(?m)^```sh$", text)) == len(documented())


@pytest.mark.parametrize("path", [*ROOT.glob("supervisor/**/*.conf"), *ROOT.glob("nginx/*.template"), *ROOT.glob("systemd/*")])
def test_what_is_filled_in_is_explained_in_the_environment_file(path):
    wanted = set(re.findall(r"%\(ENV_([A-Z_]+)\)s|\$\{([A-Z_]+)\}", path.read_text()))
    assert {name for pair in wanted for name in pair if name} <= VARIABLES


def test_settings_that_are_named_are_settings():
    """In the files that a team takes as they are."""
    known = {key for key, _, _ in describe(WebSocketSettings)}
    files = [DOCUMENT, *(path for folder in ("supervisor", "nginx", "systemd") for path in (ROOT / folder).rglob("*.*"))]
    for path in files:
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(r"\b(?:options|proxies|auth|broadcasting|tls)\.[a-z_]+\b(?!\))", text))
        assert named <= known, path.name


def test_the_kernel_knows_what_it_is_to_be_told():
    lines = [line for line in documented()["sysctl"].splitlines() if line and not line.startswith("#")]
    assert len(lines) > 8
    for line in lines:
        key, _, value = line.partition(" = ")
        path = Path("/proc/sys", key.replace(".", "/"))
        if not path.exists():
            # A container's kernel shows only a part, and connection tracking is a module.
            assert key.startswith(("net.core.", "net.netfilter.", "net.ipv4.", "fs.")), key
            continue
        assert len(path.read_text().split()) == len(value.split()), line


def test_metrics_that_are_to_be_watched_are_there():
    monitoring = (ROOT / "docs/monitoring.md").read_text()
    named = set(re.findall(r"`(alphavel_[a-z_]+)`", DOCUMENT.read_text()))
    assert len(named) > 10
    assert [name for name in named if f"`{name}`" not in monitoring] == []
