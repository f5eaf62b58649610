"""The ledger of webhooks: whatever comes first, each change is told once, by one worker or by the next that leads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from alphavel.websocket.bus.facts import Fact
from alphavel.websocket.ledger import Ledger, event_of, told_fact, what_was_told

CHANNEL = Fact("channel", "1", "room", "")
MEMBER = Fact("member", "1", "room", "7")


def test_what_the_leader_has_told_is_forgotten():
    ledger = Ledger()
    assert ledger.changed(CHANNEL, True)
    ledger.told(CHANNEL, True, True)
    assert ledger.take() == []


def test_what_nobody_has_told_is_kept_for_the_next_leader_once():
    ledger = Ledger()
    ledger.changed(CHANNEL, True)
    ledger.changed(MEMBER, True)
    assert ledger.take() == [(CHANNEL, True), (MEMBER, True)]
    assert ledger.take() == []


def test_a_change_that_was_undone_before_anybody_told_it_is_nothing():
    ledger = Ledger()
    assert ledger.changed(CHANNEL, True)
    assert not ledger.changed(CHANNEL, False)
    assert len(ledger) == 0


def test_what_was_told_before_it_is_seen_here_is_not_told_again():
    ledger = Ledger()
    ledger.told(CHANNEL, True, False)
    assert not ledger.changed(CHANNEL, True)
    assert len(ledger) == 0


def test_what_a_worker_says_when_it_is_met_is_no_news_but_undoes_what_was():
    ledger = Ledger()
    assert not ledger.changed(CHANNEL, True, is_news=False)
    assert len(ledger) == 0
    ledger.changed(MEMBER, False)
    assert not ledger.changed(MEMBER, True, is_news=False)
    assert len(ledger) == 0


@given(st.data(), st.lists(st.booleans(), max_size=20))
def test_in_any_order_of_seeing_and_being_told_the_rest_is_what_differs(data, changes):
    """`changes` of one channel; the leader tells each; this worker sees and hears them in any interleaving."""
    states = [True]
    for is_so in changes:
        if is_so is not states[-1]:
            states.append(is_so)
    told_upto = data.draw(st.integers(0, len(states) - 1), "the leader dies after telling so many")
    ledger, seen, told = Ledger(), 0, 0
    while seen < len(states) - 1 or told < told_upto:
        may_see, may_hear = seen < len(states) - 1, told < told_upto
        if may_see and (not may_hear or data.draw(st.booleans())):
            seen += 1
            ledger.changed(CHANNEL, states[seen])
        else:
            told += 1
            ledger.told(CHANNEL, states[told], states[seen])
    expected = [] if states[told_upto] is states[-1] else [(CHANNEL, states[-1])]
    assert ledger.take() == expected


def test_events_and_facts_are_named_after_each_other():
    assert event_of(CHANNEL, True) == ("channel_occupied", {"channel": "room"})
    assert event_of(MEMBER, False) == ("member_removed", {"channel": "room", "user_id": "7"})
    for fact in (CHANNEL, MEMBER):
        assert what_was_told(told_fact(fact)) == fact
    assert what_was_told(CHANNEL) is None
    assert what_was_told(Fact("told_dance", "1", "", "")) is None
