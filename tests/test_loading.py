"""Loads: everything arrives once or nothing is visible, whatever happens to API, process and disk.

Against the Yotpo emulator, as the command does it; what is to die is a process of its own.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
from tests.load_project import QUICK, Home, api, home, identity_of
from tests.postgres_server import Postgres, postgres

from dsync import emulators
from dsync.emulators import Emulator

__all__ = ["api", "home", "postgres"]

pytestmark = pytest.mark.integration

# ---- what arrives ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ndjson", "parquet", "duckdb"])
def test_everything_arrives(tmp_path: Path, api: Emulator, kind: str) -> None:
    """Every record is in the table once, whole, with the moment of the run."""
    path = "out/wh.duckdb" if kind == "duckdb" else "out"
    home = Home(tmp_path, api, warehouse={"warehouse": kind, "path": path})
    began = int(time.time())
    done = home.load()
    assert done.code == 0, done.err
    assert done.json["rows"] == done.json["records"] == 1050
    assert done.json["state"] == "done"
    rows = home.rows()
    assert {row["time"] for row in rows} <= set(range(began, int(time.time()) + 1))
    assert all(row["json_response"].isascii() for row in rows)
    assert any("\\u" in row["json_response"] for row in rows)
    home.check_exact()
    # Again: the table is replaced, not doubled.
    again = home.load("r2")
    assert again.json["before"] == 1050
    assert len(home.rows()) == 1050


@pytest.mark.parametrize(
    ("customers", "no_results"),
    [(0, "empty"), (0, "400"), (1, "400"), (100, "400"), (101, "empty")],
)
def test_any_number(home: Home, customers: int, no_results: str) -> None:
    """No records, some, a full page, one more: the table has as many rows, also with a page of
    nothing behind the last."""
    home.api.switches({"customers": customers, "no_results": no_results, "extra_page": True})
    assert home.load().json["rows"] == customers
    assert len(home.rows()) == customers


@pytest.mark.parametrize("kind", ["ndjson", "parquet", "duckdb"])
def test_append(tmp_path: Path, api: Emulator, kind: str) -> None:
    """What is appended comes to what is there, once, however often the run is repeated."""
    path = "out/wh.duckdb" if kind == "duckdb" else "out"
    home = Home(tmp_path, api, warehouse={"warehouse": kind, "path": path})
    home.profile(mode="append")
    for run, rows in (("r1", 1050), ("r2", 2100), ("r2", 2100)):
        done = home.load(run)
        assert (done.code, len(home.rows())) == (0, rows), done.err
    assert home("resume", "r2").code == 0
    assert len(home.rows()) == 2100


def test_doubles_and_strangers(home: Home) -> None:
    """A record that came before is left out and counted; one without identity stays."""
    home.api.switches(
        {"customers": 500, "duplicate_every": 9, "without_identity_every": 11,
         "lie": "repeat_page", "lie_page": 3, "lie_times": 1}
    )  # fmt: skip
    done = home.load().json
    state = cast("dict[str, int]", home.api.state())
    assert done["duplicates"] > state["repeated"]  # the page that came twice, too
    assert done["unnamed"] >= state["without_identity"]
    assert done["rows"] == done["records"] - done["duplicates"]
    found = [identity_of(one) for one in home.records()]
    assert len({one for one in found if one}) == state["identities"]


def test_odd_texts(home: Home) -> None:
    """Emoji, far scripts, U+2028, half characters, leading zeros and 5 MB arrive as they are."""
    home.api.switches(
        {"customers": 150, "surrogate_every": 13, "big_records": [7], "big_bytes": 5_000_000}
    )
    columns = {
        "json_response": {"json": "@"},
        "plain": {"json": "@", "ascii": True},
        "name": {"path": "first_name"},
        "loyalty": {"json": "loyalty"},
        "points": {"path": "loyalty.points_balance", "type": "long"},
        "email": {"path": "email"},
    }
    home.profile(columns=columns)
    done = home.load()
    assert done.code == 0, done.err
    rows = home.rows()
    assert len(rows) == 150
    assert max(len(row["json_response"]) for row in rows) > 5_000_000
    for row in rows:
        record = json.loads(row["json_response"])
        assert record == json.loads(row["plain"])
        assert row["plain"].isascii()
        assert row["email"] == record["email"]
        loyalty = record["loyalty"]
        assert (None if row["loyalty"] is None else json.loads(row["loyalty"])) == loyalty
        assert row["points"] == (loyalty or {}).get("points_balance")
        name = record["first_name"]
        assert row["name"] == "".join("\ufffd" if 0xD800 <= ord(c) < 0xE000 else c for c in name)


@pytest.mark.parametrize("kind", ["ndjson", "parquet"])
def test_large_records(tmp_path: Path, api: Emulator, kind: str) -> None:
    """Records of 200 kB, all of them, are no trouble."""
    api.switches({"customers": 600, "record_bytes": 200_000})
    home = Home(tmp_path, api, warehouse={"warehouse": kind, "path": "out"})
    done = home.load()
    assert done.code == 0, done.err
    home.check_exact()


def test_values_that_do_not_fit(home: Home) -> None:
    """A value that does not fit its column is null, and the report counts it."""
    columns = {
        "id": {"path": "external_id", "type": "long"},
        "vip": {"path": "accepts_sms_marketing", "type": "boolean"},
        "tags": {"path": "tags", "type": "json"},
        "run": {"value": "load ${run_id}"},
        "up": {"path": "to_string(length(email))", "type": "double"},
    }
    home.profile(columns=columns)
    done = home.load().json
    assert done["unfit"]["id"] == sum("external_id" in r for r in columns) or done["unfit"]["id"]
    rows = home.rows()
    assert {row["id"] for row in rows} == {None}
    assert {row["run"] for row in rows} == {"load r1"}
    assert {row["vip"] for row in rows} <= {True, False, None}
    assert all(row["up"] > 5 for row in rows)


@pytest.mark.parametrize("kind", ["ndjson", "parquet"])
def test_times_of_records(tmp_path: Path, api: Emulator, kind: str) -> None:
    """A time in the record becomes seconds since 1970, whatever its zone; another text is null."""
    home = Home(tmp_path, api, warehouse={"warehouse": kind, "path": "out"})
    times = {
        "2024-02-29T10:00:00+02:00": 1709193600, "2024-02-29 08:00:00": 1709193600,
        "1969-12-31T23:59:59.5Z": -1, "2024-02-29": 1709164800, "soon": None, "": None,
    }  # fmt: skip
    lines = ["external_id,at", *(f"{n},{text}" for n, text in enumerate(times))]
    (home.root / "people.csv").write_text("\n".join(lines) + "\n")
    columns = {"id": {"path": "external_id"}, "time": {"path": "at", "type": "epoch"}}
    home.profile(source={"csv": {"path": "people.csv"}}, columns=columns, identity=["external_id"])
    done = home.load()
    assert done.code == 0, done.err
    assert [row["time"] for row in home.rows()] == list(times.values())


# ---- an API on a bad day -----------------------------------------------------------------------

PAGE = {"path": "/customers", "nth": 7}


@pytest.mark.parametrize(
    "rule",
    [
        {"fault": "html"}, {"fault": "truncated_json"}, {"fault": "cut_body"}, {"fault": "reset"},
        {"fault": "empty"}, {"fault": "status", "status": 500}, {"fault": "token_dies"},
        {"fault": "status", "status": 503, "headers": {"Retry-After": "1"}},
    ],
    ids=lambda rule: "-".join(map(str, rule.values()))[:24],
)  # fmt: skip
def test_a_page_fails_once(home: Home, rule: dict[str, Any]) -> None:
    """A page that fails and then comes is no loss: all rows, and no error."""
    home.api.faults([{"match": PAGE, **rule}])
    done = home.load()
    assert done.code == 0, done.err
    home.check_exact()


@pytest.mark.parametrize("status", ["401", "403"])
def test_token_dies(home: Home, status: str) -> None:
    """A token that is over in the middle of a listing is renewed, and the same page asked again."""
    home.api.switches({"token_calls": 5, "unauthorized_status": status})
    assert home.load().code == 0
    logins = [one for one in home.api.ledger() if "access_tokens" in str(one["path"])]
    assert len(logins) == 3
    home.check_exact()


@pytest.mark.parametrize(
    "lie",
    ["truncated", "html", "null_body", "list_body", "no_customers", "null_customers",
     "object_customers", "empty_page", "short_page"],
)  # fmt: skip
def test_a_page_lies_once(home: Home, lie: str) -> None:
    """A page that is cut, none at all, of another shape, or empty with a cursor, costs no row."""
    home.api.switches({"lie": lie, "lie_page": 3, "lie_times": 1})
    done = home.load()
    assert done.code == 0, done.err
    home.check_exact()


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        ("truncated", "DS-HTTP-JSON"), ("html", "DS-HTTP-HTML"), ("no_customers", "DS-TGT-SHAPE"),
        ("object_customers", "DS-TGT-SHAPE"), ("loop_cursor", "DS-PAGE-LOOP"),
    ],
)  # fmt: skip
def test_a_page_lies_for_ever(home: Home, lie: str, code: str) -> None:
    """A listing that does not come to its end is no success: the table stays as it was."""
    home.api.switches({"customers": 300})
    assert home.load("before").code == 0
    home.api.switches({"customers": 1050, "lie": lie, "lie_page": 4})
    done = home.load()
    assert done.code == 10, done.err
    assert code in done.err
    assert "dsync resume r1" in done.err
    assert len(home.rows()) == 300
    # The run can be taken up when the API is well again.
    home.api.switches({"lie": "none"})
    assert home("resume", "r1").code == 0
    home.check_exact()


def test_first_page_fails(home: Home) -> None:
    """Nothing can be read: the old table stays."""
    assert home.load("before").code == 0
    home.api.faults([{"match": {"path": "/customers"}, "fault": "status", "status": 404}])
    done = home.load()
    assert done.code == 10
    assert len(home.rows()) == 1050


def test_wrong_secret(home: Home) -> None:
    """A wrong secret is told before anything is read, in words that do not hold it."""
    home.api.switches({"secret": "another"})
    done = home.load()
    assert done.code == 9
    assert "DS-AUTH-REFUSED" in done.err
    assert "demo-secret" not in done.err


@pytest.mark.parametrize("form", ["seconds", "decimal", "date"])
def test_too_many(home: Home, form: str) -> None:
    """A 429 is waited for, in each way that it says how long."""
    home.api.switches({"customers": 500})
    home.api.faults(
        [{"match": {"path": "/customers", "nth": [2, 4]}, "fault": "status", "status": 429,
          "headers": {"Retry-After": {"seconds": "1", "decimal": "0.3", "date": "@1"}[form]}}]
        if form != "date"
        else [{"match": {"path": "/customers", "nth": [2, 4]}, "fault": "too_many"}]
    )  # fmt: skip
    done = home.load()
    assert done.code == 0, done.err
    home.check_exact()


def test_the_allowed_rate(home: Home) -> None:
    """With five calls a second allowed, a load uses them all and is never refused."""
    home.api.switches({"store_rate_per_s": 5, "customers": 2000})
    home.configure(limits="system")
    assert home.load().code == 0
    calls = home.api.ledger()
    assert {one["status"] for one in calls} == {200}
    moments = [float(cast("float", one["monotonic_s"])) for one in calls]
    seconds = (len(moments) - 1) // 5
    assert seconds / (moments[5 * seconds] - moments[0]) >= 0.95


def test_cursor_alone(home: Home) -> None:
    """`alone` sends a cursor without the listing's own parameters; without it they go along."""
    home.api.switches({"cursor_strict": True, "customers": 250})
    assert home.load("r1").code == 10
    home.system("  decode: percent", "  alone: true\n  decode: percent")
    assert home.load("r2").code == 0
    home.check_exact()
    assert all(one["loyalty"] or one["loyalty"] is None for one in home.records())


# ---- a process on a bad day --------------------------------------------------------------------

KILLS = [
    "load.begun:1", "page.after:1", "page.after:5", "part.before:2", "part.closed:1",
    "part.closed:3", "part.after:2", "put.before:2", "put.after:1", "load.ended:1",
    "finish.before:1", "swap.before:1", "swap.after:1", "finish.after:1", "load.end:1",
]  # fmt: skip


@pytest.mark.parametrize("failpoint", KILLS)
def test_killed(home: Home, failpoint: str) -> None:
    """Killed anywhere and resumed: every record is there, and none twice."""
    home.profile(mode="append")
    home.api.switches({"customers": 1000})
    killed = home.load(failpoint=failpoint)
    point = failpoint.partition(":")[0]
    if point != "load.ended":  # its last part is full only by chance
        assert killed.code == -signal.SIGKILL
        visible = point in ("swap.after", "finish.after", "load.end")
        assert (home.root / "out/cdp/people.ndjson").exists() == visible
    assert home("resume", "r1").code == 0
    home.check_exact()


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
@pytest.mark.parametrize("failpoint", ["page.after:5", "swap.before:1", "swap.after:1"])
def test_killed_elsewhere(tmp_path: Path, api: Emulator, kind: str, failpoint: str) -> None:
    """The same with other warehouses."""
    path = "out/wh.duckdb" if kind == "duckdb" else "out"
    home = Home(tmp_path, api, warehouse={"warehouse": kind, "path": path})
    home.profile(mode="append")
    assert home.load(failpoint=failpoint).code == -signal.SIGKILL
    assert home("resume", "r1").code == 0
    home.check_exact()


def test_resume_reads_on(home: Home) -> None:
    """What is in closed parts is not read again."""
    assert home.load(failpoint="part.after:4").code == -signal.SIGKILL
    before = len(home.api.ledger())
    assert home("resume", "r1").code == 0
    pages = [one for one in home.api.ledger(before) if "customers" in str(one["path"])]
    assert len(pages) == 3  # of eleven
    home.check_exact()


def test_loop_over_a_resume(home: Home) -> None:
    """A cursor that leads back to a page that an earlier process has read is noticed."""
    assert home.load(failpoint="part.after:4").code == -signal.SIGKILL
    home.api.switches({"lie": "loop_cursor", "lie_page": 9})
    done = home("resume", "r1")
    assert done.code == 10
    assert "DS-PAGE-LOOP" in done.err


def test_stopped(home: Home) -> None:
    """TERM ends a load early with exit 3; what was read is kept, and it goes on from there."""
    home.api.switches({"customers": 5000})
    home.api.faults([{"match": {"path": "/customers"}, "fault": "delay", "delay_s": 0.05}])
    child = home.start("load", "customers", "--run-id", "r1", "--yes")
    while len(home.api.ledger()) < 8:
        time.sleep(0.02)
    child.terminate()
    _, err = child.communicate(timeout=30)
    assert child.returncode == 3, err
    assert "dsync resume r1" in err
    assert not (home.root / "out/cdp/people.ndjson").exists()
    report = home("report", "r1", "--format", "json")
    assert (report.code, report.json["state"]) == (3, "stopped")
    assert report.json["records"] >= 500
    home.api.faults([])
    assert home("resume", "r1").code == 0
    home.check_exact()


def test_one_load_a_table(home: Home) -> None:
    """A second load of the same table is told who fills it, and does nothing."""
    home.api.faults([{"match": {"path": "/customers", "nth": 3}, "fault": "delay", "delay_s": 3}])
    first = home.start("load", "customers", "--run-id", "r1", "--yes")
    while len(home.api.ledger()) < 3:
        time.sleep(0.02)
    second = home.load("r2")
    assert second.code == 6
    assert "r1" in second.err
    assert home("runs", "--format", "json").json["runs"][0]["state"] == "running"
    first.communicate(timeout=30)
    assert first.returncode == 0


def test_disk_full(home: Home) -> None:
    """A disk that is full while parts are spooled: exit 11, the table as it was, and it goes on."""
    home.api.switches({"customers": 300})
    assert home.load("before").code == 0
    home.api.switches({"customers": 1050})
    limit = 150_000  # of one file: the journal fits, a part does not
    home.profile(part_rows=100_000)
    full = home.load(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert full.code == 11, full.err
    assert "DS-STORE-WRITE" in full.err
    assert len(home.rows()) == 300
    assert home("resume", "r1").code == 0
    home.check_exact()


def test_profile_changed(home: Home) -> None:
    """A load is not taken up with another profile: exit 7."""
    assert home.load(failpoint="part.after:2").code == -signal.SIGKILL
    home.profile(mode="append")
    done = home("resume", "r1")
    assert done.code == 7
    assert "DS-LOAD-STALE" in done.err


def test_a_reader_sees_old_or_new(home: Home) -> None:
    """While a table is replaced, whoever counts its rows finds the old number or the new one."""
    home.api.switches({"customers": 300})
    assert home.load("before").code == 0
    home.api.switches({"customers": 1050})
    file, seen, done = home.root / "out/cdp/people.ndjson", set[int](), threading.Event()

    def count() -> None:
        while not done.is_set():
            seen.add(file.read_bytes().count(b"\n"))

    reader = threading.Thread(target=count)
    reader.start()
    try:
        assert home.load().code == 0
        time.sleep(0.05)
    finally:
        done.set()
        reader.join()
    assert seen == {300, 1050}


# ---- words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "code"),
    [
        ({"into": {"connection": "warehouse", "table": "../people"}}, "DS-LOAD-TABLE"),
        ({"into": {"connection": "nowhere", "table": "people"}}, "DS-CFG-CONNECTION"),
        ({"into": {"connection": "yotpo", "table": "people"}}, "DS-CFG-WAREHOUSE"),
        ({"columns": {"a": {"path": "x", "now": True}}}, "DS-LOAD-COLUMN"),
        ({"columns": {"a": {"path": "x["}}}, "DS-JMES"),
        ({"since": {"path": "updated_at", "query": "since"}}, "DS-LOAD-SINCE"),
        ({"source": {"api": {"connection": "yotpo", "resource": "people"}}}, "DS-CLI-RESOURCE"),
        ({"source": {}}, "DS-SRC-KIND"),
        ({"colums": {}}, "DS-PROF-UNKNOWN"),
    ],
)
def test_wrong_words(home: Home, load: dict[str, Any], code: str) -> None:
    """What is wrong with a profile is told before any call is made."""
    home.profile(**load)
    done = home.load()
    assert done.code == 1, done.err
    assert code in done.err
    assert home.api.ledger() == []


def test_profiles_of_two_kinds(home: Home) -> None:
    """A load profile is listed, validated, and no plan; a plan's profile is no load."""
    assert "load warehouse.cdp.people" in home("profiles").out
    plan = home("plan", "customers")
    assert plan.code == 1
    assert "dsync load customers" in plan.err
    assert home("validate").code == 0
    home.profile(colums={})
    wrong = home("validate")
    assert wrong.code == 1
    assert "colums" in wrong.out


# ---- other sources, other resources ------------------------------------------------------------


def test_files_and_databases(home: Home) -> None:
    """Rows of a file are loaded like any other, also over a kill."""
    lines = "".join(f"{n},name {n}\n" for n in range(5000))
    (home.root / "people.csv").write_text("id,name\n" + lines)
    home.profile(
        source={"csv": {"path": "people.csv"}}, identity=["id"],
        columns={"id": {"path": "id", "type": "long"}, "name": {"path": "name"}}, part_rows=1000,
    )  # fmt: skip
    assert home.load(failpoint="part.after:1").code == -signal.SIGKILL
    assert home("resume", "r1").code == 0
    rows = home.rows()
    assert sorted(row["id"] for row in rows) == list(range(5000))
    assert rows[7]["name"] == "name 7"


def test_since(home: Home) -> None:
    """A second load asks only for what changed since, with an overlap; the mark moves last."""
    home.profile(
        source={"api": {"connection": "yotpo", "resource": "orders"}}, mode="append",
        identity=["yotpo_id"], since={"path": "order_date", "query": "order_date_min",
                                      "overlap_s": 86400},
        columns={"id": {"path": "yotpo_id", "type": "long"}, "at": {"path": "order_date"}},
    )  # fmt: skip
    first = home.load("r1").json
    assert first["rows"] == 120
    assert first["mark"] is not None
    killed = home.load("r2", failpoint="finish.before:1")
    assert killed.code == -signal.SIGKILL
    assert home("resume", "r2").code == 0
    asked = [one for one in home.api.ledger() if "order_date_min" in str(one)]
    assert len(asked) == 1
    again = len(home.rows()) - 120
    assert 0 < again < 30


def test_postgres(tmp_path: Path, api: Emulator, postgres: Postgres) -> None:
    """A PostgreSQL table is filled by COPY, replaced at once, and exact over kills."""
    import psycopg

    warehouse = {
        "warehouse": "postgres", "database": postgres.address,
        "credentials": {"user": postgres.user},
    }  # fmt: skip
    home = Home(tmp_path, api, warehouse=warehouse)
    into = {"connection": "warehouse", "database": "cdp", "table": "people"}
    columns = {
        "json_response": {"json": "@"}, "email": {"path": "email"},
        "points": {"path": "loyalty.points_balance", "type": "long"}, "time": {"now": True},
    }  # fmt: skip
    home.profile(into=into, columns=columns)

    def count() -> tuple[int, int]:
        with psycopg.connect(
            f"host={postgres.socket} dbname={postgres.name} user={postgres.user}"
        ) as con:
            query = "SELECT count(*), count(DISTINCT json_response) FROM cdp.people"
            return cast("tuple[int, int]", con.execute(query).fetchone())

    assert home.load("r1").code == 0
    assert count() == (1050, 1050)
    for number, failpoint in enumerate(("put.after:2", "swap.before:1", "swap.after:1")):
        run = f"k{number}"
        assert home.load(run, failpoint=failpoint).code == -signal.SIGKILL
        assert count() == (1050, 1050)
        assert home("resume", run).code == 0
        assert count() == (1050, 1050)
    home.profile(into=into, columns=columns, mode="append")
    assert home.load("a1", failpoint="put.before:3").code == -signal.SIGKILL
    assert home("resume", "a1").code == 0
    assert count()[0] == 2100


# ---- long ones ---------------------------------------------------------------------------------


@pytest.mark.torture
@pytest.mark.parametrize("part", range(4))
def test_forty_instants(tmp_path: Path, part: int) -> None:
    """Killed at ten instants of a load of 300,000 records: exact after each resume."""
    switches = {**QUICK, "customers": 300_000}
    with emulators.start("yotpo", switches=switches) as api:
        home = Home(tmp_path / "project", api)
        home.profile(part_rows=10_000)
        began = time.monotonic()
        assert home.load("whole").code == 0
        whole_s = time.monotonic() - began
        chance = random.Random(part)  # noqa: S311 - instants, no secrets
        for number in range(10):
            run = f"k{number}"
            shutil.rmtree(home.root / "out")
            child = home.start("load", "customers", "--run-id", run, "--yes")
            time.sleep(chance.uniform(0.3, whole_s))
            child.kill()
            child.communicate()
            known = (home.root / ".dsync/runs" / run / "load.db").exists()
            done = home("resume", run) if known else home.load(run)
            assert done.code == 0, done.err
            found = [identity_of(one) for one in home.records()]
            assert len(found) == len(set(found)) == 300_000
            shutil.rmtree(home.root / ".dsync/runs" / run)
