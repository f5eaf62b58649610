"""Checks of what a client sent that answer where something is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alphavel.websocket.channels import POISON, name_error
from alphavel.websocket.protocols import ErrorCode

if TYPE_CHECKING:
    from alphavel.websocket.connections import Connection

HANDLER_FAILED = "The server failed to handle this event."
LONGEST_NAME_REPEATED = 1024
"""A name that a client sent stands in what it is answered, unless it is longer than this."""


def send_error(connection: Connection, code: int, message: str, **context: Any) -> None:
    """Send an error event; the connection stays."""
    answer = connection.protocol.error(code, message, context)
    if answer is not None:
        connection.transport.send_frame(answer)


def code_of(problem: str) -> ErrorCode:
    """Return the code that goes with what `name_error` says."""
    return ErrorCode.TOO_LONG if "at most" in problem else ErrorCode.BAD_MESSAGE


def good_name(connection: Connection, name: Any, max_length: int) -> bool:
    """Whether something is the name of a channel; where not, the client is told."""
    problem = name_error(name, max_length)
    if problem is None:
        return True
    # Clients find by the channel which of their requests is meant.
    context = {"channel": name} if isinstance(name, str) and len(name) <= LONGEST_NAME_REPEATED else {}
    send_error(connection, code_of(problem), problem, **context)
    return False


def good_event_name(connection: Connection, event: str, max_length: int) -> bool:
    """Whether something may be the name of an event; where not, the client is told."""
    if len(event) > max_length:
        send_error(connection, ErrorCode.TOO_LONG, f"An event's name has at most {max_length} characters.")
        return False
    if event == POISON:
        send_error(connection, ErrorCode.BAD_MESSAGE, f"An event's name cannot be {POISON}.")
        return False
    return True
