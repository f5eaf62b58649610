"""Signatures of the Pusher protocol. Other people's libraries made the expected values."""

from __future__ import annotations

import base64
import time

import pusher
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphavel.websocket.auth import signatures
from alphavel.websocket.auth.signatures import SignatureError

KEY, SECRET, SOCKET = "app-key", "app-secret", "1234.5678"
MEMBER = '{"user_id":"u1","user_info":{"name":"Ann"}}'
USER = '{"id":"u1","user_info":{"name":"Ann"}}'
NOW = 1_700_000_000
EVENT = rb'{"name":"my-event","channel":"my-channel","data":"{\"a\":1}","socket_id":"1234.5678"}'
EVENT_MD5 = "d72a2006905028acc242e52531ed7408"
WEBHOOK = b'{"time_ms":1700000000000,"events":[{"name":"channel_occupied","channel":"my-channel"}]}'
WEBHOOK_SIGNATURE = "fec9fff324b82111ea03affc886e951bec5ee7a9e365bfd05cf254414c990a1a"


@pytest.mark.parametrize(
    ("channel", "channel_data", "expected"),
    [
        ("private-orders.7", None, "dc19424a29b38517f4c6c1c59e921ce4a0cee1d403b94033cb50b395052470cf"),
        ("private-encrypted-x", None, "47f4317365e96febae4195b7256604cbd8b0c929b3c25960c3cd7a5467110c2c"),
        ("presence-room.1", MEMBER, "9be79cc23475ed3551aba5b38aba50b885f62e07b74fbb32436f1e6b0fac3ea0"),
        (
            "presence-room.1",
            '{"user_id": "u1", "user_info": {"name": "Ann"}}',
            "996cc2a59a1d8a6e2162a011a312754faa38d3cce2f13fad548c0a647b7ffbaf",
        ),
    ],
)
def test_channel_auth_is_what_the_libraries_make(channel, channel_data, expected):
    auth = signatures.channel_auth(KEY, SECRET, SOCKET, channel, channel_data)
    assert auth == f"{KEY}:{expected}"
    signatures.check_channel_auth(auth, KEY, SECRET, SOCKET, channel, channel_data)


def test_user_auth_is_what_the_libraries_make():
    auth = signatures.user_auth(KEY, SECRET, SOCKET, USER)
    assert auth == f"{KEY}:8e1f9ea81697fab36f145fd1c2f31fdf568636f14af30002752754ac57fd24d1"
    signatures.check_user_auth(auth, KEY, SECRET, SOCKET, USER)


def test_the_vectors_printed_in_the_protocols_documentation_hold():
    key, secret = "278d425bdf160c739803", "7ad3773142a6692b25b8"
    private = signatures.channel_auth(key, secret, "1234.1234", "private-foobar")
    assert private == f"{key}:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"


@pytest.mark.parametrize(
    ("auth", "problem"),
    [
        (None, '"auth"'),
        ("", '"auth"'),
        (7, '"auth"'),
        ("dc19424a29b38517f4c6c1c59e921ce4a0cee1d403b94033cb50b395052470cf", "another key"),
        ("other-key:dc19424a29b38517f4c6c1c59e921ce4a0cee1d403b94033cb50b395052470cf", "another key"),
        ("app-key:DC19424A29B38517F4C6C1C59E921CE4A0CEE1D403B94033CB50B395052470CF", "Invalid signature"),
        ("app-key:dc19424a29b38517f4c6c1c59e921ce4a0cee1d403b94033cb50b395052470c", "Invalid signature"),
        ("app-key:dc19424a29b38517f4c6c1c59e921ce4a0cee1d403b94033cb50b395052470cf ", "Invalid signature"),
        ("app-key:\ud800", "Invalid signature"),
        ("app-key:", "Invalid signature"),
        (":", "another key"),
    ],
)
def test_an_auth_that_is_not_exactly_right_is_refused_and_the_text_says_why(auth, problem):
    with pytest.raises(SignatureError, match=problem) as error:
        signatures.check_channel_auth(auth, KEY, SECRET, SOCKET, "private-orders.7")
    assert SECRET not in str(error.value)


def test_an_auth_is_good_for_one_connection_one_channel_and_the_very_bytes_of_its_member():
    auth = signatures.channel_auth(KEY, SECRET, SOCKET, "presence-room.1", MEMBER)
    for changed in (
        ("1234.5679", "presence-room.1", MEMBER),
        (SOCKET, "presence-room.2", MEMBER),
        (SOCKET, "presence-room.1", MEMBER.replace(":", ": ")),
        (SOCKET, "presence-room.1", None),
    ):
        with pytest.raises(SignatureError):
            signatures.check_channel_auth(auth, KEY, SECRET, *changed)


def test_a_socket_id_is_two_numbers_so_that_nothing_can_be_smuggled_into_what_is_signed():
    assert signatures.is_socket_id(SOCKET)
    for text in ("", "1", "1.", ".1", "1.2.3", "1.2\n", "1.2:private-x", "a.b", "١.٢", None, 1.2):
        assert not signatures.is_socket_id(text)


def test_shared_secret_is_what_the_libraries_make():
    assert signatures.shared_secret("private-encrypted-x", bytes(range(32))) == "6WW+JhQkrDHUfm5BytoU8ryaUq0zo82MTvUPheddo/Y="
    with pytest.raises(ValueError, match="32 bytes; got 31"):
        signatures.shared_secret("private-encrypted-x", bytes(31))


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40),
    st.dictionaries(st.text(max_size=10), st.text(max_size=20)),
)
def test_we_and_the_pusher_library_sign_alike(user_id, info):
    client = pusher.Pusher(
        app_id="1", key=KEY, secret=SECRET, encryption_master_key_base64=base64.b64encode(bytes(range(32))).decode()
    )
    reply = client.authenticate("presence-room.1", SOCKET, {"user_id": user_id, "user_info": info})
    signatures.check_channel_auth(reply["auth"], KEY, SECRET, SOCKET, "presence-room.1", reply["channel_data"])
    encrypted = client.authenticate("private-encrypted-x", SOCKET)
    assert encrypted["shared_secret"].decode() == signatures.shared_secret("private-encrypted-x", bytes(range(32)))


# Requests


def query(**given):
    return {"auth_key": KEY, "auth_timestamp": str(NOW), "auth_version": "1.0", **given}


REQUESTS = {
    "event": (
        ("POST", "/apps/1/events", query(body_md5=EVENT_MD5), EVENT),
        "82c425eba0d4e72dbe3bc3fbd52a5954249fe972ee1042940a0648b7f14af346",
    ),
    "channels": (
        ("GET", "/apps/1/channels", query(filter_by_prefix="presence-", info="user_count"), b""),
        "985aebc7e3bd1977bb4ab10e11ad6eba7624244a20ac945c884f459dd1366359",
    ),
    "channels as Python's library asks": (
        ("GET", "/apps/1/channels", query(body_md5="d41d8cd98f00b204e9800998ecf8427e"), b""),
        "014b0ccda2ea13e4e7ba1aef68970577bc73e3f22909181d87ce2fe149a65f32",
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_signed_request_is_what_the_libraries_send(name):
    (method, path, parameters, body), expected = REQUESTS[name]
    assert signatures.sign(SECRET, signatures.string_to_sign(method, path, parameters)) == expected
    signed = {**parameters, "auth_signature": expected}
    signatures.check_request(KEY, SECRET, method, path, signed, body, NOW)
    signatures.check_request(KEY, SECRET, method, path, dict(reversed(signed.items())), body, NOW)


def test_we_sign_requests_as_the_libraries_do():
    (method, path, _, body), expected = REQUESTS["event"]
    assert signatures.sign_request(KEY, SECRET, method, path, {}, body, NOW + 0.9) == query(
        body_md5=EVENT_MD5, auth_signature=expected
    )


def event_request(**changes):
    return {**query(body_md5=EVENT_MD5, auth_signature=REQUESTS["event"][1]), **changes}


def resigned(body=b"", method="POST", path="/apps/1/events", **given):
    parameters = query(**given)
    parameters["auth_signature"] = signatures.sign(SECRET, signatures.string_to_sign(method, path, parameters))
    return parameters


@pytest.mark.parametrize(
    ("parameters", "body", "problem"),
    [
        ({}, EVENT, "needs auth_key"),
        (event_request(auth_signature=""), EVENT, "needs auth_signature"),
        (event_request(auth_key="other"), EVENT, "not the key"),
        (event_request(auth_version="2.0"), EVENT, "auth_version 1.0"),
        (event_request(auth_signature="0" * 64), EVENT, "Invalid signature"),
        (event_request(auth_signature=REQUESTS["event"][1].upper()), EVENT, "Invalid signature"),
        (event_request(body_md5="0" * 32), EVENT, "Invalid signature"),
        (event_request(more="1"), EVENT, "Invalid signature"),
        (event_request(), EVENT + b" ", "body_md5"),
        (event_request(), b"", "body_md5"),
        (resigned(), EVENT, "body_md5"),
        (resigned(body_md5=EVENT_MD5.upper()), EVENT, "body_md5"),
        (resigned(auth_timestamp="soon"), b"", "whole number"),
        (resigned(auth_timestamp="1e9"), b"", "whole number"),
        (resigned(auth_timestamp="9" * 400), b"", "whole number"),
        (resigned(auth_timestamp=str(NOW - 601)), b"", "601 s before"),
        (resigned(auth_timestamp=str(NOW + 601)), b"", "601 s after"),
    ],
)
def test_a_request_that_is_not_signed_exactly_right_is_refused_and_the_text_says_why(parameters, body, problem):
    with pytest.raises(SignatureError, match=problem) as error:
        signatures.check_request(KEY, SECRET, "POST", "/apps/1/events", parameters, body, NOW)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("seconds", [-600, 600])
def test_a_timestamp_may_be_ten_minutes_off(seconds):
    signatures.check_request(KEY, SECRET, "POST", "/apps/1/events", resigned(auth_timestamp=str(NOW + seconds)), b"", NOW)


def test_names_are_signed_in_lower_case_and_php_lists_joined_with_commas():
    pairs = [("Info[0]", "user_count"), ("info[1]", "cache"), ("AUTH_KEY", KEY)]
    assert signatures.read_parameters(pairs) == {"info": "user_count,cache", "auth_key": KEY}


def test_a_parameter_that_comes_twice_is_refused():
    with pytest.raises(SignatureError, match="'auth_key' stands in the query more than once"):
        signatures.read_parameters([("auth_key", KEY), ("Auth_Key", "other")])


# Webhooks


def test_a_webhook_is_signed_as_the_libraries_check_it():
    assert signatures.sign(SECRET, WEBHOOK) == WEBHOOK_SIGNATURE
    signatures.check_webhook(KEY, SECRET, KEY, WEBHOOK_SIGNATURE, WEBHOOK)


def test_the_pusher_library_accepts_our_webhooks():
    body = WEBHOOK.replace(b"1700000000000", str(int(time.time() * 1000)).encode())
    client = pusher.Pusher(app_id="1", key=KEY, secret=SECRET)
    assert client.validate_webhook(KEY, signatures.sign(SECRET, body), body.decode())["events"][0]["channel"] == "my-channel"


@pytest.mark.parametrize(
    ("key", "signature", "body", "problem"),
    [
        (None, WEBHOOK_SIGNATURE, WEBHOOK, "X-Pusher-Key"),
        ("other", WEBHOOK_SIGNATURE, WEBHOOK, "X-Pusher-Key"),
        (KEY, None, WEBHOOK, "X-Pusher-Signature"),
        (KEY, WEBHOOK_SIGNATURE, WEBHOOK + b" ", "X-Pusher-Signature"),
    ],
)
def test_a_webhook_that_is_not_ours_is_refused(key, signature, body, problem):
    with pytest.raises(SignatureError, match=problem):
        signatures.check_webhook(KEY, SECRET, key, signature, body)
