"""Each message that the documentation quotes is one that the code says."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text()
QUOTED = re.findall(r"^> (.+)$", PAGE, re.MULTILINE)


def texts_of(source):
    """All texts in Python code; `…` stands for what an f-string fills in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def said():
    return "\n".join(text for path in (ROOT / "alphavel").rglob("*.py") for text in texts_of(path.read_text()))


@pytest.mark.parametrize("message", QUOTED)
def test_the_code_says_what_is_quoted(message, said):
    # A second … is needed where the code fills in two things after each other: both are read as one.
    assert re.sub("…+", "…", message) in re.sub("…+", "…", said)


def test_there_are_messages():
    assert len(QUOTED) > 40


def test_a_message_that_nobody_says_would_be_found(said):
    assert "Port … of … is taken." not in said
