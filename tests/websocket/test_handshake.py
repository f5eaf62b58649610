"""The opening handshake, RFC 6455, section 4."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphavel.websocket.handshake import Handshake, HandshakeError, accept_value, parse_extensions

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def environ(**changes):
    good = {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "shop.example.com",
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "keep-alive, Upgrade",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_SEC_WEBSOCKET_KEY": KEY,
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def test_accept_value_is_that_of_the_rfc():
    assert accept_value(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_response_is_a_complete_101():
    response = Handshake.from_environ(environ()).response("alphavel.v1", "permessage-deflate")
    lines = response.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 101 Switching Protocols"
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
    assert "Sec-WebSocket-Protocol: alphavel.v1" in lines
    assert "Sec-WebSocket-Extensions: permessage-deflate" in lines
    assert lines[-2:] == ["", ""]


@pytest.mark.parametrize(
    ("change", "status", "header"),
    [
        ({"REQUEST_METHOD": "POST"}, 405, ("Allow", "GET")),
        ({"SERVER_PROTOCOL": "HTTP/1.0"}, 400, None),
        ({"HTTP_HOST": None}, 400, None),
        ({"HTTP_HOST": ""}, 400, None),
        ({"HTTP_UPGRADE": None}, 426, ("Upgrade", "websocket")),
        ({"HTTP_CONNECTION": "close"}, 426, ("Upgrade", "websocket")),
        ({"HTTP_SEC_WEBSOCKET_VERSION": "8"}, 426, ("Sec-WebSocket-Version", "13")),
        ({"HTTP_SEC_WEBSOCKET_VERSION": None}, 426, ("Sec-WebSocket-Version", "13")),
        ({"HTTP_SEC_WEBSOCKET_KEY": None}, 400, None),
        ({"HTTP_SEC_WEBSOCKET_KEY": "c2hvcnQ="}, 400, None),
        ({"HTTP_SEC_WEBSOCKET_KEY": "not base64 at all!!!!"}, 400, None),
        ({"HTTP_SEC_WEBSOCKET_KEY": "\u00e9" * 24}, 400, None),
        ({"CONTENT_LENGTH": "5"}, 400, None),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, 400, None),
    ],
)
def test_bad_requests_are_refused_with_the_right_status(change, status, header):
    with pytest.raises(HandshakeError) as caught:
        Handshake.from_environ(environ(**change))
    assert caught.value.status == status
    assert header is None or header in caught.value.headers
    assert caught.value.response().startswith(f"HTTP/1.1 {status} ".encode())


def test_no_line_break_gets_into_a_response():
    error = HandshakeError(400, "no", [("X-Echo", "a\r\nSet-Cookie: b=c\n\u0085d")])
    head = error.response().partition(b"\r\n\r\n")[0]
    assert b"\r\nSet-Cookie" not in head
    assert head.count(b"\n") == head.count(b"\r\n")


def test_extensions_are_parsed_in_order():
    assert parse_extensions('a; b; c=1; d="x\\"y", e;f') == [
        ("a", [("b", None), ("c", "1"), ("d", 'x\\"y')]),
        ("e", [("f", None)]),
    ]


@given(st.text(max_size=300))
def test_any_extension_header_is_survived(header):
    assert isinstance(parse_extensions(header), list)


@given(st.dictionaries(st.sampled_from(sorted(environ())), st.text(max_size=40)))
def test_any_request_gives_a_handshake_or_a_refusal(changes):
    try:
        Handshake.from_environ({**environ(), **changes})
    except HandshakeError as error:
        assert 400 <= error.status < 500
