"""Where a client puts its token: three ways, because browsers can set no header and query strings end up in logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from alphavel.websocket.auth.users import AuthenticationError

SUBPROTOCOL = "alphavel.v1"
_BEARER_SUBPROTOCOL = "bearer."
_MAX_TOKEN_CHARACTERS = 8192


class Credential(NamedTuple):
    """
    What a request brought.

    Attributes:
        token: The token, or None.
        subprotocol: What the response is to name in `Sec-WebSocket-Protocol`: never the token.
    """

    token: str | None
    subprotocol: str | None


def find_token(environ: Mapping[str, Any], query_param: str | None) -> Credential:
    """
    Look for a token in an upgrade request.

    In this order: `Authorization: Bearer JWT`, the subprotocols `alphavel.v1, bearer.JWT`, the query string.

    Args:
        environ: WSGI environ.
        query_param: Name of the query parameter; None: not looked for there.

    Raises:
        AuthenticationError: There are two, or one that is too long.
    """
    names = [name.strip() for name in environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "").split(",")]
    found = [name[len(_BEARER_SUBPROTOCOL) :] for name in names if name.startswith(_BEARER_SUBPROTOCOL)]
    scheme, _, header = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() == "bearer" and header.strip():
        found.insert(0, header.strip())
    query = environ.get("QUERY_STRING", "") if query_param is not None else ""
    if query_param is not None and query_param in query:
        found += parse_qs(query).get(query_param, [])
    if len(found) > 1:
        raise AuthenticationError("The request carries more than one token.")
    if found and len(found[0]) > _MAX_TOKEN_CHARACTERS:
        raise AuthenticationError(f"A token has at most {_MAX_TOKEN_CHARACTERS} characters.")
    return Credential(found[0] if found else None, SUBPROTOCOL if SUBPROTOCOL in names else None)
