"""The limiter against the N2F emulator's own quotas, in one virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from n2f_client import BASE, BOSS, ENT1, N2f

from call_logs import Kept
from dsync.connectors.rest import Rest
from dsync.emulators import Emulator
from dsync.model import Change, Scope
from dsync.pace import Pace
from dsync.system import Limits, System
from shared_time import SharedTime, lived_by

pytestmark = pytest.mark.integration

LIMITS: dict[str, Any] = {
    "sequential": True,
    "concurrency": 1,
    "time_zone": "Europe/Paris",
    "quotas": [
        {"from": "06:00", "to": "20:00", "read": "60/min", "write": "10/min"},
        {"from": "20:00", "to": "06:00", "read": "200/min", "write": "50/min"},
    ],
}


@pytest.mark.parametrize(
    ("start", "writes", "at_best_s", "lost_s"),
    [
        ("2031-05-05T10:00:00+02:00", 600, 59 * 60, 0),
        ("2031-05-05T21:00:00+02:00", 600, 11 * 60, 0),
        ("2031-05-05T19:30:00+02:00", 800, 30 * 60 + 9 * 60, 2 * 60),
        ("2031-05-05T05:50:00+02:00", 700, 9 * 60 + 20 * 60, 5 * 60),
    ],
)
def test_the_quota_is_used_and_never_exceeded(
    n2f_emulator: Emulator, start: str, writes: int, at_best_s: float, lost_s: float
) -> None:
    """By day, by night and over both changes: no call too many, and little time lost.

    The limiter keeps 65 s away from a change: it loses two minutes in the evening, and in the
    morning a minute of the night, which is five of the day.
    """
    n2f_emulator.switches({"enforce_quota": "sliding", "token_life_s": 864_000})
    time = SharedTime(n2f_emulator, start)
    n2f_emulator.switches({"tokens": ["demo"]})
    n2f = N2f(n2f_emulator)
    found: list[int] = []

    async def main() -> None:
        with lived_by(time), contextlib.closing(n2f.client.connect()) as connection:
            pace = Pace(Limits.model_validate(LIMITS), clock=time.read, sleep=time.sleep)
            for number in range(writes):
                body = {"mail": BOSS, "company": ENT1, "jobTitle": str(number)}
                async with pace.slot("write"):
                    headers = {"Authorization": "Bearer demo"}
                    answer = n2f.client(
                        "POST", f"{BASE}/users", body, headers=headers, over=connection
                    )
                found.append(answer.status)

    asyncio.run(main())
    assert found == [200] * writes
    counts = n2f_emulator.counts()
    assert counts["over_quota_by"]["sliding"] == 0  # type: ignore[index]
    assert at_best_s <= time.now <= at_best_s + lost_s + 1


def test_both_clocks_agree(n2f_emulator: Emulator) -> None:
    """After many sleeps, some at once, the client's time is the emulator's."""
    time = SharedTime(n2f_emulator, "2031-05-05T10:00:00Z")

    async def main() -> None:
        for _ in range(20):
            await asyncio.gather(time.sleep(1.25), time.sleep(0.5), time.sleep(3))

    asyncio.run(main())
    assert time.now == pytest.approx(60, abs=0.1)
    assert str(n2f_emulator.clock()["now"])[:21] == time.wall().isoformat()[:21]


SYSTEM: dict[str, Any] = {
    "version": 1,
    "system": "n2f",
    "base_path": "services/api/v2",
    "auth": {
        "kind": "exchange",
        "request": {
            "method": "POST",
            "path": "services/api/v2/auth",
            "body": {"client_id": "${client_id}", "client_secret": "${client_secret}"},
        },
        "token": "response.token",
        "expires": "response.validity",
    },
    "limits": LIMITS,
    "resources": {
        "users": {
            "key": ["mail"],
            "id": "mail",
            "list": {
                "path": "users",
                "records": "response.data || `[]`",
                "paging": {"kind": "offset", "offset": "start", "limit": "limit", "size": 200},
            },
            "create": {"path": "users"},
            "update": {"method": "POST", "path": "users"},
            "delete": {"path": "users/{id}"},
        }
    },
}


def test_a_connector_lives_in_the_shared_time(n2f_emulator: Emulator) -> None:
    """Two hours of writes: tokens are renewed, one call is in flight, no call is too many."""
    switches = {"seed": "empty", "users": 401, "refuse_concurrent": True, "auth_class": "read"}
    n2f_emulator.switches({**switches, "enforce_quota": "sliding"})
    time = SharedTime(n2f_emulator, "2031-05-05T10:00:00+02:00")
    statuses: list[int | None] = []

    async def main() -> int:
        credentials = {"client_id": "demo-client", "client_secret": "demo-secret"}
        with lived_by(time):
            subject = Rest(
                System.model_validate(SYSTEM), base_url=n2f_emulator.url, credentials=credentials
            )
        async with subject:
            listed = [page.count async for page in subject.fetch("users", Scope())]
            for number in range(1000):
                mail = f"user.{1 + number % 401:05}@example.test"
                payload = {"mail": mail, "company": ENT1, "jobTitle": f"J{number}"}
                change = Change(
                    action="update", profile="users", system="n2f", resource="users",
                    key=(mail,), id=mail, payload=payload,
                )  # fmt: skip
                statuses.append((await subject.send(change, Scope(), log=Kept([]))).status)
        return sum(listed)

    assert asyncio.run(main()) == 401
    assert set(statuses) == {200}
    counts: dict[str, Any] = n2f_emulator.counts()
    assert counts["over_quota_by"]["sliding"] == 0
    assert counts["in_flight_max"] == 1
    assert counts["calls"][f"POST {BASE}/auth"] == 2
    assert list(counts["status"]) == ["200"]
    assert time.now <= 100 * 60
