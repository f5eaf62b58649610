"""The environment of tests that run programs of their own: neither a person's configuration nor servers that run here."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("ALPHAVEL_")]:
            patch.delenv(name)
        folder = tmp_path_factory.mktemp("run")
        folder.chmod(0o700)
        patch.setenv("ALPHAVEL_RUN_DIR", str(folder))
        yield
