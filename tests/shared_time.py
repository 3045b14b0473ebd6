"""One virtual time for an emulator and its client: a sleep of the client moves both clocks.

The emulator's clock stands still (`clock_speed=0`), so calls take no time. Hours of quotas pass in
the real time that the calls take, and both sides agree to the millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from dsync.connectors.rest import Rest
from dsync.emulators import Emulator
from dsync.pace import Pace

_REAL_SLEEP = asyncio.sleep


class SharedTime:
    """The emulator's time as clock, sleep and wall of `Pace`."""

    def __init__(self, emulator: Emulator, start: str) -> None:
        emulator.switches({"clock_speed": 0, "clock_start": start})
        self._emulator = emulator
        self._start = datetime.fromisoformat(str(emulator.clock()["now"])).astimezone(UTC)
        self._sleepers: list[float] = []
        self.now = 0.0

    def read(self) -> float:
        """Seconds since the start."""
        return self.now

    def wall(self) -> datetime:
        """The emulator's date and hour."""
        return self._start + timedelta(seconds=self.now)

    async def sleep(self, seconds: float) -> None:
        """Move both clocks on; of many sleepers the one that is due first."""
        # Whole milliseconds, and one more: no rounding on the way may make a call come too early.
        until = self.now + math.ceil(seconds * 1000 + 1) / 1000
        self._sleepers.append(until)
        try:
            while self.now < until:
                await _REAL_SLEEP(0)
                if until > min(self._sleepers):
                    await _REAL_SLEEP(0.001)
                elif self.now < until:
                    self._emulator.advance(until - self.now)
                    self.now = until
        finally:
            self._sleepers.remove(until)


@contextlib.contextmanager
def lived_by(time: SharedTime) -> Iterator[None]:
    """Every connector that is made in this block, also deep inside a run, lives by `time`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Rest.__init__.__kwdefaults__, "clock", time.read)
        patch.setitem(Rest.__init__.__kwdefaults__, "sleep", time.sleep)
        patch.setitem(Pace.__init__.__kwdefaults__, "wall", time.wall)
        yield
