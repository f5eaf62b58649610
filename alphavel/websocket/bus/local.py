"""
The bus among the workers of one server: a Unix socket from each worker to each other, in a folder nobody else can enter.

Each end of such a link is of one direction, so that a worker's messages come in the order it published them, and the end of
the stream is the end of the worker: the kernel says so at once, whatever ended it. What one that does not read has to get waits
in a bounded queue; facts (see `facts`) are never dropped, they replace each other.

A worker that is stopped, or whose loop is blocked, ends no stream: it says nothing. After a while its facts count as untrue;
what is published still waits for it, within bounds. When it is heard again it is asked for all facts.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
import orjson
from gevent.event import Event

from alphavel.websocket.bus.contract import ALL_KEPT_S, Listener, Receive, Route
from alphavel.websocket.bus.envelope import Envelopes, MalformedError
from alphavel.websocket.bus.facts import Fact, read_facts, write_facts
from alphavel.websocket.bus.link import Link, frames
from alphavel.websocket.bus.pushes import push_by_routes
from alphavel.websocket.bus.wants import TheirWants, Wants, channel_key, user_key
from alphavel.websocket.channels import is_cached, user_of
from alphavel.websocket.later import log_later
from alphavel.websocket.logs import get_logger

if TYPE_CHECKING:
    from alphavel.websocket.protocols import Message

logger = get_logger("alphavel.websocket.bus")

VERSION = 1
_YIELD_EVERY = 64  # frames received before others get a turn
_MEET_S = 5.0
_RETRY_S = 0.2
_NO_FILE_S = 1.0
_BEAT_EVERY_S = 1.0


class LocalBus:
    """See `contract.Bus`; besides, `tell` tells all other workers a fact."""

    has_peers = True
    is_up = True

    def __init__(self, folder: Path, name: str, listener: Listener, silence: float) -> None:
        """
        Args:
            folder: Where the workers meet.
            name: Of this worker, never used before.
            listener: Who is told of the others.
            silence: Seconds after which one that says nothing is `silent`.
        """
        self.dropped = 0
        self._wants = Wants(folder / f"{name}.wants")
        self._folder = folder
        self._name = name
        self._listener = listener
        self._links: dict[str, Link] = {}
        self._heard: dict[str, socket.socket] = {}  # whose frames come in
        self._known: set[str] = set()  # who has told all facts
        self._has_told: set[str] = set()  # who has told all that is kept, too
        self._beat_every = min(_BEAT_EVERY_S, silence / 5)
        self._patience = round(silence / self._beat_every)
        self._missed: dict[str, int] = {}  # looks in a row without a word, by worker: where this one was stopped, one look
        self._met, self._sent = Event(), Event()
        self._has_stopped = False
        self._greenlets: list[gevent.Greenlet] = []
        self._accepting: socket.socket | None = None
        self._envelopes = Envelopes(name)
        self._receive: Receive = lambda read: None

    @property
    def workers(self) -> list[str]:
        """Names of the others."""
        return list(self._links)

    @property
    def buffered_bytes(self) -> int:
        """See `contract.Bus`."""
        return sum(link.waiting for link in self._links.values())

    # Going out

    def routes(self, app_id: str, channels: Sequence[str], users: Sequence[str], everybody: bool) -> Sequence[Route]:
        """See `contract.Bus`. A cache channel's event is for all: each keeps it."""
        if not self._links:
            return ()
        if len(channels) == 1 and not users and not everybody:  # nearly every push, and a part of what each costs
            place = _place(app_id, channels[0])
            if place != _EVERYWHERE:
                wanting = [link for link in self._links.values() if link.table[place]]
                return (Route(wanting, channels, users, everybody),) if wanting else ()
        places = [_place(app_id, name) for name in channels]
        places += [user_key(app_id, user_id) for user_id in users]
        if everybody or _EVERYWHERE in places:
            links = list(self._links.values())
        else:
            links = [link for link in self._links.values() if link.wants.any(places)]
        return (Route(links, channels, users, everybody),) if links else ()

    def push(self, app_id: str, message: Message, *audience: Any) -> int:
        """See `contract.Bus`."""
        return push_by_routes(self, app_id, message, *audience)

    def publish(self, written: bytes, to: Sequence[Any] | None = None, lasting: bool = True) -> None:
        """See `contract.Bus`. What no longer fits into a worker's queue is dropped for that worker, and counted."""
        envelope = self._envelopes.wrap(written)
        for link in self._links.values() if to is None else to:
            if not link.put(b"E", envelope):
                self._drop(link.name)

    def hears(self, app_id: str, channel: str) -> bool:
        """See `contract.Bus`. The others know at once what is wanted."""
        return True

    def wait(self, app_id: str, channel: str) -> None:
        """See `contract.Bus`."""

    def figures(self) -> dict[str, Any]:
        """See `contract.Bus`."""
        return {}

    def drain(self, below: int, timeout: float | None) -> bool:
        """See `contract.Bus`. What the kernel has taken does not wait any more."""
        if not self._is_behind(below):
            return True
        with gevent.Timeout(timeout, False):
            while self._is_behind(below):
                self._sent.clear()
                self._sent.wait()
            return True
        return False

    def _is_behind(self, below: int) -> bool:
        for link in self._links.values():  # noqa: SIM110 (a generator would take longer than the rest of a drain)
            if link.waiting > below:
                return True
        return False

    def want(self, fact: Fact, is_so: bool) -> None:
        """See `contract.Bus`."""
        change = self._wants.add if is_so else self._wants.remove
        if fact.kind == "channel":
            change(channel_key(fact.app, fact.name))
        elif fact.kind == "user":
            change(user_key(fact.app, fact.user))

    def tell(self, fact: Fact, value: Any) -> None:
        """Tell all other workers a fact about this one; None: it is not so any more. May be called in the hub."""
        for link in self._links.values():
            link.tell(fact, value)

    def _drop(self, name: str) -> None:
        log_later(logger, logging.ERROR, "Messages to the worker %s are lost: it does not read, and too many wait", name)
        self.dropped += 1

    # Life

    def start(self, receive: Receive) -> None:
        """Meet the other workers; see `contract.Bus`."""
        self._receive = receive
        self._accepting = _listen(self._folder, self._name)
        self._spawn(self._accept, self._accepting)
        self._spawn(self._beat)
        there = self._eldest_first()
        for name in there:
            self._connect(name)
        # Not for long: one that does not answer must not keep this one from serving.
        with gevent.Timeout(_MEET_S, False):
            self._wait(lambda: all(name in self._known for name in there if name in self._links))
        with gevent.Timeout(_MEET_S, False):
            self._ask_what_is_kept([name for name in there if name in self._known])

    def _eldest_first(self) -> list[str]:
        ages: dict[str, int] = {}
        for path in self._folder.glob("*.sock"):
            with contextlib.suppress(FileNotFoundError):  # it ends just now
                ages[path.stem] = path.stat().st_ctime_ns
        return sorted(ages.keys() - {self._name}, key=ages.__getitem__)

    def _ask_what_is_kept(self, there: list[str]) -> None:
        """One of the others is enough, unless it ends before it has told all; the eldest knows most."""
        for name in there:
            link = self._links.get(name)
            if link is not None:
                link.put(b"K", b"")
                self._wait(lambda: name in self._has_told or name not in self._known)  # noqa: B023
            if name in self._has_told:
                return

    def _wait(self, until: Callable[[], bool]) -> None:
        """Block until something is so that another worker says or ends."""
        while not until():
            self._met.clear()
            self._met.wait()

    def stop(self, timeout: float) -> None:
        """Carry what waits, then leave; see `contract.Bus`."""
        (self._folder / f"{self._name}.sock").unlink(missing_ok=True)
        self._has_stopped = True
        with gevent.Timeout(timeout, False):
            while any(link.queue or link.is_sending for link in self._links.values()):
                gevent.sleep(0.005)
        gevent.killall([*self._greenlets, *(link.greenlet for link in self._links.values())])
        for link in self._links.values():
            link.close()
        for sock in (*self._heard.values(), self._accepting):
            if sock is not None:
                sock.close()
        self._links.clear()
        self._heard.clear()
        self._wants.close()

    def _spawn(self, function: Callable[..., Any], *arguments: Any) -> None:
        greenlet = gevent.spawn(function, *arguments)
        self._greenlets.append(greenlet)
        greenlet.link(self._greenlets.remove)

    def _connect(self, name: str) -> None:
        if name in self._links or self._has_stopped:
            return
        path = self._folder / f"{name}.sock"
        try:
            sock, wants = _reach(path)
        except (ConnectionRefusedError, FileNotFoundError):
            if name not in self._heard:  # its process is gone, and what it left behind is nobody's
                path.unlink(missing_ok=True)
                path.with_suffix(".wants").unlink(missing_ok=True)
            return
        except OSError as error:  # too many files are open
            logger.error("The worker %s cannot be reached, trying again: %s", name, error.strerror or error)
            gevent.spawn_later(_NO_FILE_S, self._connect, name)
            return
        if name in self._links or self._has_stopped:  # connecting may have taken its time
            sock.close()
            wants.close()
            return
        link = self._links[name] = Link(name, sock, wants, self._sent, self._broken)
        link.put(b"H", orjson.dumps({"v": VERSION, "name": self._name}))
        link.put(b"S", write_facts(self._listener.all_facts().items()))

    def _beat(self) -> None:
        """Show the others that this one goes on, and see whether they do."""
        while True:
            gevent.sleep(self._beat_every)
            for name, link in list(self._links.items()):
                if not link.queue:
                    link.put(b"B", b"")
                missed = self._missed[name] = self._missed.get(name, 0) + 1
                if missed == self._patience:
                    logger.warning("The worker %s has said nothing for %.0f s", name, missed * self._beat_every)
                    self._listener.silent(name)

    def _goes_on(self, name: str) -> None:
        """A worker has said something."""
        missed, self._missed[name] = self._missed.get(name, 0), 0
        if missed >= self._patience and name in self._links:
            logger.warning("The worker %s goes on", name)
            self._links[name].put(b"A", b"")

    def _broken(self, link: Link) -> None:
        if self._links.get(link.name) is link:
            del self._links[link.name]
            link.close()
            self._sent.set()
            gevent.spawn_later(_RETRY_S, self._connect, link.name)

    # Coming in

    def _accept(self, accepting: socket.socket) -> None:
        while True:
            try:
                sock, _ = accepting.accept()
            except OSError as error:  # too many files are open; who is not heard for that would be a stranger for ever
                logger.error("No other worker is heard until a file is closed: %s", error.strerror)
                gevent.sleep(_NO_FILE_S)
            else:
                self._spawn(self._hear, sock)

    def _hear(self, sock: socket.socket) -> None:
        name = ""
        try:
            for number, (kind, content) in enumerate(frames(sock)):
                if number == 0:
                    name = self._greeted(kind, content)
                    self._heard[name] = sock
                    self._connect(name)
                else:
                    self._take(name, kind, content)
                self._goes_on(name)
                if number % _YIELD_EVERY == 0:
                    gevent.sleep(0)  # a socket that always has something to read never switches by itself
        except (OSError, ValueError) as error:  # EnvelopeError is a ValueError, too
            logger.warning("The link from the worker %s is broken: %s", name or "(nameless)", error)
        finally:
            sock.close()
        if name and self._heard.get(name) is sock and not self._has_stopped:
            del self._heard[name]
            self._known.discard(name)
            self._has_told.discard(name)
            self._missed.pop(name, None)
            link = self._links.pop(name, None)
            if link is not None:
                link.close()
                self._sent.set()
            self._listener.gone(name)
            self._met.set()
            gevent.spawn_later(_RETRY_S, self._connect, name)  # finds it gone, or alive after all

    def _take(self, name: str, kind: bytes, content: bytes) -> None:
        if kind == b"E":
            self._receive(functools.partial(self._envelopes.open, content))
        elif kind in (b"F", b"S"):
            self._listener.said(name, read_facts(content), are_all=kind == b"S")
            if kind == b"S":
                self._known.add(name)
                self._met.set()
        elif kind == b"C":
            self._listener.kept(orjson.loads(content))
        elif kind == b"D":
            self._has_told.add(name)
            self._met.set()
        elif kind == b"A" and name in self._links:
            self._links[name].put(b"S", write_facts(self._listener.all_facts().items()))
        elif kind == b"K" and name in self._links:
            for event in self._listener.kept_events(ALL_KEPT_S):
                self._links[name].put(b"C", orjson.dumps(event))
            self._links[name].put(b"D", b"")

    @staticmethod
    def _greeted(kind: bytes, content: bytes) -> str:
        hello = orjson.loads(content) if kind == b"H" else None
        if not isinstance(hello, dict) or hello.get("v") != VERSION or not isinstance(hello.get("name"), str):
            raise MalformedError(f"Expected a greeting of version {VERSION}; got {content[:40]!r}.")
        name: str = hello["name"]
        return name


_EVERYWHERE = -1  # no place in the tables: the event of a cache channel


@functools.lru_cache(maxsize=8192)
def _place(app_id: str, name: str) -> int:
    """Return where a table says whether a channel is wanted."""
    if is_cached(name):
        return _EVERYWHERE
    user_id = user_of(name)
    return channel_key(app_id, name) if user_id is None else user_key(app_id, user_id)


def _reach(path: Path) -> tuple[socket.socket, TheirWants]:
    """Connect to the worker at a path. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(path))
        return sock, TheirWants(path.with_suffix(".wants"))
    except OSError:
        sock.close()
        raise


def _listen(folder: Path, name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    hidden = folder / f"{name}.bind"  # as long as what it will be called: a path that is too long is to fail here
    try:
        sock.bind(str(hidden))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise OSError(f"The workers cannot meet in {folder}: {error}. Name another folder in ALPHAVEL_RUN_DIR.") from error
    os.rename(hidden, folder / f"{name}.sock")  # who finds it there is not refused, unless this process is gone
    return sock
