"""A clock that a test can push forward: real time plus an offset."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate


@dataclass(slots=True)
class Clock:
    """Real time plus `offset_s`, so that hours pass in one call and nothing has to sleep."""

    offset_s: float = 0.0

    def wall_s(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time() + self.offset_s

    def monotonic_s(self) -> float:
        """Seconds of a clock that only `advance` makes jump."""
        return time.monotonic() + self.offset_s

    def advance(self, seconds: float) -> None:
        """Moves both clocks; a negative value moves them back."""
        self.offset_s += seconds

    def text(self) -> str:
        """Now, in ISO 8601 with milliseconds, UTC."""
        return iso(self.wall_s())

    def http_date(self, after_s: float = 0.0) -> str:
        """Now plus `after_s`, in the form of the headers `Date` and `Retry-After`."""
        return formatdate(self.wall_s() + after_s, usegmt=True)


def iso(wall_s: float) -> str:
    """A moment in ISO 8601 with milliseconds, UTC."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds")
