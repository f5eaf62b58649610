"""Who is connected: tokens of all kinds, the attacks on them, fresh tokens, origins."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from typing import ClassVar

import gevent
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from gevent.pywsgi import WSGIServer
from gevent.server import StreamServer

from alphavel.foundation import ConfigurationError
from alphavel.websocket.auth import AuthenticationError
from alphavel.websocket.auth.jwt import TokenVerifier
from alphavel.websocket.auth.origins import OriginRules
from alphavel.websocket.auth.tokens import find_token
from alphavel.websocket.logs import mask
from alphavel.websocket.settings import AuthSettings
from tests.support import wait_until
from tests.websocket.clients import Refused
from tests.websocket.conftest import SECRET
from tests.websocket.tokens import bearer, token

RSA = rsa.generate_private_key(65537, 2048)
KEYS = {
    "RS256": RSA,
    "PS512": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def verify(text, **settings):
    return TokenVerifier(AuthSettings(**{"secret": SECRET, **settings})).verify(text)


def refusal(text, **settings):
    with pytest.raises(AuthenticationError) as caught:
        verify(text, **settings)
    assert len(str(text)) < 5 or str(text) not in str(caught.value)
    return caught.value.reason


# Tokens


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_token_signed_with_the_secret_names_the_user(algorithm):
    user = verify(token("7", algorithm=algorithm, role="admin"), algorithms=("HS256", "HS384", "HS512"))
    assert user.id == "7"
    assert user.claims["role"] == "admin"
    assert user.expires_at == pytest.approx(time.time() + 60, abs=5)


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_signed_with_a_private_key_is_checked_with_the_public_one(algorithm, tmp_path):
    key = KEYS[algorithm]
    text = token("7", key=key, algorithm=algorithm)
    assert verify(text, secret=None, public_key=pem(key)).id == "7"
    file = tmp_path / "key.pem"
    file.write_text(pem(key))
    assert verify(text, secret=None, public_key=str(file)).id == "7"
    other = next(candidate for name, candidate in KEYS.items() if name != algorithm and candidate is not key)
    assert refusal(text, secret=None, public_key=pem(other)) == "signature"


@pytest.mark.parametrize(
    ("claims", "settings", "reason"),
    [
        ({"exp": 1}, {}, "expired"),
        ({"exp": None}, {}, "claims"),
        ({"nbf": time.time() + 3600}, {}, "claims"),
        ({"aud": "somebody-else"}, {}, "claims"),
        ({}, {"audience": "us"}, "claims"),
        ({"aud": "them"}, {"audience": "us"}, "claims"),
        ({"iss": "them"}, {"issuer": "us"}, "claims"),
        ({"sub": None}, {}, "claims"),
        ({"sub": ""}, {}, "claims"),
        ({"sub": None, "user_id": True}, {}, "claims"),
        ({"sub": None, "user_id": {"a": 1}}, {}, "claims"),
        ({"sub": "7"}, {"user_id_claim": "email"}, "claims"),
    ],
)
def test_a_token_with_the_wrong_claims_is_refused(claims, settings, reason):
    assert refusal(_token(claims), **settings) == reason


def _token(claims):
    payload = {"sub": "7", "exp": time.time() + 60, **claims}
    return jwt.encode({name: value for name, value in payload.items() if value is not None}, SECRET, "HS256")


@pytest.mark.parametrize(
    ("claims", "settings", "user_id"),
    [
        ({"sub": None, "user_id": 123}, {}, "123"),
        ({"sub": None, "id": "abc"}, {}, "abc"),
        ({"email": "a@b"}, {"user_id_claim": "email"}, "a@b"),
        ({"aud": ["us", "them"]}, {"audience": "us"}, "7"),
        ({"iss": "us"}, {"issuer": "us"}, "7"),
        ({"exp": time.time() - 5}, {"leeway": 3600.0}, "7"),  # made long before it is checked, maybe
        ({"exp": None}, {"require_exp": False}, "7"),
    ],
)
def test_a_token_with_the_right_claims_is_taken(claims, settings, user_id):
    assert verify(_token(claims), **settings).id == user_id


def forged(header, payload, signature=b""):
    def part(thing):
        return base64.urlsafe_b64encode(thing).rstrip(b"=")

    body = part(json.dumps(header).encode()) + b"." + part(json.dumps(payload).encode())
    return (body + b"." + part(signature(body) if callable(signature) else signature)).decode()


def test_no_algorithm_is_no_signature():
    payload = {"sub": "7", "exp": time.time() + 60}
    for name in ("none", "None", "NONE", ""):
        assert refusal(forged({"alg": name, "typ": "JWT"}, payload)) in ("signature", "malformed")


def test_a_public_key_is_never_taken_for_a_secret():
    """The attack of RFC 8725, section 2.1: sign with HMAC, and with the public key as if it were a secret."""
    public = pem(KEYS["RS256"])
    payload = {"sub": "7", "exp": time.time() + 60}
    text = forged(
        {"alg": "HS256", "typ": "JWT"}, payload, lambda body: hmac.new(public.encode(), body, hashlib.sha256).digest()
    )
    assert refusal(text, secret=None, public_key=public) == "signature"


@pytest.mark.parametrize(
    "text", ["", None, 5, {}, "a", "a.b", "a.b.c", "....", "é.é.é", token()[:-8] + "AAAAAAAA", "eyJ" * 1000, "[" * 9000]
)
def test_nonsense_is_refused(text):
    refusal(text)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"enabled": True}, "ALPHAVEL_JWT_SECRET"),
        ({"secret": "short"}, "at least 32 bytes"),
        ({"secret": SECRET, "public_key": pem(RSA)}, "Set one of"),
        ({"secret": SECRET, "algorithms": ("none",)}, "'none' is not accepted"),
        ({"secret": SECRET, "algorithms": ("RS256",)}, "does not go with auth.secret"),
        ({"secret": pem(RSA)}, "PEM key"),
        ({"public_key": "/no/such/file"}, "path of a PEM file"),
        ({"public_key": private_pem(RSA)}, "private key"),
        ({"public_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"}, "not a public key"),
        ({"public_key": pem(RSA), "algorithms": ("HS256",)}, "does not go with auth.public_key"),
        ({"public_key": pem(KEYS["ES256"]), "algorithms": ("ES384",)}, "does not go"),
    ],
)
def test_a_wrong_key_stops_the_start_with_a_sentence(settings, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        TokenVerifier(AuthSettings(**settings))


# Keys from a URL


@pytest.fixture
def issuer():
    """A real HTTP server that publishes keys; `issuer.keys` can be changed, `issuer.fetches` counts."""

    class Issuer:
        keys: ClassVar[dict] = {}
        fetches = 0
        fails = False
        delay = 0.0

        def __call__(self, environ, start_response):
            self.fetches += 1
            gevent.sleep(self.delay)
            if self.fails:
                start_response("500 No", [])
                return [b""]
            jwks = [
                {**json.loads(algorithm_of(key).to_jwk(key.public_key())), "kid": kid, "use": "sig"}
                for kid, key in self.keys.items()
            ]
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps({"keys": jwks}).encode()]

    def algorithm_of(key):
        if isinstance(key, rsa.RSAPrivateKey):
            return jwt.algorithms.RSAAlgorithm
        return jwt.algorithms.ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else jwt.algorithms.OKPAlgorithm

    issuer = Issuer()
    issuer.keys = {"rsa": KEYS["RS256"], "ec": KEYS["ES384"], "ed": KEYS["EdDSA"]}
    server = WSGIServer(("127.0.0.1", 0), issuer, log=None)
    server.start()
    issuer.url = f"http://127.0.0.1:{server.server_port}/jwks.json"
    yield issuer
    server.stop()


def test_keys_are_fetched_once_and_found_by_name(issuer):
    verifier = TokenVerifier(AuthSettings(jwks_url=issuer.url))
    assert issuer.fetches == 0
    for kid, algorithm in (("rsa", "RS256"), ("ec", "ES384"), ("ed", "EdDSA"), ("rsa", "PS512")):
        key = KEYS[algorithm]
        expected = "7"
        text = token("7", key=key, algorithm=algorithm, headers={"kid": kid})
        if algorithm == "PS512":  # a key that names no algorithm is one for RS256
            with pytest.raises(AuthenticationError):
                verifier.verify(text)
            continue
        assert verifier.verify(text).id == expected
    assert issuer.fetches == 1


def test_an_unknown_key_is_looked_for_again_but_strangers_cannot_make_us_ask_all_the_time(issuer, monkeypatch):
    clock = [0.0]
    verifier = TokenVerifier(AuthSettings(jwks_url=issuer.url))
    verifier._key_set._clock = lambda: clock[0]
    text = token("7", key=KEYS["RS256"], algorithm="RS256", headers={"kid": "new"})
    for _ in range(20):
        with pytest.raises(AuthenticationError, match="not known"):
            verifier.verify(text)
    assert issuer.fetches == 1
    issuer.keys["new"] = KEYS["RS256"]
    clock[0] = 11.0
    assert verifier.verify(text).id == "7"
    assert issuer.fetches == 2


def test_many_who_wait_for_a_key_cause_one_fetch_and_others_go_on(issuer):
    issuer.delay = 1.0
    verifier = TokenVerifier(AuthSettings(jwks_url=issuer.url))
    text = token("7", key=KEYS["RS256"], algorithm="RS256", headers={"kid": "rsa"})
    waiting = [gevent.spawn(verifier.verify, text) for _ in range(20)]
    turns = 0
    while not all(waiting_one.ready() for waiting_one in waiting):
        gevent.sleep(0.01)
        turns += 1
    assert turns > 5, "the loop went on while keys were fetched"
    assert {greenlet.get().id for greenlet in waiting} == {"7"}
    assert issuer.fetches == 1


def test_old_keys_serve_while_the_issuer_is_away(issuer, caplog):
    clock = [0.0]
    verifier = TokenVerifier(AuthSettings(jwks_url=issuer.url, jwks_cache=100.0))
    verifier._key_set._clock = lambda: clock[0]
    text = token("7", key=KEYS["RS256"], algorithm="RS256", headers={"kid": "rsa"})
    verifier.verify(text)
    issuer.fails = True
    clock[0] = 101.0
    with caplog.at_level(logging.WARNING):
        assert verifier.verify(text).id == "7"
    assert "Cannot fetch the keys" in caplog.text
    clock[0] = 120.0
    issuer.fails = False
    del issuer.keys["rsa"]
    with pytest.raises(AuthenticationError):
        verifier.verify(text)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"5",
        b'{"keys": 5}',
        b'{"keys": ["x"]}',
        b'{"keys": [{"kty": "RSA", "kid": []}]}',
        b"\xff",
        b'{"keys": [',
        b"[" * 100_000,
        b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n{",
    ],
)
def test_an_issuer_that_answers_nonsense_is_one_that_is_away(answer, caplog):
    if not answer.startswith(b"HTTP"):
        answer = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + answer
    issuer = StreamServer(("127.0.0.1", 0), lambda sock, address: (sock.recv(65536), sock.sendall(answer)))
    issuer.start()
    try:
        verifier = TokenVerifier(AuthSettings(jwks_url=f"http://127.0.0.1:{issuer.server_port}/"))
        with pytest.raises(AuthenticationError, match="not known"):
            verifier.verify(token("7", key=KEYS["RS256"], algorithm="RS256", headers={"kid": "rsa"}))
    finally:
        issuer.stop()
    assert "Cannot fetch the keys" in caplog.text


# Connecting


@pytest.mark.parametrize("way", ["header", "subprotocol", "query"])
def test_the_three_ways_to_carry_a_token(serve, way):
    text = token("7")
    path, headers = "/", {}
    if way == "header":
        headers = {"Authorization": f"Bearer {text}"}
    elif way == "subprotocol":
        headers = {"Sec-WebSocket-Protocol": f"alphavel.v1, bearer.{text}"}
    else:
        path = f"/?token={text}"
    server = serve(secret=SECRET)
    with server.connect(path, headers) as client:
        assert server.connections.connections[client.socket_id].user.id == "7"
        assert client.headers.get("sec-websocket-protocol") == ("alphavel.v1" if way == "subprotocol" else None)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {}),
        ("/?token=", {}),
        ("/?token=nonsense", {}),
        ("/", {"Authorization": "Bearer nonsense"}),
        ("/", {"Authorization": "Basic YTpi"}),
        ("/", {"Sec-WebSocket-Protocol": "alphavel.v1, bearer.nonsense"}),
        (f"/?token={token()}&token={token()}", {}),
        (f"/?token={token(exp=1)}", {}),
    ],
)
def test_without_a_good_token_the_handshake_is_refused(serve, path, headers):
    server = serve(secret=SECRET)
    with pytest.raises(Refused) as caught:
        server.connect(path, headers)
    assert caught.value.status == 401
    assert caught.value.headers["www-authenticate"] == "Bearer"
    assert server.counters.handshakes_refused == 1


def test_anonymous_clients_may_be_let_in_to_public_channels(serve):
    server = serve(lambda server: server.channel("private-{x}")(lambda user, x: True), secret=SECRET, anonymous=True)
    with server.connect() as client:
        assert client.subscribe("news")["event"] == "subscribed"
        assert client.subscribe("private-x")["code"] == 4009
    with pytest.raises(Refused):
        server.connect("/?token=bad")


def test_a_token_in_the_query_is_not_looked_at_where_that_is_switched_off(serve):
    with pytest.raises(Refused):
        serve(secret=SECRET, token_in_query=False).connect(f"/?token={token()}")


def test_without_a_key_tokens_are_not_looked_at_and_nobody_is_anybody(serve):
    server = serve()
    with server.connect(f"/?token={token()}") as client:
        assert server.connections.connections[client.socket_id].user is None


def test_a_connection_whose_token_expires_is_closed(serve):
    expires = time.time() + 3
    with serve(secret=SECRET).connect("/", bearer("7", exp=expires)) as client:
        closed = client.closed()
        assert (closed.code, closed.reason) == (4009, "token expired")
        assert expires - 1 < time.time() < expires + 20


def test_a_fresh_token_keeps_the_connection_open(serve):
    server = serve(secret=SECRET)
    first = time.time() + 3
    with server.connect("/", bearer("7", exp=first)) as client:
        expires = time.time() + 100
        client.send("refresh", {"token": token("7", exp=expires, role="new")})
        assert client.receive() == {"event": "refreshed", "data": {"expires_at": pytest.approx(expires)}}
        assert client.silent(max(0.1, first + 1.5 - time.time()))
        assert server.connections.connections[client.socket_id].user.claims["role"] == "new"


@pytest.mark.parametrize("bad", [token("8"), token("7", exp=1), "nonsense", None, 5])
def test_a_fresh_token_must_be_good_and_of_the_same_user(serve, bad):
    server = serve(secret=SECRET)
    with server.connect("/", bearer("7")) as client:
        client.send("refresh", {"token": bad})
        assert client.receive()["code"] == 4009
        assert server.connections.connections[client.socket_id].user.id == "7"


def test_two_tokens_are_one_too_many():
    with pytest.raises(AuthenticationError, match="more than one"):
        find_token({"HTTP_AUTHORIZATION": "Bearer a", "HTTP_SEC_WEBSOCKET_PROTOCOL": "bearer.b"}, "token")
    for brought in ({"HTTP_AUTHORIZATION": "Bearer a"}, {"HTTP_SEC_WEBSOCKET_PROTOCOL": "bearer.a"}, {}):
        with pytest.raises(AuthenticationError, match="more than one token"):
            find_token({**brought, "QUERY_STRING": "token=b&page=1" if brought else "token=a&token=b"}, "token")
    with pytest.raises(AuthenticationError, match="8192"):
        find_token({"HTTP_AUTHORIZATION": "Bearer " + "a" * 9000}, "token")


# Origins


@pytest.mark.parametrize(
    ("allowed", "origin", "fits"),
    [
        ([], None, True),
        ([], "http://app.test:9501", True),
        ([], "https://app.test:9501", True),
        ([], "https://app.test", False),
        ([], "http://evil.test", False),
        ([], "null", False),
        ([], "http://[bad", False),
        (["*"], "http://evil.test", True),
        (["https://a.test"], "https://a.test", True),
        (["https://a.test"], "HTTPS://A.TEST", True),
        (["https://a.test"], "http://a.test", False),
        (["https://a.test"], "https://a.test.evil.test", False),
        (["https://a.test"], "https://a.test:8443", False),
        (["https://*.a.test"], "https://x.y.a.test", True),
        (["https://*.a.test"], "https://a.test", False),
        (["https://*.a.test"], "https://evil.test/.a.test", False),
        (["a.test"], "http://a.test", True),
        (["https://a.test", "https://b.test"], "https://b.test", True),
    ],
)
def test_origin_rules(allowed, origin, fits):
    assert OriginRules(allowed).allows(origin, "app.test:9501", "http") is fits


def test_default_ports_are_the_same_host():
    assert OriginRules([]).allows("https://app.test", "app.test", "http")
    assert OriginRules([]).allows("https://app.test", "app.test:443", "https")


def test_a_page_from_elsewhere_is_refused_and_gets_nothing_more(serve):
    server = serve(allowed_origins=("https://app.test",))
    with pytest.raises(Refused) as caught:
        server.connect("/", {"Origin": "https://evil.test"})
    assert caught.value.status == 403
    server.connect("/", {"Origin": "https://app.test"}).close()


# Secrets


def test_no_token_gets_into_a_log_line():
    text = token()
    for line in (
        f"GET /?token={text} HTTP/1.1",
        f"GET /?a=b&token={text}&c=d",
        f"Authorization: Bearer {text}",
        f"alphavel.v1, bearer.{text}",
        "GET /?token=opaque-token HTTP/1.1",
        "GET /?a=b&access_token=opaque-token HTTP/1.1",
        "GET /?JWT=opaque-token&c=d HTTP/1.1",
        "token=opaque-token",
    ):
        masked = mask(line)
        assert text not in masked
        assert "opaque-token" not in masked
        assert "***" in masked
    assert mask("GET /?a=b&token=abc&c=d").endswith("&c=d")
    assert mask("POST /apps/1/events?auth_signature=0123abcd HTTP/1.1").endswith("?auth_signature=*** HTTP/1.1")


def test_access_log_holds_no_token(serve, caplog):
    from dataclasses import replace

    from alphavel.websocket.settings import LoggingSettings

    server = serve(secret=SECRET, logging=replace(LoggingSettings(), access=True))
    text = token()
    with caplog.at_level(logging.INFO, "alphavel"):
        server.connect(f"/?token={text}").close()
        with pytest.raises(Refused):
            server.connect("/?token=opaque-secret-thing")
        wait_until(lambda: "101" in caplog.text and "401" in caplog.text)
    assert text not in caplog.text
    assert "opaque-secret-thing" not in caplog.text
