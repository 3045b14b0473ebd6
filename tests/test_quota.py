"""Windows of the day, the log of slots, and processes that share it; no test waits for a quota."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dsync.errors import StorageFault, Unavailable
from dsync.quota import (
    KINDS,
    Allowance,
    Calendar,
    Kind,
    SlotLog,
    Wanted,
    boot_clock,
    ends_at,
    parse_rate,
)
from dsync.system import Limits
from test_pace import N2F, NOON, Clock, busiest, pace

pytestmark = pytest.mark.unit

LIMITS = Limits.model_validate(N2F)
ZONES = ("Europe/Brussels", "Asia/Kolkata", "America/Santiago", "Australia/Lord_Howe")
"""With half-hour offsets, southern summer time, and a clock that is set by half an hour."""


def calendar(zone: str = "Europe/Brussels") -> Calendar:
    return Calendar(LIMITS.quotas, zone)


def wanted(quota: str, kind: Kind = "write", lives_s: float = 60.0) -> Wanted:
    return Wanted(kind=kind, allowed=[parse_rate(quota)], spacing=None, lives_s=lives_s)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SlotLog]:
    opened = SlotLog(tmp_path / "quota" / "api.db", wall=NOON)
    yield opened
    opened.close()


def another(log: SlotLog, wall: datetime = NOON) -> SlotLog:
    """What another process would open."""
    return SlotLog(log._where, wall=wall)


# --- windows of the day -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "hour", "shift_s"), list(product(ZONES, (6, 20), (-66, -64, 0, 60, 64, 126)))
)
def test_edges_of_the_day(zone: str, hour: int, shift_s: int) -> None:
    """Within 65 s of a change of quotas, in any zone, both hold; else just the one of the hour."""
    edge = datetime(2030, 5, 15, hour, 0, tzinfo=ZoneInfo(zone))
    moment = edge.astimezone(UTC) + timedelta(seconds=shift_s)
    held = {allowed.calls for allowed in calendar(zone).in_force("write", moment)}
    if shift_s in (-66, 126):
        by_day = (hour == 6) == (shift_s > 0)
        assert held == {10 if by_day else 50}
    else:
        assert held == {10, 50}


@pytest.mark.parametrize(
    ("zone", "moment"),
    [
        ("Europe/Brussels", datetime(2030, 3, 31, 1, 0, tzinfo=UTC)),
        ("Europe/Brussels", datetime(2030, 10, 27, 1, 0, tzinfo=UTC)),
        ("America/Santiago", datetime(2030, 9, 8, 4, 0, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2030, 4, 6, 15, 0, tzinfo=UTC)),
    ],
)
def test_changes_of_the_clocks(zone: str, moment: datetime) -> None:
    """For an hour around a change of the clocks the quotas of both readings hold."""
    offsets = [
        (moment + timedelta(minutes=minutes)).astimezone(ZoneInfo(zone)).utcoffset()
        for minutes in (-1, 1)
    ]
    assert offsets[0] != offsets[1]
    shown = (moment + (offsets[1] or timedelta())).replace(tzinfo=None)
    edge = f"{shown.hour:02}:{shown.minute:02}" if shown.hour else "00:30"
    split = [
        {"from": "00:00", "to": edge, "write": "5/min"},
        {"from": edge, "to": "24:00", "write": "7/min"},
    ]
    found = Calendar(Limits.model_validate({"quotas": split}).quotas, zone)
    for minutes in range(-59, 60, 7):
        now = moment + timedelta(minutes=minutes)
        readings = [(now + (offset or timedelta())).strftime("%H:%M") for offset in offsets]
        held = {a.calls for a in found.in_force("write", now)}
        assert {5 if reading < edge else 7 for reading in readings} <= held


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC),
        datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2031, 1, 1, 0, 0, tzinfo=UTC),
        datetime(2016, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
)
def test_odd_days(moment: datetime) -> None:
    """Leap days, ends of years and leap seconds are days like others."""
    assert [a.calls for a in calendar().in_force("write", moment)] == [50]


@pytest.mark.parametrize(
    "jump", [timedelta(hours=-1), timedelta(hours=1), timedelta(days=-1), timedelta(days=3650)]
)
def test_a_clock_that_is_set(jump: timedelta) -> None:
    """When the clock on the wall jumps, all quotas hold for a window: nobody knows the hour."""
    clock = Clock(datetime(2030, 6, 1, 22, 0, tzinfo=UTC))  # by night: 50 writes
    moments: list[float] = []

    async def main() -> None:
        limiter = pace(clock, N2F)
        clock._wall += jump

        async def call() -> None:
            async with limiter.slot("write"):
                moments.append(clock.now)

        await clock.run(*(call() for _ in range(50)))

    asyncio.run(main())
    assert busiest([m for m in moments if m < 60], 60) == 10


def test_a_clock_that_stands(caplog: pytest.LogCaptureFixture) -> None:
    """A wall clock that stands still is never trusted: the lower quota holds on."""
    clock = Clock(datetime(2030, 6, 1, 22, 0, tzinfo=UTC))
    moments: list[float] = []

    async def main() -> None:
        limiter = pace(clock, N2F)
        standing = clock.wall()
        limiter._wall = lambda: standing

        async def call() -> None:
            async with limiter.slot("write"):
                moments.append(clock.now)
            await clock.sleep(5)

        await clock.run(*(call() for _ in range(120)))

    asyncio.run(main())
    assert busiest([m for m in moments if m > 60], 60) <= 10


def test_a_machine_that_slept() -> None:
    """Slots age while the machine sleeps: its clock since boot goes on."""
    log = SlotLog(None, wall=NOON)
    for _ in range(10):
        slot, wait_s = log.ask(wanted("10/min"), 0.0)
        log.answered(slot, 0.0)
        assert wait_s == 0
    assert log.ask(wanted("10/min"), 1.0)[1] == pytest.approx(59)
    assert log.ask(wanted("10/min"), 600.0)[1] == 0


# --- how long it will take ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "calls", "end"),
    [
        ("2030-06-03T16:00", {"write": 5000}, "2030-06-03T20:52"),
        ("2030-06-03T16:00", {"write": 10}, "2030-06-03T16:00"),
        ("2030-06-03T16:00", {"write": 610}, "2030-06-03T17:00"),
        ("2030-06-03T16:00", {"write": 12}, "2030-06-03T16:01"),
        ("2030-06-03T21:00", {"write": 650, "read": 200}, "2030-06-03T21:12"),
        ("2030-06-03T10:00", {"read": 660, "write": 1}, "2030-06-03T10:10"),
        ("2030-06-03T05:50", {"write": 700}, "2030-06-03T06:19"),
        ("2030-06-03T12:00", {}, "2030-06-03T12:00"),
    ],
)
def test_when_it_ends(begin: str, calls: dict[Kind, int], end: str) -> None:
    """The forecast goes through the windows of the day, each at its own quota."""
    zone = ZoneInfo("Europe/Brussels")
    start = datetime.fromisoformat(begin).replace(tzinfo=zone).astimezone(UTC)
    found = ends_at(LIMITS, calls, start, rate=None)
    assert found.astimezone(zone).strftime("%Y-%m-%dT%H:%M") == end


def test_the_forecast_is_what_happens() -> None:
    """Calls that all want to go end when the forecast said, within a minute and the margin."""
    clock = Clock(datetime(2030, 6, 3, 17, 30, tzinfo=UTC))  # 19:30 in Brussels
    begin, limiter = clock.wall(), pace(clock, {**N2F, "concurrency": 1})

    async def main() -> None:
        for _ in range(800):
            async with limiter.slot("write"):
                pass

    asyncio.run(_driven(clock, main()))
    foretold = ends_at(LIMITS, {"write": 800}, begin, rate=None)
    assert abs((clock.wall() - foretold).total_seconds()) < 130


async def _driven(clock: Clock, work: Any) -> None:
    await clock.run(work)


def test_a_rate_alone_foretells() -> None:
    """Without quotas the rate says when it ends; without either it is now."""
    begin = NOON
    rate = Allowance(2, 1)
    free = Limits.model_validate({})
    assert ends_at(free, {"write": 120}, begin, rate=rate) == begin + timedelta(minutes=1)
    assert ends_at(free, {"write": 120}, begin, rate=None) == begin


# --- the log of slots ---------------------------------------------------------------------------


@pytest.mark.parametrize("quota", ["1/min", "10/min", "60/min", "200/min", "5/s"])
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("killed", [False, True])
def test_processes_share_a_quota(quota: str, processes: int, killed: bool, tmp_path: Path) -> None:
    """All that share a file keep the quota together, use it up, and get equal parts of it.

    By a clock of the test; `killed`: one of them dies with a call under way, and one comes back.
    """
    allowed, path = parse_rate(quota), tmp_path / "api.db"
    logs = [SlotLog(path, wall=NOON) for _ in range(processes)]
    ready = [0.0] * processes
    seen: list[tuple[float, int]] = []
    now, until = 0.0, 4.5 * allowed.window_s
    died = not killed
    while now < until:
        for index, log in enumerate(logs):
            if ready[index] > now:
                continue
            if not died and now > allowed.window_s:
                log.ask(wanted(quota, lives_s=allowed.window_s / 10), now)  # never answered
                logs[index], died = SlotLog(path, wall=NOON), True
                continue
            slot, wait_s = log.ask(wanted(quota), now)
            if wait_s == 0:
                seen.append((now, index))
                log.answered(slot, now)
                wait_s = 1e-4
            ready[index] = now + wait_s
        now = min(ready) if min(ready) > now else now + 1e-4
    moments = [at for at, _ in seen]
    assert busiest(moments, allowed.window_s) <= allowed.calls
    assert len(moments) >= 0.97 * 4 * allowed.calls - killed
    if allowed.calls >= 10:
        shares = [sum(index == who for _, who in seen) for index in range(processes)]
        assert min(shares) >= 0.25 * len(seen) / processes


def test_a_slot_of_the_dead_counts_as_long_as_its_call_could_live(log: SlotLog) -> None:
    """Who dies with a call under way holds its slot until a window after the call's deadline."""
    log.ask(wanted("1/min", lives_s=30), 0.0)
    later = another(log)
    assert later.ask(wanted("1/min"), 30.0)[1] > 0
    assert later.ask(wanted("1/min"), 89.0)[1] > 0
    assert later.ask(wanted("1/min"), 90.1)[1] == 0


def test_a_pause_is_shared(log: SlotLog) -> None:
    """What one process was told to wait, all wait."""
    log.pause(100.0, 10.0, NOON)
    assert another(log).ask(wanted("10/min"), 20.0)[1] == pytest.approx(80)
    log.pause(50.0, 20.0, NOON)
    assert another(log).ask(wanted("10/min"), 20.0)[1] == pytest.approx(80)


def test_after_another_boot_all_slots_count_as_taken_now(log: SlotLog) -> None:
    """The clock of an earlier boot says nothing: once, all slots count as taken now."""
    for _ in range(10):
        log.answered(log.ask(wanted("10/min"), 1e6)[0], 1e6)
    log.pause(1e6 + 300, 1e6, NOON)
    log._db.execute("update facts set value = 'an earlier one' where name = 'boot'")
    later = another(log, NOON + timedelta(seconds=100))
    assert later.ask(wanted("10/min"), 50.0)[1] == pytest.approx(200)  # the pause that is left
    assert later.ask(wanted("10/min"), 49.0 + 60)[1] > 0
    assert another(log).ask(wanted("10/min"), 260.0)[1] == 0


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    """A damaged file stops the call; nobody calls without keeping the quota."""
    (tmp_path / "api.db").write_bytes(b"no database at all, but long enough to be read as one" * 9)
    with pytest.raises(StorageFault):
        SlotLog(tmp_path / "api.db", wall=NOON)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A link in the place of the file is not followed."""
    (tmp_path / "elsewhere").touch()
    (tmp_path / "api.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageFault):
        SlotLog(tmp_path / "api.db", wall=NOON)


def test_whoever_gives_up_is_not_waited_for(log: SlotLog) -> None:
    """A cancelled wait leaves the queue, and so does one whose process has died."""
    log.answered(log.ask(wanted("1/min"), 0.0)[0], 0.0)
    second, third = another(log), another(log)
    assert second.ask(wanted("1/min"), 1.0)[1] == pytest.approx(59)
    assert third.ask(wanted("1/min"), 2.0)[1] == pytest.approx(58)
    assert third.ask(wanted("1/min"), 60.1)[1] > 0, "the second came first"
    second.give_up("write")
    assert third.ask(wanted("1/min"), 60.2)[1] == 0


def test_who_died_in_the_queue_is_passed(log: SlotLog) -> None:
    """A place in the queue is lost when its owner does not look again when it said it would."""
    log.answered(log.ask(wanted("1/min"), 0.0)[0], 0.0)
    another(log).ask(wanted("1/min"), 1.0)
    third = another(log)
    third.ask(wanted("1/min"), 2.0)
    assert third.ask(wanted("1/min"), 63.0)[1] == 0


def test_a_quota_that_is_used_up_for_hours_ends_the_run() -> None:
    """More than an hour is not waited for: the error says until when."""
    clock = Clock()
    limits = {"quotas": [{"write": "1/d"}]}

    async def main() -> None:
        limiter = pace(clock, limits)

        async def calls() -> None:
            for _ in range(2):
                async with limiter.slot("write"):
                    pass

        await clock.run(calls())

    with pytest.raises(Unavailable, match="2030-06-02T12:00:00") as caught:
        asyncio.run(main())
    assert caught.value.code == "DS-PACE-WAIT"


# --- real processes -----------------------------------------------------------------------------

CALLER = """
import asyncio, json, sys, time
from pathlib import Path
from dsync.pace import Pace
from dsync.quota import boot_clock
from dsync.system import Limits

async def main(path, limits, calls):
    pace = Pace(Limits.model_validate(limits), shared=Path(path), call_s=0.2)
    for _ in range(calls):
        async with pace.lane("all"):
            async with pace.slot("write"):
                at = boot_clock()
                await asyncio.sleep(0.002)
                print(json.dumps([at, boot_clock()]), flush=True)

asyncio.run(main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])))
"""


def callers(path: Path, limits: dict[str, Any], calls: list[int]) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [sys.executable, "-c", CALLER, str(path), json.dumps(limits), str(count)],
            stdout=subprocess.PIPE, text=True, env={**os.environ},
        )
        for count in calls
    ]  # fmt: skip


@pytest.mark.integration
def test_real_processes_share_a_rate_and_a_quota(tmp_path: Path) -> None:
    """Three processes, one of them killed, keep 20 calls in two seconds between them."""
    limits = {"quotas": [{"write": "10/s"}], "concurrency": 4}
    begun = boot_clock()
    children = callers(tmp_path / "api.db", limits, [14, 14, 1000])
    time.sleep(1.5)
    children[2].send_signal(signal.SIGKILL)
    told = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children[:2]] == [0, 0]
    moments = [json.loads(line)[0] for text in told for line in text.splitlines()]
    assert len(moments) >= 28
    assert busiest(sorted(moments), 1.0) <= 10
    assert min(moments) >= begun


@pytest.mark.integration
def test_many_begin_at_once(tmp_path: Path) -> None:
    """Processes that all make the file in the same instant do not fail each other."""
    for number in range(3):
        path = tmp_path / str(number) / "api.db"
        children = callers(path, {"quotas": [{"write": "1000/s"}]}, [1] * 6)
        told = [child.communicate()[0] for child in children]
        assert [child.returncode for child in children] == [0] * 6, told


@pytest.mark.integration
def test_a_sequential_api_has_one_call_in_flight_in_all_processes(tmp_path: Path) -> None:
    """Sequential means sequential: calls of three processes never overlap, and nobody starves."""
    children = callers(tmp_path / "api.db", {"sequential": True}, [60, 60, 60])
    told = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    calls = sorted(
        (*json.loads(line), who) for who, text in enumerate(told) for line in text.splitlines()
    )
    assert len(calls) == 180
    assert all(ended <= begun for (_, ended, _), (begun, _, _) in pairwise(calls))


def test_kinds_have_quotas_of_their_own() -> None:
    """Reads do not use up writes."""
    log = SlotLog(None, wall=NOON)
    for kind in KINDS:
        assert log.ask(wanted("1/min", kind), 0.0)[1] == 0
