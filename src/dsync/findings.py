"""What is wrong with rows, as a table: one line a finding, made by set-based statements.

`rid` is the row of the mapped table; a finding without it is about no single row. `section` is a
profile in a scope.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
    at = _fixed(place) if place is not None else "NULL"
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
    place: Place | None = None,
) -> None:
    """Note a finding for each row of `source` (a FROM clause with alias `t` for mapped rows).

    Its place is the row, and the cell of `field` where there is one, unless `place` is given.
    """
    at = _fixed(place) if place is not None else _place(mapped, field)
    con.execute(
        f"INSERT INTO findings SELECT {section}, {literal(severity)}, {literal(code)}, {message}, "
        f"{literal(field)}, {rid}, NULL, {at}, {literal(hint)} {source}"
    )


def drop_consequences(
    con: duckdb.DuckDBPyConnection,
    section: int,
    *,
    origins: Mapping[str, Collection[str]],
    cells: Mapping[str, Collection[str]],
) -> None:
    """Forget findings that only follow from another one on the same row: one cause, one finding.

    A check says nothing new of a field whose cell could not be read, nor of a field made from it.
    `origins` are, for each field, the fields that it is made from, directly or not; `cells` also
    those that read the same cell as one of these.
    """

    def made_from(others: Mapping[str, Collection[str]]) -> str:
        pairs = [[field, other] for field, found in others.items() for other in found]
        return f"list_contains({literal(pairs)}::VARCHAR[][], [findings.field, c.field])"

    def rank(alias: str) -> str:
        return (
            f"CASE WHEN starts_with({alias}.code, 'DS-XLS-') THEN 0 "
            f"WHEN {alias}.code = 'DS-ROW-VALUE' THEN 1 ELSE 2 END"
        )

    con.execute(
        f"DELETE FROM findings USING findings c WHERE findings.section = {section} "
        f"AND c.section = {section} AND c.rid = findings.rid AND (c.severity = 'error' OR "
        "c.severity = 'skip' AND findings.code = 'DS-KEY-EMPTY') AND ("
        f"{rank('c')} = 0 AND {made_from(cells)} OR {rank('c')} = 1 AND {made_from(origins)} OR "
        f"c.field = findings.field AND {rank('c')} < {rank('findings')} OR "
        "c.field = findings.field AND findings.code = 'DS-KEY-EMPTY' "
        "AND c.code <> 'DS-KEY-EMPTY')"
    )


def copy(con: duckdb.DuckDBPyConnection, origin: int, section: int) -> None:
    """What is wrong with mapped rows is wrong in each scope."""
    con.execute(
        f"INSERT INTO findings SELECT {section}, * EXCLUDE (section) FROM findings "
        f"WHERE section = {origin}"
    )


def _fixed(place: Place) -> str:
    return (
        f"{{'file': {literal(place.file)}, 'sheet': {literal(place.sheet)}, "
        f"'row': {literal(place.row)}, 'cell': {literal(place.cell)}}}::{_PLACE}"
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
