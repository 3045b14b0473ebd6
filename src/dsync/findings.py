"""What is wrong with rows, as a table: one line a finding, made by set-based statements.

`rid` is the row of the mapped table; a finding without it is about no single row. `section` is a
profile in a scope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsync.sql import literal

if TYPE_CHECKING:
    import duckdb

    from dsync.errors import Place
    from dsync.mapping import Mapped

TABLE = """
CREATE TABLE IF NOT EXISTS findings (
    section BIGINT, severity VARCHAR, code VARCHAR, message VARCHAR, field VARCHAR, rid BIGINT,
    key VARCHAR[], place STRUCT(file VARCHAR, sheet VARCHAR, "row" BIGINT, cell VARCHAR),
    hint VARCHAR)
"""
_PLACE = 'STRUCT(file VARCHAR, sheet VARCHAR, "row" BIGINT, cell VARCHAR)'


def add(
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


def note(
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


def copy(con: duckdb.DuckDBPyConnection, origin: int, section: int) -> None:
    """What is wrong with mapped rows is wrong in each scope."""
    con.execute(
        f"INSERT INTO findings SELECT {section}, * EXCLUDE (section) FROM findings "
        f"WHERE section = {origin}"
    )


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
