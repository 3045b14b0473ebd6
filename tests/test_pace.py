"""The limiter on a clock of its own: no test waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dsync.errors import Invalid, Unavailable
from dsync.pace import Breaker, Budget, Pace, Width, retry_after_s
from dsync.quota import Kind, parse_rate
from dsync.system import Limits

pytestmark = pytest.mark.unit

NOON = datetime(2030, 6, 1, 12, 0, tzinfo=UTC)


class Clock:
    """Time that passes only where somebody sleeps; sleepers wake in order."""

    def __init__(self, wall: datetime = NOON) -> None:
        self.now = 0.0
        self._wall = wall
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def read(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return self._wall + timedelta(seconds=self.now)

    async def sleep(self, seconds: float) -> None:
        self._count += 1
        alarm = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + max(0.0, seconds), self._count, alarm))
        await alarm

    async def run(self, *works: Awaitable[None]) -> None:
        """Run all to their end, moving time on whenever everybody sleeps."""
        tasks = [asyncio.ensure_future(work) for work in works]
        while not all(task.done() for task in tasks):
            for _ in range(20):
                await asyncio.sleep(0)
            if self._sleepers and not all(task.done() for task in tasks):
                self._sleepers.sort(key=lambda sleeper: sleeper[:2])
                at, _, alarm = self._sleepers.pop(0)
                self.now = max(self.now, at)
                if not alarm.done():
                    alarm.set_result(None)
        for task in tasks:
            task.result()


def pace(clock: Clock, limits: dict[str, Any], **overrides: Any) -> Pace:
    return Pace(
        Limits.model_validate(limits),
        clock=clock.read,
        sleep=clock.sleep,
        wall=clock.wall,
        chance=lambda: 0.5,
        **overrides,
    )


def sent(
    limits: dict[str, Any],
    calls: int,
    *,
    kind: Kind = "read",
    takes_s: float = 0.0,
    clock: Clock | None = None,
    **overrides: Any,
) -> list[float]:
    """The moments at which so many calls went, all wanting to go at once."""
    clock = clock or Clock()
    moments: list[float] = []

    async def main() -> None:
        limiter = pace(clock, limits, **overrides)

        async def call() -> None:
            async with limiter.slot(kind):
                moments.append(round(clock.now, 3))
                if takes_s:
                    await clock.sleep(takes_s)

        await clock.run(*(call() for _ in range(calls)))

    asyncio.run(main())
    return moments


def busiest(moments: list[float], window_s: float) -> int:
    """The most calls in any window."""
    return max(sum(m <= other < m + window_s for other in moments) for m in moments)


# ---- rate --------------------------------------------------------------------------------------


def test_no_limit_no_wait() -> None:
    """Without a declared rate nothing waits but for room."""
    assert sent({"concurrency": 100}, 50) == [0.0] * 50


def test_a_rate_without_a_burst_is_kept_at_ninety_percent() -> None:
    """Even calls may arrive closer together than they left, so a bare rate is not used up."""
    moments = sent({"rate": "10/s"}, 10)
    gaps = [round(b - a, 3) for a, b in pairwise(moments)]
    assert gaps == pytest.approx([0.111] * 9, abs=0.002)


def test_a_burst_goes_at_once_but_for_one_call() -> None:
    """Of a declared burst one call is kept back for jitter; then the full rate holds."""
    moments = sent({"rate": "10/s", "burst": 5, "concurrency": 100}, 24)
    assert moments[:4] == [0.0] * 4
    assert moments[-1] == pytest.approx(2.0)


def test_a_connection_may_override_rate_and_burst() -> None:
    """`--rate` and the connection's settings replace what the system file says."""
    assert sent({"rate": "1/h"}, 10, rate="10/s", burst=4)[-1] == pytest.approx(0.7)


@pytest.mark.parametrize("text", ["5", "5/y", "0/s", "-1/s", "x/s", "5/s/s"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    """A rate is a number and a unit."""
    with pytest.raises(Invalid):
        parse_rate(text)


def test_a_slow_rate_is_one_call_in_a_longer_window() -> None:
    """Half a call a minute is one in two minutes."""
    assert (parse_rate("0.5/min").calls, parse_rate("0.5/min").window_s) == (1, 120)


# ---- room --------------------------------------------------------------------------------------


def test_concurrency_is_never_exceeded() -> None:
    """So many calls fly together and no more; the rest come in order."""
    assert sent({"concurrency": 2}, 6, takes_s=1) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_sequential_system_has_one_lane_a_scope(is_shared: bool, tmp_path: Path) -> None:
    """In one scope all goes one by one, the job included; other scopes go on beside it."""
    clock = Clock()
    seen: list[tuple[str, float]] = []

    async def main() -> None:
        shared = tmp_path / "api.db" if is_shared else None
        limiter = pace(clock, {"sequential": True}, shared=shared)

        async def write(scope: str) -> None:
            async with limiter.lane(scope):
                for _ in range(2):
                    async with limiter.slot("write"):
                        seen.append((scope, clock.now))
                        await clock.sleep(1)

        await clock.run(write("a"), write("a"), write("b"))

    asyncio.run(main())
    assert [at for scope, at in seen if scope == "a"] == [0, 1, 2, 3]
    assert [at for scope, at in seen if scope == "b"] == [0, 1]


def test_a_cancelled_waiter_gives_its_place_up() -> None:
    """A wait that is cancelled neither blocks the next one nor takes room for ever."""

    async def main() -> None:
        width = Width(1)
        await width.enter()
        waiting = [asyncio.create_task(width.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        width.leave()
        waiting[1].cancel()  # in the same instant as its turn
        await asyncio.gather(*waiting[:2], return_exceptions=True)
        await asyncio.wait_for(waiting[2], 1)
        width.leave()
        await asyncio.wait_for(width.enter(), 1)

    asyncio.run(main())


def test_a_wait_for_the_rate_can_be_cancelled() -> None:
    """Nobody has to sit out a long wait: cancelling ends it and frees its room."""

    async def main() -> None:
        limiter = Pace(Limits.model_validate({"rate": "2/h", "concurrency": 1}))
        async with limiter.slot("read"):
            pass

        async def call() -> None:
            async with limiter.slot("read"):
                raise AssertionError("too early")

        task = asyncio.create_task(call())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    asyncio.run(main())


# ---- quotas ------------------------------------------------------------------------------------

N2F = {
    "concurrency": 100,
    "time_zone": "Europe/Brussels",
    "quotas": [
        {"from": "06:00", "to": "20:00", "read": "60/min", "write": "10/min"},
        {"from": "20:00", "to": "06:00", "read": "200/min", "write": "50/min"},
    ],
}


@pytest.mark.parametrize(("kind", "quota"), [("read", 60), ("write", 10)])
def test_no_window_holds_more_calls_than_its_quota(kind: Kind, quota: int) -> None:
    """In any minute, fixed or sliding, at most the quota goes; and it is used up."""
    moments = sent(N2F, 3 * quota, kind=kind)
    assert busiest(moments, 60) == quota
    assert moments[-1] == pytest.approx(120)


def test_a_slot_comes_back_a_window_after_the_answer() -> None:
    """The API may have seen the call as late as its answer: the window begins there."""
    moments = sent(N2F, 11, kind="write", takes_s=5)
    assert moments[:10] == [0.0] * 10
    assert moments[10] == pytest.approx(65)


def test_the_lower_quota_holds_around_the_change() -> None:
    """A minute on either side of the change of quotas the lower one holds: no double allowance."""
    # 20:00 in Brussels is 18:00 UTC in June.
    for minutes, quota in ((-3, 10), (0.5, 10), (3, 50)):
        clock = Clock(datetime(2030, 6, 1, 18, 0, tzinfo=UTC) + timedelta(minutes=minutes))
        assert sent(N2F, 50, kind="write", clock=clock).count(0.0) == quota


# ---- being told to wait ------------------------------------------------------------------------


def test_a_pause_holds_on_all_lanes() -> None:
    """After a 429 no call goes, on no lane, before the time that the API named."""
    clock = Clock()
    moments: list[float] = []

    async def main() -> None:
        limiter = pace(clock, {"concurrency": 8})
        limiter.throttled({"retry-after": "30"}, clock.wall(), 1)

        async def call(kind: Kind) -> None:
            async with limiter.slot(kind):
                moments.append(clock.now)

        await clock.run(call("read"), call("write"), call("read"))

    asyncio.run(main())
    assert moments == pytest.approx([30.05] * 3)


def test_a_longer_pause_that_comes_while_waiting_is_kept() -> None:
    """A lane that sleeps heeds a pause that was told meanwhile."""
    clock = Clock()
    moments: list[float] = []

    async def main() -> None:
        limiter = pace(clock, {})
        limiter.pause(5)

        async def call() -> None:
            async with limiter.slot("read"):
                moments.append(clock.now)

        async def meanwhile() -> None:
            await clock.sleep(3)
            limiter.pause(10)

        await clock.run(call(), meanwhile())

    asyncio.run(main())
    assert moments == [13]


def test_throttling_narrows_and_success_widens_again() -> None:
    """Fewer calls fly together after a 429, halved once a pause; quiet windows bring them back."""

    async def main() -> None:
        clock = Clock()
        limiter = pace(clock, {"concurrency": 8})
        for _ in range(3):
            limiter.throttled({"retry-after": "1"}, clock.wall(), 1)
        assert limiter._width.now == 4
        clock.now += 5
        limiter.throttled({"retry-after": "1"}, clock.wall(), 1)
        assert limiter._width.now == 2
        clock.now += 75
        limiter.succeeded()
        assert limiter._width.now == 7
        clock.now += 10
        limiter.succeeded()
        assert limiter._width.now == 8

    asyncio.run(main())


def test_an_api_that_asks_for_too_long_is_told() -> None:
    """More than 15 minutes are not waited for: the error says until when."""
    clock = Clock()
    limiter = pace(clock, {})
    with pytest.raises(Unavailable, match="2030-06-01T13:00:00") as caught:
        limiter.throttled({"retry-after": "3600"}, clock.wall(), 1)
    assert caught.value.code == "DS-PACE-WAIT"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("0", 0),
        (" 7 ", 7),
        ("Sat, 01 Jun 2030 12:00:30 GMT", 30),
        ("Sat, 01 Jun 2030 11:59:00 GMT", None),
        ("86401", None),
        ("99999999999", None),
        ("-5", None),
        ("1.5", 1.5),
        ("1.", None),
        ("1e3", None),
        ("NaN", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    """Both forms are read, a date against the answer's own date; what is absurd is ignored."""
    assert retry_after_s(text, NOON) == seconds


@pytest.mark.parametrize(("attempt", "wait_s"), [(1, 0.25), (2, 0.5), (4, 2.0), (30, 30.0)])
def test_back_off_doubles_up_to_its_cap(attempt: int, wait_s: float) -> None:
    """Each try waits a random part of twice as long as the one before, at most a minute."""
    assert pace(Clock(), {}).backoff(attempt) == wait_s


def test_the_budget_of_retries_is_small_and_comes_back() -> None:
    """Three retries are free, then a tenth of the calls; clean answers bring it back."""
    budget = Budget()
    assert [budget.spend() for _ in range(5)] == [True, True, True, False, False]
    for _ in range(100):
        budget.succeeded()
    assert sum(budget.spend() for _ in range(30)) == 13


def test_a_wait_goes_by_the_given_clock() -> None:
    """A wait goes by the clock that was given."""
    clock = Clock()

    async def main() -> None:
        wait: Callable[[float], Awaitable[None]] = pace(clock, {}).wait
        await clock.run(wait(7))

    asyncio.run(main())
    assert clock.now == 7


# ---- what the API says of its limits -----------------------------------------------------------


EPOCH = str(int(NOON.timestamp()) + 10)


def after_headers(headers: dict[str, str], calls: int, **limits: Any) -> list[float]:
    """When calls went that wanted to go at once, after an answer with these headers."""
    clock = Clock()
    moments: list[float] = []

    async def main() -> None:
        limiter = pace(clock, {"concurrency": 100, **limits})
        limiter.heard(headers, clock.wall())

        async def call() -> None:
            async with limiter.slot("read"):
                moments.append(round(clock.now, 3))

        await clock.run(*(call() for _ in range(calls)))

    asyncio.run(main())
    return moments


@pytest.mark.parametrize(
    ("headers", "limits", "at_once", "then"),
    [
        ({"ratelimit": '"default";r=3;t=20'}, {}, 3, 20),
        ({"ratelimit": '"burst";r=5;t=2, "daily";r=2;t=50'}, {}, 2, 50),
        ({"ratelimit": '"a;b,c";r=0;t=7'}, {}, 0, 7),
        ({"ratelimit-remaining": "4", "ratelimit-reset": "9"}, {}, 4, 9),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": "5"}, {"reset": "seconds"}, 1, 5),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": EPOCH}, {"reset": "epoch"}, 1, 10),
        ({"ratelimit-policy": '"default";q=2;w=30'}, {}, 2, 30),
        ({"ratelimit-policy": '"fast";q=6;w=1, "slow";q=4;w=60'}, {}, 4, 60),
    ],
)  # fmt: skip
def test_an_api_that_tells_its_limits_is_heeded(
    headers: dict[str, str], limits: dict[str, Any], at_once: int, then: float
) -> None:
    """So many calls go as the API said it takes, and the next one when it said it takes more."""
    moments = after_headers(headers, at_once + 1, **limits)
    assert moments == [0.0] * at_once + [then]


@pytest.mark.parametrize(
    "headers",
    [
        {"ratelimit": ""},
        {"ratelimit": "nonsense"},
        {"ratelimit": '"x";r=-1;t=5'},
        {"ratelimit": '"x";r=NaN;t=5'},
        {"ratelimit": '"x";r=0;t=99999999999'},
        {"ratelimit": '"x";r=0;t=100000'},
        {"ratelimit": '"x";r=0'},
        {"ratelimit-remaining": "0"},
        {"ratelimit-remaining": "none", "ratelimit-reset": "9"},
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9"},
        {"ratelimit-policy": '"x";q=0;w=9, "y";q=1, ;;;,'},
        {"ratelimit-policy": '"x";q=1;w=9999999'},
    ],
)
def test_limits_that_cannot_be_read_are_not_heeded(headers: dict[str, str]) -> None:
    """What is malformed, absurd, or not said to be understood changes nothing."""
    assert after_headers(headers, 3) == [0.0] * 3


def test_what_an_api_tells_never_makes_us_faster() -> None:
    """A generous policy does not lift the limit that the system file tells."""
    told = {"ratelimit-policy": '"x";q=1000;w=1', "ratelimit": '"x";r=1000;t=1'}
    limits = {"quotas": [{"read": "2/min"}]}
    assert after_headers(told, 3, **limits) == [0.0, 0.0, 60.0]


# ---- an API that throttles or fails ------------------------------------------------------------


def test_an_api_that_halves_its_quota_is_kept_to_it() -> None:
    """Against a server whose quota is half of what is declared, few calls are throttled."""
    clock = Clock()
    seen: list[float] = []
    throttled: list[float] = []

    async def main() -> None:
        limiter = pace(clock, {"quotas": [{"write": "20/min"}], "concurrency": 2})

        async def call() -> None:
            while True:
                async with limiter.slot("write"):
                    await clock.sleep(0.01)
                    recent = [at for at in seen if at > clock.now - 60]
                    if len(recent) < 10:
                        seen.append(clock.now)
                        return
                    throttled.append(clock.now)
                    again = str(int(60 - (clock.now - recent[0])) + 1)
                    limiter.throttled({"retry-after": again}, clock.wall(), 1)

        await clock.run(*(call() for _ in range(100)))

    asyncio.run(main())
    assert len(seen) == 100
    for window in range(60, int(clock.now), 60):
        assert sum(window <= at < window + 60 for at in throttled) <= 3
    assert clock.now < 16 * 60


def fails(count: int, *, gap_s: float = 1.0) -> tuple[list[float], str | None]:
    """The moments of calls that all fail but from the `count`-th on, and the code that ends it."""
    clock = Clock()
    moments: list[float] = []

    async def main() -> None:
        limiter = pace(clock, {"concurrency": 4})

        async def calls() -> None:
            for number in range(count + 3):
                async with limiter.slot("read"):
                    moments.append(clock.now)
                    await clock.sleep(gap_s)
                    if number < count:
                        limiter.failed()
                    else:
                        limiter.worked()

        await clock.run(calls())

    try:
        asyncio.run(main())
    except Unavailable as fault:
        return moments, fault.code
    return moments, None


def test_an_api_that_fails_gets_time_to_recover() -> None:
    """After five failures in a row nobody calls for 30 s, then one at a time, twice as long."""
    moments, code = fails(7)
    assert [b - a for a, b in pairwise(moments)] == [1, 1, 1, 1, 31, 61, 121, 1, 1]
    assert code is None


def test_an_api_that_goes_on_failing_is_given_up() -> None:
    """After five times the run ends with what to do; nothing more is sent."""
    moments, code = fails(100)
    assert code == "DS-PACE-BREAKER"
    assert len(moments) == 9


def test_half_of_a_minute_is_too_much() -> None:
    """Where every second call fails for 20 calls of a minute, nobody calls for a while."""
    breaker = Breaker()
    for now in range(19):
        breaker.failed(now) if now % 2 else breaker.worked(now)
    assert breaker.wait_s(19) == 0
    breaker.failed(19)
    assert breaker.wait_s(19) == 30


def test_only_one_tries() -> None:
    """When the time is over one call goes; the others wait for what comes of it."""
    clock = Clock()
    moments: list[float] = []

    async def main() -> None:
        limiter = pace(clock, {"concurrency": 8})
        for _ in range(5):
            limiter.failed()

        async def call(kind: Kind) -> None:
            async with limiter.slot(kind):
                moments.append(round(clock.now, 1))
                await clock.sleep(3)
                limiter.worked()

        await clock.run(*(call(kind) for kind in ("read", "write", "read", "write")))

    asyncio.run(main())
    assert moments[0] == 30
    assert min(moments[1:]) >= 33
