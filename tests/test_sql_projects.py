"""Projects that read databases: plan, validate and doctor, from the command line."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsync import api, logs, project
from dsync.cli import main
from dsync.model import Event
from postgres_server import Postgres, postgres

__all__ = ["postgres"]
pytestmark = pytest.mark.integration

CONFIG = """
version: 1
connections:
  shop: {{base_url: "http://127.0.0.1:1"}}
  erp: {{database: "{address}", {more}}}
context: {{kind: fruit}}
"""
SYSTEM = """
version: 1
system: shop
resources:
  items: &items
    key: [name]
    list: {path: items}
    create: {method: POST, path: items}
    update: {method: PUT, path: "items/{id}"}
    delete: {path: "items/{id}"}
  others: *items
"""
PROFILE = """
version: 1
resource: {resource}
target: {{system: shop, resource: {resource}}}
source:
  sql: {{connection: erp, file: items.sql, dialect: tsql, params: {{kind: "${{kind}}"}}}}
  blank: [none]
  {source}
mapping:
  name: {{col: Name, transform: [norm_str]}}
  price: {{col: price}}
  since: {{col: since, transform: [to_date]}}
  on: {{col: "on", transform: [to_bool]}}
  count: {{col: count, transform: [to_int]}}
identity: {{natural_key: [name]}}
payload:
  name: "${{name}}"
  price: "${{price}}"
  since: "${{since}}"
  on: "${{on}}"
  count: "${{count}}"
"""
STATEMENT = """-- what is wanted
SELECT [name], [price], [since], [on], [count]
FROM [Erp].[dbo].[v_items]
WHERE [kind] = @kind
ORDER BY [name];
"""


class Folder:
    """A project on disk, with an SQLite database of two items."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._capsys = root, capsys
        for name in ("profiles", "systems", "sql", "dump/all"):
            (root / name).mkdir(parents=True)
        (root / "systems/shop.yml").write_text(SYSTEM, encoding="utf-8")
        (root / "sql/items.sql").write_text(STATEMENT, encoding="utf-8")
        for name in ("items", "others"):
            (root / f"dump/all/{name}.ndjson").touch()
        self.config()
        self.profile()
        con = sqlite3.connect(root / "erp.db")
        con.executescript(
            "CREATE TABLE items (name NVARCHAR(20), price NUMERIC(8,2), since DATETIME, "
            '"on" BIT, count INT, kind TEXT); '
            "CREATE VIEW v_items AS SELECT * FROM items; "
            "INSERT INTO items VALUES (' Pear ', 4.5, '2026-01-02 00:00:00', 1, 7, 'fruit'), "
            "('Apple', NULL, NULL, 0, NULL, 'fruit'), ('Leek', 1, NULL, 0, 1, 'other'), "
            "('NONE', 1, NULL, 0, 1, 'fruit')"
        )
        con.close()

    def config(self, address: str = "sqlite:///erp.db", more: str = "timeout_s: 60") -> None:
        text = CONFIG.format(address=address, more=more)
        (self.root / "directorsync.yml").write_text(text, encoding="utf-8")

    def profile(self, source: str = "", resource: str = "items") -> None:
        text = PROFILE.format(source=source, resource=resource)
        (self.root / f"profiles/{resource}.yml").write_text(text, encoding="utf-8")

    def __call__(self, *words: str) -> tuple[int, str]:
        self._capsys.readouterr()
        code = main([*words, "--project", str(self.root)])
        logs.close()
        shown = self._capsys.readouterr()
        assert "Traceback" not in shown.err
        return code, shown.out + shown.err

    def plan(self, *words: str) -> tuple[int, str]:
        return self("plan", "items", "--existing", str(self.root / "dump"), *words)


@pytest.fixture
def folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path, capsys)


def test_plan(folder: Folder) -> None:
    """Rows of a view are mapped with their types; `blank` and context values work on them."""
    code, out = folder.plan("--format", "json")
    assert code == 0, out
    document = json.loads(out[out.index("{") : out.rindex("}") + 1])
    after = {tuple(change["key"]): change["after"] for change in document["changes"]}
    assert after[("Pear",)] == {
        "name": "Pear", "price": 4.5, "since": "2026-01-02", "on": True, "count": 7,
    }  # fmt: skip
    assert after[("Apple",)]["price"] is None
    assert ("Leek",) not in after
    assert document["tallies"][0]["columns"]["price"] == "DECIMAL(8,2)"
    assert "source items.sql" in document["inputs"]


def test_same_plan(folder: Folder) -> None:
    """The same rows give the same plan, byte for byte; another row gives another one."""

    def digest() -> str:
        out = folder.plan("--format", "json")[1]
        return str(json.loads(out[out.index("{") : out.rindex("}") + 1])["digest"])

    first = digest()
    assert first == digest()
    with sqlite3.connect(folder.root / "erp.db") as con:
        con.execute("UPDATE items SET count = 8 WHERE count = 7")
    con.close()
    assert first != digest()


def test_asked_once(folder: Folder) -> None:
    """Two profiles that share a query ask it once."""
    folder.profile(resource="others")
    events: list[Event] = []
    opened = project.open_project(folder.root)
    ask = project.Ask(names=("items", "others"), existing=folder.root / "dump")
    with api.plan(opened, ask, on_event=events.append) as plan:
        assert [tally.create for tally in plan.tallies] == [2, 2]
    assert [event.subject for event in events].count("sql/items.sql") == 1


CONTRACTS: dict[str, tuple[str, int, str]] = {
    "good": ("columns: {Name: text, price: number, since: timestamp, on: boolean, count: integer}",
             0, ""),
    "missing": ("columns: {nome: text}", 1, "DS-COL-MISSING"),
    "missing, told": ("columns: {nome: text}, missing: warn", 0, "DS-COL-MISSING"),
    "extra": ("columns: {name: text}, extra: error", 1, "DS-COL-EXTRA"),
    "extra, told": ("columns: {name: text}, extra: warn", 0, "DS-COL-EXTRA"),
    "retyped": ("columns: {count: text}", 1, "DS-COL-TYPE"),
    "retyped, told": ("columns: {count: date, price: any}, retyped: warn", 0, "DS-COL-TYPE"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRACTS)
def test_contract(name: str, folder: Folder) -> None:
    """Columns that are missing, extra or of another type are what the profile says they are."""
    words, wanted, told = CONTRACTS[name]
    folder.profile(f"contract: {{{words}}}")
    code, out = folder.plan()
    assert code == wanted, out
    assert told in out
    assert bool(told) == ("DS-COL" in out)


def test_incomplete_source(folder: Folder) -> None:
    """A source that is not complete deletes nothing: the guard refuses, before any call."""
    folder.profile("complete: false")
    assert folder.plan()[0] == 0
    code, out = folder.plan("--delete")
    assert code == 8
    assert "DS-SAFE-COMPLETE" in out


def test_file_instead(folder: Folder) -> None:
    """`--rows FILE` takes the place of the query, and no database is asked."""
    (folder.root / "erp.db").unlink()
    (folder.root / "rows.csv").write_text("name,price,since,on,count\nFig,1,,true,2\n")
    code, out = folder.plan("--rows", str(folder.root / "rows.csv"))
    assert code == 0, out
    assert "Fig" in out


def statement(text: str) -> Callable[[Folder], None]:
    return lambda f: (f.root / "sql/items.sql").write_text(text, encoding="utf-8") and None


FAULTS: dict[str, tuple[Callable[[Folder], Any], int, str]] = {
    "no such file": (lambda f: (f.root / "sql/items.sql").unlink(), 1, "DS-DB-SQL"),
    "not utf-8": (lambda f: (f.root / "sql/items.sql").write_bytes(b"SELECT '\xe9'"), 1,
                  "DS-DB-SQL"),
    "syntax": (statement("SELECT *\nFROM WHERE 1"), 1, "DS-DB-SYNTAX"),
    "writing": (statement("DELETE FROM items"), 1, "DS-DB-STATEMENT"),
    "two": (statement("SELECT 1 AS a; SELECT 2 AS a"), 1, "DS-DB-STATEMENT"),
    "unused parameter": (statement("SELECT 1 AS a"), 1, "DS-DB-PARAM"),
    "missing parameter": (statement("SELECT @kind AS a, @b AS b"), 1, "DS-DB-PARAM"),
    "missing view": (statement("SELECT * FROM v_none WHERE kind = @kind"), 1, "DS-DB-OBJECT"),
    "missing column": (statement("SELECT [nome] FROM v_items WHERE kind = @kind"), 1, ""),
    "unmapped column": (statement("SELECT [name] FROM v_items WHERE kind = @kind"), 1,
                        "DS-COL-MISSING"),
    "twice": (statement("SELECT name, name FROM v_items WHERE kind = @kind"), 1, "DS-COL-DUP"),
    "no database file": (lambda f: (f.root / "erp.db").unlink(), 1, "DS-DB-FILE"),
    "down": (lambda f: f.config("postgresql://127.0.0.1:1/erp"), 10, "DS-DB-DOWN"),
    "unknown kind": (lambda f: f.config("nosuchdb://127.0.0.1:1/erp"), 1, "DS-DB-DRIVER"),
    "no driver": (lambda f: f.config("mssql://127.0.0.1:1/erp"), 1, "DS-DB-DRIVER"),
    "bad address": (lambda f: f.config("erp.db"), 1, "DS-DB-ADDRESS"),
    "password": (lambda f: f.config("postgresql://u:pass-word-x@h/erp"), 1, "DS-DB-ADDRESS"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str, folder: Folder) -> None:
    """Each way in which a database can fail has its code, exit code, and next step."""
    make, exit_code, told = FAULTS[name]
    make(folder)
    code, out = folder.plan()
    assert (code, told) == (exit_code, told if told in out else out)
    assert "next:" in out
    assert "pass-word-x" not in out


def test_wrong_kind_of_connection(folder: Folder) -> None:
    """A system where a database is needed is refused, and the reverse, and an unknown name."""
    file = folder.root / "profiles/items.yml"
    text = file.read_text(encoding="utf-8")
    for old, new, code in (
        ("connection: erp", "connection: shop", "DS-DB-KIND"),
        ("connection: erp", "connection: epr", "DS-CFG-CONNECTION"),
        ("resource: items}", "resource: items, connection: erp}", "DS-DB-KIND"),
    ):
        file.write_text(text.replace(old, new), encoding="utf-8")
        exit_code, out = folder("plan", "items")
        assert exit_code == 1
        assert code in out


def test_login(folder: Folder, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that does not let us in ends with 9; the password is shown nowhere."""
    monkeypatch.setenv("ERP_PASSWORD", "correct-horse-battery")
    words = 'credentials: {user: nobody_here, password: "${env:ERP_PASSWORD}"}'
    folder.config(postgres.address, words)
    code, out = folder.plan()
    assert (code, "DS-DB-LOGIN" in out) == (9, True)
    code, out = folder("doctor")
    assert (code, "DS-DB-LOGIN" in out) == (10, True) or code == 9
    code, more = folder("doctor", "--config")
    assert "correct-horse-battery" not in out + more
    for file in folder.root.rglob("*"):
        if file.is_file():
            assert b"correct-horse-battery" not in file.read_bytes(), file


def test_doctor(folder: Folder) -> None:
    """The doctor connects to a database and asks it for a row."""
    out = folder("doctor")[1]
    assert "lets us in (select 1" in out
    (folder.root / "erp.db").unlink()
    assert "DS-DB-FILE" in folder("doctor")[1]


def test_validate(folder: Folder) -> None:
    """`validate` checks the SQL file by itself: place in the file, parameters, one SELECT."""
    assert folder("validate")[0] == 0
    for text, place in (
        ("SELECT *\nFROM WHERE 1", "sql/items.sql:2:6"),
        ("SELECT @kind AS a;\nDELETE FROM items", "sql/items.sql:2:1"),
        ("SELECT 1 AS a", "profiles/items.yml:6"),
    ):
        statement(text)(folder)
        code, out = folder("validate")
        assert code == 1
        assert place in out
    (folder.root / "sql/items.sql").unlink()
    code, out = folder("validate")
    assert (code, "there is no SQL file items.sql" in out) == (1, True)
    for source in ("{connection: erp}", "{connection: erp, file: a.sql, statement: select 1 as a}",
                   "{connection: erp, file: ../a.sql}"):  # fmt: skip
        file = folder.root / "profiles/items.yml"
        lines = file.read_text(encoding="utf-8").splitlines()
        lines[5] = f"  sql: {source}"
        file.write_text("\n".join(lines), encoding="utf-8")
        assert folder("validate")[0] == 1
