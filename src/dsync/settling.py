"""What became of a change: its record is read back, and compared once more as it was when planned.

There is one comparison in this house. Made again with what the target holds now, it tells all that
an unclear answer, a saved plan, a resumed run or an undo has to know:

    the same change comes out      before   nothing has happened
    no change comes out            after    it is as wanted
    no record has the key          absent
    another change comes out       other    somebody else was here, or half of it was done
    two records have the key       many
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from dsync import database, planning
from dsync.errors import StorageFault
from dsync.model import Change, Event, Scope
from dsync.translation import Translation

if TYPE_CHECKING:
    import duckdb

    from dsync.connectors import Connector
    from dsync.database import Engine
    from dsync.planning import Job

Synonyms = Mapping[str, Mapping[str, str]]

State = Literal["before", "after", "absent", "other", "many"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """How the record of one change is now. `id` is the record's own, where there is just one."""

    state: State
    id: Any = None
    fields: tuple[str, ...] = ()
    """where it is neither as before nor as wanted"""
    ids: tuple[Any, ...] = ()
    """all that have the key"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads records back. `jobs` are by name of profile, the others by profile and scope."""

    jobs: Mapping[str, Job]
    columns: Mapping[tuple[str, str], Mapping[str, str]]
    synonyms: Mapping[tuple[str, str], Synonyms] = field(default_factory=dict)
    connectors: Mapping[str, Connector]
    workdir: Path
    engine: Engine = field(default_factory=database.Engine)
    on_event: Callable[[Event], None] | None = None

    async def now(
        self, profile: str, scope: Scope, changes: Sequence[Change], *, digest: str = ""
    ) -> list[Now]:
        """How each of these changes stands, by one fresh and complete listing of their resource.

        `digest` is that of the listing which the changes were planned from: if it is the same now,
        all of them are as before.

        Raises: Unavailable, Unauthorized, ContractBreach; then nothing is known.
        """
        job = self.jobs[profile]
        connector = self.connectors[job.connection]
        await connector.refresh(job.resource, scope)
        with tempfile.TemporaryDirectory(dir=self._folder(), prefix="now-") as name:
            folder = Path(name)
            listing = await planning.spool(
                connector, job.resource, job.facts, scope, folder / "listing.ndjson", self._tell
            )
            if digest and listing.digest() == digest:
                return [Now(state="before" if c.action != "create" else "absent", id=c.id)
                        for c in changes]  # fmt: skip
            assert listing.file is not None  # noqa: S101 - `spool` has written it
            columns = self.columns.get((profile, scope.name), {})
            same = self.synonyms.get((profile, scope.name), {})
            return compare(
                changes, listing.file, job, columns, folder, self.engine, same,
                hidden=frozenset(job.facts.write_only),
            )  # fmt: skip

    def _folder(self) -> Path:
        try:
            self.workdir.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageFault(
                f"no room to read records back: {error.strerror or error}",
                code="DS-STORE-WRITE",
                where=str(self.workdir),
                hint="make space, check the rights, then resume",
            ) from error
        return self.workdir

    def _tell(self, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(replace(event, phase="read back"))


def compare(
    changes: Sequence[Change],
    listing: Path,
    job: Job,
    columns: Mapping[str, str],
    workdir: Path,
    engine: Engine,
    synonyms: Synonyms | None = None,
    hidden: frozenset[str] = frozenset(),
) -> list[Now]:
    """How each of these changes of one profile and scope stands.

    `listing` has all records of the resource as JSON lines, in the shape that is written.
    References in payloads are filled already. An update of `hidden` fields, which the API never
    shows, cannot be told to be made already.
    """
    holders = _holders(changes, listing, job)
    single = [number for number, ids in enumerate(holders) if len(ids) == 1]
    differing = _differences([changes[n] for n in single], single, listing, job, columns,
                             workdir, engine, synonyms or {}) if single else {}  # fmt: skip
    return [
        _now(change, ids, differing.get(number), hidden)
        for number, (change, ids) in enumerate(zip(changes, holders, strict=True))
    ]


def _now(change: Change, ids: Sequence[Any], found: _Found | None, hidden: frozenset[str]) -> Now:
    if not ids:
        return Now(state="absent")
    if len(ids) > 1:
        return Now(state="many", ids=tuple(ids))
    (id_,) = ids
    if change.action == "delete":
        as_before = found is not None and _same(found.before, change.before or {})
        return Now(state="before" if as_before else "other", id=id_, ids=(id_,))
    planned = set(change.fields) if change.action == "update" else set(change.payload or {})
    differing = [] if found is None else sorted(planned & set(found.fields))
    if not differing:
        # Nobody can see whether a field that is never shown is as wanted.
        is_unseen = change.action == "update" and not hidden.isdisjoint(change.fields)
        return Now(state="before" if is_unseen else "after", id=id_, ids=(id_,))
    before, payload = change.before or {}, change.payload or {}
    untouched = change.action == "update" and found is not None and all(
        name in found.before and _same(found.before[name], before.get(name))
        for name in planned - hidden
    )  # fmt: skip
    if untouched and found is not None:
        # A call that carries the whole record would write over what was changed beside it.
        beside = [
            name for name in found.fields
            if name in payload and name not in planned
            and not _same(found.before.get(name), payload[name])
        ]  # fmt: skip
        untouched, differing = not beside, sorted(beside) or differing
    state: State = "before" if untouched else "other"
    return Now(state=state, id=id_, ids=(id_,), fields=tuple(differing))


def _same(one: Any, other: Any) -> bool:
    return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


# --- who has the key ----------------------------------------------------------------------------


def _holders(changes: Sequence[Change], listing: Path, job: Job) -> list[list[Any]]:
    """The ids of the records that a change is about: by key, for a delete by id."""
    translation = Translation(job.facts)
    caseless = job.facts.caseless_key
    by_key: dict[tuple[str, ...], list[int]] = defaultdict(list)
    by_id: dict[bytes, list[int]] = defaultdict(list)
    for number, change in enumerate(changes):
        if change.action == "delete":
            by_id[msgspec.json.encode(change.id)].append(number)
        else:
            by_key[_folded(change.key, caseless)].append(number)
    found: list[list[Any]] = [[] for _ in changes]
    with listing.open("rb") as lines:
        for line in lines:
            record = msgspec.json.decode(line)
            id_ = record.get(translation.id_field)
            numbers = by_key.get(_folded(translation.key(record), caseless), ())
            for number in (*numbers, *by_id.get(msgspec.json.encode(id_), ())):
                found[number].append(id_)
    return found


def _folded(key: tuple[str, ...], caseless: bool) -> tuple[str, ...]:
    return tuple(part.lower() for part in key) if caseless else key


# --- the comparison, once more ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """The change that comes out now: the fields that differ, and what they hold."""

    fields: tuple[str, ...]
    before: Mapping[str, Any]


def _differences(
    changes: Sequence[Change],
    numbers: Sequence[int],
    listing: Path,
    job: Job,
    columns: Mapping[str, str],
    workdir: Path,
    engine: Engine,
    synonyms: Synonyms,
) -> dict[int, _Found]:
    """Number of the change -> the change that comes out now, where one does."""
    from dsync import diff, findings

    wanted = workdir / "wanted.ndjson"
    keep = [pair for pair in zip(numbers, changes, strict=True) if pair[1].action != "delete"]
    with wanted.open("wb") as file:
        for number, change in keep:
            value = {**(change.payload or {}), **(change.after or {})}
            line = {"n": number, "k": change.key, "v": value}
            file.write(msgspec.json.encode(line) + b"\n")
    deletes = {
        msgspec.json.encode(change.id): number
        for number, change in zip(numbers, changes, strict=True)
        if change.action == "delete"
    }
    with database.opened(workdir, engine, listing.stat().st_size) as con:
        con.execute(findings.TABLE)
        database.lock(con, workdir, [wanted, listing])
        translation = Translation(job.facts)
        # What the API can do was settled when it was planned; here all that differs counts.
        able = replace(
            planning.abilities(job),
            create=diff.Ability(),
            update=diff.Ability(),
            delete=diff.Ability() if deletes else None,
            allowed=frozenset({"create", "update"} | ({"delete"} if deletes else set())),
            only=None,
            limit=None,
        )
        compared = diff.compare(
            con,
            as_desired(con, wanted if keep else None, job, columns),
            diff.Existing(
                files=(listing,) if listing.stat().st_size else (),
                id=translation.id_field,
                key=translation.key_fields,
            ),
            diff=job.profile.profile.diff,
            abilities=able,
            omit_empty=job.profile.profile.omit_empty,
            synonyms=synonyms,
        )
        rows = con.execute(
            f"SELECT action, _row, id::VARCHAR, fields, before::VARCHAR FROM {compared.table} "
            "WHERE action <> 'create'"
        ).fetchall()
    found: dict[int, _Found] = {}
    for action, row, id_, names, before in rows:
        owner: int | None = row if action == "update" else deletes.get(_canonical(id_))
        if owner is not None:
            values = msgspec.json.decode(before) if before else {}
            found[owner] = _Found(tuple(names or ()), values)
    return found


def _canonical(id_: str) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(id_))


def as_desired(
    con: duckdb.DuckDBPyConnection, file: Path | None, job: Job, columns: Mapping[str, str]
) -> Any:
    """The wanted side, out of records that are known: see `desired.Desired`.

    `file` has a JSON line for each: `n` its number, `k` its key, `v` its fields; None: there are
    no records.
    """
    from dsync.desired import Desired
    from dsync.mapping import Mapped
    from dsync.sources import SourceTable
    from dsync.sql import literal, name
    from dsync.transforms import Column

    parts = list(columns.items())
    keys = range(len(job.facts.key))
    fold = (lambda sql: f"lower({sql})") if job.facts.caseless_key else (lambda sql: sql)
    values = [f"{_typed(field_, type_)} AS p{n}" for n, (field_, type_) in enumerate(parts)]
    source = "SELECT 0::BIGINT AS rid, []::VARCHAR[] AS key, '{}'::JSON AS v WHERE false"
    if file is not None:
        source = (
            f"SELECT n AS rid, k AS key, v FROM read_json({literal(str(file))}, "
            "columns={n: 'BIGINT', k: 'VARCHAR[]', v: 'JSON'}, format='newline_delimited')"
        )
    select = ["rid", "rid AS _row", "key AS _key", "[]::JSON[] AS needs"]
    select += [f"{fold(f'key[{n + 1}]')} AS k{n}" for n in keys]
    con.execute(f"CREATE VIEW desired_1 AS SELECT {', '.join([*select, *values])} FROM ({source})")
    con.execute("CREATE TABLE blocked_1 (rid BIGINT, status VARCHAR)")
    table = SourceTable(name=name("desired_1"), file="plan")
    return Desired(
        mapped=Mapped(
            profile=job.profile.profile, section=1, table="desired_1", row="rid", columns={},
            source=table, headers={}, rows=0,
        ),
        section=1,
        relation="desired_1",
        key=tuple(job.facts.key),
        payload={key: Column(f"p{n}", type_) for n, (key, type_) in enumerate(parts)},
        blocked="blocked_1",
        unread_keys=0,
    )  # fmt: skip


def _typed(key: str, type_: str) -> str:
    """SQL of a payload field in the type that it had when it was planned."""
    from dsync.sql import literal, pointer

    at = literal(pointer(key))
    if type_ == "JSON":
        return f"CASE WHEN json_type(v, {at}) <> 'NULL' THEN v -> {at} END"
    if type_.endswith("[]") or type_.startswith(("STRUCT", "MAP")):
        return f"TRY_CAST(CASE WHEN json_type(v, {at}) <> 'NULL' THEN v -> {at} END AS {type_})"
    return f"TRY_CAST(v ->> {at} AS {type_})"


def by_subject(changes: Iterable[Change]) -> dict[str, list[Change]]:
    """Changes by their profile, in order."""
    found: dict[str, list[Change]] = defaultdict(list)
    for change in changes:
        found[change.profile].append(change)
    return dict(found)
