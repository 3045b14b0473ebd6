"""Names become ids: inventories, and the joins that look names up in them.

An inventory is what a listing holds and what the same plan creates. What is missing, ambiguous, or
only differs in case is told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsync import checks, findings
from dsync.errors import Invalid
from dsync.mapping import chain
from dsync.model import REF_CLOSE, REF_OPEN
from dsync.sql import count, literal, name, pointer
from dsync.templates import constant, fields_of, template, text_of, whole
from dsync.transforms import Column

if TYPE_CHECKING:
    import duckdb

    from dsync.mapping import Mapped
    from dsync.profile import Resolve

# The reader's buffers are a multiple of this, for each thread.
MAX_RECORD_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """A table to look names up in: `called` VARCHAR, `take` (any type), `made` JSON.

    Neither is unique. `made` is `[resource, key]` for a record that this plan creates.
    """

    resource: str
    relation: str
    take: str
    """the type of `take`"""


def inventory(
    con: duckdb.DuckDBPyConnection,
    table: str,
    *,
    resource: str,
    file: Path | None,
    by: str,
    take: str,
    is_id: bool,
    creates: str | None,
    key: Sequence[str],
    where: Mapping[str, str | Sequence[str]] | None = None,
) -> Inventory:
    """What a lookup joins: the records of a listing, and those that this plan creates.

    `creates` is the table of changes of the profile that writes `resource`, if one was planned
    before. The id of a record to come is a reference, filled in when its create is done.
    """
    parts = []
    where = where or {}
    if file is not None:
        used = dict.fromkeys((by, take, *where))
        columns = ", ".join(f"{literal(field)}: 'JSON'" for field in used)
        chosen = [_is_among(name(field), of) for field, of in where.items()]
        parts.append(
            f"SELECT unnest({_texts(name(by))}) AS called, {name(take)} AS take, "
            f"NULL::JSON AS made FROM read_json({literal(str(file))}, columns={{{columns}}}, "
            f"format='newline_delimited', maximum_object_size={MAX_RECORD_BYTES})"
            + (f" WHERE {' AND '.join(chosen)}" if chosen else "")
        )
    if creates is not None:
        made = f"json_array({literal(resource)}, key)"
        named = f"payload ->> {literal(pointer(by))}"
        if by in key:
            named = f"coalesce({named}, key[{list(key).index(by) + 1}])"
        taken = f"payload -> {literal(pointer(take))}"
        if is_id:
            token = (
                f"{literal(REF_OPEN)} || json_array({literal(resource)}, key, {literal('id')})"
                f"::VARCHAR || {literal(REF_CLOSE)}"
            )
            taken = f"to_json({token})"
        chosen = ["action = 'create'"]
        chosen += [_is_among(f"(payload -> {literal(pointer(f))})", v) for f, v in where.items()]
        parts.append(
            f"SELECT {named} AS called, {taken} AS take, {made} AS made FROM {creates} "
            f"WHERE {' AND '.join(chosen)}"
        )
    parts = parts or ["SELECT NULL::VARCHAR AS called, NULL::JSON AS take, NULL::JSON AS made"]
    con.execute(f"CREATE TABLE {name(table)} AS {' UNION ALL '.join(parts)}")
    odd = count(con, f"FROM {name(table)} WHERE take IS NOT NULL AND json_type(take) <> 'VARCHAR'")
    if odd:
        return Inventory(resource=resource, relation=name(table), take="JSON")
    texts = f"(SELECT called, take ->> '$' AS take, made FROM {name(table)})"
    return Inventory(resource=resource, relation=texts, take="VARCHAR")


def _texts(value: str) -> str:
    """SQL of a JSON value as a list of texts: of its items, or of itself alone."""
    return (
        f"CASE WHEN json_type({value}) = 'ARRAY' THEN CAST({value} AS VARCHAR[]) "
        f"ELSE [{value} ->> '$'] END"
    )


def _is_among(value: str, of: str | Sequence[str]) -> str:
    """SQL: a JSON value is one of these texts, or has one of them among its items."""
    wanted = sorted({text.strip().lower() for text in ([of] if isinstance(of, str) else of)})
    return (
        f"coalesce(list_has_any(list_transform({_texts(value)}, lambda _x_: lower(trim(_x_))), "
        f"{literal(wanted)}::VARCHAR[]), false)"
    )


def synonyms(con: duckdb.DuckDBPyConnection, file: Path | None, by: str) -> dict[str, str]:
    """Every name (lower case, trimmed) of a listing's records -> the first name of its record."""
    if file is None:
        return {}
    rows: list[tuple[str, str]] = con.execute(
        "SELECT lower(trim(unnest(names))) AS one, lower(trim(names[1])) AS first FROM "
        f"(SELECT list_filter({_texts(name(by))}, lambda _x_: _x_ IS NOT NULL) AS names "
        f"FROM read_json({literal(str(file))}, columns={{{literal(by)}: 'JSON'}}, "
        f"format='newline_delimited', maximum_object_size={MAX_RECORD_BYTES})) ORDER BY ALL"
    ).fetchall()
    found: dict[str, str] = {}
    for one, first in rows:
        found.setdefault(one, first)
    return found


def resolve(
    con: duckdb.DuckDBPyConnection,
    mapped: Mapped,
    inventories: Mapping[str, Inventory],
    section: int,
) -> tuple[str, dict[str, Column]]:
    """The mapped rows with these lookups done: (relation with `rid` and `_row`, its fields).

    `inventories` are by name of the lookup; those that have none are left for later.
    """
    relation = f"rows_{section}"
    names = ", ".join(f"t.{name(key)}" for key in mapped.columns)
    base = (
        f"SELECT t.rowid AS rid, {mapped.row} AS _row, []::JSON[] AS _needs, {names} "
        f"FROM {mapped.table} t"
    )
    fields = {key: Column(f"t.{name(key)}", c.type) for key, c in mapped.columns.items()}
    if not inventories:
        con.execute(f"CREATE VIEW {relation} AS {base}")
        return relation, fields
    con.execute(f"CREATE TABLE {relation}_0 AS {base}")
    look_up(con, mapped, inventories, section, fields, before=f"{relation}_0", after=relation)
    return relation, fields


def look_up(
    con: duckdb.DuckDBPyConnection,
    mapped: Mapped,
    inventories: Mapping[str, Inventory],
    section: int,
    fields: dict[str, Column],
    *,
    before: str,
    after: str,
    quiet: bool = False,
) -> None:
    """Do these lookups on the rows of `before`, which gives the view `after`; adds to `fields`.

    What is not found is noted, unless `quiet`.
    """
    entries = {key: of for key, of in mapped.profile.resolve.items() if key in inventories}
    table = before
    for index, (key, entry) in enumerate(entries.items(), 1):
        following = f"{after}_{index}"
        fields[key] = _look_up(con, table, following, key, entry, inventories[key], fields)
        table = following
    con.execute(f"CREATE VIEW {after} AS FROM {table}")
    if not quiet:
        _note_misses(con, mapped, section, after, entries)


def _look_up(
    con: duckdb.DuckDBPyConnection,
    before: str,
    after: str,
    key: str,
    entry: Resolve,
    inventory: Inventory,
    fields: Mapping[str, Column],
) -> Column:
    """Join one inventory; adds the value and the lists of what was missing and ambiguous."""
    lookup = entry.lookup_many or entry.lookup
    if lookup is None:
        raise Invalid(f"resolve.{key} has neither lookup nor lookup_many", code="DS-LINT-060")
    using = _using(lookup.using, fields)
    names = using.sql if entry.lookup_many else f"[{text_of(using)}]"
    fold = (lambda sql: f"lower(trim({sql}))") if lookup.caseless else (lambda sql: sql)
    if entry.lookup_many and not using.is_list:
        raise Invalid(
            f"resolve.{key}: lookup_many works on a list, and {lookup.using} is {using.type}",
            code="DS-PROFILE-005",
            where=f"resolve.{key}",
            hint="split the text first, or use lookup",
        )
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE inventory_now AS SELECT {fold('called')} AS called, "
        "min(take) AS take, min(made) AS made, count(DISTINCT take) AS n, "
        "list(DISTINCT take::VARCHAR ORDER BY take::VARCHAR) AS all_ "
        f"FROM {inventory.relation} WHERE called IS NOT NULL GROUP BY {fold('called')}"
    )
    con.execute(
        "CREATE OR REPLACE TEMP TABLE inventory_case AS SELECT lower(called) AS low, "
        "min(called) AS near FROM inventory_now GROUP BY lower(called)"
    )
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE found AS "
        f"SELECT u.rid, list(i.take ORDER BY u.pos) FILTER (i.n = 1) AS vals, "
        "list(u.one || CASE WHEN c.near IS NOT NULL THEN ' (there is ' || c.near || "
        "': the case differs)' ELSE '' END ORDER BY u.pos) FILTER (i.n IS NULL) AS missing, "
        "list(u.one || ' (' || array_to_string(i.all_, ', ') || ')' ORDER BY u.pos) "
        "FILTER (i.n > 1) AS ambiguous, "
        "list(DISTINCT i.made ORDER BY i.made) FILTER (i.made IS NOT NULL) AS made "
        f"FROM (SELECT rid, unnest(l) AS one, generate_subscripts(l, 1) AS pos FROM "
        f"(SELECT t.rid, ({names})::VARCHAR[] AS l FROM {before} t)) u "
        f"LEFT JOIN inventory_now i ON i.called = {fold('u.one')} "
        "LEFT JOIN inventory_case c ON c.low = lower(u.one) "
        "WHERE u.one IS NOT NULL AND u.one <> '' GROUP BY u.rid"
    )
    if entry.lookup_many:
        value = Column(f"coalesce(f.vals, []::{inventory.take}[])", f"{inventory.take}[]")
    else:
        value = Column("f.vals[1]", inventory.take)
    value = chain(value, entry.transform, key, None)
    sql = value.sql
    if entry.if_empty is not None:
        blank, instead = checks.empty(using), _instead(entry.if_empty, fields)
        if entry.on_missing in ("warn", "ignore") and not entry.lookup_many:
            blank = f"({blank} OR len(f.missing) > 0)"
        sql = f"CASE WHEN {blank} THEN {instead}::{value.type} ELSE {sql} END"
    con.execute(
        f"CREATE TABLE {after} AS SELECT t.* EXCLUDE (_needs), "
        "list_sort(list_distinct(list_concat(t._needs, coalesce(f.made, [])))) AS _needs, "
        f"{sql} AS {name(key)}, "
        f"f.missing AS {name('_missing_' + key)}, f.ambiguous AS {name('_ambiguous_' + key)} "
        f"FROM {before} t LEFT JOIN found f ON f.rid = t.rid ORDER BY t.rid"
    )
    return Column(f"t.{name(key)}", value.type)


def _instead(value: Any, fields: Mapping[str, Column]) -> str:
    """SQL of `if_empty`: a text with `${field}`, or a constant."""
    is_template = isinstance(value, str) and "${" in value
    return _using(value, fields).sql if is_template else constant(value).sql


def _using(text: str, fields: Mapping[str, Column]) -> Column:
    field = whole(text)
    return fields[field] if field else Column(template(text, fields))


def _note_misses(
    con: duckdb.DuckDBPyConnection,
    mapped: Mapped,
    section: int,
    relation: str,
    entries: Mapping[str, Resolve],
) -> None:
    """Ambiguous names always block; missing ones as the profile says, else they skip the row.

    A precheck on the lookup, or an `on_missing`, takes the place of that default.
    """
    checked = {c.field for c in mapped.profile.prechecks if c.type.startswith("must_exist")}
    join = f"FROM {relation} r JOIN {mapped.table} t ON t.rowid = r.rid"
    for key, entry in entries.items():
        flaws = (name("_ambiguous_" + key), name("_missing_" + key))
        if not count(con, f"FROM {relation} r WHERE {' OR '.join(f'len({f}) > 0' for f in flaws)}"):
            continue
        where = f"in {entry.from_}"
        field = used_field(entry)
        findings.note(
            con, mapped, section,
            source=f"{join} WHERE len(r.{name('_ambiguous_' + key)}) > 0",
            severity="error",
            code="DS-REF-AMBIGUOUS",
            message=f"{literal(f'{key}: several records {where} have the name ')} || "
            f"array_to_string(r.{name('_ambiguous_' + key)}, ', ')",
            field=field,
            hint="make the name unique there, or look it up by another field",
        )  # fmt: skip
        if entry.on_missing == "ignore" or (key in checked and entry.on_missing is None):
            continue
        findings.note(
            con, mapped, section,
            source=f"{join} WHERE len(r.{name('_missing_' + key)}) > 0",
            severity=entry.on_missing or "skip",
            code="DS-REF-MISSING",
            message=missing_message(key, entry, "r"),
            field=field,
            hint=f"create it {where} first, or correct the name",
        )  # fmt: skip


def used_field(entry: Resolve) -> str | None:
    """The field that a lookup starts from, whose cell is the place of its findings."""
    lookup = entry.lookup or entry.lookup_many
    found = fields_of(lookup.using) if lookup else []
    return found[0] if found else None


def missing_message(key: str, entry: Resolve, alias: str) -> str:
    """SQL of what a lookup did not find; `alias` is the relation of `resolve`."""
    return f"{literal(f'{key}: not found in {entry.from_}: ')} || {missing_names(key, alias)}"


def missing_names(key: str, alias: str) -> str:
    """SQL of the names that a lookup did not find, joined."""
    return f"array_to_string({alias}.{name('_missing_' + key)}, ', ')"
