"""What the server asks of a bus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from alphavel.websocket.bus.facts import Fact

if TYPE_CHECKING:
    from alphavel.websocket.protocols import Message

Read = Callable[[], "dict[str, Any] | None"]
"""
Opens an envelope that has come: returns what is in it, None where there is nothing to do about it, because this node has
published it or has had it before. Raises EnvelopeError.
"""

Receive = Callable[[Read], None]

ALL_KEPT_S = 1e9
"""For `Listener.kept_events`: longer than anything is kept, in seconds."""


class Route(NamedTuple):
    """
    A way to nodes that may have somebody whom a push is for.

    Attributes:
        to: What `publish` takes.
        channels, users, everybody: Whom it is for there. Nobody is on two routes.
    """

    to: Sequence[Any]
    channels: Sequence[str]
    users: Sequence[str]
    everybody: bool


class Bus(Protocol):
    """
    Carries envelopes between the nodes of one fleet, each node's in the order it published them.

    Attributes:
        has_peers: Whether there can be other nodes. Without, nothing need be published.
        is_up: Whether it carries.
        buffered_bytes: Bytes of envelopes that wait to go out.
        dropped: Envelopes that were given up, because too many waited or the carrier broke while they were on their way.
    """

    has_peers: bool

    @property
    def is_up(self) -> bool:
        """See above."""

    @property
    def buffered_bytes(self) -> int:
        """See above."""

    @property
    def dropped(self) -> int:
        """See above."""

    def start(self, receive: Receive) -> None:
        """Begin to carry. `receive` is called, in a greenlet, with what nodes published, perhaps with what this one has."""

    def routes(self, app_id: str, channels: Sequence[str], users: Sequence[str], everybody: bool) -> Sequence[Route]:
        """
        Say by which ways a push goes; none: there is nobody elsewhere whom it is for.

        Args:
            app_id: Id of the app.
            channels: Names of channels; `#server-to-user-7` stands for the user 7.
            users: Ids of users.
            everybody: Whether it is for all connections.
        """

    def push(
        self,
        app_id: str,
        message: Message,
        channels: tuple[str, ...],
        users: tuple[str, ...],
        everybody: bool,
        excluded: frozenset[str],
    ) -> int:
        """
        Have nodes deliver a message, see `App.deliver` for the audience; like `publish`. Return how many envelopes it took:
        none where `routes` leads nowhere.
        """

    def publish(self, written: bytes, to: Sequence[Any] | None = None, lasting: bool = True) -> None:
        """
        Have nodes receive an envelope. Queues it and returns at once; may be called in the hub.

        Args:
            written: What it holds, see `envelope.write`.
            to: A route's; None: all nodes.
            lasting: False: a node that misses it must not be told later, and it may be carried more than once.
        """

    def want(self, fact: Fact, is_so: bool) -> None:
        """What is published for a channel, or for a user, is wanted here from now on, or not any more. Does not switch."""

    def hears(self, app_id: str, channel: str) -> bool:
        """Whether what others publish for a channel comes in, or need not be waited for, because the bus is not up."""

    def wait(self, app_id: str, channel: str) -> None:
        """Block the calling greenlet until `hears`, and for as long as it takes to know that the bus is not up."""

    def figures(self) -> dict[str, Any]:
        """Return what there is to be told of it, for `stats.snapshot`."""

    def drain(self, below: int, timeout: float | None) -> bool:
        """Wait until no more than `below` bytes wait for any other worker; False where `timeout` seconds went by first."""

    def stop(self, timeout: float) -> None:
        """Carry what waits, for so many seconds at most, then no more."""


class Listener(Protocol):
    """Who is told what other workers say of themselves, and says what this one has to say; in a greenlet."""

    def all_facts(self) -> dict[Fact, Any]:
        """Return what this worker has to say of itself: the very dict, which may change."""

    def kept_events(self, within_s: float) -> Iterable[dict[str, Any]]:
        """Return the events of cache channels that were kept in so many last seconds, and what else there is to be kept."""

    def said(self, worker: str, facts: list[tuple[Fact, Any]], are_all: bool) -> None:
        """A worker says of itself: these changed, or these are all."""

    def kept(self, event: dict[str, Any]) -> None:
        """Another worker has kept an event, see `kept_events`."""

    def silent(self, worker: str) -> None:
        """A worker has said nothing for long, and is there."""

    def gone(self, worker: str) -> None:
        """A worker has ended, or is out of reach."""
