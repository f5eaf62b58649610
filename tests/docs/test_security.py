"""Each line of the threat model names tests that show it, and they are there; and `make audit` says what it has not seen."""

from __future__ import annotations

import re

import pytest

from scripts.audit import report
from tests.support import ROOT

PAGE = (ROOT / "docs/security.md").read_text()
LINES = re.findall(r"^- \*\*.+(?:\n  .+)*", PAGE, re.MULTILINE)
"""The attacks: items that begin with bold text."""
UNPROTECTED = PAGE[PAGE.index("## What is not protected") :]


@pytest.fixture(scope="module")
def tests():
    """Names of all tests."""
    files = (ROOT / "tests").rglob("test_*.py")
    return {name for file in files for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("line", [line for line in LINES if line not in UNPROTECTED], ids=lambda line: line[4:40])
def test_each_line_names_tests_that_there_are(line, tests):
    named = re.findall(r"`(test_\w+)`", line)
    assert named, f"which test shows this?\n{line}"
    assert set(named) - tests == set()


def test_the_page_has_such_lines():
    assert len(LINES) > 40
    assert len(re.findall(r"`(test_\w+)`", PAGE)) > 100


def test_every_word_about_reporting_leads_somewhere():
    policy = (ROOT / "SECURITY.md").read_text()
    assert "private vulnerability" in policy
    assert (ROOT / "docs/security.md").exists() and "docs/security.md" in policy
    assert "@" not in policy, "nobody is named: the repository's own way to report is enough"


KNOWN = {"name": "left-pad", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
FINE = {"name": "fine", "version": "1.0", "vulns": []}
UNSEEN = {"name": "unseen", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("packages", "strict", "code", "said"),
    [
        ([FINE], True, 0, "1 packages looked up, no known vulnerability."),
        ([FINE, KNOWN], False, 1, "left-pad 1.0: PYSEC-1, mended in 1.1"),
        ([FINE, UNSEEN], False, 0, "Not in the database, or not reached: unseen."),
        ([FINE, UNSEEN], True, 2, "unseen"),
        ([UNSEEN], False, 0, "NOTHING WAS CHECKED"),
        ([], True, 2, "NOTHING WAS CHECKED"),
    ],
)
def test_an_audit_that_saw_nothing_does_not_say_that_all_is_well(packages, strict, code, said):
    """pip-audit says "No known vulnerabilities found" where it could look up nothing."""
    lines, exit_code = report({"dependencies": packages}, strict)
    assert exit_code == code
    assert said in "\n".join(lines)
