"""CSV sources: what is accepted, and what the rows are then."""

from __future__ import annotations

import csv as stdlib_csv
import hashlib
import io
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dsync.errors import Faults, Invalid
from dsync.profile import CsvSource, Source
from dsync.sources import SourceTable, csv, drop, read

pytestmark = pytest.mark.unit

Rows = list[tuple[object, ...]]


def load(path: Path, content: bytes, **spec: str) -> tuple[SourceTable, Rows]:
    path.write_bytes(content)
    con = duckdb.connect()
    table = csv.read(con, "t", CsvSource.model_validate(spec), file=path, shown=path.name)
    rows = con.execute("SELECT * FROM t ORDER BY _row").fetchall()
    assert table.rows == len(rows)
    return table, rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


@pytest.mark.parametrize(
    ("content", "spec"),
    [
        (b"name,days\nalpha,365\nbeta,\n", {}),
        (b"name,days\nalpha,365\nbeta,", {}),
        (b"name;days\nalpha;365\nbeta;\n", {}),
        (b"name\tdays\nalpha\t365\nbeta\t\n", {}),
        (b"name|days\nalpha|365\nbeta|\n", {}),
        (b"name:days\nalpha:365\nbeta:\n", {"delimiter": ":"}),
        (b"name,days\r\nalpha,365\r\nbeta,\r\n", {}),
        (b"name,days\ralpha,365\rbeta,\r", {}),
        (b"name,days\r\nalpha,365\nbeta,\r", {}),
        (b"\xef\xbb\xbfname,days\nalpha,365\nbeta,\n", {}),
        (b'\xef\xbb\xbf"name",days\nalpha,365\nbeta,""\n', {"encoding": "utf-8"}),
        (b"'name','days'\n'alpha',365\n'beta',''\n", {"quote": "'"}),
        (b" name , days \nalpha,365\nbeta,\n", {}),
        (b"name,days,\nalpha,365,\nbeta,,\n", {}),
        (b"name,,days\nalpha,,365\nbeta,,\n", {}),
        (b"name,days\n\nalpha,365,\n\nbeta,,,\n\n", {}),
        ("name,days\nalpha,365\nbeta,\n".encode("utf-16"), {}),
        ("name,days\nalpha,365\nbeta,\n".encode("utf-16-be"), {"encoding": "UTF-16BE"}),
        (b"name,days\nalpha,365\nbeta,\n", {"encoding": "latin-1"}),
    ],
)
def test_shapes(content: bytes, spec: dict[str, str], path: Path) -> None:
    """Delimiters, line ends, marks, quotes and encodings are found out or told, all alike."""
    table, rows = load(path, content, **spec)
    assert rows == [(2, "alpha", "365"), (3, "beta", None)]
    assert [header.name for header in table.headers] == ["name", "days"]
    assert table.digest == hashlib.sha256(content).hexdigest()
    assert table.findings == ()


def test_words_stay_text(path: Path) -> None:
    """NULL, None, NA, nan and \\N are values; blank cells are NULL, quoted or not."""
    _, rows = load(path, b'a,b,c,d\nNULL,None,NA,\\N\nnan,null,"","x"\n')
    assert rows == [(2, "NULL", "None", "NA", "\\N"), (3, "nan", "null", None, "x")]


def test_cells_are_raw(path: Path) -> None:
    """Blanks, leading zeros, formulas and line ends inside quotes are kept."""
    _, rows = load(path, b'a,b,c\n  x ,007,"=1+1"\n"1\n\r\n2","a""b",\xc2\xa0\n')
    assert rows == [(2, "  x ", "007", "=1+1"), (3, "1\n\r\n2", 'a"b', "\u00a0")]


def test_rows_count_records(path: Path) -> None:
    """`_row` counts records: lines inside a cell do not count, wholly blank records do."""
    _, rows = load(path, b'a,b\n"x\ny\nz",1\n,\n\nlast,2\n')
    assert rows == [(2, "x\ny\nz", "1"), (4, "last", "2")]


def test_one_column(path: Path) -> None:
    """In a file of one column an empty line is a blank cell, left out but counted."""
    _, rows = load(path, b"name\nalpha\n\nbeta\n")
    assert rows == [(2, "alpha"), (4, "beta")]


def test_header_only(path: Path) -> None:
    """A header alone is a table without rows."""
    table, rows = load(path, b"a,b\n")
    assert (table.rows, rows) == (0, [])


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_header_over_lines(mark: bytes, path: Path) -> None:
    """A header with line breaks is one line in the name."""
    table, rows = load(path, mark + b'"retention\r\n  days",b\r\n1,2\r\n')
    assert [header.name for header in table.headers] == ["retention days", "b"]
    assert rows == [(2, "1", "2")]


def test_names_that_duckdb_uses(path: Path) -> None:
    """Columns called rowid, c0 or select are columns."""
    _, rows = load(path, b'rowid,c0,select,"a""b"\n1,2,3,4\n')
    assert rows == [(2, "1", "2", "3", "4")]


def test_all_width_faults_at_once(path: Path) -> None:
    """Records of a wrong width are told together, twenty at most."""
    with pytest.raises(Faults) as caught:
        load(path, b"a,b\n1\n1,2\n1,2,3\n" + b"9\n" * 50)
    places = [fault.where.row for fault in caught.value.faults]
    assert places[:3] == [2, 4, 5]
    assert len(places) == 20


def test_private_characters(path: Path) -> None:
    """U+E000 and U+E001 in a cell are findings on its row; other private characters pass."""
    table, rows = load(path, "a,b\n1,x\ue000\n2,\ue002\n\ue001,4\n".encode())
    assert len(rows) == 3
    assert [(f.row, f.place and f.place.cell, f.severity) for f in table.findings] == [
        (2, "b", "error"),
        (4, "a", "error"),
    ]
    assert {f.code for f in table.findings} == {"DS-TXT-UNICODE"}
    assert all(f.hint for f in table.findings)


def test_long_cells(path: Path) -> None:
    """Cells longer than the fast reader takes are read all the same."""
    _, rows = load(path, b"a,b\n1," + b"x" * 3_000_000 + b'\n2,"' + b"y" * 5_000_000 + b'"\n')
    assert [(row[0], len(str(row[2]))) for row in rows] == [(2, 3_000_000), (3, 5_000_000)]


def test_order_and_numbers_of_many_rows(path: Path) -> None:
    """Rows keep their order and number when several threads read the file."""
    rows = (f'{i},"line\n{i}, ""q"" {"x" * (i % 90)}"\n' for i in range(400_000))
    text = "id,text\n" + "".join(rows)
    path.write_text(text)
    con = duckdb.connect()
    table = csv.read(con, "t", CsvSource(), file=path)
    assert table.rows == 400_000
    wrong = con.execute(
        "SELECT count(*) FROM t WHERE id::BIGINT <> _row - 2 OR length(text) <> "
        "length('line ' || id || ', \"q\" ') + id::BIGINT % 90"
    ).fetchall()
    assert wrong == [(0,)]


def test_dispatch(tmp_path: Path) -> None:
    """A profile's csv is the table `source`; it can be dropped again."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "r.csv").write_text("a\n1\n")
    con = duckdb.connect()
    source = Source(csv=CsvSource(path="in/r.csv"))
    (key, table), *more = read(con, "p", source, base=tmp_path).items()
    assert (key, table.name, table.file, more) == ("source", "p__source", "in/r.csv", [])
    assert str(table.place(2, "a")) == "in/r.csv row 2, column a"
    drop(con, table)
    assert con.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]
    assert read(con, "p", source, base=tmp_path)["source"].rows == 1


@pytest.mark.parametrize(
    ("content", "calls"),
    [
        (b"a,b\n1,2\n", ["view"]),
        (b"a,b\r\n1,2\n", ["view", "table"]),  # mixed line ends
        ("a,b\n1,2\n".encode("utf-16"), ["table"]),
        (b'"a\n",b\n1,2\n', ["table"]),
    ],
)
def test_use_while_it_streams(content: bytes, calls: list[str], path: Path) -> None:
    """A use sees the rows as they stream by, or stored when the file must be read exactly."""
    path.write_bytes(content)
    con = duckdb.connect()
    seen: list[str] = []
    rows: Rows = []

    def use(table: SourceTable) -> None:
        seen.append("table" if table.storage else "view")
        rows[:] = con.execute(f'SELECT a, b FROM "{table.name}"').fetchall()

    table = csv.read(con, "t", CsvSource(), file=path, use=use)
    assert (seen, rows) == (calls, [("1", "2")])
    assert table.digest == hashlib.sha256(content).hexdigest()


def test_use_of_a_bad_file(path: Path) -> None:
    """A fault in a file that streams is named like any other, after the use."""
    path.write_bytes(b"a,b\n1,2\n1,\0\n")
    con = duckdb.connect()
    with pytest.raises(Invalid) as caught:
        csv.read(con, "t", CsvSource(), file=path, use=lambda table: None)
    assert (caught.value.code, str(caught.value.where)) == ("DS-CSV-NUL", f"{path} row 3")
    assert con.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]


CELLS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\ue000\ue001"), max_size=8
) | st.sampled_from(["", " ", '"', '""', ",", "\n", "\r\n", "\r", " x", '"x"', "é", "None", "NULL"])
TABLES = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=12)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=TABLES, delimiter=st.sampled_from(",;\t|"), end=st.sampled_from(["\n", "\r\n", "\r"]))
@example(rows=[['"', ""], ["\r\n", " "]], delimiter=",", end="\n")
def test_round_trip(rows: list[list[str]], delimiter: str, end: str, tmp_path: Path) -> None:
    """What is written as CSV is read as it was, but for blank cells and blank rows."""
    width = len(rows[0]) if rows else 2
    out = io.StringIO()
    writer = stdlib_csv.writer(
        out, delimiter=delimiter, lineterminator=end, quoting=stdlib_csv.QUOTE_ALL
    )
    writer.writerow([f"h{index}" for index in range(width)])
    writer.writerows(rows)
    _, found = load(tmp_path / "r.csv", out.getvalue().encode(), delimiter=delimiter)
    wanted = [
        (number, *(cell or None for cell in row)) for number, row in enumerate(rows, 2) if any(row)
    ]
    assert found == wanted


RAW = st.lists(
    st.sampled_from(["a", "b", ",", ",", '"', '"', '""', "\n", "\n", "\r\n", "\r", " ", "é"]),
    max_size=30,
).map("".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=RAW, width=st.integers(2, 3))
def test_both_readers_agree(
    text: str, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever DuckDB's reader accepts, the exact scanner reads in the same way."""
    path = tmp_path / "r.csv"
    content = ",".join("xyz"[:width]).encode() + b"\n" + text.encode()

    def refuse(*args: object, **options: object) -> None:
        raise duckdb.InvalidInputException("not today")

    outcomes = []
    for exactly in (False, True):
        with monkeypatch.context() as patch:
            if exactly:
                patch.setattr(csv, "_load_fast", refuse)
            try:
                outcomes.append(load(path, content, delimiter=",")[1])
            except Invalid as error:
                outcomes.append([(error.code, str(error.where))])
    assert outcomes[0] == outcomes[1]
