"""The contract of a system: one suite over every system file and its emulator.

Add an entry to SYSTEMS, get the suite. The emulator's ledger is the judge of what was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from call_logs import Kept
from dsync import emulators, system
from dsync.connectors.rest import Rest
from dsync.errors import ContractBreach, Unauthorized, Unavailable
from dsync.model import Change, Outcome, Scope
from dsync.system import System
from dsync.translation import Translation

NODE = {
    "pool_uuid": "b0b0b0b0b0b0b0b0b0b0b0b0b0b00001",
    "node_id": "c0ffee00c0ffee00c0ffee00c0ffee01",
}
SHOP: dict[str, Any] = {
    "version": 1,
    "system": "shop",
    "base_path": "api",
    "auth": {"kind": "bearer"},
    "resources": {
        "things": {
            "key": ["name"],
            "list": {"path": "things", "records": "data"},
            "create": {"method": "POST", "path": "things"},
            "update": {"method": "PUT", "path": "things/{id}"},
            "delete": {"path": "things/{id}"},
        }
    },
}
GOOD = "demo"
PAGINGS: dict[str, dict[str, Any]] = {
    "none": {"kind": "none"},
    "offset": {"kind": "offset", "offset": "offset", "limit": "limit", "size": 3, "total": "total"},
    "page": {"kind": "page", "page": "page", "limit": "limit", "size": 3},
    "cursor": {"kind": "cursor", "cursor": "cursor", "next": "next", "limit": "limit", "size": 3},
    "link": {"kind": "link", "limit": "limit", "size": 3, "next": "next"},
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A system, its emulator, and a resource with two payloads of one record."""

    system: System
    emulator: str
    resource: str
    first: dict[str, Any]
    second: dict[str, Any]
    switches: dict[str, Any] = field(default_factory=dict)
    scope: Scope = field(default_factory=Scope)


def _director() -> System:
    """The shipped file, but for the pause between two looks at an order."""
    shipped = system.load("director").system
    assert shipped.jobs is not None
    poll = shipped.jobs.poll.model_copy(update={"interval_s": 0.01, "timeout_s": 0.3})
    jobs = shipped.jobs.model_copy(update={"poll": poll})
    return shipped.model_copy(update={"jobs": jobs})


def _shop(paging: str) -> System:
    return System.model_validate({**SHOP, "paging": PAGINGS[paging]})


SYSTEMS = {
    "director": Subject(
        system=_director(),
        emulator="director",
        resource="RoutingPolicies",
        first={"policy_name": "rp", "active": True, "catch_all": "default", "routing_criteria": []},
        second={
            "policy_name": "rp",
            "active": True,
            "catch_all": "_logpoint",
            "routing_criteria": [
                {"type": "KeyPresent", "key": "k", "value": "", "repo": "default", "drop": "store"}
            ],
        },
        scope=Scope(name="n", values=NODE),
    ),
    **{
        f"plain-{paging}": Subject(
            system=_shop(paging),
            emulator="plain",
            resource="things",
            first={"name": "rp", "size": 1},
            second={"name": "rp", "size": 2},
            switches={"auth": "bearer", "tokens": ["demo"], "paging": paging, "page_size": 3},
        )
        for paging in PAGINGS
    },
}


@pytest.fixture(params=sorted(SYSTEMS))
def subject(request: pytest.FixtureRequest) -> Subject:
    """Each system in turn."""
    return SYSTEMS[request.param]


@pytest.fixture
def api(subject: Subject) -> Iterator[emulators.Emulator]:
    """Its emulator."""
    with emulators.start(subject.emulator, switches=subject.switches) as emulator:
        yield emulator


@asynccontextmanager
async def _connected(
    subject: Subject, url: str, *, token: str | None = None
) -> AsyncIterator[Rest]:
    connector = Rest(
        subject.system, base_url=url, credentials={"token": token or GOOD}, retries=1, timeout_s=5
    )
    try:
        yield connector
    finally:
        await connector.close()


async def _records(connector: Rest, subject: Subject) -> dict[tuple[str, ...], dict[str, Any]]:
    translation = Translation(subject.system.resources[subject.resource])
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    async for page in connector.fetch(subject.resource, subject.scope):
        for line in page.ndjson.splitlines():
            record = translation.record(line)
            assert translation.key(record) not in found
            found[translation.key(record)] = record
    return found


async def _send(
    connector: Rest, subject: Subject, action: Any, payload: Any = None, record: Any = None
) -> Outcome:
    change = Change(
        action=action,
        profile="p",
        system=subject.system.system,
        resource=subject.resource,
        scope=subject.scope.name,
        key=("rp",),
        id=record,
        payload=payload,
    )
    return await connector.send(change, subject.scope, log=Kept())


def _holds(record: dict[str, Any], payload: dict[str, Any]) -> bool:
    return all(record[key] == value for key, value in payload.items() if key != "active")


def test_life_of_a_record(subject: Subject, api: emulators.Emulator) -> None:
    """A record is created, found with equal fields, updated, and deleted; each by one write."""

    async def live() -> None:
        async with _connected(subject, api.url) as connector:
            before = await _records(connector, subject)
            assert (await _send(connector, subject, "create", subject.first)).state == "acked"
            made = (await _records(connector, subject))[("rp",)]
            assert _holds(made, subject.first)
            identity = made["_id"]
            outcome = await _send(connector, subject, "update", subject.second, identity)
            assert outcome.state == "acked"
            changed = (await _records(connector, subject))[("rp",)]
            assert _holds(changed, subject.second)
            assert (await _send(connector, subject, "delete", record=identity)).state == "acked"
            assert (await _records(connector, subject)).keys() == before.keys()

    asyncio.run(live())
    assert api.writes() == 3


def test_listing_is_whole(subject: Subject, api: emulators.Emulator) -> None:
    """Every record is listed once, over as many pages as it takes."""

    async def fill() -> int:
        async with _connected(subject, api.url) as connector:
            before = len(await _records(connector, subject))
            for number in range(10):
                name = f"rp{number}"
                key = subject.system.resources[subject.resource].key[0]
                payload = {**subject.first, key: name}
                assert (await _send(connector, subject, "create", payload)).state == "acked"
            return len(await _records(connector, subject)) - before

    assert asyncio.run(fill()) == 10


def test_wrong_token(subject: Subject, api: emulators.Emulator) -> None:
    """A wrong token stops at once, for reading and for writing."""

    async def knock() -> None:
        async with _connected(subject, api.url, token="wrong") as connector:
            with pytest.raises(Unauthorized):
                await _records(connector, subject)
            with pytest.raises(Unauthorized):
                await _send(connector, subject, "create", subject.first)

    asyncio.run(knock())
    assert api.effects() == []


@pytest.mark.parametrize("fault", ["html", "truncated_json", "empty"])
def test_listing_that_is_none(subject: Subject, api: emulators.Emulator, fault: str) -> None:
    """What is no listing is refused, and never taken for an empty one."""
    api.faults([{"match": {"method": "GET"}, "fault": fault}])

    async def read() -> None:
        async with _connected(subject, api.url) as connector:
            with pytest.raises(ContractBreach):
                await _records(connector, subject)

    asyncio.run(read())


def test_refusal(subject: Subject, api: emulators.Emulator) -> None:
    """A refusal is a rejection with the API's words."""
    api.faults([{"match": {"method": "POST"}, "fault": "status", "status": 400}])

    async def write() -> Outcome:
        async with _connected(subject, api.url) as connector:
            return await _send(connector, subject, "create", subject.first)

    outcome = asyncio.run(write())
    assert outcome.state == "rejected"
    assert outcome.status == 400


def test_lost_answer(subject: Subject, api: emulators.Emulator) -> None:
    """A write whose answer is lost is unknown, and was sent once."""
    api.faults([{"match": {"method": "POST"}, "fault": "reset", "when": "after"}])

    async def write() -> Outcome:
        async with _connected(subject, api.url) as connector:
            return await _send(connector, subject, "create", subject.first)

    assert asyncio.run(write()).state == "unknown"
    assert api.writes() == 1


def test_nobody_there(subject: Subject) -> None:
    """A server that is not there is unavailable for reading, and nothing was sent in writing."""

    async def call() -> Outcome:
        async with _connected(subject, "http://127.0.0.1:9") as connector:
            with pytest.raises(Unavailable):
                await _records(connector, subject)
            return await _send(connector, subject, "create", subject.first)

    assert asyncio.run(call()).state == "not_sent"


def test_order_that_never_ends() -> None:
    """An order without a verdict stays open, and keeps its place."""
    subject = SYSTEMS["director"]
    with emulators.start("director") as api:
        api.faults([{"match": {"method": "POST"}, "fault": "order_never"}])

        async def write() -> Outcome:
            async with _connected(subject, api.url) as connector:
                return await _send(connector, subject, "create", subject.first)

        outcome = asyncio.run(write())
    assert outcome.state == "accepted"
    assert outcome.job is not None
    assert "orders/" in outcome.job


def test_order_that_fails() -> None:
    """An order that fails is a rejection, although its answer was 200 and Success."""
    subject = SYSTEMS["director"]
    with emulators.start("director") as api:
        api.faults([{"match": {"method": "POST"}, "fault": "order_fail"}])

        async def write() -> Outcome:
            async with _connected(subject, api.url) as connector:
                return await _send(connector, subject, "create", subject.first)

        outcome = asyncio.run(write())
    assert outcome.state == "rejected"
    assert outcome.message
