"""
What travels on a bus: one JSON object, with the version of its format, who sent it, and a signature where the fleet has a
secret. Pure: no I/O, no clock.

    {"v":1,"payload":{"origin":"4f0c…","kind":"push",…}}
    {"v":1,"payload":{"origin":"4f0c…","numbers":[1,57,3],"kind":"push",…}}     see `numbering`
    {"v":1,"signature":"<HMAC-SHA256 of the payload's bytes, hex>","payload":{…}}

The payload stands last and nothing follows it but the closing brace, so that its very bytes can be cut out and checked before
anything of it is parsed.
"""

from __future__ import annotations

from typing import Any

import orjson

from alphavel.websocket.auth.signatures import same, sign
from alphavel.websocket.bus.numbering import Numbers
from alphavel.websocket.compact import compact

VERSION = 1

_PLAIN = b'{"v":1,"payload":'
_SIGNED = b'{"v":1,"signature":"'
_AFTER_SIGNATURE = b'","payload":'
_SIGNATURE_END = len(_SIGNED) + 64
_PAYLOAD_START = _SIGNATURE_END + len(_AFTER_SIGNATURE)


class EnvelopeError(ValueError):
    """What came off the bus is not to be acted on."""


class MalformedError(EnvelopeError):
    """What came is no envelope of this version."""


class ForgedError(EnvelopeError):
    """What came is not signed with the fleet's secret."""


def write(kind: str, content: dict[str, Any]) -> bytes:
    """
    Write what an envelope is to hold.

    Args:
        kind: What it is: `push`, …
        content: Further members of the payload; JSON-able, `orjson.Fragment` for what is JSON already.
    """
    return compact(orjson.dumps({"kind": kind, **content}))  # an outbox keeps it for a minute


class Envelopes:
    """
    Seals and opens envelopes.

    Attributes:
        origin: Who seals them: unique to the node.
    """

    def __init__(self, origin: str, secret: str | None = None) -> None:
        """
        Args:
            origin: Name of this node.
            secret: What the whole fleet signs with; None: envelopes are neither signed nor checked.
        """
        self.origin = origin
        self._secret = secret
        self._head = b'{"origin":%b,' % orjson.dumps(origin)

    def seal(self, kind: str, content: dict[str, Any]) -> bytes:
        """Make an envelope; see `write`."""
        return self.wrap(write(kind, content))

    def wrap(self, written: bytes, numbers: Numbers | None = None) -> bytes:
        """Make an envelope of what `write` returned, with numbers where the bus gives some."""
        head = self._head if numbers is None else b'%b"numbers":[%d,%d,%d],' % (self._head, *numbers)
        payload = head + written[1:]
        if self._secret is None:
            return b"".join((_PLAIN, payload, b"}"))
        return b"".join((_SIGNED, sign(self._secret, payload).encode(), _AFTER_SIGNATURE, payload, b"}"))

    def open(self, envelope: bytes) -> dict[str, Any] | None:
        """
        Check an envelope and return its payload; None for one that this node sealed itself.

        Raises:
            MalformedError: It is no envelope of this version.
            ForgedError: The fleet has a secret and the envelope is not signed with it.
        """
        if envelope.startswith(self._head, len(_PLAIN) if self._secret is None else _PAYLOAD_START):
            return None  # before anything else: on a channel that is wanted here, too, all that this node publishes comes back
        payload = self._payload(envelope)
        try:
            content = orjson.loads(payload)
        except ValueError as error:
            raise MalformedError(f"Expected an envelope with a payload of JSON: {error}.") from None
        if not isinstance(content, dict) or not isinstance(content.get("origin"), str) or "kind" not in content:
            raise MalformedError('Expected a payload with "origin" and "kind".')
        return None if content["origin"] == self.origin else content

    def _payload(self, envelope: bytes) -> bytes:
        if envelope.startswith(_SIGNED) and envelope[_SIGNATURE_END:_PAYLOAD_START] == _AFTER_SIGNATURE:
            payload = envelope[_PAYLOAD_START:-1]
            signature = envelope[len(_SIGNED) : _SIGNATURE_END].decode("ascii", "replace")
            if self._secret is not None and not same(sign(self._secret, payload), signature):
                raise ForgedError("The envelope's signature is wrong: it was made with another secret, or changed on its way.")
            return payload
        if not envelope.startswith(_PLAIN):
            raise MalformedError(f"Expected an envelope of version {VERSION}; got {envelope[:40]!r}.")
        if self._secret is not None:
            raise ForgedError("The envelope is not signed; here all are, because a secret is set.")
        return envelope[len(_PLAIN) : -1]
