"""config/gunicorn.conf.py: both ways to name the worker, several workers, reloads, proxies, TLS."""

from __future__ import annotations

import contextlib
import re
import signal
import ssl

import psutil
import pytest

from tests.certificates import make_certificate
from tests.deployment.conftest import Clients, get
from tests.support import python, run, wait_until
from tests.websocket.clients import Client


def port_of(site):
    return int(re.search(r"(?m)^ALPHAVEL_BIND='?127.0.0.1:(\d+)'?$", site.file.read_text())[1])


def started(site, name="gunicorn-start", **environment):
    """gunicorn, once it answers."""
    site.run("prepare")
    program = site.run_in_background(name, site.user, **environment)

    def answers():
        assert program.process.poll() is None, program.output
        return get(f"http://127.0.0.1:{port_of(site)}/health")[0] == 200

    wait_until(answers, 60, "gunicorn answers")
    return program


def workers_of(program):
    """Process ids of gunicorn's workers; it has children of other kinds too, such as Python's resource tracker."""
    found = set()
    for child in psutil.Process(program.process.pid).children():
        with contextlib.suppress(psutil.Error):  # it has ended just now
            if "gunicorn" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


@pytest.mark.parametrize("way", ["gunicorn-start", "gunicorn-egg"])
def test_two_workers_are_one_server_whichever_way_the_worker_is_named(site, way):
    with started(site, way) as program:
        port = port_of(site)
        clients = []

        def both_have_clients():
            clients.append(Client(port))
            clients[-1].subscribe("news")
            return len({client.socket_id.split(".")[0] for client in clients}) == 2

        wait_until(both_have_clients, 60)
        assert get(f"http://127.0.0.1:{port}/push/news")[0] == 200
        assert {client.receive()["event"] for client in clients} == {"pushed"}
        program.process.terminate()
        assert {client.closed().code for client in clients} == {4200}
        for client in clients:
            client.close()
        assert program.wait(60) == 0
        assert "Traceback" not in program.output


def test_a_reload_brings_new_code_and_clients_come_back_by_themselves(site):
    site.set(ALPHAVEL_WEBSOCKET_URL=f"http://127.0.0.1:{port_of(site)}")
    with started(site) as program, site.start(python(), "worker.py", ALPHAVEL_BROADCAST_DRIVER="http"):
        wait_until(lambda: len(workers_of(program)) == 2)
        old = workers_of(program)
        with Clients(port_of(site), count=5) as clients:
            clients.wait_for_ticks()
            ids = clients.ids()
            shop = site.folder / "shop.py"
            shop.write_text(shop.read_text().replace("<title>Shop", "<title>New shop"))
            site.run("gunicorn-reload")
            wait_until(lambda: clients.connected() and not clients.ids() & ids, 60, "all are with new workers")
            clients.wait_for_ticks()
            wait_until(lambda: not workers_of(program) & old, 60)  # until then one that had no clients may answer
            assert "New shop" in get(f"http://127.0.0.1:{port_of(site)}/")[1]


def test_behind_a_proxy_it_knows_the_client_and_logs_no_token(site):
    with started(site, ALPHAVEL_ACCESS_LOG="-") as program:
        forwarded = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
        url = f"http://127.0.0.1:{port_of(site)}/client"
        assert '"address":"192.0.2.7"' in get(f"{url}?token=opaque", **forwarded)[1]
        assert '"scheme":"https"' in get(url, **forwarded)[1]
        stranger = run("curl", "-s", "--interface", "127.0.0.7", "-H", "X-Forwarded-For: 192.0.2.7", url).stdout
        assert '"address":"127.0.0.7"' in stranger
        with Client(port_of(site), "/?token=opaque", forwarded) as client:
            client.send("where am I", {})
            assert client.receive()["data"]["address"] == "192.0.2.7"
        program.process.terminate()
        assert program.wait(60) == 0
        assert '192.0.2.7 "GET / HTTP/1.1" 101' in program.output
        assert '192.0.2.7 "GET /client HTTP/1.1" 200' in program.output
        assert "opaque" not in program.output


def test_the_proxy_protocol_comes_before_tls_here_too_and_a_reload_takes_a_renewed_certificate(site):
    certificate = make_certificate(site.folder)
    site.run("prepare")

    class Proxied:
        def wrap_socket(self, sock, **options):
            sock.sendall(b"PROXY TCP4 198.51.100.7 192.0.2.2 4711 443\r\n")
            return ssl.create_default_context(cafile=certificate[0]).wrap_socket(sock, **options)

    def address():
        with Client(port_of(site), tls=Proxied()) as client:
            client.send("where am I", {})
            return client.receive()["data"]["address"]

    tls = {"ALPHAVEL_TLS_CERT": certificate[0], "ALPHAVEL_TLS_KEY": certificate[1], "ALPHAVEL_PROXY_PROTOCOL": "true"}
    command = ["gunicorn", "-k", "geventwebsocket", "-c", "config/gunicorn.conf.py", "shop:app"]
    with site.start(*command, **tls, WEB_CONCURRENCY="1") as program:
        program.wait_for("Booting worker")
        wait_until(lambda: _answers(address), 60)
        assert address() == "198.51.100.7"
        make_certificate(site.folder)
        program.process.send_signal(signal.SIGHUP)
        wait_until(lambda: _answers(address) == "198.51.100.7", 60, "newcomers are shown the new certificate")


def _answers(ask):
    try:
        return ask()
    except (OSError, ssl.SSLError):  # it does not listen yet, or still has the old certificate
        return None
