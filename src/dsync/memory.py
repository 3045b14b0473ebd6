"""How much memory this process holds, measured while it works."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from dsync.calls import Memory

_MB = 1 << 20
_STATUS = Path("/proc/self/status")


def held_mb() -> float:
    """What is held now, in MB; the most so far where the system does not tell."""
    return _status("VmRSS:") or peak_mb()


def peak_mb() -> float:
    """The most that was held so far, in MB; 0 where nothing tells."""
    # Not `ru_maxrss` first: a child inherits what its parent has held before.
    if told := _status("VmHWM:"):
        return told
    with contextlib.suppress(ImportError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (_MB if sys.platform == "darwin" else 1024)
    return 0.0


def _status(name: str) -> float:
    try:
        for line in _STATUS.read_bytes().splitlines():
            if line.startswith(name.encode()):
                return int(line.split()[1]) / 1024
    except (OSError, ValueError, IndexError):
        return 0.0
    return 0.0


class Watch:
    """Looks at the memory every `every_s` seconds while a block lasts, and tells the peaks.

    `mark` tells the peak since the last mark; without one it is told every `told_s` seconds.
    """

    def __init__(
        self, tell: Callable[[Memory], None], *, every_s: float = 0.05, told_s: float = 5.0
    ) -> None:
        self._tell, self._every_s, self._told_s = tell, every_s, told_s
        self._most, self._marked = 0.0, time.monotonic()
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._note(peak_mb())
        self.mark("")

    def mark(self, profile: str) -> None:
        """What was held since the last mark was held for this profile."""
        self._note(held_mb())
        with self._lock:
            most, self._most, self._marked = self._most, 0.0, time.monotonic()
        self._tell(Memory(at=round(time.time(), 3), mb=round(most, 1), profile=profile))

    def _look(self) -> None:
        while not self._end.wait(self._every_s):
            self._note(held_mb())
            if time.monotonic() - self._marked > self._told_s:
                self.mark("")

    def _note(self, mb: float) -> None:
        with self._lock:
            self._most = max(self._most, mb)
