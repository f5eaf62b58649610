"""TLS ended by the server itself: what it takes for a certificate, and how it takes another one while it runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess

import pytest
import websockets.sync.client

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket.settings import ProxiesSettings, TlsSettings
from alphavel.websocket.tls import tls_context
from tests.certificates import make_certificate
from tests.support import Program, run, script, wait_until


def fingerprint(path):
    with open(path, encoding="ascii") as file:
        return ssl.PEM_cert_to_DER_cert(file.read())


def presented(port):
    """The certificate that a newcomer is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock, context.wrap_socket(sock) as tls:
        return tls.getpeercert(binary_form=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_takes_a_renewed_certificate_and_open_connections_stay(tmp_path, workers):
    cert, key = make_certificate(tmp_path)
    command = ["websocket:serve", "--host", "127.0.0.1", "--port", "0", "--workers", str(workers)]
    (tmp_path / "config").mkdir()
    (tmp_path / "config/websocket.yaml").write_text("options: {drain_timeout: 2}")
    with Program(script("alpha"), *command, "--tls-cert", "cert.pem", "--tls-key", "key.pem", cwd=tmp_path) as program:
        port = int(program.wait_for("auth").split("wss://127.0.0.1:")[1].split("/")[0])
        first = fingerprint(cert)
        context = ssl.create_default_context(cafile=cert)
        with websockets.sync.client.connect(f"wss://localhost:{port}/", ssl=context) as client:
            assert json.loads(client.recv())["event"] == "connected"
            assert presented(port) == first
            make_certificate(tmp_path)
            assert presented(port) == first, "until it is told to"
            program.process.send_signal(signal.SIGHUP)
            # A worker that retires may take another newcomer before it hears of it.
            wait_until(lambda: all(presented(port) == fingerprint(cert) for _ in range(10)))
            if workers == 1:
                client.send('{"event":"ping"}')
                assert json.loads(client.recv())["event"] == "pong"
            # A renewal that went wrong: the old certificate goes on.
            second = fingerprint(cert)
            os.truncate(key, 10)
            program.process.send_signal(signal.SIGHUP)
            program.wait_for("no certificate and its key")
            assert presented(port) == second
        assert program.stop() == 0


def test_a_server_that_ends_tls_speaks_no_older_version_than_1_2_and_http_1_1(serve, tmp_path):
    certificate = make_certificate(tmp_path)
    server = serve(tls=certificate)
    context = ssl.create_default_context(cafile=certificate[0])
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = server.connect(tls=context)
    assert client.sock.selected_alpn_protocol() == "http/1.1"
    assert client.sock.version() == "TLSv1.3"
    old = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]
    result = subprocess.run(old, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False)
    assert b"alert protocol version" in result.stderr


def test_what_is_no_certificate_stops_the_start_with_one_line(tmp_path):
    cert, key = make_certificate(tmp_path)
    other = make_certificate(tmp_path, "other.pem", "other-key.pem")[1]
    encrypted = tmp_path / "encrypted.pem"
    command = ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", encrypted]
    subprocess.run(command, check=True, timeout=30)
    for given, words in {
        (cert, None): "go together",
        (str(tmp_path / "none.pem"), key): "cannot be read: No such file",
        (cert, other): "no certificate and its key",
        (cert, str(encrypted)): "without a password",
    }.items():
        with pytest.raises(ConfigurationError, match=words):
            tls_context(TlsSettings(*given))
    result = run(script("alpha"), "websocket:serve", "--port", "0", "--tls-cert", cert, "--tls-key", other, cwd=tmp_path)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "no certificate and its key" in result.stderr


def test_after_the_proxy_protocols_header_comes_the_tls_handshake(serve, tmp_path):
    certificate = make_certificate(tmp_path)
    server = serve(tls=certificate, proxies=ProxiesSettings(trusted=("127.0.0.1",), proxy_protocol=True))

    class Proxied:
        def wrap_socket(self, sock, **options):
            sock.sendall(b"PROXY TCP4 198.51.100.7 192.0.2.2 4711 443\r\n")
            return ssl.create_default_context(cafile=certificate[0]).wrap_socket(sock, **options)

    server.connect(tls=Proxied())
    assert [connection.remote_addr for connection in server.connections.connections.values()] == ["198.51.100.7"]
