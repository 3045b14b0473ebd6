"""Loads as they are promised: the table of scenarios and traps, and those that stand nowhere else.

The table is `docs/decisions/0017-loading.md`. Here are loads given up, refusals in every spelling,
rows from files and databases, and clocks of other zones.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import duckdb
import jsonschema
import pytest
from tests.load_project import Home, api, home
from tests.postgres_server import Postgres, postgres

from dsync import emulators, lint, loading, scaffold, yamlfile
from dsync.cli import main
from dsync.emulators import Emulator
from dsync.warehouses.duckdb import LEDGER

__all__ = ["api", "home", "postgres"]

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "src/dsync/profiles/yotpo/customers.yml"


# ---- given up ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ndjson", "parquet", "duckdb"])
def test_given_up(tmp_path: Path, api: Emulator, kind: str) -> None:
    """A load that is given up leaves the table as it was and no parts; it is not taken up again."""
    path = "out/wh.duckdb" if kind == "duckdb" else "out"
    home = Home(tmp_path, api, warehouse={"warehouse": kind, "path": path})
    api.switches({"customers": 300})
    assert home.load("before").code == 0
    api.switches({"customers": 1050})
    assert home.load(failpoint="swap.before:1").code == -signal.SIGKILL
    home.profile(mode="append")  # what is given up needs no profile any more
    done = home("load", "--abandon", "r1", "--yes", "--format", "json")
    assert (done.code, done.json["state"]) == (0, "abandoned"), done.err
    assert len(home.rows()) == 300
    assert not (home.root / ".dsync/runs/r1/parts").exists()
    assert sorted(one.name for one in home.root.rglob(".people*")) == []
    again = home("resume", "r1")
    assert (again.code, "DS-LOAD-ABANDONED" in again.err) == (7, True)
    assert home("load", "--abandon", "r1", "--yes").code == 0
    assert home("runs", "--format", "json").json["runs"][0]["state"] == "abandoned"
    assert home.load("r2").code == 0
    assert len(home.rows()) == 1350


@pytest.mark.parametrize("kind", ["ndjson", "duckdb"])
def test_given_up_too_late(tmp_path: Path, api: Emulator, kind: str) -> None:
    """What is visible already cannot be taken away: the report says so, and its exit code is 5."""
    path = "out/wh.duckdb" if kind == "duckdb" else "out"
    home = Home(tmp_path, api, warehouse={"warehouse": kind, "path": path})
    assert home.load(failpoint="swap.after:1").code == -signal.SIGKILL
    done = home("load", "--abandon", "r1", "--yes", "--format", "json")
    assert (done.code, done.json["state"]) == (5, "abandoned"), done.err
    assert "look at the table" in done.json["note"]
    home.check_exact()


def test_a_warehouse_that_counts_otherwise(tmp_path: Path, api: Emulator) -> None:
    """A load is done only when the warehouse has as many rows as were read, whoever counted."""
    home = Home(tmp_path, api, warehouse={"warehouse": "duckdb", "path": "out/wh.duckdb"})
    assert home.load(failpoint="swap.after:1").code == -signal.SIGKILL
    with duckdb.connect(str(home.root / "out/wh.duckdb")) as con:
        con.execute(f"UPDATE {LEDGER} SET rows = rows - 1").fetchall()
    done = home("resume", "r1")
    assert (done.code, "DS-LOAD-COUNT" in done.err) == (10, True), done.err
    assert home("runs", "--format", "json").json["runs"][0]["state"] == "failed"


def test_nothing_to_give_up(home: Home) -> None:
    """A load that is done, one that does not exist, and other words beside the run are refused."""
    assert home.load().code == 0
    assert "DS-LOAD-DONE" in home("load", "--abandon", "r1", "--yes").err
    assert "DS-RUN-NONE" in home("load", "--abandon", "r9", "--yes").err
    assert home("load", "customers", "--abandon", "r1", "--yes").code == 64
    home.check_exact()


def test_given_up_in_a_database(tmp_path: Path, api: Emulator, postgres: Postgres) -> None:
    """The new table and what the ledger says of the load go; its table stays as it was."""
    import psycopg

    warehouse = {
        "warehouse": "postgres", "database": postgres.address,
        "credentials": {"user": postgres.user},
    }  # fmt: skip
    home = Home(tmp_path, api, warehouse=warehouse)
    into = {"connection": "warehouse", "database": "given_up", "table": "people"}
    home.profile(into=into)
    assert home("load", "customers", "--run-id", "r0", "--yes").code == 0
    assert home.load(failpoint="put.after:2").code == -signal.SIGKILL
    assert home("load", "--abandon", "r1", "--yes").code == 0
    query = (
        "SELECT tablename FROM pg_tables WHERE schemaname = 'given_up' UNION ALL "
        "SELECT run_id FROM given_up._dsync_loads UNION ALL "
        "SELECT count(*)::text FROM given_up.people"
    )
    with psycopg.connect(
        f"host={postgres.socket} dbname={postgres.name} user={postgres.user}"
    ) as con:
        found = {row[0] for row in con.execute(query).fetchall()}
    assert found == {"people", "_dsync_loads", "r0", "1050"}
    assert home.load(failpoint="swap.after:1", run="r2").code == -signal.SIGKILL
    assert home("load", "--abandon", "r2", "--yes").code == 5


# ---- pages that fail ---------------------------------------------------------------------------

FOR_EVER = {
    "html": ({"fault": "html"}, "DS-HTTP-HTML", 10),
    "cut JSON": ({"fault": "truncated_json"}, "DS-HTTP-JSON", 10),
    "401": ({"fault": "status", "status": 401}, "DS-AUTH", 9),
    "403": ({"fault": "status", "status": 403}, "DS-", 9),
    "404": ({"fault": "status", "status": 404}, "DS-", 10),
    "500": ({"fault": "status", "status": 500}, "DS-HTTP", 10),
    "bad cursor": ({"fault": "bad_cursor"}, "invalid page_info", 10),
}


@pytest.mark.parametrize("name", FOR_EVER)
def test_page_seven_is_broken_for_ever(home: Home, name: str) -> None:
    """A listing without its seventh page is no success: the table is as it was, and cause and
    resource are named (A4, traps 1 and 2)."""
    rule, said, code = FOR_EVER[name]
    home.api.switches({"customers": 300})
    assert home.load("before").code == 0
    home.api.switches({"customers": 1050})
    home.configure(retries=1)
    home.api.faults([{"match": {"path": "/customers", "from": 7}, **rule}])
    done = home.load()
    assert done.code == code, done.err
    assert said in done.err
    assert "customers" in done.err
    assert "(page 7 of this load)" in done.err
    assert len(home.rows()) == 300
    report = home("report", "r1", "--format", "json").json
    assert (report["state"], report["exit_code"]) == ("failed", code)
    assert report["pages"] <= 6
    home.api.faults([])
    assert home("resume", "r1").code == 0
    home.check_exact()


def test_html_twice(home: Home) -> None:
    """A page that is HTML twice is asked for a third time, and the calls tell both retries (A3)."""
    home.api.faults([{"match": {"path": "/customers", "nth": [7, 8]}, "fault": "html"}])
    assert home.load().code == 0
    home.check_exact()
    lines = (home.root / ".dsync/runs/r1/calls.ndjson").read_text().splitlines()
    calls = [json.loads(line) for line in lines]
    assert [one["attempt"] for one in calls if one.get("attempt", 1) > 1] == [2, 3]


def test_refusals_are_no_errors(home: Home) -> None:
    """Waiting for a rate takes nothing from the attempts that errors have (trap 6)."""
    home.configure(retries=1)
    home.api.faults([
        {"match": {"path": "/customers", "nth": [3, 4, 5, 7]}, "fault": "status", "status": 429,
         "retry_after": 0.05},
        {"match": {"path": "/customers", "nth": 6}, "fault": "status", "status": 500},
    ])  # fmt: skip
    done = home.load()
    assert done.code == 0, done.err
    home.check_exact()


def test_reading_waits_for_a_slow_warehouse(tmp_path: Path, api: Emulator) -> None:
    """Parts are brought while pages are read, and no more lie about than are allowed (trap 25)."""
    with emulators.start("treasure_data", switches={"keys": ["1/demo"]}) as account:
        warehouse = {
            "warehouse": "treasure_data", "base_url": account.url,
            "credentials": {"key": "1/demo"},
        }  # fmt: skip
        home = Home(tmp_path, api, warehouse=warehouse)
        home.profile(part_rows=100)
        account.faults([{"match": {"path": "upload_part"}, "fault": "delay", "delay_s": 0.3}])
        done = home.load()
        assert done.code == 0, done.err
        ends = [_moment(one) + 0.3 for one in account.ledger() if "upload_part" in str(one["path"])]
        pages = [_moment(one) for one in api.ledger() if str(one["path"]).endswith("/customers")]
    assert len(ends) == 11
    assert min(ends) < max(pages)
    ahead = loading.LANES + loading.PARTS_AHEAD + 2  # one open, one that waits for its place
    for place, page in enumerate(pages):
        assert place - sum(end < page + 0.1 for end in ends) <= ahead


def _moment(call: Mapping[str, object]) -> float:
    return float(cast("float", call["monotonic_s"]))


# ---- refusals, sizes, zones --------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["1", "0.3", "date:2", "none"])
def test_every_tenth_call_is_refused(home: Home, spelling: str) -> None:
    """A 429 is waited for as it says: seconds, a decimal, a date, or nothing (A6)."""
    home.api.switches({"customers": 2200})
    rule: dict[str, Any] = {"match": {"path": "/customers", "nth": [10, 20]}, "fault": "status",
                            "status": 429}  # fmt: skip
    home.api.faults([rule if spelling == "none" else {**rule, "retry_after": spelling}])
    done = home.load()
    assert done.code == 0, done.err
    home.check_exact()
    calls = [one for one in home.api.ledger() if str(one["path"]).endswith("/customers")]
    moments = [float(cast("float", one["monotonic_s"])) for one in calls]
    refused = [place for place, one in enumerate(calls) if one["status"] == 429]
    assert refused == [9, 19]
    least = {"1": 1.0, "0.3": 0.3, "date:2": 0.9, "none": 0.0}[spelling]
    assert all(moments[place + 1] - moments[place] >= least for place in refused)


def test_a_store_that_refuses(home: Home) -> None:
    """A client that is alone in thinking it may ask more is slowed down, never let down (A6)."""
    home.api.switches({"store_rate_per_s": 5, "customers": 1500, "retry_after": "date"})
    done = home.load()
    assert done.code == 0, done.err
    home.check_exact()
    good = [one for one in home.api.ledger() if one["status"] == 200]
    moments = [float(cast("float", one["monotonic_s"])) for one in good]
    assert all(late - soon > 0.9 for soon, late in zip(moments, moments[5:], strict=False))


@pytest.mark.parametrize("kind", ["ndjson", "parquet", "duckdb"])
def test_ten_thousand(tmp_path: Path, api: Emulator, kind: str) -> None:
    """10,050 customers are 10,050 rows, none twice (A2)."""
    path = "out/wh.duckdb" if kind == "duckdb" else "out"
    home = Home(tmp_path, api, warehouse={"warehouse": kind, "path": path})
    home.profile(part_rows=3000)
    api.switches({"customers": 10_050, "shared_email_every": 0})
    done = home.load()
    assert done.code == 0, done.err
    assert (done.json["rows"], len(home.rows())) == (10_050, 10_050)
    home.check_exact()


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Pacific/Kiritimati"])
@pytest.mark.parametrize("kind", ["ndjson", "parquet", "duckdb"])
def test_wherever_the_machine_is(
    tmp_path: Path, api: Emulator, kind: str, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`time` is the moment of the load, and moments of records stay as they are (A18)."""
    path = "out/wh.duckdb" if kind == "duckdb" else "out"
    home = Home(tmp_path, api, warehouse={"warehouse": kind, "path": path})
    api.switches({"customers": 100})
    columns = {"json_response": {"json": "@"}, "time": {"now": True}, "at": {"path": "created_at"}}
    home.profile(columns=columns)
    began = int(time.time())
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        done = home.load()
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert done.code == 0, done.err
    started = datetime.fromisoformat(done.json["started"])
    assert began - 1 <= started.timestamp() <= time.time()
    assert started.utcoffset() == datetime.now(UTC).utcoffset()
    for row in home.rows():
        assert began <= row["time"] <= time.time()
        assert row["at"] == json.loads(row["json_response"]).get("created_at")


# ---- other sources -----------------------------------------------------------------------------

PEOPLE = [(n, f"name {n}", None if n % 7 == 0 else n / 4) for n in range(1, 3001)]
COLUMNS = {
    "id": {"path": "id", "type": "long"},
    "name": {"path": "name"},
    "points": {"path": "points", "type": "double"},
}


def _sql(root: Path) -> dict[str, Any]:
    with sqlite3.connect(root / "erp.db") as con:
        con.execute("CREATE TABLE people (id INTEGER, name TEXT, points REAL)")
        con.executemany("INSERT INTO people VALUES (?, ?, ?)", PEOPLE)
    con.close()
    document = json.loads((root / "directorsync.yml").read_text())
    document["connections"]["erp"] = {"database": "sqlite:///erp.db"}
    (root / "directorsync.yml").write_text(json.dumps(document))
    statement = "SELECT id, name, points FROM people"
    return {"sql": {"connection": "erp", "statement": statement}}


def _json(root: Path) -> dict[str, Any]:
    people = [dict(zip(COLUMNS, row, strict=True)) for row in PEOPLE]
    (root / "people.json").write_text(json.dumps({"data": {"people": people}}))
    return {"json": {"path": "people.json", "records": "data.people"}}


def _parquet(root: Path) -> dict[str, Any]:
    with duckdb.connect() as con:
        con.execute("CREATE TABLE people (id BIGINT, name VARCHAR, points DOUBLE)").fetchall()
        con.executemany("INSERT INTO people VALUES (?, ?, ?)", PEOPLE)
        con.execute(f"COPY people TO '{root}/people.parquet'").fetchall()
    return {"parquet": {"path": "people.parquet"}}


def _xlsx(root: Path) -> dict[str, Any]:
    import xlsxwriter

    with xlsxwriter.Workbook(str(root / "people.xlsx")) as book:
        sheet = book.add_worksheet("People")
        for place, row in enumerate([tuple(COLUMNS), *PEOPLE]):
            sheet.write_row(place, 0, row)
    return {"xlsx": {"path": "people.xlsx", "sheet": "People"}}


@pytest.mark.parametrize("make", [_sql, _json, _parquet, _xlsx], ids=lambda make: make.__name__)
def test_rows_of_any_source(home: Home, make: Any) -> None:
    """Rows of a database and of each kind of file arrive typed, once, over a kill too."""
    home.profile(source=make(home.root), identity=["id"], columns=COLUMNS, part_rows=1000)
    assert home.load(failpoint="part.after:1").code == -signal.SIGKILL
    done = home("resume", "r1", "--format", "json")
    assert (done.code, done.json["rows"]) == (0, 3000), done.err
    rows = sorted((row["id"], row["name"], row["points"]) for row in home.rows())
    assert rows == PEOPLE


def test_rows_that_changed_meanwhile(home: Home) -> None:
    """A source that is another one by now is not mixed with what was read: exit 7."""
    source = _sql(home.root)
    home.profile(source=source, identity=["id"], columns=COLUMNS, part_rows=1000)
    assert home.load(failpoint="part.after:1").code == -signal.SIGKILL
    with sqlite3.connect(home.root / "erp.db") as con:
        con.execute("UPDATE people SET name = 'another' WHERE id = 2999")
    con.close()
    done = home("resume", "r1")
    assert (done.code, "DS-LOAD-STALE" in done.err) == (7, True)
    assert not (home.root / "out/cdp/people.ndjson").exists()


def test_records_below_others(tmp_path: Path, api: Emulator) -> None:
    """A listing of one call for each record of another one is loaded with what that one gives."""
    with emulators.start("n2f", switches={"quota": {}}) as n2f:
        home = Home(tmp_path / "project", api)
        document = json.loads((home.root / "directorsync.yml").read_text())
        document["connections"]["n2f"] = {
            "system": "n2f", "base_url": f"{n2f.url}/services/api/v2/", "limits": "none",
            "credentials": {"client_id": "demo-client", "client_secret": "demo-secret"},
        }  # fmt: skip
        (home.root / "directorsync.yml").write_text(json.dumps(document))
        home.profile(
            source={"api": {"connection": "n2f", "resource": "axes"}}, identity=[],
            columns={"company": {"path": "company_code"}, "uuid": {"path": "uuid"}},
        )  # fmt: skip
        done = home.load()
        assert done.code == 0, done.err
        rows = home.rows()
        calls = [str(one["path"]) for one in n2f.ledger()]
        assert len({row["company"] for row in rows}) == sum(one.endswith("axes") for one in calls)
        assert len(rows) > len({row["company"] for row in rows}) > 1
        assert all(row["uuid"] for row in rows)


# ---- editors, doctors --------------------------------------------------------------------------

OPTIONAL = [
    {},
    {"since": {"path": "updated_at", "query": "since"}, "mode": "append"},
    {"columns": {"a": {"json": "@", "ascii": True}, "b": {"path": "x", "type": "long"}}},
]


@pytest.mark.parametrize("more", OPTIONAL, ids=["plain", "since", "columns"])
def test_the_schema_of_load_profiles(home: Home, more: dict[str, Any]) -> None:
    """The JSON Schema takes what the loader takes, and refuses words that it does not know."""
    validator = jsonschema.Draft202012Validator(lint.schema("load"))
    home.profile(**more)
    document = json.loads((home.root / "profiles/customers.yml").read_text())
    assert home("validate", "--strict").code == 0
    validator.validate(document)
    validator.validate(yamlfile.load(SHIPPED).data)
    for place, wrong in ((document, "mapping"), (document["load"], "colums")):
        place[wrong] = {}
        assert not validator.is_valid(document)
        del place[wrong]


def test_init_names_it(tmp_path: Path) -> None:
    """A new project's load profiles name their own schema, others that of profiles."""
    (example := tmp_path / "example").mkdir()
    for name, text in (("load", SHIPPED.read_text()), ("plan", "version: 1\nresource: items\n")):
        (example / f"profiles/{name}.yml").parent.mkdir(exist_ok=True)
        (example / f"profiles/{name}.yml").write_text(text)
    schemas = {"load": lint.schema("load"), "profile": lint.schema("profile")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaffold, "examples", lambda: {"mine": example})
        scaffold.create(tmp_path / "new", example="mine", schemas=schemas)
    lines = {
        name: (tmp_path / f"new/profiles/{name}.yml").read_text().partition("\n")[0]
        for name in ("load", "plan")
    }
    assert lines["load"].endswith("../schemas/load.json")
    assert lines["plan"].endswith("../schemas/profile.json")


def test_the_examples_of_loads_are_strict(tmp_path: Path) -> None:
    """What ships validates, with warnings as errors."""
    folder = tmp_path / "cdp"
    assert main(["init", str(folder), "--example", "yotpo"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOTPO_CLIENT_SECRET", "demo-secret")
        assert main(["validate", "--strict", "--project", str(folder)]) == 0
        assert main(["validate", "--strict", "--project", str(folder), "yotpo/customers"]) == 0


@pytest.mark.parametrize("kind", ["ndjson", "parquet", "duckdb"])
def test_the_doctor_tries_warehouses(tmp_path: Path, api: Emulator, kind: str) -> None:
    """The doctor says whether folder or file can be written, and leaves nothing."""
    path = "out/wh.duckdb" if kind == "duckdb" else "out"
    home = Home(tmp_path, api, warehouse={"warehouse": kind, "path": path})
    assert "can be made" in home("doctor").out
    assert not (home.root / "out").exists()
    assert home.load().code == 0
    done = home("doctor")
    assert (done.code, done.err) == (0, "")
    assert "ok  warehouse warehouse: " in done.out
    shutil.rmtree(home.root / "out")
    (home.root / "out").write_text("")
    assert home("doctor").code == 11


def test_the_doctor_tries_accounts(tmp_path: Path, api: Emulator, postgres: Postgres) -> None:
    """A database is connected to, a key is shown to its account; a wrong one is not let in."""
    database = {
        "warehouse": "postgres", "database": postgres.address,
        "credentials": {"user": postgres.user},
    }  # fmt: skip
    home = Home(tmp_path / "a", api, warehouse=database)
    assert f"the database {postgres.name} lets us in" in home("doctor").out
    home.warehouse = {**database, "credentials": {"user": "nobody-of-ours"}}
    home.configure()
    assert home("doctor").code in (9, 10)
    switches = {"keys": ["1/demo"], "write_only_keys": ["1/write-only"]}
    with emulators.start("treasure_data", switches=switches) as account:
        for key, code in (("1/demo", 0), ("1/write-only", 0), ("1/wrong", 9)):
            home.warehouse = {
                "warehouse": "treasure_data", "base_url": account.url,
                "credentials": {"key": key},
            }  # fmt: skip
            home.configure()
            done = home("doctor")
            assert done.code == code, done.out
            assert key not in done.out
        assert {one["method"] for one in account.ledger()} == {"GET"}


# ---- the table ---------------------------------------------------------------------------------


def test_every_scenario_and_trap_has_its_test() -> None:
    """The tables have all twenty scenarios and thirty traps; rows name tests, or say open."""
    page = (ROOT / "docs/decisions/0017-loading.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (A?[\d, ]+) \|(.*)$", page, re.MULTILINE)
    named = [one.strip() for numbers, _ in rows for one in numbers.split(",")]
    wanted = [f"A{n}" for n in range(1, 21)] + [str(n) for n in range(1, 31)]
    assert sorted(named) == sorted(wanted)
    files = (ROOT / "tests").rglob("test_*.py")
    there = set(re.findall(r"^def (test_\w+)", "\n".join(f.read_text() for f in files), re.M))
    for what, told in rows:
        tests = set(re.findall(r"`(test_\w+)`", told))
        assert tests or "open" in told, what
        assert tests <= there, (what, tests - there)
