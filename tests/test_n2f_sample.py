"""The ERP sample of the N2F example: its rows, and its four queries on every database."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import pytest

from dsync import address
from dsync.address import Database
from dsync.database import Engine
from dsync.errors import Place
from dsync.profile import SqlSource
from dsync.secrets import Reference
from dsync.sources import sql
from postgres_server import Postgres, postgres

__all__ = ["postgres"]
pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).parents[1] / "examples" / "n2f"
QUERIES = sorted(path.name for path in (EXAMPLE / "sql").glob("*.sql"))
HERE = Place(file="profiles/users.yml", line=4)


@pytest.fixture(scope="module")
def sample() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sample", EXAMPLE / "make_sample.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_sample"] = module
    spec.loader.exec_module(module)
    return module


def database(text: str, *, base: Path = EXAMPLE, user: str = "", **given: Any) -> Database:
    reference = Reference(text=user, name="user", where=Place(), base=base, environ={})
    return Database(
        name="agresso",
        address=address.parse(text, Place(), base=base),
        credentials={"user": reference} if user else {},
        **given,
    )


def question(query: str, db: Database) -> sql.Question:
    spec = SqlSource(connection="agresso", file=query, dialect="tsql")
    folders = [EXAMPLE / "sql"]
    return sql.question(spec, db, folders=folders, root=EXAMPLE, place=HERE, context={})


def answer(query: str, db: Database, folder: Path) -> tuple[dict[str, str], list[Any]]:
    found = sql.ask(question(query, db), folder / "answer.parquet", engine=Engine())
    assert not found.bad_cells
    with duckdb.connect() as con:
        sql.read(con, "t", found)
        types = {row[0].lower(): row[1] for row in con.execute("DESCRIBE t").fetchall()}
        return types, con.execute("SELECT * EXCLUDE (_row) FROM t ORDER BY ALL").fetchall()


def test_shipped_sample(sample: ModuleType, tmp_path: Path) -> None:
    """The file that is shipped holds what the generator makes today."""
    sample.write_sqlite(tmp_path / "new.db", sample.SMALL)

    def dump(path: Path) -> list[str]:
        con = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        lines = list(con.iterdump())
        con.close()
        return lines

    assert dump(EXAMPLE / "data" / "agresso.db") == dump(tmp_path / "new.db")


def test_sizes(sample: ModuleType) -> None:
    """The large sample has 2,000 people with managers three levels up, and their values."""
    people = {
        mail: (row[7] or "").strip().lower()
        for row in sample.users(sample.LARGE)
        if (mail := row[0].strip().lower()).endswith(".test")
    }
    assert len(people) == 2_000
    levels = set()
    for mail in people:
        level = 0
        while people.get(mail) in people:
            mail, level = people[mail], level + 1
        levels.add(level)
    assert levels == {0, 1, 2, 3}
    kinds = [row[0].upper() for row in sample.values(sample.LARGE)]
    assert kinds.count("PROJECT") >= 4_000
    assert kinds.count("PLAQUE") >= 600
    assert kinds.count("SUBPOST") >= 900
    assert [name for name, _ in sample.USER_COLUMNS][:3] == ["AdresseEmail", "Prenom", "Nom"]
    assert len(sample.USER_COLUMNS) == 29


@pytest.mark.parametrize("query", QUERIES)
def test_queries_on_samples(
    query: str, sample: ModuleType, postgres: Postgres, tmp_path: Path
) -> None:
    """Each query, written for SQL Server, gives the same from SQLite and from PostgreSQL."""
    sample.write_postgres(
        f"host={postgres.socket} dbname={postgres.name} user={postgres.user}", sample.SMALL
    )
    there = database(postgres.address, user=postgres.user, schema="dbo")
    here = database("sqlite:///data/agresso.db")
    types, rows = answer(query, here, tmp_path)
    assert rows
    assert answer(query, there, tmp_path) == (types, rows)
    if "users" in query:
        assert len(types) == 30
        assert types["appro_veh_adm"] == "BOOLEAN"
        assert types["distance_travdom"] == "DECIMAL(8,2)"
        assert types["companyid"] == "BIGINT"
    else:
        assert types["date_from"] == "TIMESTAMP"


@pytest.mark.parametrize("query", QUERIES)
def test_queries_on_sql_server(query: str) -> None:
    """SQL Server gets each query as it is written."""
    asked = question(query, database("mssql://erp.example.test/AgrProd"))
    text = (EXAMPLE / "sql" / query).read_text(encoding="utf-8")
    body = text[text.index("WITH" if text.count("WITH") else "SELECT") :]
    assert asked.statement.parts == (body.strip().rstrip(";") + "\n",)
    assert not asked.statement.translated
