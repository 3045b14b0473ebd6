"""When the next call may go: lanes, concurrency, rate, quotas by the hour, pauses, back-off.

A call passes, in this order, its lane (sequential systems: one at a time in a scope), the width
(calls in flight), the gate (pause, quota, rate). All waits end at once when they are cancelled.
Clock, sleep and chance are arguments, so that tests need no time.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog

from dsync.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from dsync.system import Limits, Quota

_log = structlog.get_logger()

Kind = Literal["read", "write"]

LONGEST_PAUSE_S = 15 * 60.0
MARGIN_S = 65.0
"""So long before and after a change of quotas the lower of both holds: clocks differ."""

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Allowance:
    """`calls` in any `window_s` seconds."""

    calls: float
    window_s: float

    @property
    def per_s(self) -> float:
        """The mean rate."""
        return self.calls / self.window_s


def parse_rate(text: str) -> Allowance:
    """`5/s`, `60/min`, `1000/h`, `20000/d`. Raises: Invalid DS-RATE."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)/(s|min|h|d)", text)
    if match is None or float(match[1]) == 0:
        raise Invalid(
            f"{text!r} is no rate", code="DS-RATE", hint="write it as 5/s, 60/min, 1000/h or 1/d"
        )
    calls, window_s = float(match[1]), _UNITS[match[2]]
    return Allowance(calls, window_s) if calls >= 1 else Allowance(1.0, window_s / calls)


class Pace:
    """The limits of one API as seen by this process; the three overrides come from a connection.

    A rate without a declared burst is read as a burst of 1, and then kept at 90 %: two calls that
    leave evenly may still arrive closer together than they left. With a burst, one call of it is
    kept back for that.

    Raises: Invalid for a rate or a time zone that is none.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        rate: str | None = None,
        burst: int | None = None,
        concurrency: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._sleep, self._wall, self._chance = clock, sleep, wall, chance
        self._sequential = limits.sequential
        self._lanes: dict[str, asyncio.Lock] = {}
        self._width = Width(concurrency or limits.concurrency)
        self._gates: dict[Kind, asyncio.Lock] = {"read": asyncio.Lock(), "write": asyncio.Lock()}
        declared = rate or limits.rate
        self._rate = Bucket(parse_rate(declared), burst or limits.burst) if declared else None
        self._quotas = Quotas(limits.quotas, limits.time_zone)
        self._paused_until = float("-inf")
        self._cut_until = float("-inf")
        self.budget = Budget()

    @asynccontextmanager
    async def lane(self, scope: str) -> AsyncIterator[None]:
        """Hold the only lane of `scope`, where the system is sequential; else nothing.

        A write holds it until its job has a verdict; calls inside take slots, not the lane.
        """
        if not self._sequential:
            yield
            return
        async with self._lanes.setdefault(scope, asyncio.Lock()):
            yield

    @asynccontextmanager
    async def slot(self, kind: Kind) -> AsyncIterator[None]:
        """Wait until one call of this kind may go; hold it while the call is under way."""
        await self._width.enter()
        try:
            async with self._gates[kind]:
                while (wait := self._wait_s(kind)) > 0:
                    await self._sleep(wait)
                if self._rate:
                    self._rate.take(self._clock())
                self._quotas.take(kind)
            try:
                yield
            finally:
                # The API saw the call between our send and its answer: counting from the answer
                # keeps its window too, wherever it begins.
                self._quotas.give_back(kind, self._clock())
        finally:
            self._width.leave()

    def pause(self, seconds: float) -> None:
        """No call may go for so long, on no lane."""
        until = self._clock() + seconds
        if until > self._paused_until:
            self._paused_until = until
            _log.info("pausing", seconds=round(seconds, 1))

    def throttled(self, headers: Mapping[str, str], sent_at: datetime, attempt: int) -> None:
        """Heed a 429 or 503: pause all lanes, and let fewer calls fly together for a while.

        `sent_at` is the answer's `Date`. Without a usable `Retry-After` our own back-off holds.

        Raises: Unavailable DS-PACE-WAIT when the API asks for more than 15 minutes.
        """
        wait = self.backoff(attempt, base_s=2.0)
        asked = retry_after_s(headers.get("retry-after"), sent_at)
        if asked is not None:
            if asked > LONGEST_PAUSE_S:
                until = (self._wall() + timedelta(seconds=asked)).isoformat(timespec="seconds")
                raise Unavailable(
                    f"the API asks to wait until {until}",
                    code="DS-PACE-WAIT",
                    hint="run again after that; an apply goes on with `dsync resume`",
                )
            # A little more, so that the lanes do not all start again in the same instant.
            wait = max(asked + 0.1 * self._chance(), wait if asked == 0 else 0.0)
        if self._clock() >= self._cut_until:
            self._width.narrow()
        self.pause(wait)
        self._cut_until = self._paused_until

    def succeeded(self) -> None:
        """A clean answer: the budget grows, and so does the width after a while."""
        self.budget.succeeded()
        self._width.widen()

    def backoff(self, attempt: int, *, base_s: float = 0.5, cap_s: float = 60.0) -> float:
        """Seconds before try `attempt` + 1 (the first is 1), by full jitter."""
        return self._chance() * min(cap_s, base_s * 2.0 ** (attempt - 1))

    async def wait(self, seconds: float) -> None:
        """Sleep by this pace's clock."""
        await self._sleep(seconds)

    def _wait_s(self, kind: Kind) -> float:
        now = self._clock()
        waits = [self._paused_until - now, self._quotas.wait_s(kind, now, self._wall())]
        if self._rate:
            waits.append(self._rate.wait_s(now))
        return max(waits)


class Bucket:
    """GCRA: a rate with a burst, in one number (the moment at which the bucket is empty again)."""

    def __init__(self, allowance: Allowance, burst: int) -> None:
        self._interval = 1 / allowance.per_s / (1.0 if burst > 1 else 0.9)
        self._slack = self._interval * (max(burst - 1, 1) - 1)
        self._free_at = float("-inf")

    def wait_s(self, now: float) -> float:
        """Seconds until a call may go; 0 or less: now."""
        return self._free_at - self._slack - now

    def take(self, now: float) -> None:
        """One call goes."""
        self._free_at = max(self._free_at, now) + self._interval


class Quotas:
    """Calls allowed in windows of the day: an exact log of slots, one for each kind.

    A slot is free again a window after the *answer* of the call that used it.
    """

    def __init__(self, quotas: list[Quota], time_zone: str) -> None:
        try:
            self._zone = ZoneInfo(time_zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise Invalid(
                f"{time_zone!r} is no time zone",
                code="DS-ZONE",
                hint="name it as in Europe/Brussels or UTC",
            ) from None
        self._spans: list[tuple[int, int, dict[Kind, Allowance]]] = []
        for quota in quotas:
            allowed: dict[Kind, Allowance] = {}
            if quota.read:
                allowed["read"] = parse_rate(quota.read)
            if quota.write:
                allowed["write"] = parse_rate(quota.write)
            self._spans.append((_minute(quota.from_), _minute(quota.to), allowed))
        windows = [a.window_s for _, _, allowed in self._spans for a in allowed.values()]
        self._longest_s = max(windows, default=0.0)
        self._under_way: dict[Kind, int] = {"read": 0, "write": 0}
        self._answered: dict[Kind, deque[float]] = {"read": deque(), "write": deque()}

    def wait_s(self, kind: Kind, now: float, wall: datetime) -> float:
        """Seconds until a slot may be free; 0 or less: now."""
        log = self._answered[kind]
        while log and log[0] <= now - self._longest_s:
            log.popleft()
        return max((self._wait(a, kind, now) for a in self._in_force(kind, wall)), default=0.0)

    def take(self, kind: Kind) -> None:
        """One call goes."""
        self._under_way[kind] += 1

    def give_back(self, kind: Kind, now: float) -> None:
        """Its answer came, or never will."""
        self._under_way[kind] -= 1
        if self._spans:
            self._answered[kind].append(now)

    def _wait(self, allowed: Allowance, kind: Kind, now: float) -> float:
        log, free = self._answered[kind], int(allowed.calls) - self._under_way[kind]
        if free <= 0:
            return min(1.0, allowed.window_s)
        if len(log) < free:
            return 0.0
        return log[-free] + allowed.window_s - now

    def _in_force(self, kind: Kind, wall: datetime) -> list[Allowance]:
        found = []
        for shift in (-MARGIN_S, 0.0, MARGIN_S):
            local = (wall + timedelta(seconds=shift)).astimezone(self._zone)
            minute = local.hour * 60 + local.minute
            for begin, end, allowed in self._spans:
                inside = begin <= minute < end if begin < end else minute >= begin or minute < end
                if inside and kind in allowed and allowed[kind] not in found:
                    found.append(allowed[kind])
        return found


def _minute(text: str) -> int:
    hour, _, minute = text.partition(":")
    return int(hour) * 60 + int(minute)


class Width:
    """How many calls may fly together: `most`, halved when throttled, one more after a while."""

    GROW_AFTER = 20

    def __init__(self, most: int) -> None:
        self._most = self.now = most
        self._flying = 0
        self._clean = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for room, in order of arrival."""
        if self._flying < self.now and not self._waiting:
            self._flying += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting = deque(other for other in self._waiting if other is not turn)
            else:  # our turn had come in the same instant
                self.leave()
            raise

    def leave(self) -> None:
        """Make room."""
        self._flying -= 1
        self._wake()

    def narrow(self) -> None:
        """Half as many from now on."""
        self.now = max(1, self.now // 2)
        self._clean = 0

    def widen(self) -> None:
        """One more after so many clean answers, up to `most`."""
        self._clean += 1
        if self._clean >= self.GROW_AFTER and self.now < self._most:
            self.now += 1
            self._clean = 0
            self._wake()

    def _wake(self) -> None:
        while self._waiting and self._flying < self.now:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._flying += 1
                waiter.set_result(None)


class Budget:
    """How many retries an API in trouble may still get, so that we do not make it worse.

    At most 3 and a tenth of the last 100 calls, and a pool of 100: a retry takes 5 from it, one
    after a time-out 10, and each clean answer gives 1 back.
    """

    def __init__(self) -> None:
        self._recent: deque[bool] = deque(maxlen=100)
        self._pool = 100

    def succeeded(self) -> None:
        """A call ended well."""
        self._recent.append(False)
        self._pool = min(100, self._pool + 1)

    def spend(self, *, timed_out: bool = False) -> bool:
        """Take one retry out of the budget; False when there is none left."""
        cost = 10 if timed_out else 5
        if self._pool < cost or sum(self._recent) >= 3 + len(self._recent) // 10:
            return False
        self._pool -= cost
        self._recent.append(True)
        return True


def retry_after_s(text: str | None, sent_at: datetime) -> float | None:
    """Seconds that a `Retry-After` asks for; None when it is missing or absurd.

    A date is read against the answer's own `Date`, so that a wrong clock does no harm.
    """
    text = (text or "").strip()
    if re.fullmatch(r"\d{1,10}", text):
        seconds = float(text)
        return seconds if seconds <= 86400 else None
    moment = http_date(text)
    if moment is None:
        return None
    seconds = (moment - sent_at).total_seconds()
    return seconds if 0 <= seconds <= 86400 else None


def http_date(text: str) -> datetime | None:
    """A moment in the form of `Date` and `Retry-After`; None when it is none."""
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
