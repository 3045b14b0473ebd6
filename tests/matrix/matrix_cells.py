"""The fault matrix: every fault, every operation, and how one cell of it is played.

A cell is one fault of the wire (or of the connection, a job, a page) in the way of one operation
of the REST connector: once, twice in a row, or from now on. It is played with real sockets against
an emulator, and ends in one line:

    acked e1 c2      what became of the change; effects at the server; calls of it that came there
    raises DS-X e0 c4

Two calls for one change are right where the first surely had no effect, or where the API itself
sees to it that the second has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dsync.connectors.rest import Rest
from dsync.emulators import Emulator, listeners
from dsync.errors import DsyncError
from dsync.model import Change, Outcome, Scope
from dsync.system import System

Json = dict[str, Any]
Often = Literal["once", "twice", "always"]
OFTEN: tuple[Often, ...] = ("once", "twice", "always")

PATIENCE_S = 0.3
"""The client's time-out where the server hangs; elsewhere it has all the time it needs."""
LATE_S = 0.8
"""So late comes a late commit: the client has gone."""
RECORDS = 41
POLLED_S = 6.0


# ---- faults ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One row: a rule of the emulator without its match, or a listener in the emulator's place."""

    rule: Mapping[str, Any] = field(default_factory=dict)
    listener: Callable[[], contextlib.AbstractContextManager[Any]] | None = None
    hangs: bool = False
    writes_only: bool = False
    """For a read it is the same as another row, or means nothing."""


def _rule(fault: str, **args: Any) -> Fault:
    hangs = args.pop("hangs", False)
    writes_only = args.pop("writes_only", False)
    return Fault(rule={"fault": fault, **args}, hangs=hangs, writes_only=writes_only)


def _status(status: int, when: str = "before", **args: Any) -> Fault:
    return _rule("status", status=status, when=when, writes_only=when == "after", **args)


@contextlib.contextmanager
def _no_dns() -> Iterator[str]:
    yield listeners.UNKNOWN_HOST


FAULTS: dict[str, Fault] = {
    "F01 DNS": Fault(listener=_no_dns, hangs=True),
    "F02 refused": Fault(listener=listeners.refused),
    "F03 connect time-out": Fault(listener=listeners.silent, hangs=True),
    "F04 self-signed": Fault(listener=lambda: listeners.tls("self_signed")),
    "F05 wrong host": Fault(listener=lambda: listeners.tls("wrong_host")),
    "F06 reset in handshake": Fault(listener=listeners.reset_in_handshake),
    "F07 reset before read": _rule("reset", when="before_read"),
    "F08 reset before commit": _rule("reset", when="before", writes_only=True),
    "F09 reset after commit": _rule("reset", when="after"),
    "F10 end before commit": _rule("close", when="before", writes_only=True),
    "F10 end after commit": _rule("close", when="after"),
    "F11 time-out before commit": _rule("timeout", when="before", hangs=True, writes_only=True),
    "F12 time-out after commit": _rule("timeout", when="after", hangs=True),
    "F13 late commit": _rule("late_commit", after_s=LATE_S, hangs=True, writes_only=True),
    "F14 drip": _rule("drip", bytes=1, every_s=0.05, hangs=True),
    "F15 slow": _rule("slow", delay_s=0.02),
    "F16 cut body": _rule("cut_body"),
    "F16 cut body before commit": _rule("cut_body", when="before", writes_only=True),
    "F17 cut chunk": _rule("cut_chunk"),
    "F18 cut JSON": _rule("truncated_json"),
    "F19 invalid JSON": _rule("body", body="{nope"),
    "F20 HTML 200 after commit": _rule("html", when="after"),
    "F20 HTML 200 before commit": _rule("html", when="before", writes_only=True),
    "F21 HTML 502 after commit": _rule("html", status=502, when="after"),
    "F21 HTML 502 before commit": _rule("html", status=502, when="before", writes_only=True),
    "F22 empty 200": _rule("empty"),
    "F23 204": _rule("no_content"),
    "F24 content type": _rule("content_type"),
    "F25 bad gzip": _rule("bad_gzip"),
    "F26 gzip bomb": _rule("gzip_bomb", size_mb=80),
    "F27 large body": _rule("big_body", size_mb=70),
    "F28 5000 headers": _rule("headers", count=5000),
    "F28 header of 1 MB": _rule("headers", count=1, size=1 << 20),
    "F29 garbage": _rule("garbage", when="after"),
    "F30 1xx flood": _rule("info_flood", count=10_000),
    "F31 deep JSON": _rule("deep_json"),
    "F32 duplicate keys": _rule("duplicate_keys"),
    "F32 NaN": _rule("nan"),
    "F33 redirect here": _rule("redirect", location="/api/elsewhere"),
    "F33 redirect here after commit": _rule(
        "redirect", location="/api/elsewhere", when="after", writes_only=True
    ),
    "F34 redirect elsewhere": _rule("redirect", status=302, location="http://203.0.113.9/x"),
    "F35 400": _status(400),
    "F35 422": _status(422),
    "F36 401": _status(401),
    "F38 403": _status(403),
    "F39 404": _status(404),
    "F40 409": _status(409),
    "F41 412": _status(412),
    "F42 429 seconds": _rule("too_many", retry_after=2),
    "F43 429 date": _rule("too_many", retry_after="date:2"),
    "F44 429 bare": _rule("too_many", retry_after=None),
    "F44 429 absurd": _rule("too_many", retry_after=99_999_999_999),
    "F44 429 two hours": _rule("too_many", retry_after=7200),
    "F45 500 before commit": _status(500),
    "F45 500 after commit": _status(500, "after"),
    "F46 502 before commit": _status(502),
    "F46 502 after commit": _status(502, "after"),
    "F46 504 after commit": _status(504, "after"),
    "F47 503 wait before commit": _status(503, retry_after=2),
    "F47 503 wait after commit": _status(503, "after", retry_after=2),
    "F47 503 bare": _status(503),
    "F48 failure inside": _rule("body", body={"status": "error", "error": "no"}, when="before"),
    "S206": _status(206),
    "S408": _status(408),
    "S410": _status(410),
    "S413": _status(413),
    "S418": _status(418),
    "S421": _status(421),
    "S423": _status(423),
    "S425": _status(425),
    "S428": _status(428),
    "S451": _status(451),
    "S501": _status(501),
    "S505": _status(505),
    "S507": _status(507),
    "S520": _status(520),
}
"""F01-F48 by their numbers; S: further statuses that the rules tell apart."""


# ---- operations --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What the connector is asked to do, and at which of its calls the fault strikes."""

    action: str
    match: Mapping[str, Any]
    switches: Mapping[str, Any] = field(default_factory=dict)
    system: Mapping[str, Any] = field(default_factory=dict)
    things: Mapping[str, Any] = field(default_factory=dict)
    is_read: bool = False


_POST = {"method": "POST", "path": "^/api/things$"}
_ONE = "^/api/things/1$"
_JOBS = {
    "location": "job",
    "pattern": "jobs/j-[0-9]{6}",
    "success": "status == 'done'",
    "failure": "status == 'failed'",
    "id": "result.id",
    "poll": {"interval_s": 1, "timeout_s": POLLED_S, "missing_grace_s": 1},
}
_UPSERT = {"write": "upsert", "update": None}
_JOB_SWITCHES = {"jobs": True, "job_polls": 1, "job_max_s": 30}

OPERATIONS: dict[str, Operation] = {
    "list": Operation(action="list", match={"method": "GET", "path": "offset=20"}, is_read=True),
    "probe": Operation(action="probe", match={"method": "GET", "path": _ONE}, is_read=True),
    "create": Operation(action="create", match=_POST, switches={"unique": False}),
    "create keyed": Operation(
        action="create",
        match=_POST,
        switches={"unique": False, "idempotency": True},
        things={"create": {"path": "things", "id": "id", "idempotency": {"life_s": 86_400}}},
    ),
    "create unique": Operation(action="create", match=_POST, things={"unique_by_server": True}),
    "put": Operation(action="update", match={"method": "PUT", "path": _ONE}),
    "put bare": Operation(
        action="update",
        match={"method": "PUT", "path": _ONE},
        system={"answers": {}},  # nothing to be read in an answer
    ),
    "patch": Operation(
        action="update",
        match={"method": "PATCH", "path": _ONE},
        things={"update": {"path": "things/{id}", "method": "PATCH", "send": "changed"}},
    ),
    "delete": Operation(action="delete", match={"method": "DELETE", "path": _ONE}),
    "upsert": Operation(
        action="update", match=_POST, switches={"post_upsert": True}, things=_UPSERT
    ),
    "job poll": Operation(
        action="create",
        match={"method": "GET", "path": "^/jobs/"},
        switches={**_JOB_SWITCHES, "job_polls": 0},
        system={"jobs": _JOBS},
        is_read=True,
    ),
    "token": Operation(action="create", match={"method": "POST", "path": "^/auth$"}, is_read=True),
}

_LOGIN = {
    "kind": "exchange",
    "request": {
        "path": "auth",
        "body": {"client_id": "${client_id}", "client_secret": "${client_secret}"},
    },
    "token": "token",
    "expires": "expires_in",
}
_CREDENTIALS = {"client_id": "demo", "client_secret": "demo-secret"}


def applies(fault: str, operation: str, often: Often) -> bool:
    """Whether there is such a cell."""
    row, what = FAULTS[fault], OPERATIONS[operation]
    if row.listener is not None:
        # Without a server there is nothing that could come right after once or twice.
        return often == "always" and operation not in ("job poll", "token")
    if fault.startswith("F48") and operation == "put bare":
        return False  # a failure that nobody declared looks like success
    return not (row.writes_only and what.is_read)


def all_cells() -> list[tuple[str, str, Often]]:
    """Every cell: fault, operation, how often."""
    return [
        (fault, operation, often)
        for fault in FAULTS
        for operation in OPERATIONS
        for often in OFTEN
        if applies(fault, operation, often)
    ]


# ---- jobs that lie -----------------------------------------------------------------------------

_ELSEWHERE = "http://203.0.113.9/jobs/j-000001"

JOB_FAULTS: dict[str, Mapping[str, Any]] = {
    "J0 failed": {"fault": "job_fail"},
    "J1 never ends": {"fault": "job_never"},
    "J2 stuck": {"fault": "job_stuck"},
    "J3 404": {"fault": "job_missing"},
    "J4 done without effect": {"fault": "job_no_effect"},
    "J5 failed with effect": {"fault": "job_fail_with_effect"},
    "J6 half, and done": {"fault": "job_partial"},
    "J6 half, and failed": {"fault": "job_partial", "says": "failed"},
    "J7 another origin": {"fault": "job_hostile", "url": _ELSEWHERE},
    "J7 climbs": {"fault": "job_hostile", "url": "/jobs/../api/things"},
    "J7 query": {"fault": "job_hostile", "url": "/jobs/j-000001?next=x"},
    "J7 two slashes": {"fault": "job_hostile", "url": "//203.0.113.9/jobs/j-000001"},
    "J7 user": {"fault": "job_hostile", "url": "http://jobs@127.0.0.1/jobs/j-000001"},
    "J8 no id": {"fault": "job_no_id"},
}
"""Faults of jobs, in the way of each operation that a job may do."""

JOB_OPERATIONS = ("create", "put", "patch", "delete", "upsert")


def play_job(emulator: Emulator, fault: str, operation_name: str) -> str:
    """One cell of a job that lies. Raises: AssertionError as `play`."""
    operation = OPERATIONS[operation_name]
    system = {**system_of(operation), "jobs": _JOBS}
    prepare(emulator, operation)
    emulator.switches(_JOB_SWITCHES)
    emulator.faults([{"match": operation.match, **JOB_FAULTS[fault]}])
    log = Log()
    end = perform(rest(emulator, system), operation, log)
    return judge(emulator, operation, log, end, lies=True)


# ---- pages that lie ----------------------------------------------------------------------------

PAGE_FAULTS: dict[str, Mapping[str, Any]] = {
    "P1 page missing": {"lie": "skip_page"},
    "P1 page empty": {"lie": "empty_page"},
    "P2 page twice": {"lie": "repeat_page"},
    "P3 record moves": {"lie": "moved_record"},
    "P4 loop": {"lie": "loop_cursor"},
    "P5 total too high": {"lie": "total_high"},
    "P5 total too low": {"lie": "total_low"},
    "P6 last page cut": {"lie": "cut_last_page"},
    "P7 ids change type": {"lie": "id_texts"},
    "P8 filter ignored": {"filters": False},
}
"""Switches of the emulator, in the way of a listing that is cut in each of these ways."""

PAGINGS: dict[str, Json] = {
    "offset": {"kind": "offset"},
    "page": {"kind": "page"},
    "cursor": {"kind": "cursor", "next": "next"},
    "link": {"kind": "link", "next": "next"},
}


def page_cells() -> list[tuple[str, str]]:
    """Every cell: fault, kind of paging."""
    return [
        (fault, kind)
        for fault in PAGE_FAULTS
        for kind in PAGINGS
        if fault != "P4 loop" or kind in ("cursor", "link")
    ]


def play_page(emulator: Emulator, fault: str, kind: str) -> str:
    """One cell of a listing that lies."""
    operation = OPERATIONS["list"]
    prepare(emulator, operation)
    emulator.switches({"paging": kind, **PAGE_FAULTS[fault]})
    paging = {**PAGINGS[kind], "limit": "limit", "size": 10, "total": "total"}
    listing = {"path": "things", "records": "data", "query": {"age": "2"}}
    system: Json = {**system_of(operation), "paging": paging}
    if fault.startswith("P8"):
        system["resources"]["things"]["list"] = listing
    return perform(rest(emulator, system), operation, Log())


# ---- playing one -------------------------------------------------------------------------------


@dataclass(slots=True)
class Time:
    """The client's time: a sleep takes none, and moves the emulator's clock on."""

    emulator: Emulator
    offset_s: float = 0.0

    def read(self) -> float:
        return time.monotonic() + self.offset_s

    async def sleep(self, seconds: float) -> None:
        self.offset_s += seconds
        self.emulator.advance(seconds)
        await asyncio.sleep(0)


@dataclass(slots=True)
class Log:
    """Who is told of each attempt of a write, as the journal would be."""

    told: list[str] = field(default_factory=list)

    async def intent(self, body_sha256: str) -> str:
        self.told.append("intent")
        return f"key-{body_sha256[:32]}"

    def sent(self) -> None:
        self.told.append("sent")

    async def again(self, outcome: Outcome, why: str) -> None:
        assert why
        self.told.append(f"again {outcome.state}")

    def accepted(self, job: str) -> None:
        assert job
        self.told.append("accepted")


def rest(emulator: Emulator, system: Mapping[str, Any], url: str = "", **settings: Any) -> Rest:
    """A connector whose sleeps take no time."""
    at = Time(emulator)
    given = {"base_url": url or emulator.url, "credentials": _CREDENTIALS, **settings}
    model = System.model_validate(system)
    return Rest(model, clock=at.read, sleep=at.sleep, **given)


def system_of(operation: Operation, *, login: bool = True) -> Json:
    """The system file for an operation."""
    things: Json = {
        "key": ["name"],
        "list": {"path": "things", "records": "data"},
        "create": {"path": "things", "id": "id"},
        "update": {"path": "things/{id}"},
        "delete": {"path": "things/{id}"},
        **operation.things,
    }
    return {
        "version": 1,
        "system": "shop",
        "base_path": "api",
        "probe": "api/things/1",
        "auth": _LOGIN if login else {"kind": "none"},
        "answers": {"failure": "status == 'error'"},
        "paging": {"kind": "offset", "limit": "limit", "size": 20, "total": "total"},
        **operation.system,
        "resources": {"things": things},
    }


def change_of(operation: Operation) -> Change:
    """The change that an operation makes: of the first record, or a new one."""
    new = operation.action == "create"
    name = "new" if new else "n0"
    payload = None if operation.action == "delete" else {"name": name, "age": 7, "text": "x" * 80}
    return Change(
        action=operation.action,  # type: ignore[arg-type]
        profile="p",
        system="shop",
        resource="things",
        key=(name,),
        id=None if new else 1,
        fields=("age", "text"),
        payload=payload,
    )


def prepare(emulator: Emulator, operation: Operation, *, login: bool = True) -> None:
    """Records to find, and the manners of the API."""
    emulator.switches(dict.fromkeys(emulator.switches()))
    switches = {"auth": "exchange" if login else "none", "paging": "offset"}
    emulator.switches({**switches, **operation.switches})
    emulator.reset()
    objects = [{"name": f"n{number}", "age": 1} for number in range(RECORDS)]
    emulator.seed({"collection": "things", "objects": objects})


def pair_of(number: int) -> tuple[str, str, str]:
    """A pair of faults on neighbouring calls of an operation; the same for the same number."""
    chance = random.Random(number)  # noqa: S311
    operation = chance.choice(list(OPERATIONS))
    fits = [name for name in FAULTS if applies(name, operation, "once")]
    first, second = chance.sample(fits, 2)
    return first, second, operation


def rules_of(fault: Fault, operation: Operation, often: Often) -> list[Json]:
    """The fault in the way of an operation."""
    ways: dict[Often, Json] = {"once": {"nth": 1}, "twice": {"nth": [1, 2]}, "always": {}}
    nth = ways[often]
    return [{"match": {**operation.match, **nth}, **fault.rule}]


def perform(subject: Rest, operation: Operation, log: Log) -> str:
    """What became of it, in a word or two."""

    async def run() -> str:
        async with subject:
            match operation.action:
                case "list":
                    count = 0
                    async for page in subject.fetch("things", Scope()):
                        count += page.count
                    return "ok" if count == RECORDS else f"ok with {count} records"
                case "probe":
                    await subject.probe()
                    return "ok"
            outcome = await subject.send(change_of(operation), Scope(), log=log)
            absent = " absent" if outcome.code == "DS-ABSENT" else ""
            return f"{outcome.state}{absent}"

    try:
        return asyncio.run(run())
    except DsyncError as error:
        return f"raises {error.code}"


def play(emulator: Emulator, fault_name: str, operation_name: str, often: Often) -> str:
    """One cell to its end; see the module.

    Raises: AssertionError when it broke a rule that holds for all cells.
    """
    fault, operation = FAULTS[fault_name], OPERATIONS[operation_name]
    login = fault.listener is None
    prepare(emulator, operation, login=login)
    system = system_of(operation, login=login)
    settings: Json = {"timeout_s": PATIENCE_S if fault.hangs else 10.0}
    log = Log()
    if fault.listener is not None:
        with fault.listener() as listening:
            url = listening if isinstance(listening, str) else listening.url
            if isinstance(listening, listeners.Listener) and listening.ca_file:
                settings["ca_file"] = str(listening.ca_file)
            end = perform(rest(emulator, system, url, **settings), operation, log)
            reached = getattr(listening, "requests", 0)
        assert reached == 0, "a call got through a connection that was not good"
        assert emulator.counts()["total"] == 0
        assert "sent" not in log.told, "the log was told that a byte left"
        return f"{end} e0 c0"
    emulator.faults(rules_of(fault, operation, often))
    end = perform(rest(emulator, system, **settings), operation, log)
    late = fault.rule["fault"] == "late_commit"
    return judge(emulator, operation, log, end, late=late)


def play_pair(emulator: Emulator, first: str, second: str, operation_name: str) -> str:
    """Two faults, one after the other. Raises: AssertionError as `play`."""
    operation = OPERATIONS[operation_name]
    faults = [FAULTS[first], FAULTS[second]]
    prepare(emulator, operation)
    emulator.faults(
        [
            {"match": {**operation.match, "nth": nth}, **fault.rule}
            for nth, fault in enumerate(faults, 1)
        ]
    )
    hangs = any(fault.hangs for fault in faults)
    subject = rest(emulator, system_of(operation), timeout_s=PATIENCE_S if hangs else 10.0)
    log = Log()
    end = perform(subject, operation, log)
    late = any(fault.rule["fault"] == "late_commit" for fault in faults)
    return judge(emulator, operation, log, end, late=late)


def judge(
    emulator: Emulator,
    operation: Operation,
    log: Log,
    end: str,
    *,
    late: bool = False,
    lies: bool = False,
) -> str:
    """The line of a cell, from the server's own ledger; `lies`: its answers are not the truth.

    Raises: AssertionError when it broke a rule that holds for all cells.
    """
    if late:
        time.sleep(LATE_S + 0.2)
    emulator.advance(120)
    emulator.state()  # jobs that are due end now
    calls, effects = emulator.ledger(), len(emulator.effects())
    writes = [call for call in calls if call["write"]]
    # No byte of a write leaves before its intent, and each is told.
    assert log.told.count("intent") >= log.told.count("sent") == len(writes)
    # What is absolute may be sent again, and is then told so; its effect is the same.
    absolute = operation.action in ("update", "delete") and operation.match["method"] != "PATCH"
    resent = sum(told.startswith("again") for told in log.told) if absolute else 0
    assert effects <= 1 + resent, "it was made twice"
    if end == "acked" and not lies:
        assert effects == 1, "acked, and nothing is there"
    if end.startswith(("rejected", "not_sent", "stale")) and not lies:
        assert effects == 0, f"{end}, and it is there"
    if operation.action in ("list", "probe") or operation.match["path"] == "^/auth$":
        writes = [call for call in calls if _fits(call, operation.match)]
    return f"{end} e{effects} c{len(writes)}"


def _fits(call: Json, match: Mapping[str, Any]) -> bool:
    query = "&".join(f"{name}={value}" for name, value in call["query"].items())
    target = f"{call['path']}?{query}"
    pattern = match["path"].removesuffix("$")
    return call["method"] == match["method"] and re.search(pattern, target) is not None
