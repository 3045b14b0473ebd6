"""Runs: begun, taken up again, found out, resolved by hand, proved; each under the target's lock.

start ──▶ journal, registry, lock ──▶ applying.apply ──▶ report
carry_on, reconcile, resolve: the same, with a run folder that is there
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import getpass
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from dsync import applying, outcomes, planning, registry, safety, settling
from dsync import project as projects
from dsync.calls import CALLS_FILE, Recorder
from dsync.errors import Invalid, Locked, Refused, Stale, Unsettled, UsageFault
from dsync.failpoints import point
from dsync.journal import Journal, Operation, Record, check_run_id, op_id
from dsync.memory import Watch
from dsync.model import Change, Event, History, Outcome, Plan
from dsync.project import Ask, Project, Target
from dsync.reports import RunResult, kept, key_text
from dsync.reports import json as report_json
from dsync.storage import guarded

_log = structlog.get_logger()

PLAN_LIFE_S, PLAN_LIFE_WITH_DELETES_S = 24 * 3600.0, 4 * 3600.0
_CLOCKS_DIFFER_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How a run is to be worked on: who listens, what may stop it, its rules."""

    on_event: Callable[[Event], None]
    stop: Callable[[], asyncio.Event]
    until: datetime | None = None
    rules: applying.Rules = field(default_factory=applying.Rules)
    settle_only: bool = False
    planned: Path | None = None
    """where the calls of its planning are listed, if this process has planned it"""
    logged: Callable[[str], contextlib.AbstractContextManager[None]] = field(
        default=lambda _: contextlib.nullcontext()
    )


def folder(project: Project, run_id: str) -> Path:
    """Where a run is. Raises: UsageFault for what can be no name of one."""
    return project.runs / check_run_id(run_id)


# --- before a run -------------------------------------------------------------------------------


def check_saved(plan: Plan, *, sha256: str, checksum: str | None) -> None:
    """A saved plan is the one that was approved, and not too old.

    Raises: Stale.
    """
    if checksum is not None and checksum.lower() not in (sha256, sha256[: max(12, len(checksum))]):
        raise Stale(
            f"the plan's checksum is {sha256}, not the one that was approved",
            code="DS-PLAN-CHECKSUM",
            hint="apply the file that was approved, or look at this one and give its checksum",
        )
    if plan.created is None:
        return
    age_s = (datetime.now(UTC) - plan.created).total_seconds()
    life_s = PLAN_LIFE_WITH_DELETES_S if plan.counts["delete"] else PLAN_LIFE_S
    if age_s > life_s or age_s < -_CLOCKS_DIFFER_S:
        what = f"{age_s / 3600:.1f} h old" if age_s > 0 else "of the future: a clock is wrong"
        raise Stale(
            f"the plan is {what}; it holds for {life_s / 3600:.0f} h",
            code="DS-PLAN-EXPIRED",
            hint="plan again",
        )


def check_production(targets: Sequence[Target], *, checksum: str | None) -> None:
    """What is applied to production was saved, looked at, and named by its checksum (G16).

    Raises: Refused DS-SAFE-G16.
    """
    names = [t.connection.name for t in targets if t.connection.environment == "production"]
    if names and checksum is None:
        raise Refused(
            f"{names[0]} is production: it takes a saved plan and its checksum",
            code="DS-SAFE-G16",
            hint="save it (--out FILE), look at it, then dsync apply FILE --checksum SHA256",
        )


Pasts = Mapping[projects.Lane, registry.Past]
"""What earlier runs left, by what is written to."""


def history(project: Project, lanes: Mapping[projects.Lane, projects.Spot]) -> Pasts:
    """What earlier runs left on these targets. Raises: StorageFault."""
    found = {spot.id: registry.past(project.state, spot.id) for spot in set(lanes.values())}
    return {lane: found[spot.id] for lane, spot in lanes.items()}


def sent(
    project: Project, jobs: Iterable[planning.Job], workdir: Path
) -> dict[planning.Spot, planning.Sent]:
    """What earlier runs have sent in fields that are never shown. Raises: StorageFault."""
    jobs = [job for job in jobs
            if not set(job.facts.write_only).isdisjoint(job.profile.profile.payload)]  # fmt: skip
    found: dict[planning.Spot, planning.Sent] = {}
    lanes = projects.lanes_of_jobs(jobs)
    for job in jobs:
        for scope in job.scopes:
            spot = (job.connection, job.resource, scope.name)
            file = workdir / f"sent_{len(found)}.ndjson"
            target = lanes[job.connection, scope.name].id
            salt = registry.recall(project.state, target, job.resource, scope.name, file)
            if salt is not None:
                found[spot] = planning.Sent(file=file, salt=salt)
    return found


def check_settled(project: Project, pasts: Pasts, *, but: str = "", alone: bool = False) -> None:
    """No other run has left calls on these targets of which nobody knows.

    `alone`: we hold the locks of these targets, so no other run can be at work on them.

    Raises: Unsettled naming the runs; StorageFault for a damaged journal; Locked when one is at
    work all the same, because somebody has removed its lock.
    """
    runs = dict.fromkeys(run for past in pasts.values() for run in past.open_runs if run != but)
    left = {run: _unsettled(project, run, alone=alone) for run in runs}
    if bad := {run: number for run, number in left.items() if number}:
        told = ", ".join(f"{run} ({number})" for run, number in bad.items())
        raise Unsettled(
            f"an earlier run has left calls whose outcome is not known: {told}",
            code="DS-RUN-UNSETTLED",
            hint=f"dsync reconcile {next(iter(bad))}",
        )


def _unsettled(project: Project, run_id: str, *, alone: bool) -> int:
    place = project.runs / run_id
    if not Journal.exists(place):
        return 0  # somebody has removed it: nothing is left to ask
    try:
        with Journal.open(place, check=False) as book:
            return book.unsettled()
    except Locked:
        if alone:
            raise Locked(
                f"run {run_id} is at work on this target, though its lock is not there any more",
                code="DS-RUN-BUSY",
                where=str(place),
                hint="wait until it has ended, and find out who removes lock files",
            ) from None
        return 0  # at work: whoever wants to write is told by the lock


def histories(
    pasts: Pasts, profiles: Iterable[tuple[str, projects.Lane]], *, undoing: bool = False
) -> safety.Histories:
    """The same for the guards: of each profile, and where it writes to.

    `undoing`: there is no source, so how many rows it had is no concern.
    """
    found = {}
    for profile, lane in profiles:
        past = pasts.get(lane, registry.Past())
        key = (profile, lane[1])
        rows = None if undoing else (past.rows or {}).get(key)
        found[key] = History(rows=rows, deletes=past.deletes)
    return found


# --- the run ------------------------------------------------------------------------------------


def start(
    project: Project, ask: Ask, plan: Plan, targets: Sequence[Target], run_id: str, work: Work,
    *, age_s: float,
) -> None:  # fmt: skip
    """A new run of this plan, to its end or until it stops.

    Raises: Locked, Refused, Unsettled, StorageFault, and what `applying.apply` raises.
    """
    with _held(project, targets, plan, run_id) as lanes:
        pasts = history(project, lanes)
        check_settled(project, pasts, alone=True)
        past = histories(pasts, profiles_of(plan), undoing=bool(plan.undoes))
        plan = safety.approve(plan, approvals=ask.allowed, history=past)
        with Journal.create(folder(project, run_id), plan, run_id=run_id) as book:
            if work.planned is not None:
                with contextlib.closing(Recorder(book.folder / CALLS_FILE)) as record:
                    record.take(work.planned / CALLS_FILE)
            _work(project, ask, targets, lanes, book, work, age_s=age_s)


def carry_on(
    project: Project,
    ask: Ask,
    run_id: str,
    work: Work,
    *,
    emergency: Path | None = None,
) -> None:
    """Go on with a run; what is done is not done again.

    Raises: Stale when profiles, systems or connections have changed; Locked, Unsettled, Refused,
    StorageFault, and what `applying.apply` raises.
    """
    with Journal.open(folder(project, run_id)) as book:
        targets = projects.targets_of(project, ask, book.plan)
        with _held(project, targets, book.plan, run_id) as lanes:
            check_settled(project, history(project, lanes), but=run_id, alone=True)
            if emergency is not None:
                book.bring_back(emergency)
            _work(project, ask, targets, lanes, book, work, age_s=float("inf"))


@contextlib.contextmanager
def _held(
    project: Project, targets: Sequence[Target], plan: Plan, run_id: str
) -> Iterator[dict[projects.Lane, projects.Spot]]:
    project.make_state()
    lanes = projects.lanes_of(targets, plan)
    names = {spot.id: spot.name for spot in lanes.values()}
    with registry.hold(project.state, names, run_id=run_id):
        yield lanes


def _work(
    project: Project,
    ask: Ask,
    targets: Sequence[Target],
    lanes: Mapping[projects.Lane, projects.Spot],
    book: Journal,
    work: Work,
    *,
    age_s: float,
) -> None:
    book.check_home()
    for spot in sorted(set(lanes.values())):
        registry.begin(project.state, spot.id, book.run_id)
    book.make_room()
    with work.logged(book.run_id):
        try:
            with guarded(book.folder), projects.writing(project, targets, book.plan):
                asyncio.run(_apply(project, ask, targets, lanes, book, work, age_s))
        except BaseException:
            # The journal knows what was sent; and the first error is the one to tell.
            with contextlib.suppress(Exception):
                _close_up(project, targets, lanes, book)
            raise
        _close_up(project, targets, lanes, book)


async def _apply(
    project: Project,
    ask: Ask,
    targets: Sequence[Target],
    lanes: Mapping[projects.Lane, projects.Spot],
    book: Journal,
    work: Work,
    age_s: float,
) -> None:
    deadline = asyncio.Event()
    if work.until is not None:
        left_s = max(0.0, (work.until - datetime.now(UTC)).total_seconds())
        asyncio.get_running_loop().call_later(left_s, deadline.set)
    async with contextlib.AsyncExitStack() as stack:
        record = stack.enter_context(contextlib.closing(Recorder(book.folder / CALLS_FILE)))
        stack.enter_context(Watch(record, every_s=0.5))
        connectors = await stack.enter_async_context(
            projects.connected(project, targets, patient=True, record=record)
        )
        await applying.apply(
            book.plan,
            book,
            connectors=connectors,
            systems={
                one.connection.name: projects.adjusted(one.system, one.connection)
                for one in targets
            },
            read_back=reader(project, ask, targets, book.plan, connectors, book.folder / "now"),
            translate=projects.translations(targets),
            targets={lane: spot.id for lane, spot in lanes.items()},
            after={one.profile.name for one in targets if one.profile.profile.after},
            concurrency=ask.overrides.get("concurrency"),
            rules=_rules(work.rules, targets),
            age_s=age_s,
            settle_only=work.settle_only,
            on_event=work.on_event,
            stop=work.stop(),
            deadline=deadline,
        )


def _rules(rules: applying.Rules, targets: Sequence[Target]) -> applying.Rules:
    """With the longest time that an API may go on with a call that we gave up."""
    longest = max((2 * target.connection.timeout_s for target in targets), default=0.0)
    return dataclasses.replace(rules, in_flight_s=max(longest, rules.in_flight_s))


def reader(
    project: Project,
    ask: Ask,
    targets: Sequence[Target],
    plan: Plan,
    connectors: Mapping[str, Any],
    workdir: Path,
) -> settling.Reader:
    """What reads the records of a plan back."""
    return settling.Reader(
        jobs={
            target.profile.name: projects.job(project, ask, target, scopes=plan.scopes)
            for target in targets
        },
        columns={(tally.profile, tally.scope): tally.columns for tally in plan.tallies},
        synonyms={(tally.profile, tally.scope): tally.synonyms for tally in plan.tallies},
        connectors=connectors,
        workdir=workdir,
        engine=projects.engine(project, ask),
    )


def _close_up(
    project: Project,
    targets: Sequence[Target],
    lanes: Mapping[projects.Lane, projects.Spot],
    book: Journal,
) -> None:
    """Write the report, and tell the registry what is left."""
    run = outcomes.result(book.plan, book)
    point("report.before")
    report_json.save_run(book.folder, run, outcomes.statuses(book.plan, book))
    point("report.after")
    keep_reports(project, book, run)
    clear = not book.unsettled()
    has_read = run.exit_code in (0, 4) and not book.plan.undoes
    for lane, spot in lanes.items():
        if sent := list(_sent(targets, lane, book)):
            registry.remember(project.state, spot.id, sent)
        tallies = [t for t in book.plan.tallies if _lane(book.plan, t.profile, t.scope) == lane]
        registry.finish(
            project.state, spot.id, book.run_id, clear=clear,
            deletes=_deleted(book, lane),
            rows={(t.profile, t.scope): t.rows for t in tallies} if has_read else None,
        )  # fmt: skip
    book.drop_room()
    with contextlib.suppress(OSError):
        (book.folder / "now").rmdir()


def _sent(
    targets: Sequence[Target], lane: projects.Lane, book: Journal
) -> Iterator[tuple[registry.SentKey, Mapping[str, Any] | None]]:
    """What the run has sent to this lane in fields that are never shown."""
    facts = {
        target.profile.name: resource
        for target in targets
        if (resource := target.system.system.resources.get(target.resource)) is not None
        and not set(resource.write_only).isdisjoint(target.profile.profile.payload)
    }
    if not facts:
        return
    for change in book.plan.changes():
        resource = facts.get(change.profile)
        if resource is None or _lane(book.plan, change.profile, change.scope) != lane:
            continue
        known = book.state(op_id(book.run_id, change))
        if known is None or known.state != "acked":
            continue
        key = tuple(p.lower() for p in change.key) if resource.caseless_key else change.key
        spot = (change.resource, change.scope, key)
        payload = change.payload or {}
        hidden = {name: payload[name] for name in resource.write_only if name in payload}
        if change.action == "delete":
            yield spot, None
        elif hidden:
            yield spot, hidden


def keep_reports(project: Project, book: Journal, run: RunResult) -> None:
    """Write the reports that the configuration wants; never a reason for a run to fail."""
    wanted = project.config.settings.reports
    try:
        kept.tidy(wanted.dir, keep_days=wanted.keep_days)
        for form in wanted.formats:
            kept.save(wanted.dir, form, run, outcomes.statuses(book.plan, book))
    except Exception as error:
        _log.warning("a report is not written", folder=str(wanted.dir), reason=str(error))


def profiles_of(plan: Plan) -> list[tuple[str, projects.Lane]]:
    """The profiles of a plan, each with where it writes to."""
    return [(t.profile, _lane(plan, t.profile, t.scope)) for t in plan.tallies]


def _lane(plan: Plan, profile: str, scope: str) -> projects.Lane:
    return plan.connections[profile], scope


def _deleted(book: Journal, lane: projects.Lane) -> int:
    """Deletes of a run that the API has done, or may have."""
    if not any(tally.delete for tally in book.plan.tallies):
        return 0
    number = 0
    for change in book.plan.changes():
        if change.action == "delete" and _lane(book.plan, change.profile, change.scope) == lane:
            known = book.state(op_id(book.run_id, change))
            number += known is not None and (known.state == "acked" or known.is_unknown)
    return number


# --- by hand ------------------------------------------------------------------------------------


def resolve(
    project: Project,
    ask: Ask,
    run_id: str,
    key: str,
    *,
    present: str | None,
    reason: str,
    profile: str | None = None,
) -> Change:
    """Say what became of a change that dsync cannot find out; gives the change.

    `present` is the record's id; None: it is not there, and `resume` sends it again.

    Raises: Invalid, UsageFault; Locked, StorageFault.
    """
    with Journal.open(folder(project, run_id)) as book:
        book.check_home()
        change, known = _meant(book, key, profile)
        targets = projects.targets_of(project, ask, book.plan)
        with _held(project, targets, book.plan, run_id) as lanes:
            told = {"by": getpass.getuser(), "reason": reason}
            done = (present is not None) != (change.action == "delete")
            outcome = Outcome(
                state="acked" if done else "not_sent",
                id=_id(present) if present is not None else None,
                code="DS-RESOLVED",
                message=f"resolved by hand: {reason}",
            )
            record = Record.resolve(
                op_id(run_id, change), known.attempt, outcome, msgspec.json.encode(told).decode()
            )
            book.append(record)
            _close_up(project, targets, lanes, book)
    return change


def _id(text: str) -> Any:
    """An id as people type it: a number where it is one."""
    return int(text) if text.isdecimal() and str(int(text)) == text else text


def _meant(book: Journal, key: str, profile: str | None) -> tuple[Change, Operation]:
    found: list[tuple[Change, Operation]] = []
    open_: list[str] = []
    for change in book.plan.changes():
        known = book.state(op_id(book.run_id, change))
        clear = known is None or not (
            known.is_unknown or known.is_open or known.state in ("conflict", "duplicate")
        )
        if known is None or clear:
            continue
        open_.append("/".join(change.key))
        named = key in ("/".join(change.key), key_text(change.key))
        if named and profile in (None, change.profile):
            found.append((change, known))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(sorted({change.profile for change, _ in found}))
        raise UsageFault(
            f"{key} is open in several profiles: {names}",
            code="DS-RUN-KEY",
            hint="name one with --profile",
        )
    raise Invalid(
        f"nothing is open for {key} in run {book.run_id}",
        code="DS-RUN-KEY",
        hint=f"open are: {', '.join(open_[:10])}" if open_ else "nothing is open in this run",
    )


# --- proof --------------------------------------------------------------------------------------


def verify(project: Project, run_id: str) -> list[str]:
    """What is wrong with a run's folder; an empty list when all of it fits together.

    Raises: Invalid when there is no such run, Locked while it is at work; StorageFault and Stale
    when journal or plan are damaged.
    """
    with Journal.open(folder(project, run_id)) as book:
        book.check_home()
        wrong = book.breaches()
        known = {op_id(run_id, change) for change in book.plan.changes()}
        wrong += [
            f"operation {op[:12]} is of no change of the plan"
            for op, _ in book.states()
            if op not in known
        ]
        run = outcomes.result(book.plan, book)
        path = book.folder / report_json.REPORT_FILE
        if not path.exists():
            return wrong
        try:
            told = json.loads(path.read_bytes())
        except ValueError as error:
            return [*wrong, f"{path.name} is no JSON: {error}"]
        for name, value in (
            ("exit_code", run.exit_code), ("unknown", run.unknown), ("pending", run.pending),
            ("counts", {str(k): v for k, v in run.counts.items()}), ("calls", run.calls),
        ):  # fmt: skip
            said = told.get(name)
            if isinstance(said, dict):
                said = {k: v for k, v in said.items() if v or k in run.counts}
                value = {k: v for k, v in value.items() if v or k in said}  # type: ignore[union-attr]
            if said != value:
                wrong.append(f"{path.name} says {name} {said}, the journal {value}")
    return wrong
