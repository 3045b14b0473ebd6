"""SQL sources: SQLite, DuckDB and a real PostgreSQL give the same rows, and nothing is written."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsync import address, config, secrets
from dsync.address import Database
from dsync.database import Engine
from dsync.errors import DsyncError, Faults, Invalid, Place, Unauthorized, Unavailable
from dsync.profile import SqlSource
from dsync.secrets import Reference
from dsync.sources import _roads, sql
from postgres_server import Postgres, postgres

__all__ = ["postgres"]
pytestmark = pytest.mark.integration

HERE = Place(file="profiles/items.yml", line=4, column=9)


def database(text: str, base: Path, *, user: str = "", **given: Any) -> Database:
    credentials = {"user": Reference(text=user, name="user", where=Place(), base=base, environ={})}
    return Database(
        name="erp",
        address=address.parse(text, Place(file="directorsync.yml"), base=base),
        credentials=credentials if user else {},
        **given,
    )


def asked(
    db: Database,
    statement: str,
    *,
    dialect: Any = None,
    params: Mapping[str, Any] | None = None,
    context: Mapping[str, str] | None = None,
) -> sql.Question:
    spec = SqlSource(
        connection="erp", statement=statement, dialect=dialect, params=dict(params or {})
    )
    return sql.question(spec, db, folders=[], root=Path(), place=HERE, context=dict(context or {}))


def rows(answer: sql.Answer) -> tuple[dict[str, str], list[tuple[Any, ...]]]:
    """(column -> type), and the rows without `_row`, as the kernel has them."""
    with duckdb.connect() as con:
        table = sql.read(con, "t", answer)
        described = con.execute("DESCRIBE t").fetchall()
        values = con.execute("SELECT * EXCLUDE (_row) FROM t ORDER BY _row").fetchall()
        numbers = [row for (row,) in con.execute("SELECT _row FROM t ORDER BY 1").fetchall()]
    assert table.rows == len(values)
    assert numbers == list(range(1, len(values) + 1))
    return {row[0]: row[1] for row in described if row[0] != "_row"}, values


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., sql.Answer]:
    def do(db: Database, statement: str, **given: Any) -> sql.Answer:
        question = asked(db, statement, **given)
        return sql.ask(question, tmp_path / "answer.parquet", engine=Engine())

    return do


ITEMS = """
CREATE TABLE items (
  id {int}, name {text}, price {decimal}, since {date}, seen {timestamp}, active {boolean},
  share {double}
)"""
WORDS = {
    "sqlite": ("INTEGER", "NVARCHAR(40)", "DECIMAL(10,2)", "DATE", "DATETIME", "BIT", "REAL"),
    "duckdb": ("BIGINT", "VARCHAR", "DECIMAL(10,2)", "DATE", "TIMESTAMP", "BOOLEAN", "DOUBLE"),
    "postgresql": (
        "bigint", "text", "numeric(10,2)", "date", "timestamp", "boolean", "double precision",
    ),
}  # fmt: skip
TYPES = {
    "id": "BIGINT", "name": "VARCHAR", "price": "DECIMAL(10,2)", "since": "DATE",
    "seen": "TIMESTAMP", "active": "BOOLEAN", "share": "DOUBLE",
}  # fmt: skip


def moment(text: str) -> dt.datetime:
    """A date with a time, without a zone: what databases call a timestamp."""
    return dt.datetime.fromisoformat(text)


ROWS: list[tuple[Any, ...]] = [
    (1, "Émile Zoë", Decimal("12.50"), dt.date(1900, 1, 1), moment("2026-03-29 02:30"), True, 0.1),
    (2, "007", Decimal("0.00"), dt.date(2099, 12, 31), moment("2099-12-31"), False, -2.5),
    (9007199254740993, " padded ", None, None, None, None, None),
]  # fmt: skip
KINDS = ["sqlite", "duckdb", "postgresql", "postgresql+psycopg"]


def fill(kind: str, folder: Path, postgres: Postgres, records: list[tuple[Any, ...]]) -> Database:
    """A database of a kind with the table `items`."""
    kind = kind.partition("+")[0]
    words = dict(
        zip("int text decimal date timestamp boolean double".split(), WORDS[kind], strict=True)
    )
    table = ITEMS.format(**words)
    if kind == "sqlite":
        (folder / "erp.db").unlink(missing_ok=True)
        with sqlite3.connect(folder / "erp.db") as con:
            con.execute(table)
            plain = [
                (r[0], r[1], None if r[2] is None else float(r[2]), r[3] and r[3].isoformat(),
                 r[4] and r[4].isoformat(" "), r[5], r[6])
                for r in records
            ]  # fmt: skip
            con.executemany("INSERT INTO items VALUES (?,?,?,?,?,?,?)", plain)
        con.close()
        return database("sqlite:///erp.db", folder)
    if kind == "duckdb":
        (folder / "erp.duckdb").unlink(missing_ok=True)
        with duckdb.connect(folder / "erp.duckdb") as other:
            other.execute(table)
            for record in records:
                other.execute("INSERT INTO items VALUES (?,?,?,?,?,?,?)", record)
        return database("duckdb:///erp.duckdb", folder)
    import psycopg

    postgres.run("DROP TABLE IF EXISTS items CASCADE", table)
    uri = f"host={postgres.socket} dbname={postgres.name} user={postgres.user}"
    with psycopg.connect(uri) as server, server.cursor() as cursor:
        cursor.executemany("INSERT INTO items VALUES (%s,%s,%s,%s,%s,%s,%s)", records)
    return database(postgres.address, folder, user=postgres.user)


def kind_of(kind: str, db: Database) -> Database:
    import dataclasses

    if "+" not in kind:
        return db
    there = dataclasses.replace(db.address, driver=kind.partition("+")[2])
    return dataclasses.replace(db, address=there)


@pytest.mark.parametrize("kind", KINDS)
def test_types_are_kept(
    kind: str, tmp_path: Path, postgres: Postgres, ask: Callable[..., sql.Answer]
) -> None:
    """Every database gives the same types and values: no float for an integer, NULL stays NULL."""
    db = kind_of(kind, fill(kind, tmp_path, postgres, ROWS))
    types, values = rows(ask(db, "SELECT * FROM items ORDER BY id"))
    assert types == TYPES
    assert values == ROWS


_TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Co"]), min_size=1, max_size=20
)
RECORDS = st.lists(
    st.tuples(
        st.integers(-(2**63), 2**63 - 1),
        st.none() | _TEXTS,
        st.none() | st.decimals(-99_999_999, 99_999_999, places=2),
        st.none() | st.dates(dt.date(1753, 1, 1), dt.date(9999, 12, 31)),
        st.none() | st.datetimes(moment("1753-01-01"), moment("9999-12-31")),
        st.none() | st.booleans(),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
    ),
    max_size=8,
    unique_by=lambda record: record[0],
)


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(records=RECORDS)
def test_any_row_survives(
    kind: str,
    records: list[tuple[Any, ...]],
    tmp_path: Path,
    postgres: Postgres,
    ask: Callable[..., sql.Answer],
) -> None:
    """Whatever stands in a table of these types comes out as it went in."""
    db = kind_of(kind, fill(kind, tmp_path, postgres, records))
    types, values = rows(ask(db, "SELECT * FROM items ORDER BY id"))
    assert values == sorted(records)
    if records or kind != "sqlite":
        assert types == TYPES


def test_postgres_types(postgres: Postgres, ask: Callable[..., sql.Answer]) -> None:
    """Types that only PostgreSQL has become those that a record can hold; NaN is NULL."""
    db = database(postgres.address, Path(), user=postgres.user)
    types, values = rows(
        ask(
            db,
            "SELECT 1::int2 AS small, 1.1::real AS short, 'NaN'::float8 AS nan, "
            "'NaN'::numeric AS nann, 1::numeric/8 AS free, 'ab'::char(4) AS padded, "
            "'6f1c5a3e-0000-4000-8000-000000000001'::uuid AS uid, '{\"a\":1}'::json AS doc, "
            "timestamptz '2026-01-01 12:00+02' AS zoned, array[1,2] AS many, time '12:30' AS at, "
            "interval '1 day' AS span, NULL AS nothing",
        )
    )
    assert types["free"] == "DECIMAL(38,20)"
    assert values[0][:6] == (1, 1.1, None, None, Decimal("0.125"), "ab  ")
    assert values[0][6:10] == (
        "6f1c5a3e-0000-4000-8000-000000000001", '{"a":1}', moment("2026-01-01 10:00"), [1, 2],
    )  # fmt: skip
    assert (types["at"], types["span"], types["nothing"]) == ("TIME", "VARCHAR", "VARCHAR")


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_bound(
    kind: str, tmp_path: Path, postgres: Postgres, ask: Callable[..., sql.Answer]
) -> None:
    """A parameter is a value, whatever its text says; the same one may be used twice."""
    db = kind_of(kind, fill(kind, tmp_path, postgres, ROWS))
    statement = "SELECT name FROM items WHERE name = :n OR :n = name -- :not a parameter"
    assert rows(ask(db, statement, params={"n": "007"}))[1] == [("007",)]
    assert rows(ask(db, statement, params={"n": "x' OR '1'='1"}))[1] == []
    assert rows(ask(db, statement, params={"n": "0${tenant}"}, context={"tenant": "07"}))[1] == [
        ("007",)
    ]
    assert rows(ask(db, "SELECT id FROM items WHERE id > :i", params={"i": 2}))[1] == [
        (9007199254740993,)
    ]


def test_sqlalchemy_road(postgres: Postgres, tmp_path: Path) -> None:
    """The road for all other databases gives the same rows, and colons in texts stay."""
    db = fill("postgresql", tmp_path, postgres, ROWS)
    question = asked(
        kind_of("postgresql+psycopg", db),
        "SELECT id, name, ':n \\' AS odd, since::text AS t FROM items WHERE id = :n",
        params={"n": 2},
    )
    one = _roads.Asked(
        database=question.database, statement=question.statement, params=question.params, place=HERE
    )
    with _roads._sqlalchemy(one) as found:
        assert isinstance(found, _roads.Cells)
        assert [list(map(tuple, batch)) for batch in found.batches] == [
            [(2, "007", ":n \\", "2099-12-31")]
        ]
    writing = _roads.Asked(
        database=question.database,
        statement=_roads.Statement(parts=("DELETE FROM items RETURNING id",), untyped=""),
        params={},
        place=HERE,
    )
    with pytest.raises(Invalid), _roads._sqlalchemy(writing):
        pass


TSQL = """-- users
;WITH numbered AS (
  SELECT [id], [name], ROW_NUMBER() OVER (PARTITION BY [active] ORDER BY [id]) AS rn
  FROM [AgrProd].[dbo].[items] WITH (NOLOCK)
  WHERE [id] < @top
)
SELECT TOP 5 [id], ISNULL([name], '') AS [Name], LEN('abc') AS [l]
FROM numbered WHERE rn <= 10 ORDER BY [id];
"""


@pytest.mark.parametrize("kind", KINDS)
def test_tsql_elsewhere(
    kind: str, tmp_path: Path, postgres: Postgres, ask: Callable[..., sql.Answer]
) -> None:
    """A statement written for SQL Server is asked of any other database."""
    import dataclasses

    db = kind_of(kind, fill(kind, tmp_path, postgres, ROWS))
    where = {"duckdb": "main", "postgresql": "public"}.get(kind.partition("+")[0])
    db = dataclasses.replace(db, schema=where)
    types, values = rows(ask(db, TSQL, dialect="tsql", params={"top": 100}))
    assert values == [(1, "Émile Zoë", 3), (2, "007", 3)]
    assert [name.lower() for name in types] == ["id", "name", "l"]


def test_tsql_unchanged(tmp_path: Path) -> None:
    """SQL Server gets its statement as it is written, save for the parameters."""
    db = database("mssql://erp.example.test/AgrProd", tmp_path)
    statement = asked(db, TSQL, params={"top": 1}).statement
    begin, end = TSQL.index("WITH"), TSQL.rindex(";")
    assert statement.text(lambda name: f"@{name}") == TSQL[begin:end] + "\n"
    swapped = database("mssql://erp.example.test/x", tmp_path, catalog="AgrDev")
    assert "[AgrDev].[dbo].[items]" in asked(swapped, TSQL, params={"top": 1}).statement.parts[0]


WRITING = {
    "INSERT INTO items VALUES (1)": "1:1",
    "SELECT 1 AS a; SELECT 2 AS b": "1:16",
    "SELECT 1 AS a;\nDROP TABLE items": "2:1",
    "WITH gone AS (DELETE FROM items RETURNING *) SELECT * FROM gone": "1:15",
    "WITH x AS (\n  INSERT INTO items VALUES (1) RETURNING *) SELECT * FROM x": "2:3",
    "SELECT * INTO other FROM items": "1:10",
    "SELECT * FROM items FOR UPDATE": "1:21",
    "UPDATE items SET name = 'x'": "1:1",
    "CREATE TABLE other AS SELECT 1": "1:1",
    "SELECT set_config('transaction_read_only', 'off', false)": "1:8",
    "SELECT pg_read_file('/etc/passwd')": "1:8",
    "COPY items TO '/tmp/x'": "1:1",
    "VACUUM": "1:1",
    "": "",
    "-- nothing": "",
}


@pytest.mark.parametrize("text", WRITING)
def test_only_one_select(text: str, tmp_path: Path) -> None:
    """All that is not one SELECT is refused with its place in the file, before any connection."""
    (tmp_path / "x.sql").write_text(text, encoding="utf-8")
    db = database("postgresql://db.example.test/erp", tmp_path)
    spec = SqlSource(connection="erp", file="x.sql")
    with pytest.raises(Invalid) as raised:
        sql.question(spec, db, folders=[tmp_path], root=tmp_path, place=HERE, context={})
    assert raised.value.code == "DS-DB-STATEMENT"
    assert str(raised.value.where) == ":".join(filter(None, ["x.sql", WRITING[text]]))


SYNTAX = {
    "SELECT *\nFROM WHERE a = 1": "x.sql:2:6",
    "SELECT a\nFROM t\nWHERE b = 'open": "x.sql:3:11",
    "SELEC 1": "x.sql:1:7",
    "SELECT (1 FROM t": "x.sql:1:11",
}


@pytest.mark.parametrize("text", SYNTAX)
def test_syntax(text: str, tmp_path: Path) -> None:
    """What cannot be parsed is told with file, line and column."""
    (tmp_path / "x.sql").write_text(text, encoding="utf-8")
    db = database("postgresql://db.example.test/erp", tmp_path)
    spec = SqlSource(connection="erp", file="x.sql")
    with pytest.raises(Invalid) as raised:
        sql.question(spec, db, folders=[tmp_path], root=tmp_path, place=HERE, context={})
    assert raised.value.code == "DS-DB-SYNTAX"
    assert str(raised.value.where) == SYNTAX[text]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_written(kind: str, tmp_path: Path, postgres: Postgres) -> None:
    """Even a statement that nobody checked cannot write: the session reads only."""
    db = kind_of(kind, fill(kind, tmp_path, postgres, ROWS))
    for text in ("DELETE FROM items RETURNING id", "CREATE TABLE other AS SELECT 1 AS a"):
        one = _roads.Asked(
            database=db,
            statement=_roads.Statement(parts=(text,), untyped=text),
            params={},
            place=HERE,
        )
        with pytest.raises(DsyncError), _roads.opened(one) as found:
            for _ in found.batches:
                pass
    question = asked(db, "SELECT count(*) AS n FROM items")
    answer = sql.ask(question, tmp_path / "count.parquet", engine=Engine())
    assert rows(answer)[1] == [(3,)]


def test_duckdb_reaches_no_file(tmp_path: Path, ask: Callable[..., sql.Answer]) -> None:
    """A statement for a DuckDB file reads that file and no other."""
    (tmp_path / "secret.csv").write_text("a\n1\n", encoding="utf-8")
    duckdb.connect(tmp_path / "erp.duckdb").close()
    db = database("duckdb:///erp.duckdb", tmp_path)
    with pytest.raises(Invalid):
        ask(db, f"SELECT * FROM read_csv('{tmp_path}/secret.csv')")


def code_of(call: Callable[[], Any], kind: type[DsyncError] = DsyncError) -> str:
    with pytest.raises(kind) as raised:
        call()
    assert raised.value.hint
    return raised.value.code


@pytest.mark.parametrize("kind", KINDS)
def test_missing_things(
    kind: str, tmp_path: Path, postgres: Postgres, ask: Callable[..., sql.Answer]
) -> None:
    """A missing view and a missing column are named; a wrong statement is told in its words."""
    db = kind_of(kind, fill(kind, tmp_path, postgres, ROWS))
    with pytest.raises(Invalid, match="no_such_view") as raised:
        ask(db, "SELECT * FROM no_such_view")
    assert raised.value.code == "DS-DB-OBJECT"
    assert raised.value.where == HERE
    with pytest.raises(Invalid, match="no_such_column") as raised:
        ask(db, "SELECT no_such_column FROM items")
    assert raised.value.code == "DS-DB-OBJECT"
    assert not (tmp_path / "answer.parquet").exists()


@pytest.mark.parametrize("kind", ["postgresql", "postgresql+psycopg"])
def test_postgres_faults(
    kind: str, tmp_path: Path, postgres: Postgres, ask: Callable[..., sql.Answer]
) -> None:
    """Down, refusing, slow and failing amid the rows are told apart, and no password is shown."""
    password = "a-password-of-twenty"
    secrets.register(password)

    def db(text: str, **given: Any) -> Database:
        return kind_of(kind, database(text, tmp_path, **given))

    down = db(f"postgresql:///x?host={tmp_path}/nowhere", user="u")
    assert code_of(lambda: ask(down, "SELECT 1 AS a"), Unavailable) == "DS-DB-DOWN"
    refused = db("postgresql://127.0.0.1:1/x", user="u")
    assert code_of(lambda: ask(refused, "SELECT 1 AS a"), Unavailable) == "DS-DB-DOWN"
    stranger = db(postgres.address, user="nobody_here")
    with pytest.raises(Unauthorized) as raised:
        ask(stranger, "SELECT 1 AS a")
    assert raised.value.code == "DS-DB-LOGIN"
    assert password not in str(raised.value)
    slow = db(postgres.address, user=postgres.user, timeout_s=0.3)
    assert code_of(lambda: ask(slow, "SELECT pg_sleep(9)"), Unavailable) == "DS-DB-TIMEOUT"
    late = "SELECT i, 1 / (200000 - i) AS x FROM generate_series(1, 300000) AS s(i)"
    here = db(postgres.address, user=postgres.user)
    assert code_of(lambda: ask(here, late), Invalid) == "DS-DB-QUERY"
    assert not list(tmp_path.glob("answer*"))


def test_own_options_stay_read_only(postgres: Postgres, tmp_path: Path) -> None:
    """Options in the address are kept, and cannot make the session one that writes."""
    words = "-c%20default_transaction_read_only%3Doff%20-c%20datestyle%3DGerman"
    db = database(f"{postgres.address}&options={words}", tmp_path, user=postgres.user)
    question = asked(
        db,
        "SELECT current_setting('transaction_read_only') AS r, current_setting('DateStyle') AS s",
    )
    answer = sql.ask(question, tmp_path / "a.parquet", engine=Engine())
    assert rows(answer)[1] == [("on", "German, DMY")]


def test_slow_files(tmp_path: Path, ask: Callable[..., sql.Answer]) -> None:
    """A statement on a file is interrupted when its time is over."""
    sqlite3.connect(tmp_path / "erp.db").close()
    duckdb.connect(tmp_path / "erp.duckdb").close()
    endless = (
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 99999999999) "
        "SELECT count(*) AS c FROM n"
    )
    slow = database("sqlite:///erp.db", tmp_path, timeout_s=0.2)
    assert code_of(lambda: ask(slow, endless), Unavailable) == "DS-DB-TIMEOUT"
    heavy = "SELECT count(*) AS c FROM range(9999999) a, range(9999999) b WHERE a.range < b.range"
    slow = database("duckdb:///erp.duckdb", tmp_path, timeout_s=0.2)
    assert code_of(lambda: ask(slow, heavy), Unavailable) == "DS-DB-TIMEOUT"


def test_files_that_are_none(tmp_path: Path, ask: Callable[..., sql.Answer]) -> None:
    """A database file that is missing, or is something else, is told; none is made."""
    for text in ("sqlite:///erp.db", "duckdb:///erp.duckdb"):
        db = database(text, tmp_path)
        assert code_of(lambda db=db: ask(db, "SELECT 1 AS a")) == "DS-DB-FILE"
    (tmp_path / "erp.db").write_text("no database at all, but long enough to be one" * 99)
    (tmp_path / "erp.duckdb").write_text("no database at all" * 99)
    for text in ("sqlite:///erp.db", "duckdb:///erp.duckdb"):
        db = database(text, tmp_path)
        assert code_of(lambda db=db: ask(db, "SELECT 1 AS a FROM x")) == "DS-DB-FILE"


@pytest.mark.parametrize(
    ("text", "extra"),
    [
        ("mssql://erp.example.test/AgrProd", "mssql"),
        ("oracle+oracledb://erp.example.test/?service_name=erp", "oracle"),
        ("mysql+pymysql://erp.example.test/erp", "mysql"),
    ],
)
def test_missing_driver(
    text: str, extra: str, tmp_path: Path, ask: Callable[..., sql.Answer]
) -> None:
    """A driver that is not installed gives one line that names the extra."""
    module = {"mssql": "mssql_python", "oracle": "oracledb", "mysql": "pymysql"}[extra]
    if _roads._there(module):
        pytest.skip(f"{module} is installed")
    with pytest.raises(Invalid) as raised:
        ask(database(text, tmp_path), "SELECT 1 AS a")
    assert raised.value.code == "DS-DB-DRIVER"
    assert raised.value.hint == f"pip install 'directorsync-v3[{extra}]'"


def test_results_that_are_no_table(
    tmp_path: Path, postgres: Postgres, ask: Callable[..., sql.Answer]
) -> None:
    """Two columns of one name, a column without a name, and bytes are refused."""
    db = fill("sqlite", tmp_path, postgres, ROWS)
    assert code_of(lambda: ask(db, "SELECT id, name AS Id FROM items")) == "DS-COL-DUP"
    assert code_of(lambda: ask(db, "SELECT id AS [ ] FROM items")) == "DS-COL-BLANK"
    assert code_of(lambda: ask(db, "SELECT x'00ff' AS b")) == "DS-DB-TYPE"
    pg = database(postgres.address, tmp_path, user=postgres.user)
    assert code_of(lambda: ask(pg, "SELECT '\\x00'::bytea AS b")) == "DS-DB-TYPE"


def test_cells_of_another_type(tmp_path: Path, ask: Callable[..., sql.Answer]) -> None:
    """A cell that is not of its column's type is blank and told; its row is not lost."""
    with sqlite3.connect(tmp_path / "erp.db") as con:
        con.execute("CREATE TABLE t (id INT, d DATE)")
        con.execute("INSERT INTO t VALUES (1, '2026-01-01'), (2, 'soon'), (3, '')")
    con.close()
    answer = ask(database("sqlite:///erp.db", tmp_path), "SELECT * FROM t ORDER BY id")
    assert rows(answer)[1] == [(1, dt.date(2026, 1, 1)), (2, None), (3, None)]
    assert answer.bad_cells == {(2, "d"): "DS-DB-VALUE d is not a date: soon"}


def test_parameters_that_are_missing(tmp_path: Path) -> None:
    """A parameter without a value, a value without a parameter, and a nameless one are refused."""
    db = database("sqlite:///erp.db", tmp_path)
    for text, params in (
        ("SELECT :a AS a", {}),
        ("SELECT 1 AS a", {"b": 1}),
        ("SELECT ? AS a", {}),
        ("SELECT :a AS a", {"a": "${no_such}"}),
    ):
        assert code_of(lambda t=text, p=params: asked(db, t, params=p)) == "DS-DB-PARAM"


def test_untranslatable(tmp_path: Path) -> None:
    """What the database's SQL has no word for is refused before it is asked."""
    db = database("sqlite:///erp.db", tmp_path)
    text = "SELECT * FROM t PIVOT (SUM(a) FOR b IN ([x], [y])) AS p"
    assert code_of(lambda: asked(db, text, dialect="tsql")) == "DS-DB-DIALECT"


def test_same_rows_same_digest(tmp_path: Path, postgres: Postgres) -> None:
    """The digest is that of statement and rows: the same again, another one after a change."""
    db = fill("sqlite", tmp_path, postgres, ROWS)

    def digest(statement: str) -> str:
        return sql.ask(asked(db, statement), tmp_path / "a.parquet", engine=Engine()).digest

    first = digest("SELECT * FROM items")
    assert first == digest("SELECT * FROM items")
    assert first != digest("SELECT id, name FROM items")
    fill("sqlite", tmp_path, postgres, ROWS[:2])
    assert first != digest("SELECT * FROM items")


def test_many_rows(tmp_path: Path, ask: Callable[..., sql.Answer]) -> None:
    """Rows stream by in batches and keep their order."""
    sqlite3.connect(tmp_path / "erp.db").close()
    text = (
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 25000) "
        "SELECT i, 'row ' || i AS t FROM n ORDER BY i DESC"
    )
    values = rows(ask(database("sqlite:///erp.db", tmp_path), text))[1]
    assert values[0] == (25000, "row 25000")
    assert [row[0] for row in values] == list(range(25000, 0, -1))


# --- addresses and configuration ------------------------------------------------------------------

BAD_ADDRESSES = [
    "erp.db",
    "sqlite://",
    "sqlite:///:memory:",
    "sqlite://erp.db",
    "postgresql://user:s3cret-word@db.example.test/erp",
    "postgresql://db.example.test/erp?password=s3cret-word",
    "mssql://db.example.test/erp?PWD=s3cret-word",
    "postgresql://db.example.test:port/erp",
]


@pytest.mark.parametrize("text", BAD_ADDRESSES)
def test_bad_addresses(text: str, tmp_path: Path) -> None:
    """An address that is none, or holds a password, is refused and not shown."""
    with pytest.raises(Invalid) as raised:
        address.parse(text, Place(file="directorsync.yml", line=3, column=5), base=tmp_path)
    assert raised.value.code == "DS-DB-ADDRESS"
    assert "s3cret-word" not in str(raised.value)


def test_addresses(tmp_path: Path) -> None:
    """An address is taken apart; a relative file starts at its base."""
    assert address.parse("sqlite:///a/erp.db", "", base=tmp_path).path == tmp_path / "a/erp.db"
    assert address.parse("sqlite:////a/erp.db", "", base=tmp_path).path == Path("/a/erp.db")
    there = address.parse(
        "postgresql://reader@db.example.test:5433/erp?sslmode=require", "", base=tmp_path
    )
    assert (there.user, there.host, there.port) == ("reader", "db.example.test", 5433)
    assert str(there) == "postgresql://db.example.test:5433/erp?sslmode=require"


CONFIG = """
version: 1
connections:
  shop: {base_url: "http://127.0.0.1:1"}
  erp:
    database: postgresql://${DB_HOST}/erp
    credentials: {user: reader, password: "${env:DB_PASSWORD}"}
    schema: dbo
"""


@pytest.fixture
def settings_of(tmp_path: Path) -> config.Config:
    (tmp_path / "directorsync.yml").write_text(CONFIG, encoding="utf-8")
    environ = {"DB_HOST": "db.example.test", "DB_PASSWORD": "hunter2-hunter2"}
    return config.load(tmp_path, environ=environ, machine_files=())


def test_database_connections(settings_of: config.Config) -> None:
    """A connection is a system or a database, and is not taken for the other."""
    db = settings_of.database("erp")
    assert (db.address.host, db.schema, db.timeout_s) == ("db.example.test", "dbo", 300)
    assert db.login()[0] == "reader"
    assert "hunter2" not in repr(db) + repr(db.login())
    assert code_of(lambda: settings_of.database("shop"), Invalid) == "DS-DB-KIND"
    assert code_of(lambda: settings_of.connection("erp"), Invalid) == "DS-DB-KIND"
    assert code_of(lambda: settings_of.database("epr"), Invalid) == "DS-CFG-CONNECTION"


def test_config_has_no_faults(settings_of: config.Config) -> None:
    """The database's keys are part of the configuration's model."""
    assert not settings_of.warnings
    with pytest.raises(Faults):
        config.load(
            settings_of.root, flags={"connections.erp.timeout_s": -1}, environ={}, strict=True
        )
