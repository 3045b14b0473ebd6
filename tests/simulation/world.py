"""The API of a simulation: its records, a ledger of its effects, other writers, and its faults.

What a call does to the records happens on the API's own time, whether or not the client still
lives. A fault decides what the client is told of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from dsync.connectors import CallLog, Page
from dsync.errors import ContractBreach, Unauthorized, Unavailable
from dsync.journal import Journal, op_id
from dsync.model import Change, Outcome, Scope
from dsync.settling import Now

from .clock import Clock

Place = tuple[str, str]
"""resource, scope"""
Op = tuple[str, str, str, str]
"""action, resource, scope, key"""

FAULTS = (
    "early", "wait_early", "unreached", "unreached_again", "untrusted", "refused", "moved",
    "lost_before", "lost_after", "late", "status_before", "status_after", "hang_before",
    "hang_after", "breach_before", "breach_after", "bug_before", "bug_after", "throttled",
    "throttled_again", "renewed", "locked_out", "long_wait", "keyed_before", "keyed_after",
)  # fmt: skip
JOB_FAULTS = (
    "job_hollow", "job_failed", "job_failed_done", "job_half", "job_endless", "job_long",
    "job_forgotten", "job_locked_out",
)  # fmt: skip
READ_FAULTS = ("read_down", "read_locked_out", "read_breach")
POLLED_S = 20.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What kind of API it is. Times in seconds."""

    unique: bool = True
    """two records with one key cannot be"""
    tells_id: bool = True
    jobs: bool = False
    keyed: bool = False
    """a repeated idempotency key has no second effect, for `key_life_s`"""
    key_life_s: float = 3600.0
    in_flight_s: float = 30.0
    """so long it may go on with a call whose client has gone"""
    settle_s: float = 2.0
    """so long a listing may lag"""


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing that the API did for a call of ours."""

    at: float
    op: Op
    id: int
    life: int


@dataclass(frozen=True, slots=True)
class Touch:
    """One thing that somebody else did."""

    at: float
    resource: str
    scope: str
    key: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call of ours that arrived."""

    at: float
    op: Op
    op_id: str
    attempt: int
    life: int


@dataclass(slots=True)
class _Job:
    """What the API does for a call in its own time."""

    place: str
    op: Op
    sent_at: float
    ends_at: float
    work: Callable[[], Any]
    verdict: Literal["success", "failure"]
    is_done: bool = False
    is_told: bool = False
    """the client's journal has it"""
    is_forgotten: bool = False
    is_locked: bool = False
    result: Any = None


@dataclass(slots=True)
class World:
    """The API, the others who write to it, and what can be known of both afterwards."""

    rng: Random
    clock: Clock
    facts: Facts
    records: dict[Place, dict[int, dict[str, Any]]]
    weather: Mapping[str, float]
    """fault -> how probable it is at each call"""
    ledger: list[Effect] = field(default_factory=list)
    touches: list[Touch] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    answers: dict[tuple[str, int], str] = field(default_factory=dict)
    """operation and attempt -> what the engine was told of it in this life"""
    lies: dict[Op, set[str]] = field(default_factory=lambda: defaultdict(set))
    """what an API should not do, and did for an operation"""
    seen: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)
    life: int = 0
    is_calm: bool = False
    journal: Journal | None = None
    wrong: list[str] = field(default_factory=list)
    crash: Callable[[str], None] = lambda _name: None
    most_in_flight: Counter[str] = field(default_factory=Counter)
    _compared_from: float = -math.inf
    """since then our client knows how records are"""
    _in_flight: Counter[str] = field(default_factory=Counter)
    _pending: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _past: list[tuple[float, Place, int, dict[str, Any] | None]] = field(default_factory=list)
    _jobs: dict[str, _Job] = field(default_factory=dict)
    _keys: dict[str, tuple[float, Any]] = field(default_factory=dict)
    _numbers: Any = field(default_factory=lambda: itertools.count(1000))

    # ---- time ------------------------------------------------------------------------------

    def at(self, when: float, work: Callable[[], None]) -> None:
        """Do this when it is time, whether anybody waits for it or not."""
        heapq.heappush(self._pending, (when, next(self._numbers), work))

    def catch_up(self) -> None:
        """Do what was due up to now, in its order."""
        while self._pending and self._pending[0][0] <= self.clock.now:
            when, _, work = heapq.heappop(self._pending)
            now, self.clock.now = self.clock.now, when
            work()
            self.clock.now = now

    def begin_life(self, number: int, *, compares: bool) -> None:
        """A new client comes; it may compare its plan once more before it sends anything."""
        self.life = number
        self._compared_from = self.clock.now if compares else -math.inf
        self.answers.clear()
        self._in_flight.clear()
        self.most_in_flight.clear()
        self.note(f"process {number}{', calm' if self.is_calm else ''}")

    def forget(self) -> None:
        """Another run begins: what was done for the one before is no longer counted."""
        self.ledger.clear()
        self.touches.clear()
        self.calls.clear()
        self.lies.clear()

    def client_died(self) -> None:
        """What nobody has heard of ends in the time that the API promises."""
        for job in self._jobs.values():
            if not job.is_told:
                self.unheard(job)

    def grow_calm(self) -> None:
        """No more faults, no more strangers; what is under way ends soon."""
        self.is_calm = True
        self.catch_up()
        for job in self._jobs.values():
            self._end_job(job, min(job.ends_at, self.clock.now + 5))

    def note(self, text: str) -> None:
        self.told.append(f"{self.clock.now:12.3f}  {text}")

    def dice(self, faults: Sequence[str]) -> str:
        """The fault that comes in the way now; empty for none."""
        if self.is_calm:
            return ""
        for name in faults:
            if (share := self.weather.get(name)) and self.rng.random() < share:
                self.seen[name] += 1
                return name
        return ""

    # ---- what is there ---------------------------------------------------------------------

    def holders(self, place: Place, key: str) -> list[int]:
        return [id_ for id_, record in self.records[place].items() if record["name"] == key]

    def listing(self, place: Place) -> list[dict[str, Any]]:
        """What a listing that begins now shows: what was there a moment ago."""
        self.catch_up()
        lag = 0.0 if self.is_calm else self.rng.choice((0.0, self.rng.random() * 0.95))
        asof = self.clock.now - lag * self.facts.settle_s
        seen = dict(self.records[place])
        for when, where, id_, before in reversed(self._past):
            if when <= asof:
                break
            if where == place:
                if before is None:
                    seen.pop(id_, None)
                else:
                    seen[id_] = before
        return [seen[id_] for id_ in sorted(seen)]

    def put(self, place: Place, id_: int, record: dict[str, Any] | None) -> None:
        """A record is so from now on; None: it is not there."""
        before = self.records[place].get(id_)
        self._past.append((self.clock.now, place, id_, before))
        if record is None:
            self.records[place].pop(id_, None)
        else:
            self.records[place][id_] = {**record, "id": id_}

    def new_id(self) -> int:
        return int(next(self._numbers))

    def touch(self, place: Place, key: str) -> None:
        """Somebody else writes to this record."""
        self.touches.append(Touch(self.clock.now, *place, key))
        self.note(f"somebody touches {place[0]} {place[1]} {key}")

    # ---- effects ---------------------------------------------------------------------------

    def commit(self, change: Change, key: str, *, half: bool = False) -> tuple[int, Any]:
        """What the API does for one call: status and id."""
        op = op_of(change)
        if self.facts.keyed and key in self._keys:
            when, result = self._keys[key]
            if self.clock.now - when < self.facts.key_life_s:
                return result  # type: ignore[no-any-return]
        place = (change.resource, change.scope)
        result = self._commit(change, place, op, half=half)
        self._keys[key] = (self.clock.now, result)
        return result

    def _commit(self, change: Change, place: Place, op: Op, *, half: bool) -> tuple[int, Any]:
        payload = dict(change.payload or {})
        match change.action:
            case "create":
                if self.facts.unique and self.holders(place, change.key[0]):
                    return 409, None
                id_ = self.new_id()
                self.put(place, id_, payload)
            case "update":
                id_ = change.id
                if id_ not in self.records[place]:
                    return 404, None
                if half:
                    payload = {name: payload[name] for name in sorted(change.fields)[:1]}
                self.put(place, id_, self.records[place][id_] | payload)
            case _:
                id_ = change.id
                if id_ not in self.records[place]:
                    return 404, None
                self.put(place, id_, None)
        self.ledger.append(Effect(self.clock.now, op, id_, self.life))
        self.note(f"effect: {' '.join(op)} id {id_}{' (half)' if half else ''}")
        return 200, id_

    def begin_job(self, op: Op, work: Callable[[], Any], seconds: float, verdict: Any) -> _Job:
        now = self.clock.now
        job = _Job(f"orders/{next(self._numbers)}", op, now, now + seconds, work, verdict)
        self._jobs[job.place] = job
        self._end_job(job, job.ends_at)
        return job

    def unheard(self, job: _Job) -> None:
        """The client has given up a job of which it does not know where it is."""
        self._end_job(job, min(job.ends_at, job.sent_at + 0.9 * self.facts.in_flight_s))

    def _end_job(self, job: _Job, when: float) -> None:
        job.ends_at = min(job.ends_at, when)

        def end() -> None:
            if not job.is_done:
                job.is_done = True
                job.result = job.work()

        self.at(max(when, self.clock.now), end)

    def job(self, place: str) -> _Job:
        self.catch_up()
        return self._jobs[place]

    # ---- calls -----------------------------------------------------------------------------

    def arrived(self, change: Change, attempt: int) -> None:
        """The first byte of a call has come."""
        assert self.journal is not None
        op = op_id(self.journal.run_id, change)
        self.calls.append(Call(self.clock.now, op_of(change), op, attempt, self.life))
        self.note(f"call: {' '.join(op_of(change))} attempt {attempt}")
        known = self.journal.state(op)
        if known is None or known.state != "sent" or known.attempt != attempt:
            self.wrong.append(f"{op_of(change)} arrived, and the journal has {known}")
        self._check_base(change)

    def _check_base(self, change: Change) -> None:
        """What others have long made of a record is not written over."""
        place, key = (change.resource, change.scope), change.key[0]
        moved = [t.at for t in self.touches if (t.resource, t.scope, t.key) == (*place, key)]
        if not moved or max(moved) >= self._compared_from - self.facts.settle_s:
            return
        now = stand(change, [*self.records[place].values()]).state
        if now not in ("absent" if change.action == "create" else "before", "after"):
            self.wrong.append(f"{op_of(change)} was sent, and the record is {now}")

    def enter(self, scope: str) -> None:
        self._in_flight[scope] += 1
        self._in_flight["all lanes"] += 1
        for name in (scope, "all lanes"):
            self.most_in_flight[name] = max(self.most_in_flight[name], self._in_flight[name])

    def leave(self, scope: str) -> None:
        self._in_flight[scope] -= 1
        self._in_flight["all lanes"] -= 1


def op_of(change: Change) -> Op:
    return change.action, change.resource, change.scope, change.key[0]


@dataclass(slots=True)
class Client:
    """A connector to a `World`; and it reads back, exactly, in the place of `settling.Reader`."""

    world: World

    async def send(self, change: Change, scope: Scope, *, log: CallLog) -> Outcome:
        world = self.world
        faults = FAULTS + JOB_FAULTS if world.facts.jobs else FAULTS
        unclear = False
        attempt = 0
        while True:
            attempt += 1
            fault = world.dice(faults)
            if attempt > 4 or (not world.facts.keyed and fault.startswith("keyed")):
                fault = ""
            if fault == "early":
                raise ZeroDivisionError("a bug before anything was sent")
            if fault == "wait_early":
                raise _wait()
            await self._moment(0.2)
            outcome = await self._attempt(change, log, fault)
            if outcome is None:
                unclear = unclear or fault.startswith("keyed")
                await self._moment(2)
                continue
            assert world.journal is not None
            op = op_id(world.journal.run_id, change)
            doubted = unclear and outcome.state in ("not_sent", "rejected", "stale")
            told = "unknown" if doubted else outcome.state
            world.answers[op, log.attempt] = told  # type: ignore[attr-defined]
            return outcome

    async def _attempt(self, change: Change, log: CallLog, fault: str) -> Outcome | None:
        """One call; None: it was told as one that is followed by another."""
        world, facts = self.world, self.world.facts
        body = json.dumps([change.action, change.id, change.payload], sort_keys=True)
        key = await log.intent(hashlib.sha256(body.encode()).hexdigest())
        if fault == "untrusted":
            raise Unavailable("its certificate is bad", code="DS-TLS")
        if fault.startswith("unreached"):
            outcome = Outcome(state="not_sent", code="DS-HTTP-CONNECT", message="refused")
            await self._moment(1)
            if fault == "unreached":
                return outcome
            await log.again(outcome, "no byte of it left")
            return None
        log.sent()
        world.enter(change.scope)
        try:
            world.arrived(change, log.attempt)  # type: ignore[attr-defined]
            if facts.jobs and not fault.startswith(_NO_JOB):
                return await self._by_job(change, log, key, fault)
            return await self._at_once(change, log, key, fault)
        finally:
            world.leave(change.scope)

    async def _at_once(self, change: Change, log: CallLog, key: str, fault: str) -> Outcome | None:
        world, facts = self.world, self.world.facts
        box: list[tuple[int, Any]] = []
        travel = world.rng.random() * 0.3
        patience = 0.4 + world.rng.random() * 0.4 * facts.in_flight_s
        if fault == "late":
            travel = max(patience, facts.in_flight_s * (0.6 + world.rng.random() * 0.35))
        if fault == "refused":
            world.lies[op_of(change)].add("refused")
        if fault == "moved":
            world.lies[op_of(change)].add("moved")
        if fault in ("", "late") or fault.endswith("_after"):
            world.at(world.clock.now + travel, lambda: box.append(world.commit(change, key)))
        waited = patience if fault in ("late", "hang_before", "hang_after") else travel + 0.1
        world.crash("in the air")
        await asyncio.sleep(waited)
        world.catch_up()
        if not fault:
            return self._answer(change, *box[0])
        return await self._told(fault, log)

    async def _told(self, fault: str, log: CallLog) -> Outcome | None:
        match fault:
            case "refused":
                return Outcome(state="rejected", status=422, code="DS-REJECTED", message="no")
            case "moved":
                return Outcome(state="stale", status=412, code="DS-APPLY-STALE", message="moved")
            case "locked_out":
                raise Unauthorized("the token is refused", code="DS-AUTH-401")
            case "breach_before" | "breach_after":
                raise ContractBreach("it answers nonsense", code="DS-HTTP-JSON")
            case "bug_before" | "bug_after":
                raise ZeroDivisionError("a bug in the connector")
            case "status_before" | "status_after":
                return Outcome(state="unknown", status=502, code="DS-HTTP-STATUS", message="502")
            case "throttled":
                return _throttled()
            case "throttled_again" | "long_wait":
                await log.again(_throttled(), "refused for now (429)")
                if fault == "long_wait":
                    raise _wait()
                return None
            case "renewed":
                refused = Outcome(state="not_sent", status=401, code="DS-AUTH-REFUSED")
                await log.again(refused, "refused at the door (401)")
                return None
            case "keyed_before" | "keyed_after":
                lost = Outcome(state="unknown", code="DS-HTTP-TIMEOUT", message="no answer")
                await log.again(lost, "the same idempotency key")
                return None
        return Outcome(state="unknown", code="DS-HTTP-TIMEOUT", message="no answer")

    def _answer(self, change: Change, status: int, id_: Any) -> Outcome:
        if status == 409:
            self.world.lies[op_of(change)].add("refused")
            return Outcome(state="rejected", status=409, code="DS-CONFLICT", message="there is one")
        if status == 404 and change.action == "delete":
            return Outcome(state="acked", status=404, code="DS-ABSENT", message="already absent")
        if status == 404:
            self.world.lies[op_of(change)].add("moved")
            return Outcome(state="stale", status=404, code="DS-APPLY-STALE", message="gone")
        tells = self.world.facts.tells_id and change.action == "create"
        return Outcome(state="acked", status=200, id=id_ if tells else None)

    # ---- jobs ------------------------------------------------------------------------------

    async def _by_job(self, change: Change, log: CallLog, key: str, fault: str) -> Outcome | None:
        world, facts = self.world, self.world.facts
        op, rng = op_of(change), world.rng
        half = fault == "job_half" and change.action == "update" and len(change.fields) > 1
        hollow = fault in ("job_hollow", "job_failed") or (fault == "job_half" and not half)
        fails = fault in ("job_failed", "job_failed_done", "job_half")
        if fault == "job_hollow":
            world.lies[op].add("hollow")
        if half:
            world.lies[op].add("half")
        if fails:
            world.lies[op].add("refused")
        long = {"job_endless": 1e9, "job_long": 5 * facts.in_flight_s}.get(fault, 0.0)
        seconds = long or rng.random() * min(10.0, 0.5 * facts.in_flight_s)
        job = world.begin_job(
            op,
            (lambda: None) if hollow else (lambda: world.commit(change, key, half=half)),
            seconds, "failure" if fails else "success",
        )  # fmt: skip
        job.is_forgotten = fault == "job_forgotten"
        job.is_locked = fault == "job_locked_out"
        if fault == "late" or fault.endswith("_after"):
            world.unheard(job)
            await self._moment(0.4 * facts.in_flight_s)
            return await self._told(fault, log)
        await self._moment(0.3)
        world.crash("before the job is known")
        log.accepted(job.place)
        job.is_told = True
        return await self._poll(job, change)

    async def _poll(self, job: _Job, change: Change | None) -> Outcome:
        world = self.world
        until = world.clock.now + POLLED_S
        while True:
            await self._moment(3)
            world.catch_up()
            if job.is_done:
                break
            if job.is_locked or world.clock.now > until:
                code = "DS-AUTH-401" if job.is_locked else "DS-JOB-TIMEOUT"
                job.is_locked = False
                return Outcome(state="accepted", code=code, message="no verdict", job=job.place)
        if job.is_forgotten:
            return Outcome(state="unknown", code="DS-JOB-MISSING", message="?", job=job.place)
        if job.verdict == "failure":
            return Outcome(state="rejected", code="DS-JOB-FAILED", message="no", job=job.place)
        status, id_ = job.result or (200, None)
        if status == 409:
            world.lies[job.op].add("refused")
            return Outcome(state="rejected", code="DS-JOB-FAILED", message="one", job=job.place)
        if status == 404:
            world.lies[job.op].add("hollow")
        tells = world.facts.tells_id and change is not None and change.action == "create"
        return Outcome(state="acked", status=200, id=id_ if tells else None, job=job.place)

    async def follow(self, job: str, scope: Scope) -> Outcome:
        self.world.note(f"follow {job}")
        self.world.enter(scope.name)
        try:
            found = self.world.job(job)
            found.is_told = True
            return await self._poll(found, None)
        finally:
            self.world.leave(scope.name)

    # ---- reading ---------------------------------------------------------------------------

    async def refresh(self, resource: str, scope: Scope) -> None:
        await self._moment(0.2)

    async def fetch(self, resource: str, scope: Scope) -> AsyncIterator[Page]:
        rows = await self._read((resource, scope.name))
        for row in rows:
            yield Page(ndjson=json.dumps(row).encode() + b"\n", count=1)

    async def now(
        self, profile: str, scope: Scope, changes: Sequence[Change], *, digest: str = ""
    ) -> list[Now]:
        """How these changes stand, found out by the test's own comparison."""
        rows = await self._read((changes[0].resource, scope.name))
        return [stand(change, rows) for change in changes]

    async def _read(self, place: Place) -> list[dict[str, Any]]:
        world = self.world
        fault = world.dice(READ_FAULTS)
        await self._moment(0.5)
        rows = world.listing(place)
        await self._moment(0.5)
        world.crash("while it reads")
        match fault:
            case "read_down":
                raise Unavailable("no listing", code="DS-HTTP-5XX")
            case "read_breach":
                raise ContractBreach("half a listing", code="DS-HTTP-JSON")
            case "read_locked_out":
                raise Unauthorized("the token is refused", code="DS-AUTH-401")
        return rows

    async def close(self) -> None:
        pass

    async def _moment(self, seconds: float) -> None:
        await asyncio.sleep(self.world.rng.random() * seconds)


_NO_JOB = (
    "refused", "moved", "lost_before", "status_before", "hang_before", "breach_before",
    "bug_before", "throttled", "renewed", "locked_out", "long_wait", "keyed_before",
)  # fmt: skip


def stand(change: Change, rows: Sequence[Mapping[str, Any]]) -> Now:
    """How a change stands where these are all records."""
    if change.action == "delete":
        found = [row for row in rows if row["id"] == change.id]
    else:
        found = [row for row in rows if row["name"] == change.key[0]]
    ids = tuple(row["id"] for row in found)
    if not found:
        return Now(state="absent")
    if len(found) > 1:
        return Now(state="many", ids=ids)
    (row,) = found
    before = dict(change.before or {})
    if change.action == "delete":
        same = all(row.get(name) == value for name, value in before.items())
        return Now(state="before" if same else "other", id=ids[0], ids=ids)
    payload = dict(change.payload or {})
    names = change.fields if change.action == "update" else tuple(payload)
    wanted = dict(change.after or {})
    differing = tuple(sorted(name for name in names if row.get(name) != wanted.get(name)))
    if not differing:
        return Now(state="after", id=ids[0], ids=ids)
    untouched = change.action == "update" and all(row.get(n) == before.get(n) for n in names)
    state: Literal["before", "other"] = "before" if untouched else "other"
    return Now(state=state, id=ids[0], ids=ids, fields=differing)


def _throttled() -> Outcome:
    return Outcome(state="not_sent", status=429, code="DS-HTTP-THROTTLED", message="slowly")


def _wait() -> Unavailable:
    return Unavailable("the API asks to wait until noon", code="DS-PACE-WAIT")


__all__ = ["FAULTS", "JOB_FAULTS", "READ_FAULTS", "Call", "Client", "Effect", "Facts",
           "Op", "Place", "Touch", "World", "op_of", "stand"]  # fmt: skip
