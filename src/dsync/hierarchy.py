"""Rows that rely on rows of the same profile: what is created first, and circles broken.

    boss ◀── lead ◀── clerk          depth 0, 1, 2: one wave each, the highest first
    a ◀──▶ b                         a is created without what names b, then b, then a is updated

Works on the table `changes_<section>` of `diff.compare`, set by set: as many statements as there
are depths and circles, however many rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dsync.diff import Ability, Compared, note, withhold
from dsync.model import REF_CLOSE, REF_OPEN
from dsync.sql import count, literal

if TYPE_CHECKING:
    import duckdb

    from dsync.desired import Desired


@dataclass(frozen=True, slots=True, kw_only=True)
class Ties:
    """How the rows of a profile rely on each other.

    `fields` are the payload fields that name another record, with the value that stands for none
    (None: the field is left out).
    """

    resource: str
    fields: Mapping[str, Any]
    update: Ability | None
    """None: a circle cannot be closed, as nothing may be updated"""
    by_id: bool = True
    """an update names its record by id"""
    id_part: int | None = None
    """the part of the key that is the id, if one is"""


def arrange(
    con: duckdb.DuckDBPyConnection, desired: Desired, compared: Compared, ties: Ties
) -> Compared:
    """Give each change its depth (a new column), and break circles.

    A change that relies on a record which is left out of the plan is left out, too.
    """
    table = compared.table
    con.execute(f"ALTER TABLE {table} ADD COLUMN depth INTEGER DEFAULT 0")
    counts = dict(compared.counts)
    own = f"list_filter(c.needs, lambda _n_: _n_ ->> '$[0]' = {literal(ties.resource)})"
    if not count(con, f"FROM {table} c WHERE len({own}) > 0"):
        return compared
    made = f"json_array({literal(ties.resource)}, key)::VARCHAR"
    while True:
        con.execute(
            "CREATE OR REPLACE TEMP TABLE ties AS SELECT c.rid AS child, p.rid AS parent "
            f"FROM (SELECT c.rid, unnest({own})::VARCHAR AS need FROM {table} c "
            "WHERE c.action <> 'delete') c LEFT JOIN "
            f"(SELECT rid, {made} AS made FROM {table} WHERE action = 'create') p "
            "ON p.made = c.need"
        )
        if not _left_out(con, desired, table, "parent IS NULL", counts,
                         "'relies on a record that is left out of this plan'"):  # fmt: skip
            break
    depth, broken = _depths(con, table)
    if broken and ties.update is None:
        rows = literal(broken) + "::BIGINT[]"
        why = "'relies on itself through others, and closing the circle needs an update'"
        _left_out(con, desired, table, f"list_contains({rows}, child)", counts, why)
        con.execute(f"ALTER TABLE {table} DROP COLUMN depth")
        return arrange(con, desired, replace(compared, counts=counts), ties)
    if broken:
        depth += 1
        _close(con, desired, table, ties, ties.update or Ability(), broken, depth)
        counts["update"] = counts.get("update", 0) + len(broken)
        counts["closing"] = len(broken)
    return replace(compared, counts=counts, depth=depth)


def _left_out(
    con: duckdb.DuckDBPyConnection,
    desired: Desired,
    table: str,
    condition: str,
    counts: dict[str, int],
    message: str,
) -> int:
    """Withhold the changes of some ties' children; gives their number."""
    con.execute(
        "CREATE OR REPLACE TEMP TABLE untied AS SELECT c.rid, c._row, c.key AS _key, c.action "
        f"FROM {table} c WHERE c.rid IN (SELECT child FROM ties WHERE {condition})"
    )
    actions: list[tuple[str]] = con.execute("SELECT action FROM untied").fetchall()
    if actions:
        con.execute(f"DELETE FROM {table} WHERE rid IN (SELECT rid FROM untied)")
        withhold(con, desired, "untied", "true", "DS-REF-LEFT-OUT", message,
                 "plan all rows, or take the row out of the source")  # fmt: skip
    for (action,) in actions:
        counts[action] -= 1
        counts["skip"] = counts.get("skip", 0) + 1
    return len(actions)


def _depths(con: duckdb.DuckDBPyConnection, table: str) -> tuple[int, list[int]]:
    """Set the column `depth`; gives the deepest, and the rows at which circles were broken."""
    con.execute("CREATE OR REPLACE TEMP TABLE waiting AS SELECT DISTINCT child AS rid FROM ties")
    broken: list[int] = []
    depth = 0
    while count(con, "FROM waiting"):
        con.execute(
            "CREATE OR REPLACE TEMP TABLE ready AS SELECT rid FROM waiting w WHERE NOT EXISTS "
            "(SELECT 1 FROM ties t JOIN waiting p ON p.rid = t.parent WHERE t.child = w.rid)"
        )
        if count(con, "FROM ready"):
            depth += 1
            con.execute(f"UPDATE {table} SET depth = {depth} WHERE rid IN (SELECT rid FROM ready)")
            con.execute("DELETE FROM waiting WHERE rid IN (SELECT rid FROM ready)")
            continue
        firsts = _in_circles(con)
        broken += firsts
        rows = literal(firsts) + "::BIGINT[]"
        con.execute(f"DELETE FROM ties WHERE list_contains({rows}, child)")
        con.execute(f"DELETE FROM waiting WHERE list_contains({rows}, rid)")
    return depth, broken


def _in_circles(con: duckdb.DuckDBPyConnection) -> list[int]:
    """The first row of each circle, of those that hang together by one tie a row."""
    con.execute(
        "CREATE OR REPLACE TEMP TABLE circle AS SELECT w.rid, min(t.parent) AS next "
        "FROM waiting w JOIN ties t ON t.child = w.rid JOIN waiting p ON p.rid = t.parent "
        "GROUP BY w.rid"
    )
    alone = "rid NOT IN (SELECT next FROM circle)"
    while count(con, f"FROM circle WHERE {alone}"):
        con.execute(f"DELETE FROM circle WHERE {alone}")
    # Each row looks twice as far as before, until it has seen its whole circle.
    con.execute("ALTER TABLE circle ADD COLUMN first BIGINT")
    con.execute("UPDATE circle SET first = rid")
    for _ in range(count(con, "FROM circle").bit_length()):
        con.execute(
            "CREATE OR REPLACE TEMP TABLE circle AS SELECT c.rid, n.next, "
            "least(c.first, n.first) AS first FROM circle c JOIN circle n ON n.rid = c.next"
        )
    rows: list[tuple[int]] = con.execute(
        "SELECT DISTINCT first FROM circle ORDER BY first"
    ).fetchall()
    return [first for (first,) in rows]


def _close(
    con: duckdb.DuckDBPyConnection,
    desired: Desired,
    table: str,
    ties: Ties,
    ability: Ability,
    broken: list[int],
    depth: int,
) -> None:
    """Create these rows without what they rely on, and update them when all is there."""
    rows = f"list_contains({literal(broken)}::BIGINT[], c.rid)"
    own = f"_n_ ->> '$[0]' = {literal(ties.resource)}"
    names = sorted(ties.fields)
    ref = "NULL"
    if ties.id_part is not None:
        ref = f"to_json(c.key[{ties.id_part + 1}])"
    elif ties.by_id:
        ref = (
            f"to_json({literal(REF_OPEN)} || json_array({literal(ties.resource)}, c.key, 'id')"
            f"::VARCHAR || {literal(REF_CLOSE)})"
        )
    made = f"json_array({literal(ties.resource)}, c.key)"
    after = _only("c.payload", names)
    payload = after
    if ability.send_all:
        gone = dict.fromkeys(sorted(ability.omit))
        payload = f"json_merge_patch(c.payload, {literal(json.dumps(gone))}::JSON)"
    blank = {key: value for key, value in ties.fields.items() if value is not None}
    before = literal(json.dumps({key: ties.fields[key] for key in names}))
    con.execute(
        f"INSERT INTO {table} SELECT c.rid * 4 + 1, 'update', c.rid, c._row, c.key, {ref}, "
        f"{literal(names)}::VARCHAR[], list_sort(list_append(c.needs, {made})), "
        f"{before}::JSON, {after}, {payload}, {depth} FROM {table} c WHERE {rows}"
    )
    gone = dict.fromkeys(names) | blank
    con.execute(
        f"UPDATE {table} AS c SET "
        f"payload = json_merge_patch(c.payload, {literal(json.dumps(gone))}::JSON), "
        f"needs = list_filter(c.needs, lambda _n_: NOT ({own})) "
        f"WHERE c.action = 'create' AND {rows}"
    )
    note(
        con, desired,
        source=f"FROM {desired.relation} d WHERE {rows.replace('c.rid', 'd.rid')}",
        severity="warn",
        code="DS-REF-CIRCLE",
        message="'relies on itself through others: it is created without "
        f"{', '.join(names)}, and gets it by an update at the end'",
        hint=None,
    )  # fmt: skip


def _only(payload: str, names: list[str]) -> str:
    """SQL of a JSON object with only these members of another one."""
    parts = ", ".join(
        f"{literal(key)}, {payload} -> {literal('$.' + json.dumps(key))}" for key in names
    )
    return f"json_object({parts})"
