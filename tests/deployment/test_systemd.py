"""systemd/: units that systemd itself finds right, and a server that starts from them, socket and restrictions included."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl

from alphavel.websocket.settings import OptionsSettings
from alphavel.websocket.workers import supervisor as workers
from tests.certificates import make_certificate
from tests.deployment.conftest import get
from tests.support import ROOT, Program, python, run
from tests.websocket.clients import Client

HARDENED = str(ROOT / "tests/deployment/hardened.py")


def installed(site):
    """The units as the document has them installed."""
    units = site.folder / "units"
    units.mkdir()
    site.run("prepare")
    assert site.run("systemd-install", UNITS=str(units)) == "", "systemd has nothing to complain about"
    return {path.suffix: path for path in units.iterdir()}


def value(unit, name):
    return re.findall(rf"(?m)^{name}=(.*)$", unit.read_text())[-1]


def test_systemd_finds_the_units_right_and_hardened(site):
    units = installed(site)
    assert value(units[".service"], "User") == site.user
    # 0: can do nothing; 10: anything.
    result = run("systemd-analyze", "security", "--offline=true", "--threshold=15", str(units[".service"]))
    assert result.returncode == 0, result.stdout[-300:]


def test_the_server_starts_from_its_socket_and_serves_under_what_the_unit_forbids(site):
    units = installed(site)
    # What systemd would do with the two files, without being process 1.
    address = value(units[".socket"], "ListenStream")
    command = value(units[".service"], "ExecStart").replace("${ALPHAVEL_APP}", "shop:app").split()
    activate = ["systemd-socket-activate", "-l", address, *_passed_on(site), "--setenv=ALPHAVEL_METRICS=true"]
    with Program(*activate, python(), HARDENED, units[".service"], *command, cwd=site.folder) as program:
        program.wait_for("Listening on")
        with Client(site.port, timeout_s=40.0) as client:
            assert f"ws://127.0.0.1:{site.port}/" in program.wait_for("auth")
            client.subscribe("chat")
            assert get(f"http://127.0.0.1:{site.port}/push/chat") == (200, '{"queued":1}\n')
            assert client.receive()["event"] == "pushed"
            status, metrics = get(f"http://127.0.0.1:{site.port}/metrics")  # of the process, too: it sees little of /proc
            assert (status, "alphavel_websocket_process_resident_memory_bytes" in metrics) == (200, True)
            assert value(units[".service"], "ExecReload") == "/bin/kill -HUP $MAINPID"
            program.process.send_signal(signal.SIGHUP)
            program.wait_for("Configuration reloaded")
            client.send("ping")
            assert client.receive()["event"] == "pong"
            # It is really restricted.
            assert (
                "Operation not permitted"
                in run(python(), HARDENED, str(units[".service"]), python(), "-c", "import os; os.chroot('/')").stderr
            )
        assert program.stop() == 0


def test_the_log_file_of_the_documentation_is_in_the_folder_that_the_unit_makes(site):
    """Everything else on the disk is read-only for it."""
    file = re.search(r"(?m)^  file: (\S+)$", (ROOT / "docs/logging.md").read_text())[1]
    unit = installed(site)[".service"]
    assert value(unit, "ProtectSystem") == "strict"
    assert os.path.dirname(file) == f"/var/log/{value(unit, 'LogsDirectory')}"


def _passed_on(site):
    """The EnvironmentFile, in the way systemd-socket-activate takes it."""
    lines = run("bash", "-c", "set -a; . config/alphavel.env; env", cwd=site.folder).stdout.splitlines()
    return [f"--setenv={line}" for line in lines if line.startswith(("ALPHAVEL_", "WEB_"))]


def test_its_patience_is_longer_than_the_time_to_drain(site):
    assert int(value(installed(site)[".service"], "TimeoutStopSec")) > OptionsSettings().drain_timeout + workers._GRACE_S


def test_tls_without_a_proxy_and_a_renewed_certificate(site):
    """More of it: tests/websocket/test_tls.py."""
    (site.folder / "tls").mkdir()
    certificate = make_certificate(site.folder / "tls", "fullchain.pem", "privkey.pem")
    for path in certificate:
        shutil.chown(path, site.user)
    site.run("prepare")
    with site.run_in_background("tls-serve", site.user) as program:
        program.wait_for("auth")
        with Client(site.port, tls=ssl.create_default_context(cafile=certificate[0])) as client:
            make_certificate(site.folder / "tls", "fullchain.pem", "privkey.pem")
            program.process.send_signal(signal.SIGHUP)
            program.wait_for("Configuration reloaded")
            Client(site.port, tls=ssl.create_default_context(cafile=certificate[0])).close()
            client.send("ping")
            assert client.receive()["event"] == "pong"
        assert program.stop() == 0
