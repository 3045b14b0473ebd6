"""Quotas by the server's own clock: which calls were more than allowed, in two ways of counting.

    fixed     windows that begin on the full minute (hour, day) of the zone
    sliding   any window: the calls of the last so many seconds

A call may pass one and not the other. Counting never refuses a call: that is the server's choice.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

from .clock import Clock

__all__ = ["Breach", "QuotaError", "Quotas", "check"]

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_KINDS = ("read", "write")


class QuotaError(ValueError):
    """A quota that cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A call that was one too many."""

    kind: str
    """`read` or `write`."""
    counting: str
    """`fixed` or `sliding`."""
    count: int
    """Calls in that window, this one included."""
    limit: int
    window_s: float
    wait_s: float
    """So long until this way of counting has room again."""

    def __str__(self) -> str:
        return f"{self.kind} {self.counting} {self.count} of {self.limit} in {self.window_s:g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    begin: int
    """Minutes after midnight; `end` likewise, and not included."""
    end: int
    limits: Mapping[str, tuple[int, float]]

    def holds(self, minute: int) -> bool:
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


@dataclass(slots=True)
class Quotas:
    """The quotas in force, and the calls they have counted."""

    clock: Clock
    spans: tuple[_Span, ...] = ()
    zone: tzinfo = UTC
    _sliding: dict[str, deque[float]] = field(default_factory=dict)
    _fixed: dict[tuple[str, float, int], int] = field(default_factory=dict)

    def set(self, value: object) -> None:
        """Takes the switch `quota`; the calls counted so far stay. Raises: QuotaError."""
        self.spans, self.zone = _read(value)

    def clear(self) -> None:
        """Forgets the calls."""
        self._sliding.clear()
        self._fixed.clear()

    def breaches(self, kind: str) -> tuple[Breach, ...]:
        """What a call of this kind, now, would be too many for."""
        found: list[Breach] = []
        now, local = self.clock.monotonic_s(), self._local()
        for limit, window_s in self._limits(kind, local):
            recent = [at for at in self._sliding.get(kind, ()) if at > now - window_s]
            if len(recent) >= limit:
                wait_s = recent[-limit] + window_s - now if limit else window_s
                found.append(_breach(kind, "sliding", len(recent) + 1, limit, window_s, wait_s))
            number, rest_s = _window(local, window_s)
            count = self._fixed.get((kind, window_s, number), 0)
            if count >= limit:
                found.append(_breach(kind, "fixed", count + 1, limit, window_s, rest_s))
        return tuple(found)

    def count(self, kind: str) -> None:
        """One call of this kind, now."""
        if not self.spans:
            return
        now, local = self.clock.monotonic_s(), self._local()
        log = self._sliding.setdefault(kind, deque())
        log.append(now)
        windows = {limit[1] for span in self.spans for limit in span.limits.values()}
        while log and log[0] <= now - max(windows, default=0.0):
            log.popleft()
        for window_s in windows:
            key = (kind, window_s, _window(local, window_s)[0])
            self._fixed[key] = self._fixed.get(key, 0) + 1

    def _limits(self, kind: str, local: datetime) -> list[tuple[int, float]]:
        minute = local.hour * 60 + local.minute
        return [
            span.limits[kind] for span in self.spans if kind in span.limits and span.holds(minute)
        ]

    def _local(self) -> datetime:
        return datetime.fromtimestamp(self.clock.wall_s(), self.zone)


def check(value: object) -> None:
    """Whether `value` is a quota. Raises: QuotaError."""
    _read(value)


def _breach(
    kind: str, counting: str, count: int, limit: int, window_s: float, wait_s: float
) -> Breach:
    return Breach(
        kind=kind, counting=counting, count=count, limit=limit, window_s=window_s, wait_s=wait_s
    )


def _window(local: datetime, window_s: float) -> tuple[int, float]:
    """The number of the fixed window of a moment, and how long it still lasts."""
    offset = local.utcoffset()
    seconds = local.timestamp() + (offset.total_seconds() if offset else 0.0)
    number = int(seconds // window_s)
    return number, (number + 1) * window_s - seconds


def _read(value: object) -> tuple[tuple[_Span, ...], tzinfo]:
    if not isinstance(value, dict) or not value.keys() <= {*_KINDS, "zone", "windows"}:
        raise QuotaError('a quota is {"read": "60/min", "write": "10/min"}, or has "windows"')
    windows = value.get("windows", [])
    if not isinstance(windows, list) or not all(isinstance(one, dict) for one in windows):
        raise QuotaError('`windows` is a list of {"from": "06:00", "to": "20:00", "read": …}')
    spans = [_span({key: value[key] for key in _KINDS if key in value})]
    spans += [_span(one) for one in windows]
    return tuple(span for span in spans if span.limits), _zone(str(value.get("zone", "UTC")))


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo  # slow, and few need it

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # an unknown zone is a KeyError
        raise QuotaError(f"no time zone is named {name!r}") from error


def _span(value: Mapping[str, object]) -> _Span:
    unknown = value.keys() - {*_KINDS, "from", "to"}
    if unknown:
        raise QuotaError(f"a window takes no {' '.join(sorted(unknown))}")
    return _Span(
        begin=_minute(value.get("from", "00:00")),
        end=_minute(value.get("to", "24:00")),
        limits={kind: _limit(value[kind]) for kind in _KINDS if kind in value},
    )


def _minute(value: object) -> int:
    found = re.fullmatch(r"(\d\d):(\d\d)", str(value))
    if not found or int(found[1]) > 24 or int(found[2]) > 59:
        raise QuotaError(f"a time of day is 06:00, not {value!r}")
    return int(found[1]) * 60 + int(found[2])


def _limit(value: object) -> tuple[int, float]:
    found = re.fullmatch(r"(\d+)/(\d*\.?\d*)(s|min|h|d)", str(value))
    if not found or float(found[2] or 1) == 0:
        raise QuotaError(f"a limit is 60/min, 5/s, 100/h, 1000/d or 5/0.2s, not {value!r}")
    return int(found[1]), float(found[2] or 1) * _UNITS[found[3]]
