"""Apply: journal, send, wave by wave; what became of each row, and the exit code.

    lane = one connection and one scope          lanes run side by side
      wave 0   intent ─▶ send ─▶ outcome         at most `limits.concurrency` calls of a connection,
      ──────── barrier ────────                  one a lane when the system is sequential
      wave 1   references filled with ids of wave 0, then the same
      …        deletes stand in the last waves

Nothing is sent that is not in the journal first. A call whose outcome is unknown is never sent
again before `settle` has found out. A record that fails takes only its dependents with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import msgspec

from dsync.connectors import Connector
from dsync.errors import DsyncError, Invalid, Stale, Unauthorized
from dsync.journal import Journal, Operation, Record, StopReason, op_id, operation
from dsync.model import (
    REF_CLOSE,
    REF_OPEN,
    Change,
    Event,
    Finding,
    Outcome,
    OutcomeState,
    Plan,
    RowStatus,
    Scope,
)
from dsync.reports import RowResult, RunResult, key_text
from dsync.system import System

Translate = Callable[[bytes], tuple[tuple[str, ...], Any, Mapping[str, Any]]]
"""A listed record, as a line of JSON -> its key, its id, its fields in the shape that is written"""

UNCLEAR_IN_A_ROW = 5
"""calls of a connection that did not reach it or got no clear answer, one after the other, before
the run stops: the API is gone, and more calls would only make more that nobody knows of"""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 2.0
_UNEXPECTED = "DS-APPLY-UNEXPECTED"

_log = logging.getLogger(__name__)


async def apply(
    plan: Plan,
    journal: Journal,
    *,
    connectors: Mapping[str, Connector],
    systems: Mapping[str, System],
    translate: Mapping[tuple[str, str], Translate] | None = None,
    concurrency: int | None = None,
    on_event: Callable[[Event], None] | None = None,
    stop: asyncio.Event | None = None,
) -> RunResult:
    """Make the changes of `plan` that the journal does not know to be made.

    `connectors` and `systems` are by name of connection; `translate` is by connection and resource,
    and serves to find ids that an answer did not tell. `concurrency` may lower what a system
    allows. `on_event` hears of each change that has come to its end. When `stop` is set, calls in
    flight end, and no more begin; the same journal can be taken up again later.

    A change never raises; its row says what became of it. Raises: Stale or Invalid when the plan
    does not fit itself or the connections (nothing was sent), StorageFault when the journal cannot
    be written.
    """
    course = _course(plan)
    lost = sorted({connection for connection, _ in course} - connectors.keys())
    if lost:
        raise Stale(
            f"the plan writes to connections that there are not: {', '.join(lost)}",
            code="DS-PLAN-CONNECTION",
            hint="use the configuration that it was planned with, or plan again",
        )
    run = _Run(plan, journal, connectors, systems, translate or {}, concurrency, on_event, stop)
    await run.work(course)
    return result(plan, journal)


async def settle(
    change: Change, known: Operation, *, connector: Connector, scope: Scope
) -> Outcome:
    """What became of a call whose outcome the journal does not know.

    The only place that answers this. It reads nothing back yet: the answer is always `unknown`, so
    the change is not sent again and its row says that somebody must look.
    """
    return Outcome(
        state="unknown",
        status=known.status,
        id=known.id,
        code=known.code or "DS-APPLY-UNKNOWN",
        message=known.message or "the run ended before the answer came",
        job=known.job,
    )


# --- what became of it --------------------------------------------------------------------------

_DONE: dict[str, RowStatus] = {"create": "CREATED", "update": "UPDATED", "delete": "DELETED"}


def statuses(plan: Plan, journal: Journal) -> Iterator[RowResult]:
    """What became of each row that a change or a finding is about, in the order of the plan.

    Rows that are as wanted already are not among them; the tallies of the plan count them.
    """
    for change in plan.changes():
        yield _row_result(change, journal.state(op_id(journal.run_id, change)), journal.run_id)
    systems = {tally.profile: tally.system for tally in plan.tallies}
    # The findings of one row stand together in a plan.
    for _, found in groupby(plan.findings(), key=lambda f: (f.profile, f.scope, f.row)):
        withheld = [finding for finding in found if finding.severity != "warn"]
        if withheld and withheld[0].row is not None:
            yield _withheld(withheld, systems.get(withheld[0].profile, ""))


def result(plan: Plan, journal: Journal) -> RunResult:
    """What the run has come to; computed from plan and journal alone, at any time.

    Raises: RuntimeError when the rows do not add up, which is a fault of ours.
    """
    counts: Counter[RowStatus] = Counter()
    unknown = pending = 0
    for change in plan.changes():
        known = journal.state(op_id(journal.run_id, change))
        row = _row_result(change, known, journal.run_id)
        counts[row.status] += 1
        unknown += row.is_unknown
        pending += known is None
    for tally in plan.tallies:
        counts["UNCHANGED"] += tally.unchanged
        counts["SKIP"] += tally.skip
        counts["ERROR"] += tally.error
    _check_books(plan, counts)
    life = journal.life()
    return RunResult(
        run_id=journal.run_id,
        plan_digest=plan.digest,
        exit_code=exit_code(counts, unknown=unknown, pending=pending, stop=life.stop),
        counts={status: counts[status] for status in counts},
        unknown=unknown,
        pending=pending,
        calls=journal.calls(),
        stopped=life.message,
        started=life.started,
        ended=life.ended,
        tool_version=plan.tool_version,
        connections=plan.connections,
    )


def exit_code(
    counts: Mapping[RowStatus, int], *, unknown: int, pending: int, stop: StopReason | None
) -> int:
    """The exit code of a run. The strongest reason counts."""
    if unknown:
        return 5
    if stop == "unauthorized":
        return 9
    if stop == "unavailable":
        return 10
    # A process that was killed between two calls left no reason behind.
    if pending:
        return 3
    return 4 if counts.get("ERROR") or counts.get("EXCEPTION") else 0


def _check_books(plan: Plan, counts: Mapping[RowStatus, int]) -> None:
    """Every row of the source, and every record to be deleted, ends in exactly one status."""
    rows = sum(tally.rows + tally.delete for tally in plan.tallies)
    if sum(counts.values()) != rows:
        raise RuntimeError(f"the plan has {rows} rows, the statuses add up to {dict(counts)}")


def _row_result(change: Change, known: Operation | None, run_id: str) -> RowResult:
    status: RowStatus = "ERROR"
    code, reason, hint = "", "", ""
    if known is None:
        status, code, reason = "SKIP", "DS-APPLY-NOT-STARTED", "not started: the run has stopped"
        hint = f"dsync resume {run_id}"
    elif known.state == "acked":
        status = _DONE[change.action]
    elif known.state == "skipped":
        status, code, reason = "SKIP", "DS-APPLY-DEPENDS", known.message
        hint = "correct what failed, then plan again"
    else:
        status = "EXCEPTION" if known.code == _UNEXPECTED else "ERROR"
        code, reason = known.code, known.message
        if known.is_unknown:
            code = code or "DS-APPLY-UNKNOWN"
            reason = f"outcome unknown: {reason or 'the run ended before the answer came'}"
            hint = "look whether the target has it; it is not sent again"
        elif known.state == "not_sent":
            hint = f"dsync resume {run_id} tries again"
        else:
            hint = "correct the row or the target, then plan again"
    return RowResult(
        status=status,
        profile=change.profile,
        system=change.system,
        resource=change.resource,
        scope=change.scope,
        key=change.key,
        action=change.action,
        row=change.row,
        id=change.id if known is None or known.id is None else known.id,
        code=code,
        reason=reason,
        hint=hint,
        is_unknown=known is not None and known.is_unknown,
    )


def _withheld(findings: list[Finding], system: str) -> RowResult:
    worst = next((f for f in findings if f.severity == "error"), findings[0])
    return RowResult(
        status="ERROR" if worst.severity == "error" else "SKIP",
        profile=worst.profile,
        system=system,
        resource=worst.resource,
        scope=worst.scope,
        key=worst.key,
        row=worst.row,
        place=worst.place,
        code=worst.code,
        reason="; ".join(finding.message for finding in findings),
        hint=worst.hint or "",
    )


# --- the course: which changes, where, when -----------------------------------------------------

_Lane = tuple[str, str]
"""connection, scope"""

_CHANGE = b'{"kind":"change"'
_MARKS = (REF_OPEN.encode(), b"\\ue000", b"\\uE000")


class _Head(msgspec.Struct):
    """So much of a change as says where it belongs."""

    action: str
    profile: str
    system: str
    resource: str
    key: tuple[str, ...]
    scope: str = ""
    wave: int = 0
    needs: tuple[msgspec.Raw, ...] = ()


_head = msgspec.json.Decoder(_Head)
_whole = msgspec.json.Decoder(Change)


@dataclass(slots=True)
class _Stretch:
    """A piece of the plan's body with changes of one lane and wave; bytes, end not included."""

    start: int
    end: int


_Course = dict[_Lane, dict[int, list[_Stretch]]]


def _course(plan: Plan) -> _Course:
    """Where in the plan's body the changes of each lane and wave are.

    The body is sorted by wave and scope, so there are few stretches, however many changes.

    Raises: Stale when the body is not what the header says; Invalid when two changes are one.
    """
    course: _Course = defaultdict(lambda: defaultdict(list))
    counts: Counter[tuple[str, ...]] = Counter()
    shared = _shared(plan)
    seen: set[bytes] = set()
    last: tuple[_Lane, int] | None = None
    for start, end, line in _lines(plan, _Stretch(0, plan.body.stat().st_size)):
        head = _head.decode(line)
        if head.profile not in plan.connections:
            raise _misfit(f"no connection is known for its profile {head.profile!r}")
        place = ((plan.connections[head.profile], head.scope), head.wave)
        stretches = course[place[0]][place[1]]
        if place == last:
            stretches[-1].end = end
        else:
            stretches.append(_Stretch(start, end))
        last = place
        counts[head.profile, head.system, head.resource, head.scope, head.action] += 1
        if (head.system, head.resource, head.scope) in shared:
            _check_new(head, seen)
    for tally in plan.tallies:
        for action in ("create", "update", "delete"):
            counts[tally.profile, tally.system, tally.resource, tally.scope, action] -= getattr(
                tally, action
            )
    if any(counts.values()):
        raise _misfit("it does not hold the changes that its header counts")
    return course


def _shared(plan: Plan) -> set[tuple[str, str, str]]:
    """Resources in a scope that more than one profile writes to."""
    writers = Counter((t.system, t.resource, t.scope) for t in plan.tallies)
    return {place for place, number in writers.items() if number > 1}


def _check_new(head: _Head, seen: set[bytes]) -> None:
    identity = (head.system, head.resource, head.scope, head.key, head.action)
    digest = hashlib.blake2b(msgspec.json.encode(identity), digest_size=16).digest()
    if digest in seen:
        # The journal knows an operation by this identity: the second would pass for the first.
        raise Invalid(
            f"two profiles {head.action} {head.resource} {key_text(head.key)}",
            code="DS-PLAN-CLASH",
            hint="let only one profile hold this record, or apply them one after the other",
        )
    seen.add(digest)


def _misfit(why: str) -> Stale:
    return Stale(f"the plan does not fit itself: {why}", code="DS-PLAN-MISFIT", hint="plan again")


def _lines(plan: Plan, stretch: _Stretch) -> Iterator[tuple[int, int, bytes]]:
    """The changes of a stretch as they are written: start, end, line."""
    with plan.body.open("rb") as body:
        at = body.seek(stretch.start)
        for line in body:
            if at >= stretch.end:
                return
            start, at = at, at + len(line)
            if line.startswith(_CHANGE):
                yield start, at, line


# --- references ---------------------------------------------------------------------------------

_REFERENCE = re.compile(f"{REF_OPEN}([^{REF_CLOSE}]*){REF_CLOSE}")


@dataclass(frozen=True, slots=True)
class _Reference:
    """A field of a record that this plan creates, in the same connection and scope.

    Where `take` is empty no field is asked for: the record has to be there, that is all.
    """

    resource: str
    key: tuple[str, ...]
    take: str = ""

    def __str__(self) -> str:
        return f"{self.resource} {key_text(self.key)}"


@dataclass(frozen=True, slots=True)
class _Missing:
    """Why a reference has no value. `failed`: its record was not created, and we know it."""

    why: str
    failed: bool


_Known = dict[_Reference, Any]
"""reference -> its value, or a `_Missing`"""


def _reference(content: str) -> _Reference:
    resource, key, take = msgspec.json.decode(content, type=tuple[str, tuple[str, ...], str])
    return _Reference(resource, key, take)


def _references(value: Any) -> Iterator[_Reference]:
    match value:
        case str():
            for match in _REFERENCE.finditer(value):
                yield _reference(match[1])
        case dict():
            for item in value.values():
                yield from _references(item)
        case list() | tuple():
            for item in value:
                yield from _references(item)


def _relied_on(change: Change) -> list[_Reference]:
    """What must have been created before this change can be sent."""
    needs = [_Reference(resource, key) for resource, key in change.needs]
    return [*needs, *_references(change.payload)]


def _filled(value: Any, known: _Known) -> Any:
    """`value` with all references replaced; one that is the whole text keeps its value's type."""
    match value:
        case str() if REF_OPEN in value:
            if whole := _REFERENCE.fullmatch(value):
                return known[_reference(whole[1])]
            return _REFERENCE.sub(lambda match: _text(known[_reference(match[1])]), value)
        case dict():
            return {name: _filled(item, known) for name, item in value.items()}
        case list() | tuple():
            return [_filled(item, known) for item in value]
        case _:
            return value


def _folded(key: tuple[str, ...], caseless: bool) -> tuple[str, ...]:
    return tuple(part.lower() for part in key) if caseless else key


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


# --- the run ------------------------------------------------------------------------------------


class _Writer:
    """Group commit: what all tasks have to say in one turn of the loop is one transaction.

    `fault` is the journal's failure, if it failed; nothing may be sent from then on.
    """

    def __init__(self, journal: Journal) -> None:
        self.fault: DsyncError | None = None
        self._journal = journal
        self._waiting: list[Record] = []
        self._turn: asyncio.Future[None] | None = None

    def put(self, *records: Record) -> asyncio.Future[None]:
        """Write soon; the future is done when the records are durable or `fault` is set."""
        self._waiting.extend(records)
        if self._turn is None:
            loop = asyncio.get_running_loop()
            self._turn = loop.create_future()
            loop.call_soon(self._commit)
        return self._turn

    async def durable(self, *records: Record) -> None:
        """Write, and come back when all that was put so far is durable.

        Raises: StorageFault.
        """
        await asyncio.shield(self.put(*records))
        if self.fault is not None:
            raise self.fault

    def _commit(self) -> None:
        records, self._waiting = self._waiting, []
        turn, self._turn = self._turn, None
        try:
            if records:
                self._journal.append(*records)
        except DsyncError as fault:
            self.fault = self.fault or fault
        if turn is not None and not turn.done():
            turn.set_result(None)


class _Run:
    """One process's work on one run."""

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        connectors: Mapping[str, Connector],
        systems: Mapping[str, System],
        translate: Mapping[tuple[str, str], Translate],
        concurrency: int | None,
        on_event: Callable[[Event], None] | None,
        stop: asyncio.Event | None,
    ) -> None:
        self.plan = plan
        self.journal = journal
        self.connectors = connectors
        self.systems = systems
        self.translate = translate
        self.on_event = on_event
        self.stop = stop or asyncio.Event()
        self.writer = _Writer(journal)
        self.scopes = {scope.name: scope for scope in plan.scopes}
        width = {
            name: max(1, min(system.limits.concurrency, concurrency or system.limits.concurrency))
            for name, system in systems.items()
        }
        self.width = width
        self.lanes = {name: asyncio.Semaphore(number) for name, number in width.items()}
        self.calls = {name: asyncio.Semaphore(number) for name, number in width.items()}
        self.unclear: Counter[str] = Counter()
        self.total = sum(t.create + t.update + t.delete for t in plan.tallies)
        self.done = 0
        self.halted = False
        self.fault: Exception | None = None

    @property
    def is_stopping(self) -> bool:
        """True when no further call may begin."""
        return (
            self.stop.is_set()
            or self.halted
            or self.fault is not None
            or self.writer.fault is not None
        )

    async def work(self, course: _Course) -> None:
        """All lanes, to their end or until something stops them."""
        await self.writer.durable(Record.start())
        async with asyncio.TaskGroup() as tasks:
            for lane, waves in course.items():
                tasks.create_task(self._lane(lane, waves))
        if self.stop.is_set() and not self.halted and self.done < self.total:
            self._halt("interrupted", "stopped on request")
        self.writer.put(Record.end())
        with contextlib.suppress(DsyncError):
            await self.writer.durable()
        if fault := self.writer.fault or self.fault:
            raise fault

    async def _lane(self, lane: _Lane, waves: dict[int, list[_Stretch]]) -> None:
        async with self.lanes[lane[0]]:
            width = 1 if self.systems[lane[0]].limits.sequential else self.width[lane[0]]
            for wave in sorted(waves):
                if self.is_stopping:
                    return
                try:
                    known = await self._learn(lane, waves[wave])
                except Exception as error:
                    self.fault = self.fault or error
                    return
                changes = self._changes(waves[wave])
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(width):
                        tasks.create_task(self._take(lane, changes, known))
                # The barrier: what this wave has come to is durable before the next begins.
                await asyncio.shield(self.writer.put())

    def _changes(self, stretches: list[_Stretch]) -> Iterator[Change]:
        for stretch in stretches:
            for _, _, line in _lines(self.plan, stretch):
                yield _whole.decode(line)

    async def _take(self, lane: _Lane, changes: Iterator[Change], known: _Known) -> None:
        """Take changes, one after the other, until there are no more; others take them too."""
        try:
            for change in changes:
                if self.is_stopping:
                    return
                await self._make(lane, change, known)
        except Exception as error:
            # Not raised here: it would cancel calls in flight, and nobody would know of them.
            self.fault = self.fault or error

    async def _make(self, lane: _Lane, change: Change, known: _Known) -> None:
        op = op_id(self.journal.run_id, change)
        before = self.journal.state(op)
        if before is not None and before.is_unknown:
            before = await self._settle(lane, change, op, before)
        if before is not None and (before.is_settled or before.is_unknown):
            self._tell(lane, change, None)
            return
        ready = self._ready(change, op, known)
        if ready is None:
            self._tell(lane, change, None)
            return
        async with self.calls[lane[0]]:
            if self.is_stopping:
                return
            attempt = (before.attempt if before is not None else 0) + 1
            await self.writer.durable(Record.intent(op, attempt))
            outcome = await self._send(lane, ready, op)
            # Not awaited: the next intent shares its commit, and the barrier waits for it.
            self.writer.put(Record.outcome(op, attempt, outcome))
        self._tell(lane, change, outcome)

    def _ready(self, change: Change, op: str, known: _Known) -> Change | None:
        """The change with its references filled; None when one cannot be, and is journaled."""
        try:
            values = [known[ref] for ref in _relied_on(change)]
        except (msgspec.DecodeError, KeyError):
            outcome = Outcome(
                state="not_sent", code=_UNEXPECTED, message="a reference in it cannot be read"
            )
            self.writer.put(Record.outcome(op, 0, outcome))
            return None
        for value in values:
            if isinstance(value, _Missing):
                if value.failed:
                    self.writer.put(Record.skipped(op, value.why))
                else:
                    outcome = Outcome(state="not_sent", code="DS-APPLY-NO-ID", message=value.why)
                    self.writer.put(Record.outcome(op, 0, outcome))
                return None
        if not values:
            return change
        return dataclasses.replace(change, payload=_filled(change.payload, known))

    async def _send(self, lane: _Lane, change: Change, op: str) -> Outcome:
        accepted = False

        def job(location: str) -> None:
            nonlocal accepted
            self.journal.append(Record.accepted(op, location))
            accepted = True

        try:
            outcome = await self.connectors[lane[0]].send(change, self._scope(lane), job=job)
        except Unauthorized as error:
            self._halt("unauthorized", error.message)
            # Refused at the door it had no effect, and may be tried again with better credentials.
            state: OutcomeState = "unknown" if accepted else "not_sent"
            return Outcome(state=state, code=error.code, message=error.message)
        except DsyncError as error:
            if error.exit_code == 11:
                raise
            return Outcome(state="unknown", code=error.code, message=error.message)
        except Exception as error:
            _log.exception("a call failed unexpectedly")
            # Its text is not ours, and may hold what must not be written.
            text = f"unexpected {type(error).__name__}; the log has the details"
            return Outcome(state="unknown", code=_UNEXPECTED, message=text)
        self._watch(lane, outcome)
        return outcome

    def _watch(self, lane: _Lane, outcome: Outcome) -> None:
        """Stop when the API is no longer there."""
        if outcome.state not in ("unknown", "not_sent"):
            self.unclear[lane[0]] = 0
            return
        self.unclear[lane[0]] += 1
        if self.unclear[lane[0]] >= UNCLEAR_IN_A_ROW:
            reason: StopReason = "unclear" if outcome.state == "unknown" else "unavailable"
            self._halt(
                reason,
                f"{UNCLEAR_IN_A_ROW} calls in a row got no answer from {lane[0]}: "
                f"{outcome.message}",
            )

    async def _settle(
        self, lane: _Lane, change: Change, op: str, known: Operation
    ) -> Operation | None:
        outcome = await settle(
            change, known, connector=self.connectors[lane[0]], scope=self._scope(lane)
        )
        if outcome.state == "unknown":
            return known
        await self.writer.durable(Record.outcome(op, known.attempt, outcome))
        return self.journal.state(op)

    def _halt(self, reason: StopReason, message: str) -> None:
        if not self.halted:
            self.halted = True
            _log.warning("run stops: %s", reason)
            self.writer.put(Record.stop(reason, message))

    def _tell(self, lane: _Lane, change: Change, outcome: Outcome | None) -> None:
        self.done += 1
        if self.on_event is None:
            return
        subject = f"{lane[0]} {lane[1]}".rstrip()
        event = Event(
            phase="apply", subject=subject, done=self.done, total=self.total,
            outcome=outcome, change=change,
        )  # fmt: skip
        try:
            self.on_event(event)
        except Exception:
            # A terminal that went away is no reason to leave the work half done.
            _log.exception("progress has no listener any more")
            self.on_event = None

    def _scope(self, lane: _Lane) -> Scope:
        return self.scopes.get(lane[1]) or Scope(name=lane[1])

    # --- ids that this run has made -------------------------------------------------------------

    async def _learn(self, lane: _Lane, stretches: list[_Stretch]) -> _Known:
        """A value, or the reason that there is none, for all that these stretches rely on."""
        known: _Known = {}
        sought: set[_Reference] = set()
        system = ""
        for change in self._relying(stretches):
            system = change.system
            # One that cannot be read is that change's own fault; `_ready` says so.
            with contextlib.suppress(msgspec.DecodeError):
                for ref in _relied_on(change):
                    if ref not in known and ref not in sought:
                        self._look(lane, system, ref, known, sought)
        for resource in sorted({ref.resource for ref in sought}):
            wanted = {ref for ref in sought if ref.resource == resource}
            known |= await self._find(lane, system, resource, wanted)
        return known

    def _relying(self, stretches: list[_Stretch]) -> Iterator[Change]:
        """Changes that are still to be made, and rely on others."""
        for stretch in stretches:
            for _, _, line in _lines(self.plan, stretch):
                if _head.decode(line).needs or any(mark in line for mark in _MARKS):
                    change = _whole.decode(line)
                    state = self.journal.state(op_id(self.journal.run_id, change))
                    if state is None or not (state.is_settled or state.is_unknown):
                        yield change

    def _look(
        self, lane: _Lane, system: str, ref: _Reference, known: _Known, sought: set[_Reference]
    ) -> None:
        maker = self.journal.state(self._maker(lane, system, ref))
        if maker is None:
            known[ref] = _Missing(f"depends on {ref}, which this run did not create", failed=True)
        elif maker.is_unknown:
            known[ref] = _Missing(f"depends on {ref}, whose outcome is unknown", failed=True)
        elif maker.state != "acked":
            known[ref] = _Missing(f"depends on {ref}, which failed", failed=True)
        elif not ref.take:
            known[ref] = None
        elif maker.id is not None and self._is_id(lane, ref):
            known[ref] = maker.id
        else:
            sought.add(ref)

    def _maker(self, lane: _Lane, system: str, ref: _Reference) -> str:
        return operation(self.journal.run_id, system, ref.resource, lane[1], ref.key, "create")

    def _is_id(self, lane: _Lane, ref: _Reference) -> bool:
        resource = self.systems[lane[0]].resources.get(ref.resource)
        return ref.take == "id" or (resource is not None and ref.take == resource.id)

    async def _find(
        self, lane: _Lane, system: str, resource: str, wanted: set[_Reference]
    ) -> _Known:
        """List the resource until the records are there or `settle_s` is over."""
        translate = self.translate.get((lane[0], resource))
        if translate is None:
            why = f"the answer did not tell its id, and {resource} cannot be listed"
            return {ref: _Missing(f"depends on {ref}: {why}", failed=False) for ref in wanted}
        facts = self.systems[lane[0]].resources.get(resource)
        loop = asyncio.get_running_loop()
        until = loop.time() + (facts.settle_s if facts is not None else 0)
        pause, why = _FIRST_PAUSE_S, "it is not in the listing"
        known: _Known = {}
        while True:
            try:
                known |= await self._listed(lane, resource, translate, wanted - known.keys())
            except Unauthorized as error:
                self._halt("unauthorized", error.message)
            except DsyncError as error:
                why = error.message
            if wanted <= known.keys() or loop.time() >= until or self.is_stopping:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), min(pause, max(0, until - loop.time())))
            pause = min(pause * 2, _LONGEST_PAUSE_S)
        for ref in wanted:
            if ref not in known:
                known[ref] = _Missing(f"depends on {ref}, whose id is not known: {why}", False)
            elif self._is_id(lane, ref) and not isinstance(known[ref], _Missing):
                self.writer.put(Record.found(self._maker(lane, system, ref), known[ref]))
        await self.writer.durable()
        return known

    async def _listed(
        self, lane: _Lane, resource: str, translate: Translate, wanted: set[_Reference]
    ) -> _Known:
        connector, scope = self.connectors[lane[0]], self._scope(lane)
        facts = self.systems[lane[0]].resources.get(resource)
        caseless = facts is not None and facts.caseless_key
        by_key: dict[tuple[str, ...], list[_Reference]] = defaultdict(list)
        for ref in wanted:
            by_key[_folded(ref.key, caseless)].append(ref)
        known: _Known = {}
        await connector.refresh(resource, scope)
        async for page in connector.fetch(resource, scope):
            for line in page.ndjson.splitlines():
                key, record_id, record = translate(line)
                for ref in by_key.get(_folded(key, caseless), ()):
                    value = record_id if self._is_id(lane, ref) else record.get(ref.take)
                    if ref in known:
                        why = f"depends on {ref}, of which there are two"
                        known[ref] = _Missing(why, failed=False)
                    elif value is not None:
                        known[ref] = value
        return known
