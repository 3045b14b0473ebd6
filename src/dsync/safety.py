"""Guards: limits that a plan may not pass without a named approval.

    measure     SQL over the changes -> Measures: the numbers, frozen into the plan
    judge       Measures + Approvals + History -> one Verdict a guard, profile and scope; no I/O
    approve     judge a plan that is about to be applied, by the changes it really has; or refuse

There is no general override: each guard has a flag of its own, and the flag states the number. A
guard that fails is a refusal. An approval is given to one apply; it is never part of a saved plan.

`docs/safety.md` has the table of guards; those that are not here stand where they cannot be gone
around: G10 (protected) and G11 (`managed`) in `diff`, G13 (URL) in the connector.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import TYPE_CHECKING, NamedTuple

from dsync.errors import Refused, UsageFault
from dsync.model import History, Measures, Plan, Verdict, Wipe
from dsync.sql import count, literal, name, pointer

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

DELETE_COUNT, DELETE_LEAST, DELETE_SHARE = 500, 3, 0.05
CREATE_COUNT, CREATE_TIMES, CREATE_SHARE = 1_000, 2, 0.5
SHRINK_FROM_ROWS = 20
TWINS_COUNT, TWINS_SHARE = 10, 0.01
FORMAT_SHARE, FORMAT_SAMPLE = 0.8, 10_000

Histories = Mapping[tuple[str, str], History]
"""(profile, scope) -> what earlier runs did"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approvals:
    """What the user of one command line has approved; each number is one he was shown."""

    allow_delete: bool = False
    max_deletes: int | None = None
    deleting: frozenset[tuple[int, int]] = frozenset()
    """(number to delete, number managed) as typed: `--i-approve-deleting 12-of-40`"""
    targets: frozenset[str] = frozenset()
    empty_source: bool = False
    source_rows: frozenset[int] = frozenset()
    max_updates: int | None = None
    columns: frozenset[str] = frozenset()
    max_creates: int | None = None
    pause: bool = True
    """wait a moment before the first delete when somebody is watching"""


def parse_deleting(text: str) -> tuple[int, int]:
    """`12-of-40` as (12, 40). Raises: UsageFault; there are no wildcards."""
    match = re.fullmatch(r"([0-9]{1,12})-of-([0-9]{1,12})", text)
    if match is None:
        raise UsageFault(
            f"`{text[:40]}` approves nothing",
            code="DS-CLI-APPROVAL",
            hint="write the two numbers that the refusal names: --i-approve-deleting 12-of-40",
        )
    return int(match[1]), int(match[2])


# --- judging --------------------------------------------------------------------------------------


class Objection(NamedTuple):
    """Why a guard stops a plan, whether it was approved, and the flag that approves it."""

    message: str
    flag: str = ""
    approved: bool = False


class Case(NamedTuple):
    """What a guard sees: one profile in one scope, and what the whole plan adds up to.

    `deletes` and `managed` count the deletes of the last 24 hours as if this plan made them (G17).
    """

    own: Measures
    history: History
    approvals: Approvals
    deletes: int
    managed: int
    plan_deletes: int
    plan_creates: int
    plan_updates: int

    @property
    def recent(self) -> str:
        """Why the numbers are higher than the plan's own, if they are."""
        earlier = self.history.deletes
        return f" ({earlier} of them in the last 24 hours)" if earlier else ""

    @property
    def deletion_is_typed(self) -> bool:
        """The numbers and the target of G3 were typed as they are."""
        typed = (self.deletes, self.managed) in self.approvals.deleting
        return typed and self.own.target in self.approvals.targets

    @property
    def deletion_flag(self) -> str:
        return f"--i-approve-deleting {self.deletes}-of-{self.managed} --target {self.own.target}"


def judge(
    measures: Sequence[Measures],
    *,
    approvals: Approvals = Approvals(),
    history: Histories | None = None,
) -> tuple[Verdict, ...]:
    """What every guard says of every profile in every scope, in order."""
    past = {
        (m.profile, m.scope): (history or {}).get((m.profile, m.scope)) or History()
        for m in measures
    }
    # Where nothing is deleted now, what was deleted before is no concern.
    earlier = {m.target: past[m.profile, m.scope].deletes for m in measures if m.deletes}
    verdicts = []
    for m in measures:
        spot = (m.profile, m.scope)
        case = Case(
            own=m,
            history=past[spot],
            approvals=approvals,
            deletes=m.deletes + past[spot].deletes,
            managed=m.managed + past[spot].deletes,
            plan_deletes=sum(one.deletes for one in measures) + sum(earlier.values()),
            plan_creates=sum(one.creates for one in measures),
            plan_updates=sum(one.updates for one in measures),
        )
        verdicts += [_verdict(code, guard, case) for code, guard in GUARDS.items()]
    return tuple(verdicts)


def _verdict(code: str, guard: Guard, case: Case) -> Verdict:
    short = code.rpartition("-")[2]
    profile, scope = case.own.profile, case.own.scope
    try:
        objection = guard(case)
    except Exception as fault:
        objection = Objection(f"the guard itself failed: {type(fault).__name__}")
    if objection is None:
        return Verdict(guard=short, state="passed", profile=profile, scope=scope)
    return Verdict(
        guard=short,
        state="approved" if objection.approved else "refused",
        message=objection.message,
        flag=objection.flag,
        profile=profile,
        scope=scope,
    )


def refuse(verdicts: Sequence[Verdict], *, only: frozenset[str] | None = None) -> None:
    """Nothing, when no guard refuses; `only` are the guards that count.

    Raises: Refused, with all refusals at once; its code is that of the first.
    """
    refused = [v for v in verdicts if v.state == "refused" and (only is None or v.guard in only)]
    if not refused:
        return
    flags = list(dict.fromkeys(v.flag for v in refused if v.flag))
    final = [v for v in refused if not v.flag]
    hint = "look at the plan (dsync plan); "
    if final:
        hint += f"nothing overrules {', '.join(dict.fromkeys(v.guard for v in final))}"
    else:
        hint += f"if all of it is meant, add: {' '.join(flags)}"
    if all(v.guard in _ABOUT_DELETES for v in refused):
        hint += "; or leave the deletes out: --no-delete"
    raise Refused(
        "nothing was written: " + "; ".join(describe(v) for v in refused),
        code=f"DS-SAFE-{refused[0].guard}",
        hint=hint,
    )


def describe(verdict: Verdict) -> str:
    """A verdict as one sentence: where, which guard, what."""
    where = " ".join(part for part in (verdict.profile, verdict.scope) if part)
    return f"{where}: {verdict.message} ({verdict.guard})" if where else verdict.message


def empty_source(profile: str) -> Refused:
    """The refusal of G4 before anything is read from the target."""
    return Refused(
        f"the source of {profile} has no rows, and deletes are on: everything would go",
        code="DS-SAFE-G4",
        hint="see why it is empty; if it is meant, add --empty-source-is-real, and approve the "
        "number that is told then; or leave the deletes out: --no-delete",
    )


def incomplete_source(profile: str) -> Refused:
    """The refusal to delete by a source that says itself that it is not all there is."""
    return Refused(
        f"the source of {profile} is not complete, and deletes are on: what it leaves out would go",
        code="DS-SAFE-COMPLETE",
        hint="leave the deletes out (--no-delete, apply.delete: false); or read all rows, and "
        "write source.complete: true",
    )


def approve(
    plan: Plan, *, approvals: Approvals = Approvals(), history: Histories | None = None
) -> Plan:
    """The plan with the verdicts of now, when no guard refuses it.

    The numbers are counted anew from the changes of the plan: what is judged is what would be sent.

    Raises: Refused.
    """
    measures = _recounted(plan)
    verdicts = judge(measures, approvals=approvals, history=history)
    refuse(verdicts)
    return replace(plan, verdicts=verdicts)


def _recounted(plan: Plan) -> list[Measures]:
    """The plan's measures, proved to be about the changes that it has.

    Raises: Refused DS-SAFE-COUNTS.
    """
    found: Counter[tuple[str, str, str]] = Counter(
        (change.profile, change.scope, change.action) for change in plan.changes()
    )
    for m in plan.guards:
        for action, told in (("create", m.creates), ("update", m.updates), ("delete", m.deletes)):
            if (there := found.pop((m.profile, m.scope, action), 0)) != told:
                raise _miscounted(f"{m.profile} has {there} {action}s where {told} were measured")
    if found:
        profile, _, action = next(iter(found))
        raise _miscounted(f"the {action}s of {profile} were never measured")
    return list(plan.guards)


def _miscounted(why: str) -> Refused:
    return Refused(
        f"the plan and its measures do not fit: {why}", code="DS-SAFE-COUNTS", hint="plan again"
    )


# --- the guards -----------------------------------------------------------------------------------


def _deletes_allowed(case: Case) -> Objection | None:
    """G1: deletes need the profile's word and the user's."""
    if not case.own.deletes or case.approvals.allow_delete:
        return None
    return Objection(
        f"{_records(case.own.deletes)} would be deleted, and nobody has allowed deletes",
        "--allow-delete",
    )


def _delete_count(case: Case) -> Objection | None:
    """G2 (and G17): few of the managed records, and few of all scopes together."""
    own, limits = case.own, case.own.thresholds
    if not own.deletes:
        return None
    most = limits.max_delete_count
    if most is None:
        most = min(DELETE_COUNT, max(DELETE_LEAST, floor(DELETE_SHARE * case.managed + 1e-9)))
    least = most if limits.max_delete_count is not None else DELETE_COUNT
    if case.deletes <= most and case.plan_deletes <= max(most, least):
        return None
    most = most if case.deletes > most else max(most, least)
    whole = f", {case.plan_deletes} in the whole plan" if case.plan_deletes > case.deletes else ""
    given = case.approvals.max_deletes
    return Objection(
        f"{_records(case.deletes)} of {case.managed} deleted{case.recent}{whole}; "
        f"{most} need no approval",
        f"--max-deletes {case.plan_deletes}",
        case.deletion_is_typed or (given is not None and given >= case.plan_deletes),
    )


def _delete_share(case: Case) -> Objection | None:
    """G3 (and G17): not a great part of the managed records, and never all of a kind."""
    own, limits = case.own, case.own.thresholds
    if not own.deletes:
        return None
    everything = own.deletes >= own.managed
    great = case.managed >= limits.min_existing and _reaches(
        case.deletes, limits.max_delete_share, case.managed
    )
    if not (everything or great):
        return None
    part = "all" if everything else f"{_percent(case.deletes, case.managed)} of those"
    return Objection(
        f"{case.deletes} of {case.managed} records deleted{case.recent}: {part} that are managed "
        f"in {own.target}",
        case.deletion_flag,
        case.deletion_is_typed,
    )


def _source_is_there(case: Case) -> Objection | None:
    """G4: an empty source is more often a failed read than a wish."""
    own = case.own
    if own.rows or own.read or not own.existing or not own.pruning:
        return None
    return Objection(
        f"the source is empty, {_records(own.existing)} exist, and deletes are on",
        "--empty-source-is-real",
        case.approvals.empty_source,
    )


def _source_is_whole(case: Case) -> Objection | None:
    """G5: a source that shrank deletes nothing."""
    own, before = case.own, case.history.rows
    if not own.deletes or before is None or before < SHRINK_FROM_ROWS:
        return None
    if _reaches(own.rows, own.thresholds.shrink_share, before):
        return None
    return Objection(
        f"the source has {own.rows} rows where the last applied run had {before}, and "
        f"{_records(own.deletes)} would be deleted",
        f"--source-shrank-to {own.rows}",
        own.rows in case.approvals.source_rows or (not own.rows and case.approvals.empty_source),
    )


def _reads_are_whole(case: Case) -> Objection | None:
    """G6 (P-30): nothing is deleted or created by lists that are not proved complete."""
    own, proof = case.own, case.own.proof
    if own.deletes and own.unread:
        return Objection(f"{own.unread} rows of the source have no readable key")
    if own.deletes and proof.kind == "dump":
        return Objection(
            f"{_records(own.deletes)} would be deleted by a dump, which proves nothing: "
            "plan them against the target itself"
        )
    if not (own.deletes or own.creates) or proof.kind == "dump":
        return None
    if proof.records != own.existing or proof.total not in (None, proof.records):
        return Objection(
            f"the listing of {own.resource} is not proved complete: {proof.records} records came "
            f"in {proof.pages} pages, {own.existing} were compared"
            + (f", the API says {proof.total}" if proof.total is not None else "")
        )
    return None


def _update_share(case: Case) -> Objection | None:
    """G7: not a great part of what exists."""
    own, limits = case.own, case.own.thresholds
    if own.existing < limits.min_existing or not _exceeds(
        own.updates, limits.max_update_share, own.existing
    ):
        return None
    given = case.approvals.max_updates
    return Objection(
        f"{own.updates} of {own.existing} records updated; "
        f"{floor(limits.max_update_share * own.existing + 1e-9)} need no approval",
        f"--max-updates {case.plan_updates}",
        given is not None and given >= case.plan_updates,
    )


def _column_wipe(case: Case) -> Objection | None:
    """G8: no field becomes empty, or the same everywhere, in many records at once."""
    own, limits = case.own, case.own.thresholds
    if own.existing < limits.min_existing:
        return None
    wide = [
        wipe
        for wipe in own.wipes
        if _exceeds(max(wipe.empty, wipe.same), limits.column_share, own.existing)
    ]
    if not wide:
        return None
    told = ", ".join(
        f"`{w.field}` becomes empty in {w.empty}"
        if w.empty >= w.same
        else f"`{w.field}` becomes the same value in {w.same}"
        for w in wide
    )
    left = [w.field for w in wide if w.field not in case.approvals.columns]
    return Objection(
        f"{told} of {own.existing} records",
        " ".join(f"--approve-column {field}" for field in left or [w.field for w in wide]),
        not left,
    )


def _create_count(case: Case) -> Objection | None:
    """G9: not far more than there is; and far fewer when the keys look different."""
    own = case.own
    most = own.thresholds.max_create_count
    if most is None:
        most = max(CREATE_COUNT, CREATE_TIMES * own.existing)
    why = ""
    if (
        own.key_format != own.existing_key_format
        and own.key_format
        and own.existing_key_format
        and own.existing >= own.thresholds.min_existing
    ):
        most = min(most, floor(CREATE_SHARE * own.existing))
        why = (
            f"; keys look like {own.key_format}, and those that exist like "
            f"{own.existing_key_format}"
        )
    if own.creates <= most:
        return None
    given = case.approvals.max_creates
    return Objection(
        f"{_records(own.creates)} created beside {own.existing}; {most} need no approval{why}",
        f"--max-creates {case.plan_creates}",
        given is not None and given >= case.plan_creates,
    )


def _ownership(case: Case) -> Objection | None:
    """G11: `diff` deletes only what is managed; this counts after it."""
    own = case.own
    if own.deletes <= own.managed:
        return None
    return Objection(f"{own.deletes} deletes, but only {own.managed} managed records")


def _identity(case: Case) -> Objection | None:
    """G12: many records that share their key mean that the key is none."""
    own = case.own
    if not (own.creates or own.updates or own.deletes):
        return None
    for twins, of, side in (
        (own.twin_rows, own.rows, "rows of the source"),
        (own.twin_records, own.existing, "existing records"),
    ):
        if twins > TWINS_COUNT and _exceeds(twins, TWINS_SHARE, of):
            return Objection(
                f"{twins} of {of} {side} share their key with another one: correct the data, or "
                "the natural key"
            )
    return None


Guard = Callable[[Case], Objection | None]

GUARDS: dict[str, Guard] = {
    "DS-SAFE-G1": _deletes_allowed,
    "DS-SAFE-G4": _source_is_there,
    "DS-SAFE-G3": _delete_share,
    "DS-SAFE-G2": _delete_count,
    "DS-SAFE-G5": _source_is_whole,
    "DS-SAFE-G6": _reads_are_whole,
    "DS-SAFE-G7": _update_share,
    "DS-SAFE-G8": _column_wipe,
    "DS-SAFE-G9": _create_count,
    "DS-SAFE-G11": _ownership,
    "DS-SAFE-G12": _identity,
}
"""Every guard, as it is judged for each profile in each scope. G17 is in G2 and G3."""

_ABOUT_DELETES = frozenset({"G1", "G2", "G3", "G4", "G5", "G11"})


def _exceeds(part: int, share: float, whole: int) -> bool:
    """More than this share; floats such as 0.3 * 10 are not taken at their word."""
    return part > share * whole + 1e-9 * max(1, whole)


def _reaches(part: int, share: float, whole: int) -> bool:
    return part >= share * whole - 1e-9 * max(1, whole)


def _records(number: int) -> str:
    return "1 record" if number == 1 else f"{number} records"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %"


# --- measuring ------------------------------------------------------------------------------------


def measure(
    con: duckdb.DuckDBPyConnection,
    base: Measures,
    *,
    section: int,
    changes: str,
    listing: Path | None,
    key: Sequence[str],
) -> Measures:
    """`base` (what planning has counted anyway) with what only a look at the changes can tell.

    `changes` is the table of this section, `listing` the file of its existing records, `key` the
    names of their key. Looks no closer than the thresholds make it matter.
    """
    twin_rows = count(
        con, f"FROM findings WHERE section = {section} AND code = 'DS-KEY-DUP' AND rid IS NOT NULL"
    )
    limits = base.thresholds
    wipes: tuple[Wipe, ...] = ()
    if base.existing >= limits.min_existing and _exceeds(
        base.updates, limits.column_share, base.existing
    ):
        wipes = _wipes(con, changes)
    formats = ("", "")
    if listing is not None and base.creates > CREATE_SHARE * base.existing > 0:
        formats = _key_formats(con, changes, listing, key)
    return replace(
        base,
        twin_rows=twin_rows,
        wipes=wipes,
        key_format=formats[0],
        existing_key_format=formats[1],
    )


def _wipes(con: duckdb.DuckDBPyConnection, changes: str) -> tuple[Wipe, ...]:
    updates = f"FROM {changes} WHERE action = 'update'"
    fields = con.execute(f"SELECT DISTINCT unnest(fields) AS f {updates} ORDER BY f").fetchall()
    found = []
    for (field,) in fields:
        value = f"coalesce(json_extract(after, {literal(pointer(field))})::VARCHAR, 'null')"
        ((empty, same),) = con.execute(
            "SELECT coalesce(sum(n) FILTER (WHERE blank), 0), max(n) FROM ("
            f"SELECT count(*) AS n, any_value({value} IN {_EMPTY}) AS blank {updates} "
            f"AND list_contains(fields, {literal(field)}) GROUP BY hash({value}))"
        ).fetchall()
        found.append(Wipe(field=field, empty=int(empty), same=int(same)))
    return tuple(found)


_EMPTY = """('null', '""', '[]', '{}')"""


def _key_formats(
    con: duckdb.DuckDBPyConnection, changes: str, listing: Path, key: Sequence[str]
) -> tuple[str, str]:
    """The form of the keys to create and of those that exist, where one form prevails."""
    columns = "{" + ", ".join(f"{literal(part)}: 'VARCHAR'" for part in key) + "}"
    theirs = " || '/' || ".join(f"coalesce({name(part)}, '')" for part in key)
    return (
        _prevailing(
            con, f"SELECT array_to_string(key, '/') AS k FROM {changes} WHERE action = 'create'"
        ),
        _prevailing(
            con,
            f"SELECT {theirs} AS k FROM read_json({literal(str(listing))}, columns={columns}, "
            "format='newline_delimited')",
        ),
    )


def _prevailing(con: duckdb.DuckDBPyConnection, keys: str) -> str:
    """The mask that most keys of the first ones share: `AB-0012` and `X-07` are both `A-09`."""
    mask = "k"
    for pattern, sign in _MASK:
        mask = f"regexp_replace({mask}, {literal(pattern)}, {literal(sign)}, 'g')"
    rows = con.execute(
        f"SELECT left({mask}, 40) AS m, count(*) AS n FROM ({keys} LIMIT {FORMAT_SAMPLE}) "
        "GROUP BY m ORDER BY n DESC, m"
    ).fetchall()
    total = sum(n for _, n in rows)
    return str(rows[0][0]) if rows and rows[0][1] >= FORMAT_SHARE * total else ""


# Runs become one sign. Leading zeros have a mark of their own: a workbook loses them.
_MASK = (
    (r"\p{Lu}+", "A"),
    (r"[\p{Ll}\p{Lo}\p{Lt}\p{Lm}]+", "a"),
    (r"(^|[^0-9])0[0-9]+", r"\1Z"),
    (r"[0-9]+", "9"),
    ("Z", "09"),
)
