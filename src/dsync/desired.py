"""Mapped rows -> what we want in one scope, and what is wrong with it.

`build` does what depends on the scope: lookups, checks, payload and key. It gives one relation:

    rid BIGINT · _row BIGINT · _key VARCHAR[] · needs JSON[] · k0, k1, … VARCHAR ·
    p0, p1, … (payload fields)

A row with a finding (but for a warning) is *blocked*: it makes no change, but its key still counts
as wanted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dsync import checks, findings, lookups
from dsync.errors import Invalid
from dsync.sql import count, describe, literal, name
from dsync.templates import compose, fields_of, template, text_of, whole
from dsync.transforms import Column

if TYPE_CHECKING:
    import duckdb

    from dsync.lookups import Inventory
    from dsync.mapping import Mapped
    from dsync.profile import Check, Profile, Resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What we want in one scope. `relation` is described in the module's docstring."""

    mapped: Mapped
    section: int
    relation: str
    key: tuple[str, ...]
    payload: Mapping[str, Column]
    """payload field -> column of the relation, with its type"""
    blocked: str
    """a table `rid, status` of rows that findings withhold"""
    unread_keys: int
    """rows whose key could not be read: while there are any, nothing may be pruned"""
    unmanaged: frozenset[str] = frozenset()
    """payload fields whose columns the source does not have: existing records keep theirs"""
    has_former: bool = False
    """the relation has `former` VARCHAR[]: the key before a rename, folded as k0…; or NULL"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """The records of the profile's own resource, which lookups of its rows may name.

    `inventory` opens one of the lookups over the listing and a table of records to come (the name
    of the lookup, the table, a suffix). `file` and `key` are the listing and its key fields.
    """

    lookups: frozenset[str]
    inventory: OpenOwn
    file: Path | None
    key: tuple[str, ...]
    may_create: bool


class OpenOwn(Protocol):
    """Opens one lookup among the profile's own records."""

    def __call__(self, lookup: str, coming: str | None, suffix: str = "") -> Inventory: ...


def build(
    con: duckdb.DuckDBPyConnection,
    mapped: Mapped,
    inventories: Mapping[str, Inventory],
    *,
    section: int,
    key: Sequence[str],
    caseless_key: bool = False,
    own: Own | None = None,
) -> Desired:
    """What we want in one scope: lookups, checks, payload and key.

    `inventories` has one entry for each name in `profile.resolve`, but for those in `own`. `key`
    are the names of the key in the system; the profile's natural key gives their values, in the
    same order.
    """
    profile = mapped.profile
    checks_ = profile.prechecks
    if section != mapped.section:
        findings.copy(con, mapped.section, section)
    relation, fields = lookups.resolve(con, mapped, inventories, section)
    mine = own.lookups if own is not None else frozenset()
    _check(con, mapped, section, relation, fields, [c for c in checks_ if c.field not in mine])
    natural = profile.identity.natural_key
    if len(natural) != len(key):
        raise Invalid(
            f"the natural key has {len(natural)} fields, the resource's key has {len(key)}: "
            f"{', '.join(key)}",
            code="DS-PROFILE-006",
            hint="name one field of the profile for each key field of the system, in its order",
        )
    if profile.identity.formerly and len(profile.identity.formerly) != len(key):
        raise Invalid(
            f"`formerly` has {len(profile.identity.formerly)} fields, the key {len(key)}",
            code="DS-PROFILE-006",
            hint="name one field for each key field of the system, in its order",
        )
    if own is not None:
        coming = _coming(con, mapped, section, relation, fields, key, caseless_key, own)
        before, relation = relation, f"rows_{section}_own"
        found = {name_: own.inventory(name_, coming) for name_ in sorted(own.lookups)}
        lookups.look_up(con, mapped, found, section, fields, before=before, after=relation)
        _check(con, mapped, section, relation, fields, [c for c in checks_ if c.field in mine])
    payload = _payload(con, relation, fields, profile.payload)
    keys = _keys(profile, fields, caseless_key)
    select = ["t.rid", "t._row", f"[{', '.join(keys.shown)}] AS _key", "t._needs AS needs"]
    select += [f"{sql} AS k{i}" for i, sql in enumerate(keys.joined)]
    select.append(f"{_lost(profile)} AS lost")
    former = profile.identity.formerly
    if former:
        olds = [text_of(fields[part]) for part in former]
        olds = [f"lower({sql})" if caseless_key else sql for sql in olds]
        blank = " OR ".join(f"coalesce({sql}, '') = ''" for sql in olds)
        alike = " AND ".join(f"{a} = {b}" for a, b in zip(olds, keys.joined, strict=True))
        select.append(
            f"CASE WHEN NOT ({blank}) AND NOT ({alike}) THEN [{', '.join(olds)}] END AS former"
        )
    select += [f"{column.sql} AS p{i}" for i, column in enumerate(payload.values())]
    view = f"desired_{section}"
    con.execute(f"CREATE VIEW {view} AS SELECT {', '.join(select)} FROM {relation} t")
    types = describe(con, f"FROM {view}")
    columns = {part: Column(f"p{i}", types[f"p{i}"]) for i, part in enumerate(payload)}
    unread = mapped.unread + _check_keys(con, mapped, section, view, len(natural))
    findings.drop_consequences(
        con, section, origins=_origins(profile, {}), cells=_origins(profile, mapped.headers)
    )
    blocked = f"blocked_{section}"
    con.execute(f"CREATE TABLE {blocked} AS {_BLOCKED.format(section=section)}")
    return Desired(
        mapped=mapped,
        section=section,
        relation=view,
        key=tuple(key),
        payload=columns,
        blocked=blocked,
        unread_keys=unread,
        unmanaged=_unmanaged(mapped),
        has_former=bool(former),
    )


def _unmanaged(mapped: Mapped) -> frozenset[str]:
    """Payload fields that are made of nothing but columns that the source does not have."""
    profile, absent = mapped.profile, set(mapped.absent)
    for field, entry in profile.resolve.items():
        lookup = entry.lookup or entry.lookup_many
        used = fields_of(lookup.using) if lookup else []
        if used and absent.issuperset(used):
            absent.add(field)
    made = {key: fields_of(json.dumps(value)) for key, value in profile.payload.items()}
    keys = profile.identity.natural_key
    return frozenset(
        key for key, used in made.items() if used and absent.issuperset(used) and key not in keys
    )


_BLOCKED = (
    "SELECT rid, CASE WHEN bool_or(severity = 'error') THEN 'error' ELSE 'skip' END AS status "
    "FROM findings WHERE section = {section} AND severity <> 'warn' AND rid IS NOT NULL "
    "GROUP BY rid"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    """SQL of the parts of a key, as they are shown and as they are joined on."""

    shown: Sequence[str]
    joined: Sequence[str]


def _keys(profile: Profile, fields: Mapping[str, Column], caseless: bool) -> _Keys:
    shown = []
    for part in profile.identity.natural_key:
        made = profile.payload.get(part)
        if made is None:
            shown.append(text_of(fields[part]))
            continue
        field = whole(made)
        column = fields[field] if field else Column(compose(made, fields))
        shown.append(text_of(column))
    return _Keys(shown=shown, joined=[f"lower({sql})" if caseless else sql for sql in shown])


def _lost(profile: Profile) -> str:
    """SQL: a part of the row's key is a lookup that found nothing."""
    made = (whole(profile.payload.get(part)) or part for part in profile.identity.natural_key)
    missed = [f"coalesce(len(t.{name('_missing_' + key)}), 0) > 0"
              for key in made if key in profile.resolve]  # fmt: skip
    return f"({' OR '.join(missed) or 'false'})"


def _coming(
    con: duckdb.DuckDBPyConnection,
    mapped: Mapped,
    section: int,
    relation: str,
    fields: Mapping[str, Column],
    key: Sequence[str],
    caseless: bool,
    own: Own,
) -> str | None:
    """The records that rows of this profile will create, as `lookups.inventory` takes them.

    A row that is withheld creates nothing; nor does one that a lookup among these would withhold.
    """
    if not own.may_create:
        return None
    profile = mapped.profile
    keys = _keys(profile, fields, caseless)
    used = {name_: profile.resolve[name_] for name_ in sorted(own.lookups)}
    needed = {part for one in used.values() if (lookup := one.lookup or one.lookup_many)
              for part in (lookup.by, *([] if one.take == "id" else [one.take]))}  # fmt: skip
    made = {part: profile.payload[part] for part in sorted(needed) if part in profile.payload}
    # What is made of a lookup among these cannot be known before it.
    made = {part: value for part, value in made.items()
            if own.lookups.isdisjoint(fields_of(json.dumps(value)))}  # fmt: skip
    objects = ", ".join(
        f"{literal(part)}, to_json({column.sql})"
        for part, column in _payload(con, relation, fields, made).items()
    )
    table = f"coming_{section}"
    joined = ", ".join(f"{sql} AS k{i}" for i, sql in enumerate(keys.joined))
    con.execute(
        f"CREATE TABLE {table} AS SELECT t.rid, 'create' AS action, {joined}, "
        f"[{', '.join(keys.shown)}] AS key, json_object({objects}) AS payload FROM {relation} t "
        f"WHERE t.rid NOT IN (SELECT rid FROM ({_BLOCKED.format(section=section)}))"
    )
    parts = [f"k{i}" for i in range(len(key))]
    blank = " OR ".join(f"coalesce({part}, '') = ''" for part in parts)
    single = "min(rid)" if profile.identity.duplicates == "first" else "any_value(rid)"
    single = f"SELECT {single} FROM {table} GROUP BY {', '.join(parts)}"
    if profile.identity.duplicates != "first":
        single += " HAVING count(*) = 1"
    con.execute(f"DELETE FROM {table} WHERE {blank} OR rid NOT IN ({single})")
    if own.file is not None:
        columns = ", ".join(f"{literal(part)}: 'VARCHAR'" for part in own.key)
        there = ", ".join(f"lower({name(p)})" if caseless else name(p) for p in own.key)
        con.execute(
            f"DELETE FROM {table} WHERE ({', '.join(parts)}) IN (SELECT ({there}) FROM "
            f"read_json({literal(str(own.file))}, columns={{{columns}}}, "
            f"format='newline_delimited', maximum_object_size={lookups.MAX_RECORD_BYTES}))"
        )
    if all(one.on_missing in ("warn", "ignore") for one in used.values()):
        return table
    round_ = 0
    while True:
        round_ += 1
        # A row that is withheld for want of another one may be what a third one wants.
        found = {n: own.inventory(n, table, f"_try{round_}") for n in used}
        after = f"rows_{section}_try{round_}"
        lookups.look_up(
            con, mapped, found, section, dict(fields), before=relation, after=after, quiet=True
        )
        lost = " OR ".join(
            f"len(_missing_{n}) > 0" if one.on_missing not in ("warn", "ignore") else "false"
            for n, one in used.items()
        )
        rows = con.execute(
            f"DELETE FROM {table} WHERE rid IN (SELECT rid FROM {after} WHERE {lost})"
        ).fetchall()
        if not rows[0][0]:
            return table


def _origins(profile: Profile, headers: Mapping[str, str]) -> dict[str, set[str]]:
    """Field -> the fields that it is made from, directly or not, or that share a header."""
    origins: dict[str, set[str]] = {}
    for field, entry in profile.mapping.items():
        origins[field] = {*fields_of(entry.expr or ""), *(entry.zip or {}).values()}
        header = headers.get(field)
        origins[field] |= {near for near in origins if header and headers.get(near) == header}
        origins[field].discard(field)
    for field, resolve in profile.resolve.items():
        lookup = resolve.lookup or resolve.lookup_many
        origins[field] = set(fields_of(lookup.using)) if lookup else set()
    for made_from in origins.values():
        # A field is mapped after those that it is made from, so their origins are complete.
        made_from |= {far for near in made_from for far in origins.get(near, ())}
    return origins


def _check(
    con: duckdb.DuckDBPyConnection,
    mapped: Mapped,
    section: int,
    relation: str,
    fields: Mapping[str, Column],
    prechecks: Iterable[Check],
) -> None:
    """Run these prechecks and note their offenders."""
    asked = [(check, _offence(mapped, check, fields)) for check in prechecks]
    # Most find nothing, and one statement tells that of all of them.
    plain = [offence.condition for _, offence in asked if not _is_windowed(offence)]
    counts = ", ".join(f"count_if({condition})" for condition in plain)
    found = con.execute(f"SELECT {counts} FROM {relation} t").fetchall()[0] if plain else ()
    offends = dict(zip(plain, found, strict=True))
    for check, offence in asked:
        if not offends.get(offence.condition, True):
            continue
        message, resolved = offence.message, mapped.profile.resolve.get(check.field or "")
        if check.message:
            own: dict[str, Column] = {}
            if _is_lookup(check, resolved) and check.field:
                own = {"missing": Column(lookups.missing_names(check.field, "t"))}
            message = template(check.message, {**fields, **own})
        clause = "QUALIFY" if _is_windowed(offence) else "WHERE"
        made = con.execute(
            f"CREATE OR REPLACE TEMP TABLE offenders AS SELECT t.rid, {message} AS message "
            f"FROM {relation} t {clause} {offence.condition}"
        ).fetchall()
        if made == [(0,)]:
            continue
        findings.note(
            con, mapped, section,
            source=f"FROM offenders o JOIN {mapped.table} t ON t.rowid = o.rid",
            severity=check.severity,
            code=f"DS-CHECK-{check.type.upper().replace('_', '-')}",
            message="o.message",
            field=check.field if resolved is None else lookups.used_field(resolved),
        )  # fmt: skip


def _offence(mapped: Mapped, check: Check, fields: Mapping[str, Column]) -> checks.Offence:
    """What a row must not be like, and what is said of it; rows have the alias `t`."""
    resolved = mapped.profile.resolve.get(check.field or "")
    if _is_lookup(check, resolved) and resolved is not None and check.field:
        return checks.Offence(
            condition=f"len(t.{name('_missing_' + check.field)}) > 0",
            message=lookups.missing_message(check.field, resolved, "t"),
        )
    entry, parameters = checks.CATALOGUE[check.type], dict(check.model_extra or {})
    if check.type != "sql":
        return entry(check.field or "", fields[check.field or ""], **parameters)
    from dsync import expressions

    parameters["where"] = expressions.check_expression(
        parameters["where"], columns=list(fields), alias="t"
    )
    offence = entry("", Column("NULL"), **parameters)
    return replace(offence, condition=f"({offence.condition}) IS NOT TRUE")


def _is_lookup(check: Check, resolved: Resolve | None) -> bool:
    return check.type.startswith("must_exist") and resolved is not None and bool(check.field)


def _is_windowed(offence: checks.Offence) -> bool:
    return " OVER (" in offence.condition


def _check_keys(
    con: duckdb.DuckDBPyConnection, mapped: Mapped, section: int, view: str, parts: int
) -> int:
    """Rows without a key, and rows that share one, are withheld; the number without is given."""
    keys = ", ".join(f"d.k{i}" for i in range(parts))
    blank = " OR ".join(f"coalesce(d.k{i}, '') = ''" for i in range(parts))
    nothing = blank.replace(" OR ", " AND ")
    field = mapped.profile.identity.natural_key[0]
    is_none = mapped.profile.identity.without_key == "ignore"
    keeps_first = mapped.profile.identity.duplicates == "first"
    join = f"JOIN {mapped.table} t ON t.rowid = d.rid"
    # What a lookup did not find in a complete listing can be the name of no existing record.
    unnamed = f"({blank}) AND NOT d.lost"
    unread = count(con, f"FROM {view} d WHERE {unnamed}")
    if unread:
        findings.note(
            con, mapped, section,
            source=f"FROM {view} d {join} WHERE {unnamed}",
            severity="error",
            code="DS-KEY-EMPTY",
            message=literal("the row has no key: "
                            f"{', '.join(mapped.profile.identity.natural_key)} is empty"),
            field=field,
            hint="fill the cell"
            if is_none else "fill the cell; nothing is pruned while a key cannot be read",
        )  # fmt: skip
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE twins AS SELECT {keys} FROM {view} d WHERE NOT ({blank}) "
        f"GROUP BY {keys} HAVING count(*) > 1"
    )
    if count(con, "FROM twins"):
        using = ", ".join(f"k{i}" for i in range(parts))
        rows = f"(SELECT {using}, list(_row ORDER BY _row) AS rows_, min(rid) AS first FROM {view} "
        rows += f"SEMI JOIN twins USING ({using}) GROUP BY {using})"
        others = " WHERE d.rid <> w.first" if keeps_first else ""
        findings.note(
            con, mapped, section,
            source=f"FROM {view} d JOIN {rows} w USING ({using}) {join}{others}",
            severity="error",
            code="DS-KEY-DUP",
            message="'rows ' || array_to_string(w.rows_[:5], ', ') || "
            "CASE WHEN len(w.rows_) > 5 THEN ', …' ELSE '' END || ' have the same key: ' || "
            "array_to_string(d._key, ' / ')",
            field=field,
            hint="keep one of them; the first one counts"
            if keeps_first else "keep one of them; all are withheld until then",
        )  # fmt: skip
    con.execute(
        f"UPDATE findings SET key = CASE WHEN {nothing} THEN [] "
        "ELSE list_transform(d._key, lambda part: coalesce(part, '')) END "
        f"FROM {view} d WHERE findings.section = {section} AND findings.rid = d.rid"
    ) if count(con, f"FROM findings WHERE section = {section} AND rid IS NOT NULL") else None
    return 0 if is_none else unread


def _payload(
    con: duckdb.DuckDBPyConnection,
    relation: str,
    fields: Mapping[str, Column],
    payload: Mapping[str, Any],
) -> dict[str, Column]:
    """The payload's fields: a text that is one `${field}` keeps its type."""
    return {key: Column(compose(value, fields)) if not (w := whole(value)) else fields[w]
            for key, value in payload.items()}  # fmt: skip
