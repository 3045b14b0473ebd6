"""Apply: every call in the journal first, every row in one status, and nothing sent twice."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsync import applying, failpoints, outcomes
from dsync import journal as journals
from dsync.applying import Rules
from dsync.connectors import CallLog, Page
from dsync.errors import (
    ContractBreach,
    Invalid,
    Stale,
    StorageFault,
    Unauthorized,
    Unavailable,
)
from dsync.journal import Journal, Record, op_id, save_plan
from dsync.model import Change, Event, Outcome, Plan, Scope, Tally
from dsync.outcomes import exit_code, statuses
from dsync.reports import RunResult
from dsync.settling import Now
from dsync.system import System
from plan_literals import Line, change, finding, make_plan, reference

pytestmark = pytest.mark.unit

ACKED = Outcome(state="acked", status=200)
REFUSED = Outcome(state="rejected", status=422, code="DS-HTTP-422", message="no such colour")
LOST = Outcome(state="unknown", code="DS-HTTP-TIMEOUT", message="no answer in 60 s")
UNREACHED = Outcome(state="not_sent", code="DS-HTTP-CONNECT", message="connection refused")


class Zoo:
    """A small API in this process: it keeps what it is sent, and a ledger of all calls.

    `answers` says what a key is answered; a callable is called, an error is raised.
    """

    def __init__(
        self, answers: Mapping[str, Any] | None = None, *, tells_id: bool = True, stale: int = 0
    ) -> None:
        self.answers = answers or {}
        self.tells_id = tells_id
        self.stale = stale
        self.ledger: list[str] = []
        self.sent: list[Change] = []
        self.records: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.in_flight = self.most_in_flight = 0
        self.journal: Journal | None = None
        self.stands: dict[str, Any] = {}
        self.verdict = ACKED

    async def send(self, change: Change, scope: Scope, *, log: CallLog) -> Outcome:
        await log.intent("")
        log.sent()
        self._check_intent(change)
        key = change.key[0]
        self.ledger.append(f"{change.action} {change.resource} {key}")
        self.sent.append(change)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
            answer = self.answers.get(key, ACKED)
            if callable(answer):
                answer = await answer(log)
            if isinstance(answer, BaseException):
                raise answer
        finally:
            self.in_flight -= 1
        if answer.state == "acked" and change.action == "create":
            kept = self.records.setdefault((change.resource, scope.name), [])
            record = {"id": len(kept) + 100, **(change.payload or {})}
            kept.append(record)
            if self.tells_id:
                answer = replace(answer, id=record["id"])
        return answer

    def _check_intent(self, change: Change) -> None:
        """Nothing is sent that is not in the journal first."""
        if self.journal is not None:
            state = self.journal.state(op_id(self.journal.run_id, change))
            assert state is not None
            assert state.state == "sent"

    async def refresh(self, resource: str, scope: Scope) -> None:
        self.ledger.append(f"refresh {resource}")

    async def fetch(self, resource: str, scope: Scope) -> AsyncIterator[Page]:
        self.ledger.append(f"fetch {resource}")
        self.stale -= 1
        if self.stale < 0:
            for record in self.records.get((resource, scope.name), []):
                yield Page(ndjson=json.dumps(record).encode() + b"\n", count=1)

    async def follow(self, job: str, scope: Scope) -> Outcome:
        self.ledger.append(f"follow {job}")
        return self.verdict

    async def close(self) -> None:
        pass

    async def now(
        self, profile: str, scope: Scope, changes: Sequence[Change], *, digest: str = ""
    ) -> list[Now]:
        """How changes stand: as `stands` says of their key, else as the records are."""
        self.ledger.append(f"now {' '.join(change.key[0] for change in changes)}")
        return [self._now(change, scope) for change in changes]

    def _now(self, change: Change, scope: Scope) -> Now:
        told = self.stands.get(change.key[0])
        if isinstance(told, list):
            told = told.pop(0) if len(told) > 1 else told[0]
        if isinstance(told, BaseException):
            raise told
        if told is not None:
            return Now(state=told, id=7, ids=(7, 8) if told == "many" else (7,))
        kept = self.records.get((change.resource, scope.name), [])
        found = [record for record in kept if record["name"] == change.key[0]]
        return Now(state="after", id=found[0]["id"]) if found else Now(state="absent")


def translate(line: bytes) -> tuple[tuple[str, ...], Any, Mapping[str, Any]]:
    record = json.loads(line)
    return (record["name"],), record["id"], record


def system(*, settle_s: float = 5, **limits: Any) -> System:
    resource = {"key": ["name"], "settle_s": settle_s}
    return System.model_validate(
        {
            "version": 1,
            "system": "zoo",
            "limits": {"sequential": True, **limits},
            "resources": {"pets": resource, "cages": resource},
        }
    )


_open: list[Journal] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


class Bench:
    """A plan, its journal and a zoo; apply as often as you like."""

    def __init__(self, folder: Path, lines: Iterable[Line], zoo: Zoo, **plan: Any) -> None:
        self.zoo = zoo
        self.journal = Journal.create(folder / "run", make_plan(folder, lines, **plan), run_id="r1")
        _open.append(self.journal)
        self.plan = self.journal.plan
        zoo.journal = self.journal

    def apply(self, facts: System | None = None, **options: Any) -> RunResult:
        return asyncio.run(self.start(facts, **options))

    async def start(self, facts: System | None = None, **options: Any) -> RunResult:
        return await applying.apply(
            self.plan,
            self.journal,
            connectors={"zoo": self.zoo},
            systems={"zoo": facts or system()},
            translate={("zoo", "pets"): translate, ("zoo", "cages"): translate},
            **{"rules": Rules(drain_s=5, in_flight_s=0), **options},
        )

    def rows(self) -> dict[str, tuple[str, str]]:
        """key -> status, reason"""
        return {row.key[0]: (row.status, row.reason) for row in statuses(self.plan, self.journal)}


def test_every_row_ends_in_one_status(tmp_path: Path) -> None:
    """Every row of the source, and every delete, ends in exactly one status."""
    bench = Bench(
        tmp_path,
        [
            change("create", "ant"),
            change("update", "bee"),
            change("create", "cat"),
            change("delete", "dog", wave=1),
            finding("skip", "DS-A", 7, key=["elk"]),
            finding("error", "DS-B", 7, key=["elk"]),
            finding("skip", "DS-A", 8, key=["fox"]),
            finding("warn", "DS-C", 9, key=["gnu"]),
            finding("warn", "DS-D", None),
        ],
        Zoo({"cat": REFUSED}),
        unchanged=5,
    )
    # The tallies count row 7 once, as the planner does: its worst finding decides.
    (tally,) = bench.plan.tallies
    bench.plan = replace(bench.plan, tallies=(replace(tally, skip=1, error=1),))
    run = bench.apply()
    assert bench.rows() == {
        "ant": ("CREATED", ""),
        "bee": ("UPDATED", ""),
        "cat": ("ERROR", "no such colour"),
        "dog": ("DELETED", ""),
        "elk": ("ERROR", "it is bad; it is bad"),
        "fox": ("SKIP", "it is bad"),
    }
    assert {k: v for k, v in run.counts.items() if v} == {
        "CREATED": 1, "UPDATED": 1, "DELETED": 1, "UNCHANGED": 5, "SKIP": 1, "ERROR": 2,
    }  # fmt: skip
    assert (run.exit_code, run.calls, run.unknown, run.pending) == (4, 4, 0, 0)


def test_books_that_do_not_balance(tmp_path: Path) -> None:
    """Rows that do not add up are an error of ours, never a report that looks right."""
    bench = Bench(tmp_path, [change("create", "ant")], Zoo())
    (tally,) = bench.plan.tallies
    broken = replace(bench.plan, tallies=(replace(tally, rows=2),))
    with pytest.raises(RuntimeError, match="2 rows"):
        outcomes.result(broken, bench.journal)


def test_nothing_is_sent_that_is_not_in_the_journal_first(tmp_path: Path) -> None:
    """The intent of a call can be read from the journal while the call is made."""
    bench = Bench(tmp_path, [change("create", str(n)) for n in range(20)], Zoo())
    assert bench.apply(system(sequential=False, concurrency=5)).exit_code == 0
    assert len(bench.zoo.sent) == 20


def test_second_apply_sends_nothing(tmp_path: Path) -> None:
    """A finished run that is taken up again sends nothing and ends with the same code."""
    bench = Bench(
        tmp_path, [change("create", "ant"), change("create", "bee")], Zoo({"bee": REFUSED})
    )
    assert bench.apply().exit_code == 4
    assert bench.apply().exit_code == 4
    assert bench.zoo.ledger == ["create pets ant", "create pets bee"]


def test_sequential(tmp_path: Path) -> None:
    """A sequential system has one call in flight in a scope; others as many as they allow."""
    for number, (facts, most) in enumerate(
        [
            (system(sequential=True, concurrency=4), 1),
            (system(sequential=False, concurrency=4), 4),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        bench = Bench(folder, [change("create", str(n)) for n in range(12)], Zoo())
        bench.apply(facts)
        assert bench.zoo.most_in_flight == most


def test_scopes_side_by_side(tmp_path: Path) -> None:
    """Scopes run side by side, as many as the system or the user allows."""
    names = [f"node{n}" for n in range(6)]
    lines = [change("create", str(n), scope=name) for name in names for n in range(3)]
    for number, (concurrency, most) in enumerate([(None, 4), (2, 2), (99, 4)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        scopes = [Scope(name=name) for name in names]
        bench = Bench(folder, lines, Zoo(), scopes=scopes)
        run = bench.apply(system(concurrency=4), concurrency=concurrency)
        assert run.counts["CREATED"] == 18
        assert bench.zoo.most_in_flight == most


def test_waves(tmp_path: Path) -> None:
    """All of a wave end before the next begins, in each scope; deletes come last."""
    lines = [
        *[change("create", f"cage{n}", profile="cages", resource="cages") for n in range(4)],
        *[change("create", f"pet{n}", wave=1) for n in range(4)],
        *[change("delete", f"old{n}", wave=3) for n in range(2)],
        change("delete", "oldcage", wave=4, profile="cages", resource="cages"),
    ]
    # The order is the waves', whatever the order of the lines.
    bench = Bench(tmp_path, reversed(lines), Zoo())
    bench.apply(system(sequential=False, concurrency=8))
    kinds = [" ".join(line.split()[:2]) for line in bench.zoo.ledger]
    assert kinds == ["create cages"] * 4 + ["create pets"] * 4 + ["delete pets"] * 2 + [
        "delete cages"
    ]


# --- references

CHAIN: list[Line] = [
    change("create", "big", profile="cages", resource="cages"),
    change(
        "create", "ant", wave=1,
        payload={
            "name": "ant",
            "cage": reference("cages", "big"),
            "cages": [reference("cages", "big"), 7],
            "label": f"in {reference('cages', 'big')} by {reference('cages', 'big', 'name')}",
        },
    ),
    change("create", "bee", wave=1),
    change("create", "cub", wave=2, payload={"name": "cub", "mother": reference("pets", "ant")}),
]  # fmt: skip


def test_references_are_filled(tmp_path: Path) -> None:
    """A reference becomes the id of the record that the same run created, in its own type."""
    bench = Bench(tmp_path, CHAIN, Zoo())
    assert bench.apply().exit_code == 0
    payloads = {sent.key[0]: sent.payload for sent in bench.zoo.sent}
    assert payloads["ant"] == {
        "name": "ant", "cage": 100, "cages": [100, 7], "label": "in 100 by big",
    }  # fmt: skip
    assert payloads["cub"] == {"name": "cub", "mother": 100}
    # An id is known from the answer; any other field is read from the listing.
    assert [line for line in bench.zoo.ledger if line.startswith("fetch")] == ["fetch cages"]


def test_ids_that_answers_do_not_tell(tmp_path: Path) -> None:
    """Ids that no answer told are found in the listing by key, and only when they are needed."""
    bench = Bench(tmp_path, CHAIN, Zoo(tells_id=False))
    assert bench.apply().exit_code == 0
    assert bench.zoo.sent[1].payload is not None
    assert bench.zoo.sent[1].payload["cage"] == 100
    assert bench.zoo.ledger == [
        "create cages big", "refresh cages", "fetch cages", "create pets ant", "create pets bee",
        "refresh pets", "fetch pets", "create pets cub",
    ]  # fmt: skip
    ids = {row.key[0]: row.id for row in statuses(bench.plan, bench.journal)}
    assert ids == {"big": 100, "ant": 100, "bee": None, "cub": None}


def test_listing_that_lags(tmp_path: Path) -> None:
    """A new record that is not in the listing yet is asked for again until it has had its time."""
    bench = Bench(tmp_path, CHAIN[:2], Zoo(tells_id=False, stale=1))
    assert bench.apply().exit_code == 0
    assert bench.zoo.ledger.count("fetch cages") == 2


def test_id_that_never_appears(tmp_path: Path) -> None:
    """A change whose reference stays without a value is an error; a resume tries it again."""
    bench = Bench(tmp_path, CHAIN, Zoo(tells_id=False, stale=10**6))
    facts = system(settle_s=0)
    run = bench.apply(facts)
    assert bench.rows()["ant"][0] == "ERROR"
    assert "whose id is not known" in bench.rows()["ant"][1]
    assert bench.rows()["bee"] == ("CREATED", "")
    assert bench.rows()["cub"] == ("SKIP", "depends on pets ant, which failed")
    assert run.exit_code == 4
    bench.zoo.stale = 0
    assert bench.apply(facts).exit_code == 0
    assert bench.zoo.ledger.count("create cages big") == 1


def test_a_failed_record_takes_its_dependents_with_it(tmp_path: Path) -> None:
    """A failed record blocks its dependents, and theirs; the others go on."""
    bench = Bench(tmp_path, CHAIN, Zoo({"big": REFUSED}))
    run = bench.apply()
    assert bench.rows() == {
        "big": ("ERROR", "no such colour"),
        "ant": ("SKIP", "depends on cages big, which failed"),
        "bee": ("CREATED", ""),
        "cub": ("SKIP", "depends on pets ant, which failed"),
    }
    assert run.exit_code == 4
    assert bench.zoo.ledger == ["create cages big", "create pets bee"]


def test_needs(tmp_path: Path) -> None:
    """A change that names another record in plain words waits for it all the same."""
    needs = [["cages", ["big"]]]
    lines = [
        change("create", "big", profile="cages", resource="cages"),
        change("create", "ant", wave=1, payload={"name": "ant", "cage": "big"}, needs=needs),
        change("create", "bee", wave=1),
        change("create", "cub", wave=2, needs=[["pets", ["ant"]]]),
    ]
    for answer, expected in (
        (ACKED, {"CREATED"}),
        (REFUSED, {"CREATED", "ERROR", "SKIP"}),
    ):
        folder = tmp_path / answer.state
        folder.mkdir()
        bench = Bench(folder, lines, Zoo({"big": answer}, tells_id=False))
        bench.apply()
        assert {status for status, _ in bench.rows().values()} == expected
        assert "fetch cages" not in bench.zoo.ledger
    assert bench.rows()["ant"] == ("SKIP", "depends on cages big, which failed")
    assert bench.zoo.ledger == ["create cages big", "create pets bee"]


def test_keys_without_case(tmp_path: Path) -> None:
    """Where the API compares keys without case, a new record is found under its own spelling."""

    class Shouting(Zoo):
        async def fetch(self, resource: str, scope: Scope) -> AsyncIterator[Page]:
            yield Page(ndjson=b'{"id": 7, "name": "BIG"}\n', count=1)

    facts = system()
    resources = {k: r.model_copy(update={"caseless_key": True}) for k, r in facts.resources.items()}
    bench = Bench(tmp_path, CHAIN[:2], Shouting(tells_id=False))
    assert bench.apply(facts.model_copy(update={"resources": resources})).exit_code == 0
    assert bench.zoo.sent[1].payload is not None
    assert bench.zoo.sent[1].payload["cage"] == 7


def test_references_stay_in_their_scope(tmp_path: Path) -> None:
    """A reference is filled from the same scope, whatever another scope created under that key."""
    lines = [
        change("create", "x", scope="a"),
        change("create", "big", scope="a", profile="cages", resource="cages"),
        change("create", "other", scope="b", profile="cages", resource="cages"),
        change("create", "big", scope="b", profile="cages", resource="cages"),
        *[
            change("create", "ant", scope=s, wave=1,
                   payload={"name": "ant", "cage": reference("cages", "big")})
            for s in "ab"
        ],
    ]  # fmt: skip
    bench = Bench(tmp_path, lines, Zoo(), scopes=[Scope(name="a"), Scope(name="b")])
    assert bench.apply().exit_code == 0
    cages = {
        sent.scope: sent.payload["cage"]
        for sent in bench.zoo.sent
        if sent.key == ("ant",) and sent.payload
    }
    assert cages == {"a": 100, "b": 101}


def test_two_records_with_the_key(tmp_path: Path) -> None:
    """When the listing has two records with the key, none of them is taken."""
    zoo = Zoo(tells_id=False)
    zoo.records["cages", ""] = [{"id": 1, "name": "big"}]
    bench = Bench(tmp_path, CHAIN[:2], zoo)
    assert bench.apply().exit_code == 4
    assert "of which there are two" in bench.rows()["ant"][1]


def test_unreadable_reference(tmp_path: Path) -> None:
    """A reference that is none is an exception of that row, not of the run."""
    lines = [
        change("create", "ant", payload={"name": "\ue000oops\ue001"}),
        change("create", "bee"),
    ]
    bench = Bench(tmp_path, lines, Zoo())
    assert bench.apply().exit_code == 4
    assert bench.rows()["ant"][0] == "EXCEPTION"
    assert bench.zoo.ledger == ["create pets bee"]


# --- what can go wrong


def test_unknown_is_never_sent_again(tmp_path: Path) -> None:
    """A create whose answer was lost is not sent again before it is known to be absent."""
    bench = Bench(tmp_path, [change("create", "ant"), change("create", "bee")], Zoo({"ant": LOST}))
    for _ in range(2):
        run = bench.apply()
        assert (run.exit_code, run.unknown) == (5, 1)
        assert bench.rows()["ant"] == ("ERROR", "outcome unknown: no answer in 60 s")
    assert bench.zoo.ledger == ["create pets ant", "create pets bee"]


def test_dependents_of_an_unknown_wait(tmp_path: Path) -> None:
    """What depends on a record of which nobody knows is not sent."""
    bench = Bench(tmp_path, CHAIN, Zoo({"big": LOST}))
    assert bench.apply().exit_code == 5
    assert bench.rows()["ant"] == ("SKIP", "depends on cages big, whose outcome is unknown")


def test_resume_takes_up_what_was_not_sent(tmp_path: Path) -> None:
    """What surely did not leave is sent by the next process of the run, as its next attempt."""
    bench = Bench(tmp_path, CHAIN, Zoo({"big": UNREACHED}))
    assert bench.apply().exit_code == 4
    bench.zoo.answers = {}
    assert bench.apply().exit_code == 0
    assert bench.zoo.ledger.count("create cages big") == 2
    assert bench.zoo.ledger.count("create pets bee") == 1
    state = bench.journal.state(op_id("r1", next(bench.plan.changes())))
    assert state is not None
    assert state.attempt == 2


def test_unauthorized_stops(tmp_path: Path) -> None:
    """When the API does not let us, nothing more is sent, and the rest is told as not started."""
    error = Unauthorized("the token is refused", code="DS-AUTH-401")
    lines = [change("create", name) for name in ("ant", "bee", "cat")]
    bench = Bench(tmp_path, lines, Zoo({"bee": error}))
    run = bench.apply()
    assert (run.exit_code, run.stopped, run.pending) == (9, "the token is refused", 1)
    assert bench.rows()["bee"] == ("ERROR", "the token is refused")
    assert bench.rows()["cat"] == ("SKIP", "not started: the run has stopped")
    bench.zoo.answers = {}
    assert bench.apply().exit_code == 0
    assert bench.zoo.ledger == [
        "create pets ant", "create pets bee", "create pets bee", "create pets cat",
    ]  # fmt: skip


def test_unauthorized_while_a_job_is_followed(tmp_path: Path) -> None:
    """A job that was accepted stays open, even if we are not let in any more."""

    async def accepted(log: CallLog) -> Any:
        log.accepted("orders/1")
        return Unauthorized("the token is refused", code="DS-AUTH-401")

    bench = Bench(tmp_path, [change("create", "ant")], Zoo({"ant": accepted}))
    run = bench.apply()
    assert (run.exit_code, run.open_jobs, run.unknown) == (9, 1, 0)
    state = bench.journal.state(op_id("r1", next(bench.plan.changes())))
    assert state is not None
    assert state.job == "orders/1"


def test_unexpected_error_is_one_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An error nobody thought of is that row's exception; its text stays out of the report."""
    lines = [change("create", "ant"), change("create", "bee")]
    bench = Bench(tmp_path, lines, Zoo({"ant": ZeroDivisionError("hunter2")}))
    assert bench.apply().exit_code == 5
    assert bench.rows()["ant"][0] == "EXCEPTION"
    assert "ZeroDivisionError" in bench.rows()["ant"][1]
    assert "hunter2" not in bench.rows()["ant"][1]
    assert bench.rows()["bee"] == ("CREATED", "")


@pytest.mark.parametrize(("answer", "code"), [(UNREACHED, 10), (LOST, 5)])
def test_an_api_that_is_gone(tmp_path: Path, answer: Outcome, code: int) -> None:
    """After some calls in a row without a clear answer, the rest is not even tried."""
    bench = Bench(tmp_path, [change("create", str(n)) for n in range(50)],
                  Zoo({str(n): answer for n in range(3, 50)}))  # fmt: skip
    run = bench.apply()
    assert run.exit_code == code
    assert len(bench.zoo.ledger) == (8 if code == 10 else 7)
    assert run.stopped
    assert run.pending == (42 if code == 10 else 43)


def test_single_faults_do_not_stop(tmp_path: Path) -> None:
    """One bad row never stops the rest, however many there are."""
    answers = {str(n): REFUSED if n % 3 else UNREACHED for n in range(30)}
    bench = Bench(tmp_path, [change("create", str(n)) for n in range(40)], Zoo(answers))
    run = bench.apply()
    assert (run.exit_code, run.counts["ERROR"], run.counts["CREATED"]) == (4, 30, 10)


def test_stop_drains(tmp_path: Path) -> None:
    """When told to stop, calls in flight end, no other begins, and a resume does the rest."""
    stop = asyncio.Event()

    async def slow(_log: CallLog) -> Outcome:
        stop.set()
        await asyncio.sleep(0.01)
        return ACKED

    bench = Bench(tmp_path, [change("create", str(n)) for n in range(9)], Zoo({"3": slow}))
    run = bench.apply(stop=stop)
    assert (run.exit_code, run.pending, run.unknown) == (3, 5, 0)
    assert bench.rows()["3"] == ("CREATED", "")
    run = bench.apply()
    assert (run.exit_code, run.pending, run.counts["CREATED"]) == (0, 0, 9)
    assert len(bench.zoo.ledger) == 9


def test_stop_while_others_wait_for_their_turn(tmp_path: Path) -> None:
    """A change that was waiting for a free call when the stop came is not begun."""
    stop = asyncio.Event()

    async def first(_log: CallLog) -> Outcome:
        stop.set()
        return ACKED

    lines = [change("create", f"{name}{n}", scope=name) for name in "ab" for n in range(4)]
    zoo = Zoo(dict.fromkeys((line["key"][0] for line in lines), first))
    bench = Bench(tmp_path, lines, zoo, scopes=[Scope(name="a"), Scope(name="b")])
    run = bench.apply(system(sequential=False, concurrency=2), stop=stop)
    assert (run.exit_code, run.pending) == (3, 6)
    assert len(zoo.ledger) == 2


def test_stop_after_the_last_call(tmp_path: Path) -> None:
    """A stop that finds nothing left to stop is no stop."""
    stop = asyncio.Event()

    async def last(_log: CallLog) -> Outcome:
        stop.set()
        return ACKED

    bench = Bench(tmp_path, [change("create", "ant")], Zoo({"ant": last}))
    assert bench.apply(stop=stop).exit_code == 0


def test_cancel_keeps_what_is_known(tmp_path: Path) -> None:
    """A run that is cancelled in the middle of a call knows of it: it is unknown, not lost."""

    reached = asyncio.Event()

    async def endless(_log: CallLog) -> Outcome:
        reached.set()
        await asyncio.sleep(3600)
        return ACKED

    bench = Bench(tmp_path, [change("create", name) for name in "abc"], Zoo({"b": endless}))

    async def cancelled() -> None:
        task = asyncio.create_task(bench.start())
        await asyncio.wait_for(reached.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    run = outcomes.result(bench.plan, bench.journal)
    assert (run.exit_code, run.unknown, run.pending) == (5, 1, 1)
    assert bench.rows()["a"] == ("CREATED", "")


def test_journal_that_fails_stops_everything(tmp_path: Path) -> None:
    """Nothing is sent after the journal could not take an intent; calls in flight still end."""
    bench = Bench(tmp_path, [change("create", str(n)) for n in range(9)], Zoo())
    bench.zoo.journal = None
    append, seen = bench.journal.append, []

    def full(*records: Record) -> None:
        seen.extend(records)
        if sum(record.kind == "intent" for record in seen) > 3:
            raise StorageFault("the disk is full", code="DS-STORE-WRITE")
        append(*records)

    bench.journal.append = full  # type: ignore[method-assign]
    with pytest.raises(StorageFault, match="full"):
        bench.apply()
    assert len(bench.zoo.ledger) == 3


def test_progress(tmp_path: Path) -> None:
    """Each change is told once, with how many of how many are done."""
    heard: list[Event] = []
    bench = Bench(tmp_path, CHAIN, Zoo({"big": REFUSED}))
    bench.apply(on_event=heard.append)
    assert [(event.done, event.total) for event in heard] == [(n, 4) for n in (1, 2, 3, 4)]
    assert {event.phase for event in heard} == {"apply"}
    assert heard[0].outcome == REFUSED


def test_listener_that_fails(tmp_path: Path) -> None:
    """A listener that went away does not stop the work."""

    def gone(_event: Event) -> None:
        raise BrokenPipeError

    bench = Bench(tmp_path, [change("create", "ant"), change("create", "bee")], Zoo())
    assert bench.apply(on_event=gone).exit_code == 0


# --- what is not clear is read back

BUSY = Outcome(state="rejected", status=409, code="DS-CONFLICT", message="there is one")
FAILED_JOB = Outcome(state="rejected", code="DS-JOB-FAILED", message="no", job="orders/1")
DONE_JOB = Outcome(state="acked", job="orders/1", id=7)
FOUND = "found done when it was read back"
NEITHER = "the record is neither as before nor as wanted"


@pytest.mark.parametrize(
    ("action", "answer", "stands", "row", "code", "looks", "sends"),
    [
        ("create", LOST, "after", ("CREATED", FOUND), 0, 1, 1),
        ("create", LOST, "absent", ("ERROR", "it had no effect: no answer in 60 s"), 4, 6, 2),
        ("create", LOST, ["absent", "after"], ("CREATED", FOUND), 0, 2, 1),
        ("create", LOST, ["absent", "absent", "after"], ("CREATED", FOUND), 0, 3, 1),
        ("create", LOST, "other", ("ERROR", NEITHER), 5, 3, 1),
        ("create", LOST, "many", ("ERROR", "2 records have this key, ids 7, 8"), 5, 1, 1),
        ("update", LOST, "after", ("UPDATED", FOUND), 0, 1, 1),
        ("update", LOST, "before", ("ERROR", "it had no effect: no answer in 60 s"), 4, 12, 4),
        ("update", LOST, "absent", ("ERROR", "the record is gone"), 5, 3, 1),
        ("update", LOST, "other", ("ERROR", NEITHER), 5, 3, 1),
        ("delete", LOST, "absent", ("DELETED", FOUND), 0, 1, 1),
        ("delete", LOST, "before", ("ERROR", "it had no effect: no answer in 60 s"), 4, 12, 4),
        ("delete", LOST, "other", ("ERROR", NEITHER), 5, 3, 1),
        ("create", BUSY, "after", ("CREATED", FOUND), 0, 1, 1),
        ("create", BUSY, "other", ("ERROR", "there is one"), 4, 1, 1),
        ("create", BUSY, "absent", ("ERROR", "there is one"), 4, 1, 1),
        ("update", FAILED_JOB, "after", ("UPDATED", FOUND), 0, 1, 1),
        ("update", FAILED_JOB, "before", ("ERROR", "no"), 4, 3, 1),
        ("update", FAILED_JOB, ["before", "after"], ("UPDATED", FOUND), 0, 2, 1),
        ("update", FAILED_JOB, "other", ("ERROR", "half of it may be done"), 5, 1, 1),
        ("create", DONE_JOB, "after", ("CREATED", ""), 0, 1, 1),
        ("create", DONE_JOB, ["absent", "after"], ("CREATED", ""), 0, 2, 1),
        ("create", DONE_JOB, "absent",
         ("ERROR", "the job says that it is done, and the record is not there"), 4, 3, 1),
        ("update", DONE_JOB, "before", ("UPDATED", ""), 0, 0, 1),
        ("create", REFUSED, "after", ("ERROR", "no such colour"), 4, 0, 1),
    ],
)  # fmt: skip
def test_read_back(
    tmp_path: Path, action: str, answer: Outcome, stands: Any, row: tuple[str, str], code: int,
    looks: int, sends: int,
) -> None:  # fmt: skip
    """What an unclear answer comes to, by how the record is found; nothing has happened is only
    believed twice, and only then it is sent again."""
    zoo = Zoo({"ant": answer})
    zoo.stands["ant"] = stands
    bench = Bench(tmp_path, [change(action, "ant")], zoo)
    run = bench.apply(system(settle_s=0), read_back=zoo)
    assert bench.rows()["ant"] == row
    assert run.exit_code == code
    assert [line.split()[0] for line in zoo.ledger].count("now") == looks
    assert len(zoo.sent) == sends
    assert bench.journal.breaches() == []
    assert bench.journal.damage() == ""


def test_settled_before_it_is_too_much(tmp_path: Path) -> None:
    """When more than three are unknown the run stops to find out, and then goes on."""
    answers = {str(n): [LOST] for n in range(12)}

    def once(key: str) -> Any:
        async def answer(_log: CallLog) -> Outcome:
            return answers[key].pop() if answers[key] else ACKED

        return answer

    zoo = Zoo({key: once(key) for key in answers})
    bench = Bench(tmp_path, [change("create", str(n)) for n in range(20)], zoo)
    run = bench.apply(system(settle_s=0), read_back=zoo)
    assert (run.exit_code, run.counts["CREATED"]) == (0, 20)
    looks = [line for line in zoo.ledger if line.startswith("now")]
    assert looks[0] == "now 0 1 2 3"
    assert len(zoo.sent) == 32
    assert bench.journal.breaches() == []


def test_nothing_can_be_read_back(tmp_path: Path) -> None:
    """When what became of a call cannot be found out, the run stops; a later look settles it."""
    zoo = Zoo({"ant": LOST})
    zoo.stands["ant"] = [Unavailable("no listing", code="DS-HTTP-5XX"), "after"]
    bench = Bench(tmp_path, [change("create", "ant"), change("create", "bee", wave=1)], zoo)
    run = bench.apply(system(settle_s=0), read_back=zoo)
    assert (run.exit_code, run.unknown, run.pending) == (5, 1, 1)
    assert "no listing" in run.stopped
    run = bench.apply(system(settle_s=0), read_back=zoo, settle_only=True)
    assert (run.exit_code, run.unknown, run.pending) == (3, 0, 1)
    assert len(zoo.sent) == 1
    assert bench.apply(system(settle_s=0), read_back=zoo).exit_code == 0
    assert [sent.key[0] for sent in zoo.sent] == ["ant", "bee"]


def test_waits_for_the_api_to_end(tmp_path: Path) -> None:
    """That nothing has happened is not believed before the API has surely ended with the call."""
    zoo = Zoo({"ant": LOST})
    bench = Bench(tmp_path, [change("create", "ant")], zoo)
    began = time.monotonic()
    bench.apply(system(settle_s=0.2, in_flight_s=0.3), read_back=zoo)
    assert time.monotonic() - began > 2 * (0.3 + 0.2) * 0.9


# --- what the simulation has found


def test_a_power_cut_may_take_the_last_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark that a power cut took is no damage; one that is gone without a new start is."""
    bench = Bench(tmp_path, [change("create", "ant")], Zoo())
    op = op_id("r1", next(bench.plan.changes()))
    bench.journal.append(Record.start(), Record.intent(op, 1))
    shutil.copytree(tmp_path / "run", tmp_path / "cut")
    bench.journal.mark(Record.sent(op, 1))
    shutil.copy(tmp_path / "run" / "journal.head", tmp_path / "cut" / "journal.head")
    with pytest.raises(StorageFault, match="the events 3 to 3 are missing"):
        Journal.open(tmp_path / "cut")
    monkeypatch.setattr(journals, "boot_id", lambda: "another")
    with Journal.open(tmp_path / "cut") as book:
        state = book.state(op)
        assert state is not None
        assert state.is_unknown


def test_verified_after_another_start_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that was proved not to have left stays proved when the machine is started anew."""
    bench = Bench(tmp_path, [change("create", "ant")], Zoo())
    op = op_id("r1", next(bench.plan.changes()))
    for attempt in (1, 2):
        bench.journal.append(Record.start(), Record.intent(op, attempt))
    bench.journal.append(Record.outcome(op, 2, ACKED))
    bench.journal.close()
    monkeypatch.setattr(journals, "boot_id", lambda: "another")
    with Journal.open(tmp_path / "run") as book:
        assert book.breaches() == []


def test_attempts_go_on(tmp_path: Path) -> None:
    """A change that could not be sent for want of an id goes on with its next attempt."""
    bench = Bench(tmp_path, CHAIN[:2], Zoo({"ant": UNREACHED}))
    facts = system(settle_s=0)
    assert bench.apply(facts).exit_code == 4
    bench.zoo.stale = 10**6
    assert bench.apply(facts).exit_code == 4
    assert "whose id is not known" in bench.rows()["ant"][1]
    bench.zoo.answers, bench.zoo.stale = {}, 0
    assert bench.apply(facts).exit_code == 0
    assert bench.journal.breaches() == []


def test_each_change_counts_once(tmp_path: Path) -> None:
    """A change that is sent again, or was followed first, is not two in the progress."""

    async def accepted(log: CallLog) -> Outcome:
        log.accepted("orders/1")
        return Outcome(state="accepted", job="orders/1")

    heard: list[Event] = []
    zoo = Zoo({"ant": LOST, "bee": accepted})
    bench = Bench(tmp_path, [change("create", name) for name in ("ant", "bee", "cat")], zoo)
    bench.apply(system(settle_s=0), read_back=zoo, on_event=heard.append)
    bench.apply(system(settle_s=0), read_back=zoo, on_event=heard.append)
    assert max(event.done for event in heard) == 3


@pytest.mark.parametrize(
    ("stands", "row"),
    [
        ("after", ("CREATED", "")),
        ("absent", ("ERROR", "the job says that it is done, and the record is not there")),
    ],
)
def test_a_resumed_run_proves_what_jobs_say(
    tmp_path: Path, stands: str, row: tuple[str, str]
) -> None:
    """A job's word that was not proved when the process died is proved by the next one, once."""
    zoo = Zoo({"ant": DONE_JOB})
    zoo.stands["ant"] = stands
    bench = Bench(tmp_path, [change("create", "ant")], zoo)
    assert bench.apply(system(settle_s=0)).exit_code == 0
    bench.apply(system(settle_s=0), read_back=zoo)
    assert bench.rows()["ant"] == row
    zoo.ledger.clear()
    bench.apply(system(settle_s=0), read_back=zoo)
    assert zoo.ledger == []
    assert bench.journal.breaches() == []


@pytest.mark.parametrize("end", ["stop", "unauthorized", "throttled", "refused"])
def test_an_unclear_attempt_stays_unknown(tmp_path: Path, end: str) -> None:
    """An attempt that may have had its effect is not forgotten when no other one follows it."""
    stop = asyncio.Event()

    async def again(log: CallLog) -> Any:
        await log.again(LOST, "the same idempotency key")
        if end == "stop":
            stop.set()
        await log.intent("")
        log.sent()
        if end == "refused":
            return REFUSED
        if end == "throttled":
            await log.again(Outcome(state="not_sent", status=429), "refused for now (429)")
            stop.set()
            await log.intent("")
        return Unauthorized("the token is refused", code="DS-AUTH-401")

    bench = Bench(tmp_path, [change("create", "ant")], Zoo({"ant": again}))
    run = bench.apply(stop=stop)
    assert (run.exit_code, run.unknown) == (5, 1)
    assert bench.journal.breaches() == []


def test_an_unclear_attempt_before_one_that_did_not_leave(tmp_path: Path) -> None:
    """That the second attempt did not leave says nothing of the first."""
    bench = Bench(tmp_path, [change("create", "ant")], Zoo())
    op = op_id("r1", next(bench.plan.changes()))
    retried = Outcome(state="not_sent", code=journals.RETRIED)
    bench.journal.append(Record.start(), Record.intent(op, 1), Record.sent(op, 1),
                         Record.outcome(op, 1, LOST), Record.resolve(op, 1, retried, "same key"),
                         Record.intent(op, 2))  # fmt: skip
    bench.journal.close()
    with Journal.open(tmp_path / "run") as book:
        state = book.state(op)
        assert state is not None
        assert state.is_unknown


def test_nonsense_is_unclear(tmp_path: Path) -> None:
    """An answer that nobody understands does not prove that nothing was done."""
    breach = ContractBreach("it answers nonsense", code="DS-HTTP-JSON")
    bench = Bench(tmp_path, [change("create", "ant")], Zoo({"ant": breach}))
    assert bench.apply().exit_code == 5


def test_what_waited_for_an_unknown_is_left_to_do(tmp_path: Path) -> None:
    """When a record is found done, what depends on it is not done, and the code says so."""
    zoo = Zoo({"big": LOST})
    zoo.stands["big"] = "after"
    bench = Bench(tmp_path, CHAIN, zoo)
    assert bench.apply(system(settle_s=0)).exit_code == 5
    facts = system(settle_s=0)
    assert bench.apply(facts, read_back=zoo, settle_only=True).exit_code == 3
    zoo.records["cages", ""] = [{"id": 7, "name": "big"}]
    assert bench.apply(facts, read_back=zoo).exit_code == 0


def test_a_job_is_not_lost_with_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that the journal could not take is kept elsewhere, and followed by the next process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    async def accepted(log: CallLog) -> Outcome:
        bench.journal._db.execute("PRAGMA query_only=1")
        log.accepted("orders/1")
        return ACKED

    zoo = Zoo({"ant": accepted})
    bench = Bench(tmp_path, [change("create", "ant")], zoo)
    with pytest.raises(StorageFault) as caught:
        bench.apply()
    kept = tmp_path / "dsync-emergency-r1.jsonl"
    assert str(kept) in str(caught.value.hint)
    bench.journal.close()
    with Journal.open(tmp_path / "run") as book:
        assert book.bring_back(kept) == 1
        bench.journal = zoo.journal = book
        assert bench.apply().exit_code == 0
    assert "follow orders/1" in zoo.ledger


def test_no_fault_of_the_journal_hangs_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of a kind that nobody thought of ends the run as any other does."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    bench = Bench(tmp_path, [change("create", "ant")], Zoo())
    monkeypatch.setitem(failpoints._points, "outcome.before", (1, "raise"))
    with pytest.raises(StorageFault, match="failpoint"):
        bench.apply()


# --- what the plan rests on is old


@pytest.mark.parametrize(
    ("action", "stands", "status", "reason"),
    [
        ("create", "absent", "CREATED", ""),
        ("create", "after", "ERROR", "a record with this key is there now"),
        ("create", "other", "ERROR", "a record with this key is there now"),
        ("create", "many", "ERROR", "2 records have this key now"),
        ("update", "before", "UPDATED", ""),
        ("update", "after", "UPDATED", "is so already"),
        ("update", "absent", "ERROR", "the record is gone"),
        ("update", "other", "ERROR", "the record is not as it was when this was planned"),
        ("delete", "before", "DELETED", ""),
        ("delete", "absent", "DELETED", "already absent"),
        ("delete", "other", "ERROR", "the record is not as it was when this was planned"),
    ],
)
def test_old_plans(tmp_path: Path, action: str, stands: str, status: str, reason: str) -> None:
    """Where a plan is old each change is compared once more; what does not fit is not sent."""
    zoo = Zoo()
    zoo.stands["ant"] = stands
    bench = Bench(tmp_path, [change(action, "ant")], zoo)
    run = bench.apply(age_s=3600, read_back=zoo)
    assert bench.rows()["ant"] == (status, reason)
    assert run.stale == (status == "ERROR")
    assert len(zoo.sent) == (not reason)
    assert bench.journal.breaches() == []


def test_old_plans_wave_by_wave(tmp_path: Path) -> None:
    """What an earlier wave was compared by says nothing of a later one: both are compared."""
    zoo = Zoo()
    zoo.stands["wasp"] = "other"
    bench = Bench(tmp_path, [change("create", "ant"), change("delete", "wasp", wave=1)], zoo)
    run = bench.apply(age_s=3600, read_back=zoo)
    assert (run.stale, bench.rows()["wasp"][0]) == (1, "ERROR")
    assert zoo.ledger == ["now ant", "create pets ant", "now wasp"]


def test_young_plans_are_not_compared_again(tmp_path: Path) -> None:
    """A plan that was made a moment ago costs no further listing."""
    zoo = Zoo()
    bench = Bench(tmp_path, [change("create", "ant")], zoo)
    assert bench.apply(age_s=1, read_back=zoo).exit_code == 0
    assert zoo.ledger == ["create pets ant"]


def test_too_much_is_stale(tmp_path: Path) -> None:
    """When a tenth of the records is not as planned, nothing is sent: plan again."""
    zoo = Zoo()
    zoo.stands |= {str(n): "other" for n in range(4)}
    bench = Bench(tmp_path, [change("create", str(n)) for n in range(20)], zoo)
    run = bench.apply(age_s=3600, read_back=zoo)
    assert (run.exit_code, run.stale) == (7, 4)
    assert not zoo.sent


def test_many_failures_stop(tmp_path: Path) -> None:
    """When most of it is refused, the rest is not tried; single refusals never stop a run."""
    answers = {str(n): REFUSED for n in range(60)}
    bench = Bench(tmp_path, [change("create", str(n)) for n in range(80)], Zoo(answers))
    run = bench.apply()
    assert (run.exit_code, run.pending, run.counts["ERROR"]) == (4, 30, 50)


def test_long_waits_end_the_run(tmp_path: Path) -> None:
    """When the API asks for more patience than a run has, it stops and can be resumed."""
    wait = Unavailable("the API asks to wait until noon", code="DS-PACE-WAIT")

    async def refused(log: CallLog) -> Any:
        await log.again(Outcome(state="not_sent", status=429, code="DS-HTTP-THROTTLED"), "429")
        return wait

    bench = Bench(tmp_path, [change("create", name) for name in "abc"], Zoo({"b": refused}))
    run = bench.apply()
    assert (run.exit_code, run.stopped) == (3, "the API asks to wait until noon")
    bench.zoo.answers = {}
    assert bench.apply().exit_code == 0
    assert bench.journal.breaches() == []


# --- plans that do not fit


def test_plan_that_does_not_fit_its_header(tmp_path: Path) -> None:
    """A plan whose body is not what its header counts is refused before anything is sent."""
    bench = Bench(tmp_path, [change("create", "ant")], Zoo())
    (tally,) = bench.plan.tallies
    for tallies in ((), (replace(tally, create=2),), (replace(tally, create=0, update=1),)):
        bench.plan = replace(bench.plan, tallies=tallies)
        with pytest.raises(Stale, match="DS-PLAN-MISFIT"):
            bench.apply()
    bench.plan = replace(bench.plan, connections={})
    with pytest.raises(Stale, match="DS-PLAN-MISFIT"):
        bench.apply()
    assert bench.zoo.ledger == []


def test_connection_that_is_gone(tmp_path: Path) -> None:
    """A plan for a connection that is not configured any more is refused."""
    bench = Bench(tmp_path, [change("create", "ant")], Zoo(), connections={"pets": "farm"})
    with pytest.raises(Stale, match="DS-PLAN-CONNECTION"):
        bench.apply()


def test_two_profiles_one_record(tmp_path: Path) -> None:
    """Two profiles that both create one record are refused: one would pass for the other."""
    lines = [change("create", "ant"), change("create", "ant", profile="more")]
    bench = Bench(tmp_path, lines, Zoo())
    with pytest.raises(Invalid, match="DS-PLAN-CLASH"):
        bench.apply()
    folder = tmp_path / "fine"
    folder.mkdir()
    fine = Bench(folder, [change("create", "ant"), change("create", "bee", profile="more")], Zoo())
    assert fine.apply().exit_code == 0


def test_empty_plan(tmp_path: Path) -> None:
    """An empty plan sends nothing and ends well."""
    bench = Bench(tmp_path, [finding("warn", "DS-A", 3)], Zoo(), unchanged=3)
    run = bench.apply()
    assert (run.exit_code, run.calls, run.counts["UNCHANGED"]) == (0, 0, 3)
    assert run.duration_s >= 0


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({}, 0),
        ({"counts": {"ERROR": 1}}, 4),
        ({"counts": {"EXCEPTION": 1}}, 4),
        ({"counts": {"SKIP": 1}}, 0),
        ({"pending": 1}, 3),
        ({"pending": 1, "counts": {"ERROR": 1}}, 3),
        ({"stop": "interrupted", "pending": 1}, 3),
        ({"stop": "wait"}, 3),
        ({"open": 1}, 3),
        ({"skipped": 1}, 3),
        ({"skipped": 1, "counts": {"ERROR": 1}}, 4),
        ({"open": 1, "counts": {"ERROR": 1}}, 3),
        ({"stop": "failures", "pending": 1}, 4),
        ({"stop": "stale", "pending": 1}, 7),
        ({"stop": "unavailable", "pending": 1}, 10),
        ({"stop": "unauthorized", "pending": 1}, 9),
        ({"conflict": 1}, 5),
        ({"duplicate": 1, "stop": "unclear"}, 5),
        ({"unknown": 1, "stop": "unauthorized", "pending": 1, "counts": {"ERROR": 1}}, 5),
    ],
)
def test_exit_codes(facts: dict[str, Any], code: int) -> None:
    """The strongest of several reasons is the exit code."""
    states = dict(facts)
    counts, stop = states.pop("counts", {}), states.pop("stop", None)
    assert exit_code(counts, states, stop) == code


# --- a process that dies

KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[3].split(os.pathsep)
from dsync.journal import Journal, load_plan
from dsync.applying import apply
from dsync.model import Outcome
from test_applying import Zoo, system

class Deadly(Zoo):
    async def send(self, change, scope, *, log):
        if change.key[0] == "3":
            if sys.argv[4] != "wait":
                await log.intent("")
            if sys.argv[4] in ("call", "job"):
                log.sent()
            if sys.argv[4] == "job":
                log.accepted("orders/3")
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().send(change, scope, log=log)

plan = load_plan(Path(sys.argv[1]))
journal = Journal.create(Path(sys.argv[2]), plan, run_id="r1")
asyncio.run(apply(journal.plan, journal, connectors={"zoo": Deadly()}, systems={"zoo": system()}))
"""


@pytest.mark.integration
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("where", ["wait", "intent", "call", "job"])
def test_killed_in_a_call(tmp_path: Path, where: str) -> None:
    """After a SIGKILL a call that may have left is read back, one that has not is sent."""
    plan: Plan = make_plan(tmp_path, [change("create", str(n)) for n in range(6)])
    save_plan(plan, tmp_path / "a.plan")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    child = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "a.plan", tmp_path / "run", path, where],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    zoo = Zoo()
    if where == "job":
        zoo.records["pets", ""] = [{"id": 1, "name": "3"}]
    with Journal.open(tmp_path / "run") as journal:
        before = outcomes.result(journal.plan, journal)
        assert before.counts["CREATED"] == 3
        expected = {"wait": (3, 0, 0), "intent": (3, 0, 0), "call": (5, 1, 0), "job": (3, 0, 1)}
        assert (before.exit_code, before.unknown, before.open_jobs) == expected[where]
        after = asyncio.run(
            applying.apply(
                journal.plan, journal, connectors={"zoo": zoo}, systems={"zoo": system(settle_s=0)},
                read_back=zoo, rules=Rules(in_flight_s=0),
            )
        )  # fmt: skip
        assert journal.breaches() == []
    assert (after.exit_code, after.counts["CREATED"]) == (0, 6)
    sent = [line for line in zoo.ledger if line.startswith("create")]
    again = [] if where == "job" else ["create pets 3"]
    assert sent == [*again, "create pets 4", "create pets 5"]
    assert ("follow orders/3" in zoo.ledger) == (where == "job")
    assert ("now 3" in zoo.ledger) == (where in ("call", "job"))


def test_listing_that_fails(tmp_path: Path) -> None:
    """A listing that cannot be read costs the rows that needed it, with its reason."""

    class Mute(Zoo):
        async def refresh(self, resource: str, scope: Scope) -> None:
            raise Unavailable("the listing is gone", code="DS-HTTP-503")

    bench = Bench(tmp_path, CHAIN[:3], Mute(tells_id=False))
    assert bench.apply(system(settle_s=0)).exit_code == 4
    assert "the listing is gone" in bench.rows()["ant"][1]
    assert bench.rows()["bee"] == ("CREATED", "")


def test_tally_of_a_plan_is_its_own(tmp_path: Path) -> None:
    """The literal plans of these tests balance: rows are what the statuses add up to."""
    plan = make_plan(tmp_path, CHAIN, unchanged=2)
    assert plan.tallies[0] == Tally(
        profile="cages", system="zoo", resource="cages", rows=3, create=1, unchanged=2
    )
