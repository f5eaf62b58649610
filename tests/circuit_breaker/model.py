"""
A circuit breaker as one would explain it on a blackboard: slow, obvious, with lists of timestamps, for one caller at a time.

Written from the documentation, not from the code; tests compare the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Rules:
    failure_threshold: int
    success_threshold: float
    timeout: float
    recovery_timeout: float
    half_open_requests: int
    trial_timeout: float
    recovery_backoff: float = 1.0
    recovery_timeout_max: float = 600.0
    ramp: tuple[int, ...] = ()
    ramp_step: float = 10.0


@dataclass
class Call:
    """A call that was let through; `era` is when the state in which it began began."""

    era: int
    trial: bool = False
    counts: bool = True


@dataclass
class Model:
    rules: Rules
    state: str = "closed"
    shadow: bool = False
    era: int = 0
    since: float = 0.0
    failures: list[float] = field(default_factory=list)
    trials: list[Call] = field(default_factory=list)
    good: int = 0
    bad: int = 0
    last_trial: float = 0.0
    openings: int = 0
    tickets: int = 0
    totals: dict[str, int] = field(default_factory=lambda: {"success": 0, "failure": 0, "ignored": 0, "rejected": 0})

    @property
    def shown(self) -> str:
        return "metrics_only" if self.shadow else self.state

    def become(self, state: str, now: float) -> None:
        self.era += 1
        self.state, self.since = state, now
        self.failures, self.trials, self.good, self.bad = [], [], 0, 0
        if state in ("closed", "isolated", "disabled"):
            self.openings = 0

    def open(self, now: float) -> None:
        self.become("open", now)
        self.openings += 1

    @property
    def wait(self) -> float:
        longest = max(self.rules.recovery_timeout_max, self.rules.recovery_timeout)
        return min(self.rules.recovery_timeout * self.rules.recovery_backoff ** (self.openings - 1), longest)

    def ask(self, now: float) -> Call | float | None:
        """A call wants in: the call, or seconds until it makes sense to ask again, None where nobody knows."""
        answer = self._ask(now)
        if isinstance(answer, Call):
            return answer
        if self.shadow:
            return Call(self.era, counts=False)
        self.totals["rejected"] += 1
        return answer

    def _ask(self, now: float) -> Call | float | None:
        if self.state in ("closed", "disabled"):
            return Call(self.era)
        if self.state == "isolated":
            return None
        if self.state == "open":
            if now < self.since + self.wait:
                return self.since + self.wait - now
            self.become("half_open", now)
        if self.state == "half_open":
            return self._ask_half_open(now)
        return self._ask_recovering(now)

    def _ask_half_open(self, now: float) -> Call | float:
        under_way = len(self.trials)
        if self.good + self.bad + under_way >= self.rules.half_open_requests:
            if now - self.last_trial < self.rules.trial_timeout:
                return 1.0
            good, bad = self.good, self.bad
            self.become("half_open", now)  # those under way are given up
            self.good, self.bad = good, bad
        call = Call(self.era, trial=True)
        self.trials.append(call)
        self.last_trial = now
        return call

    def _ask_recovering(self, now: float) -> Call | float:
        self.tickets += 1
        step = int((now - self.since) / self.rules.ramp_step)
        if step >= len(self.rules.ramp):
            self.become("closed", now)
            return Call(self.era)
        percent = self.rules.ramp[step]
        due = self.tickets * percent // 100 - (self.tickets - 1) * percent // 100
        return Call(self.era) if due else 1.0

    def end(self, call: Call, outcome: str, now: float) -> None:
        """A call has ended: `success`, `failure` or `ignored`."""
        self.totals[outcome] += 1
        if call.era != self.era or not call.counts:
            return
        if call.trial:
            self._end_trial(call, outcome, now)
        elif outcome == "failure" and self.state in ("closed", "recovering"):
            self.failures.append(now)
            if self.recent(now) >= self.rules.failure_threshold:
                self.open(now)

    def _end_trial(self, call: Call, outcome: str, now: float) -> None:
        self.trials.remove(call)
        self.good += outcome == "success"
        self.bad += outcome == "failure"
        trials, needed = self.rules.half_open_requests, self.rules.success_threshold
        if outcome == "failure" and 100 * (trials - self.bad) / trials < needed:
            self.open(now)
        elif outcome != "ignored" and self.good + self.bad == trials:
            self.become("recovering" if self.rules.ramp else "closed", now)

    def recent(self, now: float) -> int:
        return len([moment for moment in self.failures if moment > now - self.rules.timeout])

    def control(self, act: str, now: float) -> None:
        """An operator acts."""
        self.shadow = act == "metrics_only"
        if act == "open":
            self.openings = 0
            self.open(now)
        else:
            state = {"close": "closed", "reset": "closed", "metrics_only": "closed", "isolate": "isolated"}.get(act, "disabled")
            self.become(state, now)
        if act == "reset":
            self.totals = dict.fromkeys(self.totals, 0)
