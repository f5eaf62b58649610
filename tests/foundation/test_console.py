"""The `alpha` command, run as a user does."""

from __future__ import annotations

import re

import pytest

import alphavel.foundation
import alphavel.websocket
from tests.support import ROOT, run, script


@pytest.fixture
def alpha(tmp_path):
    """`alpha(…)` runs the command in an empty folder."""
    return lambda *arguments, **environment: run(script("alpha"), *arguments, cwd=tmp_path, **environment)


def test_help_shows_options_and_all_commands(alpha):
    for arguments in (["--help"], ["-h"]):
        result = alpha(*arguments)
        assert result.returncode == 0
        assert result.stderr == ""
        for words in ("--config", "--version", "list", "vendor:publish", "websocket:serve", "websocket:stats"):
            assert words in result.stdout
    alone = alpha()
    assert "Usage: alpha" in alone.stdout + alone.stderr


def test_version(alpha):
    assert alpha("--version").stdout == f"alphavel {alphavel.foundation.__version__}\n"


def test_list_shows_commands_by_package_with_its_version(alpha):
    result = alpha("list")
    assert (result.returncode, result.stderr) == (0, "")
    packages = re.findall(r"^(\S+) (\d+\.\d+\.\d+)$", result.stdout, re.MULTILINE)
    assert packages[0] == ("alphavel.foundation", alphavel.foundation.__version__)
    assert ("alphavel.websocket", alphavel.websocket.__version__) in packages
    assert re.search(r"^  websocket:serve +Serve WebSockets", result.stdout, re.MULTILINE)
    assert re.search(r"^  vendor:publish +Write", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["websocket:sreve"], "No such command 'websocket:sreve'. Did you mean `websocket:serve`?"),
        (["nonsense"], "No such command 'nonsense'. `alpha list` shows all commands."),
        (["list", "surplus"], "unexpected extra argument"),
        (["--nonsense"], "No such option"),
        (["--config", "nowhere", "list"], "Directory 'nowhere' does not exist"),
        (["vendor:publish", "--tag=nonsense"], "There is no tag 'nonsense'. There are: "),
        (["websocket:serve", "--port", "x"], "'x' is not a valid"),
        (["websocket:serve", "--port", "70000"], "70000 is not in the range"),
    ],
)
def test_a_wrong_command_line_says_why_and_ends_with_2(alpha, arguments, sentence):
    result = alpha(*arguments)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_configuration_is_one_line_and_ends_with_1(alpha, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/websocket.yaml").write_text("options:\n  workers: none\n")
    result = alpha("--config", "etc", "websocket:serve")
    assert result.returncode == 1
    assert result.stderr == "alpha: etc/websocket.yaml: options.workers: expected a whole number; got 'none'.\n"
    result = alpha("websocket:serve", ALPHAVEL_CONFIG="nowhere")
    assert result.returncode == 1
    assert result.stderr == "alpha: There is no configuration folder 'nowhere'.\n"


# vendor:publish


def test_publish_without_a_tag_lists_the_tags_with_their_files(alpha):
    result = alpha("vendor:publish")
    assert result.returncode == 0
    assert re.search(r"^websocket-config +config/websocket\.yaml, config/gunicorn\.conf\.py$", result.stdout, re.MULTILINE)


def test_publish_writes_then_says_unchanged(alpha, tmp_path):
    result = alpha("vendor:publish", "--tag=websocket-config")
    assert result.returncode == 0
    assert result.stdout == "written     config/websocket.yaml\nwritten     config/gunicorn.conf.py\n"
    assert (tmp_path / "config/websocket.yaml").read_bytes() == (ROOT / "config/websocket.yaml").read_bytes()
    result = alpha("vendor:publish", "--tag", "websocket-config")
    assert (result.returncode, result.stdout) == (
        0, "unchanged   config/websocket.yaml\nunchanged   config/gunicorn.conf.py\n"
    )  # fmt: skip


def test_publish_never_overwrites_without_force_and_shows_the_difference(alpha, tmp_path):
    (tmp_path / "config").mkdir()
    mine = tmp_path / "config/websocket.yaml"
    mine.write_text("port: 1234\n")
    result = alpha("vendor:publish", "--tag=websocket-config")
    assert result.returncode == 1
    assert mine.read_text() == "port: 1234\n"
    assert "\n-port: 1234\n" in result.stdout
    assert "kept        config/websocket.yaml\nwritten     config/gunicorn.conf.py\n" in result.stdout
    assert "--force" in result.stderr
    result = alpha("vendor:publish", "--tag=websocket-config", "--force")
    assert result.returncode == 0
    assert "\n-port: 1234\n" in result.stdout
    assert "overwritten config/websocket.yaml\n" in result.stdout
    assert "port: ${ALPHAVEL_WEBSOCKET_PORT:-9501}" in mine.read_text()


def test_publish_says_what_it_cannot_write(alpha, tmp_path):
    (tmp_path / "config").write_text("a file where a folder should be")
    result = alpha("vendor:publish", "--tag=websocket-config")
    assert result.returncode == 1
    assert result.stderr == "Error: Cannot write config/websocket.yaml: File exists.\n"
