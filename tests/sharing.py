"""
Has several processes share one suite: each takes the next file that none of them has taken.

    TEST_SHARED=FOLDER python -m pytest -p tests.sharing tests/websocket

as often as processes are wanted, with one empty folder for all. Who takes what depends on how long each file takes, here and
now: nobody keeps a list.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

_TAKEN = Path(os.environ["TEST_SHARED"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the largest files come first: those that take long are among them, and none is to be begun at the end."""
    items.sort(key=lambda item: -item.path.stat().st_size)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Leave tests to the process that has taken their file: to pytest, True says that all is done."""
    return None if _take(item.path) else True


@functools.cache
def _take(file: Path) -> bool:
    try:
        (_TAKEN / file.name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
