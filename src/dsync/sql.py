"""SQL text: names and literals, and the small questions that everybody asks of DuckDB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb


def literal(value: Any) -> str:
    """`value` as a SQL literal: text, number, bool, None, or a list of these."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    text = str(value).replace("'", "''")
    return f"'{text}'"


def name(identifier: str) -> str:
    """`identifier` quoted as a SQL name."""
    return '"' + identifier.replace('"', '""') + '"'


def describe(con: duckdb.DuckDBPyConnection, query: str) -> dict[str, str]:
    """Column name -> DuckDB type of a query."""
    return {row[0]: row[1] for row in con.execute(f"DESCRIBE {query}").fetchall()}


def count(con: duckdb.DuckDBPyConnection, source: str) -> int:
    """The number of rows of a FROM clause."""
    rows: list[tuple[int]] = con.execute(f"SELECT count(*) {source}").fetchall()
    return rows[0][0]


def pointer(field: str) -> str:
    """The JSON path of a member of an object."""
    return '$."' + field.replace('"', '\\"') + '"'
