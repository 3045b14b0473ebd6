"""Ctrl-C and TERM: the first asks a run to stop, the second stops it now."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

KINDS = (signal.SIGINT, signal.SIGTERM, *filter(None, [getattr(signal, "SIGHUP", None)]))


class Forced(SystemExit):
    """A signal that waits for nobody; its code is what it means: 130, 143.

    A SystemExit, because asyncio lets that pass where it keeps other exceptions in their task.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """While this lasts, TERM unwinds us as Ctrl-C does, so that nothing is left behind."""

    def end(signum: int, _frame: FrameType | None) -> None:
        raise Forced(signum)

    with _handling((signal.SIGTERM,), end):
        yield


@contextlib.contextmanager
def asking(stop: Callable[[], None]) -> Iterator[None]:
    """While this lasts, a first signal calls `stop`, a second raises Forced, a third kills."""
    count = 0

    def ask(signum: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        match count:
            case 1:
                # Not print: a handler may interrupt one, and its buffer cannot be entered twice.
                os.write(2, b"\nstopping: calls in flight are finished; again to stop now\n")
                stop()
            case 2:
                raise Forced(signum)
            case _:
                os._exit(128 + signum)

    with _handling(KINDS, ask):
        yield


@contextlib.contextmanager
def _handling(
    kinds: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals, and only it gets them
        return
    before = {kind: signal.signal(kind, handler) for kind in kinds}
    try:
        yield
    finally:
        for kind, old in before.items():
            signal.signal(kind, old)
