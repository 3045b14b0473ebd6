"""What the server knows and the client does not: calls that overlap, quotas, jobs that are open."""

from __future__ import annotations

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from emulator_client import Client

from dsync import emulators
from dsync.emulators import ControlError, Emulator
from dsync.emulators.clock import Clock
from dsync.emulators.quotas import QuotaError, Quotas

pytestmark = pytest.mark.integration


BROKEN = (OSError, http.client.HTTPException)


# ---- calls in flight ---------------------------------------------------------------------------


def together(client: Client, *paths: str) -> None:
    with ThreadPoolExecutor(len(paths)) as pool:
        list(pool.map(lambda path: client("GET", path), paths))


def test_one_call_after_the_other_never_overlaps(plain: Emulator, client: Client) -> None:
    """A call that begins when the answer before has come is alone in flight."""
    for _ in range(20):
        client("GET", "/api/things")
    counts = plain.counts()
    assert (counts["in_flight_max"], counts["in_flight_all"]) == (1, 1)
    assert all(call["overlaps"] == [] for call in plain.ledger())


def test_calls_at_once_overlap(plain: Emulator, client: Client) -> None:
    """Calls that the server holds at the same time know of each other, and when each ended."""
    plain.switches({"latency_s": 0.2})
    together(client, "/api/a", "/api/b", "/api/c")
    assert plain.counts()["in_flight_max"] == 3
    first, second, third = plain.ledger()
    assert (first["overlaps"], second["overlaps"]) == ([], [first["seq"]])
    assert third["overlaps"] == [first["seq"], second["seq"]]
    assert first["answered_s"] - first["monotonic_s"] >= 0.2  # type: ignore[operator]


def test_scopes_are_counted_apart(plain: Emulator, client: Client) -> None:
    """Calls of two scopes do not overlap, though they fly together."""
    plain.switches({"latency_s": 0.2})
    plain.seed({"collection": "firms", "objects": [{"name": "a"}, {"name": "b"}]})
    together(client, "/api/firms/1/users", "/api/firms/2/users", "/api/firms/2/users")
    counts = plain.counts()
    assert counts["in_flight_by_scope"] == {"firms/1": 1, "firms/2": 2}
    assert (counts["in_flight_max"], counts["in_flight_all"]) == (2, 3)


def test_a_call_whose_client_left_is_no_longer_in_flight(plain: Emulator, client: Client) -> None:
    """After a time-out the next call does not overlap with the one that was given up."""
    plain.faults([{"match": {"nth": 1}, "fault": "timeout"}])
    with pytest.raises(TimeoutError):
        client("GET", "/api/things", timeout_s=0.1)
    client("GET", "/api/things")
    assert plain.counts()["in_flight_max"] == 1


def test_a_write_is_open_until_its_job_has_ended(plain: Emulator, client: Client) -> None:
    """Two writes overlap when the second comes before the verdict on the job of the first."""
    plain.switches({"jobs": True, "job_polls": 0})
    for name in "ab":
        job = client("POST", "/api/things", {"name": name}).json["job"]
        client("GET", job)
    assert plain.counts()["open_writes_max"] == 1
    for name in "cd":
        client("POST", "/api/things", {"name": name})
    assert plain.counts()["open_writes_max"] == 2
    assert plain.counts()["in_flight_max"] == 1


def test_nodes_are_scopes(director: Emulator) -> None:
    """Every node of Director is a scope of its own."""
    client = Client(director.port, {"Authorization": "Bearer demo"})
    nodes = list(director.state()["nodes"])  # type: ignore[call-overload]
    for node in nodes[:2]:
        client("GET", f"/configapi/{node}/Repos")
    client("GET", "/monitorapi/v1/director/poolinfo")
    assert [call["scope"] for call in director.ledger()] == [*nodes[:2], ""]


# ---- quotas ------------------------------------------------------------------------------------


class Stopped(Clock):
    """A clock that moves only when it is told."""

    def wall_s(self) -> float:
        return self.offset_s

    def monotonic_s(self) -> float:
        return self.offset_s


def breaches(quota: object, at: list[float], kind: str = "write") -> list[str]:
    """For each call in which ways of counting it was one too many: `f`, `s`, `fs` or ``."""
    clock = Stopped()
    quotas = Quotas(clock)
    quotas.set(quota)
    found = []
    for moment in at:
        clock.offset_s = moment
        found.append("".join(sorted(b.counting[0] for b in quotas.breaches(kind))))
        quotas.count(kind)
    return found


TWO = {"write": "2/min"}


@pytest.mark.parametrize(
    ("at", "wanted"),
    [
        ([0, 1, 2], ["", "", "fs"]),
        ([0, 1, 59.9], ["", "", "fs"]),
        ([0, 1, 60], ["", "", ""]),
        ([50, 55, 65], ["", "", "s"]),
        ([50, 55, 65, 115], ["", "", "s", ""]),
        ([0, 0, 60, 60, 119, 120], ["", "", "", "", "fs", ""]),
    ],
)
def test_fixed_and_sliding_windows(at: list[float], wanted: list[str]) -> None:
    """A fixed window begins on the full minute, a sliding one with any call."""
    assert breaches(TWO, at) == wanted


def test_reads_and_writes_are_counted_apart() -> None:
    """A quota for writes says nothing about reads."""
    assert breaches(TWO, [0, 0, 0], kind="read") == ["", "", ""]


DAY = 20_000 * 86_400.0
BY_HOUR = {
    "zone": "Europe/Brussels",
    "windows": [
        {"from": "06:00", "to": "20:00", "write": "1/min"},
        {"from": "20:00", "to": "06:00", "write": "3/min"},
    ],
}


@pytest.mark.parametrize(
    ("hour_utc", "wanted"),
    [(12, ["", "fs", "fs", "fs"]), (23, ["", "", "", "fs"])],
)
def test_quotas_by_the_hour(hour_utc: int, wanted: list[str]) -> None:
    """The hour in the quota's own zone says which limit holds."""
    start = DAY + hour_utc * 3600
    assert breaches(BY_HOUR, [start, start + 1, start + 2, start + 3]) == wanted


def test_a_change_of_quotas_looks_back() -> None:
    """Three calls of the night in the last minute are more than the day allows."""
    change = DAY + 4 * 3600  # 06:00 in Brussels: this day has summer time
    assert breaches(BY_HOUR, [change - 3, change - 2, change - 1, change]) == ["", "", "", "s"]


@pytest.mark.parametrize(
    "quota",
    [
        {"write": "10"},
        {"write": "10/year"},
        {"write": "1/0s"},
        {"calls": "1/s"},
        {"zone": "Nowhere/City", "write": "1/s"},
        {"windows": [{"from": "6", "write": "1/s"}]},
        {"windows": [{"until": "06:00"}]},
        {"windows": {}},
    ],
)
def test_what_is_no_quota_is_refused(plain: Emulator, quota: dict[str, Any]) -> None:
    """A quota that cannot be read changes nothing."""
    with pytest.raises(QuotaError):
        Quotas(Clock()).set(quota)
    with pytest.raises(ControlError, match="quota"):
        plain.switches({"quota": quota})


def test_a_quota_counts_without_refusing(plain: Emulator, client: Client) -> None:
    """Calls over the quota pass, and the ledger says which they were."""
    plain.switches({"quota": {"write": "2/h", "read": "100/h"}})
    answers = [client("POST", "/api/things", {"name": str(n)}).status for n in range(4)]
    client("GET", "/api/things")
    assert answers == [201] * 4
    counts = plain.counts()
    assert counts["over_quota"] == 2
    assert counts["over_quota_by"]["sliding"] == 2  # type: ignore[index]
    assert [bool(call["over_quota"]) for call in plain.ledger()] == [False] * 2 + [True] * 2 + [
        False
    ]
    assert "write sliding 3 of 2 in 3600 s" in plain.ledger()[2]["over_quota"]  # type: ignore[operator]


def test_an_enforced_quota_refuses(plain: Emulator, client: Client) -> None:
    """With `enforce_quota` a call too many gets a 429 that says when there is room again."""
    plain.switches({"quota": {"write": "2/min"}, "enforce_quota": "sliding"})
    answers = [client("POST", "/api/things", {"name": str(n)}) for n in range(3)]
    assert [answer.status for answer in answers] == [201, 201, 429]
    assert 55 <= int(answers[-1].headers["retry-after"]) <= 60
    assert len(plain.effects()) == 2
    plain.advance(60)
    assert client("POST", "/api/things", {"name": "2"}).status == 201


def test_a_login_is_a_read(plain: Emulator, client: Client) -> None:
    """To log in asks for no change, though it is a POST."""
    plain.switches({"auth": "exchange", "quota": {"write": "0/h"}})
    client("POST", "/auth", {"client_id": "demo", "client_secret": "demo-secret"})
    assert plain.counts()["over_quota"] == 0


# ---- faults of all kinds -----------------------------------------------------------------------


def test_a_mix_hits_its_share_with_all_kinds(plain: Emulator, client: Client) -> None:
    """`mixed` is one list of rules: its share of all calls, every kind among them."""
    rules = emulators.mixed(0.5, seed=3)
    plain.faults([{**rule, "hang_s": 0} if rule["fault"] == "timeout" else rule for rule in rules])
    calls = 400
    connection_errors = 0
    for _ in range(calls):
        try:
            client("GET", "/api/things")
        except BROKEN:
            connection_errors += 1
    shown: dict[str, int] = plain.counts()["faults"]  # type: ignore[assignment]
    assert 0.4 < sum(shown.values()) / calls < 0.6
    assert set(shown) == {str(rule["fault"]) for rule in rules}
    assert all(rule["shown"] for rule in plain_rules(plain, client))
    assert connection_errors


def plain_rules(plain: Emulator, client: Client) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = client("GET", "/_emulator/faults").json
    return rules


def test_a_mix_may_stand_in_a_file(tmp_path: Path) -> None:
    """`--faults FILE` takes a mix in the place of a rule, beside others."""
    rules = [{"match": {"nth": 1}, "fault": "status", "status": 418}, {"mixed": 0.0}]
    with emulators.start("plain", faults=rules) as emulator:
        client = Client(emulator.port)
        assert client("GET", "/api/things").status == 418
        assert client("GET", "/api/things").status == 200
        assert len(client("GET", "/_emulator/faults").json) == 1 + len(emulators.mixed(0.1))
        for wrong in ({"mixed": 2}, {"mixed": 0.1, "fault": "reset"}, {"mixed": "all"}):
            with pytest.raises(ControlError, match="mix"):
                emulator.faults([wrong])


def test_rules_with_the_same_chance_strike_different_calls(plain: Emulator, client: Client) -> None:
    """Every rule draws for itself: two of the same probability do not hit the same calls."""
    chance = {"probability": 0.3}
    plain.faults([{"match": chance, "fault": "status", "status": s} for s in (418, 419)])
    statuses = {client("GET", "/api/things").status for _ in range(60)}
    assert statuses == {200, 418, 419}


@pytest.mark.parametrize("fault", ["reset", "close", "timeout", "garbage", "status", "too_many"])
def test_a_fault_before_the_body_is_read(plain: Emulator, client: Client, fault: str) -> None:
    """The server answers, or ends, without having read what it was asked."""
    plain.faults([{"match": {"nth": 1}, "fault": fault, "when": "before_read"}])
    connection = client.connect(0.2)
    body = {"name": "x" * 100}
    if fault in ("status", "too_many"):
        assert client("POST", "/api/things", body, over=connection).status in (429, 500)
    else:
        with pytest.raises(BROKEN):
            client("POST", "/api/things", body, over=connection)
    connection.close()
    assert client("POST", "/api/things", body).status == 201
    assert len(plain.effects()) == 1


@pytest.mark.parametrize(
    "fault", ["cut_body", "cut_chunk", "truncated_json", "nan", "headers", "bad_gzip", "drip"]
)
def test_a_broken_answer_without_effect(plain: Emulator, client: Client, fault: str) -> None:
    """What breaks an answer may come from a gateway that never passed the call on."""
    args = {"every_s": 0} if fault == "drip" else {}
    plain.faults([{"match": {"nth": 1}, "fault": fault, "when": "before", **args}])
    try:
        client("POST", "/api/things", {"name": "a"})
    except BROKEN:
        assert fault in ("cut_body", "cut_chunk", "headers")
    assert plain.effects() == []


def test_a_body_where_none_is_due_breaks_no_other_answer(plain: Emulator, client: Client) -> None:
    """A fault that needs a body turns a 204 into a 200: the connection stays whole."""
    plain.seed({"collection": "things", "objects": [{"name": "a"}, {"name": "b"}]})
    plain.faults([{"match": {"nth": 1}, "fault": "body", "body": "{nope"}])
    connection = client.connect()
    first = client("DELETE", "/api/things/1", over=connection)
    assert (first.status, first.body) == (200, b"{nope")
    assert client("DELETE", "/api/things/2", over=connection).status == 204
    connection.close()


def test_a_slow_call_has_its_effect_late(plain: Emulator, client: Client) -> None:
    """Effect and answer come late, together; the effect also when nobody waits any more."""
    plain.faults([{"match": {}, "fault": "slow", "delay_s": 0.3}])
    assert client("POST", "/api/things", {"name": "a"}).status == 201
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        client("POST", "/api/things", {"name": "b"}, timeout_s=0.1)
    assert len(plain.effects()) == 1
    while len(plain.effects()) < 2 and time.monotonic() - began < 10:
        threading.Event().wait(0.02)
    assert len(plain.effects()) == 2


# ---- jobs and pages that lie -------------------------------------------------------------------


def accept(plain: Emulator, client: Client, fault: str, **args: object) -> dict[str, Any]:
    plain.switches({"jobs": True, "job_polls": 1})
    plain.faults([{"match": {"method": "POST"}, "fault": fault, **args}])
    body: dict[str, Any] = client("POST", "/api/things", {"name": "a", "x": 1, "y": 2, "z": 3}).json
    return body


def things(plain: Emulator) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = plain.state()["collections"].get("things", [])  # type: ignore[attr-defined]
    return found


def test_a_stuck_job_has_its_effect(plain: Emulator, client: Client) -> None:
    """The effect is there, and every poll says pending."""
    job = accept(plain, client, "job_stuck")["job"]
    assert [client("GET", job).json["status"] for _ in range(4)] == ["pending"] * 4
    assert len(things(plain)) == 1
    client("POST", "/api/things", {"name": "b"})
    assert plain.counts()["open_writes_max"] == 2


@pytest.mark.parametrize("says", ["done", "failed"])
def test_a_job_that_does_half(plain: Emulator, client: Client, says: str) -> None:
    """Half of the fields are there, whatever the job says."""
    job = accept(plain, client, "job_partial", says=says)["job"]
    assert [client("GET", job).json["status"] for _ in range(2)] == ["pending", says]
    assert things(plain) == [{"id": 1, "name": "a", "x": 1}]


@pytest.mark.parametrize(
    "url", [None, "http://203.0.113.9/jobs/j-000001", "/jobs/../api", "//x/jobs/1", "/jobs/1?a=b"]
)
def test_a_job_elsewhere(plain: Emulator, client: Client, url: str | None) -> None:
    """The answer points where nobody should follow."""
    body = accept(plain, client, "job_hostile", **({} if url is None else {"url": url}))
    assert body["job"] == (url or "http://203.0.113.66/jobs/j-000001")


def test_an_answer_without_its_job(plain: Emulator, client: Client) -> None:
    """Accepted, and no way to ask what became of it."""
    assert accept(plain, client, "job_no_id") == {"status": "pending"}


def pages(plain: Emulator, client: Client, lie: str, kind: str) -> list[list[Any]]:
    plain.switches({"paging": kind, "page_size": 3, "lie": lie})
    plain.seed({"collection": "things", "objects": [{"name": f"n{n}"} for n in range(8)]})
    found, path = [], "/api/things"
    for number in range(4):
        if kind == "offset":
            path = f"/api/things?offset={3 * number}"
        body = client("GET", path).json
        found.append([one["id"] for one in body["data"]])
        if kind == "link":
            path = body["next"]
            if not path:
                break
    return [page for page in found if page]


@pytest.mark.parametrize(
    ("lie", "kind", "wanted"),
    [
        ("skip_page", "offset", [[1, 2, 3], [7, 8]]),
        ("moved_record", "offset", [[1, 2, 3], [5, 6, 7], [8, 1]]),
        ("cut_last_page", "offset", [[1, 2, 3], [4, 5, 6], [7]]),
        ("cut_last_page", "link", [[1, 2, 3], [4, 5, 6], [7]]),
        ("id_texts", "link", [[1, 2, 3], ["4", "5", "6"], ["7", "8"]]),
    ],
)
def test_pages_that_lose_and_move_records(
    plain: Emulator, client: Client, lie: str, kind: str, wanted: list[list[Any]]
) -> None:
    """A record is missing, comes twice, or has an id of another type."""
    assert pages(plain, client, lie, kind) == wanted


# ---- Director ----------------------------------------------------------------------------------


def ordered(director: Emulator, fault: str, **args: object) -> tuple[dict[str, Any], str]:
    director.switches({"order_polls": 0})
    director.faults([{"match": {"method": "POST"}, "fault": fault, **args}])
    client = Client(director.port, {"Authorization": "Bearer demo"})
    node = next(iter(director.state()["nodes"]))  # type: ignore[call-overload]
    body = {
        "data": {
            "name": "made",
            "hiddenrepopath": [{"path": "/opt/immune/storage/", "retention": 9}],
        }
    }
    accepted = client("POST", f"/configapi/{node}/Repos", body).json
    verdict = client("GET", "/" + accepted["message"]).json
    return verdict, node


def repos(director: Emulator, node: str) -> dict[str, Any]:
    listed = director.state()["nodes"][node]["resources"]["Repos"]  # type: ignore[index]
    return {repo["name"]: repo for repo in listed}


def test_a_stuck_order_has_its_effect(director: Emulator) -> None:
    """The repo is there, and the order says nothing."""
    verdict, node = ordered(director, "order_stuck")
    assert verdict["response"] == {}
    assert "made" in repos(director, node)


@pytest.mark.parametrize("says", ["success", "failed"])
def test_an_order_that_does_half(director: Emulator, says: str) -> None:
    """The repo is there with half of what was asked, whatever the order says."""
    verdict, node = ordered(director, "order_partial", says=says)
    assert verdict["response"]["success"] is (says == "success")
    assert json.dumps(repos(director, node)["made"]).count("retention") == 0
