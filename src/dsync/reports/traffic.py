"""What a run has asked, added up: by scope and action, by record; retries, waits, memory.

A *scope* is here what users call one profile: `users` for `n2f/users`. Reads of a resource that
only one profile writes belong to its scope, other inventories have their own name, and logins are
`login`. A read of any kind has the action `sync`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dsync.calls import Call, LeftOut, Memory, read
from dsync.reports import RowResult, RunResult, scope_of

WRITES = ("create", "update", "delete")
_MOST_DELAYS = 100
_MINUTE_S = 60.0

Identity = tuple[str, str, str, tuple[str, ...]]
"""profile, scope, action, key"""


@dataclass(slots=True)
class Group:
    """The calls of one scope and action. Times in seconds; `began` and `ended` since 1970."""

    calls: int = 0
    successes: int = 0
    duration_s: float = 0.0
    waited_s: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    retries: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    delay_s: float = 0.0
    delays: list[float] = field(default_factory=list)
    """the first 100 of them"""
    last_error: str = ""
    last_error_type: str = ""

    @property
    def span_s(self) -> float:
        """From the first call to the end of the last one."""
        return max(0.0, self.ended - self.began)

    def add(self, call: Call) -> None:
        """One more call."""
        self.calls += call.sent
        self.successes += call.succeeded
        self.duration_s += call.ms / 1000
        self.waited_s += call.wait_ms / 1000
        self.began = min(self.began or call.at, call.at)
        self.ended = max(self.ended, call.ended)
        if call.attempt > 1:
            self.retries += 1
            self.reasons[call.reason or "unknown"] += 1
            self.delay_s += call.delay_ms / 1000
            if len(self.delays) < _MOST_DELAYS:
                self.delays.append(round(call.delay_ms / 1000, 3))
        if not call.succeeded:
            self.last_error, self.last_error_type = call.error, call.error_type


@dataclass(slots=True)
class Effort:
    """What one change has cost: all its attempts, and the looks at its job."""

    ms: float = 0.0
    ended: float = 0.0
    error: str = ""
    status: int | None = None


@dataclass(slots=True)
class Traffic:
    """All of it. `efforts` are only kept where they are asked for."""

    groups: dict[tuple[str, str], Group] = field(default_factory=lambda: defaultdict(Group))
    efforts: dict[Identity, Effort] = field(default_factory=dict)
    memory: list[tuple[float, float, str]] = field(default_factory=list)
    """when, MB, scope"""
    reads: list[float] = field(default_factory=list)
    """when they began"""
    writes: list[float] = field(default_factory=list)
    left_out: int = 0

    @property
    def calls(self) -> int:
        """Calls that the APIs have seen."""
        return sum(group.calls for group in self.groups.values()) + self.left_out

    @property
    def peak_mb(self) -> float:
        """The most memory that was held, in MB."""
        return max((mb for _, mb, _ in self.memory), default=0.0)

    def peaks(self) -> dict[str, float]:
        """The most memory that was held while a scope was decided, in MB."""
        found: dict[str, float] = {}
        for _, mb, scope in self.memory:
            if scope:
                found[scope] = max(mb, found.get(scope, 0.0))
        return found

    def of_scope(self, scope: str) -> Group:
        """All calls of a scope together."""
        return _joined(group for (name, _), group in self.groups.items() if name == scope)

    def total(self) -> Group:
        """All calls together."""
        return _joined(self.groups.values())


def _joined(groups: Iterable[Group]) -> Group:
    whole = Group()
    for group in groups:
        whole.calls += group.calls
        whole.successes += group.successes
        whole.duration_s += group.duration_s
        whole.waited_s += group.waited_s
        whole.began = min(whole.began or group.began, group.began)
        whole.ended = max(whole.ended, group.ended)
        whole.retries += group.retries
        whole.reasons.update(group.reasons)
        whole.delay_s += group.delay_s
        whole.delays = (whole.delays + group.delays)[:_MOST_DELAYS]
        if group.last_error_type:
            whole.last_error, whole.last_error_type = group.last_error, group.last_error_type
    return whole


def traffic(run: RunResult, *, efforts: bool = False) -> Traffic:
    """The calls of a run, read from its folder; nothing where they are not listed."""
    found = Traffic()
    names = _names(run)
    doing: dict[tuple[str, str, tuple[str, ...]], str] = {}
    for entry in read(run.folder):
        match entry:
            case Memory():
                found.memory.append((entry.at, entry.mb, scope_of(entry.profile)))
            case LeftOut():
                found.left_out += entry.calls
            case Call():
                is_write = entry.action in WRITES
                scope, action = _place(entry, names)
                found.groups[scope, action].add(entry)
                (found.writes if is_write else found.reads).append(entry.at)
                if efforts and entry.profile:
                    who = (entry.profile, entry.scope, entry.key)
                    if is_write:
                        doing[who] = entry.action
                    _spend(found.efforts, (*who[:2], doing.get(who, ""), entry.key), entry)
    return found


def _names(run: RunResult) -> Mapping[str, str]:
    """resource -> scope, where one profile alone writes it"""
    profiles: dict[str, set[str]] = defaultdict(set)
    for tally in run.tallies:
        profiles[tally.resource].add(tally.profile)
    return {name: scope_of(*several) for name, several in profiles.items() if len(several) == 1}


def _place(call: Call, names: Mapping[str, str]) -> tuple[str, str]:
    if call.action in WRITES:
        return scope_of(call.profile), call.action
    if call.profile:  # a look at the job of a write
        return scope_of(call.profile), "sync"
    if call.action in ("login", "probe"):
        return call.action, "sync"
    return names.get(call.resource, call.resource or "jobs"), "sync"


def _spend(efforts: dict[Identity, Effort], who: Identity, call: Call) -> None:
    effort = efforts.setdefault(who, Effort())
    effort.ms += call.wait_ms + call.ms
    effort.ended = call.ended
    if call.action in WRITES:
        effort.error, effort.status = call.error, call.status


def busiest(moments: Iterable[float]) -> int:
    """The most that began within one minute."""
    queue = sorted(moments)
    most = first = 0
    for last, at in enumerate(queue):
        while at - queue[first] >= _MINUTE_S:
            first += 1
        most = max(most, last - first + 1)
    return most


def is_attempted(row: RowResult) -> bool:
    """True for a row that was dealt with, well or badly; not for one that still waits."""
    return row.status in ("CREATED", "UPDATED", "DELETED", "ERROR", "EXCEPTION") or (
        row.action is not None and row.attempts > 0
    )


def is_done(row: RowResult) -> bool:
    """True for a change that was made."""
    return row.status in ("CREATED", "UPDATED", "DELETED")
