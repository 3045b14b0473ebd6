"""Source rows -> what we want, and what is wrong with it.

Two steps, both columnar. `map_rows` maps and transforms, once for a profile: its table has `_row`
(BIGINT) and one typed column a field. `build` does what depends on the scope: lookups, checks,
payload and key; it gives one relation with these columns:

    rid BIGINT · _row BIGINT · _key VARCHAR[] · needs JSON[] · k0, k1, … VARCHAR ·
    p0, p1, … (payload fields)

Whatever is wrong with a row becomes a finding in the table `findings` (see `FINDINGS`), and the row
is *blocked*: it makes no change, but its key still counts as wanted.
"""

from __future__ import annotations

import difflib
import json as jsonlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsync import checks, expressions, transforms
from dsync.errors import Faults, Invalid, Place
from dsync.model import REF_CLOSE, REF_OPEN
from dsync.transforms import Column, literal, name

if TYPE_CHECKING:
    import duckdb

    from dsync.profile import Mapping_, Profile, Resolve, Step
    from dsync.sources import SourceTable

FINDINGS = """
CREATE TABLE IF NOT EXISTS findings (
    section BIGINT, severity VARCHAR, code VARCHAR, message VARCHAR, field VARCHAR, rid BIGINT,
    key VARCHAR[], place STRUCT(file VARCHAR, sheet VARCHAR, "row" BIGINT, cell VARCHAR),
    hint VARCHAR)
"""
_PLACE = 'STRUCT(file VARCHAR, sheet VARCHAR, "row" BIGINT, cell VARCHAR)'

_FIELD = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """Rows after mapping: the table, its fields' columns, and where each field's cells are."""

    profile: Profile
    section: int
    table: str
    row: str
    """SQL of the source's row number"""
    columns: Mapping[str, Column]
    source: SourceTable
    headers: Mapping[str, str]
    """field -> header of the source column that it comes from"""
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """A table to look names up in: `by` VARCHAR, `take` (any type), `made` JSON.

    Neither is unique. `made` is `[resource, key]` for a record that this plan creates.
    """

    resource: str
    relation: str
    take: str
    """the type of `take`"""


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


def map_rows(
    con: duckdb.DuckDBPyConnection,
    profile: Profile,
    tables: Mapping[str, SourceTable],
    *,
    section: int,
) -> Mapped:
    """Map and transform all rows of the source, and note what could not be transformed.

    Raises: Invalid when a column is missing, or a query or expression is not allowed.
    """
    source, relation, columns, row = _source(con, profile, tables)
    layers = _map_fields(con, profile, relation, columns)
    table = f"mapped_{section}"
    con.execute(f"CREATE TABLE {table} AS {layers.select(relation, row)}")
    fields, headers, faults = layers.fields, layers.headers, layers.faults
    rows = _count(con, f"FROM {table}")
    described = {
        key: Column(f"t.{name(key)}", type_)
        for key, type_ in _describe(con, f"FROM {table}").items()
        if key in fields
    }
    mapped = Mapped(
        profile=profile,
        section=section,
        table=table,
        row="t._row" if row is not None else "t.rowid + 2",
        columns=described,
        source=source,
        headers=headers,
        rows=rows,
    )
    if faults:
        _note_faults(con, mapped, faults)
    _note_bad_cells(con, mapped)
    _note_source_findings(con, mapped)
    return mapped


def build(
    con: duckdb.DuckDBPyConnection,
    mapped: Mapped,
    inventories: Mapping[str, Inventory],
    *,
    section: int,
    key: Sequence[str],
    caseless_key: bool = False,
) -> Desired:
    """What we want in one scope: lookups, checks, payload and key.

    `inventories` has one entry for each name in `profile.resolve`. `key` are the names of the
    key in the system; the profile's natural key gives their values, in the same order.
    """
    profile = mapped.profile
    if section != mapped.section:
        _copy_findings(con, mapped.section, section)
    relation, fields = _resolve(con, mapped, inventories, section)
    _check(con, mapped, section, relation, fields)
    payload = _payload(con, relation, fields, profile.payload)
    natural = profile.identity.natural_key
    if len(natural) != len(key):
        raise Invalid(
            f"the natural key has {len(natural)} fields, the resource's key has {len(key)}: "
            f"{', '.join(key)}",
            code="DS-PROFILE-006",
            hint="name one field of the profile for each key field of the system, in its order",
        )
    keys = [_text_of(payload.get(part) or fields[part]) for part in natural]
    select = ["t.rid", "t._row", f"[{', '.join(keys)}] AS _key", "t._needs AS needs"]
    joins = [f"lower({sql})" if caseless_key else sql for sql in keys]
    select += [f"{sql} AS k{i}" for i, sql in enumerate(joins)]
    select += [f"{column.sql} AS p{i}" for i, column in enumerate(payload.values())]
    view = f"desired_{section}"
    con.execute(f"CREATE VIEW {view} AS SELECT {', '.join(select)} FROM {relation} t")
    types = _describe(con, f"FROM {view}")
    columns = {
        part: Column(f"p{i}", types[f"p{i}"]) for i, part in enumerate(payload)
    }
    unread = _check_keys(con, mapped, section, view, len(keys))
    blocked = f"blocked_{section}"
    con.execute(
        f"CREATE TABLE {blocked} AS SELECT rid, "
        "CASE WHEN bool_or(severity = 'error') THEN 'error' ELSE 'skip' END AS status "
        f"FROM findings WHERE section = {section} AND severity <> 'warn' AND rid IS NOT NULL "
        "GROUP BY rid"
    )
    return Desired(
        mapped=mapped,
        section=section,
        relation=view,
        key=tuple(key),
        payload=columns,
        blocked=blocked,
        unread_keys=unread,
    )


# --- the source -----------------------------------------------------------------------------------


def _source(
    con: duckdb.DuckDBPyConnection, profile: Profile, tables: Mapping[str, SourceTable]
) -> tuple[SourceTable, str, dict[str, Column], str | None]:
    """The rows to map: (main table, relation, header -> column, name of the row column)."""
    main = next(iter(tables.values()))
    physical = {
        key: _with_blanks(con, table, profile.source.blank) for key, table in tables.items()
    }
    for wanted in profile.source.required:
        _column(profile, _plain_columns(con, physical[next(iter(tables))]), wanted)
    if profile.source.query is not None:
        select, row = expressions.check_query(
            profile.source.query,
            tables=physical,
            columns={
                key: list(_describe(con, f"FROM {name(table)}")) for key, table in physical.items()
            },
            optional=profile.source.optional,
            may_lack=profile.source.xlsx.sheets if profile.source.xlsx else (),
        )
        relation = "source_query"
        con.execute(f"CREATE OR REPLACE TEMP VIEW {relation} AS {select}")
        described = _describe(con, f"FROM {relation}")
    else:
        relation, row = name(physical[next(iter(tables))]), "_row"
        described = _describe(con, f"FROM {relation}")
        if "_row" not in described:
            row = None
    columns = {
        header: Column(f"s.{name(header)}", type_)
        for header, type_ in described.items()
        if header != row
    }
    return main, relation, columns, row


def _with_blanks(
    con: duckdb.DuckDBPyConnection, table: SourceTable, words: Sequence[str]
) -> str:
    """The table itself, or a view of it in which cells with one of `words` are blank."""
    if not words:
        return table.name
    low = literal([word.lower() for word in words])
    select = [
        f"CASE WHEN NOT list_contains({low}, lower(trim({name(header)}))) THEN {name(header)} END "
        f"AS {name(header)}"
        if type_ == "VARCHAR"
        else name(header)
        for header, type_ in _describe(con, f"FROM {name(table.name)}").items()
    ]
    view = f"{table.name}__blanks"
    con.execute(f"CREATE VIEW {name(view)} AS SELECT {', '.join(select)} FROM {name(table.name)}")
    return view


def _plain_columns(con: duckdb.DuckDBPyConnection, table: str) -> dict[str, Column]:
    return {
        header: Column(f"s.{name(header)}", type_)
        for header, type_ in _describe(con, f"FROM {name(table)}").items()
    }


def _find_header(columns: Iterable[str], wanted: str) -> str | None:
    """The header that is `wanted`, trimmed and without case."""
    folded = {_fold(header): header for header in columns}
    return folded.get(_fold(wanted))


def _fold(header: str) -> str:
    return " ".join(header.split()).casefold()


def _column(
    profile: Profile,
    columns: Mapping[str, Column],
    col: str | Sequence[str],
    *,
    optional: bool = False,
) -> str | None:
    """The header of the column `col`, or of the first of several; None if optional and missing."""
    names = [col] if isinstance(col, str) else list(col)
    for wanted in names:
        for alias in [wanted, *profile.source.columns.get(wanted, [])]:
            header = _find_header(columns, alias)
            if header is not None:
                return header
    if optional or any(_fold(n) in map(_fold, profile.source.optional) for n in names):
        return None
    headers = [header for header in columns if header != "_row"]
    near = difflib.get_close_matches(names[0], headers, n=3, cutoff=0.5)
    there = ", ".join(near or headers[:12])
    raise Invalid(
        f"the source has no column {' or '.join(names)}",
        code="DS-COL-MISSING",
        hint=("did you mean " if near else "its columns are ") + (there or "none at all"),
    )


# --- mapping --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fault:
    """A step that may fail: the condition that it did, the value it got, what it expects."""

    field: str
    condition: str
    value: str
    message: str


class _Layers:
    """Nested projections, so that each value is computed once, however often it is used.

    A column of one layer is read by its name in the layers above. Layer 0 reads the source.
    """

    def __init__(self) -> None:
        self.fields: dict[str, Column] = {}
        self.headers: dict[str, str] = {}
        self.faults: list[_Fault] = []
        self._layers: list[dict[str, str]] = [{}]
        self._depth: dict[str, int] = {}

    def hold(self, column: Column, *, after: Iterable[str] = ()) -> Column:
        """Compute the column in a layer above those of the names `after`; it is read by a name."""
        depth = 1 + max((self._depth[held] for held in after), default=-1)
        while len(self._layers) <= depth:
            self._layers.append({})
        held = f"_v{len(self._depth)}"
        self._layers[depth][held] = column.sql
        self._depth[held] = depth
        return Column(f"s.{held}", column.type)

    def select(self, relation: str, row: str | None) -> str:
        """The whole SELECT: `_row` (when the source has one), the fields, and `_faults`."""
        query = relation
        below: list[str] = []
        for layer in self._layers:
            parts = [f"s.{held}" for held in below]
            parts += [f"{sql} AS {held}" for held, sql in layer.items()]
            if row is not None:
                parts.insert(0, f"s.{name(row)}" if layer is not self._layers[0]
                             else f"s.{name(row)}::BIGINT AS {name(row)}")  # fmt: skip
            query = f"(SELECT {', '.join(parts)} FROM {query} s)"
            below += layer
        out = [f"{column.sql} AS {name(key)}" for key, column in self.fields.items()]
        if row is not None:
            out.insert(0, f"s.{name(row)} AS _row")
        if self.faults:
            out.append(f"{_fault_list(self.faults)} AS _faults")
        order = f" ORDER BY s.{name(row)}" if row is not None and row != "_row" else ""
        return f"SELECT {', '.join(out)} FROM {query} s{order}"


def _held(column: Column) -> list[str]:
    """The names of held columns that a column reads."""
    return re.findall(r"\bs\.(_v\d+)\b", column.sql)


def _map_fields(
    con: duckdb.DuckDBPyConnection,
    profile: Profile,
    relation: str,
    columns: Mapping[str, Column],
) -> _Layers:
    layers = _Layers()
    wrong: list[Invalid] = []
    for key, mapping in profile.mapping.items():
        try:
            column = _start(con, profile, relation, columns, layers, key, mapping)
            layers.fields[key] = _chain(column, mapping.transform, key, layers)
        except Invalid as fault:
            fault.where = fault.where or f"mapping.{key}"
            wrong.append(fault)
            layers.fields[key] = Column("NULL::VARCHAR")
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        raise Faults(wrong)
    return layers


def _start(
    con: duckdb.DuckDBPyConnection,
    profile: Profile,
    relation: str,
    columns: Mapping[str, Column],
    layers: _Layers,
    key: str,
    mapping: Mapping_,
) -> Column:
    """The column before its transforms, held."""
    if mapping.col is not None:
        header = _column(profile, columns, mapping.col, optional=mapping.optional)
        if header is None:
            return layers.hold(Column("NULL::VARCHAR"))
        layers.headers[key] = header
        return layers.hold(columns[header])
    if mapping.sql is not None:
        sql = expressions.check_expression(mapping.sql, columns=list(columns))
        type_ = _describe(con, f"SELECT {sql} AS x FROM {relation} s")["x"]
        return layers.hold(Column(f"({sql})", type_))
    if mapping.expr is not None:
        text = Column(_template(mapping.expr, layers.fields))
        return layers.hold(text, after=_held(text))
    if mapping.zip is not None:
        return _zip(key, mapping.zip, layers)
    return layers.hold(Column(*_constant(mapping.value)))


def _constant(value: Any) -> tuple[str, str]:
    if isinstance(value, dict | list):
        return f"{literal(jsonlib.dumps(value, sort_keys=True))}::JSON", "JSON"
    if isinstance(value, bool):
        return literal(value), "BOOLEAN"
    if isinstance(value, int):
        return f"{literal(value)}::BIGINT", "BIGINT"
    if isinstance(value, float):
        return f"{literal(value)}::DOUBLE", "DOUBLE"
    return f"{literal(value)}::VARCHAR", "VARCHAR"


def _chain(
    column: Column, steps: Sequence[str | Step], key: str, layers: _Layers | None
) -> Column:
    """The column after all its transforms; each checked step may add a fault.

    Without `layers` the transforms are nested in one expression, and their faults are blanks.
    """
    for step in steps:
        fn, parameters = (step, {}) if isinstance(step, str) else (step.fn, step.model_extra or {})
        transform = transforms.CATALOGUE.get(fn)
        if transform is None:
            near = difflib.get_close_matches(fn, transforms.CATALOGUE, n=1)
            raise Invalid(
                f"there is no transform {fn}",
                code="DS-PROFILE-002",
                hint=f"did you mean {near[0]}?" if near else "see docs/profiles.md",
            )
        after = transform(column, **parameters)
        if layers is not None and after != column:
            after = layers.hold(after, after=_held(column))
            if transform.checked:
                layers.faults.append(
                    _Fault(
                        field=key,
                        condition=f"{column.sql} IS NOT NULL AND {after.sql} IS NULL",
                        value=f"left(({column.sql})::VARCHAR, 200)",
                        message=f"{key}: not {transform.expects}",
                    )
                )
        column = after
    return column


def _zip(key: str, parts: Mapping[str, str], layers: _Layers) -> Column:
    """Aligned lists become a list of objects; lists of different lengths are a fault."""
    lists = {target: layers.fields[field] for target, field in parts.items()}
    for target, column in lists.items():
        if not column.is_list:
            raise Invalid(
                f"zip works on lists, and {parts[target]} is {column.type}",
                code="DS-PROFILE-005",
                hint=f"make a list of {parts[target]} first, such as with split",
            )
    items = ", ".join(f"{literal(target)}: ({c.sql})[_i_]" for target, c in lists.items())
    counts = [f"coalesce(len({column.sql}), 0)" for column in lists.values()]
    uneven = " OR ".join(f"{counts[0]} <> {count}" for count in counts[1:]) or "false"
    said = " || ', ' || ".join(
        f"{literal(parts[target] + ' has ')} || {count}"
        for target, count in zip(lists, counts, strict=True)
    )
    layers.faults.append(
        _Fault(field=key, condition=f"({uneven})", value=said, message=f"{key}: unequal lists")
    )
    # The cell to look at is that of the first list.
    first = next(iter(parts.values()))
    if first in layers.headers:
        layers.headers.setdefault(key, layers.headers[first])
    struct = ", ".join(f"{name(target)} {column.item}" for target, column in lists.items())
    made = Column(
        f"list_transform(generate_series(1, {counts[0]}), lambda _i_: {{{items}}})",
        f"STRUCT({struct})[]",
    )
    return layers.hold(made, after=[held for c in lists.values() for held in _held(c)])


def _template(text: str, fields: Mapping[str, Column]) -> str:
    """SQL of a text with `${field}`: a blank field leaves an empty text."""
    parts = []
    for index, part in enumerate(_FIELD.split(text)):
        if index % 2:
            parts.append(f"coalesce({_text_of(fields[part])}, '')")
        elif part:
            parts.append(literal(part))
    return f"({' || '.join(parts)})" if parts else "''"


def _text_of(column: Column) -> str:
    if column.type == "VARCHAR":
        return column.sql
    if column.type == "JSON":
        return f"({column.sql} ->> '$')"
    if column.is_list:
        return f"array_to_string({column.sql}::VARCHAR[], ',')"
    return f"({column.sql})::VARCHAR"


def _fault_list(faults: Sequence[_Fault]) -> str:
    """SQL of the row's faults: NULL for a good row, which costs next to nothing."""
    bad = " OR ".join(f"({fault.condition})" for fault in faults)
    items = ", ".join(
        f"CASE WHEN {fault.condition} THEN {{'f': {index}, 'v': {fault.value}}} END"
        for index, fault in enumerate(faults)
    )
    return f"CASE WHEN {bad} THEN list_filter([{items}], lambda _x_: _x_ IS NOT NULL) END"


# --- findings -------------------------------------------------------------------------------------


def _place(mapped: Mapped, field: str | None = None) -> str:
    """SQL of the place of a row (alias `t`), or of the cell of a field."""
    at = mapped.source.place(None)
    header = mapped.headers.get(field or "")
    letter = next((h.letter for h in mapped.source.headers if h.name == header), "")
    cell = "NULL"
    if letter:
        cell = f"{literal(letter)} || ({mapped.row})"
    elif header is not None and mapped.source.sheet is None:
        cell = literal(header)
    return (
        f"{{'file': {literal(at.file)}, 'sheet': {literal(at.sheet)}, "
        f"'row': {mapped.row}, 'cell': {cell}}}::{_PLACE}"
    )


def add_finding(
    con: duckdb.DuckDBPyConnection,
    section: int,
    *,
    severity: str,
    code: str,
    message: str,
    hint: str | None = None,
    place: Place | None = None,
) -> None:
    """Note one finding that is about no single row."""
    at = (
        f"{{'file': {literal(place.file)}, 'sheet': {literal(place.sheet)}, "
        f"'row': {literal(place.row)}, 'cell': {literal(place.cell)}}}::{_PLACE}"
        if place
        else "NULL"
    )
    con.execute(
        f"INSERT INTO findings SELECT {section}, ?, ?, ?, NULL, NULL, NULL, {at}, ?",
        [severity, code, message, hint],
    )


def _note(
    con: duckdb.DuckDBPyConnection,
    mapped: Mapped,
    section: int,
    *,
    source: str,
    severity: str,
    code: str,
    message: str,
    field: str | None = None,
    hint: str | None = None,
    rid: str = "t.rowid",
) -> None:
    """Note a finding for each row of `source` (a FROM clause with alias `t` for mapped rows)."""
    con.execute(
        f"INSERT INTO findings SELECT {section}, {literal(severity)}, {literal(code)}, {message}, "
        f"{literal(field)}, {rid}, NULL, {_place(mapped, field)}, {literal(hint)} {source}"
    )


def _note_faults(
    con: duckdb.DuckDBPyConnection, mapped: Mapped, faults: Sequence[_Fault]
) -> None:
    for index, fault in enumerate(faults):
        column = mapped.headers.get(fault.field)
        _note(
            con,
            mapped,
            mapped.section,
            source=f"FROM (SELECT rowid, *, unnest(_faults) AS _x FROM {mapped.table} "
            f"WHERE _faults IS NOT NULL) t WHERE t._x.f = {index}",
            severity="error",
            code="DS-ROW-VALUE",
            message=f"{literal(fault.message + ': ')} || t._x.v",
            field=fault.field,
            hint=f"correct the cell in column {column}" if column else "correct the row",
        )


def _note_bad_cells(con: duckdb.DuckDBPyConnection, mapped: Mapped) -> None:
    """Error cells and formulas never calculated, where a field uses their column."""
    fields = {header: field for field, header in mapped.headers.items()}
    for (row, header), message in sorted(mapped.source.bad_cells.items()):
        field = fields.get(header)
        if field is not None:
            _note(
                con,
                mapped,
                mapped.section,
                source=f"FROM {mapped.table} t WHERE {mapped.row} = {row}",
                severity="error",
                code=message.partition(":")[0] if message.startswith("DS-") else "DS-ROW-CELL",
                message=literal(
                    f"{field}: " + (message.partition(":")[2].strip()
                                    if message.startswith("DS-") else message)
                ),
                field=field,
                hint="correct the cell, let Excel calculate the sheet, and save it",
            )


def _note_source_findings(con: duckdb.DuckDBPyConnection, mapped: Mapped) -> None:
    """What the source itself found: about a row, or about the whole of it."""
    for finding in mapped.source.findings:
        if finding.row is None:
            add_finding(
                con, mapped.section, severity=finding.severity, code=finding.code,
                message=finding.message, hint=finding.hint, place=finding.place,
            )  # fmt: skip
        else:
            _note(
                con, mapped, mapped.section,
                source=f"FROM {mapped.table} t WHERE {mapped.row} = {finding.row}",
                severity=finding.severity,
                code=finding.code,
                message=literal(finding.message),
                hint=finding.hint,
            )  # fmt: skip


def _copy_findings(con: duckdb.DuckDBPyConnection, origin: int, section: int) -> None:
    """What is wrong with mapped rows is wrong in each scope."""
    con.execute(
        f"INSERT INTO findings SELECT {section}, * EXCLUDE (section) FROM findings "
        f"WHERE section = {origin}"
    )


# --- inventories ----------------------------------------------------------------------------------


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
) -> Inventory:
    """What a lookup joins: the records of a listing, and those that this plan creates.

    `creates` is the table of changes of the profile that writes `resource`, if one was planned
    before. The id of a record to come is a reference, filled in when its create is done.
    """
    parts = []
    if file is not None:
        columns = ", ".join(f"{literal(field)}: 'JSON'" for field in dict.fromkeys((by, take)))
        parts.append(
            f"SELECT {name(by)} ->> '$' AS by, {name(take)} AS take, NULL::JSON AS made "
            f"FROM read_json({literal(str(file))}, columns={{{columns}}}, "
            "format='newline_delimited', maximum_object_size=67108864)"
        )
    if creates is not None:
        made = f"json_array({literal(resource)}, key)"
        named = f"payload ->> {literal(_pointer(by))}"
        if by in key:
            named = f"coalesce({named}, key[{list(key).index(by) + 1}])"
        taken = f"payload -> {literal(_pointer(take))}"
        if is_id:
            token = (
                f"{literal(REF_OPEN)} || json_array({literal(resource)}, key, {literal('id')})"
                f"::VARCHAR || {literal(REF_CLOSE)}"
            )
            taken = f"to_json({token})"
        parts.append(
            f"SELECT {named} AS by, {taken} AS take, {made} AS made FROM {creates} "
            "WHERE action = 'create'"
        )
    parts = parts or ["SELECT NULL::VARCHAR AS by, NULL::JSON AS take, NULL::JSON AS made"]
    con.execute(f"CREATE TABLE {name(table)} AS {' UNION ALL '.join(parts)}")
    odd = _count(
        con, f"FROM {name(table)} WHERE take IS NOT NULL AND json_type(take) <> 'VARCHAR'"
    )
    if odd:
        return Inventory(resource=resource, relation=name(table), take="JSON")
    texts = f"(SELECT by, take ->> '$' AS take, made FROM {name(table)})"
    return Inventory(resource=resource, relation=texts, take="VARCHAR")


def _pointer(field: str) -> str:
    return '$."' + field.replace('"', '\\"') + '"'


# --- lookups --------------------------------------------------------------------------------------


def _resolve(
    con: duckdb.DuckDBPyConnection,
    mapped: Mapped,
    inventories: Mapping[str, Inventory],
    section: int,
) -> tuple[str, dict[str, Column]]:
    """The mapped rows with all lookups done: (relation with `rid` and `_row`, its fields)."""
    relation = f"rows_{section}"
    names = ", ".join(f"t.{name(key)}" for key in mapped.columns)
    base = (
        f"SELECT t.rowid AS rid, {mapped.row} AS _row, []::JSON[] AS _needs, {names} "
        f"FROM {mapped.table} t"
    )
    fields = {key: Column(f"t.{name(key)}", c.type) for key, c in mapped.columns.items()}
    if not mapped.profile.resolve:
        con.execute(f"CREATE VIEW {relation} AS {base}")
        return relation, fields
    con.execute(f"CREATE TABLE {relation}_0 AS {base}")
    for index, (key, entry) in enumerate(mapped.profile.resolve.items()):
        fields[key] = _look_up(
            con, f"{relation}_{index}", f"{relation}_{index + 1}", key, entry,
            inventories[key], fields,
        )  # fmt: skip
    con.execute(f"CREATE VIEW {relation} AS FROM {relation}_{len(mapped.profile.resolve)}")
    _note_misses(con, mapped, section, relation, inventories)
    return relation, fields


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
    names = using.sql if entry.lookup_many else f"[{_text_of(using)}]"
    if entry.lookup_many and not using.is_list:
        raise Invalid(
            f"resolve.{key}: lookup_many works on a list, and {lookup.using} is {using.type}",
            code="DS-PROFILE-005",
            where=f"resolve.{key}",
            hint="split the text first, or use lookup",
        )
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE inventory_now AS SELECT by, min(take) AS take, "
        "min(made) AS made, count(DISTINCT take) AS n, "
        "list(DISTINCT take::VARCHAR ORDER BY take::VARCHAR) AS all_ "
        f"FROM {inventory.relation} WHERE by IS NOT NULL GROUP BY by"
    )
    con.execute(
        "CREATE OR REPLACE TEMP TABLE inventory_case AS SELECT lower(by) AS low, "
        "min(by) AS near FROM inventory_now GROUP BY lower(by)"
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
        "LEFT JOIN inventory_now i ON i.by = u.one "
        "LEFT JOIN inventory_case c ON c.low = lower(u.one) "
        "WHERE u.one IS NOT NULL AND u.one <> '' GROUP BY u.rid"
    )
    if entry.lookup_many:
        value = Column(f"coalesce(f.vals, []::{inventory.take}[])", f"{inventory.take}[]")
    else:
        value = Column("f.vals[1]", inventory.take)
    value = _chain(value, entry.transform, key, None)
    sql = value.sql
    if entry.if_empty is not None:
        blank = checks.empty(using)
        sql = f"CASE WHEN {blank} THEN {_constant(entry.if_empty)[0]}::{value.type} ELSE {sql} END"
    con.execute(
        f"CREATE TABLE {after} AS SELECT t.* EXCLUDE (_needs), "
        f"list_concat(t._needs, coalesce(f.made, [])) AS _needs, {sql} AS {name(key)}, "
        f"f.missing AS {name('_missing_' + key)}, f.ambiguous AS {name('_ambiguous_' + key)} "
        f"FROM {before} t LEFT JOIN found f ON f.rid = t.rid ORDER BY t.rid"
    )
    return Column(f"t.{name(key)}", value.type)


def _using(text: str, fields: Mapping[str, Column]) -> Column:
    whole = _FIELD.fullmatch(text)
    if whole:
        return fields[whole[1]]
    return Column(_template(text, fields))


def _note_misses(
    con: duckdb.DuckDBPyConnection,
    mapped: Mapped,
    section: int,
    relation: str,
    inventories: Mapping[str, Inventory],
) -> None:
    """Ambiguous names always block; missing ones as the profile says, else they skip the row.

    A precheck on the lookup, or an `on_missing`, takes the place of that default.
    """
    checked = {c.field for c in mapped.profile.prechecks if c.type.startswith("must_exist")}
    join = f"FROM {relation} r JOIN {mapped.table} t ON t.rowid = r.rid"
    for key, entry in mapped.profile.resolve.items():
        where = f"in {entry.from_}"
        field = _using_field(entry)
        _note(
            con, mapped, section,
            source=f"{join} WHERE len(r.{name('_ambiguous_' + key)}) > 0",
            severity="error",
            code="DS-REF-AMBIGUOUS",
            message=f"{literal(f'{key}: several records {where} have the name ')} || "
            f"array_to_string(r.{name('_ambiguous_' + key)}, ', ')",
            field=field,
            hint="make the name unique there, or look it up by another field",
        )  # fmt: skip
        if key in checked and entry.on_missing is None:
            continue
        _note(
            con, mapped, section,
            source=f"{join} WHERE len(r.{name('_missing_' + key)}) > 0",
            severity=entry.on_missing or "skip",
            code="DS-REF-MISSING",
            message=_missing_message(key, entry, "r"),
            field=field,
            hint=f"create it {where} first, or correct the name",
        )  # fmt: skip


def _using_field(entry: Resolve) -> str | None:
    lookup = entry.lookup or entry.lookup_many
    found = _FIELD.findall(lookup.using) if lookup else []
    return found[0] if found else None


def _missing_message(key: str, entry: Resolve, alias: str) -> str:
    return (
        f"{literal(f'{key}: not found in {entry.from_}: ')} || "
        f"array_to_string({alias}.{name('_missing_' + key)}, ', ')"
    )


# --- checks ---------------------------------------------------------------------------------------


def _check(
    con: duckdb.DuckDBPyConnection,
    mapped: Mapped,
    section: int,
    relation: str,
    fields: Mapping[str, Column],
) -> None:
    """Run the profile's prechecks and note their offenders."""
    for check in mapped.profile.prechecks:
        entry = checks.CATALOGUE[check.type]
        resolved = mapped.profile.resolve.get(check.field or "")
        if check.type.startswith("must_exist") and resolved is not None and check.field:
            missing = name("_missing_" + check.field)
            offence = checks.Offence(
                condition=f"len(t.{missing}) > 0",
                message=_missing_message(check.field, resolved, "t"),
            )
        else:
            parameters = dict(check.model_extra or {})
            if check.type == "sql":
                parameters["where"] = expressions.check_expression(
                    parameters["where"], columns=list(fields), alias="t"
                )
                offence = entry("", Column("NULL"), **parameters)
            else:
                offence = entry(check.field or "", fields[check.field or ""], **parameters)
        condition = offence.condition
        if check.type == "sql":
            condition = f"({condition}) IS NOT TRUE"
        message = literal(check.message) if check.message else offence.message
        field = check.field
        if resolved is not None:
            field = _using_field(resolved)
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE offenders AS SELECT t.rid, {message} AS message "
            f"FROM {relation} t QUALIFY {condition}"
            if " OVER (" in condition
            else f"CREATE OR REPLACE TEMP TABLE offenders AS SELECT t.rid, {message} AS message "
            f"FROM {relation} t WHERE {condition}"
        )
        _note(
            con, mapped, section,
            source=f"FROM offenders o JOIN {mapped.table} t ON t.rowid = o.rid",
            severity=check.severity,
            code=f"DS-CHECK-{check.type.upper().replace('_', '-')}",
            message="o.message",
            field=field,
        )  # fmt: skip


def _check_keys(
    con: duckdb.DuckDBPyConnection, mapped: Mapped, section: int, view: str, parts: int
) -> int:
    """Rows without a key, and rows that share one, are withheld; the number without is given."""
    keys = ", ".join(f"d.k{i}" for i in range(parts))
    blank = " OR ".join(f"coalesce(d.k{i}, '') = ''" for i in range(parts))
    field = mapped.profile.identity.natural_key[0]
    join = f"JOIN {mapped.table} t ON t.rowid = d.rid"
    unread = _count(con, f"FROM {view} d WHERE {blank}")
    if unread:
        _note(
            con, mapped, section,
            source=f"FROM {view} d {join} WHERE {blank}",
            severity="error",
            code="DS-KEY-EMPTY",
            message=literal("the row has no key: "
                            f"{', '.join(mapped.profile.identity.natural_key)} is empty"),
            field=field,
            hint="fill the cell; nothing is pruned while a key cannot be read",
        )  # fmt: skip
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE twins AS SELECT {keys}, list(_row ORDER BY _row) AS rows_ "
        f"FROM {view} d WHERE NOT ({blank}) GROUP BY {keys} HAVING count(*) > 1"
    )
    if _count(con, "FROM twins"):
        on = " AND ".join(f"w.k{i} = d.k{i}" for i in range(parts))
        _note(
            con, mapped, section,
            source=f"FROM {view} d JOIN twins w ON {on} {join}",
            severity="error",
            code="DS-KEY-DUP",
            message="'rows ' || array_to_string(w.rows_[:5], ', ') || "
            "CASE WHEN len(w.rows_) > 5 THEN ', …' ELSE '' END || ' have the same key: ' || "
            "array_to_string(d._key, ' / ')",
            field=field,
            hint="keep one of them; all are withheld until then",
        )  # fmt: skip
    con.execute(
        f"UPDATE findings SET key = d._key FROM {view} d WHERE findings.section = {section} "
        "AND findings.rid = d.rid"
    ) if _count(con, f"FROM findings WHERE section = {section} AND rid IS NOT NULL") else None
    return unread


# --- payload --------------------------------------------------------------------------------------


def _payload(
    con: duckdb.DuckDBPyConnection,
    relation: str,
    fields: Mapping[str, Column],
    payload: Mapping[str, Any],
) -> dict[str, Column]:
    """The payload's fields: a text that is one `${field}` keeps its type."""
    return {key: Column(_compose(value, fields)) if not (w := _whole(value)) else fields[w]
            for key, value in payload.items()}  # fmt: skip


def _whole(value: Any) -> str | None:
    whole = _FIELD.fullmatch(value) if isinstance(value, str) else None
    return whole[1] if whole else None


def _compose(value: Any, fields: Mapping[str, Column]) -> str:
    """SQL of a payload template: texts with fields, nested maps and lists, constants."""
    if isinstance(value, str):
        whole = _whole(value)
        return fields[whole].sql if whole else _template(value, fields)
    if isinstance(value, dict):
        if not value:
            return "'{}'::JSON"
        parts = ", ".join(f"{literal(str(k))}: {_compose(v, fields)}" for k, v in value.items())
        return f"{{{parts}}}"
    if isinstance(value, list):
        if not value:
            return "[]::VARCHAR[]"
        if any(isinstance(item, dict | list) for item in value):
            items = ", ".join(f"to_json({_compose(item, fields)})" for item in value)
            return f"[{items}]"
        return f"[{', '.join(_compose(item, fields) for item in value)}]"
    return _constant(value)[0]


# --- DuckDB ---------------------------------------------------------------------------------------


def _describe(con: duckdb.DuckDBPyConnection, query: str) -> dict[str, str]:
    """Column name -> DuckDB type of a query."""
    return {row[0]: row[1] for row in con.execute(f"DESCRIBE {query}").fetchall()}


def _count(con: duckdb.DuckDBPyConnection, source: str) -> int:
    """The number of rows of a FROM clause."""
    rows: list[tuple[int]] = con.execute(f"SELECT count(*) {source}").fetchall()
    return rows[0][0]
