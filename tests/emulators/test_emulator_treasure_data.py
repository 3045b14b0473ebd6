"""The Treasure Data emulator: imports that arrive once, whole, or not at all; its official clients.

pytd is heavy (pandas, pyarrow): it runs in an environment of its own.
"""

from __future__ import annotations

import concurrent.futures
import gzip
import hashlib
import http.client
import io
import json
import math
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from emulator_client import Answer, Client
from hypothesis import strategies

from dsync import emulators
from dsync.emulators import Emulator
from dsync.emulators.msgpack_bytes import Broken, Extension, pack, unpack, unpack_each

pytestmark = pytest.mark.integration

KEY = {"Authorization": "TD1 1/demo"}
NOW = 1_700_000_000
Rows = list[dict[str, Any]]
WITNESS = Path(__file__).parents[2] / ".venv-witness" / "bin" / "python"


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with emulators.start("treasure_data") as emulator:
        yield emulator


@pytest.fixture
def td(running: Emulator) -> Emulator:
    running.switches(dict.fromkeys(running.switches()))
    running.switches({"perform_polls": 0, "commit_polls": 0})
    running.reset()
    running.seed({"tables": ["raw_db.people"]})
    return running


@pytest.fixture
def client(td: Emulator) -> Client:
    return Client(td.port, KEY)


def part(rows: Rows) -> bytes:
    return gzip.compress(b"".join(map(pack, rows)), 1)


def people(first: int, count: int) -> Rows:
    return [
        {"external_id": f"cust-{n}", "points": n, "time": NOW + n}
        for n in range(first, first + count)
    ]


def table(td: Emulator, name: str = "people") -> dict[str, Any]:
    return td.state()["databases"]["raw_db"][name]  # type: ignore[index,no-any-return]


def post(client: Client, path: str, **fields: str) -> Answer:
    return client(
        "POST", f"/v3/{path}", fields or None, headers={"Content-Type": "application/json"}
    )


def put(client: Client, session: str, name: str, data: bytes) -> Answer:
    path = f"/v3/bulk_import/upload_part/{session}/{name}"
    return client("PUT", path, data, headers={"Content-Type": "application/octet-stream"})


def show(client: Client, session: str) -> dict[str, Any]:
    return client("GET", f"/v3/bulk_import/show/{session}").json  # type: ignore[no-any-return]


def session(client: Client, name: str, *parts: Rows, to: str = "people") -> str:
    """A session with its parts, frozen."""
    assert post(client, f"bulk_import/create/{name}/raw_db/{to}").status == 200
    for number, rows in enumerate(parts):
        assert put(client, name, f"part-{number}", part(rows)).status == 200
    assert post(client, f"bulk_import/freeze/{name}").status == 200
    return name


def load(client: Client, name: str, *parts: Rows, to: str = "people") -> None:
    session(client, name, *parts, to=to)
    assert post(client, f"bulk_import/perform/{name}").status == 200
    assert post(client, f"bulk_import/commit/{name}").status == 200


# ---- who may ask -------------------------------------------------------------------------------


def test_a_key_must_be_known_and_of_this_region(td: Emulator) -> None:
    """No key, a wrong one, one without TD1, and one of another region are all 401."""
    for headers in ({}, {"Authorization": "TD1 1/no"}, {"Authorization": "1/demo"}):
        answer = Client(td.port, headers)("GET", "/v3/database/list")
        assert (answer.status, answer.json["severity"]) == (401, "error")
    td.switches({"key_regions": {"1/demo": "eu01"}})
    client = Client(td.port, KEY)
    assert client("GET", "/v3/database/list").status == 401
    there = client("GET", "/v3/database/list", headers={"Host": "api.eu01.treasuredata.com"})
    assert there.status == 200
    assert Client(td.port)("GET", "/v3/system/server_status").json == {"status": "ok"}


def test_a_write_only_key_appends_and_no_more(td: Emulator) -> None:
    """A write-only key may import and append columns; it may not replace, delete, swap or read."""
    client = Client(td.port, {"Authorization": "TD1 1/write-only"})
    load(client, "only-writes", people(1, 3))
    assert (
        post(client, "table/append-schema/raw_db/people", schema='[["x","string"]]').status == 200
    )
    for path in (
        *("table/update-schema/raw_db/people", "table/delete/raw_db/people"),
        *("table/create/raw_db/other/log", "table/swap/raw_db/people/people"),
        *("job/issue/trino/raw_db", "database/delete/raw_db"),
    ):
        assert post(client, path, schema="[]").status == 403
    assert client("GET", "/v3/table/tail/raw_db/people?count=3").status == 403
    assert table(td)["count"] == 3


def test_paths_and_bodies_of_all_clients(client: Client) -> None:
    """Slashes in a row and prefixes are nothing; fields come as JSON, form, multipart or query."""
    for path in ("//v3/database/list", "/td//v3///database/list"):
        assert client("GET", path).status == 200
    assert client("GET", "/v3/nothing/here").status == 404
    columns = [json.dumps([[name, "long"]]) for name in "abcd"]
    path = "/v3/table/append-schema/raw_db/people"
    assert client("POST", path, {"schema": columns[0]}, headers=JSON).status == 200
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client("POST", path, b"schema=" + columns[1].encode(), headers=form).status == 200
    multi = (
        f'--x\r\nContent-Disposition: form-data; name="schema"\r\n\r\n{columns[2]}\r\n--x--\r\n'
    ).encode()
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client("POST", path, multi, headers=kind).status == 200
    assert client("POST", f"{path}?schema=%5B%5B%22d%22%2C%22long%22%5D%5D").status == 200
    shown = client("GET", "/v3/table/show/raw_db/people").json
    assert [column[0] for column in json.loads(shown["schema"])] == list("abcd")


JSON = {"Content-Type": "application/json"}


# ---- databases and tables ----------------------------------------------------------------------


def test_databases(client: Client) -> None:
    """A database is created once, listed, shown, and deleted."""
    assert post(client, "database/create/acme_raw").status == 200
    assert post(client, "database/create/acme_raw").status == 409
    assert post(client, "database/create/A").status == 422
    names = [one["name"] for one in client("GET", "/v3/database/list").json["databases"]]
    assert names == ["raw_db", "acme_raw"]
    assert isinstance(client("GET", "/v3/database/show/acme_raw").json["id"], str)
    assert post(client, "database/delete/acme_raw").status == 200
    assert client("GET", "/v3/database/show/acme_raw").status == 404


def test_tables(td: Emulator, client: Client) -> None:
    """Tables are created, swapped, renamed, moved and deleted; what is not there is a 404."""
    assert post(client, "table/create/raw_db/fresh/log").status == 200
    assert post(client, "table/create/raw_db/fresh").status == 409
    assert post(client, "table/create/no_db/fresh/log").status == 404
    load(client, "load-1", people(1, 5), to="fresh")
    assert post(client, "table/swap/raw_db/people/fresh").status == 200
    assert (table(td)["count"], table(td, "fresh")["count"]) == (5, 0)
    assert post(client, "table/rename/raw_db/people/fresh").status == 409
    assert post(client, "table/rename/raw_db/people/fresh", overwrite="true").status == 200
    listed = client("GET", "/v3/table/list/raw_db").json["tables"]
    assert [(one["name"], one["count"]) for one in listed] == [("fresh", 5)]
    post(client, "database/create/other_db")
    moved = post(client, "table/change_database/raw_db/fresh", dest_database_name="other_db")
    assert moved.status == 200
    assert post(client, "table/delete/other_db/fresh").json["type"] == "log"
    assert client("GET", "/v3/table/show/other_db/fresh").status == 404


def test_schemas(client: Client) -> None:
    """Columns can be replaced or added; reserved and double names and unknown types are a 422."""
    replace, append = "table/update-schema/raw_db/people", "table/append-schema/raw_db/people"
    assert (
        post(client, replace, schema='[["points","long"],["Mail","string","mail"]]').status == 200
    )
    assert post(client, append, schema='[["tags","array<string>"]]').status == 200
    for bad in (
        '[["time","long"]]',
        '[["points","long"]]',
        '[["x","text"]]',
        '[["9x","long"]]',
        "{",
    ):
        assert post(client, append, schema=bad).status == 422
    shown = client("GET", "/v3/table/show/raw_db/people").json
    assert json.loads(shown["schema"]) == [
        ["points", "long"],
        ["Mail", "string", "mail"],
        ["tags", "array<string>"],
    ]


# ---- bulk import -------------------------------------------------------------------------------


def test_a_bulk_import_from_create_to_delete(td: Emulator, client: Client) -> None:
    """Nothing is in the table before the commit; then every row is, once."""
    session(client, "run-1", people(1, 3), people(4, 2))
    before = show(client, "run-1")
    assert (before["status"], before["upload_frozen"]) == ("uploading", True)
    assert {before[name] for name in COUNTS} == {None}
    job = post(client, "bulk_import/perform/run-1").json["job_id"]
    assert client("GET", f"/v3/job/status/{job}").json["status"] == "success"
    ready = show(client, "run-1")
    assert [ready[name] for name in ("status", *COUNTS)] == ["ready", 5, 0, 2, 0]
    assert table(td)["count"] == 0
    assert post(client, "bulk_import/commit/run-1").status == 200
    assert post(client, "bulk_import/commit/run-1").status == 422
    assert post(client, "bulk_import/delete/run-1").status == 200
    assert client("GET", "/v3/bulk_import/show/run-1").status == 404
    held = table(td)
    assert (held["count"], held["distinct"], held["identities"]) == (5, 5, 5)
    assert held["rows"] == people(1, 5)
    assert held["schema"] == [["external_id", "string"], ["points", "long"]]


COUNTS = ("valid_records", "error_records", "valid_parts", "error_parts")


def test_steps_in_the_wrong_order(client: Client) -> None:
    """A session refuses what its state does not allow, and a name that is taken."""
    assert post(client, "bulk_import/create/ab/raw_db/people").status == 422
    assert post(client, "bulk_import/create/run-1/raw_db/nothing").status == 404
    assert post(client, "bulk_import/create/run-1/raw_db/people").status == 200
    assert post(client, "bulk_import/create/run-1/raw_db/people").status == 409
    assert post(client, "bulk_import/perform/run-1").status == 422
    assert post(client, "bulk_import/commit/run-1").status == 422
    assert post(client, "bulk_import/unfreeze/run-1").status == 409
    assert client("GET", "/v3/bulk_import/error_records/run-1").status == 404
    assert post(client, "bulk_import/delete_part/run-1/part-0").status == 404
    assert put(client, "run-1", "a%2Fb", part(people(1, 1))).status == 422
    assert post(client, "bulk_import/freeze/run-1").status == 200
    assert post(client, "bulk_import/freeze/run-1").status == 409
    assert put(client, "run-1", "part-0", part(people(1, 1))).status == 422


def test_a_part_that_comes_again_replaces(td: Emulator, client: Client) -> None:
    """The same part twice is there once; deleted parts are gone."""
    post(client, "bulk_import/create/run-1/raw_db/people")
    for rows in (people(1, 3), people(1, 4)):
        put(client, "run-1", "part-0", part(rows))
    put(client, "run-1", "part-1", part(people(50, 9)))
    assert client("GET", "/v3/bulk_import/list_parts/run-1").json["parts"] == ["part-0", "part-1"]
    post(client, "bulk_import/delete_part/run-1/part-1")
    kept = td.state()["sessions"]["run-1"]["parts"]  # type: ignore[index]
    assert {name: one["records"] for name, one in kept.items()} == {"part-0": 4}
    data = part(people(1, 4))
    put(client, "run-1", "part-0", data)
    kept = td.state()["sessions"]["run-1"]["parts"]  # type: ignore[index]
    assert kept["part-0"]["sha256"] == hashlib.sha256(data).hexdigest()


def test_records_and_parts_in_error(td: Emulator, client: Client) -> None:
    """A record without a whole `time` is in error, a part that cannot be read wholly; both tell."""
    bad_times: list[Any] = [None, "1700000000", 1.5, -1, 1 << 33, True]
    rows: Rows = [{"n": number, "time": value} for number, value in enumerate(bad_times)]
    session(client, "run-1", [*people(1, 2), *rows, {"n": 9}])
    post(client, "bulk_import/unfreeze/run-1")
    for name, data in (
        ("plain", b"not gzip"),
        ("cut", part(people(1, 9))[:-9]),
        ("cut-inside", gzip.compress(pack({"time": NOW})[:-1])),
        ("list", gzip.compress(pack([1, 2]))),
    ):
        assert put(client, "run-1", name, data).status == 200
    assert put(client, "run-1", "two", part(people(3, 1)) + part(people(4, 1))).status == 200
    post(client, "bulk_import/freeze/run-1")
    post(client, "bulk_import/perform/run-1")
    assert [show(client, "run-1")[name] for name in COUNTS] == [4, 7, 2, 4]
    answer = client("GET", "/v3/bulk_import/error_records/run-1")
    assert "content-encoding" not in answer.headers
    found = [value for _, _, value, _ in unpack_each(gzip.decompress(answer.body))]
    assert found == [*rows, {"n": 9}]
    post(client, "bulk_import/commit/run-1")
    assert table(td)["count"] == 4


def test_duplicates_can_be_counted(td: Emulator, client: Client) -> None:
    """The state counts rows that are the same but for `time`, and identities that come again."""
    again = [{**row, "time": NOW} for row in people(1, 2)]
    others: Rows = [
        {"external_id": None, "email": "A@Example.test", "time": NOW},
        {"external_id": "", "email": "a@example.test", "time": NOW},
        {"json_response": '{"external_id":"cust-2","x":1}', "time": NOW},
        {"note": "nobody", "time": NOW},
    ]
    load(client, "run-1", people(1, 3), again, others)
    held = table(td)
    assert (held["count"], held["distinct"]) == (9, 7)
    assert (held["identities"], held["without_identity"], held["repeated"]) == (4, 1, 4)
    assert held["repeated_examples"] == ["cust-1", "cust-2", "a@example.test", "cust-2"]
    load(client, "run-2", people(1, 3))
    post(client, "table/create/raw_db/other/log")
    load(client, "run-3", list(reversed(people(1, 3))), to="other")
    fresh = table(td, "other")["digest"]
    td.seed({"rows": {"raw_db.third": people(1, 3)}})
    assert table(td, "third")["digest"] == fresh


def test_values_take_the_type_of_their_column(td: Emulator, client: Client) -> None:
    """Columns take the first types they see; later values fit them or are null; names are tamed."""
    first: Rows = [
        {"Shoe Size": 39, "ok": True, "share": 0.5, "tags": ["a"], "who": None, "time": NOW, "": 7}
    ]
    later: Rows = [
        {"shoe_size": "big", "ok": 1, "share": 2, "tags": "x", "who": {"a": 1}, "v": 1, "time": NOW}
    ]
    load(client, "run-1", first)
    load(client, "run-2", later)
    held = table(td)
    assert held["schema"] == [
        ["shoe_size", "long"],
        ["ok", "string"],
        ["share", "double"],
        ["tags", "array<string>"],
        ["who", "string"],
    ]
    rest = {"time": NOW}
    assert held["rows"] == [
        {"shoe_size": 39, "ok": "true", "share": 0.5, "tags": ["a"], "who": None, **rest},
        {"shoe_size": None, "ok": "1", "share": 2.0, "tags": None, "who": '{"a":1}', **rest},
    ]


def test_texts_are_kept_byte_for_byte(client: Client) -> None:
    """200 kB, many scripts, emoji and U+2028 come back as they were sent."""
    text = "Zoë 🎁 佐藤 الحداد \u2028 " + "x" * 200_000
    load(client, "run-1", [{"json_response": text, "time": NOW}])
    tail = client("GET", "/v3/table/tail/raw_db/people?count=1&format=msgpack")
    assert unpack(tail.body) == {"json_response": text, "time": NOW}


def test_jobs_and_commits_take_their_time(td: Emulator, client: Client) -> None:
    """A perform and a commit are done after so many looks, or so many seconds."""
    td.switches({"perform_polls": 2, "commit_polls": 1})
    session(client, "run-1", people(1, 2))
    job = post(client, "bulk_import/perform/run-1").json["job_id"]
    looks = [client("GET", f"/v3/job/status/{job}").json["status"] for _ in range(3)]
    assert looks == ["running", "running", "success"]
    post(client, "bulk_import/commit/run-1")
    assert [show(client, "run-1")["status"] for _ in range(2)] == ["committing", "committed"]
    td.switches({"perform_polls": 0, "commit_polls": 0, "perform_s": 60, "commit_s": 60})
    session(client, "run-2", people(3, 1))
    post(client, "bulk_import/perform/run-2")
    assert show(client, "run-2")["status"] == "performing"
    assert post(client, "bulk_import/delete/run-2").status == 422
    td.advance(60)
    assert post(client, "bulk_import/commit/run-2").status == 200
    assert client("GET", "/v3/table/show/raw_db/people").json["count"] == 2
    td.advance(60)
    assert client("GET", "/v3/table/show/raw_db/people").json["count"] == 3


def test_sessions_do_not_stay_for_ever(td: Emulator, client: Client) -> None:
    """After seven days a session is gone; one whose table is gone can only be shown and deleted."""
    session(client, "run-1", people(1, 2))
    post(client, "table/delete/raw_db/people")
    listed = client("GET", "/v3/bulk_import/list").json["bulk_imports"]
    assert [(one["name"], one["table"]) for one in listed] == [("run-1", None)]
    assert post(client, "bulk_import/perform/run-1").status == 422
    td.advance(8 * 86_400)
    assert client("GET", "/v3/bulk_import/show/run-1").status == 404


def test_old_rows_expire(td: Emulator, client: Client) -> None:
    """A table with `expire_days` does not keep older rows, which are no errors either."""
    assert post(client, "table/update/raw_db/people", expire_days="30").status == 200
    fresh = {"external_id": "cust-9", "points": 9, "time": int(time.time())}
    load(client, "run-1", [*people(1, 3), fresh])
    assert [show(client, "run-1")[name] for name in COUNTS] == [4, 0, 1, 0]
    assert table(td)["rows"] == [fresh]


def test_a_reader_sees_the_old_or_the_new_table(td: Emulator, client: Client) -> None:
    """While a full table is swapped in, a count is the old one or the new one, never another."""
    td.seed({"rows": {"raw_db.people": people(1, 50)}, "tables": ["raw_db.people_tmp"]})
    seen: set[int] = set()

    def read() -> None:
        for _ in range(40):
            seen.add(client("GET", "/v3/table/show/raw_db/people").json["count"])

    with concurrent.futures.ThreadPoolExecutor() as pool:
        reading = pool.submit(read)
        load(client, "run-1", people(1, 80), to="people_tmp")
        post(client, "table/swap/raw_db/people/people_tmp")
        reading.result()
    seen.add(client("GET", "/v3/table/show/raw_db/people").json["count"])
    assert seen <= {50, 80}
    assert 80 in seen


# ---- faults ------------------------------------------------------------------------------------


def test_a_commit_whose_answer_is_lost(td: Emulator, client: Client) -> None:
    """A commit whose answer is lost has happened: the session says so, a second is refused."""
    session(client, "run-1", people(1, 4))
    post(client, "bulk_import/perform/run-1")
    td.faults([{"fault": "reset", "when": "after", "match": {"path": "commit", "nth": 1}}])
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        post(client, "bulk_import/commit/run-1")
    assert show(client, "run-1")["status"] == "committed"
    assert post(client, "bulk_import/commit/run-1").status == 422
    assert table(td)["count"] == 4


@pytest.mark.parametrize(
    ("rule", "counts"),
    [
        ({"fault": "part_lost"}, [None, 0, 0, 0]),
        ({"fault": "part_damaged"}, [0, 0, 0, 1]),
        ({"fault": "error_records", "count": 3}, [7, 3, 1, 0]),
        ({"fault": "error_parts"}, [0, 0, 0, 1]),
    ],
)
def test_parts_that_suffer(
    td: Emulator, client: Client, rule: dict[str, Any], counts: list[int]
) -> None:
    """A part is lost or damaged on its way, or its records are said to be in error."""
    td.faults([rule])
    session(client, "run-1", people(1, 10))
    post(client, "bulk_import/perform/run-1")
    assert [show(client, "run-1")[name] or 0 for name in COUNTS] == [one or 0 for one in counts]
    post(client, "bulk_import/commit/run-1")
    assert table(td)["count"] == (counts[0] or 0)


@pytest.mark.parametrize(
    ("fault", "status"),
    [("perform_failed", "error"), ("perform_killed", "killed"), ("perform_never", "running")],
)
def test_jobs_that_do_not_succeed(td: Emulator, client: Client, fault: str, status: str) -> None:
    """A job ends in error, is killed, or runs for ever; its session can be performed again."""
    td.faults([{"fault": fault, "match": {"path": "perform", "nth": 1}}])
    session(client, "run-1", people(1, 2))
    job = post(client, "bulk_import/perform/run-1").json["job_id"]
    shown = client("GET", f"/v3/job/show/{job}").json
    assert shown["status"] == status
    assert bool(shown["debug"]["stderr"]) == (fault == "perform_failed")
    if status == "running":
        assert show(client, "run-1")["status"] == "performing"
        assert post(client, f"job/kill/{job}").json["former_status"] == "running"
    assert {show(client, "run-1")[name] for name in COUNTS} == {None}
    assert post(client, "bulk_import/perform/run-1").status == 200
    assert show(client, "run-1")["status"] == "ready"


@pytest.mark.parametrize(
    ("fault", "status", "call"),
    [
        ("session_gone", 404, "bulk_import/perform/run-1"),
        ("session_invalid", 422, "bulk_import/perform/run-1"),
        ("forbidden", 403, "bulk_import/perform/run-1"),
        ("bad_key", 401, "bulk_import/perform/run-1"),
        ("part_refused", 422, ""),
        ("storage_full", 500, ""),
    ],
)
def test_calls_that_are_refused(
    td: Emulator, client: Client, fault: str, status: int, call: str
) -> None:
    """A session is gone or invalid, a key is refused, a part is refused, or there is no room."""
    post(client, "bulk_import/create/run-1/raw_db/people")
    td.faults([{"fault": fault}])
    answer = post(client, call) if call else put(client, "run-1", "part-0", part(people(1, 1)))
    assert answer.status == status
    td.faults([])
    gone = client("GET", "/v3/bulk_import/show/run-1").status == 404
    assert gone == (fault == "session_gone")


def test_a_commit_that_is_refused_or_never_ends(td: Emulator, client: Client) -> None:
    """A commit that is refused changes nothing; one that never ends adds no rows."""
    session(client, "run-1", people(1, 2))
    post(client, "bulk_import/perform/run-1")
    td.faults([{"fault": "commit_refused"}])
    assert post(client, "bulk_import/commit/run-1").status == 500
    assert show(client, "run-1")["status"] == "ready"
    td.faults([{"fault": "commit_never"}])
    assert post(client, "bulk_import/commit/run-1").status == 200
    assert show(client, "run-1")["status"] == "committing"
    assert table(td)["count"] == 0


# ---- streaming import and queries --------------------------------------------------------------


def test_streaming_import_takes_an_id_once(td: Emulator, client: Client) -> None:
    """A streaming import with an id that came before adds nothing; its answer has the MD5."""
    data = part(people(1, 3))
    for path in ("import_with_id/raw_db/people/abc1/msgpack.gz",) * 2 + (
        "import/raw_db/people/msgpack.gz",
    ) * 2:
        answer = client("PUT", f"/v3/table/{path}", data)
        assert answer.status == 200
        assert answer.json["md5_hex"] == hashlib.md5(data).hexdigest()  # noqa: S324
    assert table(td)["count"] == 6
    assert client("PUT", "/v3/table/import/raw_db/people/msgpack.gz", b"no").status == 422


def test_small_queries(client: Client) -> None:
    """COUNT and SELECT over one table are answered; anything else is a job in error."""
    load(client, "run-1", people(1, 5))

    def ask(query: str) -> Any:
        job = post(client, "job/issue/trino/raw_db", query=query).json["job_id"]
        shown = client("GET", f"/v3/job/show/{job}").json
        if shown["status"] == "error":
            return shown["debug"]["stderr"]
        body = client("GET", f"/v3/job/result/{job}?format=msgpack").body
        return [value for _, _, value, _ in unpack_each(body)]

    assert ask("SELECT COUNT(1) FROM people") == [[5]]
    assert ask("select count(distinct points) from raw_db.people;") == [[5]]
    assert ask("SELECT * FROM people LIMIT 1") == [["cust-1", 1, NOW + 1]]
    assert ask('SELECT points, "time" FROM people LIMIT 2') == [[1, NOW + 1], [2, NOW + 2]]
    assert "does not exist" in ask("SELECT 1 FROM nothing")
    assert "cannot be resolved" in ask("SELECT nothing FROM people")
    assert "only SELECT" in ask("DROP TABLE people")
    job = post(client, "job/issue/trino/raw_db", query="SELECT * FROM people").json["job_id"]
    size = client("GET", f"/v3/job/show/{job}").json["result_size"]
    path = f"/v3/job/result/{job}?format=msgpack.gz"
    first = client("GET", path, headers={"Range": "bytes=0-9"})
    rest = client("GET", path, headers={"Range": f"bytes=10-{size - 1}"})
    assert (first.status, len(first.body), size) == (206, 10, 10 + len(rest.body))
    assert gzip.decompress(first.body + rest.body)


def test_a_quarter_of_a_million_rows(td: Emulator, client: Client) -> None:
    """Many rows are counted exactly, and duplicates among them are found."""
    rows = people(1, 10_000)
    data = [
        part([{**row, "external_id": f"{n}-{row['points']}"} for row in rows]) for n in range(3)
    ]
    post(client, "bulk_import/create/run-1/raw_db/people")
    began = time.monotonic()
    for number in range(25):
        put(client, "run-1", f"part-{number}", data[number % 3])
    for step in ("freeze", "perform", "commit"):
        post(client, f"bulk_import/{step}/run-1")
    shown = client("GET", "/v3/table/show/raw_db/people").json
    assert shown["count"] == 250_000
    held = table(td)
    assert (held["distinct"], held["repeated"]) == (30_000, 220_000)
    assert time.monotonic() - began < 60


# ---- MessagePack -------------------------------------------------------------------------------


def values() -> list[Any]:
    edges = [0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63, 2**64 - 1]
    below = [-1, -32, -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1, -(2**63)]
    texts: list[Any] = ["x" * size for size in (0, 31, 32, 255, 256, 65_535, 65_536)]
    blobs: list[Any] = [b"x" * size for size in (0, 255, 256, 65_536)]
    lists: list[Any] = [[1] * size for size in (0, 15, 16, 65_535, 65_536)]
    maps: list[Any] = [{str(n): n for n in range(size)} for size in (0, 15, 16, 65_536)]
    return [
        *(None, True, False, 0.5, -1e300, math.inf, "Zoë 🎁", [{"a": [None, {"b": b"c"}]}]),
        *(*edges, *below, *texts, *blobs, *lists, *maps),
    ]


def test_messagepack_round_trip() -> None:
    """What is packed is unpacked as it was, at every edge of every form."""
    for value in values():
        assert unpack(pack(value)) == value
    assert unpack(pack(Extension(-1, b"12345"))) == Extension(-1, b"12345")
    text = pack("é")
    assert [clean for *_, clean in unpack_each(text + b"\xa1\xff" + text)] == [True, False, True]


@pytest.mark.parametrize(
    "data", [b"\xc1", b"\xa5ab", b"\x92\x01", b"\xdf\xff\xff\xff\xff", b"\x91" * 9999]
)
def test_broken_messagepack(data: bytes) -> None:
    """Bytes that are no value, end early, or claim too much are refused, at no cost."""
    with pytest.raises(Broken):
        unpack(data)


@hypothesis.given(
    strategies.recursive(
        strategies.none()
        | strategies.booleans()
        | strategies.integers(-(2**63), 2**64 - 1)
        | strategies.floats(allow_nan=False)
        | strategies.text()
        | strategies.binary(),
        lambda inner: strategies.lists(inner) | strategies.dictionaries(strategies.text(), inner),
        max_leaves=20,
    )
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_messagepack_of_any_value(value: object) -> None:
    """Whatever is packed is unpacked as it was; cut short, it is refused."""
    data = pack(value)
    assert unpack(data) == value
    with pytest.raises(Broken):
        unpack(data[:-1])


def test_messagepack_as_others_write_it() -> None:
    """Both ways agree with the msgpack package, byte for byte."""
    msgpack = pytest.importorskip("msgpack", reason="the msgpack package is not installed")
    for value in values():
        assert pack(value) == msgpack.packb(value)
        assert unpack(msgpack.packb(value)) == value
    assert unpack(msgpack.packb(msgpack.ExtType(7, b"1234"))) == Extension(7, b"1234")
    assert unpack(msgpack.packb(0.5, use_single_float=True)) == 0.5


# ---- the official clients ----------------------------------------------------------------------


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """td-client asks any HTTP proxy, even for loopback."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def official(td: Emulator, no_proxy: None) -> Callable[..., Any]:
    tdclient = pytest.importorskip("tdclient", reason="td-client is not installed")

    def connect(**more: Any) -> Any:
        return tdclient.Client(**{"apikey": "1/demo", "endpoint": td.url, **more})

    return connect


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("slash", ["", "/", "/td/"])
def test_td_client_loads_in_bulk(td: Emulator, official: Any, slash: str) -> None:
    """The official client creates, loads from CSV and msgpack, queries, tails and deletes."""
    with official(endpoint=td.url + slash) as client:
        assert client.server_status() == "ok"
        client.create_database("acme_raw")
        client.create_log_table("acme_raw", "profiles")
        client.update_schema("acme_raw", "profiles", [["email", "string"]])
        session = client.create_bulk_import("run-1", "acme_raw", "profiles")
        data = part([{"email": "a@example.test", "points": 1, "time": NOW}])
        session.upload_part("part-0", io.BytesIO(data), len(data))
        lines = f"email,points,time\nb@example.test,2,{NOW}\nnobody,3,never\n".encode()
        session.upload_file("part-1", "csv", io.BytesIO(lines))
        assert session.list_parts() == ["part-0", "part-1"]
        session.freeze()
        job = session.perform(wait=True)
        assert job.status() == "success"
        assert (session.valid_records, session.error_records, session.status) == (2, 1, "ready")
        assert [one["email"] for one in session.error_record_items()] == ["nobody"]
        session.commit(wait=True, wait_interval=0)
        assert [one.name for one in client.bulk_imports()] == ["run-1"]
        session.delete()
        (found,) = client.tables("acme_raw")
        assert (found.name, found.count, found.schema[1]) == ("profiles", 2, ["points", "long"])
        assert {row["email"] for row in found.tail(5)} == {"a@example.test", "b@example.test"}
        asked = client.query("acme_raw", "SELECT COUNT(1) FROM profiles", type="trino")
        asked.wait()
        assert list(asked.result()) == [[2]]
        assert [job.status() for job in client.jobs()] == ["success"] * 2
        client.create_log_table("acme_raw", "other")
        client.swap_table("acme_raw", "profiles", "other")
        client.delete_table("acme_raw", "profiles")
        assert client.database("acme_raw").count == 2
        client.delete_database("acme_raw")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_td_client_streams_and_names_its_errors(td: Emulator, official: Any) -> None:
    """Streaming imports go in once, and refusals become the official client's own exceptions."""
    errors = pytest.importorskip("tdclient.errors")
    with official() as client:
        data = part(people(1, 2))
        for _ in range(2):
            client.import_data(
                "raw_db", "people", "msgpack.gz", io.BytesIO(data), len(data), "abc1"
            )
        assert client.table("raw_db", "people").count == 2
        with pytest.raises(errors.NotFoundError):
            client.bulk_import("nothing")
        with pytest.raises(errors.AlreadyExistsError):
            client.create_database("raw_db")
    with official(apikey="1/no") as client, pytest.raises(errors.AuthError):
        client.databases()
    with official(apikey="1/write-only") as client, pytest.raises(errors.ForbiddenError):
        client.update_schema("raw_db", "people", [["x", "long"]])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_td_client_and_answers_that_are_lost(td: Emulator, official: Any) -> None:
    """An upload whose answer is lost is repeated and there once; a lost commit has happened."""
    td.faults(
        [
            {"fault": "reset", "when": "after", "match": {"path": "upload_part", "nth": [1, 2]}},
            {"fault": "close", "when": "after", "match": {"path": "commit", "nth": 1}},
        ]
    )
    with official() as client:
        session = client.create_bulk_import("run-1", "raw_db", "people")
        data = part(people(1, 4))
        session.upload_part("part-0", io.BytesIO(data), len(data))
        session.freeze()
        session.perform(wait=True)
        with pytest.raises(Exception, match=r"Connection aborted|Remote end closed"):
            session.commit()
        session.update()
        assert (session.status, session.valid_records) == ("committed", 4)
    assert table(td)["count"] == 4
    assert td.counts()["calls"]["PUT /v3/bulk_import/upload_part"] == 3  # type: ignore[index]


@pytest.mark.parametrize("form", ["csv", "msgpack"])
def test_pytd_loads_a_data_frame(td: Emulator, no_proxy: None, form: str) -> None:
    """pytd's bulk import works in its four ways with a table that exists, or not."""
    if not WITNESS.exists():
        pytest.skip("pytd is not installed: `make test` does it, into .venv-witness")
    words = [str(WITNESS), str(Path(__file__).with_name("pytd_witness.py")), td.url, form]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == ["25", "50", "50", "25", "RuntimeError"]
    assert table(td, "frame")["count"] == 25
    assert table(td, "frame")["schema"] == [["json_response", "string"]]
    assert td.state()["sessions"] == {}
