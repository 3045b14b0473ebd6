"""The server under every emulator: HTTP, ledger, limits, clock, and faults byte by byte."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import time
import zlib
from email.utils import parsedate_to_datetime

import pytest
from emulator_client import Client

from dsync import emulators
from dsync.emulators import ControlError, Emulator

pytestmark = pytest.mark.integration

THING = {"name": "one"}


def rule(fault: str, **args: object) -> dict[str, object]:
    match = args.pop("match", {"method": "POST"})
    return {"match": match, "fault": fault, **args}


def names(emulator: Emulator) -> list[str]:
    """What is really there."""
    things = emulator.state()["collections"].get("things", [])  # type: ignore[attr-defined]
    return [thing["name"] for thing in things]


# ---- HTTP --------------------------------------------------------------------------------------


def raw(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connected:
        connected.sendall(data)
        connected.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connected.recv(65536), b""))


def test_answers_many_calls_on_one_connection(plain: Emulator, client: Client) -> None:
    """A connection stays open, and the ledger says which call on it was which."""
    connection = client.connect()
    for _ in range(3):
        assert client("GET", "/api/things", over=connection).status == 200
    connection.close()
    calls = plain.ledger()
    assert [call["on_connection"] for call in calls] == [1, 2, 3]
    assert len({call["connection"] for call in calls}) == 1


def test_head_has_the_length_but_no_body(plain: Emulator, client: Client) -> None:
    """HEAD answers what GET would, without its body."""
    plain.seed({"collection": "things", "objects": [THING]})
    connection = client.connect()
    got = client("GET", "/api/things", over=connection)
    head = client("HEAD", "/api/things", over=connection)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(got.body))
    assert client("GET", "/api/things", over=connection).body == got.body
    connection.close()


def test_takes_chunked_bodies(plain: Emulator, client: Client) -> None:
    """A request may come in chunks."""
    connection = client.connect()
    pieces = iter([b'{"na', b'me":"one"}'])
    connection.request("POST", "/api/things", pieces, encode_chunked=True)
    assert connection.getresponse().status == 201
    connection.close()
    assert names(plain) == ["one"]


def test_speaks_the_older_and_the_closing_http(plain: Emulator) -> None:
    """HTTP/1.0 and `Connection: close` end the connection after the answer."""
    for text in ("GET /api/a HTTP/1.0\r\n\r\n", "GET /api/a HTTP/1.1\r\nConnection: close\r\n\r\n"):
        answer = raw(plain.port, text.encode())
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close\r\n" in answer


@pytest.mark.parametrize(
    "data",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /api/a HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /api/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_refuses_what_is_no_http(plain: Emulator, data: bytes) -> None:
    """A malformed request gets a 400 and the connection ends; the server lives on."""
    assert raw(plain.port, data).startswith(b"HTTP/1.1 400 ")
    assert plain.counts()["total"] == 0


def test_answers_at_once_after_an_expect(plain: Emulator) -> None:
    """`Expect: 100-continue` is granted."""
    data = b"POST /api/things HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n"
    answer = raw(plain.port, data + b'{"name":"one"}')
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n")


# ---- ledger and control ------------------------------------------------------------------------


def test_the_ledger_shows_calls_and_effects(plain: Emulator, client: Client) -> None:
    """Every call is in the ledger with what it asked, what it got and what it changed."""
    client("GET", "/api/things?limit=5")
    made = client("POST", "/api/things", {"name": "one", "size": 3})
    client("DELETE", f"/api/things/{made.json['id']}")
    get, post, delete = plain.ledger()
    assert (get["seq"], get["method"], get["path"], get["query"]) == (
        get["seq"],
        "GET",
        "/api/things",
        {"limit": "5"},
    )
    assert (get["write"], get["effects"], get["status"]) == (False, [], 200)
    assert (post["body"], post["status"], post["write"]) == ({"name": "one", "size": 3}, 201, True)
    assert post["template"] == "/api/things"
    assert delete["template"] == "/api/things/{id}"
    kinds = [(e["seq"], e["kind"], e["resource"], e["id"], e["key"]) for e in plain.effects()]
    assert kinds == [
        (post["seq"], "create", "things", "1", "one"),
        (delete["seq"], "delete", "things", "1", "one"),
    ]
    assert [call["seq"] for call in plain.ledger(since=post["seq"])] == [delete["seq"]]  # type: ignore[arg-type]


def test_counts_are_by_method_and_template(plain: Emulator, client: Client) -> None:
    """Counts tell calls by method and path template, writes apart, effects by kind."""
    for name in ("one", "two"):
        client("POST", "/api/things", {"name": name})
    client("POST", "/api/things", THING)
    client("PUT", "/api/things/1", {"name": "uno"})
    client("GET", "/api/things/1")
    counts = plain.counts()
    assert counts["calls"] == {
        "GET /api/things/{id}": 1,
        "POST /api/things": 3,
        "PUT /api/things/{id}": 1,
    }
    assert (counts["total"], counts["writes"], counts["reads"]) == (5, 4, 1)
    assert counts["status"] == {"200": 2, "201": 2, "409": 1}
    assert counts["effects"] == {"create": 2, "update": 1, "delete": 0}


def test_secrets_show_as_fingerprints(plain: Emulator, client: Client) -> None:
    """The ledger never holds a secret, only a hash that tells two secrets apart."""
    secret = "a-very-secret-thing"
    headers = {"Authorization": f"Bearer {secret}", "X-Api-Key": secret}
    client(
        "POST", f"/api/a?token={secret}", {"clientSecret": secret, "x": {"password": secret}},
        headers=headers,
    )  # fmt: skip
    [call] = plain.ledger()
    assert secret not in json.dumps(call)
    assert call["headers"]["authorization"] == f"Bearer {emulators.fingerprint(secret)}"  # type: ignore[index]
    assert call["body"]["x"] == {"password": emulators.fingerprint(secret)}  # type: ignore[index]


def test_control_calls_leave_no_trace(plain: Emulator, client: Client) -> None:
    """`/_emulator/…` is not in the ledger, not limited and not hit by faults."""
    plain.switches({"rate_per_s": 1})
    plain.faults([rule("reset", match={})])
    for _ in range(5):
        plain.state()
    assert plain.ledger() == []
    assert client("GET", "/_emulator/nothing").status == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("switches", {"nope": 1}),
        ("switches", [1]),
        ("switches", {"page_size": -1}),
        ("faults", [{"fault": "nope"}]),
        ("faults", [{"fault": "reset", "nope": 1}]),
        ("faults", [{"fault": "delay", "when": "before_read"}]),
        ("faults", [{"fault": "reset", "match": {"path": "("}}]),
        ("clock", {}),
        ("seed", {"objects": []}),
    ],
)
def test_wrong_control_calls_change_nothing(client: Client, path: str, body: object) -> None:
    """A control call that makes no sense gets a 400 with the reason."""
    answer = client("POST", f"/_emulator/{path}", body)
    assert answer.status == 400
    assert answer.json["error"]


def test_reset_forgets_all_but_the_switches(plain: Emulator, client: Client) -> None:
    """Reset empties state, ledger, faults and clock; switches stay."""
    plain.switches({"page_size": 7})
    client("POST", "/api/things", THING)
    plain.faults([rule("reset", match={})])
    plain.advance(100)
    plain.reset()
    assert (plain.ledger(), names(plain)) == ([], [])
    assert client("GET", "/_emulator/faults").json == []
    assert client("GET", "/_emulator/clock").json["offset_s"] == 0
    assert plain.switches()["page_size"] == 7


# ---- limits and clock --------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["seconds", "date", "none"])
def test_more_calls_than_allowed_get_429(plain: Emulator, client: Client, form: str) -> None:
    """The call after the last allowed one is refused, until the clock has moved on."""
    plain.switches({"rate_per_s": 2, "retry_after": form, "retry_after_s": 7})
    plain.advance(-1000)
    answers = [client("POST", "/api/things", {"name": str(n)}) for n in range(3)]
    assert [answer.status for answer in answers] == [201, 201, 429]
    told = answers[-1].headers.get("retry-after")
    if form == "date":
        assert told
        date = parsedate_to_datetime(answers[-1].headers["date"])
        assert 6 <= (parsedate_to_datetime(told) - date).total_seconds() <= 8
    else:
        assert told == {"seconds": "7", "none": None}[form]
    assert len(names(plain)) == 2
    plain.advance(1.5)
    assert client("GET", "/api/things").status == 200


def test_the_clock_moves_everything_that_expires(plain: Emulator, client: Client) -> None:
    """A push of the clock ends a token's life at once, and the date header shows it."""
    plain.switches({"auth": "exchange", "token_life_s": 100})
    login = {"client_id": "demo", "client_secret": "demo-secret"}
    token = client("POST", "/auth", login).json["token"]
    shown = {"Authorization": f"Bearer {token}"}
    before = client("GET", "/api/things", headers=shown)
    plain.advance(101)
    after = client("GET", "/api/things", headers=shown)
    assert (before.status, after.status) == (200, 401)
    then, now = (parsedate_to_datetime(a.headers["date"]) for a in (before, after))
    assert 100 <= (now - then).total_seconds() <= 110


# ---- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["reset", "close", "garbage", "timeout"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_looks_the_same_with_and_without_effect(
    plain: Emulator, client: Client, fault: str, when: str
) -> None:
    """Whether the call had its effect shows in the state, never in the client's error."""
    plain.faults([rule(fault, when=when)])
    wanted = {
        "reset": ConnectionResetError,
        "close": http.client.RemoteDisconnected,
        "garbage": http.client.BadStatusLine,
        "timeout": TimeoutError,
    }[fault]
    with pytest.raises(wanted):
        client("POST", "/api/things", THING, timeout_s=0.15)
    assert names(plain) == (["one"] if when == "after" else [])
    [call] = plain.ledger()
    assert (call["fault"], call["status"]) == (fault, None)
    assert len(call["effects"]) == len(names(plain))  # type: ignore[arg-type]


def test_a_reset_before_the_body_is_read(plain: Emulator, client: Client) -> None:
    """`before_read` cuts the connection while the client still sends."""
    plain.faults([rule("reset", when="before_read")])
    with pytest.raises(ConnectionError):
        client("POST", "/api/things", {"name": "x" * 4_000_000})
    assert names(plain) == []


def test_a_late_commit_happens_after_the_client_gave_up(plain: Emulator, client: Client) -> None:
    """The effect of a late commit comes when nobody waits for it any more."""
    plain.faults([rule("late_commit", after_s=0.3)])
    with pytest.raises(TimeoutError):
        client("POST", "/api/things", THING, timeout_s=0.1)
    assert names(plain) == []
    deadline = time.monotonic() + 10
    while not names(plain) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert names(plain) == ["one"]
    assert len(plain.effects()) == 1


@pytest.mark.parametrize("fault", ["cut_body", "cut_chunk"])
def test_a_body_that_is_cut(plain: Emulator, client: Client, fault: str) -> None:
    """The answer begins well and ends too early; the effect is there."""
    plain.faults([rule(fault, keep=4)])
    with pytest.raises(http.client.IncompleteRead):
        client("POST", "/api/things", THING)
    assert names(plain) == ["one"]


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        ("truncated_json", b'{"id":1,"n'),
        ("body", b"{not json"),
        ("empty", b""),
        ("utf16", '{"id":1,"name":"one"}'.encode("utf-16")),
    ],
)
def test_a_right_status_with_a_wrong_body(
    plain: Emulator, client: Client, fault: str, body: bytes
) -> None:
    """The status says created, the body says nothing."""
    plain.faults([rule(fault)])
    answer = client("POST", "/api/things", THING)
    assert (answer.status, answer.body) == (201, body)
    assert names(plain) == ["one"]


def test_html_where_json_is_due(plain: Emulator, client: Client) -> None:
    """A gateway's page comes with status 200, or any other."""
    plain.faults([rule("html", match={"nth": 1}), rule("html", status=502, when="before")])
    first, second = (client("POST", "/api/things", {"name": str(n)}) for n in range(2))
    assert (first.status, second.status) == (200, 502)
    assert first.headers["content-type"].startswith("text/html")
    assert names(plain) == ["0"]


def test_a_wrong_content_type(plain: Emulator, client: Client) -> None:
    """The right bytes may come under a wrong name."""
    plain.faults([rule("content_type", type="text/plain")])
    answer = client("POST", "/api/things", THING)
    assert (answer.headers["content-type"], answer.json["name"]) == ("text/plain", "one")


def test_no_content_where_a_body_is_due(plain: Emulator, client: Client) -> None:
    """204 comes without body and without length."""
    plain.faults([rule("no_content")])
    answer = client("POST", "/api/things", THING)
    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_error_before_and_after_the_effect(
    plain: Emulator, client: Client, status: int, when: str
) -> None:
    """A 5xx does not tell whether the call had its effect."""
    plain.faults([rule("status", status=status, when=when, retry_after=3)])
    answer = client("POST", "/api/things", THING)
    assert (answer.status, answer.headers["retry-after"]) == (status, "3")
    assert names(plain) == (["one"] if when == "after" else [])


@pytest.mark.parametrize("told", [5, "date:5", "never", "-1", 99_999_999_999])
def test_too_many_with_any_retry_after(plain: Emulator, client: Client, told: object) -> None:
    """A 429 says seconds, a date, or nonsense, as it is told."""
    plain.faults([rule("too_many", retry_after=told, match={"times": 1})])
    answer = client("POST", "/api/things", THING)
    assert answer.status == 429
    if told == "date:5":
        shown = parsedate_to_datetime(answer.headers["retry-after"])
        date = parsedate_to_datetime(answer.headers["date"])
        assert 4 <= (shown - date).total_seconds() <= 6
    else:
        assert answer.headers["retry-after"] == str(told)
    assert client("POST", "/api/things", THING).status == 201


def test_a_slow_answer_comes_complete(plain: Emulator, client: Client) -> None:
    """Delay and drip cost time and lose nothing."""
    plain.faults([rule("delay", delay_s=0.05), rule("drip", bytes=64, every_s=0.005, match={})])
    start = time.monotonic()
    assert client("POST", "/api/things", THING).status == 201
    assert time.monotonic() - start >= 0.05
    assert client("GET", "/api/things").json["data"] == [{"id": 1, "name": "one"}]


def test_a_redirect_is_told_not_followed(plain: Emulator, client: Client) -> None:
    """A redirect names the place it is told to, without effect."""
    plain.faults([rule("redirect", status=302, location="http://203.0.113.9/x")])
    answer = client("POST", "/api/things", THING)
    assert (answer.status, answer.headers["location"]) == (302, "http://203.0.113.9/x")
    assert names(plain) == []


def test_gzip_that_cannot_or_should_not_be_unpacked(plain: Emulator, client: Client) -> None:
    """Bad gzip is none, and a bomb is a thousand times its size."""
    plain.faults([rule("bad_gzip", match={"nth": 1}), rule("gzip_bomb", size_mb=2)])
    bad, bomb = (client("POST", "/api/things", {"name": str(n)}) for n in range(2))
    assert bad.headers["content-encoding"] == bomb.headers["content-encoding"] == "gzip"
    with pytest.raises((OSError, EOFError, zlib.error)):
        gzip.decompress(bad.body)
    assert len(gzip.decompress(bomb.body)) == 2 << 20 > 500 * len(bomb.body)


def test_too_much_of_everything(plain: Emulator, client: Client) -> None:
    """Bodies, headers, depth and early hints come as large as they are told."""
    sizes = [
        rule("big_body", size_mb=2, match={"nth": 1}),
        rule("headers", count=50, match={"nth": 2}),
        rule("deep_json", depth=3000, match={"nth": 3}),
        rule("duplicate_keys", match={"nth": 4}),
    ]
    plain.faults(sizes)
    big, many, deep, twice = (client("POST", "/api/things", {"name": str(n)}) for n in range(4))
    assert len(big.body) == 2 << 20
    assert sum(name.startswith("x-filler-") for name in many.headers) == 50
    assert deep.body.startswith(b"[" * 3000)
    assert twice.body.startswith(b'{"id":null,"id":4')


def test_early_hints_come_before_the_answer(plain: Emulator) -> None:
    """1xx answers precede the real one."""
    plain.faults([rule("info_flood", count=3, match={})])
    answer = raw(plain.port, b"GET /api/a HTTP/1.0\r\n\r\n")
    assert answer.count(b"103 Early Hints") == 3
    assert b"HTTP/1.1 200 OK" in answer


# ---- when a fault strikes ----------------------------------------------------------------------


def struck(plain: Emulator, client: Client, match: dict[str, object], calls: int = 8) -> list[int]:
    plain.faults([rule("status", status=418, match=match)])
    answers = [client("GET", "/api/things") for _ in range(calls)]
    return [number for number, answer in enumerate(answers, 1) if answer.status == 418]


@pytest.mark.parametrize(
    ("match", "numbers"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"nth": 3}, [3]),
        ({"nth": [2, 5]}, [2, 5]),
        ({"every": 3}, [3, 6]),
        ({"from": 7}, [7, 8]),
        ({"times": 2}, [1, 2]),
        ({"every": 2, "times": 3}, [2, 4, 6]),
        ({"probability": 0}, []),
        ({"probability": 1}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"method": "POST"}, []),
        ({"method": ["post", "get"], "nth": 1}, [1]),
        ({"path": "^/api/thing$"}, []),
        ({"path": "things"}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"reused": True}, []),
    ],
)
def test_a_rule_strikes_as_it_says(
    plain: Emulator, client: Client, match: dict[str, object], numbers: list[int]
) -> None:
    """A rule counts the calls that fit and strikes the ones it names."""
    assert struck(plain, client, match) == numbers


def test_chance_is_seeded(plain: Emulator, client: Client) -> None:
    """The same seed strikes the same calls, another seed others."""
    first, again, other = (
        struck(plain, client, {"probability": 0.5, "seed": seed}, 30) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_rule_for_reused_connections(plain: Emulator, client: Client) -> None:
    """`reused` strikes the second call of a connection, not the first."""
    plain.faults([rule("reset", match={"reused": True})])
    connection = client.connect()
    assert client("POST", "/api/things", THING, over=connection).status == 201
    with pytest.raises(ConnectionError):
        client("POST", "/api/things", {"name": "two"}, over=connection)
    connection.close()
    assert names(plain) == ["one", "two"]


# ---- a clock of its own pace -------------------------------------------------------------------


def test_the_clock_stands_still(plain: Emulator, client: Client) -> None:
    """At the speed of 0 two calls come at one moment, and only `advance` makes time pass."""
    plain.switches({"clock_speed": 0})
    for _ in range(2):
        client("GET", "/api/things")
    plain.advance(60)
    client("GET", "/api/things")
    first, second, third = (call["monotonic_s"] for call in plain.ledger())
    assert (first, third) == (second, pytest.approx(first + 60, abs=1e-6))  # type: ignore[operator]


def test_the_clock_runs_fast(plain: Emulator) -> None:
    """At a high speed minutes pass in no time, and back at 1 nothing jumps back."""
    plain.switches({"clock_speed": 6000})
    began = time.monotonic()
    before = plain.clock()["monotonic_s"]
    while time.monotonic() < began + 0.02:
        pass
    plain.switches({"clock_speed": 1})
    passed = plain.clock()["monotonic_s"] - before  # type: ignore[operator]
    assert passed >= 120


def test_the_clock_is_put_to_a_time_of_day(plain: Emulator) -> None:
    """A time of day is the next one in the zone of the quota; a moment is that moment."""
    plain.switches({"clock_speed": 0, "clock_start": "2031-01-10T12:00:00Z"})
    plain.switches({"quota": {"zone": "Europe/Paris", "read": "60/min"}})
    plain.until("13:30")
    assert str(plain.clock()["now"]).startswith("2031-01-10T12:30:00.000")
    plain.until("06:00:05")
    assert str(plain.clock()["now"]).startswith("2031-01-11T05:00:05.000")
    plain.reset()
    assert str(plain.clock()["now"]).startswith("2031-01-10T12:00:00.000")
    for wrong in ("24:00", "2031-01-10T12:00:00", "noon"):
        with pytest.raises(ControlError, match="a moment is"):
            plain.until(wrong)


def test_calls_are_counted_by_minute_and_kind(plain: Emulator, client: Client) -> None:
    """The counts tell how many reads and writes came in each minute."""
    plain.switches({"clock_speed": 0, "clock_start": "2031-01-10T12:00:00Z"})
    client("GET", "/api/things")
    plain.advance(60)
    client("POST", "/api/things", {"name": "one"})
    assert plain.counts()["per_minute"] == {
        "2031-01-10T12:00": {"read": 1, "write": 0},
        "2031-01-10T12:01": {"read": 0, "write": 1},
    }
