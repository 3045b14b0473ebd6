"""Source rows -> mapped rows: columns found, transformed, typed; what failed is a finding.

All of it is one CREATE TABLE of nested projections, so that no row is touched by Python.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dsync import findings, transforms
from dsync.errors import Faults, Invalid
from dsync.sql import count, describe, literal, name
from dsync.templates import constant, fields_of, template
from dsync.transforms import Column

if TYPE_CHECKING:
    import duckdb

    from dsync import expressions
    from dsync.profile import Mapping_, Profile, Step
    from dsync.sources import SourceTable


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
    unread: int = 0
    """rows of which nothing is known, not even whether they were wanted"""
    absent: frozenset[str] = frozenset()
    """fields made of nothing but optional columns that the source does not have"""


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
    return note(con, create(con, profile, tables, section=section), tables)


def may_stream(profile: Profile) -> bool:
    """Whether rows may be mapped while they stream by, numbered by the order in which they come.

    A query, and an expression of the user with a window, may change that order.
    """
    plain = all(entry.sql is None for entry in profile.mapping.values())
    return plain and profile.source.query is None and not profile.source.blank


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A table of mapped rows, before what is wrong with them is noted."""

    profile: Profile
    section: int
    layers: _Layers
    row: str | None
    trace: expressions.Trace | None
    strays: Sequence[_Strays] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Strays:
    """The table `_row, parts, near` of rows that belong to nothing.

    `near` are the rows of the first sheet that share the first column with one.
    """

    table: str
    sheet: str
    severity: str
    by: tuple[str, ...]
    """the headers of `sheet`"""
    near: tuple[int, ...]
    """all rows of the first sheet that are near to one"""


def create(
    con: duckdb.DuckDBPyConnection,
    profile: Profile,
    tables: Mapping[str, SourceTable],
    *,
    section: int,
) -> Created:
    """Map and transform all rows of the source; again, when called again.

    Raises: Invalid when a column is missing, or a query or expression is not allowed.
    """
    relation, columns, row, trace, strays = _source(con, profile, tables, section)
    absent = trace.absent if trace is not None else frozenset()
    layers = _map_fields(con, profile, relation, columns, absent)
    # The order of these rows is that of the calls: the query's own, or that of the source's rows.
    own = may_stream(profile) or (trace is not None and trace.is_ordered)
    order = " ORDER BY _row" if row is not None and not own else ""
    select = layers.select(relation, row)
    con.execute(f"CREATE OR REPLACE TABLE mapped_{section} AS {select}{order}")
    return Created(
        profile=profile, section=section, layers=layers, row=row, trace=trace, strays=strays
    )


def note(
    con: duckdb.DuckDBPyConnection, created: Created, tables: Mapping[str, SourceTable]
) -> Mapped:
    """Note what could not be transformed, and what the source says is wrong."""
    profile, section, row, trace = created.profile, created.section, created.row, created.trace
    layers, source = created.layers, next(iter(tables.values()))
    table = f"mapped_{section}"
    fields, headers, faults = layers.fields, layers.headers, layers.faults
    reads: Collection[str] = layers.reads
    if trace is not None:
        # Without case: DuckDB calls `l.name as name` as the sheet does, when only the case differs.
        places = {field: trace.cells.get(column.lower()) for field, column in headers.items()}
        headers = {field: header for field, header in places.items() if header is not None}
        reads = trace.reads
    rows = count(con, f"FROM {table}")
    described = {
        key: Column(f"t.{name(key)}", type_)
        for key, type_ in describe(con, f"FROM {table}").items()
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
        absent=frozenset(layers.absent),
    )
    if faults:
        _note_faults(con, mapped, faults)
    for strays in created.strays:
        _note_strays(con, mapped, tables, strays)
    unread = _note_bad_cells(con, mapped, tables, reads, trace)
    _note_source_findings(con, mapped)
    return replace(mapped, unread=unread)


# --- the source -----------------------------------------------------------------------------------


def _source(
    con: duckdb.DuckDBPyConnection,
    profile: Profile,
    tables: Mapping[str, SourceTable],
    section: int,
) -> tuple[str, dict[str, Column], str | None, expressions.Trace | None, list[_Strays]]:
    """The rows to map: relation, header -> column, row column, trace of the query, strays."""
    physical = {
        key: _with_blanks(con, table, profile.source.blank) for key, table in tables.items()
    }
    for wanted in profile.source.required:
        _column(profile, _plain_columns(con, physical[next(iter(tables))]), wanted)
    trace, strays = None, []
    if profile.source.query is not None:
        from dsync import expressions  # the parser of SQL is costly to import

        first, main = next(iter(tables.items()))
        headers = {header.name: header.name for header in main.headers}
        for key in tables:
            physical[key], named = _with_aliases(con, physical[key], profile.source.columns)
            headers |= named if key == first else {}
        have = {key: list(describe(con, f"FROM {name(on)}")) for key, on in physical.items()}
        strays = _strays(con, profile, physical, first, section)
        near = {row for found in strays for row in found.near}
        bad = sorted({row for row, _ in main.bad_cells} | near)
        select, row = expressions.check_query(
            profile.source.query,
            tables=physical,
            columns=have,
            optional=profile.source.optional,
            may_lack=profile.source.xlsx.sheets if profile.source.xlsx else (),
            mark=bad,
        )
        trace = expressions.trace_query(profile.source.query, headers=headers, columns=have)
        relation = "source_query"
        con.execute(f"CREATE OR REPLACE TEMP VIEW {relation} AS {select}")
        described = describe(con, f"FROM {relation}")
        if described.pop(_MARKED, None):
            con.execute(
                f"CREATE OR REPLACE TEMP TABLE {_MARKED} AS SELECT DISTINCT "
                f"{name(row or '')} AS made, unnest({_MARKED}) AS row FROM {relation}"
            )
        elif near:
            raise Invalid(
                "the query does not tell which rows the strays belong to",
                code="DS-SQL-ROW",
                hint="take DISTINCT and set operations out of the query",
            )
        elif lost := sorted(cell for cell in main.bad_cells if cell[1] in trace.reads):
            raise Invalid(
                f"{main.sheet or 'the source'} has cells that cannot be read, and the query does "
                "not tell which rows they went into",
                code="DS-SQL-ROW",
                where=main.place(*lost[0]),
                hint="correct the cell, or take DISTINCT and set operations out of the query",
            )
    else:
        relation, row = name(physical[next(iter(tables))]), "_row"
        described = describe(con, f"FROM {relation}")
        if "_row" not in described:
            row = None
    columns = {
        header: Column(f"s.{name(header)}", type_)
        for header, type_ in described.items()
        if header != row
    }
    return relation, columns, row, trace, strays


def _strays(
    con: duckdb.DuckDBPyConnection,
    profile: Profile,
    physical: Mapping[str, str],
    first: str,
    section: int,
) -> list[_Strays]:
    """Rows of further sheets that belong to no row of the first one, as `source.strays` says."""
    found = []
    keys = {key.lower(): key for key in physical}
    for number, entry in enumerate(profile.source.strays):
        sheet = keys.get(entry.sheet.lower())
        if sheet is None:
            continue
        mine, theirs = ([_column(profile, _plain_columns(con, physical[key]), by) or by
                         for by in entry.by] for key in (first, sheet))  # fmt: skip
        parts = [f"coalesce(trim(x.{name(header)}::VARCHAR), '')" for header in theirs]
        same = " AND ".join(
            f"trim(m.{name(header)}::VARCHAR) = {part}"
            for header, part in zip(mine, parts, strict=True)
        )
        table = f"strays_{section}_{number}"
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT x._row, x.parts, n.near FROM "
            f"(SELECT x._row, [{', '.join(parts)}] AS parts FROM {name(physical[sheet])} x "
            f"ANTI JOIN {name(physical[first])} m ON {same}) x LEFT JOIN "
            f"(SELECT trim(m.{name(mine[0])}::VARCHAR) AS part, list(m._row) AS near "
            f"FROM {name(physical[first])} m GROUP BY ALL) n ON n.part = x.parts[1]"
        )
        if count(con, f"FROM {table}"):
            near = con.execute(f"SELECT DISTINCT unnest(near) FROM {table}").fetchall()
            found.append(
                _Strays(
                    table=table,
                    sheet=sheet,
                    severity=entry.severity,
                    by=tuple(theirs),
                    near=tuple(sorted(row for (row,) in near)),
                )
            )
    return found


_MARKED = "_marked"
"""which row of the result a row with a cell that cannot be read went into"""


def _with_blanks(con: duckdb.DuckDBPyConnection, table: SourceTable, words: Sequence[str]) -> str:
    """The table itself, or a view of it in which cells with one of `words` are blank."""
    if not words:
        return table.name
    low = literal([word.lower() for word in words])
    select = [
        f"CASE WHEN NOT list_contains({low}, lower(trim({name(header)}))) THEN {name(header)} END "
        f"AS {name(header)}"
        if type_ == "VARCHAR"
        else name(header)
        for header, type_ in describe(con, f"FROM {name(table.name)}").items()
    ]
    view = f"{table.name}__blanks"
    con.execute(
        f"CREATE OR REPLACE VIEW {name(view)} AS SELECT {', '.join(select)} FROM {name(table.name)}"
    )
    return view


def _with_aliases(
    con: duckdb.DuckDBPyConnection, table: str, aliases: Mapping[str, Sequence[str]]
) -> tuple[str, dict[str, str]]:
    """The table, or a view of it that also has the names of `aliases`; name -> its header."""
    have = list(describe(con, f"FROM {name(table)}"))
    named: dict[str, str] = {}
    for wanted, others in aliases.items():
        found = [_find_header(have, other) for other in (wanted, *others)]
        header = next((header for header in found if header is not None), None)
        if header is not None and found[0] is None:
            named[wanted] = header
    if not named:
        return table, {}
    added = "".join(f", {name(header)} AS {name(wanted)}" for wanted, header in named.items())
    view = f"{table}__named"
    con.execute(f"CREATE OR REPLACE VIEW {name(view)} AS SELECT *{added} FROM {name(table)}")
    return view, named


def _plain_columns(con: duckdb.DuckDBPyConnection, table: str) -> dict[str, Column]:
    return {
        header: Column(f"s.{name(header)}", type_)
        for header, type_ in describe(con, f"FROM {name(table)}").items()
    }


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


def _find_header(columns: Iterable[str], wanted: str) -> str | None:
    """The header that is `wanted`, trimmed and without case."""
    folded = {_fold(header): header for header in columns}
    return folded.get(_fold(wanted))


def _fold(header: str) -> str:
    return " ".join(header.split()).casefold()


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
        self.absent: set[str] = set()
        self.reads: set[str] = set()
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
        return f"SELECT {', '.join(out)} FROM {query} s"


def _held(column: Column) -> list[str]:
    """The names of held columns that a column reads."""
    return re.findall(r"\bs\.(_v\d+)\b", column.sql)


def _map_fields(
    con: duckdb.DuckDBPyConnection,
    profile: Profile,
    relation: str,
    columns: Mapping[str, Column],
    absent: Collection[str],
) -> _Layers:
    layers = _Layers()
    lost = {header for header in columns if header.lower() in absent}
    wrong: list[Invalid] = []
    for key, mapping in profile.mapping.items():
        try:
            column = _start(con, profile, relation, columns, layers, key, mapping, lost)
            layers.fields[key] = chain(column, mapping.transform, key, layers)
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
    lost: Collection[str],
) -> Column:
    """The column before its transforms, held; `lost` columns are only there as blanks."""
    if mapping.col is not None:
        header = _column(profile, columns, mapping.col, optional=mapping.optional)
        if header is None or header in lost:
            layers.absent.add(key)
        if header is None:
            return layers.hold(Column("NULL::VARCHAR"))
        layers.headers[key] = header
        layers.reads.add(header)
        return layers.hold(columns[header])
    if mapping.sql is not None:
        from dsync import expressions

        sql = expressions.check_expression(mapping.sql, columns=list(columns))
        read = {header for header in columns if name(header) in sql}
        layers.reads |= read
        if read and read.issubset(lost):
            layers.absent.add(key)
        type_ = describe(con, f"SELECT {sql} AS x FROM {relation} s")["x"]
        return layers.hold(Column(f"({sql})", type_))
    parts = fields_of(mapping.expr or "") or list((mapping.zip or {}).values())
    if parts and layers.absent.issuperset(parts):
        layers.absent.add(key)
    if mapping.expr is not None:
        text = Column(template(mapping.expr, layers.fields))
        return layers.hold(text, after=_held(text))
    if mapping.zip is not None:
        return _zip(key, mapping.zip, layers)
    return layers.hold(constant(mapping.value))


def chain(column: Column, steps: Sequence[str | Step], key: str, layers: _Layers | None) -> Column:
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


def _fault_list(faults: Sequence[_Fault]) -> str:
    """SQL of the row's faults: NULL for a good row, which costs next to nothing."""
    bad = " OR ".join(f"({fault.condition})" for fault in faults)
    items = ", ".join(
        f"CASE WHEN {fault.condition} THEN {{'f': {index}, 'v': {fault.value}}} END"
        for index, fault in enumerate(faults)
    )
    return f"CASE WHEN {bad} THEN list_filter([{items}], lambda _x_: _x_ IS NOT NULL) END"


# --- what failed ----------------------------------------------------------------------------------


def _note_faults(con: duckdb.DuckDBPyConnection, mapped: Mapped, faults: Sequence[_Fault]) -> None:
    for index, fault in enumerate(faults):
        column = mapped.headers.get(fault.field)
        findings.note(
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


def _note_bad_cells(
    con: duckdb.DuckDBPyConnection,
    mapped: Mapped,
    tables: Mapping[str, SourceTable],
    reads: Collection[str],
    trace: expressions.Trace | None,
) -> int:
    """Error cells and formulas never calculated, where something reads their column.

    Gives the number of rows that are in no mapped row, for a query left them out: their cells
    might have been why. In a sheet that is only joined they are warnings: what they hide is
    missing from the join.
    """
    fields = {header: field for field, header in reversed([*mapped.headers.items()])}
    lost = set()
    for (row, header), message in sorted(mapped.source.bad_cells.items()):
        if header not in reads:
            continue
        code, _, text = message.partition(" ")
        place = mapped.source.place(row, header)
        made = f"SELECT made FROM {_MARKED} WHERE row = {row}" if trace else f"{row}"
        found = f"FROM {mapped.table} t WHERE {mapped.row} IN ({made})"
        hint = "correct the cell, let Excel calculate the sheet, and save it"
        if code.startswith("DS-DB-"):
            hint = "correct the value in the database, or leave it out in the statement"
        findings.note(
            con, mapped, mapped.section, source=found, severity="error", code=code,
            message=literal(text), field=fields.get(header), hint=hint, place=place,
        )  # fmt: skip
        if trace and not count(con, found):
            lost.add(row)
            findings.add(con, mapped.section, severity="error", code=code, message=text,
                         hint=hint, place=place)  # fmt: skip
    for key, table in list(tables.items())[1:]:
        for (row, header), message in sorted(table.bad_cells.items()):
            if trace is not None and header.lower() in trace.joined.get(key.lower(), ()):
                code, _, text = message.partition(" ")
                findings.add(con, mapped.section, severity="warn", code=code, message=text,
                             place=table.place(row, header))  # fmt: skip
    return len(lost)


def _note_strays(
    con: duckdb.DuckDBPyConnection,
    mapped: Mapped,
    tables: Mapping[str, SourceTable],
    strays: _Strays,
) -> None:
    """Each stray row is told at its cell; a row that shares its first column is withheld by it."""
    table = tables[strays.sheet]
    main = mapped.source.sheet or "the source"
    said = " || ".join(
        f"{literal((' and ' if index else '') + header + ' ')} || "
        f"CASE WHEN x.parts[{index + 1}] = '' THEN '(blank)' ELSE x.parts[{index + 1}] END"
        for index, header in enumerate(strays.by)
    )
    message = f"{literal(f'belongs to no row of {main}: ')} || {said}"
    hint = f"correct the row, or give {main} the row that it belongs to"
    at = table.place(None)
    # What differs is the last part, where the first is known; else the first.
    letters = [table.place(1, header).cell or "" for header in strays.by]
    cell = (
        f"CASE WHEN x.near IS NOT NULL THEN {literal(letters[-1].rstrip('1'))} "
        f"ELSE {literal(letters[0].rstrip('1'))} END || x._row"
    )
    place = (
        f"{{'file': {literal(at.file)}, 'sheet': {literal(at.sheet)}, 'row': x._row, "
        f"'cell': {cell}}}"
    )
    code = literal("DS-ROW-STRAY")
    made = "SELECT NULL::BIGINT AS rid, NULL::BIGINT AS stray WHERE false"
    if strays.near:
        made = (
            f"SELECT DISTINCT t.rowid AS rid, n.stray FROM {mapped.table} t "
            f"JOIN {_MARKED} k ON k.made = {mapped.row} "
            f"JOIN (SELECT _row AS stray, unnest(near) AS row FROM {strays.table}) n "
            "ON n.row = k.row"
        )
    con.execute(
        f"INSERT INTO findings SELECT {mapped.section}, {literal(strays.severity)}, {code}, "
        f"{message}, NULL, g.rid, NULL, {place}, {literal(hint)} FROM {strays.table} x "
        f"LEFT JOIN ({made}) g ON g.stray = x._row ORDER BY x._row, g.rid"
    )


def _note_source_findings(con: duckdb.DuckDBPyConnection, mapped: Mapped) -> None:
    """What the source itself found: about a row, or about the whole of it."""
    for finding in mapped.source.findings:
        if finding.row is None:
            findings.add(
                con, mapped.section, severity=finding.severity, code=finding.code,
                message=finding.message, hint=finding.hint, place=finding.place,
            )  # fmt: skip
        else:
            findings.note(
                con, mapped, mapped.section,
                source=f"FROM {mapped.table} t WHERE {mapped.row} = {finding.row}",
                severity=finding.severity,
                code=finding.code,
                message=literal(finding.message),
                hint=finding.hint,
            )  # fmt: skip
