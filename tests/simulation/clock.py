"""Time that costs nothing: an event loop whose clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from dsync import applying, journal

T = TypeVar("T")

EPOCH_S = 1_800_000_000.0


class Killed(KeyboardInterrupt):
    """The process is dead. Of this kind, because asyncio lets it out of the loop at once."""


class Stuck(AssertionError):
    """Nothing is left that could happen, and yet the run has not ended: it hangs."""


class Clock:
    """Seconds since the world began; in the place of the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.boot = "boot-1"

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return EPOCH_S + self.now

    def time_ns(self) -> int:
        return int(self.time() * 1e9)

    def pass_by(self, seconds: float) -> None:
        """Nothing runs while this time goes by."""
        self.now += seconds

    def start_anew(self) -> None:
        """The machine is started again."""
        self.boot = f"boot-{int(self.boot.partition('-')[2]) + 1}"


class _Selector(selectors.SelectSelector):
    """Instead of waiting, it puts the clock forward."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("all tasks wait, and no timer runs")
        self._clock.now += max(timeout, 0.0)
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        self._virtual = clock
        super().__init__(_Selector(clock))

    def time(self) -> float:
        return self._virtual.now


def run(clock: Clock, main: Coroutine[Any, Any, T], died: Callable[[str], None]) -> T:
    """Run to the end in virtual time. `died` is called at the instant of a `Killed`.

    Raises: Killed, after all tasks were thrown away; Stuck when the run hangs.
    """
    loop = _Loop(clock)
    loop.set_exception_handler(lambda _loop, context: _unhandled(context))
    asyncio.set_event_loop(loop)
    task = loop.create_task(main)
    try:
        return loop.run_until_complete(task)
    except Killed as death:
        died(str(death))
        raise
    finally:
        _throw_away(loop)
        asyncio.set_event_loop(None)
        loop.close()


def _unhandled(context: dict[str, Any]) -> None:
    """What a callback raised, and nobody took, is out of the loop when it is a `Killed` only."""


def _throw_away(loop: asyncio.AbstractEventLoop) -> None:
    """Unwind what is left; whoever called has taken care that nothing of it counts."""
    for _ in range(20):
        left = asyncio.all_tasks(loop)
        if not left:
            return
        for task in left:
            task.cancel()
        with contextlib.suppress(BaseException):
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


@contextlib.contextmanager
def in_force(clock: Clock, point: Callable[[str], None]) -> Iterator[None]:
    """The engine and its journal live by this clock, and pass these points."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (applying, journal):
            patch.setattr(module, "time", clock)
        patch.setattr(journal, "boot_id", lambda: clock.boot)
        patch.setattr(applying, "point", point)
        yield
