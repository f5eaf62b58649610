"""
What can go wrong: each fault begins, lasts, and ends. Drawn before anything happens, so that a seed says all of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.redis_server import RedisServer
from tests.websocket.chaos.fleet import LEASE_S, TIMEOUT_S, Node

_LONG_S = LEASE_S * 4 / 3 + 1  # so long that whoever is silent is gone
WAY = {
    "cut": (0.0,),
    "strand": (0.0,),
    "black hole": (0.3, TIMEOUT_S * 2.5, _LONG_S),
    "refuse": (0.1, 1.0, _LONG_S),
    "slow": (1.0, 3.0),
}
PROCESS = {"kill": (0.0, 1.0, _LONG_S), "stop": (0.5, _LONG_S)}
REDIS = {"restart": (0.0, 1.0, _LONG_S), "pause": (TIMEOUT_S / 2, TIMEOUT_S * 3), "flush": (0.0,), "full": (2.0,)}


@dataclass
class Fault:
    """
    Attributes:
        kind: One of the above.
        number: Of the node; None: it is Redis.
        begins: Before which step of the round.
        ends: Before which step, at the earliest.
        lasts_s: For how long at least, in seconds.
        towards: Which way a black hole swallows.
        began: When it did, seconds on the monotonic clock.
    """

    kind: str
    number: int | None
    begins: int
    ends: int
    lasts_s: float
    towards: str
    began: float = 0.0

    def __str__(self) -> str:
        where = "Redis" if self.number is None else f"node {self.number}"
        return f"{self.kind} of {where} from {self.begins} to {self.ends}, {self.lasts_s:.1f} s"


def draw(chance: random.Random, steps: int) -> list[Fault]:
    """Draw the faults of a round: at most one of each node's way, one of each process but one, one of Redis."""
    targets = [("way", 0), ("way", 1), ("way", 2), ("redis", None), ("process", 0), ("process", 1), ("process", 2)]
    chosen = chance.sample(targets, chance.choice([1, 1, 2, 2, 3, 4]))
    while sum(kind == "process" for kind, _ in chosen) > 2:
        chosen.remove(next(target for target in chosen if target[0] == "process"))
    return [_draw(chance, kind, number, steps) for kind, number in chosen]


def _draw(chance: random.Random, target: str, number: int | None, steps: int) -> Fault:
    kinds = {"way": WAY, "process": PROCESS, "redis": REDIS}[target]
    kind = chance.choice(list(kinds))
    begins = chance.randrange(steps)
    ends = chance.randrange(begins + 1, steps + 1)
    return Fault(kind, number, begins, ends, chance.choice(kinds[kind]), chance.choice(["both", "client", "server"]))


def begin(fault: Fault, redis: RedisServer, nodes: list[Node]) -> None:
    """Make it so."""
    target = redis if fault.number is None else nodes[fault.number]
    _BEGIN[fault.kind](target, fault)


def end(fault: Fault, redis: RedisServer, nodes: list[Node]) -> None:
    """Make it as it was."""
    target = redis if fault.number is None else nodes[fault.number]
    _END.get(fault.kind, lambda target: None)(target)


def _refuse(node: Node, fault: Fault) -> None:
    node.proxy.refuse()
    node.proxy.cut()


def _slow(node: Node, fault: Fault) -> None:
    node.proxy.delay_s, node.proxy.bytes_per_s = 0.1, 100_000


def _full(redis: RedisServer, fault: Fault) -> None:
    redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    redis.command("CONFIG", "SET", "maxmemory", "1")


_BEGIN: dict[str, Callable[..., object]] = {
    "cut": lambda node, fault: node.proxy.cut(),
    "strand": lambda node, fault: node.proxy.strand(),
    "black hole": lambda node, fault: node.proxy.black_hole(fault.towards),
    "refuse": _refuse,
    "slow": _slow,
    "kill": lambda node, fault: node.kill(),
    "stop": lambda node, fault: node.stop(),
    "restart": lambda redis, fault: redis.stop(),
    "pause": lambda redis, fault: redis.command("CLIENT", "PAUSE", str(int(fault.lasts_s * 1000)), "ALL"),
    "flush": lambda redis, fault: redis.command("FLUSHALL"),
    "full": _full,
}
_END: dict[str, Callable[..., object]] = {
    "black hole": lambda node: node.proxy.heal(),
    "refuse": lambda node: node.proxy.heal(),
    "slow": lambda node: node.proxy.heal(),
    "kill": lambda node: node.start_again(),
    "stop": lambda node: node.go_on(),
    "restart": lambda redis: redis.start(),
    "full": lambda redis: redis.command("CONFIG", "SET", "maxmemory", "0"),
}
