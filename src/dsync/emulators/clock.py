"""A clock that a test can push forward, run faster, or stop: by default the real time."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from email.utils import formatdate

_TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")


@dataclass(slots=True)
class Clock:
    """Real time plus `offset_s`, so that hours pass in one call and nothing has to sleep."""

    offset_s: float = 0.0
    speed: float = 1.0
    """Seconds of this clock in a real second; 0 = it moves by `advance` only."""
    _since: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0))
    """When the speed was set: the machine's monotonic clock, wall and monotonic of this one
    without the offset. Not used at the speed of 1."""

    def wall_s(self) -> float:
        """Seconds since 1970, UTC."""
        return self.offset_s + (time.time() if self.speed == 1.0 else self._since[1] + self._run())

    def monotonic_s(self) -> float:
        """Seconds of a clock that only `advance` makes jump."""
        if self.speed == 1.0:
            return time.monotonic() + self.offset_s
        return self.offset_s + self._since[2] + self._run()

    def advance(self, seconds: float) -> None:
        """Moves both clocks; a negative value moves them back."""
        self.offset_s += seconds

    def run_at(self, speed: float) -> None:
        """From now on this clock runs at `speed`; nothing jumps."""
        if speed == self.speed:
            return
        wall, monotonic, real = self.wall_s(), self.monotonic_s(), time.monotonic()
        self.speed = speed
        if speed == 1.0:
            self.offset_s = monotonic - real
        else:
            self._since = (real, wall - self.offset_s, monotonic - self.offset_s)

    def until(self, moment: str, zone: tzinfo = UTC) -> None:
        """Moves to a moment.

        `06:00` or `06:00:30` is the next such time of day in `zone`; an ISO 8601 moment with its
        offset may lie behind us too.

        Raises: ValueError.
        """
        self.advance(_read(moment, self.wall_s(), zone) - self.wall_s())

    def reset(self) -> None:
        """Real time again."""
        self.offset_s, self.speed = 0.0, 1.0

    def text(self) -> str:
        """Now, in ISO 8601 with milliseconds, UTC."""
        return iso(self.wall_s())

    def http_date(self, after_s: float = 0.0) -> str:
        """Now plus `after_s`, in the form of the headers `Date` and `Retry-After`."""
        return formatdate(self.wall_s() + after_s, usegmt=True)

    def _run(self) -> float:
        # At the speed of 0 not even rounding moves it: a test may count on equal moments.
        return (time.monotonic() - self._since[0]) * self.speed if self.speed else 0.0


def iso(wall_s: float) -> str:
    """A moment in ISO 8601 with milliseconds, UTC."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds")


def check_moment(value: object) -> None:
    """Whether `Clock.until` takes `value`; an empty text is no moment, and fine.

    Raises: ValueError.
    """
    if value != "":
        _read(str(value), 0.0, UTC)


def _read(moment: str, now_s: float, zone: tzinfo) -> float:
    if found := _TIME_OF_DAY.fullmatch(moment):
        hour, minute, second = (int(part or 0) for part in found.groups())
        today = datetime.fromtimestamp(now_s, zone)
        at = today.replace(hour=hour, minute=minute, second=second, microsecond=0)
        wanted = at.timestamp()
        return wanted if wanted >= now_s else (at + timedelta(days=1)).timestamp()
    try:
        found_at = datetime.fromisoformat(moment)
    except ValueError:
        found_at = None
    if found_at is None or found_at.tzinfo is None:
        raise ValueError(f"a moment is 06:00, 06:00:30 or 2031-05-04T06:00:00Z, not {moment!r}")
    return found_at.timestamp()
