"""
Three servers in processes of their own, a Redis and bad networks between them, at random, against a model: after each storm all
know who is where, one leads, and who stayed connected has got every message once and in its publisher's order.

What is done in which round follows from a seed, which is printed: ALPHAVEL_CHAOS_SEED=… does the same again, as far as three
processes and a network ever do. `make chaos` goes on for an hour.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest

from tests.redis_server import RedisServer
from tests.websocket.chaos import faults
from tests.websocket.chaos.faults import Fault
from tests.websocket.chaos.fleet import KEEP_S, Node, running_fleet
from tests.websocket.chaos.people import PATIENCE_S, Person, PusherPerson
from tests.websocket.chaos.truth import So, Told, Truth
from tests.websocket.receiver import Receiver

SECONDS = float(os.environ.get("ALPHAVEL_CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("ALPHAVEL_CHAOS_SEED", "419962000"))  # `make chaos` draws another one each time
STEPS = 60
FEWEST, MOST = 6, 24
USERS = [f"user-{number}" for number in range(8)]
ROOMS = ["presence-blue", "presence-red"]
GUARDED = [*ROOMS, "private-orders.1"]
CHANNELS = [*GUARDED, "news", "talk", "desk.1", "desk.2", "desk.3"]  # a desk is mostly looked at from one server


class Storm:
    """What happens, and what is true."""

    def __init__(self, redis: RedisServer, nodes: list[Node], receiver: Receiver) -> None:
        self._redis, self._nodes, self._receiver = redis, nodes, receiver
        self._truth, self._told = Truth(CHANNELS), Told()
        self._people: list[tuple[Node, Person]] = []
        self._born = self._deliveries = 0
        self._last_delivery = b""
        self._faults: list[Fault] = []
        self._pushing = nodes[0], CHANNELS[0]
        self._round = self._elections = self._elected_in = 0
        self._began = self._waits_since = time.monotonic()
        self.story: list[str] = []

    # A round

    def rage(self, number: int) -> None:
        """Let a round's storm rage. What happens follows from the seed and the rounds before."""
        self._round = number
        self._chance = random.Random(f"{SEED}-{number}")
        self._faults = faults.draw(self._chance, STEPS) if number else []
        self._is_quiet_but_for_processes = all(fault.kind in faults.PROCESS for fault in self._faults)
        self._receiver.refuses = number % 2 == 1  # then what a server has to tell waits when it dies
        self.story.append(f"round {number}: {'; '.join(map(str, self._faults)) or 'no faults'}")
        acts = (self._come, self._go, self._join, self._leave, self._push, self._push_again, self._push_again, self._say)
        started = time.monotonic()
        for step in range(STEPS):
            self._turn(step)
            act = self._chance.choice(acts)
            (act if len(self._people) >= FEWEST else self._come)()
            gevent.sleep(self._chance.random() * 0.08)
        self._turn(STEPS)
        if time.monotonic() - started > KEEP_S / 2:
            self._truth.everything_may_be_lost()  # a machine this busy has been away for longer than anything is kept

    def _turn(self, step: int) -> None:
        for fault in [fault for fault in self._faults if fault.ends == step]:
            time_left = fault.began + fault.lasts_s - time.monotonic()
            gevent.sleep(max(0.0, time_left))
            self._tell(f"{step}: {fault.kind} of {fault.number} ends")
            faults.end(fault, self._redis, self._nodes)
        for fault in [fault for fault in self._faults if fault.begins == step]:
            self._tell(f"{step}: {fault.kind} of {fault.number}")
            if fault.kind == "kill":
                self._is_about_to_die(self._nodes[fault.number])
            faults.begin(fault, self._redis, self._nodes)
            fault.began = time.monotonic()

    def _is_about_to_die(self, node: Node) -> None:
        if self._is_quiet_but_for_processes:
            self._wait(lambda: [] if node.sends_all() else ["what was published"], "Redis to have what was published")
        else:
            self._truth.has_died(node.name)
        for where, person in list(self._people):
            if where is node:
                self._loses(where, person)

    def _tell(self, what: str) -> None:
        self.story.append(f"  {time.monotonic() - self._began:7.2f} s  {what}")

    # What people and servers do

    def _come(self) -> None:
        if len(self._people) < MOST:
            node = self._chance.choice(self._running())
            kind, user = self._chance.choice([Person, PusherPerson]), self._chance.choice(USERS)
            channels = self._chance.sample(CHANNELS, self._chance.randrange(1, 4))
            self._born += 1
            person = kind(f"p{self._born}", user, node.port, self._truth)
            self._tell(f"{person} comes to {node.name} for {channels}")
            self._people.append((node, person))
            for channel in channels:
                person.join(channel)

    def _go(self) -> None:
        if len(self._people) > FEWEST:
            node, person = self._chance.choice(self._people)
            self._tell(f"{person} goes")
            self._loses(node, person)

    def _loses(self, node: Node, person: Person) -> None:
        self._people.remove((node, person))
        self._truth.has_died(person.name)  # what the server has not read is lost with the connection
        person.leave_all()

    def _join(self) -> None:
        _, person = self._chance.choice(self._people)
        channel = self._chance.choice(CHANNELS)
        if channel not in person.channels:
            self._tell(f"{person} joins {channel}")
            person.join(channel)

    def _leave(self) -> None:
        _, person = self._chance.choice(self._people)
        if person.channels:
            channel = self._chance.choice(sorted(person.channels))
            self._tell(f"{person} leaves {channel}")
            person.leave(channel)

    def _push(self) -> None:
        self._pushing = self._chance.choice(self._nodes), self._chance.choice(CHANNELS)
        self._push_again()

    def _push_again(self) -> None:
        node, channel = self._pushing
        if not node.is_running:
            return
        numbers = [self._truth.next(channel, node.name) for _ in range(self._chance.randrange(1, 20))]
        self._tell(f"{node.name} pushes {numbers[0]} to {numbers[-1]} to {channel}")
        node.push(channel, numbers)

    def _say(self) -> None:
        _, person = self._chance.choice(self._people)
        channels = sorted(person.channels.intersection(GUARDED))
        if channels:
            channel = self._chance.choice(channels)
            self._tell(f"{person} says something on {channel}")
            for _ in range(self._chance.randrange(1, 4)):
                person.say(channel)

    def _running(self) -> list[Node]:
        return [node for node in self._nodes if node.is_running]

    # What is to be true after it

    def check(self) -> None:
        """Wait until all is as it should be; raise what can be so no more at once."""
        self._receiver.refuses = False
        self._waits_since = time.monotonic()
        self._wait(self._differences, "all to be as it should be")
        for _, person in self._people:
            person.checked()
            person.is_heard()
        self._truth.checked()

    def _wait(self, differences: Callable[[], list[str]], what: str) -> None:
        until = time.monotonic() + PATIENCE_S
        while left := differences():
            assert time.monotonic() < until, "\n".join([f"{what}:", *left])
            gevent.sleep(0.1)

    def _differences(self) -> list[str]:
        wrong = [f"{person}: {what}" for _, person in self._people for what in person.wrong]
        assert not wrong, "\n".join(wrong)
        rooms = {room: {person.user for _, person in self._people if room in person.channels} for room in ROOMS}
        left = [what for _, person in self._people for what in person.lacks(rooms)]
        states = {node.name: node.state() for node in self._nodes}
        for name, state in states.items():
            left += [f"{name}: {what}" for what in self._differs(state, rooms)]
        leading = [name for name, state in states.items() if state["leads"]]
        if len(leading) != 1:
            left.append(f"leading: {leading}")
        left += self._webhooks_differ()
        return left

    def _differs(self, state: dict, rooms: dict[str, set[str]]) -> list[str]:
        counts = {channel: sum(channel in person.channels for _, person in self._people) for channel in CHANNELS}
        expected = {
            "up": True,
            "others": len(self._nodes) - 1,
            "connections": len(self._people),
            "channels": {channel: count for channel, count in counts.items() if count},
            "rooms": {room: sorted(users) for room, users in rooms.items() if users},
        }
        return [f"{what} {state[what]}, not {value}" for what, value in expected.items() if state[what] != value]

    def _webhooks_differ(self) -> list[str]:
        deliveries = self._receiver.accepted
        for delivery in deliveries[self._deliveries :]:
            if delivery.body != self._last_delivery:  # else its answer came too late, and it is sent again
                for event in delivery.events:
                    self._tell(f"webhooks are told {event}")
                    self._told.take(event)
            self._last_delivery = delivery.body
        self._deliveries = len(deliveries)
        differs = self._told.differs(self._so())
        if differs and self._calm_rounds() < 2 and time.monotonic() > self._waits_since + PATIENCE_S / 4:
            self._tell(f"webhooks lack {sorted(differs)}")
            self._told.may_lack(self._so())
        return [f"webhooks: {sorted(differs)}"] if differs else []

    def _calm_rounds(self) -> int:
        """For how many rounds now the same server has told webhooks."""
        elections = sum(node.elections for node in self._nodes)
        if elections != self._elections:
            self._elections, self._elected_in = elections, self._round
        return self._round - self._elected_in

    def _so(self) -> So:
        """What webhooks are to have been told in the end: which channels are occupied, and by whom."""
        so = {(channel, "") for _, person in self._people for channel in person.channels}
        return so | {(room, person.user) for _, person in self._people for room in person.channels.intersection(ROOMS)}

    def report(self) -> str:
        """What has happened, and what the servers say about it."""
        waits = [f"{node.name} waits for {node.waits_for()}" for node in self._running()]
        logs = [f"{node.name}:\n{node.output[-4000:]}" for node in self._nodes]
        return "\n".join([f"ALPHAVEL_CHAOS_SEED={SEED}", *self.story[-200:], *logs, *waits])

    def summary(self, number: int) -> str:
        """What a round was like, in a line."""
        for node in self._nodes:
            node.output  # noqa: B018 (reads it)
        what = "; ".join(map(str, self._faults)) or "no faults"
        unneeded = sum(node.state()["unneeded"] for node in self._nodes)
        counts = f"{len(self._people)} people, {unneeded} pushes needed by nobody else, {self._told.lacked} webhooks lacking"
        return f"round {number}, {counts}: {what}"

    def close(self) -> None:
        """Let everybody go."""
        for _, person in self._people:
            person.leave_all()


@pytest.mark.timeout(SECONDS + 6 * PATIENCE_S)
def test_servers_agree_with_the_truth_whatever_happens(tmp_path: Path) -> None:
    until, number = time.monotonic() + SECONDS, 0
    with running_fleet(tmp_path) as (redis, nodes, receiver):
        storm = Storm(redis, nodes, receiver)
        try:
            while time.monotonic() < until or number < 2:
                started = time.monotonic()
                storm.rage(number)
                raged = time.monotonic()
                storm.check()
                took = f"{raged - started:.1f} s and {time.monotonic() - raged:.1f} s"
                print(f"seed {SEED}, {storm.summary(number)}; {took}", flush=True)
                number += 1
        except BaseException:
            print(storm.report())
            raise
        finally:
            storm.close()
