"""Around a run: its progress, and a way to stop it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dsync.cli import signals
from dsync.cli.progress import progress

if TYPE_CHECKING:
    from dsync.api import Stop
    from dsync.model import Event


@contextlib.contextmanager
def running() -> Iterator[tuple[Callable[[Event], None], Stop]]:
    """Progress, and a stop that the first Ctrl-C or TERM sets."""
    from dsync.api import Stop

    stop = Stop()
    with signals.asking(stop.set), progress() as on_event:
        yield on_event, stop
