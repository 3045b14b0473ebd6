"""`dsync load`: read everything from a source, and fill a table of a warehouse."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from dsync.cli import asking, options, signals
from dsync.cli.terminal import is_terminal, note, say

if TYPE_CHECKING:
    from dsync.api import Ask, Project
    from dsync.loading import Progress
    from dsync.loads import Report

EVERY_S, TERMINAL_EVERY_S = 5.0, 0.2


@click.command("load")
@options.profiles
@options.rows
@options.scopes
@options.target
@options.engine
@click.option("--mode", type=click.Choice(["append", "replace"]), help="Instead of the profile's.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before a table is replaced.")
@click.option("--run-id", metavar="ID", help="Name of the run; one that exists is resumed.")
@click.option(
    "--warehouse", "approved_targets", multiple=True, metavar="NAME",
    help="The warehouse that is meant, where it is production.",
)  # fmt: skip
@click.option("--abandon", metavar="RUN", help="Give a load up: what nobody has seen of it goes.")
@click.option("--format", "form", type=click.Choice(["table", "json", "md"]), default="table")
def command(
    *,
    mode: str | None,
    yes: bool,
    run_id: str | None,
    abandon: str | None,
    form: str,
    **words: Any,
) -> int:
    """Read everything from a source, and fill a table of a warehouse.

    Nothing is visible in the table before all is there and counted. A load that was stopped or
    killed goes on where it was: dsync resume RUN. One that is not wanted any more is given up:
    dsync load --abandon RUN.
    """
    from dsync import api

    project, ask = asking.opened({**words, "existing": None})
    if abandon is not None:
        if ask.names or run_id or mode:
            raise click.UsageError("--abandon takes the name of a run, and nothing else")
        if not yes and is_terminal() and not click.confirm("Give it up?", err=True):
            return 1
        api.abandon_load(project, abandon)
        return show(project, abandon, form=form)
    if not yes and is_terminal() and not click.confirm("Fill the table?", default=True, err=True):
        note("nothing was changed")
        return 1
    with _running() as (on_progress, stop):
        runs = api.load(project, ask, run_id=run_id, mode=mode, on_progress=on_progress, stop=stop)
    return max(show(project, run, form=form) for run in runs)


def resume(project: Project, ask: Ask, run_id: str, *, form: str) -> int:
    """Go on with a load."""
    from dsync import api

    with _running() as (on_progress, stop):
        api.resume_load(project, run_id, ask, on_progress=on_progress, stop=stop)
    return show(project, run_id, form=form)


def show(project: Project, run_id: str, *, form: str) -> int:
    """Show a load; returns its exit code."""
    from dsync import api

    found = api.load_report(project, run_id)
    if form in ("json", "metrics"):
        document = {"format_version": 1, **dataclasses.asdict(found)}
        say(json.dumps(document, indent=2, default=str))
    elif form in ("table", "md"):
        say(_table(found) if form == "table" else _markdown(found))
    else:
        raise click.UsageError(f"a load has no report as {form}: table, json, md, metrics")
    return found.exit_code


def _table(found: Report) -> str:
    width = max(len(name) for name, _ in _lines(found)) + 2
    return "\n".join(f"{name:<{width}}{text}" for name, text in _lines(found))


def _markdown(found: Report) -> str:
    rows = "\n".join(f"| {name} | {text} |" for name, text in _lines(found))
    return f"| load | |\n|---|---|\n{rows}"


def _lines(found: Report) -> list[tuple[str, str]]:
    rate = found.records / found.seconds if found.seconds else 0
    lines = [
        ("run", found.run_id),
        ("load", f"{found.source} -> {found.into} ({found.mode})"),
        ("state", found.state),
        ("rows", f"{found.rows:,} of {found.records:,} records, {found.pages:,} pages"),
        ("time", f"{found.seconds:.1f} s, {rate:,.0f} records/s"),
        ("parts", f"{found.brought} of {found.parts}, {found.bytes / 1e6:,.1f} MB"),
    ]
    if found.before is not None:
        lines.append(("before", f"{found.before:,} rows"))
    if found.duplicates:
        lines.append(("left out", f"{found.duplicates:,} records that came before"))
    if found.unnamed:
        lines.append(("unnamed", f"{found.unnamed:,} records that nothing tells from others"))
    if found.unfit:
        told = ", ".join(f"{name} {number:,}" for name, number in found.unfit.items())
        lines.append(("null", f"values that did not fit their column: {told}"))
    if found.note:
        lines.append(("note", found.note))
    if found.code:
        lines.append(("error", f"{found.code}: {found.message}"))
    return lines


@contextlib.contextmanager
def _running() -> Iterator[tuple[Callable[[Progress], None], Any]]:
    """Progress, and a stop that the first Ctrl-C or TERM sets."""
    from dsync.api import Stop

    stop, shown = Stop(), _Shown()
    with signals.asking(stop.set):
        try:
            yield shown.show, stop
        finally:
            shown.end()


class _Shown:
    """Rows, rows a second, and what remains: on stderr, as one line that changes or as some."""

    def __init__(self) -> None:
        self._quiet = bool(options.given.get("quiet"))
        self._terminal = sys.stderr.isatty()
        self._began = self._last = time.monotonic()
        self._first: int | None = None
        self._line = ""

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = progress.rows
        every = TERMINAL_EVERY_S if self._terminal else EVERY_S
        if self._quiet or (now - self._last < every and progress.phase == "read"):
            return
        self._last = now
        rate = (progress.rows - self._first) / max(now - self._began, 1e-6)
        text = f"load: {progress.rows:,} rows, {rate:,.0f} rows/s, {progress.brought} of "
        text += f"{progress.parts} parts there"
        if progress.phase == "finish":
            text += "; making them visible"
        elif progress.total and rate:
            text += f", {_time(max(0, progress.total - progress.rows) / rate)} left"
        if self._terminal:
            sys.stderr.write(f"\r{text:<{len(self._line)}}")
            sys.stderr.flush()
            self._line = text
        else:
            note(text)

    def end(self) -> None:
        if self._line:
            sys.stderr.write("\r" + " " * len(self._line) + "\r")


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
