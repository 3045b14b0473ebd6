"""Progress on stderr: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dsync.cli import options
from dsync.cli.terminal import note, wants_colour

if TYPE_CHECKING:
    from dsync.model import Event

EVERY_S = 5.0


@contextlib.contextmanager
def progress() -> Iterator[Callable[[Event], None]]:
    """While this lasts, the function that it yields shows events; --quiet shows none."""
    if options.given.get("quiet"):
        yield _ignore
    elif sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        yield _lines()


def _ignore(_event: Event) -> None:
    pass


def _lines() -> Callable[[Event], None]:
    last = time.monotonic()

    def show(event: Event) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY_S:
            last = time.monotonic()
            of = f" of {event.total}" if event.total is not None else ""
            note(f"{event.phase} {event.subject}: {event.done}{of}")

    return show


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[Event], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, no_color=not wants_colour())
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks = {}

        def show(event: Event) -> None:
            name = f"{event.phase} {event.subject}"
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=event.total)
            bars.update(tasks[name], completed=event.done, total=event.total)

        yield show
