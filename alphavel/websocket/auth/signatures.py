"""
Signatures of the Pusher protocol: HMAC-SHA256 over agreed texts, with an app's secret. Pure functions: what was received
goes in, a verdict comes out; the time is an argument.

Whatever is compared is compared in constant time, over the very bytes that came: JSON is never written anew before.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping

AUTH_VERSION = "1.0"
TIMESTAMP_WINDOW_S = 600

_SOCKET_ID = re.compile(r"[0-9]+\.[0-9]+")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_MASTER_KEY_BYTES = 32


class SignatureError(Exception):
    """A signature is missing or wrong. Its text says what was expected and can be shown: it never holds a secret."""


def sign(secret: str, text: str | bytes) -> str:
    """Return the HMAC-SHA256 of a text (UTF-8) as 64 lower-case hex digits."""
    message = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")  # JSON can bring lone surrogates
    return hmac.digest(secret.encode(), message, "sha256").hex()


def same(expected: str, given: object) -> bool:
    """Compare a signature with what came, in constant time. Anything that is no text is different."""
    return isinstance(given, str) and hmac.compare_digest(expected.encode(), given.encode(errors="surrogatepass"))


def is_socket_id(text: object) -> bool:
    """Whether a text is a socket id, `digits.digits`. Whoever signs one has to ask: a colon in it would forge a channel."""
    return isinstance(text, str) and _SOCKET_ID.fullmatch(text) is not None


# Channels and users


def channel_auth(key: str, secret: str, socket_id: str, channel: str, channel_data: str | None = None) -> str:
    """
    Return the `auth` that lets one connection subscribe to a private, encrypted or presence channel: `key:signature`.

    Args:
        key, secret: The app's.
        socket_id: Whose connection it is.
        channel: Name of the channel with its prefix.
        channel_data: On presence channels the member as JSON text, signed as it is. None where the channel has no
            members, or where the member is the signed-in user of the connection.

    Pusher, "Generating the authentication string", channels.
    """
    data = "" if channel_data is None else f":{channel_data}"
    return f"{key}:{sign(secret, f'{socket_id}:{channel}{data}')}"


def user_auth(key: str, secret: str, socket_id: str, user_data: str) -> str:
    """
    Return the `auth` that signs a user in on one connection: `key:signature`.

    Args:
        key, secret: The app's.
        socket_id: Whose connection it is.
        user_data: The user as JSON text, signed as it is.

    Pusher, "Generating the authentication string", users.
    """
    return f"{key}:{sign(secret, f'{socket_id}::user::{user_data}')}"


def check_channel_auth(
    auth: object, key: str, secret: str, socket_id: str, channel: str, channel_data: str | None = None
) -> None:
    """
    Check the `auth` of a subscription, see `channel_auth`.

    Raises:
        SignatureError: It is not the one this app gives for this connection, channel and member.
    """
    signed = "socket_id:channel" if channel_data is None else "socket_id:channel:channel_data"
    _check_auth(auth, key, channel_auth(key, secret, socket_id, channel, channel_data), signed)


def check_user_auth(auth: object, key: str, secret: str, socket_id: str, user_data: str) -> None:
    """
    Check the `auth` of a sign-in, see `user_auth`.

    Raises:
        SignatureError: It is not the one this app gives for this connection and user.
    """
    _check_auth(auth, key, user_auth(key, secret, socket_id, user_data), "socket_id::user::user_data")


def _check_auth(auth: object, key: str, expected: str, signed: str) -> None:
    if not isinstance(auth, str) or not auth:
        raise SignatureError(f'This needs an "auth", "key:signature", the signature being HMAC-SHA256 of {signed} in hex.')
    if same(expected, auth):
        return
    if not same(key, auth.partition(":")[0]):
        raise SignatureError('The "auth" is not signed with the key of this app: it begins with another key.')
    raise SignatureError(f"Invalid signature: expected HMAC-SHA256 of {signed} in hex, made with the app's secret.")


def shared_secret(channel: str, master_key: bytes) -> str:
    """
    Return the key of one encrypted channel as base64, for those who may read it.

    Args:
        channel: Name of the channel, `private-encrypted-…`.
        master_key: 32 bytes that the server never needs to know.

    Raises:
        ValueError: The master key has another length.

    Pusher, "End-to-end encryption".
    """
    if len(master_key) != _MASTER_KEY_BYTES:
        raise ValueError(f"Expected a master key of {_MASTER_KEY_BYTES} bytes; got {len(master_key)}.")
    return base64.b64encode(hashlib.sha256(channel.encode() + master_key).digest()).decode()


# Requests to the HTTP API


def read_parameters(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """
    Read a query as it is signed: names in lower case, and lists as PHP writes them (`info[0]=a&info[1]=b`) joined: `info=a,b`.

    Args:
        pairs: The query's names and values, decoded, in order.

    Raises:
        SignatureError: A name stands there twice: which value was signed could not be told.
    """
    parameters: dict[str, str] = {}
    seen = set()
    for sent, value in pairs:
        key = sent.lower()
        if key in seen:
            raise SignatureError(f"The parameter {key[:50]!r} stands in the query more than once.")
        seen.add(key)
        name = key.partition("[")[0]
        parameters[name] = f"{parameters[name]},{value}" if name in parameters else value
    return parameters


def string_to_sign(method: str, path: str, parameters: Mapping[str, str]) -> str:
    """
    Return what is signed of a request: method, path, and the query sorted by name, nothing escaped.

    Args:
        method: `GET`, `POST`.
        path: Path without the query, decoded.
        parameters: The query, names in lower case; `auth_signature` is left out.
    """
    pairs = "&".join(f"{name}={parameters[name]}" for name in sorted(parameters) if name != "auth_signature")
    return f"{method}\n{path}\n{pairs}"


def sign_request(
    key: str, secret: str, method: str, path: str, parameters: Mapping[str, str], body: bytes, now: float
) -> dict[str, str]:
    """
    Return the query of a signed request: the given parameters, the `auth_…` ones and, with a body, `body_md5`.

    Args:
        key, secret: The app's.
        method, path, parameters: See `string_to_sign`.
        body: Body of the request, may be empty.
        now: Seconds since the epoch.
    """
    query = {**parameters, "auth_key": key, "auth_timestamp": str(int(now)), "auth_version": AUTH_VERSION}
    if body:
        query["body_md5"] = body_md5(body)
    query["auth_signature"] = sign(secret, string_to_sign(method, path, query))
    return query


def check_request(
    key: str, secret: str, method: str, path: str, parameters: Mapping[str, str], body: bytes, now: float
) -> None:
    """
    Check a request's signature: the parameters as they came, then what they say of the body and the time.

    `body_md5` is neither added nor dropped before: one of the common libraries signs GETs with the MD5 of nothing.

    Args:
        key, secret: The app's.
        method, path: As they came; the path decoded.
        parameters: The query, from `read_parameters`.
        body: The body as it came.
        now: Seconds since the epoch.

    Raises:
        SignatureError: Says which part does not hold.
    """
    for name in ("auth_key", "auth_timestamp", "auth_version", "auth_signature"):
        if not parameters.get(name):
            raise SignatureError(f"The query needs {name}: requests to this API are signed.")
    if not same(key, parameters["auth_key"]):
        raise SignatureError("auth_key is not the key of this app.")
    if parameters["auth_version"] != AUTH_VERSION:
        raise SignatureError(f"Expected auth_version {AUTH_VERSION}; got {parameters['auth_version'][:20]!r}.")
    signed = string_to_sign(method, path, parameters)
    if not same(sign(secret, signed), parameters["auth_signature"]):
        # What was signed holds no secret, and is what one needs to find the difference.
        raise SignatureError(
            f"Invalid signature: expected HMAC-SHA256 in hex, made with the app's secret, of {signed[:1000]!r}; "
            f"got auth_signature={parameters['auth_signature'][:80]!r}."
        )
    _check_timestamp(parameters["auth_timestamp"], now)
    if (body or "body_md5" in parameters) and not same(body_md5(body), parameters.get("body_md5")):
        raise SignatureError("body_md5 is not the MD5 of the body that came, 32 lower-case hex digits.")


def _check_timestamp(given: str, now: float) -> None:
    if not _WHOLE_NUMBER.fullmatch(given):
        raise SignatureError("auth_timestamp is not a whole number of seconds since 1970.")
    difference = int(given) - now
    if abs(difference) > TIMESTAMP_WINDOW_S:
        raise SignatureError(
            f"Timestamp expired: auth_timestamp {given} is {abs(difference):.0f} s {'after' if difference > 0 else 'before'} "
            f"this server's time, {now:.0f}; at most {TIMESTAMP_WINDOW_S} s are accepted. Check both clocks."
        )


def body_md5(body: bytes) -> str:
    """Return the MD5 of a body in hex, as the protocol wants it; the HMAC over it is what protects."""
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


# Webhooks


def check_webhook(key: str, secret: str, given_key: object, signature: object, body: bytes) -> None:
    """
    Check a webhook that was received. Its signature is `sign(secret, body)`, in `X-Pusher-Signature`.

    Args:
        key, secret: The app's.
        given_key: The header `X-Pusher-Key`.
        signature: The header `X-Pusher-Signature`.
        body: The body as it came.

    Raises:
        SignatureError: It was not sent by a server that knows the secret.
    """
    if not same(key, given_key):
        raise SignatureError("X-Pusher-Key is not the key of this app.")
    if not same(sign(secret, body), signature):
        raise SignatureError("X-Pusher-Signature is not the HMAC-SHA256 of the body, made with the app's secret.")
