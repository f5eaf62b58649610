"""
Who may join which channel: authorizers by name pattern. Deny is the default.

A pattern is a channel's name in which `{part}` stands for one or more characters other than a dot, as in Laravel:
`private-user.{user_id}` matches `private-user.7` and gives `user_id="7"`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from alphavel.websocket.auth.users import User
from alphavel.websocket.channels.channel import info_to_json

Authorizer = Callable[..., Any]
"""`authorizer(user, **parts)`: True or False; on presence channels also a dict, the member's info."""

_PART = re.compile(r"\{([^{}]*)\}")


class Rule(NamedTuple):
    """One registered authorizer."""

    pattern: str
    regex: re.Pattern[str]
    authorizer: Authorizer
    wanted: frozenset[str] | None  # names of the parts it takes; None: all


class Grant(NamedTuple):
    """The answer to a subscription: whether it is granted, and what the authorizer told of the member."""

    allowed: bool
    info: dict[str, Any]


DENIED = Grant(False, {})


class Authorizers:
    """The authorizers of one server, asked in the order they were registered: the first that matches decides."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, pattern: str, authorizer: Authorizer) -> None:
        """
        Register `authorizer` for channels whose name matches `pattern`.

        Raises:
            ValueError: The pattern has a part that is no identifier, names one twice, or has a brace that stands alone.
            TypeError: The authorizer asks for an argument that is no part of the pattern, or is an `async def`.
        """
        if inspect.iscoroutinefunction(authorizer):
            raise TypeError(f"The authorizer of {pattern!r} is an `async def`, which nobody would await; use `def`.")
        regex = compile_pattern(pattern)
        rule = Rule(pattern, regex, authorizer, _wanted_parts(pattern, regex, authorizer))
        self._rules.append(rule)

    def covers(self, channel: str) -> bool:
        """Whether some authorizer matches the channel's name."""
        return any(rule.regex.fullmatch(channel) for rule in self._rules)

    def ask(self, user: User | None, channel: str) -> Grant:
        """
        Ask the first authorizer that matches. It is the application's code: it may block, switch and raise.

        Args:
            user: Who asks; None for an anonymous connection.
            channel: Name of the channel.

        Returns:
            `Grant(allowed, info)`. Without a matching authorizer: denied.

        Raises:
            TypeError: The authorizer returned something other than a bool, None or a dict that JSON can hold.
        """
        for rule in self._rules:
            match = rule.regex.fullmatch(channel)
            if match:
                parts = match.groupdict()
                if rule.wanted is not None:
                    parts = {name: text for name, text in parts.items() if name in rule.wanted}
                return _grant(rule, rule.authorizer(user, **parts))
        return DENIED

    def patterns(self) -> list[str]:
        """Registered patterns, in the order they are asked."""
        return [rule.pattern for rule in self._rules]


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """
    Turn `private-user.{user_id}` into a regular expression with a named group for each part.

    Raises:
        ValueError: A part's name is no identifier, or appears twice, or a brace stands alone.
    """
    pieces = _PART.split(pattern)  # text, name, text, name, …, text
    names = pieces[1::2]
    if any(brace in text for text in pieces[::2] for brace in "{}"):
        raise ValueError(f"Channel pattern {pattern!r}: a part is written {{name}}; here a brace stands alone.")
    for name in names:
        if not name.isidentifier() or names.count(name) > 1:
            raise ValueError(f"Channel pattern {pattern!r}: {{{name}}} must be an identifier that stands there once.")
    return re.compile("".join(f"(?P<{piece}>[^.]+)" if index % 2 else re.escape(piece) for index, piece in enumerate(pieces)))


def _wanted_parts(pattern: str, regex: re.Pattern[str], authorizer: Authorizer) -> frozenset[str] | None:
    parameters = list(inspect.signature(authorizer).parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    wanted = frozenset(parameter.name for parameter in parameters[1:] if parameter.kind is not parameter.VAR_POSITIONAL)
    unknown = [
        parameter.name
        for parameter in parameters[1:]
        if parameter.name in wanted - set(regex.groupindex) and parameter.default is parameter.empty
    ]
    if unknown or not parameters:
        parts = ", ".join(regex.groupindex) or "none"
        raise TypeError(
            f"The authorizer of {pattern!r} is called as authorizer(user, **parts) with these parts: {parts}. "
            f"It asks for {', '.join(unknown) or 'nothing, not even the user'}."
        )
    return wanted


def _grant(rule: Rule, answer: object) -> Grant:
    if isinstance(answer, dict):
        try:
            # A copy: what the application does to its dict later must not reach the hub, which tells the members.
            return Grant(True, orjson.loads(info_to_json(answer)))
        except TypeError as error:
            raise TypeError(f"The authorizer of {rule.pattern!r} returned info that JSON cannot hold: {error}") from error
    if answer is None or isinstance(answer, bool):
        return Grant(bool(answer), {})
    raise TypeError(
        f"The authorizer of {rule.pattern!r} returned {type(answer).__name__}; expected a bool or a dict of member info."
    )
