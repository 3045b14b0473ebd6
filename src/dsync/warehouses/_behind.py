"""Work that goes on behind the one who gives it, in a thread of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_AHEAD = 2


class Behind(Generic[T]):
    """A thread that takes what it is given, in its order, and is never far behind.

    `work` gets all of it as an iterator. What it raises is raised by the next call.
    """

    def __init__(self, work: Callable[[Iterator[T]], None]) -> None:
        self._given: queue.Queue[T | None] = queue.Queue(maxsize=_AHEAD)
        self._fault: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def give(self, one: T) -> None:
        """Hand it over; waits while the thread has enough. Raises: what the work raised."""
        self._put(one)

    def close(self) -> None:
        """Wait until all is done. Raises: what the work raised."""
        self._put(None)
        self._thread.join()
        if self._fault is not None:
            raise self._fault

    def _put(self, one: T | None) -> None:
        while True:
            if self._fault is not None:
                raise self._fault
            with contextlib.suppress(queue.Full):
                return self._given.put(one, timeout=0.5)

    def _run(self) -> None:
        try:
            self._work(iter(self._given.get, None))
        except BaseException as error:
            self._fault = error
