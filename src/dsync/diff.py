"""Desired x existing -> changes.

Both sides are brought to one comparable form (the same normalisers on both), hashed, and joined on
the key; fields are compared only where the hashes differ. The existing side is read as it streams
by and is never held as a whole: `existing` is a file of JSON lines, one record of the API a line,
in the shape that is written.

`compare` leaves one table `changes_<section>`:

    ord BIGINT · action VARCHAR · rid BIGINT · _row BIGINT · key VARCHAR[] · id JSON ·
    fields VARCHAR[] · needs JSON[] · before JSON · after JSON · payload JSON
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dsync import checks, findings, normalisers
from dsync.desired import Desired
from dsync.lookups import MAX_RECORD_BYTES
from dsync.normalisers import Field
from dsync.sql import count, describe, literal, name, pointer
from dsync.transforms import Column

if TYPE_CHECKING:
    import duckdb

    from dsync.profile import Diff


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """What a write of the system can do: None in `Abilities` means that it cannot at all."""

    send_all: bool = True
    omit: frozenset[str] = frozenset()
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What the system can do with this resource, and what the user allows now."""

    create: Ability | None = None
    update: Ability | None = None
    delete: Ability | None = None
    allowed: frozenset[str] = frozenset({"create", "update"})
    unknown_if_absent: frozenset[str] = frozenset()
    """fields that a listing may leave out: then they are not compared"""
    write_only: frozenset[str] = frozenset()
    caseless_key: bool = False
    only: frozenset[str] | None = None
    """keys (parts joined by `/`) that may change; None for all"""
    limit: int | None = None
    rename: Literal["report", "create_and_keep", "create_then_delete"] = "report"
    resource: str = ""
    create_if: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """payload field -> values: without a record, a row with another value is as wanted"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """The records of one listing: the file, and the names of its id and key fields.

    `id` and the flag `protected` are fields of the lines (`protected` may be missing).
    """

    files: tuple[Path, ...] = ()
    id: str = "id"
    key: tuple[str, ...] = ()
    protected: str | None = None
    never: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """field -> values: a record with one of them is protected, too"""
    managed: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """field -> values: only a record with one of each may be deleted; empty: any"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spool:
    """Where both sides are spooled to, and into how many buckets of key hashes."""

    folder: Path
    buckets: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The table of changes, and how many of each.

    `managed` are the existing records that might be deleted, `twins` those that share their key.
    """

    table: str
    existing: int
    managed: int = 0
    twins: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    """payload field -> its SQL type"""
    synonyms: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    depth: int = 0
    """the greatest of the column `depth`, which the table has when this is not 0"""


def compare(
    con: duckdb.DuckDBPyConnection,
    desired: Desired,
    existing: Existing,
    *,
    diff: Diff,
    abilities: Abilities,
    omit_empty: Sequence[str] = (),
    synonyms: Mapping[str, Mapping[str, str]] | None = None,
    sent: tuple[Path, str] | None = None,
    spool: Spool | None = None,
) -> Compared:
    """All changes of one profile in one scope.

    `synonyms` are, for a field, texts (lower case, trimmed) and the one that stands for them.
    `sent` is what was sent in fields that are never shown: see `registry.recall`, file and salt.

    With a `spool` the work is cut into buckets of keys, decided one by one: the same changes, in
    memory that does not grow with the number of records.
    """
    section = desired.section
    abilities = _keeping(abilities, desired.unmanaged)
    fields = normalisers.fields(
        con,
        desired,
        diff,
        ignored=abilities.write_only | desired.unmanaged,
        unknown_if_absent=abilities.unknown_if_absent,
        omit_empty=frozenset(omit_empty),
        synonyms=synonyms or {},
    )
    if sent is not None:
        hidden = sorted(abilities.write_only & desired.payload.keys() - desired.unmanaged)
        fields += [normalisers.hidden(desired, key, sent[1]) for key in hidden]
    table = f"changes_{section}"
    con.execute(
        f"CREATE TABLE {table} (ord BIGINT, action VARCHAR, rid BIGINT, _row BIGINT, "
        "key VARCHAR[], id JSON, fields VARCHAR[], needs JSON[], before JSON, after JSON, "
        "payload JSON)"
    )
    deletes = "delete" in abilities.allowed and _may_prune(con, desired, abilities)
    if desired.has_former:
        _renames(con, desired, existing, abilities)
    records = managed = twins = 0
    file = sent[0] if sent is not None else None
    for part, source in _buckets(con, desired, existing, fields, abilities, spool, file):
        matched = _match(con, part, source, fields, abilities)
        _note_twins(con, part, matched)
        _updates(con, part, matched, table, fields, abilities, omit_empty)
        _creates(con, part, matched, table, abilities, omit_empty)
        if deletes:
            _deletes(con, matched, table, fields, abilities if desired.has_former else None)
        records += count(con, f"FROM {matched}")
        managed += count(con, f"FROM {matched} WHERE managed AND NOT protected")
        twins += _twins(con, matched)
        con.execute(f"DROP TABLE {matched}")
    _select(con, desired, table, abilities)
    if desired.has_former:
        _tie_renamed(con, table, abilities)
    counts = dict.fromkeys(("create", "update", "delete"), 0)
    counts |= dict(con.execute(f"SELECT action, count(*) FROM {table} GROUP BY action").fetchall())
    counts |= _row_counts(con, desired)
    rows = desired.mapped.rows
    counts["unchanged"] = (
        rows - counts["create"] - counts["update"] - counts["skip"] - counts["error"]
    )
    columns = {key: column.type for key, column in desired.payload.items()}
    return Compared(
        table=table,
        existing=records,
        managed=managed,
        twins=twins,
        counts=counts,
        columns=columns,
    )


def _keeping(abilities: Abilities, unmanaged: frozenset[str]) -> Abilities:
    """An update sends unmanaged fields as they were read."""
    if abilities.update is None or not unmanaged:
        return abilities
    own = abilities.update
    added = sorted(unmanaged - own.omit - abilities.write_only - set(own.keep))
    return replace(abilities, update=replace(own, keep=(*own.keep, *added)))


# --- the join -------------------------------------------------------------------------------------


def _match(
    con: duckdb.DuckDBPyConnection,
    desired: Desired,
    source: str,
    fields: Sequence[Field],
    abilities: Abilities,
) -> str:
    """Join on key and hash. Leaves `matched_<section>`: one row an existing record:

    rid (NULL: not desired) · id JSON · ekey VARCHAR[] (where not desired) · same BOOLEAN ·
    protected BOOLEAN · managed BOOLEAN · old STRUCT(f0 …)[] (one item; NULL where nothing differs)
    """
    section = desired.section
    hashed = [f for f in fields if f.always]
    soft = [f for f in fields if not f.always]
    mine = ", ".join(["0", *(f"{f.desired}, false" for f in hashed)])
    theirs = ", ".join(["0", *(f"{f.existing}, {f.unread}" for f in hashed)])
    keys = range(len(desired.key))
    carried = "".join(f", d.p{f.index}" for f in soft)
    parts = ", ".join(f"d.k{i}" for i in keys)
    light = f"SELECT d.rid, {parts}, hash({mine}) AS h{carried} FROM {desired.relation} d"
    if count(con, f"FROM findings WHERE section = {section} AND code = 'DS-KEY-DUP'"):
        # Rows that share a key stand for one record; where the first one counts, it is that one.
        light += f" QUALIFY row_number() OVER (PARTITION BY {parts} ORDER BY d.rid) = 1"
    keep = _kept(abilities)
    fold = (lambda sql: f"lower({sql})") if abilities.caseless_key else (lambda sql: sql)
    on = " AND ".join(f"d.k{i} = {fold(f'e.k{i}')}" for i in keys)
    same = " AND ".join(["d.h = e.h", *(f"NOT ({f.differs})" for f in soft)])
    old = ", ".join(
        [f"'f{f.index}': e.f{f.index}" for f in fields]
        + [f"'keep{i}': e.keep{i}" for i in range(len(keep))]
    )
    olds = f"[{{{old}}}]" if old else "[{'none': true}]"
    ekey = ", ".join(f"e.k{i}" for i in keys)
    matched = f"matched_{section}"
    con.execute(
        f"CREATE TABLE {matched} AS SELECT e.rid, e.id, "
        f"CASE WHEN e.rid IS NULL THEN [{ekey}] END AS ekey, e.same, e.protected, e.managed, "
        f"CASE WHEN NOT coalesce(e.same, false) THEN {olds} END AS old FROM ("
        f"SELECT d.rid, ({same}) AS same, e.* "
        f"FROM (SELECT e.*, hash({theirs}) AS h FROM ({source}) e) e "
        f"LEFT JOIN ({light}) d ON {on}) e"
    )
    return matched


def _kept(abilities: Abilities) -> tuple[str, ...]:
    return abilities.update.keep if abilities.update else ()


def _buckets(
    con: duckdb.DuckDBPyConnection,
    desired: Desired,
    existing: Existing,
    fields: Sequence[Field],
    abilities: Abilities,
    spool: Spool | None,
    sent: Path | None,
) -> Iterator[tuple[Desired, str]]:
    """Both sides, bucket by bucket: (desired side, SELECT of the existing side)."""
    source = _existing_sql(existing, fields, desired, _kept(abilities), sent, abilities)
    if spool is None or spool.buckets < 2:
        yield desired, source
        return
    spool.folder.mkdir(exist_ok=True)
    keys = range(len(desired.key))

    def bucket(alias: str, fold: bool) -> str:
        parts = [f"lower({alias}.k{i})" if fold else f"{alias}.k{i}" for i in keys]
        return f"hash({', '.join(parts)}) % {spool.buckets} AS bucket"

    mine = _spooled(
        con,
        f"SELECT d.*, {bucket('d', False)} FROM {desired.relation} d",
        spool.folder / f"desired_{desired.section}",
    )
    theirs = _spooled(
        con,
        f"SELECT e.*, {bucket('e', abilities.caseless_key)} FROM ({source}) e",
        spool.folder / f"existing_{desired.section}",
    )
    for number in range(spool.buckets):
        view = f"{desired.relation}_bucket"
        con.execute(f"CREATE OR REPLACE VIEW {view} AS {mine(number)}")
        yield replace(desired, relation=view), theirs(number)


def _spooled(con: duckdb.DuckDBPyConnection, select: str, folder: Path) -> Callable[[int], str]:
    """Write the rows of `select` to Parquet by their column `bucket`; gives SELECT of a bucket."""
    types = describe(con, select)
    types.pop("bucket")
    con.execute(
        f"COPY ({select}) TO {literal(str(folder))} "
        "(FORMAT parquet, COMPRESSION lz4_raw, PARTITION_BY (bucket), ROW_GROUP_SIZE 4096)"
    )
    # Parquet knows no JSON[]: all columns get their types back.
    columns = ", ".join(f"{name(key)}::{type_} AS {name(key)}" for key, type_ in types.items())
    nulls = ", ".join(f"NULL::{type_} AS {name(key)}" for key, type_ in types.items())

    def read(number: int) -> str:
        part = folder / f"bucket={number}"
        if not part.is_dir():
            return f"SELECT {nulls} WHERE false"
        files = literal(f"{part}/*.parquet")
        return f"SELECT {columns} FROM read_parquet({files}, hive_partitioning=false)"

    return read


def _existing_sql(
    existing: Existing,
    fields: Sequence[Field],
    desired: Desired,
    keep: Sequence[str],
    sent: Path | None,
    abilities: Abilities,
) -> str:
    """SELECT of the existing records: k0…, id, protected, managed, f0…, keep0…"""
    wanted: dict[str, str] = dict.fromkeys(existing.key, "VARCHAR")
    wanted[existing.id] = "JSON"
    names = list(desired.payload)
    for f in fields:
        if f.is_hidden:
            continue
        known = wanted.setdefault(names[f.index], f.raw)
        if known != f.raw:
            wanted[names[f.index]] = "JSON"
    for key in keep:
        wanted.setdefault(key, "JSON")
    if existing.protected:
        wanted[existing.protected] = "BOOLEAN"
    for key in (*existing.never, *existing.managed):
        wanted.setdefault(key, "JSON")

    def read(key: str, type_: str) -> str:
        column = name(key)
        if wanted[key] == type_:
            return column
        return f"({column} ->> '$')" if type_ == "VARCHAR" else f"to_json({column})"

    select = [f"{read(key, 'VARCHAR')} AS k{i}" for i, key in enumerate(existing.key)]
    select.append(f"{read(existing.id, 'JSON')} AS id")
    flag = f"coalesce({name(existing.protected)}, false)" if existing.protected else "false"
    flags = [flag, *(_is_one(read(key, "JSON"), of) for key, of in existing.never.items())]
    select.append(f"({' OR '.join(flags)}) AS protected")
    owned = [_is_one(read(key, "JSON"), of) for key, of in existing.managed.items()]
    select.append(f"({' AND '.join(owned) or 'true'}) AS managed")
    select += [
        f"(__sent ->> {literal(pointer(f.name))}) AS f{f.index}"
        if f.is_hidden else f"{read(names[f.index], f.raw)} AS f{f.index}"
        for f in fields
    ]  # fmt: skip
    select += [f"{read(key, 'JSON')} AS keep{i}" for i, key in enumerate(keep)]
    if not existing.files:
        nulls = ", ".join(f"NULL::{type_} AS {name(key)}" for key, type_ in wanted.items())
        nulls += ", NULL::JSON AS __sent"
        return f"SELECT {', '.join(select)} FROM (SELECT {nulls} WHERE false)"
    columns = ", ".join(f"{literal(key)}: {literal(type_)}" for key, type_ in wanted.items())
    files = literal([str(file) for file in existing.files])
    source = (
        f"read_json({files}, columns={{{columns}}}, "
        f"format='newline_delimited', maximum_object_size={MAX_RECORD_BYTES})"
    )
    if sent is not None and any(f.is_hidden for f in fields):
        fold = (lambda sql: f"lower({sql})") if abilities.caseless_key else (lambda sql: sql)
        key = ", ".join(fold(read(part, "VARCHAR")) for part in existing.key)
        source += (
            f" LEFT JOIN read_json({literal(str(sent))}, columns={{'__key': 'VARCHAR[]', "
            f"'__sent': 'JSON'}}, format='newline_delimited') ON __key = [{key}]"
        )
    return f"SELECT {', '.join(select)} FROM {source}"


def _is_one(value: str, of: Sequence[Any]) -> str:
    """SQL: a JSON value is one of these, or a list with one of them."""
    texts = literal([one if isinstance(one, str) else json.dumps(one) for one in of])
    return (
        f"coalesce(CASE WHEN json_type({value}) = 'ARRAY' "
        f"THEN list_has_any(CAST({value} AS VARCHAR[]), {texts}::VARCHAR[]) "
        f"ELSE list_contains({texts}::VARCHAR[], {value} ->> '$') END, false)"
    )


# --- changes --------------------------------------------------------------------------------------


def _note_twins(con: duckdb.DuckDBPyConnection, desired: Desired, matched: str) -> None:
    """Two existing records with one key: nobody knows which is meant, so neither is touched."""
    section = desired.section
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE twins AS SELECT rid FROM {matched} "
        "WHERE rid IS NOT NULL GROUP BY rid HAVING count(*) > 1"
    )
    if not count(con, "FROM twins"):
        return
    ids = "array_to_string(list(m.id::VARCHAR ORDER BY m.id::VARCHAR)[:5], ', ')"
    note(
        con, desired,
        source=f"FROM {desired.relation} d JOIN (SELECT m.rid, {ids} AS ids FROM {matched} m "
        "SEMI JOIN twins USING (rid) GROUP BY m.rid) w USING (rid)",
        severity="error",
        code="DS-TGT-DUP",
        message="'several existing records have this key, ids ' || w.ids",
        hint="delete or rename all but one of them in the target; none is touched until then",
    )  # fmt: skip
    con.execute(
        f"INSERT INTO blocked_{section} SELECT rid, 'error' FROM twins "
        f"WHERE rid NOT IN (SELECT rid FROM blocked_{section})"
    )


def _twins(con: duckdb.DuckDBPyConnection, matched: str) -> int:
    """How many existing records share their key with another one, wanted or not."""
    wanted = 0
    if count(con, "FROM twins"):
        wanted = count(con, f"FROM {matched} SEMI JOIN twins USING (rid)")
    unwanted: list[tuple[int]] = con.execute(
        f"SELECT coalesce(sum(n), 0) FROM (SELECT count(*) AS n FROM {matched} WHERE rid IS NULL "
        "AND len(list_filter(ekey, lambda _x_: _x_ IS NULL)) = 0 GROUP BY ekey HAVING n > 1)"
    ).fetchall()
    return wanted + int(unwanted[0][0])


def _updates(
    con: duckdb.DuckDBPyConnection,
    desired: Desired,
    matched: str,
    table: str,
    fields: Sequence[Field],
    abilities: Abilities,
    omit_empty: Sequence[str],
) -> None:
    """Compare the fields of the records whose hashes differ."""
    section = desired.section
    unpacked = "".join(f", m.old[1].f{f.index} AS f{f.index}" for f in fields)
    ability = abilities.update or Ability()
    unpacked += "".join(f", m.old[1].keep{i} AS keep{i}" for i in range(len(ability.keep)))
    names = ", ".join(f"CASE WHEN {f.differs} THEN {literal(f.name)} END" for f in fields)
    differ = f"list_filter([{names}], lambda _x_: _x_ IS NOT NULL)" if fields else "[]::VARCHAR[]"
    con.execute(
        "CREATE OR REPLACE TEMP TABLE candidates AS SELECT d.rid, d._row, d._key, e.*, "
        f"{differ} AS differ FROM {desired.relation} d "
        f"JOIN (SELECT m.rid AS mrid, m.id, m.protected{unpacked} FROM {matched} m "
        f"WHERE m.rid IS NOT NULL AND NOT m.same) e ON e.mrid = d.rid "
        f"WHERE d.rid NOT IN (SELECT rid FROM blocked_{section})"
    )
    con.execute("DELETE FROM candidates WHERE len(differ) = 0")
    if not count(con, "FROM candidates"):
        return
    withhold(con, desired, "candidates", "protected", "DS-PROTECTED",
              "'the existing record is built in, and never changed'",
              "leave it out of the source")  # fmt: skip
    if abilities.update is None:
        withhold(con, desired, "candidates", "true", "DS-CANNOT",
                  "'the API cannot update this resource; differing: ' || "
                  "array_to_string(c.differ, ', ')", "change it by hand")  # fmt: skip
        return
    fixed = literal(sorted(ability.omit)) + "::VARCHAR[]"
    left = f"list_filter(c.differ, lambda _x_: NOT list_contains({fixed}, _x_))"
    withhold(con, desired, "candidates", f"len({left}) = 0", "DS-CANNOT-FIELD",
              "'differs, but cannot be edited: ' || array_to_string(c.differ, ', ')",
              "change it by hand, or delete the record and let it be created")  # fmt: skip
    if "update" not in abilities.allowed:
        withhold(con, desired, "candidates", "true", "DS-ACTION-OFF",
                  "'needs an update, and updates are off'", "allow updates")  # fmt: skip
        return
    edits = "c.edits"
    shown = {f.name: f.shown.replace("e.f", "c.f") for f in fields if not f.is_hidden}
    before = _object({k: (f"list_contains({edits}, {literal(k)})", v) for k, v in shown.items()})
    parts = {
        f.name: (f"list_contains({edits}, {literal(f.name)})", _as_json(f.column)) for f in fields
    }
    after = _object(parts)
    payload = after
    if ability.send_all:
        payload = _payload(desired, ability, omit_empty, desired.unmanaged)
    con.execute(
        f"INSERT INTO {table} SELECT c.rid * 4 + 1, 'update', c.rid, c._row, c._key, c.id, "
        f"list_sort({edits}), d.needs, {before}, {after}, {payload} "
        f"FROM {desired.relation} d "
        f"JOIN (SELECT c.*, {left} AS edits FROM candidates c) c ON d.rid = c.rid"
    )


def _creates(
    con: duckdb.DuckDBPyConnection,
    desired: Desired,
    matched: str,
    table: str,
    abilities: Abilities,
    omit_empty: Sequence[str],
) -> None:
    section = desired.section
    con.execute(
        "CREATE OR REPLACE TEMP TABLE fresh AS SELECT d.rid, d._row, d._key "
        f"FROM {desired.relation} d ANTI JOIN {matched} m ON m.rid = d.rid "
        f"WHERE d.rid NOT IN (SELECT rid FROM blocked_{section})"
    )
    for part, values in abilities.create_if.items():
        index = list(desired.payload).index(part)
        one = _is_one(f"to_json(d.p{index})", values)
        con.execute(
            "DELETE FROM fresh WHERE rid IN "
            f"(SELECT d.rid FROM {desired.relation} d WHERE NOT {one})"
        )
    if abilities.create is None:
        withhold(con, desired, "fresh", "true", "DS-CANNOT",
                  "'the API cannot create this resource'", "create it by hand")  # fmt: skip
        return
    if "create" not in abilities.allowed:
        withhold(con, desired, "fresh", "true", "DS-ACTION-OFF",
                  "'is missing, and creates are off'", "allow creates")  # fmt: skip
        return
    payload = _payload(desired, Ability(omit=abilities.create.omit), omit_empty)
    con.execute(
        f"INSERT INTO {table} SELECT c.rid * 4, 'create', c.rid, c._row, c._key, NULL, "
        f"[]::VARCHAR[], d.needs, NULL, NULL, {payload} "
        f"FROM {desired.relation} d JOIN fresh c ON d.rid = c.rid"
    )


def _may_prune(con: duckdb.DuckDBPyConnection, desired: Desired, abilities: Abilities) -> bool:
    """Whether anything may be deleted; if not, a warning says why."""
    if desired.unread_keys:
        findings.add(
            con,
            desired.section,
            severity="warn",
            code="DS-PRUNE-KEYS",
            message=f"nothing is deleted: {desired.unread_keys} rows have no readable key",
            hint="fill the keys first; a record that cannot be named might be one of them",
        )
        return False
    if abilities.delete is None:
        findings.add(
            con,
            desired.section,
            severity="warn",
            code="DS-CANNOT",
            message="nothing is deleted: the API cannot delete this resource",
        )
        return False
    return True


def _renames(
    con: duckdb.DuckDBPyConnection, desired: Desired, existing: Existing, abilities: Abilities
) -> None:
    """Find rows whose record still has the key from before. Leaves the table `renamed`:

    rid · old VARCHAR[] · fresh BOOLEAN (there is no record with the new key)
    """
    fold = (lambda sql: f"lower({sql})") if abilities.caseless_key else (lambda sql: sql)
    there = "SELECT NULL::VARCHAR[] AS key WHERE false"
    if existing.files:
        columns = ", ".join(f"{literal(part)}: 'VARCHAR'" for part in existing.key)
        key = ", ".join(fold(name(part)) for part in existing.key)
        files = literal([str(file) for file in existing.files])
        there = (
            f"SELECT [{key}] AS key FROM read_json({files}, columns={{{columns}}}, "
            f"format='newline_delimited', maximum_object_size={MAX_RECORD_BYTES})"
        )
    own = ", ".join(f"d.k{i}" for i in range(len(desired.key)))
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE renamed AS WITH there AS MATERIALIZED ({there}) "
        "SELECT d.rid, d._row, d._key, d.former AS old, "
        f"[{own}] NOT IN (SELECT key FROM there) AS fresh FROM {desired.relation} d "
        "WHERE d.former IS NOT NULL AND d.former IN (SELECT key FROM there)"
    )
    if abilities.rename != "report":
        return
    con.execute("CREATE OR REPLACE TEMP TABLE to_rename AS FROM renamed WHERE fresh AND rid NOT IN "
                f"(SELECT rid FROM blocked_{desired.section})")  # fmt: skip
    withhold(con, desired, "to_rename", "true", "DS-KEY-RENAMED",
             "'the record ' || array_to_string(c.old, ' / ') || ' has another key now: ' || "
             "array_to_string(c._key, ' / ')",
             "rename it in the target, or choose another apply.rename")  # fmt: skip


def _tie_renamed(con: duckdb.DuckDBPyConnection, table: str, abilities: Abilities) -> None:
    """An old record goes only after the one with the new key has come."""
    con.execute(
        f"UPDATE {table} AS c SET needs = [json_array({literal(abilities.resource)}, n.key)] "
        f"FROM renamed r JOIN {table} n ON n.rid = r.rid AND n.action = 'create' "
        "WHERE c.action = 'delete' AND list_transform(c.key, lambda _x_: "
        f"{'lower(_x_)' if abilities.caseless_key else '_x_'}) = r.old"
    )


def _deletes(
    con: duckdb.DuckDBPyConnection,
    matched: str,
    table: str,
    fields: Sequence[Field],
    renaming: Abilities | None,
) -> None:
    """Prune: what exists and is not wanted, unless it is protected or cannot be told apart."""
    kept = ""
    if renaming is not None and renaming.rename != "create_then_delete":
        fold = "lower(_x_)" if renaming.caseless_key else "_x_"
        key = f"list_transform(m.ekey, lambda _x_: {fold})"
        kept = f" AND {key} NOT IN (SELECT old FROM renamed)"
    shown = {f.name: f.shown for f in fields if not f.is_hidden}
    before = _object({k: ("true", v.replace("e.f", "m.old[1].f")) for k, v in shown.items()})
    con.execute(
        f"INSERT INTO {table} SELECT 0, 'delete', NULL, NULL, m.ekey, m.id, []::VARCHAR[], "
        f"[]::JSON[], {before}, NULL, NULL "
        f"FROM {matched} m WHERE m.rid IS NULL AND NOT m.protected AND m.managed "
        "AND len(list_filter(m.ekey, lambda _x_: _x_ IS NULL)) = 0 AND m.id IS NOT NULL "
        f"AND m.ekey NOT IN (SELECT ekey FROM {matched} WHERE rid IS NULL "
        f"GROUP BY ekey HAVING count(*) > 1){kept}"
    )


def _select(
    con: duckdb.DuckDBPyConnection, desired: Desired, table: str, abilities: Abilities
) -> None:
    """Leave only the chosen keys, and the first `limit` changes; say so for the other rows."""
    conditions = []
    if abilities.only is not None:
        chosen = literal(sorted(abilities.only)) + "::VARCHAR[]"
        conditions.append(f"NOT list_contains({chosen}, array_to_string(c.key, '/'))")
    if abilities.limit is not None:
        conditions.append(
            f"c.rowid NOT IN (SELECT rowid FROM {table} ORDER BY action = 'delete', ord, key, id "
            f"LIMIT {int(abilities.limit)})"
        )
    for condition in conditions:
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE dropped AS SELECT c.rid, c._row, c.key AS _key "
            f"FROM {table} c WHERE {condition}"
        )
        con.execute(f"DELETE FROM {table} c WHERE {condition}")
        con.execute("DELETE FROM dropped WHERE rid IS NULL")
        withhold(con, desired, "dropped", "true", "DS-NOT-CHOSEN",
                  "'left out by --only or --limit'", None)  # fmt: skip


def _payload(
    desired: Desired,
    ability: Ability,
    omit_empty: Sequence[str],
    unmanaged: frozenset[str] = frozenset(),
) -> str:
    """SQL of the JSON object to send: all fields that the call takes, and what it must keep."""
    parts: dict[str, tuple[str, str]] = {}
    for index, (key, column) in enumerate(desired.payload.items()):
        if key in ability.omit or key in unmanaged:
            continue
        condition = "true"
        if key in omit_empty:
            condition = f"NOT ({checks.empty(Column(f'd.p{index}', column.type))})"
        parts[key] = (condition, _as_json(Column(f"d.p{index}", column.type)))
    for i, key in enumerate(ability.keep):
        if key not in parts:
            parts[key] = (f"c.keep{i} IS NOT NULL", f"c.keep{i}")
        elif key in omit_empty:
            condition, value = parts[key]
            parts[key] = (
                f"({condition}) OR c.keep{i} IS NOT NULL",
                f"CASE WHEN {condition} THEN {value} ELSE c.keep{i} END",
            )
    return _object(parts)


def _as_json(column: Column) -> str:
    """SQL of a value as JSON without line breaks; only JSON that came as a text can have some."""
    text = f"to_json({column.sql})"
    return f"json({text})" if "JSON" in column.type else text


def _object(parts: Mapping[str, tuple[str, str]]) -> str:
    """SQL of a JSON object: key -> (condition that it is there, its value as JSON)."""

    items = []
    for key, (condition, value) in parts.items():
        member = literal(json.dumps(key, ensure_ascii=False) + ":")
        text = f"{member} || coalesce({value}::VARCHAR, 'null')"
        items.append(text if condition == "true" else f"CASE WHEN {condition} THEN {text} END")
    if not items:
        return "'{}'::JSON"
    # array_to_string leaves NULL items out.
    return f"('{{' || array_to_string([{', '.join(items)}], ',') || '}}')::JSON"


def withhold(
    con: duckdb.DuckDBPyConnection,
    desired: Desired,
    rows: str,
    condition: str,
    code: str,
    message: str,
    hint: str | None,
) -> None:
    """Move rows of a temporary table (alias `c`) from the changes to the findings, as skips."""
    if not count(con, f"FROM {rows} c WHERE {condition}"):
        return
    section = desired.section
    note(con, desired, source=f"FROM {rows} c JOIN {desired.relation} d ON d.rid = c.rid "
          f"WHERE {condition}", severity="skip", code=code, message=message, hint=hint)  # fmt: skip
    con.execute(
        f"INSERT INTO blocked_{section} SELECT c.rid, 'skip' FROM {rows} c WHERE {condition}"
    )
    con.execute(f"DELETE FROM {rows} c WHERE {condition}")


def note(
    con: duckdb.DuckDBPyConnection,
    desired: Desired,
    *,
    source: str,
    severity: str,
    code: str,
    message: str,
    hint: str | None,
) -> None:
    place = desired.mapped.source.place(None)
    con.execute(
        f"INSERT INTO findings SELECT {desired.section}, {literal(severity)}, {literal(code)}, "
        f"{message}, NULL, d.rid, d._key, {{'file': {literal(place.file)}, "
        f"'sheet': {literal(place.sheet)}, 'row': d._row, 'cell': NULL}}, {literal(hint)} {source}"
    )


def _row_counts(con: duckdb.DuckDBPyConnection, desired: Desired) -> dict[str, int]:
    """Rows withheld, by the strongest of their findings; warnings are counted beside them."""
    blocked: dict[str, int] = dict(
        con.execute(
            f"SELECT status, count(*) FROM blocked_{desired.section} GROUP BY status"
        ).fetchall()
    )
    warned = count(con, f"FROM findings WHERE section = {desired.section} AND severity = 'warn'")
    return {"skip": blocked.get("skip", 0), "error": blocked.get("error", 0), "warn": warned}
