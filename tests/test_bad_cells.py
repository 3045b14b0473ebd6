"""Cells that cannot be read: whatever a query makes of their row, it is withheld."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
import xlsxwriter

from dsync import desired, expressions, findings, mapping, sources
from dsync.errors import Invalid
from dsync.profile import Profile

pytestmark = pytest.mark.unit

ERROR = ("=NA()", "#N/A")
NEVER = ("=1+1", "")


def _workbook(path: Path, *sheets: tuple[str, Sequence[Any]]) -> Path:
    with xlsxwriter.Workbook(str(path)) as workbook:
        for name, rows in sheets:
            sheet = workbook.add_worksheet(name)
            for y, row in enumerate(rows):
                for x, cell in enumerate(row):
                    if isinstance(cell, tuple):
                        sheet.write_formula(y, x, cell[0], None, cell[1])
                    else:
                        sheet.write(y, x, cell)
    return path


def _profile(path: Path, query: str | None = None, **more: Any) -> Profile:
    return Profile.model_validate(
        {
            "version": 1,
            "resource": "things",
            "source": {"xlsx": {"path": str(path), "sheet": "Main", "sheets": {"More": []}},
                       "query": query},
            "mapping": {"name": {"col": "name"}, "size": {"col": "size"}},
            "identity": {"natural_key": ["name"]},
            "payload": {"name": "${name}", "size": "${size}"},
            **more,
        }
    )  # fmt: skip


def _built(profile: Profile) -> tuple[list[tuple[Any, ...]], desired.Desired]:
    """Severity, code, key, row and cell of each finding, and what was built."""
    with duckdb.connect() as con:
        con.execute(findings.TABLE)
        tables = sources.read(con, "s", profile.source, base=Path())
        mapped = mapping.map_rows(con, profile, tables, section=1)
        wanted = desired.build(con, mapped, {}, section=2, key=["name"])
        rows = con.execute(
            'SELECT severity, code, key, place."row", place.cell FROM findings WHERE section = 2 '
            "ORDER BY ALL"
        ).fetchall()
        return rows, wanted


ROWS = [["name", "size", "kind"], ["a", 1, "x"], ["a", ERROR, "x"], ["b", 3, NEVER]]


def test_group(tmp_path: Path) -> None:
    """A cell that cannot be read withholds the whole group, and is found at its own address."""
    book = _workbook(tmp_path / "a.xlsx", ("Main", ROWS))
    query = "select m.name, sum(try_cast(m.size as bigint)) as size from Main m group by m.name"
    rows, wanted = _built(_profile(book, query))
    assert rows == [("error", "DS-XLS-ERRCELL", ["a"], 3, "B3")]
    assert wanted.unread_keys == 0


def test_row_by_row(tmp_path: Path) -> None:
    """A query without groups withholds the row of a cell that it reads, and no other."""
    book = _workbook(tmp_path / "a.xlsx", ("Main", ROWS))
    rows, _ = _built(_profile(book, "select m.name || m._row as name, m.kind as size from Main m"))
    assert rows == [("error", "DS-XLS-FORMULA", ["b4"], 4, "C4")]


def test_filtered_away(tmp_path: Path) -> None:
    """A row that a query leaves out for a cell that cannot be read stops pruning."""
    book = _workbook(tmp_path / "a.xlsx", ("Main", ROWS))
    query = "select m.name, m.kind as size from Main m where m.kind = 'x' and m.size = 1"
    rows, wanted = _built(_profile(book, query))
    assert rows == [
        ("error", "DS-XLS-ERRCELL", None, 3, "B3"),
        ("error", "DS-XLS-FORMULA", None, 4, "C4"),
    ]
    assert wanted.unread_keys == 2


def test_no_rows_to_withhold(tmp_path: Path) -> None:
    """A query whose rows cannot be told apart is refused when it reads such a cell."""
    book = _workbook(tmp_path / "a.xlsx", ("Main", ROWS))
    with pytest.raises(Invalid) as caught:
        _built(_profile(book, "select distinct m.name, m.size from Main m"))
    assert caught.value.code == "DS-SQL-ROW"
    assert str(caught.value.where).endswith("B3")


def test_joined_sheet(tmp_path: Path) -> None:
    """A cell of a joined sheet that cannot be read is a warning, if the query reads its column."""
    more = [["name", "size", "note"], [ERROR, 7, NEVER]]
    book = _workbook(tmp_path / "a.xlsx", ("Main", [["name", "size"], ["a", 1]]), ("More", more))
    query = "select m.name, x.size from Main m left join More x on x.name = m.name"
    assert _built(_profile(book, query))[0] == [("warn", "DS-XLS-ERRCELL", None, 2, "A2")]


def test_column_of_an_expression(tmp_path: Path) -> None:
    """A column that only an SQL expression reads counts as read."""
    book = _workbook(tmp_path / "a.xlsx", ("Main", ROWS))
    made = {"name": {"col": "name"}, "size": {"sql": "kind"}}
    assert _built(_profile(book, mapping=made))[0][-1][:2] == ("error", "DS-XLS-FORMULA")


def test_empty_result_of_a_formula(tmp_path: Path) -> None:
    """A formula whose result is an empty text is no formula never calculated."""
    book = _workbook(tmp_path / "a.xlsx", ("Main", [["name", "size"], ["a", ("=1+1", 2)]]))
    assert _built(_profile(book))[0] == []


def test_one_cause_one_finding(tmp_path: Path) -> None:
    """What follows from a cell that cannot be read is not told beside it."""
    book = _workbook(tmp_path / "a.xlsx", ("Main", [["name", "size"], ["a|b", ERROR], [ERROR, 1]]))
    split = [{"fn": "split", "sep": "|"}]
    profile = _profile(
        book,
        mapping={
            "name": {"col": "name"},
            "names": {"col": "name", "transform": split},
            "sizes": {"col": "size", "transform": [*split, "to_int"]},
            "pairs": {"zip": {"n": "names", "s": "sizes"}},
        },
        payload={"name": "${name}", "pairs": "${pairs}"},
        prechecks=[
            {"type": "non_empty", "field": "name", "severity": "error"},
            {"type": "non_empty", "field": "sizes", "severity": "skip"},
        ],
    )
    rows, wanted = _built(profile)
    assert rows == [
        ("error", "DS-XLS-ERRCELL", [], 3, "A3"),
        ("error", "DS-XLS-ERRCELL", ["a|b"], 2, "B2"),
    ]
    assert wanted.unread_keys == 1


def test_trace() -> None:
    """A value that a join brings comes from the cell that it was joined by; a sum from none."""
    trace = expressions.trace_query(
        "select coalesce(p.Short, p.long) as name, r.name as route, sum(p.n) over () as n, "
        "upper(p.kind) as kind from P p left join R r on r.id = p.route_id",
        headers={one: one for one in ("Long", "Short", "route_id", "n", "Kind", "unused")},
    )
    assert trace.cells == {"name": "Short", "route": "route_id", "n": "n", "kind": "Kind"}
    assert trace.reads == {"Long", "Short", "route_id", "n", "Kind"}
    assert trace.joined["r"] == {"id", "name"}
