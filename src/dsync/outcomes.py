"""What a run has come to: the status of each row, the counts, the exit code.

Computed from the plan and the journal alone, at any time, by one function each: what a report
says, what `dsync runs verify` checks and what the process exits with cannot differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import groupby

from dsync.journal import Journal, Operation, StopReason, op_id
from dsync.model import Change, Finding, Plan, RowStatus
from dsync.reports import RowResult, RunResult

UNEXPECTED = "DS-APPLY-UNEXPECTED"

_DONE: dict[str, RowStatus] = {"create": "CREATED", "update": "UPDATED", "delete": "DELETED"}


def statuses(plan: Plan, journal: Journal) -> Iterator[RowResult]:
    """What became of each row that a change or a finding is about, in the order of the plan.

    Rows that are as wanted already are not among them; the tallies of the plan count them. A
    scope that could not be read has one result for all its rows.
    """
    for change in plan.changes():
        yield _row_result(change, journal.state(op_id(journal.run_id, change)), journal.run_id)
    systems = {tally.profile: tally.system for tally in plan.tallies}
    # The findings of one row stand together in a plan.
    for _, found in groupby(plan.findings(), key=lambda f: (f.profile, f.scope, f.row)):
        withheld = [finding for finding in found if finding.severity != "warn"]
        if not withheld:
            continue
        # Without a row and a key it is about all rows in a scope, such as a node that is down.
        whole = withheld[0].severity == "error" and not withheld[0].key
        if withheld[0].row is not None or whole:
            yield _withheld(withheld, systems.get(withheld[0].profile, ""))


def result(plan: Plan, journal: Journal) -> RunResult:
    """What the run has come to; computed from plan and journal alone, at any time.

    Raises: RuntimeError when the rows do not add up, which is a fault of ours.
    """
    counts: Counter[RowStatus] = Counter()
    states: Counter[str] = Counter()
    for change in plan.changes():
        known = journal.state(op_id(journal.run_id, change))
        counts[_row_result(change, known, journal.run_id).status] += 1
        states[_class(known)] += 1
    for tally in plan.tallies:
        counts["UNCHANGED"] += tally.unchanged
        counts["SKIP"] += tally.skip
        counts["ERROR"] += tally.error
    _check_books(plan, counts)
    life = journal.life()
    return RunResult(
        run_id=journal.run_id,
        plan_digest=plan.digest,
        exit_code=exit_code(counts, states, life.stop),
        counts={status: counts[status] for status in counts},
        unknown=states["unknown"],
        pending=states["pending"],
        open_jobs=states["open"],
        conflicts=states["conflict"] + states["duplicate"],
        stale=states["stale"],
        calls=journal.calls(),
        stopped=life.message,
        started=life.started,
        ended=life.ended,
        tool_version=plan.tool_version,
        connections=plan.connections,
        verdicts=plan.verdicts,
        cache=plan.cache,
        tallies=plan.tallies,
        folder=journal.folder,
    )


def _class(known: Operation | None) -> str:
    """pending, open, unknown, or the operation's own state."""
    if known is None or (known.state == "not_sent" and not known.code):
        return "pending"
    if known.is_unknown:
        return "unknown"
    return "open" if known.is_open else known.state


_STOPPED: dict[StopReason | None, int] = {
    "unauthorized": 9, "stale": 7, "unavailable": 10, "failures": 4, "unclear": 5,
    "interrupted": 3, "deadline": 3, "wait": 3,
}  # fmt: skip


def exit_code(
    counts: Mapping[RowStatus, int], states: Mapping[str, int], stop: StopReason | None
) -> int:
    """The exit code of a run. The strongest reason counts: 5, 9, 7, 10, 3, 4.

    `states` counts the classes of its operations.
    """
    if states.get("unknown") or states.get("conflict") or states.get("duplicate"):
        return 5
    if stop in _STOPPED:
        return _STOPPED[stop]
    # A process that was killed between two calls left no reason behind.
    if states.get("pending") or states.get("open"):
        return 3
    if counts.get("ERROR") or counts.get("EXCEPTION"):
        return 4
    # What they depend on was found done later: they can be made now.
    return 3 if states.get("skipped") else 0


def _check_books(plan: Plan, counts: Mapping[RowStatus, int]) -> None:
    """Every row of the source, and every record to be deleted, ends in exactly one status."""
    rows = sum(tally.rows + tally.delete + tally.closing for tally in plan.tallies)
    if sum(counts.values()) != rows:
        raise RuntimeError(f"the plan has {rows} rows, the statuses add up to {dict(counts)}")


def _row_result(change: Change, known: Operation | None, run_id: str) -> RowResult:
    status: RowStatus = "ERROR"
    code, reason, hint = "", "", ""
    if known is None or _class(known) == "pending":
        status, code, reason = "SKIP", "DS-APPLY-NOT-STARTED", "not started: the run has stopped"
        hint = f"dsync resume {run_id}"
    elif known.state == "acked":
        status, code, reason = _DONE[change.action], known.code, known.message
    elif known.state == "skipped":
        status, code, reason = "SKIP", "DS-APPLY-DEPENDS", known.message
        hint = "correct what failed, then plan again"
    elif known.is_open:
        status, code = "SKIP", known.code or "DS-APPLY-JOB"
        reason = f"the API still works on it: {known.message or 'no verdict yet'}"
        hint = f"dsync resume {run_id} goes on asking"
    else:
        status = "EXCEPTION" if known.code == UNEXPECTED else "ERROR"
        code, reason, hint = known.code, known.message, _next_step(known, run_id)
        if known.is_unknown:
            code = code or "DS-APPLY-UNKNOWN"
            reason = f"outcome unknown: {reason or 'the run ended before the answer came'}"
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
        http_status=None if known is None else known.status,
        attempts=0 if known is None else known.attempt,
        began=_moment(known.at_s if known is not None else 0.0),
        ended=_moment(known.ended_s if known is not None else 0.0),
    )


def _moment(at_s: float) -> datetime | None:
    return datetime.fromtimestamp(at_s, tz=UTC) if at_s else None


def _next_step(known: Operation, run_id: str) -> str:
    if known.is_unknown:
        return f"dsync reconcile {run_id} reads back whether the target has it"
    match known.state:
        case "not_sent":
            return f"dsync resume {run_id} tries again"
        case "conflict" | "duplicate":
            return "see what the target holds, correct it there, then plan again"
        case "stale":
            return "plan again"
    return "correct the row or the target, then plan again"


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
