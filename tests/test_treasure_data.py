"""Bulk loads into Treasure Data: whatever an answer does, the rows come once or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import math
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import tdclient

from dsync import emulators
from dsync.errors import (
    ContractBreach,
    DsyncError,
    Invalid,
    Refused,
    Unauthorized,
    Unavailable,
    Unsettled,
)
from dsync.secrets import Secret
from dsync.warehouses import Site
from dsync.warehouses import treasure_data as td
from dsync.warehouses.treasure_data_calls import REGIONS, Calls
from treasure_data_literals import COLUMNS, NOW, load, loaded, people, rows_of, site, written

pytestmark = pytest.mark.integration

KEYS = {"keys": ["1/demo"], "write_only_keys": ["1/write-only"]}


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with emulators.start(
        "treasure_data",
        switches={"databases": ["cdp"], "perform_polls": 1, "commit_polls": 1, **KEYS},
    ) as running:
        yield running


@pytest.fixture
def api(server: Any) -> Any:
    """The emulator in its first state."""
    server.faults([])
    server.reset()
    return server


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow one another at once."""
    monkeypatch.setattr(td, "WAITS_S", (0.01, 0.05))
    monkeypatch.setattr(td, "COUNT_S", 1.0)
    monkeypatch.setattr("dsync.pace.Pace.backoff", lambda *_, **__: 0.01)


PARTS = [people(30), people(20, 30), people(7, 50)]
WRITES = {
    "create": r"/bulk_import/create/",
    "part": r"/bulk_import/upload_part/.*p00002",
    "freeze": r"/bulk_import/freeze/",
    "perform": r"/bulk_import/perform/",
    "commit": r"/bulk_import/commit/",
    "delete": r"/bulk_import/delete/",
    "database": r"/database/create/",
    "table": r"/table/create/",
    "schema": r"/table/append-schema/",
}
OF_REPLACE = {"swap": r"/table/swap/", "drop": r"/table/delete/"}
LOST = [
    {"fault": "reset", "when": "before"},
    {"fault": "reset", "when": "after"},
    {"fault": "status", "when": "before", "status": 502},
    {"fault": "status", "when": "after", "status": 500},
    {"fault": "html", "when": "before"},
    {"fault": "html", "when": "after"},
]


def rule(path: str, fault: dict[str, Any], **match: Any) -> dict[str, Any]:
    return {"match": {"path": path, "nth": 1, **match}, **fault}


def named(fault: dict[str, Any]) -> str:
    return f"{fault['fault']}-{fault['when']}"


# ---- the table of doubts -----------------------------------------------------------------------


@pytest.mark.parametrize("fault", LOST, ids=named)
@pytest.mark.parametrize("route", WRITES)
def test_lost_answers_of_an_append(api: Any, tmp_path: Path, route: str, fault: Any) -> None:
    """Whichever answer gets lost, before its effect or after it, the rows come once (A9, A10)."""
    api.faults([rule(WRITES[route], fault)])
    result = loaded(site(tmp_path / "run", api.url), load(database="new_one"), PARTS)
    held = rows_of(api, database="new_one")
    assert (result.rows, result.rejected) == (57, 0)
    assert (held["count"], held["distinct"]) == (57, 57)
    assert api.counts()["faults"]
    assert api.state()["sessions"] == {}


@pytest.mark.parametrize("fault", LOST, ids=named)
@pytest.mark.parametrize("route", sorted({**OF_REPLACE, **WRITES}.keys() - {"database"}))
def test_lost_answers_of_a_replace(api: Any, tmp_path: Path, route: str, fault: Any) -> None:
    """Whichever answer gets lost, the new rows take the place of the old ones, and nothing stays.

    As many rows as before, so that the count tells nothing.
    """
    old = [{"json_response": f'{{"n":{n}}}', "time": NOW} for n in range(57)]
    api.seed({"rows": {"cdp.yotpo_customers": old}})
    api.faults([rule({**WRITES, **OF_REPLACE}[route], fault)])
    result = loaded(site(tmp_path / "run", api.url), load(mode="replace"), PARTS)
    held = rows_of(api)
    assert (result.rows, result.before) == (57, 57)
    assert {json.loads(row["json_response"])["external_id"] for row in held["rows"]} == {
        f"cust-{n}" for n in range(57)
    }
    assert list(api.state()["databases"]["cdp"]) == ["yotpo_customers"]
    assert api.state()["sessions"] == {}


@pytest.mark.parametrize("route", ["create", "part", "freeze", "perform", "commit"])
def test_effects_that_come_late(api: Any, tmp_path: Path, route: str) -> None:
    """A call that takes effect after we gave it up brings no row twice."""
    fault = {"fault": "late_commit", "after_s": 0.3, "hang_s": 3}
    api.faults([rule(WRITES[route], fault)])
    where = site(tmp_path / "run", api.url, timeout_s=0.15)
    loaded(where, load(), PARTS, lives=3)
    time.sleep(0.4)
    assert rows_of(api)["count"] == 57


def test_a_swap_that_comes_late(api: Any, tmp_path: Path) -> None:
    """A swap that we gave up and that takes place later does not undo the second one."""
    api.seed({"rows": {"cdp.yotpo_customers": [{"json_response": "{}", "time": NOW}]}})
    api.faults([rule(OF_REPLACE["swap"], {"fault": "late_commit", "after_s": 0.5, "hang_s": 3})])
    loaded(site(tmp_path / "run", api.url, timeout_s=0.2), load(mode="replace"), PARTS)
    time.sleep(0.7)
    assert rows_of(api)["count"] == 57
    assert list(api.state()["databases"]["cdp"]) == ["yotpo_customers"]


def test_a_table_that_is_new_gets_its_name(api: Any, tmp_path: Path) -> None:
    """A replace without an old table shows the new one only when it is whole."""
    for fault in LOST:
        api.reset()
        api.faults([rule(r"/table/rename/", fault)])
        loaded(site(tmp_path / named(fault), api.url), load(mode="replace"), PARTS)
        assert list(api.state()["databases"]["cdp"]) == ["yotpo_customers"]
        assert rows_of(api)["count"] == 57


STEPS = (
    "database/show", "table/show", "create", "upload_part", "list_parts", "freeze", "append-schema",
    "perform", "bulk_import/show", "commit", "swap", "table/delete", "bulk_import/delete",
)  # fmt: skip


@pytest.mark.parametrize("mode", ["append", "replace"])
def test_a_process_that_dies_anywhere(api: Any, tmp_path: Path, mode: Any) -> None:
    """Whichever call a life ends at, before its effect or after it, the next life goes on there.

    A life ends where the API goes silent: it answers no look, either.
    """
    old = {"json_response": "{}", "time": NOW}
    silence = {"fault": "reset", "when": "before"}
    for life in range(3, 60, 2):
        for when in ("before", "after"):
            api.reset()
            api.seed({"rows": {"cdp.yotpo_customers": [old]}})
            api.faults([
                {"match": {"nth": life}, "fault": "reset", "when": when},
                {"match": {"from": life}, **silence},
            ])  # fmt: skip
            where = site(tmp_path / f"{life}{when}", api.url, retries=0)
            with contextlib.suppress(DsyncError):
                loaded(where, load(mode=mode), PARTS)
            reached = len(api.ledger()) >= life
            api.faults([])
            loaded(where, load(mode=mode), PARTS)
            assert rows_of(api)["count"] == 57 + (mode == "append"), (life, when)
            assert list(api.state()["databases"]["cdp"]) == ["yotpo_customers"], (life, when)
        if not reached:
            return
    raise AssertionError("a load makes more calls than this test cuts")


def test_a_lost_part_is_sent_again(api: Any, tmp_path: Path) -> None:
    """A part that was taken and is not listed is sent again before the freeze."""
    api.faults([{"match": {"path": "upload_part", "nth": 2}, "fault": "part_lost"}])
    loaded(site(tmp_path / "run", api.url), load(), PARTS)
    assert rows_of(api)["count"] == 57


def test_a_part_that_was_never_ours(api: Any, tmp_path: Path) -> None:
    """A session that holds more than our parts is not committed."""

    async def run() -> None:
        warehouse = td.connect(site(tmp_path / "run", api.url))
        await warehouse.begin(load())
        made = written(warehouse, tmp_path, PARTS)
        for part in made:
            await warehouse.put(part)
        try:
            await warehouse.finish(made[:-1])
        finally:
            await warehouse.close()

    with pytest.raises(ContractBreach, match="DS-TD-PARTS"):
        asyncio.run(run())
    assert rows_of(api)["count"] == 0


@pytest.mark.parametrize("call", ["upload_part", "list_parts", "freeze", "perform", "show"])
@pytest.mark.parametrize("loss", ["session_gone", "session_invalid"])
def test_a_session_that_is_lost(api: Any, tmp_path: Path, call: str, loss: str) -> None:
    """A session that vanishes before a commit was asked for is made anew from the parts."""
    api.faults([{"match": {"path": f"bulk_import/{call}", "nth": 2 if call == "show" else 1},
                 "fault": loss}])  # fmt: skip
    loaded(site(tmp_path / "run", api.url), load(), PARTS, lives=2)
    assert rows_of(api)["count"] == 57


def test_a_commit_that_nobody_can_tell(api: Any, tmp_path: Path) -> None:
    """After a commit whose session is gone the count decides, and else a human."""
    api.seed({"rows": {"cdp.yotpo_customers": [{"json_response": "{}", "time": NOW}]}})
    api.faults([rule(WRITES["commit"], {"fault": "session_gone"})])
    where = site(tmp_path / "run", api.url)
    with pytest.raises(Unsettled, match="DS-TD-UNSETTLED"):
        loaded(where, load(), PARTS)
    with pytest.raises(Unsettled, match="DS-TD-UNSETTLED"):
        loaded(where, load(), PARTS)
    assert rows_of(api)["count"] == 1


def test_a_commit_whose_session_is_gone_and_whose_rows_came(api: Any, tmp_path: Path) -> None:
    """When the count shows the rows, the load is done, and nothing is sent again."""
    api.faults([
        rule(WRITES["commit"], {"fault": "reset", "when": "after"}),
        {"match": {"path": "bulk_import/show", "from": 8}, "fault": "session_gone"},
    ])  # fmt: skip
    api.switches({"commit_polls": 0})
    try:
        assert loaded(site(tmp_path / "run", api.url), load(), PARTS, lives=2).rows == 57
    finally:
        api.switches({"commit_polls": 1})
    assert rows_of(api)["count"] == 57


def test_done_is_done(api: Any, tmp_path: Path) -> None:
    """A load that has ended is only told again: not one write is made."""
    where = site(tmp_path / "run", api.url)
    first = loaded(where, load(), PARTS)

    async def again() -> Any:
        warehouse = td.connect(where)
        await warehouse.begin(load())
        try:
            return await warehouse.finish(written(warehouse, where.folder, PARTS))
        finally:
            await warehouse.close()

    writes = api.counts()["writes"]
    assert asyncio.run(again()) == first
    assert api.counts()["writes"] == writes


# ---- what must not be committed ----------------------------------------------------------------


def test_error_records_stop_the_commit(api: Any, tmp_path: Path) -> None:
    """Records in error are kept for people, and the target stays as it is (A12)."""
    api.seed({"rows": {"cdp.yotpo_customers": [{"json_response": "{}", "time": NOW}]}})
    for mode in ("append", "replace"):
        api.faults([rule(WRITES["perform"], {"fault": "error_records", "count": 3})])
        where = site(tmp_path / mode, api.url)
        result = loaded(where, load(mode=mode, run_id=mode), PARTS)
        assert (result.rows, result.rejected) == (0, 3)
        lines = (where.folder / td.REJECTED_FILE).read_text().splitlines()
        assert [json.loads(json.loads(line)["json_response"]) for line in lines] == [
            {"external_id": f"cust-{n}"} for n in range(3)
        ]
        assert rows_of(api)["count"] == 1


def test_parts_in_error_stop_the_commit(api: Any, tmp_path: Path) -> None:
    """A part that arrived damaged is noticed by the counts."""
    api.faults([{"match": {"path": "upload_part", "nth": 2}, "fault": "part_damaged"}])
    with pytest.raises(ContractBreach, match="57 rows were sent"):
        loaded(site(tmp_path / "run", api.url), load(), PARTS)
    assert rows_of(api)["count"] == 0


@pytest.mark.parametrize("fault", ["perform_failed", "perform_killed"])
def test_a_job_that_fails(api: Any, tmp_path: Path, fault: str) -> None:
    """A job that ends badly ends the run; the next life performs again (A13)."""
    api.faults([rule(WRITES["perform"], {"fault": fault, "message": "no workers"})])
    where = site(tmp_path / "run", api.url)
    with pytest.raises(Unavailable, match="DS-TD-PERFORM"):
        loaded(where, load(), PARTS)
    assert rows_of(api)["count"] == 0
    uploads = len([c for c in api.ledger() if "upload_part" in c["path"]])
    asyncio.run(_finish_only(where))
    assert rows_of(api)["count"] == 57
    assert len([c for c in api.ledger() if "upload_part" in c["path"]]) == uploads


async def _finish_only(where: Site) -> None:
    warehouse = td.connect(where)
    await warehouse.begin(load())
    await warehouse.finish(written(warehouse, where.folder, PARTS))
    await warehouse.close()


def test_work_without_end(api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job or a commit that never ends is given up, resumable."""
    monkeypatch.setattr(td, "WORK_S", 0.2)
    for fault, route in (("perform_never", "perform"), ("commit_never", "commit")):
        api.faults([rule(WRITES[route], {"fault": fault})])
        with pytest.raises(Unavailable, match="DS-TD-SLOW"):
            loaded(site(tmp_path / fault, api.url), load(run_id=fault), PARTS)


def test_an_abandoned_load_leaves_nothing(api: Any, tmp_path: Path) -> None:
    """What a load has brought and nobody has seen goes with it."""
    api.seed({"rows": {"cdp.yotpo_customers": [{"json_response": "{}", "time": NOW}]}})
    where = site(tmp_path / "run", api.url)
    api.faults([rule(WRITES["perform"], {"fault": "perform_failed"})])
    with pytest.raises(Unavailable):
        loaded(where, load(mode="replace"), PARTS)

    async def abandon() -> None:
        warehouse = td.connect(where)
        assert await warehouse.abandon(load(mode="replace"))
        await warehouse.close()

    asyncio.run(abandon())
    assert api.state()["sessions"] == {}
    assert list(api.state()["databases"]["cdp"]) == ["yotpo_customers"]
    assert rows_of(api)["count"] == 1


def test_old_sessions_of_ours_go(api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that an earlier run has left goes with the next run; others' sessions stay."""
    client = tdclient.Client(apikey="1/demo", endpoint=api.url)
    client.create_log_table("cdp", "yotpo_customers")
    client.create_bulk_import("dsync_other_yotpo_customers", "cdp", "yotpo_customers")
    api.faults([rule(WRITES["perform"], {"fault": "perform_failed"})])
    with pytest.raises(Unavailable):
        loaded(site(tmp_path / "first", api.url), load(run_id="first", mode="replace"), PARTS)
    monkeypatch.setattr(td, "STALE_S", -1)
    loaded(site(tmp_path / "second", api.url), load(run_id="second"), PARTS)
    assert list(api.state()["sessions"]) == ["dsync_other_yotpo_customers"]
    assert list(api.state()["databases"]["cdp"]) == ["yotpo_customers"]


def test_a_session_that_stays(api: Any, tmp_path: Path) -> None:
    """A load whose session cannot be deleted is a success; the next load deletes it."""
    api.faults([{"match": {"path": "bulk_import/delete"}, "fault": "forbidden"}])
    loaded(site(tmp_path / "first", api.url), load(run_id="first"), PARTS)
    assert list(api.state()["sessions"]) == ["dsync_first_yotpo_customers"]
    api.faults([])
    for run in ("second", "third"):
        loaded(site(tmp_path / run, api.url), load(run_id=run), PARTS)
    assert api.state()["sessions"] == {}
    assert rows_of(api)["count"] == 3 * 57
    assert len([c for c in api.ledger() if "show/dsync_first" in c["path"]]) < 20


def test_nothing_to_load(api: Any, tmp_path: Path) -> None:
    """No rows are no session to commit; a replace leaves an empty table."""
    api.seed({"rows": {"cdp.yotpo_customers": [{"json_response": "{}", "time": NOW}]}})
    assert loaded(site(tmp_path / "a", api.url), load(run_id="a"), []).rows == 0
    assert rows_of(api)["count"] == 1
    loaded(site(tmp_path / "r", api.url), load(run_id="r", mode="replace"), [])
    assert rows_of(api)["count"] == 0
    assert api.state()["sessions"] == {}


# ---- readers -----------------------------------------------------------------------------------


def test_a_reader_sees_old_or_new(api: Any, tmp_path: Path) -> None:
    """Who counts all the time during a replace sees the old number or the new one (A14)."""
    old = [{"json_response": "{}", "time": NOW}] * 11
    api.seed({"rows": {"cdp.yotpo_customers": old}})
    seen, stop = [], threading.Event()
    request = urllib.request.Request(
        f"{api.url}/v3/table/show/cdp/yotpo_customers", headers={"Authorization": "TD1 1/demo"}
    )

    def read() -> None:
        while not stop.wait(0.02):
            with urllib.request.urlopen(request) as answer:
                seen.append(json.load(answer)["count"])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        api.faults([{"match": {"path": "/(perform|commit|swap)/"}, "fault": "delay",
                     "delay_s": 0.2}])  # fmt: skip
        loaded(site(tmp_path / "run", api.url), load(mode="replace"), PARTS)
        time.sleep(0.1)
    finally:
        stop.set()
        reader.join()
    assert set(seen) == {11, 57}
    assert seen == sorted(seen)


# ---- keys, regions, names ----------------------------------------------------------------------


def test_write_only_keys_append(api: Any, tmp_path: Path) -> None:
    """A write-only key appends to a table that is there (A20)."""
    api.seed({"tables": ["cdp.yotpo_customers"]})
    where = site(tmp_path / "run", api.url, key="1/write-only")
    assert loaded(where, load(), PARTS).rows == 57


@pytest.mark.parametrize("is_there", [True, False])
def test_write_only_keys_replace_nothing(api: Any, tmp_path: Path, is_there: bool) -> None:
    """A write-only key is refused a replace before anything is read or made (A20)."""
    if is_there:
        api.seed({"tables": ["cdp.yotpo_customers"]})
    with pytest.raises(Refused, match="write-only"):
        loaded(site(tmp_path / "run", api.url, key="1/write-only"), load(mode="replace"), PARTS)
    assert api.effects() == []
    assert api.state()["sessions"] == {}


def test_write_only_keys_make_no_table(api: Any, tmp_path: Path) -> None:
    """A write-only key that misses its table is told so."""
    with pytest.raises(Unauthorized, match="may not create it"):
        loaded(site(tmp_path / "run", api.url, key="1/write-only"), load(), PARTS)


def test_keys_that_are_wrong(api: Any, tmp_path: Path) -> None:
    """A wrong key, or one of another region, is one clear message that does not show it."""
    secret = "1/c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00"
    api.switches({"key_regions": {"1/demo": "eu01"}})
    try:
        for key in (secret, "1/demo"):
            with pytest.raises(Unauthorized, match="DS-TD-KEY") as caught:
                loaded(site(tmp_path / "run", api.url, key=key), load(), PARTS)
            assert "region" in str(caught.value)
            assert key not in str(caught.value)
    finally:
        api.switches({"key_regions": None})
    assert api.effects() == []


def test_regions(tmp_path: Path) -> None:
    """A region stands for its address; an address of one's own goes before it."""

    def origin(**changes: Any) -> str:
        return Calls(Site(connection="w", folder=tmp_path, credentials={"key": Secret("1/demo")},
                          **changes)).origin  # fmt: skip

    assert origin() == REGIONS["us"]
    assert origin(region="eu01") == "https://api.eu01.treasuredata.com"
    assert origin(region="eu01", base_url="https://td.example.test") == "https://td.example.test"
    with pytest.raises(Invalid, match="DS-TD-REGION"):
        origin(region="mars")
    with pytest.raises(Invalid, match="no credential `key`"):
        Calls(Site(connection="w", folder=tmp_path))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"database": "CDP"}, "DS-TD-NAME"),
        ({"table": "yotpo-customers"}, "DS-TD-NAME"),
        ({"table": "ab"}, "DS-TD-NAME"),
        ({"columns": {"json_response": "json"}}, "DS-TD-COLUMN"),
        ({"columns": {"time": "string"}}, "DS-TD-COLUMN"),
        ({"columns": {"E-Mail": "string", "time": "long"}}, "DS-TD-COLUMN"),
        ({"columns": {"v": "string", "time": "long"}}, "DS-TD-COLUMN"),
        ({"columns": {f"c{n}": "string" for n in range(4096)} | {"time": "long"}}, "DS-TD-COLUMN"),
    ],
)
def test_names(api: Any, tmp_path: Path, changes: Any, code: str) -> None:
    """What Treasure Data would refuse is refused before the first call."""
    with pytest.raises(Invalid, match=code):
        loaded(site(tmp_path / "run", api.url), load(**changes), [])
    assert api.ledger() == []


def test_columns_of_other_types(api: Any, tmp_path: Path) -> None:
    """A column whose type would turn values into null is refused before anything is made."""
    client = tdclient.Client(apikey="1/demo", endpoint=api.url)
    client.create_log_table("cdp", "yotpo_customers")
    client.update_schema("cdp", "yotpo_customers", [["json_response", "long"]])
    writes = api.counts()["writes"]
    with pytest.raises(Invalid, match="has the type long"):
        loaded(site(tmp_path / "run", api.url), load(), PARTS)
    assert api.counts()["writes"] == writes


def test_names_of_sessions_and_tables() -> None:
    """Names come of run and table, fit, and differ where these differ."""
    assert td.session_name("night", "people") == "dsync_night_people"
    assert td.new_table_name("people", "night") == "people_dsync_night"
    names = {td.new_table_name("t" * 128, run) for run in ("a", "b", "a.b", "a-b", "a_b")}
    assert len(names) == 5
    assert max(map(len, names)) == 128
    assert len(td.new_table_name("t" * 128, "a", 3)) == 128


def test_a_session_of_somebody_else(api: Any, tmp_path: Path) -> None:
    """A session of our name that we did not fill is left alone."""
    client = tdclient.Client(apikey="1/demo", endpoint=api.url)
    client.create_log_table("cdp", "yotpo_customers")
    client.create_log_table("cdp", "another")
    client.create_bulk_import("dsync_night_yotpo_customers", "cdp", "another")
    with pytest.raises(Refused, match="DS-TD-SESSION"):
        loaded(site(tmp_path / "run", api.url), load(), PARTS)


# ---- limits ------------------------------------------------------------------------------------


def test_throttled(api: Any, tmp_path: Path) -> None:
    """A 429 is waited for, whichever call it comes to."""
    api.faults([{"match": {"every": 7}, "fault": "too_many", "when": "before", "retry_after": 0}])
    loaded(site(tmp_path / "run", api.url), load(), PARTS)
    assert rows_of(api)["count"] == 57


def test_an_api_that_is_down(api: Any, tmp_path: Path) -> None:
    """A fault of the server that lasts is told as one, whichever call meets it."""
    for number, path in enumerate(("table/show", "upload_part", "freeze", "commit")):
        api.faults([{"match": {"path": path}, "fault": "status", "when": "before", "status": 503}])
        with pytest.raises(Unavailable, match="DS-TD-DOWN"):
            loaded(site(tmp_path / str(number), api.url), load(run_id=f"r{number}"), PARTS)


def test_a_part_that_is_refused(api: Any, tmp_path: Path) -> None:
    """A part that is refused is no success, and its message says what the server said."""
    for fault in ({"fault": "part_refused"}, {"fault": "status", "when": "before", "status": 413}):
        api.faults([{"match": {"path": "upload_part"}, **fault}])
        with pytest.raises(ContractBreach, match="DS-TD-PART"):
            loaded(site(tmp_path / str(fault["fault"]), api.url), load(run_id="r1"), PARTS)
    assert rows_of(api)["count"] == 0


# ---- parts -------------------------------------------------------------------------------------


def packed(tmp_path: Path, columns: Any, rows: Any) -> list[dict[str, Any]]:
    """What the official package reads of the part that these rows make."""
    writer = td.MsgpackWriter(tmp_path / "part.msgpack.gz", columns)
    writer.add(rows)
    writer.close()
    content = (tmp_path / "part.msgpack.gz").read_bytes()
    assert writer.bytes == len(content)
    plain = gzip.decompress(content)
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=len(plain) + 1)
    unpacker.feed(plain)
    return list(unpacker)


ODD_TEXTS = ["", "null", "NaN", "00123", "1_000", "Žofie Ōe 李 🐈", "a\u2028b", "x" * 200_000]


def test_parts_read_back(tmp_path: Path) -> None:
    """The official package reads from a part what was written: types, nulls, odd texts (A19)."""
    columns = {"email": "string", "points": "long", "score": "double", "is_in": "boolean",
               "json_response": "json", "time": "long"}  # fmt: skip
    rows = [(text, n, n / 4, n % 2 == 0, json.dumps({"t": text}), NOW) for n, text in
            enumerate(ODD_TEXTS)]  # fmt: skip
    rows += [(None, None, None, None, None, 0), ("a", -(2**63), math.inf, None, "{}", 1),
             ("b", 2**63 - 1, math.nan, True, "[]", 2**33 - 1)]  # fmt: skip
    words = {True: "true", False: "false", None: None}
    expected = [
        {"email": e, "points": p, "score": s if s is not None and math.isfinite(s) else None,
         "is_in": words[i], "json_response": j, "time": t}
        for e, p, s, i, j, t in rows
    ]  # fmt: skip
    assert packed(tmp_path, columns, rows) == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("long", 2**63),
        ("long", -(2**63) - 1),
        ("long", True),
        ("string", "\ud800"),
        ("json", "\udfff"),
    ],
)
def test_values_that_would_be_bent(tmp_path: Path, kind: str, value: Any) -> None:
    """A value that no column can hold is refused by row and column."""
    with pytest.raises(Invalid, match=r"row 3 of .*column points") as caught:
        packed(tmp_path, {"points": kind, "time": "long"}, [(None, 1), (None, 1), (value, 1)])
    assert caught.value.code == "DS-TD-VALUE"


@pytest.mark.parametrize("moment", [None, -1, 2**33, True, 1.5, "1700000000"])
def test_moments_that_are_none(tmp_path: Path, moment: Any) -> None:
    """A `time` that would make the row an error record is refused before it is sent."""
    with pytest.raises(Invalid, match="column time"):
        packed(tmp_path, COLUMNS, [("{}", moment)])


def test_records_of_5_mb(tmp_path: Path) -> None:
    """A record may have 5 MB and no more."""
    assert len(packed(tmp_path, COLUMNS, [("x" * (5 * 2**20 - 100), NOW)])) == 1
    with pytest.raises(Invalid, match="DS-TD-RECORD"):
        packed(tmp_path, COLUMNS, [("x" * (5 * 2**20), NOW)])


def test_the_same_rows_are_the_same_part(api: Any, tmp_path: Path) -> None:
    """A part that is written again has the same bytes, and so the same name."""
    names = []
    for name in ("a", "b"):
        warehouse = td.connect(site(tmp_path / name, api.url))
        names.append([part.name for part in written(warehouse, tmp_path / name, PARTS)])
        time.sleep(0.01)
    assert names[0] == names[1]


def test_the_official_client_reads_it_back(api: Any, tmp_path: Path) -> None:
    """The official client finds the rows byte for byte, the declared columns and no session."""
    columns = {"json_response": "json", "email": "string", "points": "long", "score": "double",
               "time": "long"}  # fmt: skip
    rows = [(json.dumps({"name": text}, ensure_ascii=n % 2 == 0), text, n, None, NOW + n)
            for n, text in enumerate(ODD_TEXTS)]  # fmt: skip
    loaded(site(tmp_path / "run", api.url), load(columns=columns), [rows[:4], rows[4:]])
    client = tdclient.Client(apikey="1/demo", endpoint=api.url)
    found = sorted(client.tail("cdp", "yotpo_customers", 100), key=lambda row: row["time"])
    assert [tuple(row.get(name) for name in columns) for row in found] == rows
    (table,) = client.tables("cdp")
    assert table.schema == [
        ["json_response", "string"], ["email", "string"], ["points", "long"], ["score", "double"],
    ]  # fmt: skip
    assert table.count == len(rows)
    assert client.bulk_imports() == []
