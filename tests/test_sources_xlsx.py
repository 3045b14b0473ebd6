"""Workbooks: sheets by name, cells kept raw, and what is wrong with which cell."""

from __future__ import annotations

import csv as stdlib_csv
import datetime as dt
import tracemalloc
from pathlib import Path
from typing import Any

import duckdb
import pytest
import xlsxwriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from badinput.make import GOOD, HEADER, number_cell, parts, row, sheet_xml, text_cell, zipped
from dsync.errors import Invalid
from dsync.profile import CsvSource, Source, XlsxSource
from dsync.sources import SourceTable, csv, read, xlsx

pytestmark = pytest.mark.unit

Rows = list[tuple[Any, ...]]


def rows_of(con: duckdb.DuckDBPyConnection, table: SourceTable) -> Rows:
    rows = con.execute(f'SELECT * FROM "{table.name}" ORDER BY _row').fetchall()
    assert table.rows == len(rows)
    return rows


def load(path: Path, content: bytes, **spec: Any) -> tuple[SourceTable, Rows]:
    path.write_bytes(content)
    con = duckdb.connect()
    table = xlsx.read(con, "t", XlsxSource(**spec), file=path, shown=path.name)
    return table, rows_of(con, table)


def workbook(*rows: str, before: str = "", after: str = "", date1904: bool = False) -> bytes:
    sheet = sheet_xml(*rows, before=before, after=after)
    return zipped(parts({"Repo": sheet}, date1904=date1904))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "book.xlsx"


def test_cells_are_raw(path: Path) -> None:
    """Text stays text, 365.0 is 365, booleans and dates are words, blanks are NULL."""
    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet()
        day, moment, time, hours = (
            book.add_format({"num_format": form})
            for form in ("yyyy-mm-dd", "yyyy-mm-dd hh:mm:ss", "hh:mm:ss", "[h]:mm")
        )
        sheet.write_row(0, 0, list("abcdefgh"))
        sheet.write_row(1, 0, ["None", "NA", "007", " x ", 365, 1.5, -0.0, 1e-7])
        sheet.write_boolean(2, 0, True)
        sheet.write_datetime(2, 1, dt.date(2026, 1, 2), day)
        sheet.write_datetime(2, 2, dt.datetime.fromisoformat("2026-01-02T03:04:05"), moment)
        sheet.write_datetime(2, 3, dt.time(3, 4, 5), time)
        sheet.write_number(2, 4, 1.25, hours)
        sheet.write_number(2, 5, 999999999999999)
        sheet.write_formula(2, 6, "=1+1", None, 2)
    con = duckdb.connect()
    table = xlsx.read(con, "t", XlsxSource(), file=path)
    assert rows_of(con, table) == [
        (2, "None", "NA", "007", " x ", "365", "1.5", "0", "0.0000001"),
        (
            3, "true", "2026-01-02", "2026-01-02T03:04:05", "03:04:05", "PT30H0M0S",
            "999999999999999", "2", None,
        ),
    ]  # fmt: skip
    assert table.bad_cells == {}
    assert table.findings == ()


def test_dates_of_1904(path: Path) -> None:
    """A workbook of the 1904 system gives the dates that it shows."""
    cell = '<c r="A2" s="1"><v>1</v></c>'
    content = workbook(row(1, text_cell("A1", "day")), row(2, cell), date1904=True)
    assert load(path, content)[1] == [(2, "1904-01-02")]


def test_numbers_that_lost_digits(path: Path) -> None:
    """A whole number beyond 15 digits is a bad cell: Excel has lost the last of them."""
    content = workbook(HEADER, row(2, text_cell("A2", "x"), number_cell("B2", 12345678901234567)))
    table, rows = load(path, content)
    assert rows[0][2].startswith("123456789012345")
    assert list(table.bad_cells) == [(2, "days")]
    assert table.bad_cells[2, "days"].startswith("DS-NUM-PRECISION B2 ")


def test_error_cells_and_formulas(path: Path) -> None:
    """Error values and formulas never calculated are bad cells with their address."""
    content = workbook(
        HEADER,
        row(2, text_cell("A2", "x"), '<c r="B2" t="e"><f>NA()</f><v>#N/A</v></c>'),
        row(3, text_cell("A3", "y"), '<c r="B3"><f>1+1</f></c>'),
        row(4, text_cell("A4", "z"), '<c r="B4"><f>1+1</f><v>2</v></c>'),
        row(5, '<c r="A5" t="e"><v>#REF!</v></c>'),
        row(6, text_cell("A6", 't="e" &lt;f>')),
        row(7, text_cell("A7", "u"), '<c r="B7"><f>1+1</f><v></v></c>'),
        row(8, text_cell("A8", "v"), '<c r="B8" t="str"><f>""</f><v></v></c>'),
    )
    table, rows = load(path, content)
    assert rows == [
        (2, "x", None),
        (3, "y", None),
        (4, "z", "2"),
        (5, None, None),
        (6, 't="e" <f>', None),
        (7, "u", None),
        (8, "v", None),
    ]
    assert {cell: text[:20] for cell, text in table.bad_cells.items()} == {
        (2, "days"): "DS-XLS-ERRCELL B2 is",
        (3, "days"): "DS-XLS-FORMULA B3 is",
        (5, "name"): "DS-XLS-ERRCELL A5 is",
        (7, "days"): "DS-XLS-FORMULA B7 is",
    }
    assert "#N/A" in table.bad_cells[2, "days"]
    assert str(table.place(3, "days")) == "book.xlsx Repo!B3"


def test_single_quotes_and_prefixes(path: Path) -> None:
    """XML written another way says the same."""
    bad = "<x:c r='B2' t='e'><x:v>#N/A</x:v></x:c>"
    name = "<x:c r='A{0}' t='inlineStr'><x:is><x:t>name</x:t></x:is></x:c>"
    days = "<x:c r='B1' t='inlineStr'><x:is><x:t>days</x:t></x:is></x:c>"
    sheet = (
        "<x:worksheet xmlns:x='http://schemas.openxmlformats.org/spreadsheetml/2006/main'>"
        f"<x:sheetData><x:row r='1'>{name.format(1)}{days}</x:row>"
        f"<x:row r='2'>{name.format(2)}{bad}</x:row></x:sheetData></x:worksheet>"
    )
    table, rows = load(path, zipped(parts({"Repo": sheet})))
    assert rows == [(2, "name", None)]
    assert list(table.bad_cells) == [(2, "days")]


def test_merged_and_hidden(path: Path) -> None:
    """Cells under a merge are bad cells; merges, hidden rows, columns and filters are warnings."""
    content = workbook(
        HEADER,
        GOOD,
        row(3, text_cell("A3", "beta"), attributes=' hidden="1"'),
        row(4, number_cell("B4", 1)),
        before='<cols><col min="2" max="3" hidden="1"/></cols>',
        after='<autoFilter ref="A1:B4"><filterColumn colId="0"/></autoFilter>'
        '<mergeCells count="1"><mergeCell ref="A3:A4"/></mergeCells>',
    )
    table, rows = load(path, content)
    assert rows == [(2, "alpha", "365"), (3, "beta", None), (4, None, "1")]
    assert list(table.bad_cells) == [(4, "name")]
    assert "A3:A4" in table.bad_cells[4, "name"]
    assert [(f.severity, f.code) for f in table.findings] == [
        ("warn", "DS-XLS-MERGED"),
        ("warn", "DS-XLS-HIDDEN"),
        ("warn", "DS-XLS-HIDDEN"),
        ("warn", "DS-XLS-HIDDEN"),
    ]
    assert all(f.hint and f.place and f.place.sheet == "Repo" for f in table.findings)


def test_headers_are_normalised(path: Path) -> None:
    """Invisible characters and line breaks in a header are undone, with a warning."""
    head = row(
        1,
        text_cell("A1", "policy\u00a0name"),
        text_cell("B1", "re\u200bpo"),
        text_cell("C1", " c "),
    )
    table, _ = load(path, workbook(head, row(2, text_cell("A2", "x"))))
    assert [(h.name, h.letter) for h in table.headers] == [
        ("policy name", "A"),
        ("repo", "B"),
        ("c", "C"),
    ]
    assert [(f.code, f.severity, f.place and f.place.cell) for f in table.findings] == [
        ("DS-COL-NAME", "warn", "A1"),
        ("DS-COL-NAME", "warn", "B1"),
    ]


def test_rows_keep_their_numbers(path: Path) -> None:
    """Blank rows and a table that begins elsewhere do not change row numbers and letters."""
    content = workbook(
        row(3, text_cell("C3", "name"), text_cell("E3", "days")),
        row(7, text_cell("C7", "alpha"), number_cell("E7", 1)),
        row(9, text_cell("C9", "beta")),
    )
    table, rows = load(path, content, header_row=3)
    assert rows == [(7, "alpha", "1"), (9, "beta", None)]
    assert [(h.name, h.letter) for h in table.headers] == [("name", "C"), ("days", "E")]


def test_claimed_rows_cost_nothing(path: Path) -> None:
    """A styled blank cell in the last row and column costs no memory."""
    content = workbook(
        HEADER, GOOD, row(1048576, '<c r="XFD1048576" s="1"/>'), before='<dimension ref="A1:XFD9"/>'
    )
    tracemalloc.start()
    table, rows = load(path, content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == [(2, "alpha", "365")]
    assert table.bad_cells == {}
    assert peak < 20 << 20


def test_header_only(path: Path) -> None:
    """A sheet with a header alone is a table without rows."""
    assert load(path, workbook(HEADER))[1] == []


def test_characters_refused(path: Path) -> None:
    """NUL, U+E000 and U+E001 in a cell are findings with its address."""
    content = workbook(
        HEADER,
        row(2, text_cell("A2", "a\ue000b")),
        row(3, text_cell("A3", "x"), text_cell("B3", "_x0000_")),
    )
    table, _ = load(path, content)
    assert [(f.code, f.severity, f.row, str(f.place)) for f in table.findings] == [
        ("DS-TXT-UNICODE", "error", 2, "book.xlsx Repo!A2"),
        ("DS-TXT-UNICODE", "error", 3, "book.xlsx Repo!B3"),
    ]


def test_active_content_is_ignored(path: Path) -> None:
    """Macros and external links are neither used nor fetched, and told."""
    more = {"xl/vbaProject.bin": b"x", "xl/externalLinks/externalLink1.xml": b"<x/>"}
    table, rows = load(path, zipped(parts({"Repo": sheet_xml(HEADER, GOOD)}) | more))
    assert rows == [(2, "alpha", "365")]
    (finding,) = table.findings
    assert (finding.code, finding.severity) == ("DS-XLS-ACTIVE", "warn")


def two_sheets(path: Path) -> Path:
    path.write_bytes(
        zipped(
            parts(
                {
                    " Repositories ": sheet_xml(HEADER, GOOD),
                    "RP": sheet_xml(HEADER, row(2, text_cell("A2", "rule"))),
                }
            )
        )
    )
    return path


def test_sheets_by_name_and_alias(path: Path, tmp_path: Path) -> None:
    """Sheets are found without case and blanks, by name or alias; a further one may be missing."""
    two_sheets(path)
    con = duckdb.connect()
    spec = XlsxSource(
        path="book.xlsx",
        sheet="Repo",
        aliases=["repositories"],
        sheets={"RoutingPolicy": ["rp"], "Missing": ["none"]},
    )
    tables = read(con, "p", Source(xlsx=spec), base=tmp_path)
    assert list(tables) == ["Repo", "RoutingPolicy", "Missing"]
    assert [table.name for table in tables.values()] == [
        "p__Repo",
        "p__RoutingPolicy",
        "p__Missing",
    ]
    assert rows_of(con, tables["Repo"]) == [(2, "alpha", "365")]
    assert rows_of(con, tables["RoutingPolicy"]) == [(2, "rule", None)]
    assert rows_of(con, tables["Missing"]) == []
    assert tables["Repo"].sheet == " Repositories "


def test_near_sheet_names(path: Path) -> None:
    """A wrong sheet name is answered with near ones, or with all."""
    two_sheets(path)
    with pytest.raises(Invalid) as caught:
        xlsx.read(duckdb.connect(), "t", XlsxSource(sheet="Repositorys"), file=path)
    assert "did you mean  Repositories ?" in str(caught.value.hint)
    with pytest.raises(Invalid) as caught:
        xlsx.read(duckdb.connect(), "t", XlsxSource(sheet="Quux"), file=path)
    assert "the sheets are:  Repositories , RP" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", b"name,days\nalpha,365\n"),
        ("rows.TSV", b"name\tdays\nalpha\t365\n"),
        ("rows.json", b'[{"name":"alpha","days":365}]'),
        ("rows.ndjson", b'{"name":"alpha","days":365}\n'),
        ("rows.jsonl", b'{"name":"alpha","days":365}\n'),
        ("rows.xlsx", workbook(HEADER, GOOD)),
    ],
)
def test_rows_instead(name: str, content: bytes, tmp_path: Path) -> None:
    """A file given instead of the profile's plays its main sheet, whatever its kind."""
    (tmp_path / name).write_bytes(content)
    con = duckdb.connect()
    spec = XlsxSource(path="missing.xlsx", sheet="Repo", sheets={"Other": []})
    tables = read(con, "p", Source(xlsx=spec), base=tmp_path, override=Path(name))
    assert list(tables) == ["Repo", "Other"]
    assert [r[1:] for r in rows_of(con, tables["Repo"])] == [("alpha", "365")]
    assert rows_of(con, tables["Other"]) == []
    tables = read(con, "q", Source(csv=CsvSource()), base=tmp_path, override=Path(name))
    assert list(tables) == ["source"]
    assert [r[1:] for r in rows_of(con, tables["source"])] == [("alpha", "365")]


# What XML, or calamine's reading of `_xHHHH_`, would change is left out.
CELLS = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"), exclude_characters="_"),
    max_size=8,
) | st.sampled_from(["", " ", "None", "NA", "=1+1", "365.0", "007", '"', "a\nb", "true"])
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=9)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=TABLES)
def test_same_rows_as_csv(rows: list[list[str]], tmp_path: Path) -> None:
    """The same texts as workbook and as CSV give the same table."""
    head = [f"h{index}" for index in range(len(rows[0]))]
    with (tmp_path / "r.csv").open("w", encoding="utf-8", newline="") as out:
        stdlib_csv.writer(out, quoting=stdlib_csv.QUOTE_ALL).writerows([head, *rows])
    with xlsxwriter.Workbook(tmp_path / "r.xlsx") as book:
        sheet = book.add_worksheet()
        for number, cells in enumerate([head, *rows]):
            for column, cell in enumerate(cells):
                sheet.write_string(number, column, cell)
    con = duckdb.connect()
    left = csv.read(con, "c", CsvSource(delimiter=","), file=tmp_path / "r.csv")
    right = xlsx.read(con, "x", XlsxSource(), file=tmp_path / "r.xlsx")
    assert rows_of(con, left) == rows_of(con, right)
