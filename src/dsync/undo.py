"""Undo: a new plan that takes a run back, out of its own plan and journal.

    run folder ──read──▶ what it has done: changes with their before-images, ids of new records
    target now ──spool─▶ settling.compare: is each record still as the run has left it?
    both       ──diff──▶ the changes from now to then ──▶ a Plan, deletes last

| the run has | the record is now | undo |
|---|---|---|
| created it | as it was written, and the same one | deletes it |
| updated it | as it was written, and the same one | writes the old values of the changed fields |
| deleted it | absent | creates it again, with a new id |
| any of them | as it was before the run | nothing: it is undone already |
| any of them | anything else | nothing: DS-UNDO-CONFLICT; somebody else was here |

What cannot come back as it was (a field that is sent and never read, say) is not touched at all:
DS-UNDO-LOST. Deleted records come back before what refers to them, and created ones go last,
children before parents. The result is an ordinary plan: it is saved, guarded, applied, resumed and
undone as any other.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from dsync import __version__, database, operations, planning, safety, settling
from dsync.course import Lane
from dsync.errors import Refused, Unsettled
from dsync.journal import Journal, Operation, op_id
from dsync.model import (
    REF_CLOSE,
    REF_OPEN,
    UNDOES,
    Action,
    Change,
    Event,
    Measures,
    Plan,
    Scope,
    Severity,
    Tally,
    Thresholds,
)
from dsync.references import Known, Missing, Reference, filled, folded, relied_on
from dsync.reports import key_text
from dsync.settling import Now
from dsync.sql import literal
from dsync.templates import fields_of
from dsync.translation import Translation

if TYPE_CHECKING:
    import duckdb

    from dsync.connectors import Connector
    from dsync.database import Engine
    from dsync.diff import Compared
    from dsync.planning import Job, Listing
    from dsync.safety import Approvals, Histories

CONFLICTS = 5
"""records that somebody else has changed, before an undo has to be approved"""
COVERAGE = "undo coverage"
"""the input of a plan that says how much of the run it takes back"""

_MASKED = re.compile(r"[*\u2022\u25cf]{3,}")
"""what an API shows in the place of a secret"""

Record = Mapping[str, Any]
Section = tuple[str, str]
"""profile, scope"""


# --- what a run has done ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """One change that the run has made, or may have; `number` is its place in the run's plan."""

    number: int
    change: Change
    known: Operation

    @property
    def id(self) -> Any:
        """The record's id, where it is known."""
        return self.change.id if self.known.id is None else self.known.id

    @property
    def is_clear(self) -> bool:
        """False when it ended as a conflict or a duplicate."""
        return self.known.state == "acked"

    @property
    def is_ours(self) -> bool:
        """False when the record was so already, by somebody else's doing."""
        known = self.known
        if known.code == "DS-APPLY-ALREADY" or (known.code == "DS-ABSENT" and known.attempt < 2):
            return False
        refused = known.code == "DS-APPLY-FOUND" and known.status == 409
        return not (refused and known.attempt < 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A finished run: its plan, and what it has done, by profile and scope."""

    run_id: str
    plan: Plan
    deeds: Mapping[Section, Sequence[Deed]]
    waves: int
    """the number of the last one"""


def read(book: Journal, *, only: frozenset[str] = frozenset()) -> Past:
    """What a run has done; `only` are keys (parts joined by `/`), none means all.

    Raises: Unsettled when it has left calls of which nobody knows; StorageFault.
    """
    if left := book.unsettled():
        raise Unsettled(
            f"run {book.run_id} has left calls whose outcome is not known: {left}",
            code="DS-RUN-UNSETTLED",
            hint=f"dsync reconcile {book.run_id}",
        )
    deeds: dict[Section, list[Deed]] = defaultdict(list)
    waves = 0
    for number, change in enumerate(book.plan.changes(), 1):
        waves = max(waves, change.wave)
        if only and "/".join(change.key) not in only:
            continue
        known = book.state(op_id(book.run_id, change))
        if known is not None and known.state in ("acked", "conflict", "duplicate"):
            deed = Deed(number=number, change=change, known=known)
            deeds[change.profile, change.scope].append(deed)
    return Past(run_id=book.run_id, plan=book.plan, deeds=deeds, waves=waves)


# --- the plan -----------------------------------------------------------------------------------


def scoped(job: Job, past: Past) -> Job:
    """The job in the scopes in which the run has done something."""
    names = {scope for profile, scope in past.deeds if profile == job.profile.name}
    return replace(job, scopes=tuple(s for s in past.plan.scopes if s.name in names))


async def plan(
    past: Past,
    jobs: Sequence[Job],
    *,
    connectors: Mapping[str, Connector],
    workdir: Path,
    engine: Engine,
    allowed: frozenset[str],
    approvals: Approvals,
    history: Histories,
    on_event: Callable[[Event], None],
) -> Plan:
    """The plan that takes the run back, from the target as it is now; its body is below `workdir`.

    `jobs` are those of the run's profiles, `allowed` the actions that the undo may make. Guards
    judge it, and their verdicts are in it.

    Raises: Unavailable, Unauthorized, ContractBreach: then nothing is known of the target.
    """
    began = datetime.now(UTC)
    work = _Work(past=past, engine=engine, allowed=allowed, workdir=workdir)
    for job, scope in _in_order(jobs, past):
        spot = (job.connection, job.resource, scope.name)
        file = workdir / f"undo_{len(work.listings)}.ndjson"
        listing = await planning.spool(
            connectors[job.connection], job.resource, job.facts, scope, file, on_event
        )
        work.listings[spot] = listing
        work.look(job, scope, listing)
    for job, scope in _in_order(jobs, past):
        await asyncio.to_thread(work.decide, job, scope)
        on_event(Event(phase="plan", subject=job.profile.name, done=len(work.tallies)))
    made = work.plan(jobs)
    verdicts = safety.judge(made.guards, approvals=approvals, history=history)
    return replace(made, created=began, verdicts=verdicts)


def check_conflicts(plan: Plan, approved: int | None) -> None:
    """Not too many records were changed since the run.

    Raises: Refused DS-UNDO-CONFLICTS.
    """
    number = sum(finding.code == "DS-UNDO-CONFLICT" for finding in plan.findings())
    if number > max(CONFLICTS, approved or 0):
        raise Refused(
            f"nothing was written: {number} records are not as the run has left them; "
            f"{CONFLICTS} need no approval",
            code="DS-UNDO-CONFLICTS",
            hint=f"see what has happened since; none of them is touched; if that is meant, add: "
            f"--max-conflicts {number}",
        )


def _in_order(jobs: Sequence[Job], past: Past) -> Iterator[tuple[Job, Scope]]:
    """Where the run has done something; those that others refer to come first."""
    by_name = {job.profile.name: job for job in jobs}
    makers = {(job.connection, job.resource): job.profile.name for job in jobs}
    needs = {
        name: [
            makers[job.connection, resource]
            for resource in job.listings[1:]
            if (job.connection, resource) in makers
        ]
        for name, job in by_name.items()
    }
    for name in operations.levels(needs):
        for scope in by_name[name].scopes:
            if past.deeds.get((name, scope.name)):
                yield by_name[name], scope


# --- deciding -----------------------------------------------------------------------------------


class _Verdict(NamedTuple):
    """Why a deed is not undone. `reason` is what the coverage counts; empty: it counts nothing."""

    message: str
    code: str
    reason: str = ""
    severity: Severity = "error"
    hint: str = ""


class _Wish(NamedTuple):
    """How a record shall be again: its fields as they were, and what must be created for that."""

    deed: Deed
    values: dict[str, Any]
    needs: tuple[tuple[str, tuple[str, ...]], ...] = ()


class _Group(NamedTuple):
    """One profile in one scope, under work."""

    job: Job
    scope: Scope
    tally: Tally
    columns: Mapping[str, str]

    @property
    def lane(self) -> Lane:
        return self.job.connection, self.scope.name


_Key = tuple[str, ...]
_Gone = tuple[Lane, str, str]
"""lane, resource, id (as text) of a record that the run has deleted"""


@dataclass(slots=True, kw_only=True, eq=False)
class _Work:
    """One undo that is being planned."""

    past: Past
    engine: Engine
    allowed: frozenset[str]
    workdir: Path
    listings: dict[planning.Spot, Listing] = field(default_factory=dict)
    records: dict[planning.Spot, dict[_Key, list[Record]]] = field(default_factory=dict)
    """what the target holds now under the keys of the run, in the shape that is written"""
    changes: list[Change] = field(default_factory=list)
    findings: list[bytes] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    guards: list[Measures] = field(default_factory=list)
    ids: dict[tuple[Lane, str, _Key], Any] = field(default_factory=dict)
    """ids of the records that the run has created"""
    back: dict[_Gone, Any] = field(default_factory=dict)
    """those that are there again, and their new id"""
    coming: dict[_Gone, _Key] = field(default_factory=dict)
    """those that this plan creates again"""
    gone: dict[_Gone, _Key] = field(default_factory=dict)
    """all of them"""
    gone_keys: set[tuple[Lane, str, _Key]] = field(default_factory=set)
    coming_keys: set[tuple[Lane, str, _Key]] = field(default_factory=set)
    total: int = 0
    restorable: int = 0
    already: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    # ---- looking -------------------------------------------------------------------------------

    def look(self, job: Job, scope: Scope, listing: Listing) -> None:
        """Keep the records that have the keys of the run."""
        lane = (job.connection, scope.name)
        caseless = job.facts.caseless_key
        found: dict[_Key, list[Record]] = {}
        for deed in self.past.deeds[job.profile.name, scope.name]:
            change = deed.change
            found[folded(change.key, caseless)] = []
            if change.action == "create" and deed.is_clear:
                self.ids[lane, job.resource, change.key] = deed.id
            if change.action == "delete":
                self.gone[lane, job.resource, _text(change.id)] = change.key
                self.gone_keys.add((lane, job.resource, change.key))
        translation = Translation(job.facts)
        assert listing.file is not None  # noqa: S101 - `spool` has written it
        with listing.file.open("rb") as lines:
            for line in lines:
                record = msgspec.json.decode(line)
                held = found.get(folded(translation.key(record), caseless))
                if held is not None:
                    held.append(record)
        self.records[job.connection, job.resource, scope.name] = found

    def _holders(self, group: _Group, key: _Key) -> list[Record]:
        spot = (group.job.connection, group.job.resource, group.scope.name)
        return self.records[spot].get(folded(key, group.job.facts.caseless_key), [])

    # ---- one profile in one scope --------------------------------------------------------------

    def decide(self, job: Job, scope: Scope) -> None:
        """What is to be done, and what cannot be."""
        section = (job.profile.name, scope.name)
        tally = next(t for t in self.past.plan.tallies if (t.profile, t.scope) == section)
        columns = {name: _plain(type_) for name, type_ in tally.columns.items()}
        group = _Group(job, scope, tally, columns)
        found: dict[int, _Verdict | _Wish | None] = {}
        probes: list[tuple[Deed, Change]] = []
        deeds = {deed.number: deed for deed in self.past.deeds[section]}
        for deed in deeds.values():
            verdict, probe = self._asked(group, deed)
            if probe is None:
                found[deed.number] = verdict
            else:
                probes.append((deed, probe))
        spot = (job.connection, job.resource, scope.name)
        listing = self.listings[spot]
        assert listing.file is not None  # noqa: S101 - `spool` has written it
        folder = self.workdir / f"undo_{len(self.tallies)}"
        (folder / "probe").mkdir(parents=True)
        stands = settling.compare(
            [probe for _, probe in probes], listing.file, job, columns, folder / "probe",
            self.engine,
        ) if probes else []  # fmt: skip
        for (deed, probe), now in zip(probes, stands, strict=True):
            found[deed.number] = self._answered(group, deed, probe, now)
        wishes = {n: one for n, one in found.items() if isinstance(one, _Wish)}
        if wishes:
            self._compare(group, wishes, listing, folder, found)
        self._close(group, deeds, found, listing.count)

    def _asked(self, group: _Group, deed: Deed) -> tuple[_Verdict | None, Change | None]:
        """What can be said of a deed without a look at its record, else the change to compare."""
        if not deed.is_clear:
            return _unclear(deed), None
        if not deed.is_ours:
            return _not_ours(deed), None
        facts = group.job.facts
        change = deed.change
        undoing: Action = "delete" if change.action == "create" else "update"
        if change.action == "delete":
            undoing = "create"
        if getattr(facts, undoing) is None:
            return _cannot(f"the API cannot {undoing} {group.job.resource}"), None
        if undoing not in self.allowed:
            return _off(undoing), None
        lost = self._lost(group, deed)
        if lost:
            return _lost(lost), None
        if change.action == "delete":
            image = _subbed(group.job, _image(group, deed), self._back(group))
            return None, replace(change, action="create", id=None, before=None, payload=image)
        if change.before is not None:
            before = _subbed(group.job, change.before, self._back(group))
            change = replace(change, before=before)
        known: Known = {ref: self._value(group, ref) for ref in relied_on(change)}
        if change.action == "create" and not self._holders(group, change.key):
            return None, None
        if missing := [str(ref) for ref, value in known.items() if isinstance(value, Missing)]:
            return _conflict(f"it relies on {', '.join(missing)}, which is gone"), None
        after = filled(change.after, known)
        # What stands beside the changed fields is not the run's: others may have changed it.
        payload = filled(change.payload, known) if change.action == "create" else after
        return None, replace(change, payload=payload, after=after)

    def _value(self, group: _Group, ref: Reference) -> Any:
        """The value of a reference of the run."""
        if not ref.take:
            return None
        resource = group.job.system.system.resources[ref.resource]
        made = self.ids.get((group.lane, ref.resource, ref.key))
        if made is not None and ref.take in ("id", resource.id):
            return made
        spot = (group.job.connection, ref.resource, group.scope.name)
        held = self.records.get(spot, {}).get(folded(ref.key, resource.caseless_key), [])
        name = Translation(resource).id_field if ref.take == "id" else ref.take
        return held[0].get(name) if len(held) == 1 else Missing("it is gone", failed=True)

    def _back(self, group: _Group) -> Callable[[str, Any], Any]:
        """The new id of a record that is there again, for the id that it had."""
        return lambda resource, id_: self.back.get((group.lane, resource, _text(id_)), id_)

    def _lost(self, group: _Group, deed: Deed) -> list[str]:
        """What of the record cannot be brought back, and why."""
        job, change = group.job, deed.change
        facts, profile = job.facts, job.profile.profile
        before, payload = change.before or {}, change.payload or {}
        lost: list[str] = []
        if change.action == "create":
            return lost
        holders = self._holders(group, change.key)
        listed = holders[0] if len(holders) == 1 else {}
        for name in group.columns:
            if name in before:
                value = before[name]
                if isinstance(value, str) and _MASKED.fullmatch(value):
                    lost.append(f"masked field `{name}`")
                elif _empty(value) and change.action == "update" and name in profile.omit_empty:
                    lost.append(f"field `{name}`, which is never sent empty")
                elif value is None and change.action == "delete" and (
                    name in facts.unknown_if_absent
                ):  # fmt: skip
                    lost.append(f"field `{name}`, which the API did not show")
                elif (
                    change.action == "delete"
                    and not _empty(value)
                    and (
                        facts.create is not None
                        and name in facts.create.omit
                        and name not in facts.key  # a create tells it in another way
                    )
                ):
                    lost.append(f"field `{name}`, which a create cannot set")
            elif change.action == "update":
                if name not in payload:
                    continue
                if name in facts.write_only:
                    lost.append(f"write-only field `{name}`")
                elif name in facts.unknown_if_absent and listed.get(name) is None:
                    lost.append(f"field `{name}`, which the API does not show")
            elif name in facts.write_only:
                lost.append(f"write-only field `{name}`")
            elif name not in facts.key and not _is_constant(profile.payload.get(name)):
                lost.append(f"field `{name}`, which the run did not read")
        return lost

    def _answered(
        self, group: _Group, deed: Deed, probe: Change, now: Now
    ) -> _Verdict | _Wish | None:
        """What to do about a deed whose record is so; None when it is undone already."""
        change = deed.change
        if now.state == "many":
            return _conflict(f"{len(now.ids)} records have this key now")
        if change.action == "delete":
            return self._bring_back(group, deed, now)
        if now.state == "absent":
            return None if change.action == "create" else _conflict("the record is gone")
        if deed.id is not None and _text(now.id) != _text(deed.id):
            return _conflict("another record has this key now")
        if now.state == "before":
            return None
        if now.state == "other":
            return _conflict(f"differing: {', '.join(now.fields)}")
        (record,) = self._holders(group, change.key)
        if change.action == "create":
            # What the run has left out is not compared; and what its profile does not manage when
            # it is empty, the API itself may have filled in.
            profile, facts = group.job.profile.profile, group.job.facts
            known = {*(probe.payload or {}), *facts.key, *profile.omit_empty}
            filled_in = [
                name for name in group.columns
                if name not in known and not _empty(record.get(name))
            ]  # fmt: skip
            if filled_in:
                return _conflict(f"the run did not write {', '.join(filled_in)}")
            return _Wish(deed, {})
        now_ = {name: record.get(name) for name in group.columns}
        return self._referring(group, deed, dict(change.before or {}), now_)

    def _bring_back(self, group: _Group, deed: Deed, now: Now) -> _Verdict | _Wish | None:
        where = (group.lane, group.job.resource, _text(deed.change.id))
        if now.state == "after":
            self.back[where] = now.id
            return None
        if now.state != "absent":
            return _conflict("another record has this key now")
        return self._referring(group, deed, _image(group, deed), {})

    def _referring(
        self, group: _Group, deed: Deed, then: dict[str, Any], else_: Record
    ) -> _Verdict | _Wish:
        """How the record shall be: `then`, its references leading to what takes the old place."""
        needs: dict[tuple[str, _Key], None] = {}
        lost: dict[str, None] = {}

        def by_id(resource: str, id_: Any) -> Any:
            where = (group.lane, resource, _text(id_))
            if where in self.back:
                return self.back[where]
            if where in self.coming:
                needs[resource, self.coming[where]] = None
                return _reference(resource, self.coming[where])
            if where in self.gone:
                lost[f"{resource} {key_text(self.gone[where])}"] = None
            return id_

        def by_key(resource: str, name: Any) -> Any:
            key = (_text(name),)
            spot = (group.job.connection, resource, group.scope.name)
            if (group.lane, resource, key) in self.coming_keys:
                needs[resource, key] = None
            elif (group.lane, resource, key) in self.gone_keys and not self.records[spot].get(
                folded(key, group.job.system.system.resources[resource].caseless_key)
            ):
                lost[f"{resource} {key_text(key)}"] = None
            return name

        fresh = _subbed(group.job, then, by_id, by_key)
        if lost:
            return _Verdict(
                f"not undone: it refers to {', '.join(lost)}, which does not come back",
                "DS-UNDO-LOST",
                "refers to a record that does not come back",
            )
        return _Wish(deed, {**else_, **fresh}, tuple(needs))

    # ---- the comparison, with the past as what is wanted ---------------------------------------

    def _compare(
        self,
        group: _Group,
        wishes: Mapping[int, _Wish],
        listing: Listing,
        folder: Path,
        found: dict[int, _Verdict | _Wish | None],
    ) -> None:
        """The changes from the records of now to those of then, measured for the guards."""
        from dsync import diff, findings

        job = group.job
        assert listing.file is not None  # noqa: S101 - `spool` has written it
        restored = [wish for wish in wishes.values() if wish.deed.change.action != "create"]
        doomed = {wish.deed.change.key for wish in wishes.values()} - {
            wish.deed.change.key for wish in restored
        }
        wanted, gone = folder / "restored.ndjson", folder / "doomed.ndjson"
        _write(wanted, ({"n": w.deed.number, "k": w.deed.change.key, "v": w.values}
                        for w in restored))  # fmt: skip
        keys = [self._listed_key(group, key) for key in sorted(doomed)]
        _write(gone, ({"k": key} for key in keys))
        able = replace(
            planning.abilities(job),
            allowed=self.allowed if doomed else self.allowed - {"delete"},
            only=None,
            limit=None,
        )
        with database.opened(folder, self.engine, listing.file.stat().st_size) as con:
            con.execute(findings.TABLE)
            database.lock(con, folder, [wanted, gone, listing.file])
            compared = diff.compare(
                con,
                settling.as_desired(con, wanted if restored else None, job, group.columns),
                planning.existing_of(job, listing.file),
                diff=job.profile.profile.diff,
                abilities=able,
                omit_empty=job.profile.profile.omit_empty,
                spool=diff.Spool(
                    folder=folder / "spool", buckets=database.bucket_count(con, [listing.file])
                ),
            )
            if doomed:
                con.execute(
                    f"DELETE FROM {compared.table} WHERE action = 'delete' AND key NOT IN "
                    f"(SELECT k FROM read_json({literal(str(gone))}, "
                    "columns={k: 'VARCHAR[]'}, format='newline_delimited'))"
                )
            made, kept = self._made(con, group, compared, wishes), _told(con)
            for number in wishes:
                found[number] = made.get(number) or kept.get(number) or _withheld(wishes[number])
            self._drop(con, compared, made)
            self.guards.append(self._measure(con, group, compared, listing, made))

    def _listed_key(self, group: _Group, key: _Key) -> _Key:
        """The key as the target spells it."""
        (record,) = self._holders(group, key)
        return Translation(group.job.facts).key(dict(record))

    def _made(
        self,
        con: duckdb.DuckDBPyConnection,
        group: _Group,
        compared: Compared,
        wishes: Mapping[int, _Wish],
    ) -> dict[int, Any]:
        """Number of the deed -> the change that undoes it, or why there is none."""
        caseless = group.job.facts.caseless_key
        doomed = {
            folded(w.deed.change.key, caseless): n
            for n, w in wishes.items()
            if w.deed.change.action == "create"
        }
        rows = con.execute(
            "SELECT action, rid, key, id::VARCHAR, fields, before::VARCHAR, payload::VARCHAR "
            f"FROM {compared.table}"
        ).fetchall()
        made: dict[int, Any] = {}
        for action, rid, key, id_, names, *texts in rows:
            before, payload = (msgspec.json.decode(text) if text else None for text in texts)
            number = doomed[folded(tuple(key), caseless)] if action == "delete" else rid
            wish = wishes[number]
            old = wish.deed.change
            change = replace(
                old,
                action=action,
                key=tuple(key) if action == "delete" else old.key,
                id=msgspec.json.decode(id_) if id_ else None,
                row=None if action == "delete" else number,
                wave=self._wave(action, old.wave),
                fields=(), needs=wish.needs, before=before, after=None, payload=payload,
            )  # fmt: skip
            if action == "update":
                made[number] = _restoring(group, wish, change, names)
            elif action == "create":
                made[number] = _recreating(wish, change)
            else:
                made[number] = change
        return made

    def _wave(self, action: str, old: int) -> int:
        """Restored records first, parents before children; then their children's deletes.

        An update has its old wave: what it must send back beside its own fields is as it was read
        only before the records that refer to it are changed, or deleted.
        """
        last = self.past.waves
        return {"create": last - old, "update": old, "delete": 2 * last + 1 - old}[action]

    def _drop(
        self, con: duckdb.DuckDBPyConnection, compared: Compared, made: Mapping[int, Any]
    ) -> None:
        """Take out of the measured table what is not done after all."""
        for number, one in made.items():
            if isinstance(one, _Verdict):
                con.execute(f"DELETE FROM {compared.table} WHERE rid = {int(number)}")

    def _measure(
        self,
        con: duckdb.DuckDBPyConnection,
        group: _Group,
        compared: Compared,
        listing: Listing,
        made: Mapping[int, Any],
    ) -> Measures:
        job = group.job
        counts = Counter(one.action for one in made.values() if isinstance(one, Change))
        return safety.measure(
            con,
            Measures(
                profile=job.profile.name,
                resource=job.resource,
                scope=group.scope.name,
                target="/".join(filter(None, group.lane)),
                existing=compared.existing,
                managed=compared.managed,
                creates=counts["create"],
                updates=counts["update"],
                deletes=counts["delete"],
                twin_records=compared.twins,
                proof=listing.proof,
                thresholds=Thresholds(**job.profile.profile.safety.model_dump()),
            ),
            section=1,
            changes=compared.table,
            listing=listing.file,
            key=Translation(job.facts).key_fields,
        )

    def _close(
        self,
        group: _Group,
        deeds: Mapping[int, Deed],
        found: Mapping[int, Any],
        existing: int,
    ) -> None:
        """Count, and write the findings down."""
        counts: Counter[str] = Counter()
        again = []
        for number, one in sorted(found.items()):
            deed = deeds[number]
            match one:
                case Change():
                    counts[one.action] += 1
                    self.restorable += 1
                    self.total += 1
                    self.changes.append(one)
                    if one.action == "create":
                        again.append(one)
                        where = (group.lane, group.job.resource, _text(deed.change.id))
                        self.coming[where] = one.key
                        self.coming_keys.add((group.lane, group.job.resource, one.key))
                case _Verdict():
                    counts[one.severity] += 1
                    self._note(group, one, deed)
                    if one.reason:
                        self.total += 1
                        self.reasons[one.reason] += 1
                case _:
                    counts["unchanged"] += 1
                    self.total += 1
                    self.restorable += 1
                    self.already += 1
        if again:
            counts["warn"] += 1
            self._note(group, _new_ids(group, again), None)
        rows = sum(counts[name] for name in ("create", "update", "unchanged", "skip", "error"))
        numbers: dict[str, Any] = {**counts}
        tally = Tally(
            profile=group.job.profile.name, system=group.tally.system, resource=group.job.resource,
            scope=group.scope.name, rows=rows, existing=existing, columns=group.columns, **numbers,
        )  # fmt: skip
        self.tallies.append(tally)

    def _note(self, group: _Group | None, verdict: _Verdict, deed: Deed | None) -> None:
        line = {
            "kind": "finding",
            "profile": group.job.profile.name if group else "",
            "resource": group.job.resource if group else "",
            "scope": group.scope.name if group else "",
            "key": deed.change.key if deed else (),
            "row": deed.number if deed else None,
            "severity": verdict.severity,
            "code": verdict.code,
            "message": verdict.message,
            "field": None,
            "place": None,
            "hint": verdict.hint or None,
        }
        self.findings.append(msgspec.json.encode(line) + b"\n")

    # ---- all of it -----------------------------------------------------------------------------

    def plan(self, jobs: Sequence[Job]) -> Plan:
        """The whole plan, its body written."""
        past = self.past
        covered = self._coverage()
        self._note(None, _Verdict(covered, "DS-UNDO-COVERAGE", severity="warn"), None)
        scopes = [scope.name for scope in past.plan.scopes]
        names = list(past.plan.connections)
        ranks = ("create", "update", "delete")
        self.changes.sort(
            key=lambda c: (c.wave, scopes.index(c.scope), names.index(c.profile),
                           ranks.index(c.action), c.row or 0, c.key)
        )  # fmt: skip
        body = self.workdir / "undo.body"
        lines = [_line(change) for change in self.changes] + self.findings
        body.write_bytes(b"".join(lines))
        facts = planning.input_facts(jobs, planning.Inputs(listings=self.listings), {})
        facts |= {UNDOES: past.run_id, "undone plan": past.plan.digest, COVERAGE: covered}
        facts = dict(sorted(facts.items()))
        return Plan(
            tallies=tuple(self.tallies),
            scopes=past.plan.scopes,
            connections=past.plan.connections,
            inputs=facts,
            digest=planning.digest_of(hashlib.sha256(b"".join(lines)).hexdigest(), facts),
            body=body,
            tool_version=__version__,
            guards=tuple(self.guards),
        )

    def _coverage(self) -> str:
        """`1,204 of 1,260 operations restorable; 56: write-only field `password``."""
        parts = [f"{self.restorable:,} of {self.total:,} operations restorable"]
        parts += [f"{number:,}: {why}" for why, number in sorted(self.reasons.items())]
        if self.already:
            parts.append(f"{self.already:,} of them undone already")
        return "; ".join(parts)


def _restoring(
    group: _Group, wish: _Wish, change: Change, names: Sequence[str]
) -> Change | _Verdict:
    """The update that writes the old values of the fields that the run has changed, no others."""
    old, facts = wish.deed.change, group.job.facts
    if left := sorted(set(old.fields) - set(names)):
        return _lost([f"field `{name}`, which cannot be edited" for name in left])
    # All as it was read: a cast to the type of its column may have changed it.
    then = {name: wish.values[name] for name in old.fields}
    payload = then
    if facts.update is not None and facts.update.send == "all":
        payload = dict(change.payload or {})
        ignored = group.job.profile.profile.diff.ignore_fields
        for name in payload:
            if name in then or name in group.columns:
                payload[name] = wish.values.get(name)
            if name in ignored and payload[name] is None:
                payload[name] = (old.payload or {}).get(name)
    before = {name: (change.before or {}).get(name) for name in old.fields}
    return replace(change, fields=old.fields, before=before, after=then, payload=payload)


def _recreating(wish: _Wish, change: Change) -> Change:
    payload = {name: wish.values.get(name) for name in change.payload or {}}
    return replace(change, before=None, after=payload, payload=payload)


# --- images -------------------------------------------------------------------------------------


def _image(group: _Group, deed: Deed) -> dict[str, Any]:
    """A deleted record as it was, in all fields that the profile writes."""
    change, profile = deed.change, group.job.profile.profile
    keys = dict(zip(group.job.facts.key, change.key, strict=False))
    constants = {name: profile.payload.get(name) for name in group.columns}
    return {name: (change.before or {}).get(name, keys.get(name, constants[name]))
            for name in group.columns}  # fmt: skip


Sub = Callable[[str, Any], Any]
"""(resource, what refers to a record of it) -> what is to be there instead"""


def _subbed(
    job: Job, values: Mapping[str, Any], by_id: Sub, by_key: Sub | None = None
) -> dict[str, Any]:
    """The values with all references to other records replaced."""
    fresh = dict(values)
    for name, resource, take in _referrers(job):
        facts = job.system.system.resources[resource]
        sub = by_key if facts.key == [take] else by_id if take in ("id", facts.id) else None
        if name in fresh and sub is not None:
            fresh[name] = _replaced(fresh[name], resource, sub)
    return fresh


def _referrers(job: Job) -> Iterator[tuple[str, str, str]]:
    """Payload fields that lookups fill: field, resource, and the field of it that they hold."""
    profile = job.profile.profile
    for name, template in profile.payload.items():
        used = set(_fields(template))
        for key, entry in profile.resolve.items():
            lookup = entry.lookup or entry.lookup_many
            if key in used:
                yield name, entry.from_, entry.take
            elif lookup is not None and used.intersection(fields_of(lookup.using)):
                yield name, entry.from_, lookup.by


def _fields(template: Any) -> Iterator[str]:
    match template:
        case str():
            yield from fields_of(template)
        case dict():
            for item in template.values():
                yield from _fields(item)
        case list():
            for item in template:
                yield from _fields(item)


def _replaced(value: Any, resource: str, sub: Sub) -> Any:
    match value:
        case dict():
            return {name: _replaced(item, resource, sub) for name, item in value.items()}
        case list():
            return [_replaced(item, resource, sub) for item in value]
        case None | bool():
            return value
    return sub(resource, value)


def _reference(resource: str, key: _Key) -> str:
    content = msgspec.json.encode((resource, key, "id")).decode()
    return f"{REF_OPEN}{content}{REF_CLOSE}"


def _is_constant(template: Any) -> bool:
    return next(_fields(template), None) is None


def _empty(value: Any) -> bool:
    return value in (None, "", [], {})


def _text(id_: Any) -> str:
    """An id to compare: an answer may tell `7`, and a listing `"7"`."""
    return id_ if isinstance(id_, str) else msgspec.json.encode(id_).decode()


def _plain(type_: str) -> str:
    """The SQL type to read a field in; nested ones as they are, whatever they once held."""
    return "JSON" if type_.endswith("]") or type_.startswith(("STRUCT", "MAP")) else type_


# --- verdicts -----------------------------------------------------------------------------------


def _conflict(why: str) -> _Verdict:
    return _Verdict(
        f"not as the run has left it: {why}",
        "DS-UNDO-CONFLICT",
        "changed since",
        hint="see who has changed it, and set it by hand",
    )


def _lost(what: Sequence[str]) -> _Verdict:
    told = ", ".join(what)
    return _Verdict(
        f"not undone, for it would not be as it was: {told}",
        "DS-UNDO-LOST",
        told,
        hint="set it by hand",
    )


def _cannot(why: str) -> _Verdict:
    return _Verdict(f"not undone: {why}", "DS-UNDO-CANNOT", why, hint="do it by hand")


def _off(action: str) -> _Verdict:
    why = f"{action}s are off"
    return _Verdict(f"not undone: {why}", "DS-ACTION-OFF", why, "skip")


def _unclear(deed: Deed) -> _Verdict:
    return _Verdict(
        f"not undone: the run has left it as a {deed.known.state}",
        "DS-UNDO-UNCLEAR",
        "not clear in the run",
        hint="see what the target holds, and set it by hand",
    )


def _not_ours(deed: Deed) -> _Verdict:
    return _Verdict(
        f"not undone: it was so before the run came to it ({deed.known.message})",
        "DS-UNDO-NOT-OURS",
        severity="skip",
    )


def _withheld(wish: _Wish) -> _Verdict | None:
    """Why the comparison did not give the change that was wished for."""
    if wish.deed.change.action == "create":
        return _cannot("the record is protected, or not managed by the profile")
    return None


def _new_ids(group: _Group, again: Sequence[Change]) -> _Verdict:
    names = ", ".join(key_text(change.key) for change in again[:5])
    more = f" and {len(again) - 5} more" if len(again) > 5 else ""
    profile = group.job.profile.profile
    constants = [name for name in group.columns if name in profile.diff.ignore_fields]
    said = f"; as the profile says, not as it was: {', '.join(constants)}" if constants else ""
    return _Verdict(
        f"{names}{more} will get a new id, and only the fields that the profile writes{said}",
        "DS-UNDO-NEW-ID",
        severity="warn",
        hint="what refers to the old id, and is not in this plan, has to be set by hand",
    )


# --- text ---------------------------------------------------------------------------------------


def _told(con: duckdb.DuckDBPyConnection) -> dict[int, _Verdict]:
    """What the comparison itself objects to, by number of the deed."""
    rows = con.execute(
        "SELECT rid, severity, code, message, hint FROM findings "
        "WHERE rid IS NOT NULL AND severity <> 'warn' ORDER BY rid, severity, code"
    ).fetchall()
    found: dict[int, _Verdict] = {}
    for rid, severity, code, message, hint in rows:
        found.setdefault(rid, _Verdict(message, code, message, severity, hint or ""))
    return found


def _write(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with file.open("wb") as out:
        for line in lines:
            out.write(msgspec.json.encode(line) + b"\n")


def _line(change: Change) -> bytes:
    names = ("action", "profile", "system", "resource", "scope", "wave", "key", "id", "row",
             "fields", "needs", "before", "after", "payload")  # fmt: skip
    values: dict[str, Any] = {name: getattr(change, name) for name in names}
    if change.action == "create":
        values["after"] = None
    return msgspec.json.encode({"kind": "change", **values}) + b"\n"
