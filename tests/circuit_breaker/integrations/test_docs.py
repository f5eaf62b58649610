"""The page of documentation says what the code does: its diagram, its code, its settings and its commands."""

from __future__ import annotations

import dataclasses
import re

from alphavel.circuit_breaker.console import COMMANDS
from alphavel.circuit_breaker.diagram import diagram
from alphavel.circuit_breaker.settings import CircuitBreakerSettings, ThresholdSettings
from alphavel.circuit_breaker.states import TRANSITIONS, State
from tests.support import ROOT, python, run

PAGE = (ROOT / "docs/circuit-breaker.md").read_text()


def test_the_state_machine_is_the_one_of_the_code():
    assert f"```mermaid\n{diagram()}\n```" in PAGE
    for (old, why), new in TRANSITIONS.items():
        assert f"{old} --> {new}: {why}" in PAGE
    assert all(f"**{state}**" in PAGE for state in State)


def test_the_code_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 5
    result = run(python(), "-W", "error", "-c", "\n".join(blocks), cwd=tmp_path, ALPHAVEL_RUN_DIR=str(tmp_path / "run"))
    assert result.returncode == 0, result.stderr
    assert "The circuit of 'payment-api' is closed." in result.stdout


def test_settings_and_commands_are_there():
    names = {field.name for cls in (ThresholdSettings, CircuitBreakerSettings) for field in dataclasses.fields(cls)}
    named = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", PAGE)) & names
    assert {"failure_threshold", "recovery_timeout", "success_threshold", "half_open_requests", "trial_timeout"} <= named
    for command in COMMANDS:
        assert str(command.name).removeprefix("circuit-breaker:") in PAGE.partition("## Commands")[2].partition("\n##")[0]
