"""`alpha doctor`, run as an operator does before a start, and after one that failed."""

from __future__ import annotations

import datetime
import http.server
import json
import os
import socket
import threading

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from alphavel.foundation import doctor
from alphavel.foundation.checks import Level, good, warning, writable, wrong
from alphavel.foundation.providers import ServiceProvider
from tests.foundation.environments import a_package
from tests.redis_server import RedisServer
from tests.support import Program, run, script

KEY = "a secret that is long enough for HS256, and then some more of it"


@pytest.fixture
def examined(tmp_path):
    """`examined({…websocket.yaml…})` writes the configuration and returns exit code and findings."""

    def examined(websocket=None, breaker=None, **environment):
        folder = tmp_path / "config"
        folder.mkdir(exist_ok=True)
        for name, content in (("websocket", websocket), ("circuit_breaker", breaker)):
            if content is not None:
                (folder / f"{name}.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        result = run(script("alpha"), "doctor", "--json", cwd=tmp_path, **environment)
        assert result.stderr == ""
        answer = json.loads(result.stdout)
        assert answer["healthy"] is (result.returncode == 0)
        return result.returncode, answer["findings"]

    return examined


def found(findings, level, text):
    """Return the findings of a level that hold a text, each with advice where there is something to do."""
    chosen = [finding for finding in findings if finding["level"] == level and text in finding["text"]]
    assert chosen, f"no {level} with {text!r} in:\n" + "\n".join(map(str, findings))
    assert level == "ok" or all(finding["advice"] for finding in chosen)
    return chosen[0]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_a_good_configuration_ends_with_0_and_says_what_was_looked_at(examined):
    port = free_port()
    code, findings = examined({"host": "127.0.0.1", "port": port, "auth": {"secret": KEY}, "options": {"max_connections": 100}})
    assert code == 0
    assert {finding["package"] for finding in findings} == {
        "alphavel.foundation",
        "alphavel.websocket",
        "alphavel.circuit_breaker",
    }
    assert not [finding for finding in findings if finding["level"] == "error"]
    found(findings, "ok", "websocket.yaml is valid")
    found(findings, "ok", "checked with auth.secret")
    found(findings, "ok", f"127.0.0.1:{port} is free")
    found(findings, "ok", "options.max_connections needs")
    found(findings, "ok", "in C")
    assert KEY not in str(findings)


def test_for_people_each_line_has_its_mark_and_the_last_one_counts(tmp_path):
    result = run(script("alpha"), "doctor", cwd=tmp_path, ALPHAVEL_WEBSOCKET_PORT=str(free_port()))
    assert (result.returncode, result.stderr) == (0, "")
    assert "\nalphavel.websocket\n" in result.stdout
    assert "  ok    python " in result.stdout
    assert "  warn  tokens " in result.stdout
    assert "-> Set auth.secret" in result.stdout
    assert result.stdout.splitlines()[-1].endswith(" 0 errors.")


@pytest.mark.parametrize(
    ("websocket", "text"),
    [
        ("port: many", "port: expected a whole number"),
        ("prot: 9501", "Did you mean `port`?"),
        ("auth: [", "is not valid YAML"),
        ({"auth": {"secret": "short"}}, "auth.secret is too short"),
        ({"auth": {"enabled": True}}, "there is no key to check tokens with"),
        ({"auth": {"public_key": "nowhere.pem"}}, "nowhere.pem"),
        ({"apps": [{"id": "1", "key": "key"}]}, "apps[0].secret"),
        ({"tls": {"cert": "nowhere.pem", "key": "nowhere.key"}}, "nowhere.pem cannot be read"),
        ({"logging": {"file": "/nowhere/alphavel.log"}}, "may not write /nowhere/alphavel.log"),
        ({"host": "192.0.2.1"}, "192.0.2.1:9501 cannot be listened on"),
    ],
)
def test_what_would_keep_the_server_from_starting_ends_with_1(examined, websocket, text):
    code, findings = examined(websocket)
    assert code == 1
    found(findings, "error", text)


def test_a_wrong_breaker_configuration_is_found_too(examined):
    code, findings = examined(breaker={"default": "memry"})
    assert code == 1
    assert found(findings, "error", "memry")["package"] == "alphavel.circuit_breaker"


def test_what_works_and_should_be_otherwise_is_a_warning(examined):
    code, findings = examined(
        {
            "host": "127.0.0.1",
            "port": free_port(),
            "allowed_origins": ["*"],
            "options": {"max_connections": 10**9, "backlog": 2**31 - 1},
            "apps": [{"id": "1", "key": "key", "secret": "short"}],
            "metrics": {"enabled": True, "token": "guess me"},
        }
    )
    assert code == 0
    for text in (
        "No token is checked", "Pages of all sites", "of 1,000,000,000 connections", "of options.backlog",
        "secret of app 1 has 5 characters", "metrics.token has 8 characters",
    ):  # fmt: skip
        found(findings, "warning", text)


def test_a_port_that_something_else_listens_on(examined):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, findings = examined({"host": "127.0.0.1", "port": other.getsockname()[1]})
    assert code == 1
    assert "ss -ltnp" in found(findings, "error", "Something else listens on port")["advice"]


def test_a_port_that_our_own_server_listens_on_is_no_error(examined, tmp_path):
    port = free_port()
    with Program(script("alpha"), "websocket:serve", "--host", "127.0.0.1", "--port", str(port), cwd=tmp_path) as program:
        program.wait_for("listening")
        code, findings = examined({"host": "127.0.0.1", "port": port})
        program.stop()
    assert code == 0
    found(findings, "ok", f"Alphavel listens on port {port} already")


def test_redis_that_is_there_and_redis_that_is_not(examined):
    breaker = {"default": "redis"}
    with RedisServer() as redis:
        websocket = {
            "host": "127.0.0.1", "port": free_port(), "broadcasting": {"driver": "redis", "redis": {"url": redis.url}},
        }  # fmt: skip
        breaker["stores"] = {"redis": {"url": redis.url}}
        code, findings = examined(websocket, breaker)
        assert code == 0
        assert "answers in" in found(findings, "ok", "Redis ")["text"]
        found(findings, "ok", "Circuits are kept: redis")
        found(findings, "warning", "broadcasting.redis.secret is not set")
    code, findings = examined()
    assert code == 1
    assert {finding["package"] for finding in findings if finding["level"] == "error"} == {
        "alphavel.websocket", "alphavel.circuit_breaker",
    }  # fmt: skip


def test_a_user_of_redis_who_may_do_what_a_server_needs_and_one_who_may_not(examined):
    acl = ("--user", "bus", "on", ">sesame", "~shop:*", "resetchannels", "&shop:*", "+@all", "-@admin", "-@dangerous")
    with RedisServer(*acl) as redis:
        settings = {"url": redis.url, "username": "bus", "password": "sesame", "prefix": "shop:"}
        websocket = {"host": "127.0.0.1", "port": free_port(), "broadcasting": {"driver": "redis", "redis": settings}}
        code, findings = examined(websocket)
        assert code == 0
        assert found(findings, "ok", "Redis 7")
        settings["prefix"] = "bar:"
        code, findings = examined(websocket)
        assert code == 1
        assert "&bar:*" in found(findings, "error", "no permissions")["advice"]


def test_whether_there_are_keys_where_the_issuer_is_said_to_publish_them(examined):
    key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key()))
    published = [json.dumps({"keys": [{**key, "kid": "a"}]})]

    class Issuer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(published[-1].encode())

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Issuer) as issuer:
        threading.Thread(target=issuer.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{issuer.server_port}/keys.json"
        code, findings = examined({"host": "127.0.0.1", "port": free_port(), "auth": {"jwks_url": url}})
        assert code == 0
        found(findings, "ok", "Keys at auth.jwks_url: 1.")
        for nonsense in ("<title>Sign in</title>", '{"keys": []}', "[]"):
            published.append(nonsense)
            code, findings = examined()
            assert code == 1
            found(findings, "error", "There are no keys at auth.jwks_url")
        issuer.shutdown()
    found(examined()[1], "error", "There are no keys at auth.jwks_url")


def test_a_process_that_only_sends_is_checked_as_one(examined):
    sends = {"broadcasting": {"driver": "http", "http": {"url": f"http://127.0.0.1:{free_port()}"}}}
    code, findings = examined(sends)
    assert code == 1
    found(findings, "error", "cannot be reached")
    found(findings, "error", "none is configured")
    assert not [finding for finding in findings if finding["what"] == "port"]


@pytest.mark.parametrize(
    ("days", "level", "text"), [(-1, "error", "expired"), (5, "warning", "expires on"), (60, "ok", "valid until")]
)
def test_how_long_the_certificate_is_valid(examined, tmp_path, days, level, text):
    write_certificate(tmp_path, days)
    tls = {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    code, findings = examined({"host": "127.0.0.1", "port": free_port(), "tls": tls})
    assert code == (level == "error")
    assert found(findings, level, text)["what"] == "certificate"


def write_certificate(folder, days):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


# Configuration files


def test_a_file_that_nobody_reads_is_named_with_what_it_may_be_meant_for(examined, tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/websockets.yaml").write_text("port: 1\n")
    _, findings = examined({"host": "127.0.0.1", "port": free_port()})
    assert found(findings, "warning", "websockets.yaml is read by no package")["advice"] == "Call it websocket.yaml."


def test_a_file_that_everybody_may_write_is_an_error(examined, tmp_path):
    (tmp_path / "config").mkdir()
    file = tmp_path / "config/websocket.yaml"
    file.write_text(f"port: {free_port()}\n")
    file.chmod(0o666)
    code, findings = examined()
    assert code == 1
    assert found(findings, "error", "Everybody on this machine may write")["advice"].startswith("chmod o-w")


def test_a_run_folder_that_others_may_enter_is_an_error(examined, tmp_path):
    (tmp_path / "run").mkdir(mode=0o755)
    code, findings = examined({"port": free_port()}, ALPHAVEL_RUN_DIR=str(tmp_path / "run"))
    assert code == 1
    found(findings, "error", "nobody else may enter")


# Other packages bring checks of their own


def test_checks_of_any_provider_are_made_and_one_that_raises_stops_no_other(monkeypatch):
    def fails():
        raise OSError("the disk is gone")

    class Provider(ServiceProvider):
        name, package = "shop", "tests.foundation"

        def checks(self):
            return [lambda: [good("a", "fine")], fails, lambda: iter([warning("b", "so so", "do"), wrong("c", "bad", "do")])]

    monkeypatch.setattr(doctor, "discover", lambda: [Provider()])
    findings = [finding for package, finding in doctor.examine() if package == "tests.foundation"]
    assert [finding.level for finding in findings[1:]] == [Level.OK, Level.ERROR, Level.WARNING, Level.ERROR]
    assert (findings[2].what, findings[2].text) == ("fails", "This could not be checked: OSError: the disk is gone")


def test_a_provider_that_cannot_be_loaded_is_an_error(tmp_path):
    folder = a_package(tmp_path / "broken", "broken_shop", {"broken": "broken_shop:Nothing"}, "")
    (folder / "broken_shop-2.5.dist-info").mkdir()
    (folder / "broken_shop-2.5.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: broken_shop\nVersion: 2.5\n")
    (folder / "broken_shop-2.5.dist-info/entry_points.txt").write_text("[alphavel.providers]\nbroken = broken_shop:Nothing\n")
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    result = run(script("alpha"), "doctor", "--json", cwd=tmp_path, PYTHONPATH=path)
    assert result.returncode == 1
    found(json.loads(result.stdout)["findings"], "error", "The provider 'broken'")


def test_whether_a_file_can_be_written(tmp_path):
    assert writable(tmp_path / "new")
    assert not writable(tmp_path / "no folder" / "new")
