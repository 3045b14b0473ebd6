"""The checked subset of SQL that a profile may write: parse, allow-list, regenerate.

What runs is never the user's text, but the SQL made anew from the checked tree. An expression
speaks of columns only; a query is one SELECT over the given tables. No statement, no file, no
setting, no table function can be reached: what is not on the list is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from dsync.errors import Invalid

# Functions that may be called, by their DuckDB names. All are pure: no clock, no chance, no files.
FUNCTIONS = frozenset(
    """
    abs ceil ceiling floor round sign sqrt power pow exp ln log log10 mod greatest least trunc
    coalesce ifnull nullif if case cast try_cast try
    lower upper trim ltrim rtrim length len strlen substr substring left right lpad rpad repeat
    reverse replace translate concat concat_ws contains starts_with ends_with prefix suffix
    position strpos instr split_part string_split str_split string_split_regex regexp_matches
    regexp_full_match regexp_replace regexp_extract regexp_extract_all strip_accents nfc_normalize
    ascii chr unicode format printf md5 sha256 hash levenshtein jaccard
    list_value list array array_agg list_agg list_sort array_sort list_reverse_sort list_distinct
    array_distinct list_unique list_contains array_contains list_has list_position list_concat
    array_concat list_append list_prepend list_filter array_filter list_transform array_transform
    list_apply list_reduce array_reduce list_zip list_reverse array_to_string list_slice
    array_slice list_element list_extract array_length cardinality flatten unnest list_sum
    list_min list_max list_any_value list_count range generate_series
    struct_pack struct_extract row map map_from_entries map_extract map_keys map_values
    json json_extract json_extract_string json_extract_path json_extract_path_text json_array
    json_object json_array_length json_valid json_type json_keys to_json from_json
    json_group_array json_group_object parse_json json_value json_contains
    count count_if sum avg min max first last any_value arbitrary string_agg group_concat
    bool_and bool_or logical_and logical_or median mode quantile_cont quantile_disc stddev
    row_number rank dense_rank lag lead first_value last_value ntile
    date_trunc date_part extract year month day hour minute second dayofweek dayofyear week
    strftime strptime try_strptime str_to_time time_to_str make_date make_timestamp date_diff
    datediff date_add date_sub epoch epoch_ms to_days to_hours to_minutes to_seconds to_timestamp
    day_of_week day_of_month day_of_year week_of_year ts_or_ds_to_date timestamp_trunc
    str_position array_size array_concat_agg array_any array_unique_agg explode and or not xor
    array_reverse lambda in between is like ilike
    struct transform split json_extract_scalar jsonextractscalar jsonextract
    """.split()
)

_REFUSED = (
    exp.DDL,
    exp.DML,
    exp.Command,
    exp.Into,
    exp.Parameter,
    exp.Placeholder,
    exp.Pragma,
    exp.Set,
    exp.Attach,
    exp.Detach,
    exp.Use,
    exp.Copy,
)


def check_expression(sql: str, *, columns: Sequence[str], alias: str = "s") -> str:
    """`sql` as an expression over `columns` (of the relation `alias`), regenerated.

    Raises: Invalid DS-SQL-PARSE, -FUNCTION, -COLUMN, -FORBIDDEN.
    """
    tree = _parse(sql)
    if isinstance(tree, exp.Query) or next(tree.find_all(exp.Query, exp.Exists), None):
        raise _forbidden("a query inside an expression", sql)
    _check(tree, sql)
    if any(not a.find_ancestor(exp.Window) for a in tree.find_all(exp.AggFunc)):
        raise _forbidden("an aggregate inside an expression", sql)
    parameters = _lambda_parameters(tree)
    known = {column.lower(): column for column in columns}
    for column in list(tree.find_all(exp.Column)):
        if column.table or column.name.lower() in parameters:
            if column.table and column.table.lower() not in parameters:
                raise _forbidden(f"the table name {column.table}", sql)
            continue
        actual = known.get(column.name.lower())
        if actual is None:
            near = difflib.get_close_matches(column.name, columns, n=3)
            raise Invalid(
                f"unknown column {column.name} in: {_short(sql)}",
                code="DS-SQL-COLUMN",
                hint=f"did you mean {', '.join(near)}?" if near
                else f"known are {', '.join(columns[:20])}",
            )  # fmt: skip
        column.set("this", exp.to_identifier(actual, quoted=True))
        column.set("table", exp.to_identifier(alias))
    return tree.sql(dialect="duckdb")


def check_query(
    sql: str,
    *,
    tables: Mapping[str, str],
    columns: Mapping[str, Sequence[str]],
    optional: Iterable[str] = (),
    may_lack: Iterable[str] = (),
    mark: Sequence[int] = (),
) -> tuple[str, str | None]:
    """`sql` as one SELECT over `tables`, regenerated: (SELECT text, name of the row column).

    `tables` maps the names that the query may use to tables of the kernel; `columns` are their
    columns. `may_lack` are tables that may be missing (optional sheets): then they have no rows;
    `optional` lists columns (`column`, or `table.column`) that are NULL when a table lacks them.
    The result has `_row`, the row of the first table, where that can be told; in a group it is
    the first row of the group. A list, or a joined text, without an order is made in row order.
    With `mark`, it has `_marked` too: those of these rows of the first table that went into it.

    Raises: Invalid DS-SQL-….
    """
    tree = _parse(sql)
    if not isinstance(tree, exp.Select | exp.SetOperation):
        raise _forbidden("anything but one SELECT", sql)
    _check(tree, sql)
    ctes = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    known = {key.lower(): key for key in tables}
    wanted = _wanted_columns(tree)
    may_miss = {part.lower() for part in optional}
    absent = {part.lower() for part in may_lack} - set(known)
    first = _first_table(tree)
    for table in list(tree.find_all(exp.Table)):
        if not isinstance(table.this, exp.Identifier) or table.db or table.catalog:
            raise _forbidden(f"{table.sql(dialect='duckdb')} as a table", sql)
        if table.name.lower() in ctes:
            continue
        key = known.get(table.name.lower())
        if key is None and table.name.lower() not in absent:
            near = difflib.get_close_matches(table.name, tables, n=3)
            raise Invalid(
                f"the query reads {table.name}, which the source does not have",
                code="DS-SQL-TABLE",
                hint=f"did you mean {', '.join(near)}?"
                if near
                else f"it has {', '.join(tables)}; source.xlsx.sheets declares further sheets",
            )
        alias = table.alias or table.name
        have = [c.lower() for c in columns.get(key, ())] if key else []
        lost = [
            column
            for column in sorted(wanted.get(alias.lower(), ()))
            if column not in have and column != "_row"
        ]
        if key is not None:
            refused = [
                c for c in lost if c not in may_miss and f"{key.lower()}.{c}" not in may_miss
            ]
            if refused:
                near = difflib.get_close_matches(refused[0], columns[key], n=3)
                raise Invalid(
                    f"{key} has no column {refused[0]}",
                    code="DS-COL-MISSING",
                    hint=f"did you mean {', '.join(near)}?" if near
                    else f"its columns are {', '.join(c for c in columns[key] if c != '_row')}",
                )  # fmt: skip
        table.replace(_physical(tables.get(key or ""), lost, alias))
    if first is not None:
        _order_lists(tree, first)
    row = _add_row(tree, first)
    if mark and first is not None and row is not None:
        _add_marked(tree, first, mark)
    return tree.sql(dialect="duckdb"), row


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a query makes of the cells of its first table."""

    reads: frozenset[str]
    """headers that have a part in the result"""
    joined: Mapping[str, frozenset[str]]
    """the same of the other tables: table, column, both in lower case"""
    cells: Mapping[str, str]
    """column of the result, in lower case -> header of the one cell that it comes from, where there
    is one; a value that a join brings comes from the cell that it was joined by, and what several
    rows make together from the first of them, when all of it is of one column"""
    is_ordered: bool
    """whether the query itself says in which order its rows come"""
    absent: frozenset[str] = frozenset()
    """columns of the result, in lower case, that are made of nothing but missing columns"""


def trace_query(
    sql: str, *, headers: Mapping[str, str], columns: Mapping[str, Sequence[str]] | None = None
) -> Trace:
    """Where the columns of a query come from. `headers` are those of its first table, by name.

    `columns` are those of all tables that are there.
    """
    tree = _parse(sql)
    first = _first_table(tree)
    ordered = tree.args.get("order") is not None
    if not isinstance(tree, exp.Select) or first is None or any(tree.find_all(exp.Star)):
        return Trace(reads=frozenset(headers.values()), joined={}, cells={}, is_ordered=ordered)
    known = {called.lower(): header for called, header in headers.items()}

    def of_first(node: exp.Expression) -> list[str]:
        return [
            known[column.name.lower()]
            for column in node.find_all(exp.Column, bfs=False)
            if column.table.lower() in ("", first.lower()) and column.name.lower() in known
        ]

    joined_by = {
        join.alias_or_name.lower(): of_first(join.args["on"])
        for join in tree.args.get("joins") or ()
        if join.args.get("on") is not None
    }
    cells: dict[str, str] = {}
    for projection in tree.expressions:
        gathers = any(
            not node.find_ancestor(exp.Window) for node in projection.find_all(exp.AggFunc)
        )
        if gathers and len(set(of_first(projection))) != 1:
            continue
        found = of_first(projection) or [
            header
            for column in projection.find_all(exp.Column)
            for header in joined_by.get(column.table.lower(), ())
        ]
        if found:
            cells[projection.alias_or_name.lower()] = found[0]
    wanted = _wanted_columns(tree)
    joined: dict[str, frozenset[str]] = {}
    for table in tree.find_all(exp.Table):
        key, alias = table.name.lower(), (table.alias or table.name).lower()
        joined[key] = joined.get(key, frozenset()) | frozenset(wanted.get(alias, ()))
    reads = frozenset(of_first(tree))
    return Trace(
        reads=reads,
        joined=joined,
        cells=cells,
        is_ordered=ordered,
        absent=_absent(tree, columns or {}),
    )


def _absent(tree: exp.Select, columns: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Columns of the result that are made of nothing but columns that their tables lack."""
    have = {key.lower(): {one.lower() for one in names} for key, names in columns.items()}
    tables = {
        (t.alias or t.name).lower(): have[t.name.lower()]
        for t in tree.find_all(exp.Table)
        if t.name.lower() in have
    }
    only = next(iter(tables.values())) if len(tables) == 1 else None
    parameters = _lambda_parameters(tree)

    def lacks(column: exp.Column) -> bool:
        if not column.table:
            return only is not None and column.name.lower() not in {*only, *parameters}
        table = tables.get(column.table.lower())
        return table is not None and column.name.lower() not in table

    made = {one.alias_or_name.lower(): list(one.find_all(exp.Column)) for one in tree.expressions}
    return frozenset(key for key, read in made.items() if read and all(map(lacks, read)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the text of a query tells without any data."""

    tables: tuple[str, ...]
    """the tables that it reads, as it writes them, each once"""
    columns: tuple[str, ...] | None
    """the columns of its result; None where only the data tells (`*`)"""


def shape_query(sql: str) -> Shape:
    """The tables and the result's columns of a query that `check_query` may accept.

    Raises: Invalid DS-SQL-….
    """
    tree = _parse(sql)
    if not isinstance(tree, exp.Query):
        raise _forbidden("anything but one SELECT", sql)
    _check(tree, sql)
    ctes = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    tables = [t.name for t in tree.find_all(exp.Table) if t.name.lower() not in ctes]
    names = tree.named_selects
    told = names and all(names) and "*" not in names
    return Shape(tables=tuple(dict.fromkeys(tables)), columns=tuple(names) if told else None)


def _parse(sql: str) -> exp.Expr:
    try:
        trees = sqlglot.parse(sql, read="duckdb")
    except (SqlglotError, RecursionError) as fault:
        reason = str(fault).partition("\n")[0]
        raise Invalid(
            f"this is not SQL: {_short(sql)} ({reason})",
            code="DS-SQL-PARSE",
            hint="write one expression, or one SELECT, in DuckDB's SQL",
        ) from None
    found = [tree for tree in trees if tree is not None]
    if len(found) != 1:
        raise _forbidden(f"{len(found)} statements", sql)
    return found[0]


def _check(tree: exp.Expr, sql: str) -> None:
    """Refuse every function that is not on the list, and every node that could act."""
    for node in tree.walk():
        if isinstance(node, _REFUSED):
            raise _forbidden(type(node).__name__.lower(), sql)
        if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc):
            names = {node.name.lower()}
        elif isinstance(node, exp.Func) and not isinstance(node, exp.Connector):
            names = {text.lower() for text in node.sql_names()}
            names.add(node.key.lower())
        else:
            continue
        if not names & FUNCTIONS:
            called = node.name if isinstance(node, exp.Anonymous) else node.sql_names()[0]
            near = difflib.get_close_matches(called.lower(), FUNCTIONS, n=3)
            raise Invalid(
                f"the function {called.lower()} may not be used in a profile",
                code="DS-SQL-FUNCTION",
                hint=f"did you mean {', '.join(near)}?" if near else "docs/profiles.md lists them",
            )


def _lambda_parameters(tree: exp.Expr) -> set[str]:
    return {
        parameter.name.lower()
        for function in tree.find_all(exp.Lambda)
        for parameter in function.expressions
    }


def _wanted_columns(tree: exp.Expr) -> dict[str, set[str]]:
    """Table alias -> the columns that the query reads of it, where it says so."""
    wanted: dict[str, set[str]] = {}
    for column in tree.find_all(exp.Column):
        if column.table:
            wanted.setdefault(column.table.lower(), set()).add(column.name.lower())
    tables = {(t.alias or t.name).lower() for t in tree.find_all(exp.Table)}
    if len(tables) == 1:
        parameters = _lambda_parameters(tree)
        aliases = {a.alias.lower() for a in tree.find_all(exp.Alias)}
        plain = {
            c.name.lower()
            for c in tree.find_all(exp.Column)
            if not c.table and not isinstance(c.this, exp.Star)
        }
        wanted.setdefault(tables.pop(), set()).update(plain - parameters - aliases)
    return wanted


def _first_table(tree: exp.Expr) -> str | None:
    """The alias of the table that rows come from: the first of the outer FROM."""
    if not isinstance(tree, exp.Select):
        return None
    source = tree.args.get("from_") or tree.args.get("from")
    table = source.this if source is not None else None
    ctes = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    if isinstance(table, exp.Table) and table.name.lower() not in ctes:
        return str(table.alias or table.name)
    return None


def _physical(table: str | None, lost: Sequence[str], alias: str) -> exp.Expr:
    """The kernel's table under the name that the query uses, with what it lacks as NULL."""
    nulls = [f'NULL::VARCHAR AS "{column}"' for column in lost]
    if table is None:
        select = f"SELECT {', '.join(['NULL::BIGINT AS _row', *nulls])} WHERE false"
    elif nulls:
        select = f'SELECT *, {", ".join(nulls)} FROM "{table}"'
    else:
        return exp.alias_(exp.to_table(f'"{table}"'), alias, table=True, quoted=True)
    inner = sqlglot.parse_one(select, read="duckdb")
    return exp.Subquery(
        this=inner, alias=exp.TableAlias(this=exp.to_identifier(alias, quoted=True))
    )


def _order_lists(tree: exp.Expr, first: str) -> None:
    """Lists and joined texts without an order are made in row order: same rows, same plan."""
    outer = tree
    for node in list(tree.find_all(exp.ArrayAgg, exp.GroupConcat, exp.First, exp.Last)):
        if node.find_ancestor(exp.Select) is not outer or isinstance(node.this, exp.Order):
            continue
        order = exp.Ordered(this=exp.column("_row", table=exp.to_identifier(first, quoted=True)))
        node.set("this", exp.Order(this=node.this, expressions=[order]))


def _add_row(tree: exp.Expr, first: str | None) -> str | None:
    if not isinstance(tree, exp.Select):
        return None
    if any(projection.alias_or_name.lower() == "_row" for projection in tree.expressions):
        return "_row"
    if first is None or tree.args.get("distinct"):
        return None
    column: exp.Expr = exp.column("_row", table=exp.to_identifier(first, quoted=True))
    aggregates = any(
        node.find_ancestor(exp.Select) is tree and node.find_ancestor(exp.Window) is None
        for node in tree.find_all(exp.AggFunc)
    )
    if tree.args.get("group"):
        column = exp.Min(this=column)
    elif aggregates:
        return None
    elif any(isinstance(p, exp.Star) for p in tree.expressions):
        return "_row"
    tree.append("expressions", exp.alias_(column, "_row"))
    return "_row"


def _add_marked(tree: exp.Expression, first: str, rows: Sequence[int]) -> None:
    column = exp.column("_row", table=exp.to_identifier(first, quoted=True))
    among = exp.In(this=column.copy(), expressions=[exp.Literal.number(row) for row in rows])
    if tree.args.get("group"):
        marked: exp.Expression = exp.Filter(
            this=exp.ArrayAgg(this=column), expression=exp.Where(this=among)
        )
    else:
        marked = exp.Case(ifs=[exp.If(this=among, true=exp.Array(expressions=[column]))])
    tree.append("expressions", exp.alias_(marked, "_marked"))


def _forbidden(what: str, sql: str) -> Invalid:
    return Invalid(
        f"{what} is not allowed here: {_short(sql)}",
        code="DS-SQL-FORBIDDEN",
        hint="write one expression, or one SELECT over the source's tables",
    )


def _short(sql: str) -> str:
    text = " ".join(sql.split())
    return text if len(text) <= 120 else text[:117] + "…"
