"""The three wheels, and empty virtual environments that they are installed into, as anybody would install them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.environment import _clean_environment  # noqa: F401 (a fixture: pytest finds it here)
from tests.foundation.environments import Environment
from tests.support import ROOT, python


def build_wheels(folder: Path, tree: Path = ROOT) -> list[str]:
    """Build the wheels of a tree and return their paths."""
    command = [python(), "-m", "scripts.wheels", str(folder)]
    built = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, timeout=400)
    assert built.returncode == 0, built.stderr
    return built.stdout.splitlines()


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """`{"alphavel": path, "alphavel-websocket": path, "alphavel-circuit-breaker": path}`, built as `make wheels` does."""
    built = build_wheels(tmp_path_factory.mktemp("wheels"))
    return {Path(line).name.partition("-")[0].replace("_", "-"): Path(line) for line in built}


def _environment(tmp_path_factory, *what) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("venv") / "venv")
    environment.install(*map(str, what))
    return environment


@pytest.fixture(scope="session")
def foundation(tmp_path_factory, wheels):
    """`pip install alphavel`."""
    return _environment(tmp_path_factory, wheels["alphavel"])


@pytest.fixture(scope="session")
def websocket(tmp_path_factory, wheels):
    """`pip install alphavel-websocket`."""
    return _environment(tmp_path_factory, wheels["alphavel-websocket"], wheels["alphavel"])


@pytest.fixture(scope="session")
def breaker(tmp_path_factory, wheels):
    """`pip install alphavel-circuit-breaker`."""
    return _environment(tmp_path_factory, wheels["alphavel-circuit-breaker"], wheels["alphavel"])


@pytest.fixture(scope="session")
def everything(tmp_path_factory, wheels):
    """`pip install "alphavel[all]"`, and gunicorn."""
    ours = [wheels["alphavel-circuit-breaker"], wheels["alphavel-websocket"]]
    return _environment(tmp_path_factory, f"alphavel[all] @ {wheels['alphavel'].as_uri()}", *ours, "gunicorn")
