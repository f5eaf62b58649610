"""supervisor/: starts as an ordinary user, comes back from kill -9 under load, drains when it stops, rotates its logs."""

from __future__ import annotations

import configparser
import os
import re

import psutil
import pytest

from alphavel.websocket.settings import OptionsSettings
from alphavel.websocket.workers import supervisor as workers
from tests.deployment.conftest import Clients, get, kill, limit_of_files
from tests.support import ROOT, run, wait_until
from tests.websocket.clients import Client


def pids(site):
    """Process ids of the programs that run."""
    return {name: int(pid) for name, pid in re.findall(r"(?m)^(\S+) +RUNNING +pid (\d+)", site.run("supervisor-status"))}


@pytest.fixture
def started(site):
    """Supervisor with the programs of the site; `started("websocket")` leaves the others out."""

    def start(*programs):
        for path in (site.folder / "supervisor/programs").iterdir():
            if path.stem not in programs:
                path.unlink()
        site.run("prepare")
        site.run("supervisor-start")
        wait_until(lambda: len(pids(site)) == len(programs), 60, f"{programs} run; see {site.folder}/logs")
        return pids(site)

    yield start
    if running(site):
        site.run("supervisor-stop")
        wait_until(lambda: not running(site), 60)


def running(site):
    """Whether supervisord runs."""
    return (site.folder / "logs/supervisord.pid").exists()


def test_a_server_that_is_killed_under_load_comes_back_and_so_do_its_clients(site, started):
    before = started("websocket", "sender")
    server = psutil.Process(before["alphavel-websocket"])
    assert server.username() == site.user
    assert limit_of_files(server.pid) >= 4096
    with Clients(site.port, count=5) as clients:
        clients.wait_for_ticks()
        ids = clients.ids()
        assert len(ids) == 10
        kill(server.pid)
        wait_until(lambda: pids(site).get("alphavel-websocket", server.pid) != server.pid, 40, "it was started again")
        wait_until(lambda: clients.connected() and not clients.ids() & ids, 60, "all are connected anew")
        clients.wait_for_ticks()
        assert pids(site)["alphavel-sender"] == before["alphavel-sender"], "who only sends goes on"


def test_a_restart_hands_clients_over(site, started):
    started("websocket")
    assert os.getuid() or re.search(r"(?m)^state +ready$", site.run("stats")), "where root asks for another user"
    with Client(site.port) as client, site.run_in_background("supervisor-restart") as command:
        with client:
            assert client.closed().code == 4200
        assert command.wait(40) == 0
    wait_until(lambda: get(f"http://127.0.0.1:{site.port}/health")[0] == 200, 40)
    assert "Stopped" in site.log("websocket.log")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_the_folder_in_run_is_there_again_after_a_start_of_the_machine(site):
    site.run("run-dir", TMPFILES=str(site.folder))
    folder = site.folder / "run"
    folder.rmdir()
    run("systemd-tmpfiles", "--create", str(site.folder / "alphavel.conf"))
    assert (folder.owner(), folder.stat().st_mode & 0o777) == (site.user, 0o700)


def test_several_workers_end_with_their_parent_even_where_it_is_killed(site, started):
    (site.folder / "config/websocket.yaml").write_text("options: {workers: 2}")
    parent = psutil.Process(started("websocket")["alphavel-websocket"])
    family = wait_until(lambda: (children := parent.children()) and len(children) == 2 and children)
    kill(parent.pid)
    wait_until(lambda: not any(worker.is_running() for worker in family), 40)
    wait_until(lambda: get(f"http://127.0.0.1:{site.port}/health")[0] == 200, 40, "others serve in their place")


def test_gunicorn_runs_under_it_too(site, started):
    before = started("gunicorn")
    port = int(re.search(r"(?m)^ALPHAVEL_BIND=127.0.0.1:(\d+)$", site.file.read_text())[1])
    wait_until(lambda: get(f"http://127.0.0.1:{port}/health")[0] == 200, 40)
    with Client(port) as client:
        site.run("supervisor-stop")
        assert client.closed().code == 4200
    wait_until(lambda: not running(site), 60)
    assert not psutil.pid_exists(before["alphavel-gunicorn"])


def test_log_files_are_rotated(site, started):
    site.set(ALPHAVEL_LOG_SIZE="2KB")
    (site.folder / "config/websocket.yaml").write_text("logging: {access: true}")
    started("websocket")

    def rotated_twice():
        assert get(f"http://127.0.0.1:{site.port}/client?token=opaque-secret")[0] == 200
        return (site.folder / "logs/websocket.log.2").exists()

    wait_until(rotated_twice, 60)
    logs = [path.read_text() for path in (site.folder / "logs").glob("websocket.log*")]
    assert "/client?token=***" in "".join(logs)
    assert "opaque-secret" not in "".join(logs)


def test_its_patience_is_longer_than_the_time_to_drain():
    def patience(program):
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(ROOT / f"supervisor/programs/{program}.conf")
        return parser.getint(f"program:alphavel-{program}", "stopwaitsecs")

    assert patience("websocket") > OptionsSettings().drain_timeout + workers._GRACE_S
    settings = {}
    exec((ROOT / "config/gunicorn.conf.py").read_text(), settings)
    assert patience("gunicorn") > settings["graceful_timeout"] > OptionsSettings().drain_timeout
