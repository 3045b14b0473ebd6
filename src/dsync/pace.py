"""When the next call may go: lanes, width, quotas, rate, pauses, the breaker, back-off.

A call passes, in this order, its lane (sequential systems: one at a time in a scope), the width
(calls in flight) and the gate: no pause, the breaker closed, and a slot of every quota. All waits
end at once when they are cancelled. Clock, sleep and chance are arguments, so that tests need no
time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from dsync.errors import StorageFault, Unavailable
from dsync.quota import (
    LONGEST_PAUSE_S,
    Allowance,
    Calendar,
    Kind,
    SlotLog,
    Spacing,
    Wanted,
    boot_clock,
    parse_rate,
)
from dsync.storage import guarded, make_folder, try_lock

if TYPE_CHECKING:
    from dsync.system import Limits

_log = structlog.get_logger()

LONGEST_QUOTA_WAIT_S = 3600.0
"""A quota that is used up for longer ends the run instead; it goes on with `dsync resume`."""
SAID_S = 10.0
"""Shorter waits are not worth a line in the log."""
MANY = 16
"""No answer may fill our memory with limits."""
JUMP_S = 2.0
"""A clock on the wall that moves so much against the machine's own has been set."""


class Pace:
    """The limits of one API; the three overrides come from a connection.

    `shared` is a file by which processes share quotas, rate, pauses and the lanes of a sequential
    API; without it they hold for this process. `patient`: an API that fails gets time to recover,
    else its faults are told at once. `call_s` is how long one call can be under way.
    `clock` must be the same for all who share.

    Raises: Invalid for a rate or a time zone that is none; StorageFault.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        rate: str | None = None,
        burst: int | None = None,
        concurrency: int | None = None,
        shared: Path | None = None,
        patient: bool = True,
        call_s: float = 60.0,
        clock: Callable[[], float] = boot_clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._sleep, self._wall, self._chance = clock, sleep, wall, chance
        self._sequential, self._shared, self._call_s = limits.sequential, shared, call_s
        self._lanes: dict[str, asyncio.Lock] = {}
        self._width = Width(concurrency or limits.concurrency)
        self._gates: dict[Kind, asyncio.Lock] = {"read": asyncio.Lock(), "write": asyncio.Lock()}
        declared = rate or limits.rate
        self._rate = parse_rate(declared) if declared else None
        self._burst = burst or limits.burst
        self._calendar = Calendar(limits.quotas, limits.time_zone)
        self._longest_s = max(self._calendar.longest_s, self._rate.window_s if self._rate else 0.0)
        limited = self._rate is not None or bool(limits.quotas)
        self._slots = SlotLog(shared, wall=wall()) if limited else None
        self._told = Told(limits.reset)
        self._deaf = limits.headers == "ignore"
        self._factor = Factor(max(self._longest_s, 10.0))
        self._paused_until = float("-inf")
        self._cut_until = float("-inf")
        self._offset = wall().timestamp() - clock()
        self._doubt_until = float("-inf")
        self.budget = Budget()
        self.breaker = Breaker()
        self._patient = patient

    def close(self) -> None:
        """Give up our place among the processes that share."""
        if self._slots is not None:
            self._slots.close()

    @asynccontextmanager
    async def lane(self, scope: str) -> AsyncIterator[None]:
        """Hold the only lane of `scope`, where the system is sequential; else nothing.

        A write holds it until its job has a verdict; calls inside take slots, not the lane.
        """
        if not self._sequential:
            yield
            return
        async with self._lanes.setdefault(scope, asyncio.Lock()):
            if self._shared is None:
                yield
                return
            name = hashlib.sha256(scope.encode()).hexdigest()[:16]
            # Who waits holds the turnstile, so that the holder of the lane cannot overtake.
            async with contextlib.AsyncExitStack() as held:
                async with self._locked(self._shared.with_suffix(f".{name}.next")):
                    lane = self._shared.with_suffix(f".{name}.lane")
                    await held.enter_async_context(self._locked(lane))
                yield

    @asynccontextmanager
    async def _locked(self, path: Path) -> AsyncIterator[None]:
        """Hold a file's lock among processes; a process that dies gives it up."""
        with guarded(path):
            make_folder(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o600)
        try:
            wait_s = 0.002
            while not try_lock(descriptor):
                await self._sleep(wait_s)
                wait_s = min(2 * wait_s, 0.05)
            yield
        finally:
            os.close(descriptor)

    @asynccontextmanager
    async def slot(self, kind: Kind) -> AsyncIterator[None]:
        """Wait until one call of this kind may go; hold it while the call is under way.

        Raises: Unavailable DS-PACE-WAIT when a quota is used up for more than an hour,
        DS-PACE-BREAKER when the API has failed for too long; StorageFault.
        """
        await self._width.enter()
        try:
            async with self._gates[kind]:
                slot = await self._granted(kind)
                self._told.took()
                self.breaker.took()
            try:
                yield
            finally:
                # The API saw the call between our send and its answer: counting from the answer
                # keeps its window too, wherever it begins.
                self._told.gave_back()
                self.breaker.left()
                if self._slots is not None:
                    # The answer is in, and counts for more than the slot, which is free again
                    # by itself in time. Where the disk is full the next call finds that out.
                    with contextlib.suppress(StorageFault):
                        self._slots.answered(slot, self._clock())
        finally:
            self._width.leave()

    async def _granted(self, kind: Kind) -> int:
        """Wait for the gate; the number of the slot, 0 without quotas."""
        waiting = False
        try:
            while True:
                now = self._clock()
                wait_s = max(self._paused_until - now, self._told.wait_s(now))
                wait_s = max(wait_s, self.breaker.wait_s(now))
                if wait_s <= 0:
                    if self._slots is None:
                        return 0
                    slot, wait_s = self._slots.ask(self._wanted(kind, now), now)
                    waiting = wait_s > 0
                    if not waiting:
                        return slot
                if wait_s > LONGEST_QUOTA_WAIT_S:
                    raise self._too_long(f"the quota of {kind}s is used up until", wait_s)
                if wait_s > SAID_S:
                    _log.info("waiting", kind=kind, seconds=round(wait_s, 1))
                await self._sleep(wait_s)
        except BaseException:
            if waiting and self._slots is not None:
                with contextlib.suppress(StorageFault):
                    self._slots.give_up(kind)
            raise

    def _wanted(self, kind: Kind, now: float) -> Wanted:
        factor = self._factor.at(now)
        self._width.set(factor)
        allowed = [one.times(factor) for one in (*self._in_force(kind, now), *self._told.policies)]
        spacing = Spacing.of(self._rate, self._burst, factor) if self._rate else None
        return Wanted(kind=kind, allowed=allowed, spacing=spacing, lives_s=self._call_s)

    def _in_force(self, kind: Kind, now: float) -> list[Allowance]:
        """The quotas of now; all of them for a window after the clock on the wall was set."""
        if not self._calendar.longest_s:
            return []
        wall = self._wall()
        offset = wall.timestamp() - now
        if abs(offset - self._offset) > JUMP_S:
            _log.warning("the clock was set", by_s=round(offset - self._offset, 1))
            self._offset = offset
            self._doubt_until = now + self._longest_s
        if now < self._doubt_until:
            return self._calendar.every(kind)
        return self._calendar.in_force(kind, wall)

    def left(self) -> None:
        """A call leaves only now: the next one keeps its distance from here."""
        if self._rate is not None and self._slots is not None:
            now = self._clock()
            self._slots.left(Spacing.of(self._rate, self._burst, self._factor.at(now)), now)

    def pause(self, seconds: float) -> None:
        """No call may go for so long, on no lane and in no process that shares."""
        now = self._clock()
        until = now + seconds
        if until > self._paused_until:
            self._paused_until = until
            if self._slots is not None:
                self._slots.pause(until, now, self._wall())
            _log.info("pausing", seconds=round(seconds, 1))

    def throttled(self, headers: Mapping[str, str], sent_at: datetime, attempt: int) -> None:
        """Heed a 429 or 503: pause all lanes, and call less often for a while.

        `sent_at` is the answer's `Date`. Without a usable `Retry-After` our own back-off holds.

        Raises: Unavailable DS-PACE-WAIT when the API asks for more than 15 minutes.
        """
        wait = self.backoff(attempt, base_s=2.0)
        asked = retry_after_s(headers.get("retry-after"), sent_at)
        if asked is not None:
            if asked > LONGEST_PAUSE_S:
                raise self._too_long("the API asks to wait until", asked)
            # A little more, so that the lanes do not all start again in the same instant.
            wait = max(asked + 0.1 * self._chance(), wait if asked == 0 else 0.0)
        now = self._clock()
        if now >= self._cut_until:  # once for all calls that were in flight together
            self._factor.cut(now)
            self._width.set(self._factor.at(now))
        self.pause(wait)
        self._cut_until = self._paused_until

    def _too_long(self, why: str, seconds: float) -> Unavailable:
        until = (self._wall() + timedelta(seconds=seconds)).isoformat(timespec="seconds")
        return Unavailable(
            f"{why} {until}",
            code="DS-PACE-WAIT",
            hint="run again after that; an apply goes on with `dsync resume`",
        )

    def heard(self, headers: Mapping[str, str], sent_at: datetime) -> None:
        """Heed what any answer says of the API's limits; it can only make us slower."""
        if self._deaf:
            return
        self._told.heard(headers, sent_at, self._clock())
        if self._told.policies and self._slots is None:
            # The answer was got, whatever becomes of the file: then it holds for us alone.
            try:
                self._slots = SlotLog(self._shared, wall=self._wall())
            except StorageFault:
                self._slots = SlotLog(None, wall=self._wall())

    def worked(self) -> None:
        """The API answered, whatever it said, and not with a failure of its own."""
        self.breaker.worked(self._clock())

    def failed(self) -> None:
        """A call found no API, got no whole answer, or one that says the API itself failed."""
        if self._patient:
            self.breaker.failed(self._clock())

    def succeeded(self) -> None:
        """A clean answer: the budget of retries grows, and so does the width in time."""
        self.budget.succeeded()
        self._width.set(self._factor.at(self._clock()))

    def backoff(self, attempt: int, *, base_s: float = 0.5, cap_s: float = 60.0) -> float:
        """Seconds before try `attempt` + 1 (the first is 1), by full jitter."""
        return self._chance() * min(cap_s, base_s * 2.0 ** (attempt - 1))

    async def wait(self, seconds: float) -> None:
        """Sleep by this pace's clock."""
        await self._sleep(seconds)


_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


class Factor:
    """The part of all limits that we use: halved when throttled, a tenth more a quiet window."""

    LEAST = 1 / 16

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._factor = 1.0
        self._since = float("-inf")

    def at(self, now: float) -> float:
        """The factor now, 1/16 to 1."""
        while self._factor < 1 and now >= self._since + self._window_s:
            self._factor = min(1.0, self._factor + 0.1)
            self._since += self._window_s
        return self._factor

    def cut(self, now: float) -> None:
        """We were throttled."""
        self._factor = max(self.LEAST, self.at(now) / 2)
        self._since = now


class Width:
    """How many calls may fly together: `most`, or a part of it."""

    def __init__(self, most: int) -> None:
        self._most = self.now = most
        self._flying = 0
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

    def set(self, factor: float) -> None:
        """So large a part from now on, at least one."""
        now = max(1, int(self._most * factor))
        if now != self.now:
            self.now = now
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


class Breaker:
    """Keeps calls from an API that fails: after some failures nobody calls for a while.

    It opens at 5 failures in a row, and where half of the last 20 calls of a minute failed. Then
    one call goes at a time: when that works all go on, else it stays open twice as long. After 5
    such times in a row it gives the API up.
    """

    IN_A_ROW = 5
    OF_LAST = 20
    WITHIN_S = 60.0
    OPEN_S = 30.0
    LONGEST_S = 300.0
    TIMES = 5

    def __init__(self) -> None:
        self._row = 0
        self._last: deque[tuple[float, bool]] = deque(maxlen=self.OF_LAST)
        self._times = 0
        self._open_until: float | None = None
        self._trying = False

    def wait_s(self, now: float) -> float:
        """Seconds until a call may go.

        Raises: Unavailable DS-PACE-BREAKER.
        """
        if self._open_until is None:
            return 0.0
        if self._times >= self.TIMES:
            raise Unavailable(
                f"the API failed {self.TIMES} times in a row, each time longer than the last",
                code="DS-PACE-BREAKER",
                hint="see what is wrong with it; an apply goes on with `dsync resume`",
            )
        if now < self._open_until:
            return self._open_until - now
        return 0.1 if self._trying else 0.0

    def took(self) -> None:
        """A call goes; while the breaker is open it is the one that tries."""
        self._trying = self._open_until is not None

    def left(self) -> None:
        """A call has ended; without a verdict (it was cancelled) another one tries."""
        self._trying = False

    def worked(self, now: float) -> None:
        """A call was answered."""
        if self._open_until is not None:
            _log.info("the API answers again")
            self._last.clear()
        self._row = self._times = 0
        self._open_until = None
        self._last.append((now, True))

    def failed(self, now: float) -> None:
        """A call failed."""
        self._row += 1
        self._last.append((now, False))
        if self._open_until is not None:
            if now >= self._open_until:
                self._open(now)
            return
        recent = [worked for at, worked in self._last if at > now - self.WITHIN_S]
        half = len(recent) == self.OF_LAST and 2 * sum(recent) <= self.OF_LAST
        if self._row >= self.IN_A_ROW or half:
            self._open(now)

    def _open(self, now: float) -> None:
        wait_s = min(self.OPEN_S * 2.0**self._times, self.LONGEST_S)
        self._times += 1
        self._open_until = now + wait_s
        _log.warning("the API fails: waiting before the next call", seconds=wait_s)


# --- what answers say ---------------------------------------------------------------------------


class Told:
    """What an API says of its limits in its answers, kept until it is over.

    `RateLimit` and `RateLimit-Policy` as of the IETF's draft 10, `RateLimit-Remaining` and
    `-Reset` of the older drafts, and `X-RateLimit-…` where the system file says what its reset
    means. The strictest holds, and nothing that is malformed.
    """

    def __init__(self, reset: str | None) -> None:
        self._reset = reset
        self._left: dict[str, tuple[int, float]] = {}
        self._flying = 0
        self._noted = False
        self.policies: list[Allowance] = []

    def took(self) -> None:
        """A call goes."""
        self._flying += 1
        for name, (left, until) in self._left.items():
            self._left[name] = (left - 1, until)

    def gave_back(self) -> None:
        """It has its answer."""
        self._flying -= 1

    def wait_s(self, now: float) -> float:
        """Seconds until the API has said that it takes more calls."""
        if not self._left:
            return 0.0
        self._left = {name: said for name, said in self._left.items() if said[1] > now}
        waits = (until - now for left, until in self._left.values() if left <= 0)
        return max(waits, default=0.0)

    def heard(self, headers: Mapping[str, str], sent_at: datetime, now: float) -> None:
        """Read one answer's headers."""
        if text := headers.get("ratelimit"):
            for name, fields in _items(text):
                self._note(name, fields.get("r"), fields.get("t"), now)
        elif (text := headers.get("ratelimit-remaining")) is not None:
            self._note("", _whole(text), _whole(headers.get("ratelimit-reset")), now)
        elif self._reset and (text := headers.get("x-ratelimit-remaining")) is not None:
            reset = _whole(headers.get("x-ratelimit-reset"))
            if reset is not None and self._reset == "epoch":
                reset = max(0, reset - int(sent_at.timestamp()))
            self._note("", _whole(text), reset, now)
        if text := headers.get("ratelimit-policy"):
            for _, fields in _items(text):
                self._note_policy(fields.get("q"), fields.get("w"))

    def _note(self, name: str, left: int | None, reset_s: int | None, now: float) -> None:
        if left is None or reset_s is None or reset_s > 86400:
            if not self._noted:
                _log.info("a RateLimit header cannot be read; it is ignored")
            self._noted = True
            return
        # Calls in flight beside this one may not be counted in it yet.
        left, until = left - max(self._flying - 1, 0), now + reset_s
        known = self._left.get(name)
        if known is not None and abs(known[1] - until) < 2.0:
            left = min(left, known[0])
        self._left[name] = (left, until)

    def _note_policy(self, calls: int | None, window_s: int | None) -> None:
        if not calls or not window_s or window_s > 86400:
            return
        policy = Allowance(float(calls), float(window_s))
        if policy not in self.policies and len(self.policies) < MANY:
            self.policies.append(policy)
            _log.info("the API tells a quota", calls=calls, window_s=window_s)


def _items(text: str) -> list[tuple[str, dict[str, int]]]:
    """`"name";r=50;t=30, …`: names and whole numbers; what is neither is left out."""
    found = []
    for item in re.findall(r'(?:"[^"]*"|[^,"])+', text):
        name, *fields = re.findall(r'(?:"[^"]*"|[^;"])+', item.strip())[:MANY] or [""]
        numbers = {}
        for field in fields:
            key, _, value = field.strip().partition("=")
            number = _whole(value)
            if number is not None:
                numbers[key] = number
        found.append((name.strip(), numbers))
    return found[:MANY]


def _whole(text: str | None) -> int | None:
    match = re.fullmatch(r"\s*(\d{1,10})\s*", text or "")
    return int(match[1]) if match else None


def retry_after_s(text: str | None, sent_at: datetime) -> float | None:
    """Seconds that a `Retry-After` asks for; None when it is missing or absurd.

    A date is read against the answer's own `Date`, so that a wrong clock does no harm. Parts of a
    second are read too: no standard knows them, and some APIs say them.
    """
    text = (text or "").strip()
    if re.fullmatch(r"\d{1,10}(\.\d{1,10})?", text, re.ASCII):
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
