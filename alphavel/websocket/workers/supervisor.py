"""
The parent of several workers: it forks them, watches them, starts others in place of those that end, and passes signals on.
It serves nobody itself, so that there is little in it that can fail.

    SIGTERM, SIGINT   all workers hand their clients over and end, and so does the parent; a second one ends them at once
    SIGHUP, SIGUSR2   a new set of workers, with the code and the configuration of now, comes up; then the old ones drain

A worker whose loop stands still for long is ended, first in a way that has it print where it stands (SIGABRT), and replaced.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from alphavel.websocket import notify
from alphavel.websocket.listening import renewed
from alphavel.websocket.logs import get_logger
from alphavel.websocket.workers.pulse import Pulse

logger = get_logger("alphavel.websocket.workers")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)
RETIRE = signal.SIGUSR2
"""Tells a worker that another accepts in its place: it accepts no more, and drains."""

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0
_SETTLED_S = 10.0  # who has run for so long did not fail to start
_GRACE_S = 10.0  # beyond the time for draining
_LOOK_EVERY_S = 1.0
_ABORT_LOOKS = 2  # that one may take to print where it stands


class WorkerFailedError(Exception):
    """A worker could not start; the text is for people."""


class Place(NamedTuple):
    """
    What a worker is given by its parent.

    Attributes:
        number: Which of the workers it is, from 0.
        listener: Where it accepts; does not listen yet where the one before it did not come up.
        shares_listener: Whether others accept there, too.
        folder: Where the workers meet.
        lifeline: A descriptor that reads as ended when the parent has ended.
        report: A descriptor to say on how the start went: once, by `started` or `failed`.
        pulse: To be beaten, once started, more often than each second.
    """

    number: int
    listener: socket.socket
    shares_listener: bool
    folder: Path
    lifeline: int
    report: int
    pulse: Pulse

    def started(self, text: str) -> None:
        """Tell the parent that this worker accepts; `text`: what a server says of itself when it starts."""
        self._report(b"+", text)

    def failed(self, text: str) -> None:
        """Tell the parent why this worker cannot start."""
        self._report(b"-", text)

    def _report(self, mark: bytes, text: str) -> None:
        with open(self.report, "wb") as report:
            report.write(mark + text.encode())


class _Worker:
    """A process that was forked: when, on the monotonic clock, and what it has reported so far."""

    def __init__(self, number: int, pid: int, report: int, pulse: Pulse) -> None:
        self.number = number
        self.pid = pid
        self.report = report
        self.pulse = pulse
        self.started_at = time.monotonic()
        self.said = b""
        self.is_ready = False
        self.is_given_up = False


class Supervisor:
    """See the module."""

    def __init__(
        self,
        work: Callable[[Place], int],
        listeners: list[socket.socket],
        folder: Path,
        drain_timeout: float,
        worker_timeout: float | None,
        started: Callable[[str, list[int]], None],
    ) -> None:
        """
        Args:
            work: What a worker does, in its own process, to its end; returns its exit code.
            listeners: A socket for each worker; the list is kept as it is then.
            folder: Where they meet.
            drain_timeout: Seconds a worker may take to end.
            worker_timeout: Seconds a worker's loop may stand still; None: for ever.
            started: Called when all accept for the first time, with what the first one says of itself and their process ids.
        """
        self._work = work
        self._listeners = listeners
        self._folder = folder
        self._drain_timeout = drain_timeout
        self._worker_timeout = worker_timeout
        self._look_at = time.monotonic()
        self._started: Callable[[str, list[int]], None] | None = started
        self._workers: dict[int, _Worker] = {}  # by number
        self._successors: dict[int, _Worker] = {}
        self._leaving: dict[int, _Worker] = {}  # by pid
        self._failures = dict.fromkeys(range(len(listeners)), 0)
        self._due: dict[int, float] = {}  # when another is started, by number
        self._kill_at: float | None = None
        self._clean = True
        self._selector = selectors.DefaultSelector()
        self._lifeline = os.pipe()
        self._watchdog = notify.watchdog_interval()

    def run(self) -> bool:
        """
        Keep the workers running until a signal ends them.

        Returns:
            Whether all ended as they should.

        Raises:
            WorkerFailedError: One of the first workers could not start; the others have been ended.
        """
        with self._signals() as signals:
            for number in range(len(self._listeners)):
                self._workers[number] = self._fork(number)
            while self._workers or self._successors or self._leaving or (self._due and self._kill_at is None):
                self._wait(signals)
                self._reap()
                self._look()
                self._start_due()
        os.close(self._lifeline[1])
        return self._clean

    # What happens

    def _wait(self, signals: socket.socket) -> None:
        deadlines = [*self._due.values(), *([] if self._kill_at is None else [self._kill_at])]
        if self._worker_timeout is not None:
            deadlines.append(self._look_at)
        if self._watchdog is not None:
            notify.alive()
            deadlines.append(time.monotonic() + self._watchdog)
        timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        for key, _ in self._selector.select(timeout):
            if key.data is not None:
                self._read_report(key.data)
                continue
            with contextlib.suppress(BlockingIOError):
                for number in signals.recv(64):
                    self._signalled(signal.Signals(number))
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_all()

    def _signalled(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._kill_at is not None:
                self._kill_all()
            else:
                self._stop()
        elif number in (signal.SIGHUP, signal.SIGUSR2) and self._kill_at is None:
            self._roll()

    def _stop(self) -> None:
        notify.stopping()
        logger.info("Stopping %d workers", len(self._workers))
        self._kill_at = time.monotonic() + self._drain_timeout + _GRACE_S
        self._due.clear()
        for worker in self._everyone():
            _send(worker, signal.SIGTERM)

    def _kill_all(self) -> None:
        self._clean = False
        self._kill_at = time.monotonic() + _GRACE_S
        for worker in self._everyone():
            _send(worker, signal.SIGKILL)

    def _everyone(self) -> list[_Worker]:
        return [*self._workers.values(), *self._successors.values(), *self._leaving.values()]

    def _read_report(self, worker: _Worker, has_ended: bool = False) -> None:
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(worker.report, 65536):
                worker.said += piece
            has_ended = True
        if not has_ended:
            return
        self._selector.unregister(worker.report)
        os.close(worker.report)
        worker.report = -1
        worker.is_ready = worker.said.startswith(b"+")
        if not worker.is_ready:
            return  # it has ended, or is about to: `_reap` will find it
        if worker.number in self._successors and all(successor.is_ready for successor in self._successors.values()):
            self._hand_over()
        elif self._started is not None and all(worker.is_ready for worker in self._workers.values()):
            started, self._started = self._started, None
            started(self._workers[0].said[1:].decode(), [worker.pid for worker in self._workers.values()])

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for worker in self._everyone():
                if worker.pid == pid:
                    self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: _Worker, code: int) -> None:
        if worker.report >= 0:
            self._read_report(worker, has_ended=True)
        if self._leaving.pop(worker.pid, None) is not None:
            self._clean = self._clean and (code == 0 or worker.is_given_up)
        elif self._successors.get(worker.number) is worker:
            del self._successors[worker.number]
            self._give_up_roll(worker)
        else:
            del self._workers[worker.number]
            if self._kill_at is not None:
                self._clean = self._clean and code == 0
            elif self._started is not None:
                self._fail(worker)
            else:
                self._replace(worker, code)

    def _fail(self, worker: _Worker) -> NoReturn:
        for other in self._everyone():
            _send(other, signal.SIGKILL)
            os.waitpid(other.pid, 0)
        raise WorkerFailedError(_reason(worker))

    def _replace(self, worker: _Worker, code: int) -> None:
        settled = worker.is_ready and time.monotonic() - worker.started_at > _SETTLED_S
        failures = self._failures[worker.number] = 0 if settled else self._failures[worker.number] + 1
        pause = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2 ** max(0, failures - 1))
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        why = "" if worker.is_ready else f" before it had started: {_reason(worker)}"
        logger.error("Worker %d was ended %s%s; starting another in %.1f s", worker.pid, how, why, pause)
        self._due[worker.number] = time.monotonic() + pause
        if failures > 1:
            self._turn_away(worker.number)

    def _turn_away(self, number: int) -> None:
        """Have nobody wait for a worker that may never come up."""
        listener = self._listeners[number]
        if not self._is_shared(listener):
            self._listeners[number] = renewed(listener)

    def _is_shared(self, listener: socket.socket) -> bool:
        return self._listeners.count(listener) > 1

    def _look(self) -> None:
        """End the workers that hang."""
        now = time.monotonic()
        if self._worker_timeout is None or now < self._look_at:
            return
        every = min(_LOOK_EVERY_S, self._worker_timeout)
        self._look_at = now + every
        patience = max(2, round(self._worker_timeout / every))
        for worker in self._everyone():
            missed = worker.pulse.missed() if worker.is_ready else 0
            if missed == patience:
                logger.error("Worker %d has stood still for %.0f s; it is ended", worker.pid, missed * every)
                _send(worker, signal.SIGABRT)
            elif missed >= patience + _ABORT_LOOKS:  # it is stopped, or in a system call that nothing interrupts
                _send(worker, signal.SIGKILL)

    def _start_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            worker = self._workers[number] = self._fork(number)
            logger.info("Worker %d is started in its place", worker.pid)

    # Rolling restart

    def _roll(self) -> None:
        if self._started is not None:
            return  # the first ones start just now
        notify.reloading()
        self._abandon_successors()
        logger.info("Starting a new set of workers; the old ones drain when it is up")
        for number in range(len(self._listeners)):
            self._successors[number] = self._fork(number)

    def _hand_over(self) -> None:
        old, self._workers, self._successors = self._workers, self._successors, {}
        self._due.clear()
        self._failures = dict.fromkeys(self._failures, 0)
        self._leaving.update({worker.pid: worker for worker in old.values()})
        for worker in old.values():
            # One that was started in place of another just now does not know the signal.
            worker.is_given_up = not worker.is_ready
            _send(worker, RETIRE)
        logger.info("The new workers accept: %s", ", ".join(str(worker.pid) for worker in self._workers.values()))
        notify.ready()

    def _give_up_roll(self, failed: _Worker) -> None:
        if self._kill_at is None:
            logger.error("The old workers go on, because a new one could not start: %s", _reason(failed))
            notify.ready()
        self._abandon_successors()

    def _abandon_successors(self) -> None:
        for worker in self._successors.values():
            worker.is_given_up = True
            self._leaving[worker.pid] = worker
            _send(worker, signal.SIGTERM if worker.is_ready else signal.SIGKILL)  # that one has clients already
        self._successors = {}

    # Forking

    def _fork(self, number: int) -> _Worker:
        reading, writing = os.pipe()
        pulse = Pulse()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal must not find the child with the handlers, and the wake-up socket, of its parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            listener = self._listeners[number]
            self._be_worker(Place(number, listener, self._is_shared(listener), self._folder, self._lifeline[0], writing, pulse))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(writing)
        os.set_blocking(reading, False)
        worker = _Worker(number, pid, reading, pulse)
        self._selector.register(reading, selectors.EVENT_READ, worker)
        return worker

    def _be_worker(self, place: Place) -> NoReturn:
        code = 1
        try:
            self._forget_parent(place)
            faulthandler.enable()
            code = self._work(place)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:  # noqa: BLE001 (nothing of it may get into the parent's code, which stands below on this stack)
            traceback.print_exc()
        finally:
            # Not sys.exit(): the parent's `finally` blocks are not this process's to run.
            with contextlib.suppress(Exception):
                atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(code)

    def _forget_parent(self, place: Place) -> None:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        # Until it serves: Ctrl+C reaches the whole group, and what is to be done about it is the parent's to say.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            else:
                os.close(key.fd)
        self._selector.close()
        os.close(self._lifeline[1])  # else no worker would ever see its end
        for listener in self._listeners:
            if listener is not place.listener:
                listener.close()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Have signals arrive as bytes on a socket, so that there is one thing to wait for."""
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        wakeup = signal.set_wakeup_fd(writing.fileno())
        self._selector.register(reading, selectors.EVENT_READ, None)
        try:
            yield reading
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.unregister(reading)
            reading.close()
            writing.close()


def _send(worker: _Worker, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.pid, number)


def _reason(worker: _Worker) -> str:
    return worker.said[1:].decode(errors="replace") or "it ended without a word"
