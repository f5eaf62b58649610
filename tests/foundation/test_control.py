"""How commands talk to running processes: sockets that only their user can open."""

from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
import threading

import pytest

from alphavel.foundation.control import ControlError, ControlServer, ask_all, run_dir
from tests.support import Program, python, wait_until


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setenv("ALPHAVEL_RUN_DIR", str(folder))
    return folder


@pytest.fixture
def serve(folder):
    servers = []

    def serve(**handlers):
        servers.append(ControlServer("thing", handlers))
        servers[-1].start()
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def raw(path, line):
    """Send bytes as they are; return what comes back."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        return client.makefile("rb").read()


OTHER_PROCESS = """
import sys, time
from alphavel.foundation.control import ControlServer
ControlServer("thing", {"who": lambda: sys.argv[1]}).start()
print("ready", flush=True)
time.sleep(60)
"""


# Asking


def test_a_running_process_answers(serve):
    serve(add=lambda a, b: {"sum": a + b})
    assert ask_all("thing", "add", a=1, b=2) == [{"sum": 3}]
    assert ask_all("something-else", "add") == []


def test_nobody_to_ask_is_an_empty_answer(folder):
    assert ask_all("thing", "x") == []
    assert mode(folder) == 0o700


def test_all_processes_of_the_user_are_asked(serve, folder):
    serve(who=lambda: "this one")
    with Program(python(), "-c", OTHER_PROCESS, "the other") as other:
        other.wait_for("ready")
        assert sorted(ask_all("thing", "who")) == ["the other", "this one"]
        other.process.kill()
        other.process.wait()
        assert len(list(folder.glob("*.sock"))) == 2, "it had no time to tidy up"
        assert ask_all("thing", "who") == ["this one"]
        assert len(list(folder.glob("*.sock"))) == 1, "the socket of a process that is gone is removed"


def test_a_process_that_does_not_answer_is_left_out(serve, folder):
    serve(who=lambda: "this one")
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(folder / "thing-1.sock"))
        stuck.listen()
        assert ask_all("thing", "who", timeout_s=0.2) == ["this one"]


def test_files_that_are_not_ours_are_left_alone(serve, folder):
    serve(who=lambda: "this one")
    for name in ("thing-x.sock", "thing-1-2.sock", "thing-5.sock.bak"):
        (folder / name).write_text("")
    assert ask_all("thing", "who") == ["this one"]
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize(
    ("command", "arguments", "error"),
    [
        ("nonsense", {}, "KeyError"),
        ("add", {"a": 1}, "TypeError"),
        ("fail", {}, "RuntimeError: the handler's own problem"),
        ("strange", {}, "TypeError: Object of type object is not JSON serializable"),
    ],
)
def test_an_error_is_told_to_who_asked_and_hurts_nobody(serve, capfd, command, arguments, error):
    def fail():
        raise RuntimeError("the handler's own problem")

    serve(add=lambda a, b: a + b, fail=fail, strange=object)
    with pytest.raises(ControlError, match=error):
        ask_all("thing", command, **arguments)
    assert ask_all("thing", "add", a=1, b=1) == [2]
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("line", [b"", b"\n", b"nonsense\n", b"[]\n", b"{}\n", b'{"command":[]}\n', b"\xff\n", b"x" * 70_000])
def test_nonsense_is_answered_with_an_error(serve, folder, capfd, line):
    serve(who=lambda: "this one")
    (path,) = folder.glob("*.sock")
    try:
        answer = raw(path, line)
    except OSError:
        answer = b""  # it stopped reading
    assert not answer or "error" in json.loads(answer)
    assert ask_all("thing", "who") == ["this one"]
    assert "".join(capfd.readouterr()) == ""


def test_one_that_connects_and_says_nothing_keeps_nobody_waiting(serve, folder):
    serve(who=lambda: "this one")
    (path,) = folder.glob("*.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(path))
        assert ask_all("thing", "who") == ["this one"]


# Starting and stopping


def test_the_socket_is_there_while_the_server_runs(serve, folder):
    before = set(threading.enumerate())  # other tests may have set up applications, which answer as long as this process lives

    def threads():
        return [thread for thread in threading.enumerate() if thread.name == "alphavel-control" and thread not in before]

    server = serve(who=lambda: "this one")
    wait_until(lambda: len(threads()) == 1)
    (path,) = folder.glob("*.sock")
    assert path.name == f"thing-{os.getpid()}.sock"
    server.stop()
    server.stop()
    assert list(folder.iterdir()) == []
    wait_until(lambda: not threads())


def test_a_socket_left_behind_by_a_process_of_the_same_number_is_replaced(folder, serve):
    run_dir()
    (folder / f"thing-{os.getpid()}.sock").write_text("")
    serve(who=lambda: "this one")
    assert ask_all("thing", "who") == ["this one"]


# Who may ask


def test_folder_and_socket_are_for_their_user_alone(serve, folder):
    before = os.umask(0)
    try:
        serve(who=lambda: "x")
        assert os.umask(0) == 0, "the process's umask is as it was"
    finally:
        os.umask(before)
    assert mode(folder) == 0o700
    (path,) = folder.glob("*.sock")
    assert mode(path) == 0o600


@pytest.mark.parametrize("bits", [0o755, 0o770, 0o711, 0o701])
def test_a_folder_that_others_may_enter_is_refused(folder, bits):
    folder.mkdir()
    folder.chmod(bits)
    for use in (ControlServer("thing", {}).start, lambda: ask_all("thing", "who")):
        with pytest.raises(ControlError, match="nobody else may enter"):
            use()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_of_somebody_else_is_refused(folder):
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(ControlError, match=r"folder of this user's .* It is user 12345's, and this is root\."):
        run_dir()


def test_a_link_or_a_file_in_place_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ControlError, match="must be a folder"):
        run_dir()
    folder.unlink()
    folder.write_text("")
    with pytest.raises(ControlError, match="Cannot use"):
        run_dir()


def test_a_folder_that_cannot_be_made_says_what_to_do(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALPHAVEL_RUN_DIR", str(tmp_path / "file/run"))
    with pytest.raises(ControlError, match="ALPHAVEL_RUN_DIR"):
        run_dir()


def test_a_path_too_long_for_a_socket_is_an_error(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("ALPHAVEL_RUN_DIR", str(tmp_path / ("x" * 120)))
    with pytest.raises(ControlError, match="too long"):
        ControlServer("thing", {}).start()


def test_without_a_variable_the_users_runtime_folder_or_one_of_his_own_is_used(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run_dir() == tmp_path / f"alphavel-{os.getuid()}"
    runtime = tmp_path / "runtime"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert run_dir() == tmp_path / f"alphavel-{os.getuid()}", "one that is not there is not made"
    runtime.mkdir()
    assert run_dir() == runtime / "alphavel"
