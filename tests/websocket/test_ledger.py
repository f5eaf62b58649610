"""The ledger of webhooks: whatever comes first, each change is told once, by one worker or by the next that leads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphavel.websocket.bus.facts import Fact
from alphavel.websocket.ledger import (
    Ledger,
    event_of,
    fact_of,
    told_fact,
    untold_fact,
    what_is_untold,
    what_was_told,
)

CHANNEL = Fact("channel", "1", "room", "")
MEMBER = Fact("member", "1", "room", "7")


HELD_S = 2.5
LATER = 100.0


@pytest.fixture
def ledger():
    return Ledger(HELD_S)


def test_what_receivers_have_taken_is_forgotten(ledger):
    assert ledger.changed(CHANNEL, True, 0.0)
    ledger.told(CHANNEL, True, True)
    assert (ledger.untold(), len(ledger)) == ([], 0)


def test_what_nobody_has_told_is_kept_until_it_is(ledger):
    ledger.changed(CHANNEL, True, 0.0)
    ledger.changed(MEMBER, True, 0.0)
    assert ledger.untold() == ledger.untold() == [(CHANNEL, [True]), (MEMBER, [True])]
    ledger.told(CHANNEL, True, True)
    assert ledger.untold() == [(MEMBER, [True])]


def test_who_came_and_left_is_told_of_as_nobody_knows_whether_the_one_before_has(ledger):
    assert ledger.changed(CHANNEL, True, 0.0)
    assert not ledger.changed(CHANNEL, False, 0.1)
    assert ledger.untold() == [(CHANNEL, [True, False])]
    ledger.changed(CHANNEL, True, 0.2)
    assert ledger.untold() == [(CHANNEL, [True])]
    ledger.told(CHANNEL, False, True)
    assert ledger.untold() == [(CHANNEL, [True])]
    ledger.told(CHANNEL, True, True)
    assert len(ledger) == 0


def test_who_is_back_before_anybody_was_told_was_never_away(ledger):
    ledger.changed(CHANNEL, False, 0.0)
    assert not ledger.changed(CHANNEL, True, HELD_S - 0.1)
    assert len(ledger) == 0


def test_of_who_is_back_late_it_is_told_once_more_that_it_is_there(ledger):
    ledger.changed(CHANNEL, False, 0.0)
    ledger.changed(CHANNEL, True, HELD_S)
    assert ledger.untold() == [(CHANNEL, [True])]
    ledger.changed(CHANNEL, False, LATER)
    ledger.changed(CHANNEL, True, LATER)
    assert ledger.untold() == [(CHANNEL, [True])], "the first time may have been told"


def test_what_was_told_before_it_is_seen_here_is_not_told_again(ledger):
    ledger.told(CHANNEL, True, False)
    assert not ledger.changed(CHANNEL, True, 0.0)
    assert len(ledger) == 0


def test_what_a_worker_says_when_it_is_met_is_no_news_but_undoes_what_was(ledger):
    assert not ledger.changed(CHANNEL, True, 0.0, is_news=False)
    assert len(ledger) == 0
    ledger.changed(MEMBER, False, 0.0)
    assert not ledger.changed(MEMBER, True, 0.0, is_news=False)
    assert len(ledger) == 0


@pytest.mark.parametrize("comes_first", ["what is so", "what is untold"])
def test_a_newcomer_is_told_what_is_untold(ledger, comes_first):
    ledger.changed(CHANNEL, True, 0.0)
    ledger.changed(MEMBER, True, 0.0)
    ledger.changed(MEMBER, False, 0.0)
    said = [(what_is_untold(fact), value) for fact, value in ledger.facts()]
    newcomer = Ledger(HELD_S)
    if comes_first == "what is so":
        newcomer.changed(CHANNEL, True, LATER, is_news=False)
    for fact, value in said:
        newcomer.heard(fact, value, comes_first == "what is so" and fact == CHANNEL, LATER)
    if comes_first != "what is so":
        newcomer.changed(CHANNEL, True, LATER, is_news=False)
    assert dict(newcomer.untold()) == {CHANNEL: [True], MEMBER: [True, False]}
    for fact, value in said:
        newcomer.heard(fact, value, False, LATER)
    assert dict(newcomer.untold()) == {CHANNEL: [True], MEMBER: [True, False]}


def test_what_is_undone_is_kept_within_bounds():
    ledger = Ledger(HELD_S, max_undone=2)
    for name in "abc":
        ledger.changed(CHANNEL._replace(name=name), True, 0.0)
        ledger.changed(CHANNEL._replace(name=name), False, 0.0)
    assert [fact.name for fact, _ in ledger.untold()] == ["b", "c"]


@given(st.data(), st.booleans(), st.integers(0, 12))
def test_whatever_the_leader_had_told_and_said_when_it_died_receivers_know_in_the_end_what_is_so(data, first, changes):
    """This worker sees the changes of one channel, and hears of each that it was told, in any order that can be."""
    states = [first is (number % 2 == 0) for number in range(changes + 1)]
    said_upto = data.draw(st.integers(0, changes), "the leader says of so many that they were told")
    told_upto = data.draw(st.integers(said_upto, changes), "before it dies it tells so many")
    ledger, seen, heard = Ledger(HELD_S), 0, 0
    while seen < changes or heard < said_upto:
        # What is said to be told is all that had happened where it is said: here at most the next change is seen before.
        may_see, may_hear = seen < changes and (heard == said_upto or seen <= heard + 1), heard < said_upto
        if may_see and (not may_hear or data.draw(st.booleans())):
            seen += 1
            ledger.changed(CHANNEL, states[seen], LATER * seen)
        else:
            heard += 1
            ledger.told(CHANNEL, states[heard], states[seen])
    known = states[told_upto]
    for _, told in ledger.untold():
        known = told[-1]
    assert known is states[-1]
    ledger.told(CHANNEL, known, states[-1])
    assert len(ledger) == 0


def test_events_and_facts_are_named_after_each_other():
    assert event_of(CHANNEL, True) == ("channel_occupied", {"channel": "room"})
    assert event_of(MEMBER, False) == ("member_removed", {"channel": "room", "user_id": "7"})
    for fact in (CHANNEL, MEMBER):
        assert what_was_told(told_fact(fact)) == what_is_untold(untold_fact(fact)) == fact
        assert what_was_told(untold_fact(fact)) is what_is_untold(told_fact(fact)) is None
        for is_so in (True, False):
            assert fact_of("1", *event_of(fact, is_so)) == (fact, is_so)
    assert fact_of("1", "client_event", {"channel": "room"}) is None
    assert what_was_told(CHANNEL) is None
    assert what_was_told(Fact("told_dance", "1", "", "")) is None
