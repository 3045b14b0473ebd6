"""Quotas: how many calls an API allows in windows of the day, and the log of slots that keeps them.

A quota of Q calls in a window of W seconds is Q slots; a slot is free again W seconds after the
*answer* of the call that used it. The API saw the call between our send and its answer, so no
window on its own clock, fixed or sliding, ever holds more than Q. The log is one small database:
in memory for one process, in a file for all processes that call the same API as the same user. A
process that dies with a call under way leaves a slot that counts as long as that call could live.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dsync.errors import Invalid
from dsync.failpoints import point
from dsync.storage import boot_id, guarded, make_folder
from dsync.system import Limits, Quota

Kind = Literal["read", "write"]
KINDS: tuple[Kind, Kind] = ("read", "write")

MARGIN_S = 65.0
"""So long before and after a change of quotas the lower of both holds: clocks differ."""
LONGEST_PAUSE_S = 15 * 60.0

LONGEST_LOCK_S = 30.0
_SLACK_S = 2.0
"""A process that waits looks again at most so much later than it said; else it has died."""
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


# --- rates --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Allowance:
    """`calls` in any `window_s` seconds."""

    calls: float
    window_s: float

    @property
    def per_s(self) -> float:
        """The mean rate."""
        return self.calls / self.window_s

    def times(self, factor: float) -> Allowance:
        """A part of it, in whole calls: below one call the window grows instead."""
        calls = self.calls * factor
        return Allowance(int(calls), self.window_s) if calls >= 1 else _one_in(self.window_s, calls)


def _one_in(window_s: float, calls: float) -> Allowance:
    return Allowance(1.0, window_s / calls)


def parse_rate(text: str) -> Allowance:
    """`5/s`, `60/min`, `1000/h`, `20000/d`. Raises: Invalid DS-RATE."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)/(s|min|h|d)", text)
    if match is None or float(match[1]) == 0:
        raise Invalid(
            f"{text!r} is no rate", code="DS-RATE", hint="write it as 5/s, 60/min, 1000/h or 1/d"
        )
    calls, window_s = float(match[1]), _UNITS[match[2]]
    return Allowance(calls, window_s) if calls >= 1 else _one_in(window_s, calls)


@dataclass(frozen=True, slots=True)
class Spacing:
    """A rate as GCRA sees it: the time between calls, and how far ahead of it a burst may be.

    Without a burst the rate is kept at 90 %: two calls that leave evenly may still arrive closer
    together than they left. With a burst, a fifth of it (at least one call) is kept back for that.
    """

    interval_s: float
    slack_s: float

    @staticmethod
    def of(rate: Allowance, burst: int, factor: float = 1.0) -> Spacing:
        """What keeps that part of `rate`, when the API forgives `burst` calls at once."""
        interval_s = 1 / (rate.per_s * factor) / (1.0 if burst > 1 else 0.9)
        ahead = max(burst - max(1, burst // 5), 1)
        return Spacing(interval_s, interval_s * (ahead - 1))


# --- windows of the day -------------------------------------------------------------------------


class _Span(NamedTuple):
    begin: int
    end: int
    allowed: dict[Kind, Allowance]

    def holds(self, minute: int) -> bool:
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


class Calendar:
    """Which quotas hold when. Raises: Invalid for a rate or a time zone that is none."""

    def __init__(self, quotas: Sequence[Quota], time_zone: str) -> None:
        try:
            self._zone = ZoneInfo(time_zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise Invalid(
                f"{time_zone!r} is no time zone",
                code="DS-ZONE",
                hint="name it as in Europe/Brussels or UTC",
            ) from None
        self._spans = [_span(quota) for quota in quotas]

    @property
    def longest_s(self) -> float:
        """The longest window of all; 0 without quotas."""
        every = (a.window_s for span in self._spans for a in span.allowed.values())
        return max(every, default=0.0)

    def in_force(self, kind: Kind, wall: datetime) -> list[Allowance]:
        """All that hold now; each must grant a call.

        Around a change of quotas both sides hold, and for an hour on either side of a change of
        the clocks the quotas of both readings of the clock.
        """
        found: list[Allowance] = []
        for minute in self._readings(wall):
            for span in self._spans:
                one = span.allowed.get(kind)
                if one is not None and one not in found and span.holds(minute):
                    found.append(one)
        return found

    def every(self, kind: Kind) -> list[Allowance]:
        """All that ever hold: what to keep when nobody knows what time it is."""
        found = (span.allowed.get(kind) for span in self._spans)
        return list(dict.fromkeys(one for one in found if one is not None))

    def _readings(self, wall: datetime) -> set[int]:
        """Minutes of the day that the API's clock may show now."""
        near = [wall + timedelta(seconds=shift) for shift in (-MARGIN_S, 0.0, MARGIN_S)]
        far = (wall + timedelta(hours=hours) for hours in (-1, 1))
        offsets = {moment.astimezone(self._zone).utcoffset() for moment in (*near, *far)}
        shown = (
            moment.astimezone(UTC) + offset
            for moment in near
            for offset in offsets
            if offset is not None
        )
        return {moment.hour * 60 + moment.minute for moment in shown}

    def changes(self, after: datetime) -> datetime:
        """The first moment later than `after` at which other quotas may hold; at most 6 h on."""
        local = after.astimezone(self._zone)
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        margin = timedelta(seconds=MARGIN_S)
        found = [after + timedelta(hours=6)]
        for span in self._spans:
            for minute in (span.begin, span.end):
                for day in (0, 1):
                    at = midnight + timedelta(days=day, minutes=minute)
                    moment = at.astimezone(UTC)
                    found += [moment - margin, moment + margin]
        return min(moment for moment in found if moment > after)


def _span(quota: Quota) -> _Span:
    allowed: dict[Kind, Allowance] = {}
    for kind in KINDS:
        if text := getattr(quota, kind):
            allowed[kind] = parse_rate(text)
    return _Span(_minute(quota.from_), _minute(quota.to), allowed)


def _minute(text: str) -> int:
    hour, _, minute = text.partition(":")
    return int(hour) * 60 + int(minute)


def ends_at(
    limits: Limits, calls: dict[Kind, int], begin: datetime, *, rate: Allowance | None
) -> datetime:
    """When so many calls would have gone if they began at `begin`, by quotas and rate alone."""
    calendar = Calendar(limits.quotas, limits.time_zone)
    ends = [_ends(calendar, kind, calls.get(kind, 0), begin, rate) for kind in KINDS]
    if rate is not None:
        ends.append(begin + timedelta(seconds=sum(calls.values()) / rate.per_s))
    return max(ends)


def _ends(
    calendar: Calendar, kind: Kind, calls: int, begin: datetime, rate: Allowance | None
) -> datetime:
    first = calendar.in_force(kind, begin)
    # The first window is empty: so many go at once.
    left = float(calls) - min((allowed.calls for allowed in first), default=0.0)
    moment = begin
    while left > 0:
        quotas = calendar.in_force(kind, moment)
        slowest = min((*quotas, *([rate] if rate else [])), key=lambda a: a.per_s, default=None)
        if slowest is None:
            return moment
        until = calendar.changes(moment)
        able = (until - moment).total_seconds() * slowest.per_s
        if able >= left:
            # A quota is used up at once, and comes back a window later; a rate flows.
            if slowest is rate or moment != begin:
                return moment + timedelta(seconds=left / slowest.per_s)
            return moment + timedelta(seconds=math.ceil(left / slowest.calls) * slowest.window_s)
        left -= able
        moment = until
    return moment


# --- the log of slots ---------------------------------------------------------------------------

_TABLES = """
create table if not exists slots (id integer primary key, kind text not null, at real not null);
create index if not exists by_kind on slots (kind, at);
create table if not exists tickets (
    holder text not null, kind text not null, number integer not null, until real not null,
    primary key (holder, kind)
);
create table if not exists facts (name text primary key, value) without rowid;
"""


def boot_clock() -> float:
    """Seconds since the machine started, the same in all processes; sleep counts where it can."""
    kind = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if kind is None else time.clock_gettime(kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One call that wants to go, and all that must grant it."""

    kind: Kind
    allowed: Sequence[Allowance]
    spacing: Spacing | None
    lives_s: float


class SlotLog:
    """Who called when: in memory, or in a file that processes share (by `boot_clock`).

    Waiters are served in the order in which they came, one of each kind for a process. The file
    is written without waiting for the disk: a killed process loses nothing, and after a power cut
    (another boot) all slots count as taken now.

    Raises: StorageFault when the file cannot be used.
    """

    def __init__(self, path: Path | None, *, wall: datetime) -> None:
        self._where = path or Path(":memory:")
        self._keep_s = 3600.0
        self._holder = secrets.token_hex(8)
        with guarded(self._where):
            if path is not None:
                make_folder(path.parent)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o600))
            self._db = sqlite3.connect(
                self._where if path else ":memory:", isolation_level=None, timeout=LONGEST_LOCK_S
            )
            self._prepare()
        self._boot = boot_id() or "unknown"
        self._first = True
        self._wall = wall

    def _prepare(self) -> None:
        """Set the file up. SQLite does not wait when several processes begin at once, so we do."""
        until = time.monotonic() + LONGEST_LOCK_S
        while True:
            try:
                self._db.execute("pragma journal_mode = wal")
                self._db.execute("pragma synchronous = off")
                self._db.executescript(_TABLES)
                return
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
                if not busy or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def close(self) -> None:
        """Give up our place in the queue."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("delete from tickets where holder = ?", [self._holder])
        self._db.close()

    def ask(self, wanted: Wanted, now: float) -> tuple[int, float]:
        """Take a slot: (its number, 0), or (0, seconds to wait before the next look)."""
        with self._change(now):
            wait_s = self._wait(wanted, now)
            if wait_s > 0:
                self._queue(wanted.kind, now + wait_s + _SLACK_S)
                return 0, wait_s
            point("quota.before")
            self._leave_queue(wanted.kind)
            if wanted.spacing is not None:
                free_at = max(self._fact("free_at", now), now) + wanted.spacing.interval_s
                self._note("free_at", free_at)
            if not wanted.allowed:
                return 0, 0.0
            self._keep_s = max(self._keep_s, *(one.window_s for one in wanted.allowed))
            row = self._db.execute(
                "insert into slots (kind, at) values (?, ?)", [wanted.kind, now + wanted.lives_s]
            )
            self._db.execute(
                "delete from slots where kind = ? and at < ?", [wanted.kind, now - self._keep_s]
            )
        point("quota.after")
        return row.lastrowid or 0, 0.0

    def left(self, spacing: Spacing, now: float) -> None:
        """A call leaves, perhaps later than it was granted."""
        with guarded(self._where):
            self._db.execute(
                "insert into facts values ('free_at', ?) "
                "on conflict do update set value = max(value, excluded.value)",
                [now + spacing.interval_s],
            )

    def answered(self, slot: int, now: float) -> None:
        """The call that used `slot` has its answer, or never will."""
        if slot:
            with guarded(self._where):
                self._db.execute("update slots set at = ? where id = ?", [now, slot])

    def give_up(self, kind: Kind) -> None:
        """We do not wait any more."""
        with guarded(self._where):
            self._leave_queue(kind)

    def pause(self, until: float, now: float, wall: datetime) -> None:
        """Nobody calls before `until`, by the clock of `boot_clock`."""
        with self._change(now):
            if until > self._fact("paused_until", until - 1):
                self._note("paused_until", until)
                self._note("paused_until_wall", wall.timestamp() + until - now)

    def paused_until(self, now: float) -> float:
        """Until when nobody calls; minus infinity when nobody was told to wait."""
        with self._change(now):
            until: float = self._fact("paused_until", float("-inf"))
        return until

    def _wait(self, wanted: Wanted, now: float) -> float:
        waits: list[float] = [self._fact("paused_until", now) - now]
        ahead, ahead_of_kind = self._ahead(wanted.kind, now)
        if wanted.spacing is not None:
            free_at: float = self._fact("free_at", now)
            behind = ahead * wanted.spacing.interval_s
            waits.append(free_at - wanted.spacing.slack_s - now + behind)
        waits += [
            self._window_wait(allowed, wanted.kind, now, ahead_of_kind)
            for allowed in wanted.allowed
        ]
        return max(waits)

    def _window_wait(self, allowed: Allowance, kind: Kind, now: float, ahead: int) -> float:
        inside = "from slots where kind = ? and at > ?"
        key = (kind, now - allowed.window_s)
        (taken,) = self._db.execute(f"select count(*) {inside}", key).fetchone()
        over = taken + ahead - int(allowed.calls)
        if over < 0:
            return 0.0
        # The call that frees our slot; one under way may be answered now at the earliest.
        nth = max(min(over, taken - 1), 0)
        row = self._db.execute(
            f"select at {inside} order by at limit 1 offset ?", [*key, nth]
        ).fetchone()
        return max(min(row[0] if row else now, now) + allowed.window_s - now, 0.001)

    def _ahead(self, kind: Kind, now: float) -> tuple[int, int]:
        """How many other processes came earlier: with a call of any kind, with one of this."""
        rows = self._db.execute(
            "select kind from tickets where holder <> ? and until > ? and number < coalesce("
            "(select number from tickets where holder = ? and kind = ?), 9e18)",
            [self._holder, now, self._holder, kind],
        ).fetchall()
        return len(rows), sum(other == kind for (other,) in rows)

    def _queue(self, kind: Kind, until: float) -> None:
        self._db.execute(
            "insert into tickets values (?, ?, (select coalesce(max(number), 0) + 1 from tickets),"
            " ?) on conflict do update set until = excluded.until",
            [self._holder, kind, until],
        )

    def _leave_queue(self, kind: Kind) -> None:
        self._db.execute("delete from tickets where holder = ? and kind = ?", [self._holder, kind])

    @contextlib.contextmanager
    def _change(self, now: float) -> Iterator[None]:
        """One transaction, alone in the file."""
        with guarded(self._where):
            self._db.execute("begin immediate")
            try:
                if self._first:
                    self._begin(now)
                yield
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")
            self._first = False

    def _begin(self, now: float) -> None:
        """Read the clock of an earlier boot as what it is: worth nothing."""
        if self._fact("boot", self._boot) != self._boot:
            self._db.execute("update slots set at = ?", [now])
            self._db.execute("delete from tickets")
            left_s = self._fact("paused_until_wall", 0.0) - self._wall.timestamp()
            self._note("paused_until", now + min(max(left_s, 0.0), LONGEST_PAUSE_S))
            self._note("free_at", now)
        self._note("boot", self._boot)
        self._db.execute("delete from tickets where until < ?", [now])

    def _fact(self, name: str, otherwise: Any) -> Any:
        row = self._db.execute("select value from facts where name = ?", [name]).fetchone()
        return row[0] if row else otherwise

    def _note(self, name: str, value: float | str) -> None:
        self._db.execute("insert or replace into facts values (?, ?)", [name, value])


_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
