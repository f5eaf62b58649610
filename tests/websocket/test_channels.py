"""Names, kinds and authorizers of channels."""

from __future__ import annotations

import pytest

from alphavel.websocket.auth import User
from alphavel.websocket.channels import Authorizers, Kind, name_error

ADA = User("7", b"{}")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("news", Kind.PUBLIC), ("private-x", Kind.PRIVATE), ("presence-x", Kind.PRESENCE), ("Private-x", Kind.PUBLIC)],
)
def test_kind_is_told_by_the_prefix(name, kind):
    assert Kind.of(name) is kind


@pytest.mark.parametrize("name", ["a", "chat.room.1", "private-user.7", "A_b-c=d@e,f.g;h", "x" * 164])
def test_good_names(name):
    assert name_error(name, 164) is None


@pytest.mark.parametrize("name", ["", None, 5, ["a"], "a b", "é", "a/b", "x" * 165, "a\n", "#x"])
def test_bad_names_are_explained(name):
    assert name_error(name, 164).endswith(".")


def ask(authorizers, channel, user=ADA):
    return authorizers.ask(user, channel)


def test_an_authorizer_gets_the_parts_of_the_name_it_asks_for():
    authorizers = Authorizers()
    authorizers.add("private-chat.{room}.{user_id}", lambda user, user_id: user_id == user.id)
    assert ask(authorizers, "private-chat.lobby.7").allowed
    assert not ask(authorizers, "private-chat.lobby.8").allowed


def test_a_part_is_never_empty_and_holds_no_dot():
    authorizers = Authorizers()
    authorizers.add("private-user.{user_id}", lambda user, **parts: True)
    assert ask(authorizers, "private-user.7").allowed
    for name in ("private-user.", "private-user.7.8", "private-userx7", "xprivate-user.7"):
        assert not ask(authorizers, name).allowed


def test_the_first_pattern_that_matches_decides():
    authorizers = Authorizers()
    authorizers.add("private-a.{x}", lambda user, x: False)
    authorizers.add("private-{y}.{x}", lambda user, x, y: True)
    assert not ask(authorizers, "private-a.1").allowed
    assert ask(authorizers, "private-b.1").allowed
    assert authorizers.patterns() == ["private-a.{x}", "private-{y}.{x}"]


@pytest.mark.parametrize(
    ("answer", "allowed", "info"),
    [(True, True, {}), (False, False, {}), (None, False, {}), ({}, True, {}), ({"n": 1}, True, {"n": 1})],
)
def test_answers_of_an_authorizer(answer, allowed, info):
    authorizers = Authorizers()
    authorizers.add("presence-x", lambda user: answer)
    assert ask(authorizers, "presence-x") == (allowed, info)


def test_an_answer_that_is_neither_yes_nor_no_is_an_error_and_not_a_yes():
    authorizers = Authorizers()
    authorizers.add("private-x", lambda user: "yes")
    with pytest.raises(TypeError, match="returned str"):
        ask(authorizers, "private-x")


@pytest.mark.parametrize("pattern", ["private-{}", "private-{a-b}", "private-{a}.{a}"])
def test_a_bad_pattern_is_refused_when_it_is_registered(pattern):
    with pytest.raises(ValueError, match="must be an identifier"):
        Authorizers().add(pattern, lambda user, **parts: True)


@pytest.mark.parametrize("pattern", ["private-{", "private-user.{user_id", "private-user.user_id}", "private-{{a}}"])
def test_a_pattern_with_a_brace_that_stands_alone_would_never_match_and_is_refused(pattern):
    with pytest.raises(ValueError, match="a brace stands alone"):
        Authorizers().add(pattern, lambda user, **parts: True)


def test_an_async_authorizer_would_not_be_awaited_and_is_refused():
    async def authorizer(user):
        return True

    with pytest.raises(TypeError, match="async def"):
        Authorizers().add("private-x", authorizer)


def test_an_authorizer_that_asks_for_an_unknown_part_is_refused_when_it_is_registered():
    with pytest.raises(TypeError, match="asks for uid"):
        Authorizers().add("private-user.{user_id}", lambda user, uid: True)
    with pytest.raises(TypeError, match="not even the user"):
        Authorizers().add("private-x", lambda: True)
