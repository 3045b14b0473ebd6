"""One comparable form of a field, on both sides: types met, normalisers applied to either alike.

The desired side is typed, the existing side is what the API's JSON says. Scalars meet as texts, as
an API may give `90` or `"90"`; what looks different as a text may still be alike as a number or a
time. Nested values meet in the shape of the desired ones: what only the API has is not compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsync import checks
from dsync.sql import count, literal, name
from dsync.transforms import Column

if TYPE_CHECKING:
    import duckdb

    from dsync.desired import Desired
    from dsync.profile import Diff


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One payload field on both sides: SQL of what is compared, what is shown, what is sent."""

    name: str
    index: int
    column: Column
    desired: str
    existing: str
    unread: str
    """SQL: the existing value is there, but not of the desired type"""
    alike: str
    """SQL: equal all the same, though their forms differ (`1.0` and `1`)"""
    raw: str
    """the type in which the existing value is read"""
    shown: str
    """SQL of the existing value as JSON"""
    condition: str
    """SQL: is it compared at all in this row?"""

    @property
    def always(self) -> bool:
        return self.condition == "true"

    @property
    def differs(self) -> str:
        """SQL: the values differ."""
        same = f"({self.desired} IS NOT DISTINCT FROM {self.existing} AND NOT ({self.unread}))"
        if self.alike != "false":
            same = f"({same} OR coalesce({self.alike}, false))"
        return f"NOT {same}" if self.always else f"({self.condition} AND NOT {same})"


def fields(
    con: duckdb.DuckDBPyConnection,
    desired: Desired,
    diff: Diff,
    *,
    ignored: frozenset[str],
    unknown_if_absent: frozenset[str],
    omit_empty: frozenset[str],
) -> list[Field]:
    """The payload fields that are compared; `ignored` ones are sent only."""
    result = []
    for index, (key, column) in enumerate(desired.payload.items()):
        if key in diff.ignore_fields or key in ignored:
            continue
        d = Column(f"d.p{index}", column.type)
        raw = f"e.f{index}"
        mine, theirs, alike, raw_type, shown = _comparable(con, desired, d, raw)
        unread = "false" if theirs == raw else f"({raw} IS NOT NULL AND {theirs} IS NULL)"
        normal = [_normalise(key, sql, d, diff) for sql in (mine, theirs)]
        conditions = []
        if key in omit_empty:
            conditions.append(f"NOT ({checks.empty(d)})")
        if key in unknown_if_absent:
            conditions.append(f"{raw} IS NOT NULL")
        result.append(
            Field(
                name=key,
                index=index,
                column=d,
                desired=normal[0],
                existing=normal[1],
                unread=unread,
                alike=alike,
                raw=raw_type,
                shown=shown,
                condition=" AND ".join(conditions) or "true",
            )
        )
    return result


def _comparable(
    con: duckdb.DuckDBPyConnection, desired: Desired, d: Column, raw: str
) -> tuple[str, str, str, str, str]:
    """SQL of both sides in one type: (desired, existing, alike, type to read, JSON to show).

    Scalars are compared as texts, as the API may give `90` or `"90"`; what looks different as a
    text may still be `alike` as a number or a time.
    """
    number = f"try_cast({raw} AS DECIMAL(38, 9))"
    as_text = f"to_json({raw})"
    as_number = f"CASE WHEN {number} IS NULL THEN to_json({raw}) ELSE {raw}::JSON END"
    kind = d.type.partition("(")[0]
    if d.type == "VARCHAR":
        return d.sql, raw, "false", "VARCHAR", as_text
    if kind in _INTEGERS:
        return f"{d.sql}::VARCHAR", raw, f"{number} = {d.sql}", "VARCHAR", as_number
    if kind in ("DOUBLE", "FLOAT", "DECIMAL"):
        return (
            f"{d.sql}::DOUBLE", f"try_cast({raw} AS DOUBLE)", "false", "VARCHAR", as_number,
        )  # fmt: skip
    if kind == "BOOLEAN":
        shown = f"CASE WHEN {raw} IN ('true', 'false') THEN {raw}::JSON ELSE to_json({raw}) END"
        return f"{d.sql}::VARCHAR", raw, f"lower({raw}) = {d.sql}::VARCHAR", "VARCHAR", shown
    if kind in ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"):
        alike = f"try_cast({raw} AS TIMESTAMP) = {d.sql}::TIMESTAMP"
        return f"{d.sql}::VARCHAR", raw, alike, "VARCHAR", as_text
    if d.type == "JSON[]":
        theirs = f"""from_json({raw}, '["JSON"]')::VARCHAR[]"""
        return f"{d.sql}::VARCHAR[]", theirs, "false", "JSON", raw
    if d.type == "JSON":
        shape = _shape_of_json(con, desired, d)
        both = [f"from_json({sql}, {literal(shape)})" for sql in (d.sql, raw)]
        return both[0], both[1], "false", "JSON", raw
    shape, type_ = _shape_of_type(d.type)
    return f"{d.sql}::{type_}", f"from_json({raw}, {literal(shape)})", "false", "JSON", raw


_INTEGERS = frozenset(
    "TINYINT SMALLINT INTEGER BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT UHUGEINT".split()
)


def _normalise(key: str, sql: str, column: Column, diff: Diff) -> str:
    """SQL of a side after the normalisers that the profile names for the field."""
    text = column.type == "VARCHAR"
    is_list = column.is_list or column.type == "JSON"
    if key in diff.trim and text:
        sql = f"trim({sql})"
    if key in diff.caseless:
        sql = (
            f"list_transform({sql}, lambda _x_: lower(_x_))" if column.is_list else f"lower({sql})"
        )
    if key in diff.number and text:
        sql = f"coalesce(try_cast({sql} AS DOUBLE)::VARCHAR, {sql})"
    if key in diff.csv_as_sets and text:
        parts = f"list_transform(string_split({sql}, ','), lambda _x_: trim(_x_))"
        sql = f"array_to_string(list_sort(list_distinct({parts})), ',')"
    if key in diff.list_as_sets and is_list:
        sql = f"list_sort(list_distinct({sql}))"
    elif key in diff.unordered and is_list:
        sql = f"list_sort({sql})"
    if key in diff.empty_is_null:
        if text:
            sql = f"nullif({sql}, '')"
        elif is_list:
            sql = f"CASE WHEN len({sql}) > 0 THEN {sql} END"
    if key in diff.default:
        value = diff.default[key]
        value = str(value).lower() if isinstance(value, bool) else value
        sql = f"coalesce({sql}, {literal(value)})"
    return sql


def _shape_of_type(type_: str) -> tuple[str, str]:
    """A nested DuckDB type with all its leaves as texts: (as a shape for from_json, as a type)."""
    tree = _parse_type(type_)
    return _shape(tree), _type(tree)


def _parse_type(type_: str) -> Any:
    """`STRUCT(a BIGINT, b VARCHAR[])[]` -> [{"a": "VARCHAR", "b": ["VARCHAR"]}]."""
    type_ = type_.strip()
    if type_.endswith("[]"):
        return [_parse_type(type_[:-2])]
    if not type_.startswith("STRUCT("):
        return "JSON" if type_ == "JSON" else "VARCHAR"
    parts: dict[str, Any] = {}
    depth, start, quoted = 0, 0, False
    body = type_[len("STRUCT(") : -1]
    for index, char in enumerate(body + ","):
        if char == '"':
            quoted = not quoted
        elif not quoted and char in "([":
            depth += 1
        elif not quoted and char in ")]":
            depth -= 1
        elif char == "," and not depth and not quoted:
            part = body[start:index].strip()
            start = index + 1
            if part.startswith('"'):
                end = part.index('" ', 1)
                parts[part[1:end].replace('""', '"')] = _parse_type(part[end + 2 :])
            else:
                key, _, rest = part.partition(" ")
                parts[key] = _parse_type(rest)
    return parts


def _shape(tree: Any) -> str:

    return json.dumps(tree)


def _type(tree: Any) -> str:
    if isinstance(tree, list):
        return f"{_type(tree[0])}[]"
    if isinstance(tree, dict):
        return f"STRUCT({', '.join(f'{name(key)} {_type(part)}' for key, part in tree.items())})"
    return str(tree)


def _shape_of_json(con: duckdb.DuckDBPyConnection, desired: Desired, d: Column) -> str:
    """The shape of a JSON column, with texts as leaves, as found in the desired rows.

    A sample is tried first; if a row does not fit it, all rows are asked. Keys that only the
    existing record has are not compared: the API may add fields.
    """

    found = ""
    for sample in (" LIMIT 2000", ""):
        query = f"SELECT {d.sql} AS j FROM {desired.relation} d WHERE {d.sql} IS NOT NULL{sample}"
        rows: list[tuple[str | None]] = con.execute(
            f"SELECT json_group_structure(j) FROM ({query})"
        ).fetchall()
        tree = json.loads(rows[0][0] or '"JSON"')
        found = json.dumps(_text_leaves(tree))
        if not sample:
            break
        misfits = count(
            con,
            f"FROM {desired.relation} d WHERE {d.sql} IS NOT NULL AND {d.sql}::VARCHAR <> 'null' "
            f"AND try(from_json_strict({d.sql}, {literal(found)})) IS NULL",
        )
        if not misfits:
            break
    return found


def _text_leaves(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_text_leaves(tree[0])] if tree else ["JSON"]
    if isinstance(tree, dict):
        return {key: _text_leaves(part) for key, part in tree.items()} or "JSON"
    return "JSON" if tree in ("JSON", "NULL") else "VARCHAR"
