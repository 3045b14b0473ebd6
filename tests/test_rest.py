"""The REST connector against emulators: real HTTP, every answer a write may get, all pagings."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import structlog

from call_logs import Kept
from dsync import emulators
from dsync.connectors import Halted
from dsync.connectors.rest import Rest
from dsync.emulators import Emulator
from dsync.errors import ContractBreach, DsyncError, Invalid, Unauthorized, Unavailable
from dsync.model import Change, Outcome, Scope
from dsync.system import System

pytestmark = pytest.mark.integration

T = TypeVar("T")


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Emulator]]:
    with emulators.start("plain") as plain, emulators.start("director") as director:
        yield {"plain": plain, "director": director}


@pytest.fixture
def plain(running: dict[str, Emulator]) -> Emulator:
    return fresh(running["plain"])


@pytest.fixture
def director(running: dict[str, Emulator]) -> Emulator:
    return fresh(running["director"])


def fresh(emulator: Emulator) -> Emulator:
    emulator.switches(dict.fromkeys(emulator.switches()))
    emulator.reset()
    return emulator


@dataclass
class Time:
    """The client's time: a sleep takes none, moves the emulator's clock on, and is noted."""

    emulator: Emulator
    offset_s: float = 0.0
    slept: list[float] = field(default_factory=list)

    def read(self) -> float:
        return time.monotonic() + self.offset_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 2))
        self.offset_s += seconds
        self.emulator.advance(seconds)
        await asyncio.sleep(0)


ONE = Scope()
JOBS = {
    "location": "job",
    "pattern": "jobs/j-[0-9]{6}",
    "success": "status == 'done'",
    "failure": "status == 'failed'",
    "error": "error",
    "id": "result.id",
}


def shop(**changes: Any) -> dict[str, Any]:
    """A system file for the plain emulator; `users` changes with `users__create` and so on."""
    users = {
        "key": ["name"],
        "list": {"path": "users", "records": "data"},
        "create": {"path": "users", "id": "id"},
        "update": {"path": "users/{id}"},
        "delete": {"path": "users/{id}"},
    }
    users |= {name.removeprefix("users__"): v for name, v in changes.items() if "__" in name}
    top = {name: value for name, value in changes.items() if "__" not in name}
    return {
        "version": 1,
        "system": "shop",
        "base_path": "api",
        **top,
        "resources": {"users": users},
    }


def rest(emulator: Emulator, system: Mapping[str, Any], **settings: Any) -> tuple[Rest, Time]:
    at = Time(emulator)
    given = {"base_url": emulator.url, "credentials": {}, "timeout_s": 5.0, **settings}
    model = System.model_validate(system)
    return Rest(model, clock=at.read, sleep=at.sleep, **given), at


def use(subject: Rest, work: Callable[[Rest], Awaitable[T]]) -> T:
    async def run() -> T:
        async with subject:
            return await work(subject)

    return asyncio.run(run())


def fetched(subject: Rest, resource: str = "users", scope: Scope = ONE) -> list[dict[str, Any]]:
    async def work(subject: Rest) -> list[dict[str, Any]]:
        lines: list[bytes] = []
        async for page in subject.fetch(resource, scope):
            assert page.ndjson.count(b"\n") == page.count
            lines += page.ndjson.splitlines()
        return [json.loads(line) for line in lines]

    return use(subject, work)


def change(action: str, **values: Any) -> Change:
    defaults: dict[str, Any] = {
        "profile": "p",
        "system": "shop",
        "resource": "users",
        "key": ("ann",),
        "id": None if action == "create" else 1,
        "payload": None if action == "delete" else {"name": "ann", "age": 7},
    }
    return Change(action=action, **{**defaults, **values})  # type: ignore[arg-type]


def sent(subject: Rest, what: Change, scope: Scope = ONE, jobs: list[str] | None = None) -> Outcome:
    told = jobs if jobs is not None else []
    return use(subject, lambda s: s.send(what, scope, log=Kept(told)))


def people(emulator: Emulator, count: int, collection: str = "users") -> None:
    objects = [{"name": f"n{n:04d}"} for n in range(count)]
    emulator.seed({"collection": collection, "objects": objects})


def calls(emulator: Emulator) -> list[str]:
    return [f"{call['method']} {call['path']}" for call in emulator.ledger()]


# ---- listings ----------------------------------------------------------------------------------

PAGINGS: dict[str, dict[str, Any]] = {
    "none": {"kind": "none"},
    "offset": {"kind": "offset", "limit": "limit", "size": 20},
    "page": {"kind": "page", "limit": "limit", "size": 20},
    "cursor": {"kind": "cursor", "limit": "limit", "size": 20, "next": "next"},
    "link": {"kind": "link", "limit": "limit", "size": 20, "next": "next"},
}


@pytest.mark.parametrize("kind", PAGINGS)
@pytest.mark.parametrize("count", [0, 1, 20, 41])
@pytest.mark.parametrize("total", [None, "total"])
def test_every_paging_is_walked_to_its_end(
    plain: Emulator, kind: str, count: int, total: str | None
) -> None:
    """All records come, in order and once, however the API cuts its lists."""
    plain.switches({"paging": kind})
    people(plain, count)
    subject, _ = rest(plain, shop(paging={**PAGINGS[kind], "total": total}))
    assert [user["name"] for user in fetched(subject)] == [f"n{n:04d}" for n in range(count)]


def test_links_in_a_header(plain: Emulator) -> None:
    """The `Link` header leads from page to page where the answer's body does not."""
    plain.switches({"paging": "link", "next_in": "header", "records_key": "", "page_size": 3})
    people(plain, 8)
    users = {"path": "users", "records": "@"}
    subject, _ = rest(plain, shop(paging={"kind": "link"}, users__list=users))
    assert len(fetched(subject)) == 8


def test_a_server_that_clamps_pages_is_read_whole(plain: Emulator) -> None:
    """Asked for 500 records a page, a server that gives 200 at most still gives all."""
    plain.switches({"paging": "offset"})
    people(plain, 450)
    subject, _ = rest(plain, shop(paging={"kind": "offset", "limit": "limit", "size": 500}))
    assert len(fetched(subject)) == 450


@pytest.mark.parametrize(
    ("kind", "lie", "total", "code"),
    [
        ("offset", "total_high", "total", "DS-PAGE-TOTAL"),
        ("offset", "total_low", "total", "DS-PAGE-TOTAL"),
        ("cursor", "total_high", "total", "DS-PAGE-TOTAL"),
        ("offset", "repeat_page", None, "DS-PAGE-LOOP"),
        ("page", "repeat_page", None, "DS-PAGE-LOOP"),
        ("offset", "empty_page", "total", "DS-PAGE-TOTAL"),
        ("cursor", "loop_cursor", None, "DS-PAGE-LOOP"),
        ("link", "loop_cursor", None, "DS-PAGE-LOOP"),
    ],
)
def test_a_lying_list_is_refused(
    plain: Emulator, kind: str, lie: str, total: str | None, code: str
) -> None:
    """A plan never rests on a partial listing: what is not proved complete raises."""
    plain.switches({"paging": kind, "lie": lie})
    people(plain, 50)
    subject, _ = rest(plain, shop(paging={**PAGINGS[kind], "total": total}))
    with pytest.raises(ContractBreach) as caught:
        fetched(subject)
    assert caught.value.code == code


@pytest.mark.parametrize("kind", ["offset", "cursor"])
def test_a_page_that_fails_fails_the_listing(plain: Emulator, kind: str) -> None:
    """When one page in the middle cannot be had, the listing raises after all retries."""
    plain.switches({"paging": kind})
    people(plain, 60)
    plain.faults([{"match": {"path": "users", "from": 2}, "fault": "status", "status": 500}])
    subject, _ = rest(plain, shop(paging=PAGINGS[kind]))
    with pytest.raises(Unavailable) as caught:
        fetched(subject)
    assert caught.value.code == "DS-HTTP-5XX"


def test_a_next_link_off_the_origin_is_not_followed(plain: Emulator) -> None:
    """A link to another host is refused: no token goes there."""
    link = {"data": [{"id": 1}], "next": "http://evil.example.test/users?page=2"}
    plain.faults([{"match": {"path": "users"}, "fault": "body", "body": link}])
    subject, _ = rest(plain, shop(paging=PAGINGS["link"]))
    with pytest.raises(ContractBreach) as caught:
        fetched(subject)
    assert caught.value.code == "DS-URL-ORIGIN"


@pytest.mark.parametrize(
    "body", [{}, {"data": {}}, {"data": None}, [], {"data": [1]}, {"error": "x"}]
)
def test_a_list_of_the_wrong_shape_is_refused(plain: Emulator, body: Any) -> None:
    """A missing list is a breach, never an empty one: else all records would be created again."""
    plain.faults([{"match": {"path": "users"}, "fault": "body", "body": body}])
    with pytest.raises(ContractBreach) as caught:
        fetched(rest(plain, shop())[0])
    assert caught.value.code == "DS-TGT-SHAPE"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"fault": "html"}, "DS-HTTP-HTML"),
        ({"fault": "truncated_json"}, "DS-HTTP-JSON"),
        ({"fault": "empty"}, "DS-HTTP-EMPTY"),
        ({"fault": "no_content"}, "DS-HTTP-EMPTY"),
        ({"fault": "duplicate_keys"}, "DS-HTTP-JSON"),
        ({"fault": "utf16"}, "DS-HTTP-JSON"),
        ({"fault": "deep_json"}, "DS-HTTP-JSON"),
        ({"fault": "bad_gzip"}, "DS-HTTP-ENCODING"),
        ({"fault": "cut_body"}, "DS-HTTP-LOST"),
        ({"fault": "garbage"}, "DS-HTTP-LOST"),
        ({"fault": "headers"}, "DS-HTTP-HEADERS"),
        ({"fault": "redirect"}, "DS-HTTP-REDIRECT"),
        ({"fault": "status", "status": 404}, "DS-HTTP-STATUS"),
        ({"fault": "status", "status": 400}, "DS-HTTP-STATUS"),
        ({"fault": "status", "status": 502}, "DS-HTTP-5XX"),
        ({"fault": "status", "status": 403}, "DS-AUTH-FORBIDDEN"),
        ({"fault": "status", "status": 401}, "DS-AUTH-REFUSED"),
    ],
)
def test_what_a_listing_cannot_survive(plain: Emulator, fault: dict[str, Any], code: str) -> None:
    """Each misbehaviour that stays has one error with its own code."""
    plain.faults([{"match": {"path": "users"}, **fault}])
    with pytest.raises(DsyncError) as caught:
        fetched(rest(plain, shop())[0])
    assert caught.value.code == code


@pytest.mark.parametrize(
    "fault",
    ["reset", "close", "cut_body", "cut_chunk", "truncated_json", "html", "empty", "garbage"],
)
def test_a_read_is_asked_again(plain: Emulator, fault: str) -> None:
    """What goes wrong once does not hurt a read."""
    people(plain, 3)
    plain.faults([{"match": {"path": "users", "nth": 1}, "fault": fault}])
    subject, at = rest(plain, shop())
    assert len(fetched(subject)) == 3
    assert len(at.slept) == 1


def test_without_retries_nothing_is_asked_again(plain: Emulator) -> None:
    """`--retries 0` means one call."""
    plain.faults([{"match": {"path": "users"}, "fault": "status", "status": 503}])
    with pytest.raises(Unavailable):
        fetched(rest(plain, shop(), retries=0)[0])
    assert plain.counts()["total"] == 1


def test_a_resource_without_a_list_is_told(plain: Emulator) -> None:
    """What the system file does not declare is said before any call."""
    with pytest.raises(Invalid) as caught:
        fetched(rest(plain, shop(users__list=None))[0])
    assert caught.value.code == "DS-CANNOT"


def test_a_listing_of_several_calls(plain: Emulator) -> None:
    """All calls together are the listing; a record that an earlier one had is the same one."""
    people(plain, 3)
    people(plain, 5, "others")
    further = [{"path": "others", "records": "data"}]
    system = shop(users__list={"path": "users", "records": "data", "also": further})
    ids = [one["id"] for one in fetched(rest(plain, system)[0])]
    alone = [one["id"] for one in fetched(rest(plain, shop())[0])]
    assert ids[: len(alone)] == alone
    assert len(ids) == len(set(ids)) > len(alone)
    plain.faults([{"match": {"path": "/api/others"}, "fault": "status", "status": 500}])
    with pytest.raises(Unavailable):
        fetched(rest(plain, system, retries=0)[0])


def test_what_is_only_compared_is_not_sent(plain: Emulator) -> None:
    """A field in `compare_only` is part of the change, and not of the call."""
    system = shop(users__compare_only=["age"])
    assert sent(rest(plain, system)[0], change("create")).state == "acked"
    (call,) = [one for one in plain.ledger() if one["method"] == "POST"]
    assert call["body"] == {"name": "ann"}


def test_a_caller_may_stop_early(plain: Emulator) -> None:
    """Leaving in the middle of a listing leaves no call behind."""
    plain.switches({"paging": "offset"})
    people(plain, 60)
    subject, _ = rest(plain, shop(paging=PAGINGS["offset"]))

    async def work(subject: Rest) -> int:
        pages = subject.fetch("users", ONE)
        first = await anext(pages)
        await pages.aclose()  # type: ignore[attr-defined]
        return first.count

    assert use(subject, work) == 20


def test_paths_are_encoded_and_queries_filled(plain: Emulator) -> None:
    """Values of a scope are one segment of a path, and whole values of a query."""
    listing = {"path": "tenants/{tenant}/users", "query": {"name": "{tenant}"}, "records": "data"}
    subject, _ = rest(plain, shop(scope=["tenant"], users__list=listing))
    plain.seed({"collection": "tenants", "objects": [{"id": "a b&c", "name": "t"}]})
    assert fetched(subject, scope=Scope(name="t", values={"tenant": "a b&c"})) == []
    [call] = plain.ledger()
    assert call["path"] == "/api/tenants/a%20b%26c/users"
    assert call["query"] in ("name=a+b%26c", {"name": "a b&c"})


# ---- writes ------------------------------------------------------------------------------------


def test_create_update_delete(plain: Emulator) -> None:
    """The three writes go out as declared, and their outcomes say so."""
    create = sent(rest(plain, shop())[0], change("create"))
    assert create == Outcome(state="acked", status=201, id=1)
    update = sent(rest(plain, shop())[0], change("update", payload={"name": "ann", "age": 8}))
    assert (update.state, update.status) == ("acked", 200)
    assert fetched(rest(plain, shop())[0]) == [{"id": 1, "name": "ann", "age": 8}]
    delete = sent(rest(plain, shop())[0], change("delete"))
    assert (delete.state, delete.status) == ("acked", 204)
    assert calls(plain) == [
        "POST /api/users",
        "PUT /api/users/1",
        "GET /api/users",
        "DELETE /api/users/1",
    ]
    assert plain.ledger()[3]["body"] is None


def test_the_body_of_a_write(plain: Emulator) -> None:
    """`omit` leaves fields out, `include` adds some with the id, and the envelope goes around."""
    update = {
        "path": "users/by-key/{name}",
        "method": "PUT",
        "omit": ["age"],
        "include": {"ref": "{id}", "note": "user {id} of {tenant}", "deep": [{"x": "{name}"}]},
    }
    system = shop(envelope={"request": "data"}, scope=["tenant"], users__update=update)
    scope = Scope(name="t", values={"tenant": "blue"})
    sent(rest(plain, system)[0], change("update", id=7, key=("a/b",)), scope)
    [call] = plain.ledger()
    assert call["path"] == "/api/users/by-key/a%2Fb"
    assert call["body"] == {
        "data": {
            "name": "ann",
            "ref": 7,
            "note": "user 7 of blue",
            "deep": [{"x": "a/b"}],
        }
    }


@pytest.mark.parametrize(
    ("what", "code"),
    [
        (change("update", id=None), "DS-TPL"),
        (change("update", id=".."), "DS-URL-SEGMENT"),
        (change("update", id="\ue000r\ue001"), "DS-URL-SEGMENT"),
        (change("delete", id=""), "DS-URL-SEGMENT"),
    ],
)
def test_a_change_without_a_good_path_is_not_sent(plain: Emulator, what: Change, code: str) -> None:
    """A missing, climbing or unfilled id stops this change, and only this one."""
    outcome = sent(rest(plain, shop())[0], what)
    assert (outcome.state, outcome.code) == ("rejected", code)
    assert plain.counts()["total"] == 0


def test_what_a_system_cannot_do_is_not_sent(plain: Emulator) -> None:
    """Without a declared delete nothing is ever deleted."""
    outcome = sent(rest(plain, shop(users__delete=None))[0], change("delete"))
    assert (outcome.state, outcome.code) == ("rejected", "DS-CANNOT")
    assert plain.counts()["total"] == 0


def test_every_attempt_is_told_before_it_leaves(plain: Emulator) -> None:
    """Each attempt is told twice: before a connection is sought, and before the first byte."""
    plain.faults([{"match": {"method": "POST", "nth": 1}, "fault": "too_many", "retry_after": 0}])
    log = Kept()
    outcome = use(rest(plain, shop())[0], lambda s: s.send(change("create"), ONE, log=log))
    assert outcome.state == "acked"
    again = "again not_sent refused for now (429)"
    assert log.told == ["intent", "sent", again, "intent", "sent"]
    assert len(set(log.bodies)) == 1


def test_a_call_that_may_not_begin_does_not(plain: Emulator) -> None:
    """When the run ends, the log says so, and nothing leaves."""
    log = Kept(halted=True)
    with pytest.raises(Halted):
        use(rest(plain, shop())[0], lambda s: s.send(change("create"), ONE, log=log))
    assert plain.counts()["total"] == 0


def test_a_call_that_does_not_connect_was_not_sent(plain: Emulator) -> None:
    """Where there is no connection the first byte is never told to leave."""
    subject, _ = rest(plain, shop(), base_url="http://127.0.0.1:9", retries=1)
    log = Kept()
    outcome = use(subject, lambda s: s.send(change("create"), ONE, log=log))
    assert outcome.state == "not_sent"
    assert "sent" not in log.told


@pytest.mark.parametrize("fault", ["reset", "close", "cut_body", "garbage"])
def test_an_idempotency_key(plain: Emulator, fault: str) -> None:
    """A keyed create whose answer was lost goes again with the same key and bytes: one effect."""
    plain.switches({"idempotency": True})
    plain.faults([{"match": {"method": "POST", "times": 2}, "fault": fault, "when": "after"}])
    facts = shop(users__create={"method": "POST", "path": "users", "id": "id", "idempotency": {}})
    log = Kept(key="KEY")
    outcome = use(rest(plain, facts)[0], lambda s: s.send(change("create"), ONE, log=log))
    assert outcome.state == "acked"
    again = "again unknown the same idempotency key"
    assert log.told == ["intent", "sent", again, "intent", "sent", again, "intent", "sent"]
    assert len(plain.effects()) == 1
    keys = {call["headers"]["idempotency-key"] for call in plain.ledger()}
    assert len(keys) == 1


def test_an_idempotency_key_near_the_end_of_its_life(plain: Emulator) -> None:
    """Where the API may have forgotten a key already, nothing goes again on its strength."""
    plain.switches({"idempotency": True})
    plain.faults(
        [
            {"match": {"method": "POST", "nth": 1}, "fault": "too_many", "retry_after": 20},
            {"match": {"method": "POST", "nth": 2}, "fault": "reset", "when": "after"},
        ]
    )
    keyed = {"method": "POST", "path": "users", "id": "id", "idempotency": {"life_s": 20}}
    outcome = sent(rest(plain, shop(users__create=keyed))[0], change("create"))
    assert outcome.state == "unknown"
    assert plain.counts()["total"] == 2


def test_an_upsert_updates_by_its_create(plain: Emulator) -> None:
    """Where one call creates and updates, an update without its own call uses it."""
    outcome = sent(
        rest(plain, shop(users__update=None, users__write="upsert"))[0], change("update")
    )
    assert outcome.state == "acked"
    assert calls(plain) == ["POST /api/users"]


def test_a_delete_of_what_is_not_there_is_done(plain: Emulator) -> None:
    """404 for a delete means that the wish is fulfilled."""
    outcome = sent(rest(plain, shop())[0], change("delete"))
    assert (outcome.state, outcome.status, outcome.code) == ("acked", 404, "DS-ABSENT")


_STATUSES = [
    *((status, "rejected") for status in (400, 405, 409, 410, 413, 415, 422, 451)),
    *((status, "rejected") for status in (418, 501, 505)),
    *((status, "stale") for status in (404, 412, 428)),
    *((status, "unknown") for status in (302, 307, 408, 500, 502, 503, 504, 507, 520)),
    *((status, "unknown") for status in (206, 208)),
]


@pytest.mark.parametrize(("status", "state"), _STATUSES)
def test_what_a_status_means_for_a_write(plain: Emulator, status: int, state: str) -> None:
    """A refusal is a refusal, and whatever leaves doubt is unknown; neither is sent again."""
    rule = {"match": {"method": "PUT"}, "fault": "status", "status": status}
    plain.faults([rule])
    outcome = sent(rest(plain, shop())[0], change("update"))
    assert (outcome.state, outcome.status) == (state, status)
    assert plain.counts()["total"] == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("fault", ["reset", "close", "garbage", "html", "empty"])
def test_a_write_whose_answer_was_lost_is_unknown(plain: Emulator, fault: str, when: str) -> None:
    """Before or after the effect looks the same: so it is unknown, and never sent again."""
    plain.faults([{"match": {"method": "POST"}, "fault": fault, "when": when}])
    outcome = sent(rest(plain, shop())[0], change("create"))
    assert outcome.state == "unknown"
    assert outcome.code.startswith("DS-HTTP-")
    assert plain.counts()["total"] == 1


@pytest.mark.parametrize(
    "fault", ["cut_body", "cut_chunk", "truncated_json", "bad_gzip", "headers"]
)
def test_a_write_with_a_broken_answer_is_unknown(plain: Emulator, fault: str) -> None:
    """An answer that is not whole, or not what was agreed, proves nothing."""
    plain.faults([{"match": {"method": "POST"}, "fault": fault}])
    assert sent(rest(plain, shop())[0], change("create")).state == "unknown"
    assert len(plain.effects()) == 1


def test_a_write_that_times_out_is_unknown(plain: Emulator) -> None:
    """Silence after a write is no answer."""
    plain.faults([{"match": {"method": "POST"}, "fault": "timeout", "when": "after"}])
    outcome = sent(rest(plain, shop(), timeout_s=0.2)[0], change("create"))
    assert (outcome.state, outcome.code) == ("unknown", "DS-HTTP-TIMEOUT")
    assert plain.counts()["total"] == 1


def test_a_write_declared_safe_to_repeat_is_repeated(plain: Emulator) -> None:
    """`retry: true` lets a write go again after an unclear answer."""
    plain.faults([{"match": {"method": "PUT", "nth": [1, 2]}, "fault": "reset", "when": "after"}])
    plain.seed({"collection": "users", "objects": [{"name": "ann"}]})
    update = {"path": "users/{id}", "retry": True}
    outcome = sent(rest(plain, shop(users__update=update))[0], change("update"))
    assert outcome.state == "acked"
    assert plain.counts()["total"] == 3


def test_a_server_that_is_not_there(plain: Emulator) -> None:
    """No byte left: not_sent, after so many tries."""
    subject, at = rest(plain, shop(), base_url="http://127.0.0.1:1")
    outcome = sent(subject, change("create"))
    assert (outcome.state, outcome.code) == ("not_sent", "DS-HTTP-CONNECT")
    assert len(at.slept) == 3


def test_the_text_of_a_refusal(plain: Emulator) -> None:
    """What the API says reaches the user: cut, redacted, without control characters."""
    body = {"errors": [{"message": "no hush \x1b[1m" + "x" * 900}]}
    rule = {"match": {"method": "POST"}, "fault": "status", "status": 422, "body": body}
    plain.faults([rule])
    subject, _ = rest(plain, shop(), redact=lambda text: text.replace("hush", "***"))
    message = sent(subject, change("create")).message
    assert message.startswith("no *** \\x1b[1m")
    assert len(message) <= 510


def test_a_refusal_inside_a_good_status(plain: Emulator) -> None:
    """A 200 that says no is a no, where the system file says how to tell."""
    fault = {"match": {"method": "POST"}, "fault": "failed_inside", "message": "nope"}
    plain.faults([fault])
    system = shop(answers={"failure": "status == 'error'"})
    outcome = sent(rest(plain, system)[0], change("create"))
    assert (outcome.state, outcome.message) == ("rejected", "nope")


@pytest.mark.parametrize("answer", ["object", "id", "empty"])
def test_an_answer_to_a_create_without_its_id(plain: Emulator, answer: str) -> None:
    """Where an id was promised and none comes, nobody knows what was created."""
    plain.switches({"create_answer": answer})
    outcome = sent(rest(plain, shop())[0], change("create"))
    assert outcome.state == ("unknown" if answer == "empty" else "acked")
    unpromised = shop(users__create={"path": "users"})
    assert (
        sent(rest(plain, unpromised)[0], change("create", payload={"name": "b"})).state == "acked"
    )


# ---- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["seconds", "date", "none"])
def test_a_429_is_waited_out(plain: Emulator, form: str) -> None:
    """After a 429 reads and writes wait as they are told, in both forms, and then go."""
    plain.switches({"rate_per_s": 2, "retry_after": form, "retry_after_s": 3})
    subject, at = rest(plain, shop())

    async def work(subject: Rest) -> list[Outcome]:
        changes = [change("create", key=(str(n),), payload={"name": str(n)}) for n in range(6)]
        return await asyncio.gather(*(subject.send(c, ONE, log=Kept()) for c in changes))

    outcomes = use(subject, work)
    assert [outcome.state for outcome in outcomes] == ["acked"] * 6
    assert len(plain.effects()) == 6
    assert "429" in str(plain.counts()["status"])
    if form != "none":
        assert max(at.slept) == pytest.approx(3, abs=1)


def test_an_api_that_asks_to_wait_for_long(plain: Emulator) -> None:
    """More than 15 minutes are not waited for: the change was not made, and the run may end."""
    plain.faults([{"match": {}, "fault": "too_many", "retry_after": 7200}])
    log = Kept()
    with pytest.raises(Unavailable, match="asks to wait"):
        use(rest(plain, shop())[0], lambda s: s.send(change("create"), ONE, log=log))
    assert log.told == ["intent", "sent", "again not_sent refused for now (429)"]
    with pytest.raises(Unavailable) as caught:
        fetched(rest(plain, shop())[0])
    assert caught.value.code == "DS-PACE-WAIT"


def test_an_api_that_throttles_for_ever(plain: Emulator) -> None:
    """A call that is throttled again and again ends after ten tries, surely without effect."""
    plain.faults([{"match": {}, "fault": "too_many", "retry_after": 1}])
    outcome = sent(rest(plain, shop())[0], change("create"))
    assert (outcome.state, outcome.status) == ("not_sent", 429)
    assert plain.counts()["total"] == 11


def test_a_declared_rate_is_kept(plain: Emulator) -> None:
    """With the right rate declared not one call is throttled."""
    plain.switches({"rate_per_s": 5, "paging": "offset"})
    people(plain, 200)
    paging = {"kind": "offset", "limit": "limit", "size": 10}
    subject, _ = rest(plain, shop(paging=paging, limits={"rate": "5/s"}))
    assert len(fetched(subject)) == 200
    assert "429" not in str(plain.counts()["status"])


def test_a_sequential_system_gets_one_call_at_a_time(plain: Emulator) -> None:
    """In one scope no call begins before the job of the one before has its verdict."""
    plain.switches({"jobs": True, "job_polls": 1})
    subject, _ = rest(plain, shop(limits={"sequential": True}, jobs=JOBS))

    async def work(subject: Rest) -> None:
        changes = [change("create", key=(n,), payload={"name": n}) for n in "abc"]
        await asyncio.gather(*(subject.send(c, ONE, log=Kept()) for c in changes))

    use(subject, work)
    seen = ["w" if call["write"] else "p" for call in plain.ledger()]
    assert "".join(seen) == "wppwppwpp"


# ---- who we are --------------------------------------------------------------------------------

LOGIN = {
    "kind": "exchange",
    "request": {
        "path": "auth",
        "body": {"client_id": "${client_id}", "client_secret": "${client_secret}"},
    },
    "token": "token",
    "expires": "expires_in",
}
DEMO = {"client_id": "demo", "client_secret": "demo-secret"}


def test_a_token_that_dies_in_mid_run_is_renewed(plain: Emulator) -> None:
    """A 401 in the middle of a listing costs one login, and the same call goes again."""
    plain.switches({"auth": "exchange", "paging": "offset", "rate_per_s": 0})
    people(plain, 60)
    auth = {name: value for name, value in LOGIN.items() if name != "expires"}
    subject, _ = rest(plain, shop(auth=auth, paging=PAGINGS["offset"]), credentials=DEMO)

    async def work(subject: Rest) -> int:
        count = 0
        async for page in subject.fetch("users", ONE):
            count += page.count
            if count == 20:
                plain.advance(4000)
        outcome = await subject.send(change("update"), ONE, log=Kept())
        assert outcome.state == "acked"
        return count

    assert use(subject, work) == 60
    assert calls(plain).count("POST /auth") == 2


def test_a_token_is_renewed_before_it_dies(plain: Emulator) -> None:
    """A token that tells its life is renewed in time: no call is refused."""
    plain.switches({"auth": "exchange", "token_life_s": 600})
    subject, at = rest(plain, shop(auth=LOGIN), credentials=DEMO)

    async def work(subject: Rest) -> None:
        for _ in range(4):
            await at.sleep(300)
            await subject.send(change("create"), ONE, log=Kept())

    use(subject, work)
    assert "401" not in str(plain.counts()["status"])
    assert calls(plain).count("POST /auth") == 2


@pytest.mark.parametrize(
    ("auth", "credentials"),
    [
        ({"kind": "bearer"}, {"token": "wrong"}),
        (LOGIN, {**DEMO, "client_secret": "wrong"}),
    ],
)
def test_a_wrong_token_stops(
    plain: Emulator, auth: dict[str, Any], credentials: dict[str, str]
) -> None:
    """When the API does not know us, no further call can succeed: reads and writes raise."""
    plain.switches({"auth": auth["kind"]})
    with pytest.raises(Unauthorized):
        fetched(rest(plain, shop(auth=auth), credentials=credentials)[0])
    with pytest.raises(Unauthorized):
        sent(rest(plain, shop(auth=auth), credentials=credentials)[0], change("create"))
    assert plain.effects() == []


def test_a_login_that_is_down_leaves_writes_unsent(plain: Emulator) -> None:
    """Without a token a write does not leave, and may be sent later."""
    plain.switches({"auth": "exchange"})
    plain.faults([{"match": {"path": "/auth"}, "fault": "status", "status": 503}])
    outcome = sent(rest(plain, shop(auth=LOGIN), credentials=DEMO)[0], change("create"))
    assert outcome.state == "not_sent"
    assert set(calls(plain)) == {"POST /auth"}


def test_three_refusals_in_a_row_stop(plain: Emulator) -> None:
    """One 403 is about one record; three in a row are about us."""
    plain.faults([{"match": {"method": "POST"}, "fault": "status", "status": 403}])
    subject, _ = rest(plain, shop())

    async def work(subject: Rest) -> None:
        for _ in range(2):
            outcome = await subject.send(change("create"), ONE, log=Kept())
            assert (outcome.state, outcome.status) == ("rejected", 403)
        with pytest.raises(Unauthorized) as caught:
            await subject.send(change("create"), ONE, log=Kept())
        assert caught.value.code == "DS-AUTH-FORBIDDEN"

    use(subject, work)


def test_nothing_secret_is_logged(plain: Emulator) -> None:
    """Logs hold methods, templates and statuses: no token, no body, no value."""
    plain.switches({"auth": "exchange"})
    with structlog.testing.capture_logs() as events:
        sent(rest(plain, shop(auth=LOGIN), credentials=DEMO)[0], change("create"))
    assert [event["event"] for event in events] == ["called", "token got", "called"]
    told = {"event", "log_level", "method", "path", "status", "ms"}
    assert [event.keys() for event in events if event["event"] == "called"] == [told, told]
    text = json.dumps(events)
    assert "demo" not in text
    assert "ann" not in text


def test_the_probe(plain: Emulator) -> None:
    """The probe is one read that shows that we are let in; without one it is a login."""
    plain.switches({"auth": "exchange"})
    people(plain, 1)
    seen = use(
        rest(plain, shop(auth=LOGIN, probe="api/users"), credentials=DEMO)[0],
        lambda subject: subject.probe(),
    )
    assert (seen.what, seen.status) == ("GET api/users", 200)
    only = use(rest(plain, shop(auth=LOGIN), credentials=DEMO)[0], lambda s: s.probe())
    assert only.what == "login"


# ---- jobs --------------------------------------------------------------------------------------


def test_a_job_is_followed_to_its_success(plain: Emulator) -> None:
    """A job has the verdict and the id of a create; its place is told before the first poll."""
    plain.switches({"jobs": True, "job_polls": 2})
    told: list[str] = []
    subject, at = rest(plain, shop(jobs=JOBS))
    outcome = sent(subject, change("create"), jobs=told)
    assert outcome == Outcome(state="acked", status=200, id=1, job="jobs/j-000001")
    assert told == ["jobs/j-000001"]
    assert at.slept == [1.0, 1.0]


def test_a_job_that_fails_is_a_refusal(plain: Emulator) -> None:
    """A failed job says why, and the record is rejected."""
    plain.switches({"jobs": True})
    plain.faults([{"match": {"method": "POST"}, "fault": "job_fail", "message": "path unknown"}])
    outcome = sent(rest(plain, shop(jobs=JOBS))[0], change("create"))
    assert (outcome.state, outcome.code) == ("rejected", "DS-JOB-FAILED")
    assert "path unknown" in outcome.message


def test_a_job_is_told_before_it_is_asked(plain: Emulator) -> None:
    """The log knows a job's place before the first poll leaves."""
    seen: list[int] = []

    class Counting(Kept):
        def accepted(self, job: str) -> None:
            seen.append(plain.counts()["total"])

    plain.switches({"jobs": True, "job_polls": 1})
    log = Counting()
    outcome = use(rest(plain, shop(jobs=JOBS))[0], lambda s: s.send(change("create"), ONE, log=log))
    assert outcome.state == "acked"
    assert seen == [1]


def test_a_job_that_never_ends_stays_open(plain: Emulator) -> None:
    """When the time is over the job is still open, and its place stays with the outcome."""
    plain.switches({"jobs": True, "job_polls": "never"})
    poll = {"interval_s": 1, "factor": 2, "max_interval_s": 10, "timeout_s": 60}
    subject, at = rest(plain, shop(jobs={**JOBS, "poll": poll}))
    outcome = sent(subject, change("create"))
    assert (outcome.state, outcome.code) == ("accepted", "DS-JOB-TIMEOUT")
    assert outcome.job == "jobs/j-000001"
    assert at.slept[:5] == [1, 2, 4, 8, 10]
    assert sum(at.slept) <= 60


def test_a_job_can_be_followed_later(plain: Emulator) -> None:
    """A job that another process started is followed by its place alone."""
    plain.switches({"jobs": True, "job_polls": 3})
    poll = {"timeout_s": 0.5}
    job = sent(rest(plain, shop(jobs={**JOBS, "poll": poll}))[0], change("create")).job
    assert job is not None
    outcome = use(rest(plain, shop(jobs=JOBS))[0], lambda s: s.follow(job, ONE))
    assert (outcome.state, outcome.id) == ("acked", 1)
    assert plain.writes() == 1


def test_a_job_that_is_lost_is_unknown(plain: Emulator) -> None:
    """A job that cannot be found is pending for a short grace, then nobody knows."""
    plain.switches({"jobs": True})
    plain.faults([{"match": {"method": "POST"}, "fault": "job_missing"}])
    subject, at = rest(plain, shop(jobs=JOBS))
    outcome = sent(subject, change("create"))
    assert (outcome.state, outcome.code) == ("unknown", "DS-JOB-MISSING")
    assert 5 <= sum(at.slept) <= 6


def test_trouble_while_polling_is_survived(plain: Emulator) -> None:
    """Polls are reads: what goes wrong with some of them does not touch the verdict."""
    plain.switches({"jobs": True, "job_polls": 2})
    plain.faults(
        [
            {"match": {"path": "jobs/", "nth": [1, 2]}, "fault": "status", "status": 502},
            {"match": {"path": "jobs/", "nth": [3]}, "fault": "reset"},
            {"match": {"path": "jobs/", "nth": [4]}, "fault": "no_content"},
        ]
    )
    assert sent(rest(plain, shop(jobs=JOBS))[0], change("create")).state == "acked"


def test_a_poll_that_is_forbidden_leaves_the_job_open(plain: Emulator) -> None:
    """A write was accepted: that we may not ask for its job does not make it undone."""
    plain.switches({"jobs": True})
    plain.faults([{"match": {"path": "jobs/"}, "fault": "status", "status": 403}])
    outcome = sent(rest(plain, shop(jobs=JOBS))[0], change("create"))
    assert (outcome.state, outcome.job) == ("accepted", "jobs/j-000001")


@pytest.mark.parametrize(
    "place",
    [
        "http://evil.example.test/jobs/j-000001",
        "//evil.example.test/jobs/j-000001",
        "/jobs/../secrets",
        "jobs/j-000001?x=1",
        "jobs/j-1",
        "users/1",
        "",
        7,
        {"x": 1},
    ],
)
def test_a_hostile_job_is_not_followed(plain: Emulator, place: Any) -> None:
    """A job elsewhere, or one that is none, is not asked for: the write is unknown."""
    plain.faults([{"match": {"method": "POST"}, "fault": "body", "body": {"job": place}}])
    told: list[str] = []
    outcome = sent(rest(plain, shop(jobs=JOBS))[0], change("create"), jobs=told)
    assert (outcome.state, outcome.code) == ("unknown", "DS-JOB-LOCATION")
    assert told == []
    assert plain.counts()["reads"] == 0


@pytest.mark.parametrize("job", ["../users", "http://evil.example.test/x", "users/1"])
def test_a_hostile_journal_is_not_followed(plain: Emulator, job: str) -> None:
    """A job's place out of a journal is checked like one out of an answer."""
    outcome = use(rest(plain, shop(jobs=JOBS))[0], lambda s: s.follow(job, ONE))
    assert outcome.state == "unknown"
    assert plain.counts()["total"] == 0


def test_a_job_by_header_or_by_id(plain: Emulator) -> None:
    """A job is found in a header, or by an id that the system file makes a path of."""
    plain.switches({"jobs": True})
    by_header = {**JOBS, "location": None, "header": "Location"}
    assert sent(rest(plain, shop(jobs=by_header))[0], change("create")).state == "acked"
    by_id = {**JOBS, "location": "id", "path": "jobs/{job}", "pattern": "j-[0-9]+"}
    told: list[str] = []
    outcome = sent(
        rest(plain, shop(jobs=by_id))[0], change("create", payload={"name": "b"}), jobs=told
    )
    assert (outcome.state, told) == ("acked", ["jobs/j-000002"])
    again = use(rest(plain, shop(jobs=by_id))[0], lambda s: s.follow(told[0], ONE))
    assert again.state == "acked"


# ---- Director ----------------------------------------------------------------------------------

# Smaller than the file that ships, so that this suite stands on its own feet.
DIRECTOR: dict[str, Any] = {
    "version": 1,
    "system": "director",
    "scope": ["pool_uuid", "node_id"],
    "base_path": "configapi/{pool_uuid}/{node_id}",
    "headers": {"Content-Type": "application/json"},
    "auth": {
        "kind": "bearer",
        "life_s": 28_800,
        "renew": {
            "path": "refreshToken",
            "body": {"secretKey": "${secret_key}"},
            "token": "tokenDetails.token",
            "secret": "tokenDetails.secretKey",
        },
    },
    "envelope": {"request": "data"},
    "answers": {"failure": "status != 'Success'"},
    "limits": {"sequential": True},
    "jobs": {
        "location": "message",
        "pattern": "monitorapi/(v1/)?{pool_uuid}/{node_id}/orders/[0-9a-f-]{36}(/[^/]+)?",
        "success": "response.success || (response.success == null && status == 'Success')",
        "failure": "response.success == `false` || length(not_null(response.errors, `[]`)) > `0`"
        " || status == 'Failed'",
        "error": "response.errors || response.message || message",
    },
    "probe": "monitorapi/v1/director/poolinfo",
    "resources": {
        "repos": {
            "key": ["name"],
            "list": {"path": "Repos"},
            "create": {"path": "Repos"},
            "update": {"path": "Repos/{id}", "omit": ["name"]},
            "delete": {"path": "Repos/{id}"},
        },
        "repo_paths": {
            "key": ["paths"],
            "list": {"path": "Repos/RepoPaths"},
            "refresh": {"path": "Repos/RepoPaths/refreshlist", "body": {"data": {}}},
        },
        "remote_repos": {
            "key": ["repo"],
            "list": {
                "method": "POST",
                "path": "Repos/RemoteRepos/fetch",
                "body": {"data": {}},
                "job": True,
            },
        },
    },
}
TOKEN = {"token": "demo", "secret_key": "demo-secret"}
PATHS = [{"path": "/opt/immune/storage/", "retention": 90}]


def node(emulator: Emulator) -> Scope:
    """The first node of the emulator."""

    async def work(subject: Rest) -> Scope:
        answer = await subject._client.request(
            "GET",
            "monitorapi/v1/director/poolinfo",
            template="poolinfo",
            headers={"Authorization": "Bearer demo"},
        )
        pool = answer.json()[0]
        machine = pool["machines"][0]["identifier"]
        return Scope(name="one", values={"pool_uuid": pool["pool_uuid"], "node_id": machine})

    return use(rest(emulator, DIRECTOR, credentials=TOKEN)[0], work)


def repo(action: str, **values: Any) -> Change:
    payload = {"name": "Repo_app", "hiddenrepopath": PATHS}
    given = {"resource": "repos", "key": ("Repo_app",), "payload": payload, **values}
    return change(action, **given)


@pytest.mark.parametrize("slash", ["with", "without"])
@pytest.mark.parametrize("failure", ["texts", "objects"])
def test_director_orders(director: Emulator, slash: str, failure: str) -> None:
    """Orders with and without a leading slash are followed; a failed one gives its texts."""
    director.switches({"message_slash": slash, "order_failure": failure})
    scope = node(director)
    good = sent(rest(director, DIRECTOR, credentials=TOKEN)[0], repo("create"), scope)
    assert good.state == "acked"
    assert good.job is not None
    assert good.job.startswith("monitorapi/")
    listed = fetched(rest(director, DIRECTOR, credentials=TOKEN)[0], "repos", scope)
    assert "Repo_app" in {record["name"] for record in listed}
    twice = sent(rest(director, DIRECTOR, credentials=TOKEN)[0], repo("create"), scope)
    assert (twice.state, twice.code) == ("rejected", "DS-JOB-FAILED")
    assert "Repo_app" in twice.message


@pytest.mark.parametrize("pending", ["empty", "null", "absent", "404", "202", "204"])
def test_director_orders_pending_in_any_way(director: Emulator, pending: str) -> None:
    """However a pending order looks, it is asked again until it is done."""
    director.switches({"order_pending": pending})
    outcome = sent(rest(director, DIRECTOR, credentials=TOKEN)[0], repo("create"), node(director))
    assert outcome.state == "acked"


def test_director_token_renewal_in_mid_run(director: Emulator) -> None:
    """After eight hours the secret key buys a new token, and the run goes on."""
    director.switches({"rotate_secret": True})
    scope = node(director)
    subject, _ = rest(director, DIRECTOR, credentials=TOKEN)

    async def work(subject: Rest) -> list[str]:
        states = []
        for name in ("a", "b", "c"):
            payload = {"name": name, "hiddenrepopath": PATHS}
            made = repo("create", key=(name,), payload=payload)
            states.append((await subject.send(made, scope, log=Kept())).state)
            director.advance(9 * 3600)
        return states

    assert use(subject, work) == ["acked"] * 3


def test_director_lists_by_order(director: Emulator) -> None:
    """A listing that is an order is followed, and its rows are the records."""
    subject, _ = rest(director, DIRECTOR, credentials=TOKEN)
    rows = fetched(subject, "remote_repos", node(director))
    assert {"repo", "name"} <= rows[0].keys()


def test_director_refresh(director: Emulator) -> None:
    """A refresh is sent and its order waited for; a resource without one does nothing."""
    scope = node(director)
    before = director.counts()["total"]
    subject, _ = rest(director, DIRECTOR, credentials=TOKEN)
    use(subject, lambda s: s.refresh("repo_paths", scope))
    assert (
        director.counts()["calls"]["POST /configapi/{pool}/{node}/Repos/RepoPaths/refreshlist"] == 1
    )  # type: ignore[index]
    subject, _ = rest(director, DIRECTOR, credentials=TOKEN)
    use(subject, lambda s: s.refresh("repos", scope))
    assert director.counts()["total"] > before  # type: ignore[operator]


def test_director_probe(director: Emulator) -> None:
    """The probe asks for the pools, with our token."""
    seen = use(rest(director, DIRECTOR, credentials=TOKEN)[0], lambda s: s.probe())
    assert seen.status == 200
    with pytest.raises(Unauthorized):
        use(
            rest(director, DIRECTOR, credentials={**TOKEN, "token": "x", "secret_key": "y"})[0],
            lambda s: s.probe(),
        )
