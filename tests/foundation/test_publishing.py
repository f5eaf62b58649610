"""Writing a package's files into an application: never over somebody's work."""

from __future__ import annotations

import pytest

from alphavel.foundation.publishing import Outcome, publish


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "packaged.yaml"
    source.write_text("one: 1\ntwo: 2\n")
    return source


def test_a_file_that_is_not_there_is_written_with_its_folder(tmp_path, source):
    assert publish(source, "config/deep/x.yaml", force=False) == (Outcome.WRITTEN, "")
    assert (tmp_path / "config/deep/x.yaml").read_bytes() == source.read_bytes()


def test_a_file_that_is_the_same_is_left(tmp_path, source):
    publish(source, "x.yaml", force=False)
    before = (tmp_path / "x.yaml").stat().st_mtime_ns
    assert publish(source, "x.yaml", force=True) == (Outcome.UNCHANGED, "")
    assert (tmp_path / "x.yaml").stat().st_mtime_ns == before


def test_a_file_that_differs_is_kept_and_the_difference_shown(tmp_path, source):
    (tmp_path / "x.yaml").write_text("one: 1\ntwo: mine")
    outcome, difference = publish(source, "x.yaml", force=False)
    assert outcome is Outcome.KEPT
    assert difference == "--- x.yaml\n+++ x.yaml (published)\n@@ -1,2 +1,2 @@\n one: 1\n-two: mine\n+two: 2\n"
    assert (tmp_path / "x.yaml").read_text() == "one: 1\ntwo: mine"


def test_force_overwrites_and_shows_what_is_gone(tmp_path, source):
    (tmp_path / "x.yaml").write_text("mine\n")
    outcome, difference = publish(source, "x.yaml", force=True)
    assert outcome is Outcome.OVERWRITTEN
    assert "-mine\n" in difference
    assert (tmp_path / "x.yaml").read_bytes() == source.read_bytes()


def test_a_file_that_is_no_text_is_kept_too(tmp_path, source):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    outcome, difference = publish(source, "x.yaml", force=False)
    assert outcome is Outcome.KEPT
    assert "+one: 1\n" in difference
    assert (tmp_path / "x.yaml").read_bytes() == b"\xff\xfe\x00"


def test_a_folder_in_the_way_is_an_error(tmp_path, source):
    (tmp_path / "x.yaml").mkdir()
    with pytest.raises(OSError, match="directory"):
        publish(source, "x.yaml", force=True)
