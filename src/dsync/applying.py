"""Apply: journal, send, settle, wave by wave.

    lane = one connection and one scope          lanes run side by side
      (resume) open jobs followed, unknown calls settled, before anything is sent
      wave 0   compared once more, where what it was planned from is old
               intent ─▶ sent ─▶ outcome         at most `limits.concurrency` calls of a connection,
               settle what is not clear          one a lane when the system is sequential
      ──────── barrier ────────
      wave 1   references filled with ids of wave 0, then the same
      …        deletes stand in the last waves

Nothing is sent that is not in the journal first. A call whose outcome is unknown is not sent again
before its record was read back. A record that fails takes only its dependents with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from dsync.connectors import Connector, Halted
from dsync.course import Course, Lane, Stretch, changes, lay_out, parts, relying
from dsync.errors import (
    ContractBreach,
    DsyncError,
    Stale,
    StorageFault,
    Unauthorized,
    Unavailable,
)
from dsync.failpoints import point
from dsync.journal import (
    RETRIED,
    Journal,
    Operation,
    Record,
    StopReason,
    idempotency_key,
    op_id,
)
from dsync.model import Change, Event, Outcome, Plan, Scope
from dsync.outcomes import UNEXPECTED, result
from dsync.references import Known, Learner, Missing, Translate, filled, relied_on
from dsync.reports import RunResult
from dsync.settling import Now
from dsync.system import System

__all__ = ["ReadBack", "Rules", "Translate", "apply"]

_log = logging.getLogger(__name__)


class ReadBack(Protocol):
    """Reads records back: `settling.Reader`."""

    async def now(
        self, profile: str, scope: Scope, changes: Sequence[Change], *, digest: str = ""
    ) -> list[Now]:
        """How each of these changes stands by a fresh, complete listing.

        Raises: Unavailable, Unauthorized.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When a run stops, and how long it waits. Times in seconds."""

    failures: int = 50
    """refused changes, once they are more than `failure_share` of what was done"""
    failure_share: float = 0.5
    unclear_in_a_row: int = 5
    """calls that did not leave or got no clear answer: then what is open is settled first"""
    stale: int = 50
    stale_share: float = 0.1
    conflicts: int = 5
    in_flight_s: float = 60.0
    """how long an API may go on with a call whose client has gone, unless its system file says"""
    fresh_s: float = 60.0
    """a wave rests on a listing no older than this"""
    drain_s: float = 30.0
    """how long calls in flight get when the run is asked to stop"""


SENDS = {"create": 2, "update": 4, "delete": 4}
"""calls for one change in all: a second one only after the first is proved to have had no effect"""


async def apply(
    plan: Plan,
    journal: Journal,
    *,
    connectors: Mapping[str, Connector],
    systems: Mapping[str, System],
    read_back: ReadBack | None = None,
    translate: Mapping[tuple[str, str], Translate] | None = None,
    targets: Mapping[Lane, str] | None = None,
    after: Collection[str] = (),
    concurrency: int | None = None,
    rules: Rules | None = None,
    age_s: float = 0.0,
    settle_only: bool = False,
    on_event: Callable[[Event], None] | None = None,
    stop: asyncio.Event | None = None,
    deadline: asyncio.Event | None = None,
) -> RunResult:
    """Make the changes of `plan` that the journal does not know to be made.

    `connectors` and `systems` are by name of connection; `translate` is by connection and resource,
    and serves to find ids that an answer did not tell; `targets` are the ids of what is written to,
    by connection and scope. `after`: profiles that wait, in all lanes, for all that comes
    before them. `concurrency` may lower what a system allows. `age_s`: how old the
    listings are that the plan rests on. `settle_only`: find out, send nothing. `on_event` hears of
    each change that has come to its end. When `stop` or `deadline` is set, calls in flight end, and
    no more begin; the same journal can be taken up again later.

    A change never raises; its row says what became of it. Raises: Stale or Invalid when the plan
    does not fit itself or the connections (nothing was sent), StorageFault when the journal cannot
    be written.
    """
    course = lay_out(plan)
    lost = sorted({connection for connection, _ in course} - connectors.keys())
    if lost:
        raise Stale(
            f"the plan writes to connections that there are not: {', '.join(lost)}",
            code="DS-PLAN-CONNECTION",
            hint="use the configuration that it was planned with, or plan again",
        )
    run = _Run(
        plan=plan, journal=journal, connectors=connectors, systems=systems, read_back=read_back,
        translate=translate or {}, targets=targets or {}, after=after, rules=rules or Rules(),
        on_event=on_event, stop=stop or asyncio.Event(), deadline=deadline or asyncio.Event(),
        most=concurrency, listed_at=time.monotonic() - age_s, settle_only=settle_only,
    )  # fmt: skip
    await run.work(course)
    return result(plan, journal)


# --- what is written down -----------------------------------------------------------------------


class _Writer:
    """Group commit: what all tasks have to say in one turn of the loop is one transaction.

    `fault` is the journal's failure, if it failed; nothing may be sent from then on.
    """

    def __init__(self, journal: Journal) -> None:
        self.fault: DsyncError | None = None
        self.rescued = ""
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
                self._write(records)
        except DsyncError as fault:
            self.failed(fault, records)
        except Exception as error:
            # Raised here it would reach nobody, and who waits for this turn would wait for ever.
            unforeseen = StorageFault(
                f"the journal cannot be written: {type(error).__name__}: {error}",
                code="DS-STORE-WRITE",
                where=str(self._journal.folder),
                hint="make space, check the rights, then resume",
            )
            self.failed(unforeseen, records)
        if turn is not None and not turn.done():
            turn.set_result(None)

    def failed(self, fault: DsyncError, records: Sequence[Record]) -> None:
        """The journal could not take these.

        An intent that was not written is a call that is not made, and what came before it is as it
        was; what became of calls that were made must not be lost.
        """
        self.fault = self.fault or fault
        kinds = ("job", "outcome", "resolve", "found", "stop")
        if told := [r for r in records if r.kind in kinds and r.code != RETRIED]:
            self.rescued = self._journal.rescue(told)

    def _write(self, records: list[Record]) -> None:
        kinds = {record.kind for record in records}
        for kind, before, _ in _POINTS:
            if kind in kinds:
                point(before)
        self._journal.append(*records)
        for kind, _, after in _POINTS:
            if kind in kinds:
                point(after)


_POINTS = (
    ("intent", "intent.before", "intent.after"),
    ("outcome", "outcome.before", "outcome.after"),
    ("resolve", "resolve.before", "resolve.after"),
    ("stop", "stop.after", "stop.after"),
)


class _CallLog:
    """What is told of one change while it is made; see `connectors.CallLog`."""

    def __init__(self, run: _Run, lane: Lane, op: str, attempt: int) -> None:
        self.phase: Literal["waiting", "flying", "polling"] = "waiting"
        self.attempt = attempt
        self.is_cut = False
        """the run has ended it"""
        self.is_unclear = False
        """an attempt of this change may have had its effect, and another one follows"""
        self._why: Record | None = None
        self._run, self._lane, self._op = run, lane, op

    async def intent(self, body_sha256: str) -> str:
        if self._run.is_stopping:
            raise Halted
        self.attempt += 1
        self.phase = "flying"
        intent = Record.intent(self._op, self.attempt, body_sha256)
        # Together: where no other attempt follows, the one before it stays unknown.
        why, self._why = self._why, None
        await self._run.writer.durable(*([why] if why else []), intent)
        target = self._run.targets.get(self._lane, " ".join(self._lane))
        return idempotency_key(target, self._op, body_sha256)

    def sent(self) -> None:
        point("sent.before")
        self._run.journal.mark(Record.sent(self._op, self.attempt))
        point("sent.after")

    async def again(self, outcome: Outcome, why: str) -> None:
        self.is_unclear = self.is_unclear or outcome.state == "unknown"
        if self.is_unclear:
            outcome = dataclasses.replace(outcome, state="unknown")
            known = dataclasses.replace(outcome, state="not_sent", code=RETRIED, message=why)
            self._why = Record.resolve(self._op, self.attempt, known, why)
        self.phase = "waiting"
        await self._run.writer.durable(Record.outcome(self._op, self.attempt, outcome))

    def accepted(self, job: str) -> None:
        point("job.before")
        record = Record.accepted(self._op, job)
        try:
            self._run.journal.append(record)
        except DsyncError as fault:
            # While it is open nothing may be sent again, however long it takes.
            self._run.writer.failed(fault, [record])
            raise
        point("job.after")
        self.phase = "polling"


@dataclass(slots=True, kw_only=True)
class _Doubt:
    """A change of which it is to be found out what became of it."""

    change: Change
    op: str
    known: Operation
    """as the journal has it: unknown, or an answer that has to be proved"""


# --- the run ------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True, eq=False)
class _Run:
    """One process's work on one run."""

    plan: Plan
    journal: Journal
    connectors: Mapping[str, Connector]
    systems: Mapping[str, System]
    read_back: ReadBack | None
    translate: Mapping[tuple[str, str], Translate]
    targets: Mapping[Lane, str]
    after: Collection[str]
    rules: Rules
    on_event: Callable[[Event], None] | None
    stop: asyncio.Event
    deadline: asyncio.Event
    most: int | None
    listed_at: float
    settle_only: bool

    writer: _Writer = field(init=False)
    scopes: dict[str, Scope] = field(init=False)
    width: dict[str, int] = field(init=False)
    lanes: dict[str, asyncio.Semaphore] = field(init=False)
    calls: dict[str, asyncio.Semaphore] = field(init=False)
    in_flight: dict[asyncio.Task[Outcome], _CallLog] = field(default_factory=dict)
    doubts: dict[Lane, list[_Doubt]] = field(default_factory=lambda: defaultdict(list))
    unclear: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    stale: int = 0
    conflicts: int = 0
    total: int = 0
    done: int = 0
    halted: bool = False
    fault: Exception | None = None
    told: set[str] = field(default_factory=set)
    """operations that are counted in `done`, and come by once more"""

    def __post_init__(self) -> None:
        self.writer = _Writer(self.journal)
        self.scopes = {scope.name: scope for scope in self.plan.scopes}
        self.width = {
            name: max(1, min(system.limits.concurrency, self.most or system.limits.concurrency))
            for name, system in self.systems.items()
        }
        self.lanes = {name: asyncio.Semaphore(number) for name, number in self.width.items()}
        self.calls = {name: asyncio.Semaphore(number) for name, number in self.width.items()}
        self.total = sum(t.create + t.update + t.delete for t in self.plan.tallies)

    @property
    def is_stopping(self) -> bool:
        """True when no further call may begin."""
        return (
            self.stop.is_set()
            or self.deadline.is_set()
            or self.halted
            or self.fault is not None
            or self.writer.fault is not None
        )

    async def work(self, course: Course) -> None:
        """All lanes, to their end or until something stops them."""
        again = self.journal.life().lives > 0
        await self.writer.durable(Record.start())
        watch = asyncio.create_task(self._wind_down())
        try:
            if again:
                await self._side_by_side(course, self._take_up)
            if not self.settle_only:
                for piece in parts(self.plan, course, self.after):
                    await self._side_by_side(piece, self._lane)
        finally:
            watch.cancel()
        if not self.halted and self.done < self.total and not self.settle_only:
            if self.stop.is_set():
                self._halt("interrupted", "stopped on request")
            elif self.deadline.is_set():
                self._halt("deadline", "the time that it was given is over")
        with contextlib.suppress(DsyncError):
            await self.writer.durable(Record.end())
        point("end.after")
        if fault := self.writer.fault or self.fault:
            if self.writer.rescued not in ("", "the journal") and isinstance(fault, DsyncError):
                run, file = self.journal.run_id, self.writer.rescued
                fault.hint = f"{fault.hint}; then: dsync resume {run} --import-emergency {file}"
            raise fault

    async def _side_by_side(
        self, course: Course, work: Callable[[Lane, dict[int, list[Stretch]]], object]
    ) -> None:
        async def one(lane: Lane, waves: dict[int, list[Stretch]]) -> None:
            async with self.lanes[lane[0]]:
                try:
                    await work(lane, waves)  # type: ignore[misc]
                except Unauthorized as error:
                    self._halt("unauthorized", error.message)
                except Exception as error:
                    # Not raised here: it would cancel calls in flight, and nobody would know.
                    self.fault = self.fault or error

        async with asyncio.TaskGroup() as tasks:
            for lane, waves in course.items():
                tasks.create_task(one(lane, waves))

    async def _lane(self, lane: Lane, waves: dict[int, list[Stretch]]) -> None:
        for wave in sorted(waves):
            if self.is_stopping:
                return
            await self._freshen(lane, waves[wave])
            known = await self._learner(lane).learn(self._waiting(waves[wave]))
            await self._send_all(lane, changes(self.plan, waves[wave]), known)
            # The barrier: what this wave has come to is durable before the next begins.
            await asyncio.shield(self.writer.put())
            point("wave.end")

    async def _send_all(self, lane: Lane, todo: Iterator[Change], known: Known) -> None:
        """Send, settle what is not clear, and send again what is proved to have had no effect."""
        again: list[Change] = []
        while not self.is_stopping:
            work = itertools.chain(again, todo)
            width = 1 if self.systems[lane[0]].limits.sequential else self.width[lane[0]]
            async with asyncio.TaskGroup() as tasks:
                for _ in range(width):
                    tasks.create_task(self._take(lane, work, known))
            await asyncio.shield(self.writer.put())
            left = list(itertools.islice(work, 1))
            again = await self._settle(lane)
            self.told.update(op_id(self.journal.run_id, change) for change in again)
            todo = itertools.chain(left, work)
            if not left and not again:
                return

    async def _take(self, lane: Lane, todo: Iterator[Change], known: Known) -> None:
        """Take changes, one after the other, until there are no more; others take them too."""
        try:
            while not self.is_stopping and not self._must_settle(lane):
                change = next(todo, None)
                if change is None:
                    return
                await self._make(lane, change, known)
        except Exception as error:
            # Not raised here: it would cancel calls in flight, and nobody would know of them.
            self.fault = self.fault or error

    async def _make(self, lane: Lane, change: Change, known: Known) -> None:
        op = op_id(self.journal.run_id, change)
        before = self.journal.state(op)
        is_new = op not in self.told
        if before is not None and (before.is_settled or before.is_unknown or before.is_open):
            self._tell(lane, change, None, is_new=is_new)
            return
        attempt = before.attempt if before is not None else 0
        ready = self._ready(change, op, attempt, known)
        if ready is None:
            self._tell(lane, change, None, is_new=is_new)
            return
        async with self.calls[lane[0]]:
            log = _CallLog(self, lane, op, attempt)
            outcome = await self._send(lane, ready, log)
            if outcome is None:
                return
            if log.is_unclear and outcome.state in ("not_sent", "rejected", "stale"):
                # An earlier attempt may have done what this one was refused for.
                outcome = dataclasses.replace(outcome, state="unknown")
            point("answer.after")
            # Not awaited: the next intent shares its commit, and the barrier waits for it.
            self.writer.put(Record.outcome(op, log.attempt, outcome))
        self._watch(lane, ready, op, log.attempt, outcome)
        self._tell(lane, change, outcome, is_new=is_new)

    def _ready(self, change: Change, op: str, attempt: int, known: Known) -> Change | None:
        """The change with its references filled; None when one cannot be, and is journaled."""
        try:
            values = [known[ref] for ref in relied_on(change)]
        except (msgspec.DecodeError, KeyError):
            outcome = Outcome(
                state="not_sent", code=UNEXPECTED, message="a reference in it cannot be read"
            )
            self.writer.put(Record.outcome(op, attempt, outcome))
            return None
        for value in values:
            if isinstance(value, Missing):
                if value.failed:
                    self.writer.put(Record.skipped(op, value.why))
                else:
                    outcome = Outcome(state="not_sent", code="DS-APPLY-NO-ID", message=value.why)
                    self.writer.put(Record.outcome(op, attempt, outcome))
                return None
        return _filled(change, known) if values else change

    async def _send(self, lane: Lane, change: Change, log: _CallLog) -> Outcome | None:
        """What became of the change; None when it was not begun."""
        task = asyncio.ensure_future(
            self.connectors[lane[0]].send(change, self._scope(lane), log=log)
        )
        self.in_flight[task] = log
        try:
            return await task
        except Halted:
            return None
        except asyncio.CancelledError:
            if not log.is_cut:
                raise
            return _cut_off(log)
        except Unauthorized as error:
            self._halt("unauthorized", error.message)
            # Refused at the door it had no effect, and may be tried again with better credentials.
            return _given_up(log, error)
        except ContractBreach as error:
            return Outcome(state="unknown", code=error.code, message=error.message)
        except Unavailable as error:
            waits = error.code == "DS-PACE-WAIT"
            self._halt("wait" if waits else "unavailable", error.message)
            return _given_up(log, error)
        except DsyncError as error:
            if error.exit_code == StorageFault.exit_code:
                raise
            return Outcome(state="unknown", code=error.code, message=error.message)
        except Exception as error:
            _log.exception("a call failed unexpectedly")
            # Its text is not ours, and may hold what must not be written.
            text = f"unexpected {type(error).__name__}; the log has the details"
            state: Literal["unknown", "not_sent"] = "unknown" if log.attempt else "not_sent"
            return Outcome(state=state, code=UNEXPECTED, message=text)
        finally:
            del self.in_flight[task]

    async def _wind_down(self) -> None:
        """When the run is asked to stop: end waits and polls at once, calls after `drain_s`."""
        waits = [asyncio.create_task(event.wait()) for event in (self.stop, self.deadline)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            until = time.monotonic() + self.rules.drain_s
            while True:
                late = time.monotonic() >= until
                for task, log in list(self.in_flight.items()):
                    if late or log.phase != "flying":
                        log.is_cut = True
                        task.cancel()
                await asyncio.sleep(0.05)
        finally:
            for wait in waits:
                wait.cancel()

    # ---- when to stop ------------------------------------------------------------------------

    def _watch(self, lane: Lane, change: Change, op: str, attempt: int, outcome: Outcome) -> None:
        """Count what goes wrong; note what has to be found out."""
        if _is_doubtful(change, outcome):
            known = Operation(
                state=outcome.state, attempt=attempt, at_s=time.time(), status=outcome.status,
                id=outcome.id, code=outcome.code, message=outcome.message, job=outcome.job,
            )  # fmt: skip
            self.doubts[lane].append(_Doubt(change=change, op=op, known=known))
        if outcome.state in ("unknown", "not_sent"):
            self.unclear[lane[0]] += 1
            if outcome.state == "not_sent" and self._has_gone(lane):
                self._halt(
                    "unavailable",
                    f"{self.unclear[lane[0]]} calls in a row did not reach {lane[0]}: "
                    f"{outcome.message}",
                )
            return
        self.unclear[lane[0]] = 0
        self.failed += outcome.state == "rejected"
        rules, done = self.rules, self.done + 1
        if self.failed >= rules.failures and self.failed > rules.failure_share * done:
            self._halt(
                "failures", f"{self.failed} of {done} changes were refused: {outcome.message}"
            )

    def _has_gone(self, lane: Lane) -> bool:
        return self.unclear[lane[0]] >= self.rules.unclear_in_a_row

    def _must_settle(self, lane: Lane) -> bool:
        """True when too much is unknown to go on."""
        return self._is_too_much(lane, self.doubts[lane])

    def _is_too_much(self, lane: Lane, doubts: Sequence[_Doubt]) -> bool:
        unknown = sum(doubt.known.is_unknown for doubt in doubts)
        return unknown > max(3, self.total // 100) or (unknown > 0 and self._has_gone(lane))

    def _halt(self, reason: StopReason, message: str) -> None:
        if not self.halted:
            self.halted = True
            _log.warning("run stops: %s", reason)
            self.writer.put(Record.stop(reason, message))

    # ---- settling ------------------------------------------------------------------------------

    async def _take_up(self, lane: Lane, waves: dict[int, list[Stretch]]) -> None:
        """Of an earlier process: follow its open jobs, and settle what is unknown."""
        for wave in sorted(waves):
            known: Known | None = None
            for change in changes(self.plan, waves[wave]):
                op = op_id(self.journal.run_id, change)
                state = self.journal.state(op)
                if state is None or not (state.is_open or _is_doubtful(change, state)):
                    continue
                if state.is_open and state.job is not None:
                    state = await self._follow(lane, change, op, state)
                if known is None:
                    learner = self._learner(lane)
                    known = await learner.learn(relying(self.plan, waves[wave]))
                with contextlib.suppress(msgspec.DecodeError, KeyError):
                    if any(isinstance(known[ref], Missing) for ref in relied_on(change)):
                        continue
                    change = _filled(change, known)
                if _is_doubtful(change, state):
                    self.doubts[lane].append(_Doubt(change=change, op=op, known=state))
            await self._settle(lane)

    async def _follow(self, lane: Lane, change: Change, op: str, state: Operation) -> Operation:
        point("poll.before")
        assert state.job is not None  # noqa: S101 - the caller has looked
        log = _CallLog(self, lane, op, state.attempt)
        log.phase = "polling"
        connector = self.connectors[lane[0]]
        task = asyncio.ensure_future(connector.follow(state.job, self._scope(lane)))
        self.in_flight[task] = log
        try:
            outcome = await task
        except asyncio.CancelledError:
            if not log.is_cut:
                raise
            return state
        finally:
            del self.in_flight[task]
        if outcome.state != "accepted":
            await self.writer.durable(Record.outcome(op, state.attempt, outcome))
            self._tell(lane, change, outcome)
            self.told.add(op)
        return self.journal.state(op) or state

    async def _settle(self, lane: Lane) -> list[Change]:
        """Find out what became of the lane's doubts; gives the changes that may be sent again.

        What is there as wanted, or there twice, one look proves. That nothing has happened takes
        two, when the API has surely ended with the call, and `settle_s` apart.
        """
        doubts, self.doubts[lane] = self.doubts[lane], []
        if not doubts:
            return []
        if self.read_back is None:
            if self._is_too_much(lane, doubts):
                self._halt("unclear", "too many calls whose outcome is not known")
            return []
        again: list[Change] = []
        for (profile, resource), group in _by_resource(doubts):
            try:
                again += await self._settle_resource(lane, profile, resource, group)
            except Unauthorized:
                raise
            except Unavailable as fault:
                if any(doubt.known.is_unknown for doubt in group):
                    self._halt("unavailable", f"what became of calls cannot be found out now: "
                               f"{fault.message}")  # fmt: skip
        self.unclear[lane[0]] = 0
        return again

    async def _settle_resource(
        self, lane: Lane, profile: str, resource: str, doubts: list[_Doubt]
    ) -> list[Change]:
        facts = self.systems[lane[0]].resources.get(resource)
        settle_s = facts.settle_s if facts is not None else 0.0
        look, again = 0, []
        while doubts and look < 3:
            if look == 1:
                ripe = await self._pause(self._until_over(lane, doubts))
            else:
                ripe = look == 0 or await self._pause(settle_s)
            if not ripe:
                break
            assert self.read_back is not None  # noqa: S101 - `_settle` has looked
            found = await self.read_back.now(
                profile, self._scope(lane), [doubt.change for doubt in doubts]
            )
            left = []
            for doubt, now in zip(doubts, found, strict=True):
                outcome = _verdict(doubt, now, is_last=look == 2)
                if outcome is None:
                    left.append(doubt)
                    continue
                await self._resolve(lane, doubt, outcome, now, looks=look + 1)
                if outcome.state == "not_sent" and doubt.known.attempt < SENDS[doubt.change.action]:
                    again.append(doubt.change)
            doubts, look = left, look + 1
        return again

    def _until_over(self, lane: Lane, doubts: Iterable[_Doubt]) -> float:
        """Seconds until the API has surely ended with the last of these calls."""
        declared = self.systems[lane[0]].limits.in_flight_s
        most = self.rules.in_flight_s if declared is None else declared
        unknown = [doubt.known for doubt in doubts if doubt.known.is_unknown]
        now = time.time()
        # A call that seems to lie in the future shows a clock that was set back.
        return max((min(most, max(0.0, known.at_s + most - now)) for known in unknown), default=0.0)

    async def _resolve(
        self, lane: Lane, doubt: _Doubt, outcome: Outcome, now: Now, *, looks: int
    ) -> None:
        is_new = outcome.state != doubt.known.state or outcome.id != doubt.known.id
        evidence = msgspec.json.encode(
            {"looks": looks, "found": now.state, "ids": now.ids[:5], "fields": now.fields}
        ).decode()
        record = Record.resolve(doubt.op, doubt.known.attempt, outcome, evidence)
        if not is_new:
            # So that the next process knows that it was proved.
            self.writer.put(record)
            return
        await self.writer.durable(record)
        if outcome.state == "duplicate":
            self._halt("unclear", f"two records have the key of one change: {outcome.message}")
        if outcome.state == "conflict":
            self.conflicts += 1
            if doubt.change.action == "delete" or self.conflicts > self.rules.conflicts:
                self._halt("unclear", f"conflicts: {outcome.message}")
        self._tell(lane, doubt.change, outcome, is_new=False)

    async def _pause(self, seconds: float) -> bool:
        """Wait; False when the run is to end."""
        until = time.monotonic() + seconds
        while not self.is_stopping and (left := until - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left, 0.1))
        return not self.is_stopping

    # ---- what the plan rests on ----------------------------------------------------------------

    async def _freshen(self, lane: Lane, stretches: list[Stretch]) -> None:
        """Compare the wave once more where the listing that it was planned from is old."""
        if self.read_back is None:
            return
        groups: dict[tuple[str, str], list[Change]] = defaultdict(list)
        # A listing for an earlier wave says nothing of this one: only its changes were compared.
        if time.monotonic() - self.listed_at > self.rules.fresh_s:
            for change in self._waiting(stretches, changes):
                groups[change.profile, change.resource].append(change)
        for (profile, resource), group in groups.items():
            at = f"{resource}@{lane[1]}" if lane[1] else resource
            digest = self.plan.inputs.get(f"listing {lane[0]} {at}", "")
            try:
                found = await self.read_back.now(profile, self._scope(lane), group, digest=digest)
            except Unauthorized:
                raise
            except Unavailable as fault:
                self._halt("unavailable", f"{resource} cannot be listed any more: {fault.message}")
                return
            facts = self.systems[lane[0]].resources.get(resource)
            expected = facts is not None and facts.comes_with is not None
            for change, now in zip(group, found, strict=True):
                if (outcome := _moved(change, now, expected=expected)) is not None:
                    op = op_id(self.journal.run_id, change)
                    before = self.journal.state(op)
                    attempt = before.attempt if before is not None else 0
                    self.writer.put(Record.outcome(op, attempt, outcome))
                    self.stale += outcome.state == "stale"
        await self.writer.durable()
        rules = self.rules
        if self.stale > rules.stale or self.stale > max(3, rules.stale_share * self.total):
            self._halt("stale", f"{self.stale} records are not as they were planned from")

    def _waiting(
        self,
        stretches: list[Stretch],
        read: Callable[[Plan, list[Stretch]], Iterator[Change]] = relying,
    ) -> Iterator[Change]:
        """Changes that are still to be made."""
        for change in read(self.plan, stretches):
            state = self.journal.state(op_id(self.journal.run_id, change))
            if state is None or not (state.is_settled or state.is_unknown or state.is_open):
                yield change

    # ---- small things --------------------------------------------------------------------------

    def _learner(self, lane: Lane) -> Learner:
        return Learner(
            lane=lane, scope=self._scope(lane), journal=self.journal,
            connector=self.connectors[lane[0]], system=self.systems[lane[0]],
            translate=self.translate, pause=self._pause,
            found=lambda op, id_: self.journal.append(Record.found(op, id_)),
        )  # fmt: skip

    def _tell(
        self, lane: Lane, change: Change, outcome: Outcome | None, *, is_new: bool = True
    ) -> None:
        self.done += is_new
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

    def _scope(self, lane: Lane) -> Scope:
        return self.scopes.get(lane[1]) or Scope(name=lane[1])


# --- verdicts -----------------------------------------------------------------------------------


def _is_doubtful(change: Change, outcome: Outcome | Operation) -> bool:
    """Whether the record has to be read back before the outcome is believed.

    A job may fail and have done it, or succeed and have done nothing; a 409 may be about what an
    earlier attempt has made. What was read back already is believed.
    """
    if isinstance(outcome, Operation) and outcome.resolved:
        return outcome.is_unknown
    if outcome.state in ("unknown", "sent", "intent"):
        return True
    if outcome.state == "rejected":
        return outcome.job is not None or outcome.status == 409
    return outcome.state == "acked" and outcome.job is not None and change.action == "create"


def _verdict(doubt: _Doubt, now: Now, *, is_last: bool) -> Outcome | None:
    """What became of a change, by how its record is now; None when it is too early to say."""
    known, action = doubt.known, doubt.change.action
    answered = known.state in ("acked", "rejected")
    same = Outcome(
        state=known.state, status=known.status, id=known.id,  # type: ignore[arg-type]
        code=known.code, message=known.message, job=known.job,
    ) if answered else None  # fmt: skip
    done = "absent" if action == "delete" else "after"
    if now.state == "many":
        ids = ", ".join(str(id_) for id_ in now.ids[:5])
        return Outcome(
            state="duplicate", code="DS-APPLY-DUPLICATE",
            message=f"{len(now.ids)} records have this key, ids {ids}",
        )  # fmt: skip
    if now.state == done:
        if known.state == "acked":
            assert same is not None  # noqa: S101 - it is an answer
            return same if known.id is not None else dataclasses.replace(same, id=now.id)
        return Outcome(
            state="acked", status=known.status, id=now.id, code="DS-APPLY-FOUND",
            message="found done when it was read back",
        )  # fmt: skip
    if known.state == "rejected":
        if known.job is None:
            return same
        if now.state == "other":
            return _conflict(now, "half of it may be done")
        # A listing that lags does not show yet what a job did before it failed.
        return same if is_last else None
    nothing = "absent" if action == "create" else "before"
    if known.state == "acked":
        # A job's word against the listing; one that lags is given its time.
        if now.state != nothing:
            return same
        return None if not is_last else Outcome(
            state="rejected", code="DS-JOB-NO-EFFECT",
            message="the job says that it is done, and the record is not there",
        )  # fmt: skip
    if not is_last:
        return None
    if now.state == nothing:
        return Outcome(
            state="not_sent", status=known.status, code="DS-APPLY-NO-EFFECT",
            message=f"it had no effect: {known.message or 'the record is as before'}",
        )  # fmt: skip
    return _conflict(now, "the record is gone" if now.state == "absent" else "")


def _conflict(now: Now, why: str) -> Outcome:
    differing = f"; differing: {', '.join(now.fields)}" if now.fields else ""
    return Outcome(
        state="conflict", id=now.id, code="DS-APPLY-CONFLICT",
        message=(why or "the record is neither as before nor as wanted") + differing,
    )  # fmt: skip


def _moved(change: Change, now: Now, *, expected: bool) -> Outcome | None:
    """What a change is that does not fit its record any more; None when it still does.

    `expected`: a record that is to be created may have come into being with another.
    """
    if expected and change.action == "create" and now.state == "other":
        return None
    if now.state == ("absent" if change.action == "create" else "before"):
        return None
    if (expected or change.action == "update") and now.state == "after":
        return Outcome(state="acked", id=now.id, code="DS-APPLY-ALREADY", message="is so already")
    if change.action == "delete" and now.state == "absent":
        return Outcome(state="acked", code="DS-ABSENT", message="already absent")
    why = {
        "absent": "the record is gone",
        "after": "a record with this key is there now",
        "many": f"{len(now.ids)} records have this key now",
    }.get(now.state, "the record is not as it was when this was planned")
    if change.action == "create" and now.state == "other":
        why = "a record with this key is there now"
    elif now.fields:
        why += f"; differing: {', '.join(now.fields)}"
    return Outcome(state="stale", id=now.id, code="DS-APPLY-STALE", message=why)


def _cut_off(log: _CallLog) -> Outcome | None:
    """What is known of a call that was ended from outside."""
    match log.phase:
        case "waiting":
            return None
        case "polling":
            return Outcome(state="accepted", message="the run has stopped")
    return Outcome(
        state="unknown", code="DS-APPLY-STOPPED", message="the run stopped before the answer came"
    )


def _given_up(log: _CallLog, error: DsyncError) -> Outcome | None:
    if log.phase == "polling":
        return Outcome(state="accepted", code=error.code, message=error.message)
    if log.phase == "waiting":
        return None
    state: Literal["unknown", "not_sent"] = "unknown" if log.is_unclear else "not_sent"
    return Outcome(state=state, code=error.code, message=error.message)


def _filled(change: Change, known: Known) -> Change:
    return dataclasses.replace(
        change,
        id=filled(change.id, known),
        payload=filled(change.payload, known),
        after=filled(change.after, known),
    )


def _by_resource(doubts: Iterable[_Doubt]) -> list[tuple[tuple[str, str], list[_Doubt]]]:
    groups: dict[tuple[str, str], list[_Doubt]] = defaultdict(list)
    for doubt in doubts:
        groups[doubt.change.profile, doubt.change.resource].append(doubt)
    return list(groups.items())
