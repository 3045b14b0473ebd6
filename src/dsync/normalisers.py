"""One comparable form of a field, on both sides: types met, normalisers applied to either alike.

The desired side is typed, the existing side is what the API's JSON says. Scalars meet as texts, as
an API may give `90` or `"90"`; what looks different as a text may still be alike as a number or a
time. Nested values meet in the shape of the desired ones: what only the API has is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsync import checks
from dsync.sql import count, literal, name, pointer
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
    is_hidden: bool = False
    """the existing side is what we sent last, not what the API shows"""

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
    synonyms: Mapping[str, Mapping[str, str]],
) -> list[Field]:
    """The payload fields that are compared; `ignored` ones are sent only."""
    result = []
    for index, (key, column) in enumerate(desired.payload.items()):
        if key in diff.ignore_fields or key in ignored:
            continue
        d = Column(f"d.p{index}", column.type)
        raw = f"e.f{index}"
        pair = _comparable(con, desired, d, raw)
        unread = "false" if pair.theirs == raw else f"({raw} IS NOT NULL AND {pair.theirs} IS NULL)"
        normal = [_normalise(key, sql, pair.form, d, diff) for sql in (pair.mine, pair.theirs)]
        if (same := synonyms.get(key)) and pair.form == "VARCHAR":
            normal = [_same(sql, same) for sql in normal]
        alike = pair.alike
        if key in diff.overlap:
            mine, theirs = (f"try_cast({sql} AS VARCHAR[])" for sql in normal)
            alike = f"list_has_any({mine}, {theirs})"
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
                raw=pair.read,
                shown=pair.shown,
                condition=" AND ".join(conditions) or "true",
            )
        )
    return result


def hidden(desired: Desired, key: str, salt: str) -> Field:
    """A field that the API never shows, compared by the digest of what was sent last.

    Where nothing was sent yet that we know of, it is not compared.
    """
    index = list(desired.payload).index(key)
    column = Column(f"d.p{index}", desired.payload[key].type)
    text = f"{column.sql}::VARCHAR"
    if "JSON" in column.type or column.type.endswith("[]") or column.type.startswith("STRUCT"):
        text = f"to_json({column.sql})::VARCHAR"
    return Field(
        name=key,
        index=index,
        column=column,
        desired=f"sha256({literal(salt)} || coalesce({text}, 'null'))",
        existing=f"e.f{index}",
        unread="false",
        alike="false",
        raw="VARCHAR",
        shown="NULL::JSON",
        condition=f"e.f{index} IS NOT NULL",
        is_hidden=True,
    )


def _same(sql: str, synonyms: Mapping[str, str]) -> str:
    """SQL of a text, or of the one that stands for all its synonyms."""
    pairs = ", ".join(f"{literal(one)}: {literal(first)}" for one, first in synonyms.items())
    return f"coalesce(MAP {{{pairs}}}[lower(trim({sql}))], {sql})"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """SQL of both sides in one type, whose form is a tree of lists, objects and leaves."""

    mine: str
    theirs: str
    form: Any
    """`VARCHAR`, `DOUBLE`, `JSON`, [form of an item], or {key: form}"""
    shown: str
    """SQL of the existing value as JSON"""
    alike: str = "false"
    read: str = "VARCHAR"
    """the type in which the existing value is read"""


def _comparable(con: duckdb.DuckDBPyConnection, desired: Desired, d: Column, raw: str) -> _Pair:
    """Both sides in one type.

    Scalars are compared as texts, as the API may give `90` or `"90"`; what looks different as a
    text may still be `alike` as a number or a time.
    """
    number = f"try_cast({raw} AS DECIMAL(38, 9))"
    as_text = f"to_json({raw})"
    as_number = f"CASE WHEN {number} IS NULL THEN to_json({raw}) ELSE {raw}::JSON END"
    kind = d.type.partition("(")[0]
    text = f"{d.sql}::VARCHAR"
    if d.type == "VARCHAR":
        return _Pair(mine=d.sql, theirs=raw, form="VARCHAR", shown=as_text)
    if kind in _INTEGERS:
        same = f"{number} = {d.sql}"
        return _Pair(mine=text, theirs=raw, form="VARCHAR", shown=as_number, alike=same)
    if kind in _FLOATS and not d.is_list:
        theirs = f"try_cast({raw} AS DOUBLE)"
        return _Pair(mine=f"{d.sql}::DOUBLE", theirs=theirs, form="DOUBLE", shown=as_number)
    if kind == "BOOLEAN":
        shown = f"CASE WHEN {raw} IN ('true', 'false') THEN {raw}::JSON ELSE to_json({raw}) END"
        same = f"lower({raw}) = {text}"
        return _Pair(mine=text, theirs=raw, form="VARCHAR", shown=shown, alike=same)
    if kind in ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"):
        same = f"try_cast({raw} AS TIMESTAMP) = {d.sql}::TIMESTAMP"
        return _Pair(mine=text, theirs=raw, form="VARCHAR", shown=as_text, alike=same)
    if "JSON" in d.type:
        d = Column(d.sql if d.type == "JSON" else f"to_json({d.sql})", "JSON")
        form = _form_of_json(con, desired, d)
        mine = f"from_json({d.sql}, {literal(json.dumps(form))})"
    else:
        form = _parse_type(d.type)
        mine = f"{d.sql}::{_type(form)}"
    theirs = f"from_json({raw}, {literal(json.dumps(form))})"
    return _Pair(mine=mine, theirs=theirs, form=form, shown=raw, read="JSON")


_FLOATS = frozenset(("DOUBLE", "FLOAT", "DECIMAL"))
_INTEGERS = frozenset(
    "TINYINT SMALLINT INTEGER BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT UHUGEINT".split()
)


def _normalise(key: str, sql: str, form: Any, column: Column, diff: Diff) -> str:
    """SQL of a side after the normalisers that the profile names for the field.

    A normaliser that means nothing for the form, such as `trim` for a number, does nothing.
    """
    text = column.type == "VARCHAR"
    if key in diff.trim and text:
        sql = f"trim({sql})"
    if key in diff.caseless and form == "VARCHAR":
        sql = f"lower({sql})"
    elif key in diff.caseless and form == ["VARCHAR"]:
        sql = f"list_transform({sql}, lambda _x_: lower(_x_))"
    if key in diff.number and text:
        sql = f"coalesce(try_cast({sql} AS DOUBLE)::VARCHAR, {sql})"
    for inner in sorted(diff.list_as_sets, key=len, reverse=True):
        if inner.startswith(f"{key}."):
            sql = _inside(sql, form, inner.split(".")[1:])
    if key in diff.csv_as_sets and text:
        parts = f"list_transform(string_split({sql}, ','), lambda _x_: trim(_x_))"
        sql = f"array_to_string(list_sort(list_distinct({parts})), ',')"
    if key in diff.list_as_sets:
        sql = _sorted(sql, form, lambda items: f"list_sort(list_distinct({items}))")
    elif key in diff.unordered:
        sql = _sorted(sql, form, lambda items: f"list_sort({items})")
    if key in diff.empty_is_null:
        if text:
            sql = f"nullif({sql}, '')"
        elif isinstance(form, list):
            sql = f"CASE WHEN len({sql}) > 0 THEN {sql} END"
        elif form == "JSON":
            sql = f"CASE WHEN NOT ({checks.empty(Column(sql, 'JSON'))}) THEN {sql} END"
    if key in diff.default:
        sql = f"coalesce({sql}, {_default(diff.default[key], form)})"
    return sql


def _inside(sql: str, form: Any, path: list[str], depth: int = 0) -> str:
    """SQL with the list at `path` below a list or an object as a set; other forms stay as is."""
    if isinstance(form, list):
        if not path and not isinstance(form[0], list):
            return f"list_sort(list_distinct({sql}))"
        one = f"_n{depth}_"
        return f"list_transform({sql}, lambda {one}: {_inside(one, form[0], path, depth + 1)})"
    if not isinstance(form, dict) or not path or path[0] not in form:
        return sql
    parts = []
    for key, below in form.items():
        value = f"struct_extract({sql}, {literal(key)})"
        if key == path[0]:
            value = _inside(value, below, path[1:], depth)
        parts.append(f"{name(key)} := {value}")
    return f"CASE WHEN {sql} IS NOT NULL THEN struct_pack({', '.join(parts)}) END"


def _sorted(sql: str, form: Any, order: Callable[[str], str]) -> str:
    if isinstance(form, list):
        return order(sql)
    if form != "JSON":
        return sql
    # Some rows have a list and others have something else: each value is asked.
    items = f"""from_json({sql}, '["JSON"]')::VARCHAR[]"""
    return f"CASE json_type({sql}) WHEN 'ARRAY' THEN to_json({order(items)}) ELSE {sql} END"


def _default(value: Any, form: Any) -> str:
    """What null means, as SQL in the form that is compared."""
    if form == "VARCHAR":
        return literal(str(value).lower() if isinstance(value, bool) else str(value))
    if form == "DOUBLE":
        return f"try_cast({literal(str(value))} AS DOUBLE)"
    return f"from_json({literal(json.dumps(value))}, {literal(json.dumps(form))})"


def _parse_type(type_: str) -> Any:
    """`STRUCT(a BIGINT, b DOUBLE[])[]` -> [{"a": "VARCHAR", "b": ["DOUBLE"]}]."""
    type_ = type_.strip()
    if type_.endswith("[]"):
        return [_parse_type(type_[:-2])]
    if not type_.startswith("STRUCT("):
        return "DOUBLE" if type_.partition("(")[0] in _FLOATS else "VARCHAR"
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


def _type(tree: Any) -> str:
    if isinstance(tree, list):
        return f"{_type(tree[0])}[]"
    if isinstance(tree, dict):
        return f"STRUCT({', '.join(f'{name(key)} {_type(part)}' for key, part in tree.items())})"
    return str(tree)


def _form_of_json(con: duckdb.DuckDBPyConnection, desired: Desired, d: Column) -> Any:
    """The form of a JSON column, as found in the desired rows.

    A sample is tried first; if a row does not fit it, all rows are asked. Keys that only the
    existing record has are not compared: the API may add fields.
    """
    found: Any = "JSON"
    for sample in (" LIMIT 2000", ""):
        query = f"SELECT {d.sql} AS j FROM {desired.relation} d WHERE {d.sql} IS NOT NULL{sample}"
        rows: list[tuple[str | None]] = con.execute(
            f"SELECT json_group_structure(j) FROM ({query})"
        ).fetchall()
        found = _leaves(con, query, json.loads(rows[0][0] or '"NULL"'), "$")
        if not sample:
            break
        misfits = count(
            con,
            f"FROM {desired.relation} d WHERE {d.sql} IS NOT NULL AND {d.sql}::VARCHAR <> 'null' "
            f"AND try(from_json_strict({d.sql}, {literal(json.dumps(found))})) IS NULL",
        )
        if not misfits:
            break
    return found


def _leaves(con: duckdb.DuckDBPyConnection, query: str, tree: Any, path: str) -> Any:
    """A structure as DuckDB tells it -> a form. `path` leads to it in the column `j` of `query`."""
    if isinstance(tree, list):
        return [_leaves(con, query, tree[0], f"{path}[*]")] if tree else ["JSON"]
    if isinstance(tree, dict):
        steps = {key: path + pointer(key)[1:] for key in tree}
        return {key: _leaves(con, query, tree[key], steps[key]) for key in tree} or "JSON"
    if tree == "DOUBLE":
        return "DOUBLE"
    if tree != "JSON":
        return "JSON" if tree == "NULL" else "VARCHAR"
    # Texts here and numbers there are still scalars; only with objects among them it is JSON.
    values = f"json_extract(j, {literal(path)})"
    if "[*]" in path:
        values = f"unnest({values})"
    nested = count(
        con, f"FROM (SELECT {values} AS v FROM ({query})) WHERE json_type(v) IN ('ARRAY', 'OBJECT')"
    )
    return "JSON" if nested else "VARCHAR"
