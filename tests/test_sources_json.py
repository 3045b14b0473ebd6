"""JSON and parquet sources: shapes, exact numbers, and types."""

from __future__ import annotations

import json as stdlib_json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsync.errors import Invalid
from dsync.profile import JsonSource, ParquetSource
from dsync.sources import SourceTable, json, parquet

pytestmark = pytest.mark.unit

Rows = list[tuple[Any, ...]]


def load(path: Path, content: bytes, **spec: str) -> tuple[SourceTable, Rows, list[str]]:
    path.write_bytes(content)
    con = duckdb.connect()
    table = json.read(con, "t", JsonSource(**spec), file=path, shown=path.name)
    rows = con.execute("SELECT * FROM t ORDER BY _row").fetchall()
    types = [row[1] for row in con.execute("DESCRIBE t").fetchall()]
    assert table.rows == len(rows)
    assert types[0] == "BIGINT"
    return table, rows, types[1:]


@pytest.mark.parametrize(
    ("name", "content", "records"),
    [
        ("r.json", b'[{"a":1,"b":"x"},{"b":"y"}]', "@"),
        ("r.json", b'\xef\xbb\xbf [\n{"a":1,"b":"x"},\n{"b":"y"}\n]\n', "@"),
        ("r.json", b'{"a":1,"b":"x"}\n{"b":"y"}\n', "@"),
        ("r.ndjson", b'{"a":1,"b":"x"}\n\n{"b":"y"}', "@"),
        ("r.jsonl", b'\xef\xbb\xbf{"a":1,"b":"x"}\r\n{"b":"y"}\r\n', "@"),
        ("r.json", b'{"data": {"rows": [{"a":1,"b":"x"},{"b":"y"}]}}', "data.rows"),
        ("r.json", b'{"rows": [{"k":0,"b":"z"},{"a":1,"b":"x","k":2},{"b":"y","k":2}]}',
         "rows[?k > `1`].{a: a, b: b}"),
    ],
)  # fmt: skip
def test_shapes(name: str, content: bytes, records: str, tmp_path: Path) -> None:
    """Arrays, lines and lists inside a document are the same records."""
    table, rows, types = load(tmp_path / name, content, records=records)
    assert rows == [(1, "1", "x"), (2, None, "y")]
    assert types == ["VARCHAR", "VARCHAR"]
    assert [header.name for header in table.headers] == ["a", "b"]


def test_types(tmp_path: Path) -> None:
    """Scalars are text; a column with an object or a list anywhere is JSON throughout."""
    content = b"""[
        {"s": "x", "t": true, "n": 1.5, "l": [1, 2.5], "o": {"k": null}, "m": 1},
        {"s": "", "t": null, "m": [1]},
        {"s": "null", "m": "x"},
        {},
        {"z": "late"}
    ]"""
    _, rows, types = load(tmp_path / "r.json", content)
    assert types == ["VARCHAR", "VARCHAR", "VARCHAR", "JSON", "JSON", "JSON", "VARCHAR"]
    assert rows == [
        (1, "x", "true", "1.5", "[1,2.5]", '{"k":null}', "1", None),
        (2, "", None, None, None, None, "[1]", None),
        (3, "null", None, None, None, None, '"x"', None),
        (5, None, None, None, None, None, None, "late"),
    ]


@pytest.mark.parametrize(
    "number",
    ["12345678901234567890123", "0.12345678901234567890123", "1e400", "18446744073709551616",
     "0.1", "-7"],
)  # fmt: skip
def test_numbers_are_exact(number: str, tmp_path: Path) -> None:
    """No digit of a number is lost."""
    _, rows, _ = load(tmp_path / "r.json", b'[{"a":' + number.encode() + b"}]")
    assert rows == [(1, number)]


@pytest.mark.parametrize("content", [b"[]", b"[{}]", b"[{},{}]"])
def test_no_records(content: bytes, tmp_path: Path) -> None:
    """A list without records, or without keys, is a table without rows."""
    table, rows, _ = load(tmp_path / "r.json", content)
    assert (rows, table.headers) == ([], ())


def test_odd_keys(tmp_path: Path) -> None:
    """Keys with dots, quotes and words of SQL are columns."""
    keys = ["a.b", 'a"c', "d'e", "$x", "select", "rowid", "h i"]
    _, rows, _ = load(tmp_path / "r.json", stdlib_json.dumps([dict.fromkeys(keys, "v")]).encode())
    assert rows == [(1, *("v" for _ in keys))]


def test_characters_refused(tmp_path: Path) -> None:
    """NUL, U+E000 and U+E001 are findings, also when escaped or inside lists."""
    content = b'[{"a":"\\u0000"},{"b":["\\ue000"]},{"b":["\\u0000"]},{"a":"\\uE001"},{"a":"ok"}]'
    table, rows, _ = load(tmp_path / "r.json", content)
    assert len(rows) == 5
    assert {f.code for f in table.findings} == {"DS-TXT-UNICODE"}
    assert [f.row for f in table.findings] == [1, 2, 3, 4]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0\ue000\ue001"), max_size=6)
)
KEYS = st.sampled_from(["a", "b", "c d", "é"])
RECORDS = st.lists(
    st.dictionaries(KEYS, SCALARS | st.lists(SCALARS, max_size=3), max_size=4), max_size=6
)


def as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return stdlib_json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS, lines=st.booleans())
def test_round_trip(records: list[dict[str, Any]], lines: bool, tmp_path: Path) -> None:
    """Every value of every record arrives, in its row and column."""
    path = tmp_path / ("r.ndjson" if lines else "r.json")
    texts = [stdlib_json.dumps(record) for record in records]
    if lines and not texts:
        return
    content = "\n".join(texts) if lines else "[" + ",".join(texts) + "]"
    table, rows, types = load(path, content.encode())
    names = [header.name for header in table.headers]
    wanted = []
    for number, record in enumerate(records, 1):
        if any(value is not None for value in record.values()):
            cells = [record.get(name) for name in names]
            wanted.append((number, *map(as_text, cells)))
    found = [
        (row[0], *(as_text(stdlib_json.loads(cell)) if kind == "JSON" and cell is not None else cell
                   for kind, cell in zip(types, row[1:], strict=True)))
        for row in rows
    ]  # fmt: skip
    assert found == wanted


def parquet_file(path: Path, select: str) -> Path:
    duckdb.connect().execute(f"COPY ({select}) TO '{path}' (FORMAT parquet)").fetchall()
    return path


def test_parquet_is_typed(tmp_path: Path) -> None:
    """A parquet file keeps its types and order; rows count from 1, blank ones are left out."""
    path = parquet_file(
        tmp_path / "r.parquet",
        "SELECT * FROM (VALUES (1, 'x', [1, 2], {'k': DATE '2026-01-02'}), "
        "(NULL, NULL, NULL, NULL), (3, '', [], NULL)) t(id, \" name \", list, object)",
    )
    con = duckdb.connect()
    table = parquet.read(con, "t", ParquetSource(), file=path)
    described = [row[:2] for row in con.execute("DESCRIBE t").fetchall()]
    assert described == [
        ("_row", "BIGINT"),
        ("id", "INTEGER"),
        ("name", "VARCHAR"),
        ("list", "INTEGER[]"),
        ("object", "STRUCT(k DATE)"),
    ]
    assert con.execute("SELECT _row, id, name FROM t").fetchall() == [(1, 1, "x"), (3, 3, "")]
    assert table.rows == 2
    assert len(table.digest) == 64


def test_parquet_characters(tmp_path: Path) -> None:
    """Characters that are refused are found in texts, lists and structures."""
    path = parquet_file(
        tmp_path / "r.parquet",
        "SELECT * FROM (VALUES ('ok', ['a']), ('x' || chr(57344), ['a']), ('ok', [chr(57345)])) "
        "t(a, b)",
    )
    table = parquet.read(duckdb.connect(), "t", ParquetSource(), file=path)
    assert [(f.code, f.row, f.place and f.place.cell) for f in table.findings] == [
        ("DS-TXT-UNICODE", 2, "a"),
        ("DS-TXT-UNICODE", 3, "b"),
    ]


def test_parquet_headers(tmp_path: Path) -> None:
    """Columns that differ in blanks or case alone are refused."""
    path = parquet_file(tmp_path / "r.parquet", 'SELECT 1 AS a, 2 AS " A"')
    with pytest.raises(Invalid) as caught:
        parquet.read(duckdb.connect(), "t", ParquetSource(), file=path)
    assert caught.value.code == "DS-COL-DUP"
    assert caught.value.hint
