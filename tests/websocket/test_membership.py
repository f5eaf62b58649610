"""Membership of a fleet over a bus that loses messages: whatever happens on the way, all see the truth in the end."""

from __future__ import annotations

import random

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from alphavel.websocket.bus.catching_up import Asking, Telling
from alphavel.websocket.bus.envelope import MalformedError
from alphavel.websocket.bus.facts import Fact
from alphavel.websocket.bus.membership import BEATS_A_LEASE, Membership

KEEP_TICKS = 6


def fact(number):
    return Fact("channel", "1", f"room-{number}", "")


class Node:
    """A node of a simulated fleet: its membership, and what it has been told."""

    def __init__(self, network, name):
        self.name = name
        self.network = network
        self.facts = {}
        self.views = {}
        self.events = {}
        self.told = []
        self.membership = Membership(name, self, self.send, lambda: False, 1.0, KEEP_TICKS, 2.0)

    def send(self, to, kind, content):
        self.network.send(self.name, to, kind, orjson.loads(orjson.dumps(content)))

    def tell(self, number, value):
        if value is None:
            self.facts.pop(fact(number), None)
        else:
            self.facts[fact(number)] = value
        self.membership.tell(fact(number), value)

    def keep(self, channel, number):
        self.events[channel] = number
        self.network.send(self.name, None, "event", {"channel": channel, "number": number})

    # The listener

    def all_facts(self):
        return self.facts

    def kept_events(self, within_s):
        return [{"channel": channel, "number": number} for channel, number in self.events.items()]

    def said(self, node, facts, are_all):
        view = self.views.setdefault(node, {})
        if are_all:
            view.clear()
        for name, value in facts:
            if value is None:
                view.pop(name, None)
            else:
                view[name] = value
        self.told.append(("said", node, are_all))

    def kept(self, event):
        if self.events.get(event["channel"], -1) < event["number"]:
            self.events[event["channel"]] = event["number"]

    def gone(self, node):
        del self.views[node]
        self.told.append(("gone", node))


class Network:
    """Carries messages in the order they were sent, to each node in its own time, or loses them."""

    def __init__(self, *names):
        self.nodes, self.queues, self.cut = {}, {}, {}
        for name in names:
            self.add(name)

    def add(self, name):
        node = self.nodes[name] = Node(self, name)
        self.queues[name] = []
        node.membership.back(1e9)
        return node

    def send(self, origin, to, kind, content):
        if origin in self.cut:
            return
        for name in self.nodes if to is None else [to]:
            if name in self.nodes and name not in self.cut:
                self.queues[name].append((origin, kind, content))

    def deliver(self, name, at_most=None):
        queue = self.queues[name]
        for _ in range(len(queue) if at_most is None else min(at_most, len(queue))):
            origin, kind, content = queue.pop(0)
            node = self.nodes[name]
            if origin == name:
                node.membership.echo()
            elif kind == "event":
                node.kept(content)
            else:
                node.membership.heard(kind, {**content, "origin": origin})

    def settle(self):
        """Deliver all there is, and what comes of it."""
        while any(self.queues.values()) or any(
            node.membership.is_due for name, node in self.nodes.items() if name not in self.cut
        ):
            for name, node in self.nodes.items():
                self.deliver(name)
                if name not in self.cut:
                    node.membership.flush()

    def tick(self, times=1):
        for _ in range(times):
            for node in self.nodes.values():
                node.membership.tick()
            self.settle()

    def disconnect(self, name):
        self.cut[name] = self.nodes[name]
        self.queues[name].clear()

    def reconnect(self, name):
        del self.cut[name]
        self.nodes[name].membership.back(3.0)

    def kill(self, name):
        self.cut.pop(name, None)
        del self.nodes[name], self.queues[name]

    def is_true(self):
        return all(
            node.views == {name: other.facts for name, other in self.nodes.items() if other is not node}
            for node in self.nodes.values()
        )


@pytest.fixture
def three():
    network = Network("a", "b", "c")
    network.settle()
    network.tick()
    return network


def test_what_a_node_says_is_known_to_all_after_one_message(three):
    a, b = three.nodes["a"], three.nodes["b"]
    a.tell(1, 5)
    a.tell(2, 1)
    a.tell(1, 6)
    three.settle()
    assert three.is_true()
    assert b.views["a"] == {fact(1): 6, fact(2): 1}
    assert b.told[-1] == ("said", "a", False)


def test_a_message_that_was_lost_is_noticed_with_the_next_beat_and_only_that_node_is_asked(three):
    a, b, c = three.nodes.values()
    a.tell(1, 5)
    a.membership.flush()
    three.queues["b"].clear()
    three.settle()
    assert not three.is_true()
    told = len(c.told)
    three.tick()
    assert three.is_true()
    assert b.told[-1] == ("said", "a", True)
    assert len(c.told) == told


def test_a_newcomer_knows_all_when_it_has_caught_up_however_much_it_is(three):
    for number in range(2000):
        three.nodes["a"].tell(number, 1)
    three.settle()
    three.nodes["b"].keep("cache-x", 7)
    three.settle()
    newcomer = three.add("d")
    three.settle()
    assert newcomer.membership.has_caught_up
    assert three.is_true()
    assert newcomer.events == {"cache-x": 7}


def test_what_changes_while_a_newcomer_catches_up_is_not_missed(three):
    a = three.nodes["a"]
    for number in range(2000):
        a.tell(number, 1)
    three.settle()
    newcomer = three.add("d")
    for step in range(40):
        a.tell(step * 50, None)
        a.tell(5000 + step, step + 1)
        a.membership.flush()
        for name in three.nodes:
            three.deliver(name, 3)
            three.nodes[name].membership.flush()
    three.settle()
    assert three.is_true()
    assert newcomer.views["a"] == a.facts


def test_a_node_that_dies_is_gone_once_after_its_lease_and_one_that_leaves_at_once(three):
    a, b, c = three.nodes.values()
    c.tell(1, 1)
    three.settle()
    three.kill("c")
    three.tick(BEATS_A_LEASE - 1)
    assert "c" in a.views
    three.tick(2)
    assert three.is_true()
    three.tick(5)
    assert a.told.count(("gone", "c")) == b.told.count(("gone", "c")) == 1
    b.membership.bye()
    three.kill("b")
    three.settle()
    assert three.is_true()


def test_nobody_is_gone_while_redis_is_paused_or_this_process_was(three):
    """No node hears itself either: nobody's silence means anything."""
    for _ in range(KEEP_TICKS - 1):
        for node in three.nodes.values():
            node.membership.tick()
    three.settle()
    three.tick(3)
    assert three.is_true()
    assert not any(("gone", name) in node.told for node in three.nodes.values() for name in three.nodes)


def test_a_node_that_hears_nothing_for_long_forgets_the_others_and_finds_them_again(three):
    a = three.nodes["a"]
    three.disconnect("a")
    three.tick(KEEP_TICKS + 1)
    assert a.views == {}
    assert ("gone", "a") in three.nodes["b"].told, "it is gone for the others, too"
    three.reconnect("a")
    three.settle()
    three.tick()
    assert three.is_true()


def test_a_node_that_is_back_within_its_lease_asks_for_nothing_that_it_knows(three):
    a, b = three.nodes["a"], three.nodes["b"]
    three.disconnect("a")
    three.tick()
    told = len(a.told), len(b.told)
    three.reconnect("a")
    three.settle()
    three.tick(4)
    assert (len(a.told), len(b.told)) == told
    assert three.is_true()


def test_events_of_cache_channels_that_were_missed_are_told_later(three):
    a, b = three.nodes["a"], three.nodes["b"]
    three.disconnect("a")
    b.keep("cache-b", 1)
    a.events["cache-a"] = 2
    three.settle()
    three.reconnect("a")
    three.settle()
    three.tick(2)
    assert all(node.events == {"cache-a": 2, "cache-b": 1} for node in three.nodes.values())


@pytest.mark.parametrize("kind", ["beat", "facts", "ask", "state"])
@pytest.mark.parametrize("content", [{}, {"seq": -1}, {"seq": True}, {"seq": 1, "facts": 5, "part": 0, "age": 1, "away": "x"}])
def test_what_makes_no_sense_is_refused_and_changes_nothing(three, kind, content):
    a = three.nodes["a"]
    with pytest.raises(MalformedError):
        a.membership.heard(kind, {**content, "origin": "b"})
    three.tick(2)
    assert three.is_true()


@pytest.mark.parametrize(
    "said", [[["channel", "1", "a", "", "x"]], [["member", "1", "a", "7", []]], [[1, 2]], [[1, "", "", "", 1]]]
)
def test_facts_that_are_none_are_refused(three, said):
    with pytest.raises(MalformedError):
        three.nodes["a"].membership.heard("facts", {"origin": "b", "seq": 1, "facts": said})


def test_facts_of_a_newer_version_are_taken(three):
    three.nodes["a"].membership.heard("facts", {"origin": "b", "seq": 1, "facts": [["weather", "1", "", "", {"sunny": True}]]})
    assert three.nodes["a"].views["b"] == {Fact("weather", "1", "", ""): {"sunny": True}}


def test_parts_out_of_turn_are_not_taken():
    telling, asking = Telling("1", {fact(1): 1}, ()), Asking("1", True, 0.0)
    assert telling.part(1) is None
    assert telling.part(0) is not None
    assert telling.part(0) is None
    assert not asking.took(1, 0, [], False)
    assert asking.took(0, 5, [(fact(1), 1)], False)
    with pytest.raises(MalformedError):
        asking.took(1, 4, [], True)


@hypothesis_settings(max_examples=200)
@given(st.integers(0, 2**32))
def test_after_any_faults_all_see_the_truth(seed):
    """Three nodes tell, lose, reorder nothing, are cut off, stopped, killed and replaced; then all is well for a while."""
    chance = random.Random(seed)
    network = Network("a", "b", "c")
    born = 0
    for _ in range(chance.randrange(20, 150)):
        name = chance.choice(list(network.nodes))
        node, action = network.nodes[name], chance.random()
        if action < 0.4:
            node.tell(chance.randrange(12), chance.choice([None, 1, 2, 3]))
        elif action < 0.6:
            network.deliver(name, chance.randrange(5))
            if name not in network.cut:
                node.membership.flush()
        elif action < 0.75:
            node.membership.tick()
        elif action < 0.85:
            queue = network.queues[name]
            del queue[: chance.randrange(len(queue) + 1)]
        elif action < 0.92:
            network.reconnect(name) if name in network.cut else network.disconnect(name)
        elif action < 0.95:
            network.kill(name)
            born += 1
            network.add(f"{name[0]}{born}")
        else:
            network.settle()
    for name in list(network.cut):
        network.reconnect(name)
    network.settle()
    network.tick(2 * BEATS_A_LEASE + 4)
    assert network.is_true()
    for node in network.nodes.values():
        assert node.membership.has_caught_up
        assert set(node.membership.nodes) == set(network.nodes) - {node.name}
        assert not node.membership._tellings, "nothing is left of those who asked"
